"""`replicator doctor` on real servers: that the facts it goes by are there on each, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from replicator import Node, ops
from replicator.cli import cli
from replicator.log.redis_log import RedisLog
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.conftest import RedisFactory
from tests.support.kv import KV, PATIENCE_S, eventually, push

GROUP = "g"

#: The worst comes last.
LEVELS = ["ok", "not known", "warning", "problem"]


@pytest.fixture
def server(redis_factory: RedisFactory, redis_binary: ServerBinary) -> RedisServer:
    return redis_factory(binary=redis_binary, config={"appendonly": "yes", "maxmemory": "200mb"})


@pytest.fixture
def pair(server: RedisServer, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    a, b = (Node(KV(), group=GROUP, name=name, redis=server.url, data_dir=tmp_path / name) for name in "ab")
    with a, b:
        a.promote(timeout_s=PATIENCE_S)
        a.submit(push("x"))
        a.publish()
        yield a, b


def examined(url: str, *args: str) -> Result:
    return CliRunner().invoke(cli, ["--redis", url, "--group", GROUP, "doctor", *args])


def levels(url: str) -> dict[str, str]:
    """The worst that was said, by check."""
    told = json.loads(examined(url, "--output", "json").stdout)
    found: dict[str, list[str]] = {}
    for check in told["checks"]:
        found.setdefault(check["check"], []).append(check["level"])
    return {name: max(each, key=LEVELS.index) for name, each in found.items()}


def worst(told: dict[str, str]) -> str:
    return max(told.values(), key=LEVELS.index)


def well(server: RedisServer) -> dict[str, str]:
    """What it says once the nodes have reported what they have."""
    return eventually(lambda: [told for told in [levels(server.url)] if "clocks" in told and worst(told) == "ok"])[0]


def test_a_group_that_is_well_passes(server: RedisServer, pair: tuple[Node, Node]) -> None:
    assert set(well(server)) == {
        "redis", "eviction", "memory", "durability", "replicas", "log", "term", "size", "room", "primary", "failover",
        "connection", "standbys", "versions", "clocks", "node a", "node b",
    }  # fmt: skip
    result = examined(server.url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0].split() == ["CHECK", "LEVEL", "MESSAGE"]
    log = RedisLog(server.url, GROUP)
    # the heartbeat of a moment ago may not know of the snapshot yet
    now = eventually(lambda: [now for now in [ops.status(log)] if now.snapshot_bytes])[0]
    log.close()
    assert now.log_bytes is not None
    assert now.log_bytes > now.snapshot_bytes


def test_a_wrong_policy_is_a_problem_and_the_exit_code_says_so(server: RedisServer, pair: tuple[Node, Node]) -> None:
    well(server)
    with admin_of(server) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendfsync", "no")
    result = examined(server.url)
    assert result.exit_code == 1
    assert "maxmemory-policy is allkeys-lru: Redis may throw the log away; set noeviction" in result.stdout
    assert result.stderr == "Error: 1 of 17 checks found a problem\n"
    told = levels(server.url)
    assert (told.pop("eviction"), told.pop("durability")) == ("problem", "warning")
    assert worst(told) == "ok"


def test_what_a_user_may_not_ask_is_not_known(server: RedisServer, pair: tuple[Node, Node]) -> None:
    well(server)
    with admin_of(server) as client:
        client.execute_command(
            "ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", "-config", "-memory", "-debug"
        )  # fmt: skip
    url = server.tcp_url if not server.url.startswith("unix") else server.url
    as_ann = url.replace("://", "://ann:pw@", 1)
    told = levels(as_ann)
    assert (told["durability"], told["size"], told["eviction"]) == ("not known", "not known", "ok")
    assert worst(told) == "not known"
    assert examined(as_ann).exit_code == 0
    log = RedisLog(as_ann, GROUP)
    now = ops.status(log)
    log.close()
    assert (now.log_bytes, now.record_count is None) == (None, False)


def test_a_stray_entry_and_a_moved_term_key_are_problems(server: RedisServer, pair: tuple[Node, Node]) -> None:
    well(server)
    with admin_of(server) as client:
        client.incr(f"replicator:{{{GROUP}}}:term")
        client.xadd(f"replicator:{{{GROUP}}}:log", {"hello": "world"})
    told = levels(server.url)
    assert (told["term"], told["log"]) == ("problem", "problem")


def test_a_head_that_somebody_else_wrote_is_a_problem_and_redis_is_examined(server: RedisServer) -> None:
    with admin_of(server) as client:
        client.set(f"replicator:{{{GROUP}}}:head", "mine")
    told = levels(server.url)
    assert (told["log"], told["redis"]) == ("problem", "ok")


def test_a_redis_that_is_not_there_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    result = examined(f"unix://{tmp_path}/nobody.sock")
    assert (result.exit_code, result.stdout) == (6, "")


def test_a_replica_of_redis_is_counted_and_what_it_is_for_is_asked(
    redis_factory: RedisFactory, redis_binary: ServerBinary
) -> None:
    master = redis_factory(binary=redis_binary, port=0)
    host, port = master.tcp_url.removeprefix("redis://").partition("/")[0].split(":")
    replica = redis_factory(binary=redis_binary, port=0)
    with admin_of(replica) as client:
        client.replicaof(host, int(port))
    eventually(lambda: levels(master.tcp_url)["replicas"] == "warning")
    with admin_of(master) as client:
        client.config_set("min-replicas-to-write", 1)
    eventually(lambda: levels(master.tcp_url)["replicas"] == "ok")
    assert levels(replica.url)["role"] == "problem"


def admin_of(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)
