"""The history by real commands over a real Redis: trimming takes nothing of it, and what FLUSHALL takes comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from replicator import Node, RecordId
from replicator.cli import cli
from replicator.log.redis_log import RedisLog
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import KV, LEASE_S, PATIENCE_S, eventually, in_step, push


@pytest.fixture
def pair(any_redis: RedisServer, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    options: dict[str, Any] = {"group": "g", "redis": any_redis.url, "lease_s": LEASE_S}
    with (
        Node(KV(), name="a", data_dir=tmp_path / "a", **options) as a,
        Node(KV(), name="b", data_dir=tmp_path / "b", **options) as b,
    ):
        a.promote(timeout_s=PATIENCE_S)
        in_step(a, b)
        yield a, b


def run(server: RedisServer, *args: str) -> str:
    told = CliRunner().invoke(cli, ["--redis", server.url, "--group", "g", *args])
    assert told.exit_code == 0, told.output
    return told.stdout


def history(server: RedisServer) -> Any:
    return json.loads(run(server, "history", "--output", "json"))


def test_trimming_and_flushall_take_nothing_of_it(any_redis: RedisServer, pair: tuple[Node, Node]) -> None:
    a, b = pair
    run(any_redis, "pause", "--reason", "new switch")
    run(any_redis, "resume", "--reason", "done")
    run(any_redis, "switchover", "--to", "b", "--timeout", str(PATIENCE_S))
    run(any_redis, "reinit", "a", "--timeout", str(PATIENCE_S))
    for i in range(3):
        b.submit(push(i))
        b.publish()
    with closing(RedisLog(any_redis.url, "g")) as log:
        assert log.find(RecordId(1, 1)) is None, "the record of the first term is trimmed"
    before = history(any_redis)
    assert [each["what"] for each in before["entries"]] == ["found", "pause", "resume", "switchover", "reinit"]
    assert before["complete"]
    eventually(lambda: len(a.history().entries) == len(b.history().entries) == 5, "both have read it")
    # when Redis loses everything
    with closing(redis.Redis.from_url(any_redis.url)) as client:
        client.flushall()
    run(any_redis, "recover", "--timeout", str(PATIENCE_S))
    # then it is there again, and says so
    eventually(lambda: len(history(any_redis)["entries"]) == 6, "put back")
    after = history(any_redis)
    assert after["complete"]
    assert [each | {"restored_by": None} for each in after["entries"][:5]] == before["entries"]
    assert {each["restored_by"] for each in after["entries"][:5]} <= {"a", "b"}
    last = after["entries"][5]
    assert (last["what"], last["ended"], last["ended_node"]) == ("recover", "log lost", "b")
    assert "put back by" in run(any_redis, "history")
