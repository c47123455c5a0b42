"""What a network and a real server can do to a client of the log, on every server at hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replicator.log.redis_log import RedisLog
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import ServerBinary
from tests.support.kv import PATIENCE_S
from tests.support.worlds import GROUP, RedisWorld


@pytest.fixture(scope="module")
def _world(redis_binary: ServerBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisWorld]:
    world = RedisWorld(redis_binary, tmp_path_factory.mktemp("redis"))
    yield world
    world.close()


@pytest.fixture
def world(_world: RedisWorld) -> Iterator[RedisWorld]:
    _world.flush()
    yield _world
    _world.admin.config_set("maxmemory", 0)
    _world.admin.config_set("maxmemory-policy", "noeviction")
    _world.forget_clients()


@pytest.fixture
def log(world: RedisWorld) -> RedisLog:
    return world.log()


@pytest.fixture
def proxy(world: RedisWorld) -> Iterator[Proxy]:
    assert world.server.socket_path is not None
    with Proxy(world.server.socket_path) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: Proxy) -> Iterator[RedisLog]:
    """A log whose connections go through the proxy. What is slow is no fault: only what a test does to it is."""
    log = RedisLog(proxy.url, GROUP, timeout_s=PATIENCE_S)
    yield log
    log.close()
