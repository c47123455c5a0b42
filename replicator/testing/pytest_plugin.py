"""Fixtures for the tests of an application. pytest finds them by itself where replicator is installed.

    def test_a_failover(replicator_cluster):
        cluster = replicator_cluster(3, FlagState)
        ...

- `replicator_cluster`: makes a `Cluster`, as many as a test likes. They are started, and closed at the end of the test.
- `replicator_log`: a log in memory, for a `Node` alone; others of its group have a `MemoryLog(replicator_log.server)`.
- `replicator_redis`: a real server of its own, emptied by being a new one for each test (some 10 ms):
  `Node(..., redis=replicator_redis.url)`. Where there is none on this machine, the test is skipped, and says so.

`-p no:replicator.testing.pytest_plugin` leaves them out. Until one is used, nothing else of replicator is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from typing import Unpack

    from ..node.options import HostedNodeKeywords
    from ..sandbox.redis_server import RedisServer
    from ..state import ReplicatedState
    from .cluster import Cluster
    from .memory_log import MemoryLog

StateT = TypeVar("StateT", bound="ReplicatedState")

__all__ = ["ClusterFactory", "replicator_cluster", "replicator_log", "replicator_redis"]


class ClusterFactory:
    """Gives clusters that are started, and closes them with the test. It takes what a `Cluster` takes."""

    def __init__(self, clusters: ExitStack) -> None:
        self._clusters = clusters

    def __call__(
        self, count: int, factory: Callable[[], StateT], **options: Unpack[HostedNodeKeywords]
    ) -> Cluster[StateT]:
        from .cluster import Cluster

        return self._clusters.enter_context(Cluster(count, factory, **options))


@pytest.fixture
def replicator_cluster() -> Iterator[ClusterFactory]:
    """`replicator_cluster(3, FlagState)`: a `replicator.testing.Cluster` that is started, closed with the test."""
    with ExitStack() as clusters:
        yield ClusterFactory(clusters)


@pytest.fixture
def replicator_log() -> Iterator[MemoryLog]:
    """A `replicator.testing.MemoryLog` over a server of its own."""
    from .memory_log import MemoryLog, MemoryRedis

    log = MemoryLog(MemoryRedis())
    yield log
    log.close()


@pytest.fixture
def replicator_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis or Valkey on this machine, empty, ended with the test; `.url` is what a node takes."""
    from ..errors import ConfigError
    from ..sandbox.redis_server import RedisServer, find_server

    try:
        binary = find_server()
    except ConfigError as missing:
        pytest.skip(str(missing))
    server = RedisServer(tmp_path_factory.mktemp("replicator-redis"), binary=binary)
    try:
        yield server.start()
    finally:
        server.kill()
