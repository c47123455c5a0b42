"""Cutting a snapshot into bodies, and following whether its parts make one whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.format.ids import Position, RecordId
from replicator.format.records import BODY_BYTES_MAX, PartRecord
from replicator.format.snapshot_parts import PART_BYTES, Cutter, Progress, follow
from tests.support.history import A, B, part

AS_OF = Position(RecordId(1, 5), "a" * 32)
BEFORE = RecordId(1, 5)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 16))
def test_what_is_cut_makes_the_whole_again(chunks: list[bytes], size: int) -> None:
    cutter = Cutter(size)
    bodies = [body for chunk in chunks for body in cutter.feed(chunk)]
    last = cutter.finish()
    assert b"".join([*bodies, last]) == b"".join(chunks)
    assert all(len(body) == size for body in bodies)
    assert len(last) <= size
    assert last or not any(chunks), "the last body is never empty"


def test_bodies_fit_into_a_record() -> None:
    cutter = Cutter()
    (body,) = cutter.feed(b"x" * (PART_BYTES + 1))
    assert (len(body), cutter.finish(), cutter.finish()) == (PART_BYTES, b"x", b"")
    assert PART_BYTES <= BODY_BYTES_MAX


def first(parts: int = 0, as_of: Position = AS_OF) -> PartRecord:
    return part(A, 1, AS_OF, (0, parts), as_of=as_of)


def test_the_first_part_begins_whatever_was_before() -> None:
    begun = follow(None, first(), BEFORE)
    assert begun == Progress(A, AS_OF, Position(BEFORE, AS_OF.chain), 1, complete=False)
    assert follow(begun, first(), BEFORE) == begun
    assert follow(begun, first(1), BEFORE) == begun._replace(complete=True)


def test_the_last_part_completes() -> None:
    begun = follow(None, first(), BEFORE)
    more = follow(begun, part(A, 1, AS_OF, (1, 0), as_of=AS_OF), BEFORE)
    whole = follow(more, part(A, 1, AS_OF, (2, 3), as_of=AS_OF), BEFORE)
    assert more is not None
    assert whole is not None
    assert (more.next_part, more.complete, whole.complete) == (2, False, True)


@pytest.mark.parametrize(
    "other",
    [
        part(A, 1, AS_OF, (2, 0), as_of=AS_OF),
        part(B, 1, AS_OF, (1, 0), as_of=AS_OF),
        part(A, 1, AS_OF, (1, 0), as_of=Position(RecordId(1, 4), "b" * 32)),
        part(A._replace(boot="a2"), 1, AS_OF, (1, 2), as_of=AS_OF),
    ],
    ids=["a part is missing", "another writer", "another snapshot", "another boot"],
)
def test_what_does_not_continue_is_nothing(other: PartRecord) -> None:
    assert follow(follow(None, first(), BEFORE), other, BEFORE) is None
    assert follow(None, other, BEFORE) is None


def test_nothing_continues_a_complete_snapshot() -> None:
    whole = follow(None, first(1), BEFORE)
    assert follow(whole, part(A, 1, AS_OF, (1, 2), as_of=AS_OF), BEFORE) is None


def test_reading_resumes_at_the_state_of_the_snapshot_or_before_its_first_part() -> None:
    right_after = follow(None, first(), RecordId(9, 9))
    assert right_after is not None
    assert right_after.resume == Position(RecordId(9, 9), AS_OF.chain), "a rebase leaves abandoned records in between"
    earlier = Position(RecordId(1, 3), "b" * 32)
    later = follow(None, first(as_of=earlier), BEFORE)
    assert later is not None
    assert later.resume == earlier, "changes came in between: they are read again"


def test_reading_never_resumes_before_what_the_snapshot_contains() -> None:
    # given a reader that lagged when the log was cut behind as_of: the next that it finds is the first part
    before = RecordId(1, 1)
    assert before < AS_OF.id
    cut = follow(None, first(), before)
    assert cut is not None
    # then it goes on behind as_of, also where a Redis that failed over has again what was cut
    assert cut.resume == AS_OF


@given(st.integers(1, 12), st.data())
def test_only_an_unbroken_row_of_parts_completes(parts: int, data: st.DataObject) -> None:
    row = [part(A, 1, AS_OF, (i, parts if i + 1 == parts else 0), as_of=AS_OF) for i in range(parts)]
    missing = data.draw(st.sets(st.integers(0, parts - 1)))
    progress = None
    for record in (record for record in row if record.part not in missing):
        progress = follow(progress, record, BEFORE)
    assert bool(progress and progress.complete) == (not missing)
