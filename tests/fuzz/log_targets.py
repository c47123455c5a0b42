"""What Redis answers, once redis-py has taken it apart: entries, the head, heartbeats with times, replies of scripts.

Redis keeps the shape (lists, bytes, integers); what is in the bytes, anybody may have written.
"""

from __future__ import annotations

from typing import Any

import orjson

from replicator.errors import OutcomeUnknown
from replicator.format.ids import RecordId
from replicator.format.records import Record
from replicator.log import replies
from replicator.log.interface import Ack, GroupRequest
from replicator.protocol.group import Code, Head, Reply
from tests.fuzz.core_targets import check_peer, heartbeat, record_entry, whole
from tests.fuzz.engine import Target
from tests.fuzz.mutate import NASTY_TEXTS, Choices, edit_bytes, edits

__all__ = ["TARGETS"]

_CHAIN = b"0123456789abcdef" * 2

_HEAD: dict[bytes, bytes] = {
    b"log_id": b"l",
    b"run": b"r",
    b"term": b"5",
    b"node": b"a",
    b"boot": b"a1",
    b"id": b"5-1042",
    b"chain": _CHAIN,
    b"changed": b"5-1040",
    b"snapshot_at": b"5-1000",
    b"previous_snapshot_at": b"4-900",
    b"part_next": b"0",
    b"ends": b"1-7 4-900",
    b"taken": b"1700000000000/a 1700000000001/b",
    b"paused": b"",
}
_REQUEST = [b"request", b"snapshot", b"node", b"a", b"by", b"ann"]
_ACK = [b"node", b"a", b"at", b"5-1042"]
_REPLIES = (
    [b"ok", b"5", b"5-1042", b"run"],
    [b"ok"],
    [b"duplicate", b"5-1042"],
    [b"fenced", b"6", b"b"],
    [b"conflict", b"6", b"b"],
    [b"newrun"],
    [b"lost"],
    [b"stray", b"7-7"],
    [b"restart"],
)


def _nasty(choices: Choices) -> bytes:
    return choices.pick((b"\xff", b"\xed\xa0\x80", b"", *(text.encode() for text in NASTY_TEXTS)))


def _texts_near(choices: Choices, texts: list[bytes]) -> list[bytes]:
    """A flat list in which some texts are others."""
    near = list(texts)
    for _ in range(choices.below(3)):
        if near:
            at = choices.below(len(near))
            near[at] = edit_bytes(near[at], edits(choices)) if choices.below(2) else _nasty(choices)
    return near


def _pairs_near(choices: Choices, texts: list[bytes]) -> list[bytes]:
    """The same for names and values: pairs may be missing, or there twice."""
    near = _texts_near(choices, texts)
    if choices.once_in(8):
        at = 2 * choices.below(len(near) // 2)
        near[at : at + 2] = choices.pick(([], near[at : at + 2] * 2))
    return near


# --- reading ---------------------------------------------------------------------------------------------------------


def _entries(choices: Choices) -> tuple[list[Any], list[Any], list[Any]]:
    """Entries of the log, requests, and acks."""
    records = []
    for _ in range(1 + choices.below(3)):
        _, header, body = record_entry(choices)
        fields = [b"h", header or b"", b"b", body or b""]
        others: tuple[Any, ...] = (fields[:2], fields[2:], [], None, [b"x", b"y"], [*fields, b"h", b"{}"])
        records.append([_entry_id(choices), choices.pick(others) if choices.once_in(8) else fields])
    requests = [[_entry_id(choices), _pairs_near(choices, _REQUEST)]]
    acks = [[_entry_id(choices), None if choices.once_in(16) else _pairs_near(choices, _ACK)]]
    return records, requests, acks


def _entry_id(choices: Choices) -> bytes:
    """Redis makes sure that it is one: two numbers below 2^64."""
    most = str(2**64 - 1).encode()
    return choices.pick((b"5-1042", b"5-1043", b"1-1", most + b"-" + most, b"9007199254740992-1"))


def _read(given: tuple[list[Any], list[Any], list[Any]]) -> bool:
    entries, requests, acks = given
    records, corrupt = replies.parse_entries(entries, None)
    assert all(isinstance(record, Record) for record in records)
    assert (corrupt is None) == (len(records) == len(entries))
    for request in map(replies.request_of, requests):
        assert isinstance(request, GroupRequest)
        assert all(type(text) is str for text in request)
    for ack in map(replies.ack_of, acks):
        assert ack is None or (isinstance(ack, Ack) and type(ack.node) is str and type(ack.at) is RecordId)
    return corrupt is None


# --- looking ---------------------------------------------------------------------------------------------------------


def _looked(choices: Choices) -> tuple[list[bytes], bytes]:
    """The head, and a heartbeat."""
    head = [one for pair in _HEAD.items() for one in pair]
    at = choices.pick((b"1700000000000", b"", b"x", b"-1", b"9" * 5000, "٣".encode(), "²".encode(), b"1_0"))
    time = at if choices.once_in(8) else b"1700000000000"
    return ([] if choices.once_in(32) else _pairs_near(choices, head)), time + b" " + heartbeat(choices)


def _look(given: tuple[list[bytes], bytes]) -> bool:
    flat, beat = given
    heartbeat = replies.heartbeat_of(beat, 1_700_000_000_500, None)
    if heartbeat is not None:
        assert heartbeat.age_ms >= 0
        check_peer(heartbeat._replace(beaten_at=0))
    try:
        head = replies.head_of(replies.pairs_of(flat))
    except replies.Foreign as foreign:
        _check_says_why(foreign)
        return False
    assert (head is None) == (not flat)
    if head is not None:
        _check_head(head)
    return heartbeat is not None


def _check_says_why(foreign: Exception) -> None:
    assert str(foreign)


def _check_head(head: Head) -> None:
    assert len(head.position.chain) == 32
    assert int(head.position.chain, 16) >= 0
    assert 0 <= head.term < 2**53
    assert head.part_next >= 0
    orjson.dumps([str(head.position), head.taken])


# --- replies of scripts ----------------------------------------------------------------------------------------------


def _reply(choices: Choices) -> list[bytes]:
    return _texts_near(choices, choices.pick(_REPLIES))


def _understand(answer: list[bytes]) -> bool:
    try:
        reply = replies.reply_of(answer, "redis://here")
    except OutcomeUnknown:
        return False
    assert isinstance(reply, Reply)
    assert isinstance(reply.code, Code)
    return True


TARGETS = (
    Target(name="read", build=_entries, size=64, opened=whole(_read)),
    Target(name="look", build=_looked, opened=whole(_look)),
    Target(name="reply", build=_reply, opened=whole(_understand)),
)
