"""Fixtures for tests that need a real server. Servers start in some 10 ms, so nobody needs to share one for speed.

- `redis_server`: runs the test once per server at hand. One process per module, emptied before each test.
- `any_redis`: the same with one server only, the one that `replicator dev` would take.
- `redis_factory`: starts as many as a test likes, of the kind it likes; what configures, pauses or kills a server
  should use this one. All are ended at the end of the test.
- `redis_binary`: the executable behind `redis_server`.
- `world`: runs the test over the log in memory and over every server at hand (tests/support/worlds.py).

The first two bring back to life what a test killed or paused, but do not undo a CONFIG SET or an ACL.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from replicator.runtime.gc_pause import leave_alone
from replicator.sandbox import free_ports
from replicator.sandbox.redis_server import RedisServer, ServerBinary, find_server
from tests.support.servers import servers_at_hand
from tests.support.worlds import MemoryWorld, RedisWorld, World

# Under nohup, or in the background of a shell, these are ignored, and what a test starts would ignore them as well. A
# handler ignores them, too, and is not inherited.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

# Hundreds of processes start, and where Python is told to keep nothing of what it compiles, each one of them compiles
# all that it imports. What is kept is in __pycache__, which git ignores.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Several processes run tests, each of which starts hundreds of servers: they take none of each other's ports.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_workers = max(_worker + 1, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
_every_port = free_ports.places
free_ports.places = lambda: _every_port()[_worker::_workers]

# How long an example takes says more of the machine than of the code.
settings.register_profile("without deadlines", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without deadlines")


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """All that was imported and collected stays to the end: the collector goes through none of it, in no test."""
    leave_alone()
    gc.enable()


RedisFactory = Callable[..., RedisServer]


@pytest.fixture(autouse=True)
def _warnings_of_other_tests() -> Iterator[None]:
    """A benchmark keeps warnings out of its tables; other tests read them."""
    logger = logging.getLogger("replicator")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module", params=servers_at_hand(), ids=lambda server: server.id)
def redis_binary(request: pytest.FixtureRequest) -> ServerBinary:
    binary: ServerBinary = request.param
    return binary


@pytest.fixture(scope="module")
def _each_server(redis_binary: ServerBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    yield from _running(redis_binary, tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="module")
def _default_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    yield from _running(find_server(), tmp_path_factory.mktemp("redis"))


@pytest.fixture
def redis_server(_each_server: RedisServer) -> RedisServer:
    return _emptied(_each_server)


@pytest.fixture
def any_redis(_default_server: RedisServer) -> RedisServer:
    return _emptied(_default_server)


@pytest.fixture
def redis_factory(tmp_path: Path) -> Iterator[RedisFactory]:
    """Start a server: `redis_factory()`, `redis_factory(binary=…, port=0, config={…})`; arguments as of `RedisServer`.

    `data_dir` is a fresh directory unless given; `start=False` leaves the start to the test.
    """
    servers: list[RedisServer] = []

    def make(*, start: bool = True, **arguments: Any) -> RedisServer:
        arguments.setdefault("data_dir", tmp_path / f"redis-{len(servers)}")
        servers.append(RedisServer(**arguments))
        return servers[-1].start() if start else servers[-1]

    yield make
    for server in servers:
        server.kill()


def _running(binary: ServerBinary, data_dir: Path) -> Iterator[RedisServer]:
    server = RedisServer(data_dir, binary=binary)
    try:
        yield server.start()
    finally:
        server.kill()


def _emptied(server: RedisServer) -> RedisServer:
    if server.alive:
        server.resume()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return server


@pytest.fixture(scope="module", params=["memory", *servers_at_hand()], ids=lambda kind: getattr(kind, "id", kind))
def _redis_world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisWorld | None]:
    if not isinstance(request.param, ServerBinary):
        yield None
        return
    world = RedisWorld(request.param, tmp_path_factory.mktemp("redis"))
    yield world
    world.close()


@pytest.fixture
def world(_redis_world: RedisWorld | None) -> Iterator[World]:
    if _redis_world is None:
        yield MemoryWorld()
        return
    _redis_world.flush()
    yield _redis_world
    _redis_world.forget_clients()
