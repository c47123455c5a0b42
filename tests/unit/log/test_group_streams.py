"""What nodes read of a group: the command, and what is made of its answer, by the short way and by the long one."""

from __future__ import annotations

import pytest

from replicator.format.ids import ORIGIN, RecordId, Writer
from replicator.format.records import ChangeRecord, seal_change
from replicator.log.group_streams import GroupStreams, xread
from replicator.log.interface import Ack, Batch, GroupRequest, ReadRequest

LOG, REQUESTS, ACKS = b"log", b"requests", b"acks"


@pytest.fixture
def streams() -> GroupStreams:
    return GroupStreams(LOG, REQUESTS, ACKS)


@pytest.fixture
def record() -> ChangeRecord:
    return seal_change(
        writer=Writer("a", "boot-a"), term=1, after=ORIGIN, at=0, codec="json", digest="0", count=1, body=b"[1]"
    )


def test_only_what_is_wanted_is_read_and_after_its_own_place(streams: GroupStreams) -> None:
    every = streams.places(ReadRequest(RecordId(2, 7), "5-0", "6-0"))
    assert every == [(LOG, "2-7"), (REQUESTS, "5-0"), (ACKS, "6-0")]
    assert streams.places(ReadRequest(None, "5-0")) == [(REQUESTS, "5-0")]
    assert list(xread(every, most=32, block_ms=1000)) == [
        *(b"XREAD", b"COUNT", 32, b"BLOCK", 1000, b"STREAMS", LOG, REQUESTS, ACKS, "2-7", "5-0", "6-0")
    ]
    assert list(xread(every[:1], most=1, block_ms=None)) == [b"XREAD", b"COUNT", 1, b"STREAMS", LOG, "2-7"]
    assert b"BLOCK" in xread(every, most=1, block_ms=0)
    assert 0 not in xread(every, most=1, block_ms=0), "that would wait for ever"
    assert not xread([], most=1, block_ms=None)


def test_records_alone_are_found_as_they_are_beside_other_things(streams: GroupStreams, record: ChangeRecord) -> None:
    wants = ReadRequest(RecordId(1, 0), "5-0", "6-0")
    entry = [b"1-1", [b"h", record.header, b"b", record.body]]
    assert streams.found(wants, {LOG: [entry]}, None) == Batch([record], [], None, (), "6-0")
    request = [b"5-1", [b"request", b"look", b"by", b"z"]]
    ack = [b"6-1", [b"node", b"b", b"at", b"1-1"]]
    both = streams.found(wants, {LOG: [entry], REQUESTS: [request], ACKS: [ack]}, None)
    assert both == Batch([record], [GroupRequest("5-1", "look", "", "z")], None, [Ack("b", RecordId(1, 1))], "6-1", [])


def test_what_comes_without_records_is_found_and_what_is_of_others_is_not(streams: GroupStreams) -> None:
    wants = ReadRequest(RecordId(1, 0), "5-0", "6-0")
    request, ack = [b"5-1", [b"request", b"look", b"by", b"z"]], [b"6-1", [b"node", b"b", b"at", b"1-1"]]
    asked = streams.found(wants, {REQUESTS: [request]}, None)
    assert asked == Batch([], [GroupRequest("5-1", "look", "", "z")], None, [], "6-0", [])
    assert streams.found(wants, {ACKS: [ack]}, None) == Batch([], [], None, [Ack("b", RecordId(1, 1))], "6-1", [])
    # many groups, and the alarm of their host, are read together
    for others in ({}, {b"log of another": [[b"1-1", [b"h", b"", b"b", b""]]]}):
        assert streams.found(wants, others, None) == Batch([], [], None, [], "6-0", [])


def test_what_is_no_record_is_told_whatever_comes_with_it(streams: GroupStreams, record: ChangeRecord) -> None:
    wants = ReadRequest(RecordId(1, 0), acks_after="6-0")
    entry = [b"1-1", [b"h", record.header, b"b", record.body]]
    # fields in another order, or others beside them, are read all the same
    h, b, x = (b"h", record.header), (b"b", record.body), (b"x", b"")
    for otherwise in ((*b, *x, *h), (*h, *x, *b), (*h, *b, *x), (*b, *h)):
        assert streams.found(wants, {LOG: [[b"1-1", list(otherwise)]]}, None).records == [record]
    for fields in (None, [], [b"x", b"y"], [b"h", b"no JSON", b"b", b""], [b"b", record.body]):
        for entries in ([entry, [b"1-2", fields]], [[b"1-2", fields]]):
            found = streams.found(wants, {LOG: entries}, None)
            assert found.records == ([record] if len(entries) == 2 else [])
            assert found.corrupt is not None
            assert found.corrupt.fields["id"] == "1-2"
            assert found.acks_after == "6-0"
