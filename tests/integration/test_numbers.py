"""Numbers that somebody writes into a real Redis by hand: told by `status` and `doctor`, mended by `recover` alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from replicator import Node, ReplicatorError
from replicator.cli import cli
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import KV, LEASE_S, PATIENCE_S, eventually, in_step, put

GROUP = "numbers"


@pytest.fixture
def nodes(any_redis: RedisServer, tmp_path: Path) -> Iterator[list[Node]]:
    options: dict[str, Any] = {"group": GROUP, "redis": any_redis.url, "lease_s": LEASE_S, "auto_promote": True}
    nodes = [Node(KV(), name=name, data_dir=tmp_path / name, **options) for name in "ab"]
    for node in nodes:
        node.start()
    nodes[0].promote(timeout_s=PATIENCE_S)
    nodes[0].submit(put("before", 1))
    in_step(*nodes)
    yield nodes
    for node in nodes:
        node.stop()


def run(server: RedisServer, *words: str) -> Result:
    return CliRunner().invoke(cli, ["--redis", server.url, "--group", GROUP, *words])


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("term", lambda admin, key: admin.set(key, 9007199254740990)),
        ("term", lambda admin, key: admin.set(key, "abc")),
        ("head", lambda admin, key: admin.hset(key, "term", 9007199254740990)),
        ("head", lambda admin, key: admin.hset(key, "ends", "x")),
        ("log", lambda admin, key: admin.xadd(key, {"h": "{}", "b": ""}, id="9007199254740990-3")),
        ("log", lambda admin, key: admin.xadd(key, {"h": "{}", "b": ""}, id="1-9007199254740990")),
    ],
    ids=["a far term", "no term", "a far head", "no head", "a far record", "a far number"],
)
def test_one_command_mends_it(any_redis: RedisServer, nodes: list[Node], key: str, change: Any) -> None:
    with redis.Redis.from_url(any_redis.url) as admin:
        change(admin, f"replicator:{{{GROUP}}}:{key}")
    # it is told, with what to do
    for command in ("status", "doctor"):
        told = eventually(lambda command=command: _with_exit_code(run(any_redis, command), 1), f"{command} tells it")
        assert "`replicator recover`" in told.output + told.stderr, command
    # and that is all there is to do
    done = run(any_redis, "recover")
    assert done.exit_code == 0, done.output + done.stderr
    leader = eventually(lambda: [node for node in nodes if _writes(node)], "somebody leads")[0]
    in_step(*nodes)
    assert leader.term < 2**30
    eventually(lambda: run(any_redis, "status").exit_code == 0, "all is well")
    other = next(node for node in nodes if node is not leader)
    moved = run(any_redis, "switchover", "--to", other.name)
    assert moved.exit_code == 0, moved.output + moved.stderr


def _with_exit_code(result: Result, code: int) -> Result | None:
    return result if result.exit_code == code else None


def _writes(node: Node) -> bool:
    try:
        node.submit(put("after", 1))
    except ReplicatorError:
        return False
    return True
