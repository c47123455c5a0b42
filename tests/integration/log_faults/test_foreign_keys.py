"""Keys of the group that hold what somebody else wrote."""

from __future__ import annotations

import re

import pytest

from replicator.errors import LogUnavailable
from replicator.format.ids import RecordId
from replicator.log.interface import Ack
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.history import History, HistoryEntry
from tests.support.log_calls import CALLS, refused
from tests.support.worlds import LEASE_MS, LOG_ID, RedisWorld, lead, promote

USES = {
    "term": ("append", "part", "promote", "renew", "look"),
    "log": ("append", "part", "promote", "look", "read", "find"),
    "head": ("append", "part", "promote", "renew", "look"),
    "lease": ("promote", "renew", "give_back"),
    "requests": ("promote", "request", "read"),
    "nodes": ("beat", "look"),
}


@pytest.mark.parametrize("key", USES)
def test_a_key_of_the_wrong_type_is_named_and_left_alone(key: str, world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    log.beat(Heartbeat("a", "1"))
    world.admin.delete(world.key(key))
    world.admin.rpush(world.key(key), "something else")
    says = re.escape(f"WRONGTYPE {world.key(key)} holds something else than a ")
    refused(world, {name: CALLS[name] for name in USES[key]}, log, author, says)


def test_whatever_holds_the_place_of_the_history_keeps_nobody_from_anything(world: RedisWorld, log: RedisLog) -> None:
    """It decides nothing. That entries are missing shows by the count in the head."""
    author = lead(log)
    world.admin.delete(world.key("history"))
    world.admin.set(world.key("history"), "something else")
    assert log.pause("by ann", by="ann").code is Code.OK
    log.forget("z", by="ann")
    assert promote(log, "b", forced=True).code is Code.OK
    log.give_back(author.writer._replace(node="b"), 2)
    says = re.escape(f"WRONGTYPE {world.key('history')} holds something else than a stream")
    with pytest.raises(LogUnavailable, match=says):
        log.history()
    with pytest.raises(LogUnavailable, match=says):
        log.refill_history([HistoryEntry(what="pause", term=1)], end="", node="a")
    assert world.admin.get(world.key("history")) == b"something else"
    world.admin.delete(world.key("history"))
    assert promote(log, "a", boot="2").code is Code.OK
    entries, _ = log.history()
    assert [(entry.what, entry.number) for entry in entries] == [("promote", 6)]
    head = log.look().head
    assert head is not None
    assert not History.of(entries, count=head.history_count, term=head.term).complete


@pytest.mark.parametrize("field", ["history", "since", "left", "whole_at"])
@pytest.mark.parametrize("value", ["", "x", "-1", "1 x", "9" * 400, "1 " + "9" * 400, "²"])
def test_what_the_head_says_of_the_history_keeps_nobody_from_anything(
    field: str, value: str, world: RedisWorld, log: RedisLog
) -> None:
    lead(log)
    world.admin.hset(world.key("head"), field, value)
    if field != "whole_at":
        assert log.look().head is not None
    assert promote(log, "b", boot="2").code is Code.OK
    assert log.pause("by ann", by="ann").code is Code.OK
    assert [entry.what for entry in log.history().entries] == ["found", "promote", "pause"]


@pytest.mark.parametrize("fields", [{"a": "b"}, {"what": "stop"}, {"what": "stop", "term": "\xff"}])
def test_an_entry_of_the_history_that_somebody_else_wrote_is_passed_over(
    fields: dict[str, str], world: RedisWorld, log: RedisLog
) -> None:
    lead(log)
    world.admin.xadd(world.key("history"), fields)
    promote(log, "b")
    assert [entry.what for entry in log.history().entries] == ["found", "promote"]


@pytest.mark.parametrize("value", ["seven", "", "-1", "1.5", "007", "1e3"])
def test_a_term_key_that_holds_no_term_is_named_and_left_alone(value: str, world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    world.admin.set(world.key("term"), value)
    refused(world, {name: CALLS[name] for name in USES["term"]}, log, author, "BADTERM.*changed by hand")


@pytest.mark.parametrize("value", [2**53 - 1, 2**53, 2**63 - 1, 10**30])
def test_a_term_key_beyond_the_limit_is_not_passed(value: int, world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    world.admin.set(world.key("term"), value)
    refused(world, {"promote": CALLS["promote"]}, log, author, "no more terms")
    assert author.append().code is Code.FENCED


def test_a_term_key_that_no_number_of_lua_holds_is_named(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    world.admin.set(world.key("term"), "9" * 400)
    with pytest.raises(LogUnavailable, match="was changed by hand") as caught:
        log.look()
    assert world.key("term") in str(caught.value)


def test_one_bad_heartbeat_does_not_hide_the_others(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    log.beat(Heartbeat("a", "1"))
    for i, bad in enumerate(["", "x", "12 ", "12 {}", '12 {"position": 3}', "12 \xff", "12 null", "9" * 5000 + " {}"]):
        world.admin.hset(world.key("nodes"), f"bad-{i}", bad)
    assert list(log.look().heartbeats) == ["a"]


def test_a_heartbeat_under_another_nodes_name_is_passed_over(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    log.beat(Heartbeat("a", "1"))
    forged = b"12 " + Heartbeat("a", "2").to_json()
    for name in ("0", "z"):  # before the other one, and behind it
        world.admin.hset(world.key("nodes"), name, forged)
    assert {name: heartbeat.boot for name, heartbeat in log.look().heartbeats.items()} == {"a": "1"}


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("log_id", None, "it has no log_id"),
        ("boot", None, "it has no boot"),
        ("boot", b"\xff", "invalid start byte"),
        ("term", None, "it has no term"),
        ("term", b"five", "'five' is no number"),
        ("term", b"inf", "'inf' is no number"),
        ("term", b"0x10", "'0x10' is no number"),
        ("term", b"9007199254740992", "is too large"),
        ("id", b"nowhere", "'nowhere' is not of the form TERM-N"),
        ("chain", b"tail", "is not of the form TERM-N@CHAIN"),
        ("ends", b"1-7 x", "'x' is not of the form TERM-N"),
        ("part_next", b"-1", "'-1' is no number"),
    ],
)
def test_a_head_that_somebody_else_wrote_is_named_with_what_to_do(
    field: str, value: bytes | None, why: str, world: RedisWorld, log: RedisLog
) -> None:
    lead(log)
    key = world.key("head")
    if value is None:
        world.admin.hdel(key, field)
    else:
        world.admin.hset(key, field, value)
    before = world.contents()
    with pytest.raises(LogUnavailable) as caught:
        log.look()
    text = str(caught.value)
    assert f"something else than replicator wrote to {key} (" in text
    assert why in text
    assert world.contents() == before
    # and what it says to do leads out of it
    assert "`replicator recover` mends it" in text
    assert (
        promote(log, "b", new_log_id=LOG_ID, anew=True, floor=1, unfollowed=caught.value.look.last_id).code is Code.OK
    )
    assert log.look().head is not None


def test_a_field_of_the_head_that_nobody_knows_is_nobodys_concern(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    before = log.look().head
    world.admin.hset(world.key("head"), b"\xff", b"\xff")
    assert log.look().head == before


def test_an_ask_and_an_ack_that_somebody_else_wrote_hide_no_others(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    for name in ("requests", "acks"):
        world.admin.xadd(world.key(name), {b"\xff": b"\xff", b"request": b"\xff"})
    log.request("snapshot", by="ann")
    log.ack(Ack("b", RecordId(1, 1)))
    batch = log.read(None, requests_after="0-0", acks_after="0-0")
    assert [(request.what, request.by) for request in batch.requests][-2:] == [
        ("\N{REPLACEMENT CHARACTER}", ""),
        ("snapshot", "ann"),
    ]
    assert list(batch.acks) == [Ack("b", RecordId(1, 1))]


def test_half_a_log_is_lost_and_not_founded_over(world: RedisWorld, log: RedisLog) -> None:
    for half in ("log", "head"):
        world.flush()
        author = lead(log)
        world.admin.delete(world.key(half))
        before = world.contents()
        assert author.append() == Reply(Code.LOST)
        assert log.renew(author.writer, 1, LEASE_MS) == Reply(Code.LOST)
        assert promote(log, "b") == Reply(Code.LOST)
        assert log.look().head is None
        assert world.contents() == before


def test_a_stray_record_that_was_deleted_is_still_in_the_way(world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    stray = world.admin.xadd(world.key("log"), {"hello": "world"}).decode()
    world.admin.xdel(world.key("log"), stray)
    assert author.append() == Reply(Code.STRAY, id=RecordId.parse(stray))
    assert str(log.look().last_id) == stray
