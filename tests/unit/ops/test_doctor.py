"""`doctor`: each check, of values; and that the facts of a group are all it takes."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.format.ids import ERA, ZERO_CHAIN, ZERO_ID, Position, RecordId
from replicator.log.interface import LogSize
from replicator.log.server import Server
from replicator.ops.doctor import Check, Facts, Report, checks, log_bytes_max
from replicator.protocol.election import NOBODY
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat

MB = 1_000_000
NOW_MS = 1_700_000_000_000
HERE = Position(RecordId(3, 100), ZERO_CHAIN)

INFO = {
    "redis_version": "7.2.4",
    "role": "master",
    "used_memory": str(100 * MB),
    "maxmemory": str(400 * MB),
    "maxmemory_policy": "noeviction",
    "total_system_memory": str(8000 * MB),
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "connected_slaves": "0",
}
CONFIG = {"appendfsync": "everysec", "min-replicas-to-write": "0", "min-replicas-max-lag": "10"}
SIZE = LogSize(1000, 20 * MB)
HEAD = Head("log-1", "run-1", 3, "a", "a-1", HERE)
LEADS: dict[str, Any] = {"role": "primary", "snapshot_bytes": 10 * MB, "changes_bytes": 2 * MB, "kept_bytes": 8 * MB}


def heartbeat(name: str, **more: Any) -> Heartbeat:
    facts: dict[str, Any] = {"run": "run-1", "term": 3, "position": HERE, "cursor": HERE.id, "log_id": "log-1"}
    return Heartbeat(name, f"{name}-1", **facts | {"applied_at": NOW_MS - 50} | more)


def look(*heartbeats: Heartbeat, **more: Any) -> GroupView:
    known = {each.node: each for each in heartbeats or (heartbeat("a", **LEADS), heartbeat("b", candidate=True))}
    facts: dict[str, Any] = {"run": "run-1", "term": 3, "head": HEAD, "last_id": HERE.id, "lease_ms": 3000}
    return GroupView(**facts | {"heartbeats": known, "now_ms": NOW_MS} | more)


def facts(
    *,
    info: dict[str, str] | None = None,
    config: dict[str, str | None] | None = None,
    term_key: str | None = "3",
    seen: GroupView | None = None,
    size: LogSize | None = None,
) -> Facts:
    return Facts("g", Server(INFO | (info or {}), CONFIG | (config or {}), term_key), seen or look(), size or SIZE)


def found(name: str, **given: Any) -> tuple[str, str]:
    """Level and text of the one check of that name."""
    (check,) = (check for check in checks(facts(**given)) if check.check == name)
    return check.level, check.message


def test_of_a_group_that_is_well_all_is_ok_and_said() -> None:
    all_checks = checks(facts())
    assert {check.level for check in all_checks} == {"ok"}
    assert [check.check for check in all_checks] == [
        "redis", "connection", "eviction", "memory", "durability", "replicas", "log", "term", "size", "room", "primary",
        "failover", "standbys", "versions", "clocks", "node a", "node b",
    ]  # fmt: skip
    assert all(check.message for check in all_checks)


def test_what_is_not_well_says_what_to_do_in_one_line() -> None:
    for check in checks(facts(info={"maxmemory_policy": "allkeys-lru"}, term_key=None, seen=look(lease_ms=None))):
        assert "\n" not in check.message
        assert check.level == "ok" or ":" in check.message


def test_a_user_who_may_ask_nothing_is_told_what_is_not_known_and_no_problem() -> None:
    nothing = Facts("g", Server({}, dict.fromkeys(CONFIG), None), look(), LogSize(None, None))
    levels = {check.check: check.level for check in checks(nothing)}
    assert {name for name, level in levels.items() if level == "not known"} == {
        "redis", "eviction", "memory", "durability", "size",
    }  # fmt: skip
    assert "problem" not in levels.values()


REDIS: list[tuple[str, dict[str, str], dict[str, str | None], str, str]] = [
    ("redis", {"redis_version": "6.0.16"}, {}, "problem", "Redis 6.0.16 is too old"),
    ("redis", {"redis_version": "7.2.4", "valkey_version": "9.1.2"}, {}, "ok", "Valkey 9.1.2 answers"),
    ("role", {"role": "slave"}, {}, "problem", "name the master"),
    ("eviction", {"maxmemory_policy": "allkeys-lru"}, {}, "problem", "allkeys-lru: Redis may throw the log away"),
    ("eviction", {"maxmemory_policy": "volatile-ttl"}, {}, "warning", "it may evict the lease"),
    ("eviction", {"maxmemory_policy": "allkeys-lru", "maxmemory": "0"}, {}, "warning", "no maxmemory yet: set noevic"),
    ("memory", {"used_memory": str(400 * MB)}, {}, "problem", "all of maxmemory, 400.0 MB, is used"),
    ("memory", {"maxmemory": "0"}, {}, "ok", "100.0 MB are used, and there is no maxmemory"),
    ("memory", {"maxmemory": "0", "used_memory": str(7000 * MB)}, {}, "warning", "set one, so that Redis refuses"),
    ("durability", {"aof_enabled": "0"}, {}, "warning", "a restart of Redis loses"),
    ("durability", {}, {"appendfsync": "always"}, "ok", "takes nothing that was acknowledged"),
    ("durability", {}, {"appendfsync": "everysec"}, "ok", "the last second"),
    ("durability", {}, {"appendfsync": "no"}, "warning", "set everysec or always"),
    ("durability", {}, {"appendfsync": None}, "not known", "allow this user CONFIG GET"),
    ("disk", {"aof_last_write_status": "err"}, {}, "problem", "takes no writes"),
    ("disk", {"rdb_last_bgsave_status": "err"}, {}, "warning", "the last dump of Redis failed"),
    ("disk", {"aof_last_bgrewrite_status": "err"}, {}, "warning", "grows on"),
    ("replicas", {"connected_slaves": "2"}, {}, "warning", "min-replicas-to-write is 0"),
    ("replicas", {"connected_slaves": "2"}, {"min-replicas-to-write": "1"}, "ok", "min-replicas-to-write is 1"),
    ("replicas", {"connected_slaves": "2"}, {"min-replicas-to-write": "3"}, "problem", "no write is taken"),
    ("replicas", {"connected_slaves": "2"}, {"min-replicas-to-write": None}, "not known", "allow this user CONFIG GET"),
    ("room", {"used_memory": str(395 * MB)}, {}, "warning", "5.0 MB are left under maxmemory"),
]


@pytest.mark.parametrize(("name", "info", "config", "level", "text"), REDIS)
def test_what_is_said_of_redis(
    name: str, info: dict[str, str], config: dict[str, str | None], level: str, text: str
) -> None:
    told = found(name, info=info, config=config)
    assert told[0] == level
    assert text in told[1]


def test_a_replica_of_redis_that_is_not_online_is_named_besides_what_that_stops() -> None:
    info = {"connected_slaves": "1", "slave0": "ip=10.0.0.2,port=6379,state=wait_bgsave,offset=0,lag=0"}
    told = [check for check in checks(facts(info=info, config={"min-replicas-to-write": "1"}))
            if check.check == "replicas"]  # fmt: skip
    assert [check.level for check in told] == ["warning", "problem"]


def test_a_head_that_cannot_be_read_is_a_problem_and_redis_is_still_looked_at() -> None:
    told = checks(Facts("g", Server(INFO, CONFIG, "3"), unreadable="something else wrote there; DEL it"))
    assert told[-1] == Check(
        check="log", level="problem", message="the keys of the group cannot be read: something else wrote there; DEL it"
    )
    assert "durability" in [check.check for check in told]


GROUP: list[tuple[str, dict[str, Any], str, str]] = [
    ("log", {"head": None}, "problem", "`replicator recover`"),
    ("log", {"head": None, "term": 0, "heartbeats": {}}, "warning", "there is none yet"),
    ("log", {"last_id": RecordId(NOW_MS, 0)}, "problem", f"at {NOW_MS}-0"),
    ("term", {"term": 7}, "problem", "somebody moved the key"),
    ("primary", {"run": "run-2"}, "problem", "Redis came back as another run"),
    ("primary", {"head": HEAD._replace(node=NOBODY.node, boot=NOBODY.boot)}, "problem", "nobody holds the term"),
    ("primary", {"head": HEAD._replace(boot="a-2")}, "problem", "a holds term 3, and does not lead"),
    ("primary", {"lease_ms": None}, "warning", "its lease has run out"),
    ("failover", {"head": HEAD._replace(paused="by ann")}, "warning", "paused (by ann): `replicator resume`"),
]


@pytest.mark.parametrize(("name", "change", "level", "text"), GROUP)
def test_what_is_said_of_the_group(name: str, change: dict[str, Any], level: str, text: str) -> None:
    told = found(name, seen=look()._replace(**change))
    assert told[0] == level
    assert text in told[1]


@pytest.mark.parametrize(("key", "level"), [("3", "ok"), (None, "warning"), ("2", "warning")])
def test_a_term_key_behind_the_head_does_no_harm_and_is_told(key: str | None, level: str) -> None:
    assert found("term", term_key=key)[0] == level


def test_the_size_of_the_log_is_held_against_two_snapshots_and_the_changes_since_the_older_one() -> None:
    most = log_bytes_max(10 * MB, 8 * MB)
    assert 28 * MB < most < 1.5 * 28 * MB
    assert found("size", size=LogSize(1000, most))[0] == "ok"
    level, text = found("size", size=LogSize(1000, most + 1))
    assert level == "warning"
    assert text.endswith("; `replicator snapshot` cuts the log")
    behind = heartbeat("a", **LEADS | {"position": Position(RecordId(3, 90), ZERO_CHAIN)})
    newer = look(behind, heartbeat("b"))
    assert found("size", size=LogSize(1000, most + 1), seen=newer)[0] == "ok", "its heartbeat is 10 records old"
    assert found("size", size=LogSize(1000, most * 2), seen=newer)[0] == "warning"
    assert found("size", size=LogSize(1000, None))[0] == "not known"
    assert found("size", seen=look(heartbeat("b")))[0] == "not known"


def test_a_group_of_one_has_nobody_to_take_over() -> None:
    assert found("standbys", seen=look(heartbeat("a", **LEADS)))[0] == "warning"
    assert found("standbys", seen=look(heartbeat("a", age_ms=9000), heartbeat("b", age_ms=9000)))[0] == "problem"


def test_a_node_that_flaps_is_named() -> None:
    taken = tuple((NOW_MS - 1000 * i, "b") for i in (5, 10, 15))
    told = [check.message for check in checks(facts(seen=look(head=HEAD._replace(taken=taken))))
            if check.level == "warning"]  # fmt: skip
    (line,) = told
    assert line.startswith("b took the term 3 times within a minute, and waits 45 s more: find out why it loses it")


def test_a_writers_clock_ahead_of_redis_is_told_and_one_that_is_a_little_ahead_is_not() -> None:
    assert found("clocks", seen=look(heartbeat("a", **LEADS | {"applied_at": NOW_MS + 900})))[0] == "ok"
    level, text = found("clocks", seen=look(heartbeat("a", **LEADS | {"applied_at": NOW_MS + 2500})))
    assert level == "warning"
    assert "2.5 s ahead" in text


def test_a_clock_of_redis_that_was_set_back_is_told() -> None:
    stamped = heartbeat("a", **LEADS | {"beaten_at": NOW_MS + 1000}), heartbeat("b", beaten_at=NOW_MS - 100)
    assert found("clocks", seen=look(*stamped))[0] == "ok"
    stamped = heartbeat("a", **LEADS | {"beaten_at": NOW_MS}), heartbeat("b", beaten_at=NOW_MS + 3_601_000, age_ms=3001)
    level, text = found("clocks", seen=look(*stamped))
    assert level == "warning"
    assert "the heartbeat of b is stamped 3600.0 s ahead of Redis' clock, which was set back" in text


NODES: list[tuple[dict[str, Any], str, str]] = [
    (
        {"age_ms": 60_000},
        "warning",
        "not reported for 60 s: it is down, or cannot reach this Redis or write to it; if it is gone for good",
    ),
    ({"stalled": "apply failed"}, "problem", "apply failed"),
    ({"problem": "the log was lost"}, "problem", "the log was lost"),
    ({"run": "run-0"}, "warning", "the present run of Redis"),
    ({"in_sync": False}, "warning", "out of sync"),
    ({"position": Position(RecordId(ERA, 200), ZERO_CHAIN)}, "warning", "ahead of the log"),
    (
        {"position": Position(RecordId(3, 40), ZERO_CHAIN), "behind_ms": 60_000},
        "warning",
        "60 records behind",
    ),
    ({"position": Position(RecordId(3, 40), ZERO_CHAIN), "applied_at": NOW_MS - 1_000}, "ok", "a standby, at 3-40"),
    ({"position": Position(ZERO_ID, ZERO_CHAIN), "applied_at": 0}, "ok", "at 0-0"),
]


@pytest.mark.parametrize(("change", "level", "text"), NODES)
def test_what_is_said_of_a_node(change: dict[str, Any], level: str, text: str) -> None:
    told = found("node b", seen=look(heartbeat("a", **LEADS), heartbeat("b", **change)))
    assert told[0] == level
    assert text in told[1]


def test_a_report_counts_and_has_the_fields_that_programs_rely_on() -> None:
    report = Report(group="g", checks=checks(facts(info={"maxmemory_policy": "allkeys-lru"}, term_key=None)))
    told = report.to_dict()
    assert list(told) == ["group", "problem_count", "warning_count", "checks"]
    assert (told["problem_count"], told["warning_count"]) == (1, 1)
    assert list(told["checks"][0]) == ["check", "level", "message", "code", "facts"]
