"""A segment: what goes in comes out, to the byte; and what is damaged is refused."""

from __future__ import annotations

import pytest

from replicator.archive.errors import ArchiveDamaged
from replicator.archive.segment import Builder, Footer, footer_of, records_of, verified
from replicator.format.ids import ORIGIN, ZERO_ID, RecordId, Writer
from replicator.format.records import ChangeRecord, seal_change


def changes(count: int, size: int = 10) -> list[ChangeRecord]:
    found: list[ChangeRecord] = []
    after = ORIGIN
    for number in range(count):
        body = str(number).encode() * size
        record = seal_change(
            writer=Writer("a", "b"), term=1, after=after, at=number, codec="json", digest="d", count=1, body=body
        )
        found.append(record)
        after = record.position
    return found


def built(records: list[ChangeRecord]) -> bytes:
    builder = Builder(Footer(group="g", timeline=1, number=1))
    before = ZERO_ID
    for record in records:
        builder.add(record, before)
        before = record.id
    return builder.finish()


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 10), (400, 10_000)])
def test_records_come_out_as_they_went_in(count: int, size: int) -> None:
    records = changes(count, size)
    data = built(records)
    footer = verified("s", data)
    assert list(records_of(footer, data)) == records
    assert (footer.record_count, footer.change_count) == (count, count)
    assert (footer.first, footer.end) == (str(records[0].id), records[-1].position)
    assert footer_of("s", data[-16_384:]) == footer


def test_reading_may_begin_at_any_record() -> None:
    records = changes(400, 10_000)
    data = built(records)
    footer = verified("s", data)
    assert len(footer.blocks) > 2
    for n in (0, 1, 37, 199, 399, 400):
        assert list(records_of(footer, data, after=RecordId(1, n))) == records[n:]


def test_every_flipped_byte_is_found() -> None:
    data = built(changes(3))
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        with pytest.raises(ArchiveDamaged):
            verified("s", flipped)


def test_every_flipped_byte_of_a_footer_is_found_by_those_who_read_nothing_else() -> None:
    data = built(changes(3))
    needs = footer_of("s", data[-60:])
    assert isinstance(needs, int)
    tail = data[-needs:]
    for at in range(len(tail) - 44):
        flipped = tail[:at] + bytes([tail[at] ^ 0x01]) + tail[at + 1 :]
        with pytest.raises(ArchiveDamaged, match="the hash of its footer"):
            footer_of("s", flipped)


def test_every_cut_is_found() -> None:
    data = built(changes(3))
    for size in range(len(data)):
        with pytest.raises(ArchiveDamaged):
            verified("s", data[:size])


def test_a_record_that_does_not_follow_is_found_though_the_hash_is_right() -> None:
    one, two, three = changes(3)
    data = built([one, three])
    with pytest.raises(ArchiveDamaged, match="follows the chain"):
        list(records_of(verified("s", data), data))
    assert two.prev == one.chain


def test_finishing_again_gives_the_same_bytes() -> None:
    builder = Builder(Footer(group="g", timeline=1, number=1))
    builder.add(changes(1)[0], ZERO_ID)
    assert builder.finish() == builder.finish()


def test_a_large_footer_is_read_with_a_second_look() -> None:
    builder = Builder(Footer(group="g", timeline=1, number=1, reason="x" * 20_000))
    builder.add(changes(1)[0], ZERO_ID)
    data = builder.finish()
    needs = footer_of("s", data[-16_384:])
    assert isinstance(needs, int)
    assert footer_of("s", data[-needs:]) == verified("s", data)
