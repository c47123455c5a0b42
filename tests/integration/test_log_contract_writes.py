"""The contract of a log (test_log_contract.py), of what is written: changes, and the parts of snapshots."""

from __future__ import annotations

import random

import pytest

from replicator.errors import LogUnavailable
from replicator.format.ids import ZERO_ID, Position, RecordId, Writer
from replicator.format.records import PartRecord
from replicator.log.interface import Log
from replicator.protocol.group import Code, Reply
from tests.support.worlds import Author, World, head_of, ids, lead, promote

# --- append -----------------------------------------------------------------------------------------------------------


def test_the_holder_appends_behind_the_head(log: Log) -> None:
    author = lead(log)
    record = author.change({"op": "set"})
    assert log.append(record) == Reply(Code.OK)
    head = log.look().head
    assert head is not None
    assert head.position == record.position
    assert log.find(RecordId(1, 2)) == record


def test_an_append_in_two_steps_is_an_append(log: Log) -> None:
    author = lead(log)
    record = author.change({"op": "set"})
    with log.appending(record) as appending:
        assert appending.receive() == Reply(Code.OK)
    assert head_of(log).position == record.position
    with log.appending(record) as appending:
        assert appending.receive() == Reply(Code.DUPLICATE, id=record.id)
    assert ids(log) == ["1-1", "1-2"]


def test_a_refusal_is_the_answer_in_two_steps_as_well(log: Log) -> None:
    author = lead(log)
    record = author.change()
    promote(log, "b")
    with log.appending(record) as appending:
        assert appending.receive() == Reply(Code.FENCED, term=2, node="b")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_append_that_is_left_without_its_answer_may_be_there_and_nothing_else_is_mixed_up(
    log: Log, error: type[BaseException]
) -> None:
    author = lead(log)
    record = author.change("left")
    with pytest.raises(error), log.appending(record):
        raise error
    # then the next answer is that of the next request, whatever became of this one
    assert log.append(record).code in (Code.OK, Code.DUPLICATE)
    author.position = record.position
    assert author.append("next") == Reply(Code.OK)
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_a_log_that_is_closed_is_an_error_before_anything_is_sent(log: Log) -> None:
    author = lead(log)
    record = author.change()
    log.close()
    with pytest.raises(LogUnavailable) as caught, log.appending(record):
        raise AssertionError("it was sent")
    assert type(caught.value) is LogUnavailable


def test_a_record_is_given_back_byte_for_byte(log: Log) -> None:
    author = lead(log)
    author.append("".join(map(chr, range(300))) * 20)
    record = author.change(["ü", None, 1.5, {"deep": [[]]}])
    log.append(record)
    assert log.read(RecordId(1, 2)).records == [record]


def test_the_same_append_sent_twice_lands_once(log: Log) -> None:
    author = lead(log)
    record = author.change()
    assert log.append(record).code is Code.OK
    assert log.append(record) == Reply(Code.DUPLICATE, id=record.id)
    assert ids(log) == ["1-1", "1-2"]


def test_a_repeat_of_an_older_append_is_behind_and_lands_nowhere(log: Log) -> None:
    author = lead(log)
    record = author.change("first")
    author.append("first")
    author.append("second")
    assert log.append(record) == Reply(Code.BEHIND, id=RecordId(1, 3))
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_an_append_that_stopped_behind_its_record_is_ended_by_a_repeat(world: World, log: Log) -> None:
    """The head was not moved: the user lost that right in between."""
    author = lead(log)
    record = author.change()
    assert world.write_raw(record.id, record.header, record.body)
    assert log.append(record).code is Code.OK
    assert head_of(log).position == record.position
    assert head_of(log).changed == record.id
    author.position = record.position
    assert author.append().code is Code.OK
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_a_part_that_stopped_behind_its_record_is_ended_by_a_repeat(world: World, log: Log) -> None:
    author = lead(log)
    as_of = author.position
    for index, count in ((0, 0), (1, 2)):
        record = author.part(index, count, as_of=as_of)
        assert world.write_raw(record.id, record.header, record.body)
        assert log.part(record).code is Code.OK
        author.position = record.position
    assert (head_of(log).position, head_of(log).snapshot_at) == (author.position, as_of.id)


def test_a_rebase_that_stopped_behind_its_record_is_ended_by_a_repeat(world: World, log: Log) -> None:
    author = lead(log)
    author.position = Position(RecordId(1, 40), "f" * 32)  # the log lost what the holder has
    record = author.part(0, as_of=author.position, skip=2)
    assert world.write_raw(record.id, record.header, record.body)
    assert log.part(record).code is Code.BEHIND
    assert log.part(record, rebase=True).code is Code.OK
    assert head_of(log).position == record.position
    author.position = record.position
    assert author.append_part(1, 2).code is Code.OK
    assert author.append().code is Code.OK


def test_another_record_in_the_place_of_an_append_stays_in_its_way(world: World, log: Log) -> None:
    author = lead(log)
    record = author.change("x")
    assert world.write_raw(record.id, record.header, record.body + b" ")
    before = world.contents()
    assert log.append(record) == Reply(Code.STRAY, id=record.id)
    assert world.contents() == before


def test_an_append_that_does_not_follow_the_head_is_refused(world: World, log: Log) -> None:
    author = lead(log)
    author.position = Position(RecordId(1, 5), "f" * 32)
    before = world.contents()
    assert author.append() == Reply(Code.BEHIND, id=RecordId(1, 1))
    assert world.contents() == before


def test_of_a_row_of_appends_the_first_refusal_refuses_the_rest(log: Log) -> None:
    author = lead(log)
    records = []
    for value in "xyz":
        records.append(author.change(value))
        author.position = records[-1].position
    codes = [log.append(record).code for record in (records[0], records[2], records[1], records[2])]
    assert codes == [Code.OK, Code.BEHIND, Code.OK, Code.OK]


def test_a_replaced_primary_is_fenced_and_changes_nothing(world: World, log: Log) -> None:
    """G1, G2."""
    former = lead(log, "a")
    lead(world.log(), "b")
    before = world.contents()
    assert former.append() == Reply(Code.FENCED, term=2, node="b")
    assert former.append_part(0, 1) == Reply(Code.FENCED, term=2, node="b")
    assert log.renew(former.writer, 1, 1000) == Reply(Code.FENCED, term=2, node="b")
    assert world.contents() == before


def test_another_boot_of_the_holder_is_fenced_in_the_very_same_term(world: World, log: Log) -> None:
    """G1."""
    author = lead(log, "a", boot="a1")
    before = world.contents()
    author.writer = Writer("a", "a2")
    assert author.append() == Reply(Code.FENCED, term=1, node="a")
    assert author.append_part(0, 1).code is Code.FENCED
    assert log.renew(author.writer, 1, 1000).code is Code.FENCED
    assert world.contents() == before


def test_a_term_that_nobody_took_is_fenced(log: Log) -> None:
    author = lead(log)
    author.term = 2
    assert author.append() == Reply(Code.FENCED, term=1, node="a")


def test_a_delayed_append_that_arrives_after_a_promotion_and_a_return_changes_nothing(world: World, log: Log) -> None:
    """G1. The same node in the same boot holds a later term: its record of the earlier one stays out."""
    author = lead(log, "a", boot="a1")
    delayed = author.change()
    lead(world.log(), "b")
    lead(world.log(), "a", boot="a1")
    before = world.contents()
    assert log.append(delayed) == Reply(Code.FENCED, term=3, node="a")
    assert world.contents() == before


def test_a_stale_raw_xadd_is_refused_by_the_server_itself(world: World, log: Log) -> None:
    """G2: even by a writer that ignores the scripts."""
    lead(log, "a")
    lead(log, "b")
    assert world.write_raw(RecordId(1, 9999)) is False
    assert ids(log) == ["1-1", "2-2"]


def test_no_log_is_lost_and_never_made_by_a_write(world: World, log: Log) -> None:
    author = lead(log)
    author.append()
    world.flush()
    before = world.contents()
    assert author.append() == Reply(Code.LOST)
    assert author.append_part(0, 1) == Reply(Code.LOST)
    assert log.renew(author.writer, 1, 1000) == Reply(Code.LOST)
    assert promote(log, new_log_id="") == Reply(Code.LOST)
    log.give_back(author.writer, 1)
    assert world.contents() == before
    assert log.look().head is None


# --- part -------------------------------------------------------------------------------------------------------------


def test_parts_enter_the_head_when_the_last_one_is_there(log: Log) -> None:
    author = lead(log)
    author.append()
    as_of = author.position
    assert author.append_part(0, as_of=as_of).code is Code.OK
    head = log.look().head
    assert head is not None
    assert (head.part_next, head.snapshot_at) == (1, ZERO_ID)
    assert author.append_part(1, 2, as_of=as_of) == Reply(Code.OK)
    head = log.look().head
    assert head is not None
    assert (head.part_next, head.snapshot_at, head.previous_snapshot_at) == (0, RecordId(1, 2), ZERO_ID)
    assert head.position == author.position


def test_changes_may_come_between_the_parts(log: Log) -> None:
    author = lead(log)
    as_of = author.position
    assert author.append_part(0, as_of=as_of).code is Code.OK
    assert author.append().code is Code.OK
    assert author.append_part(1, 2, as_of=as_of).code is Code.OK


def test_a_part_that_does_not_follow_the_one_before_starts_the_snapshot_anew(world: World, log: Log) -> None:
    author = lead(log)
    as_of = author.position
    assert author.append_part(1, as_of=as_of) == Reply(Code.RESTART)
    author.append_part(0, as_of=as_of)
    before = world.contents()
    assert author.append_part(2, as_of=as_of) == Reply(Code.RESTART)
    assert author.append_part(2, 3, as_of=as_of) == Reply(Code.RESTART)
    assert world.contents() == before
    assert author.append_part(0, as_of=as_of).code is Code.OK
    assert author.append_part(1, 2, as_of=as_of).code is Code.OK


def test_a_snapshot_does_not_go_on_in_another_term(log: Log) -> None:
    author = lead(log, "a")
    author.append_part(0)
    again = lead(log, "a")
    assert again.append_part(1, 2) == Reply(Code.RESTART)


def test_the_same_part_sent_twice_lands_once(log: Log) -> None:
    author = lead(log)
    record = author.part(0, 1, as_of=author.position)
    assert log.part(record).code is Code.OK
    assert log.part(record) == Reply(Code.DUPLICATE, id=record.id)
    head = log.look().head
    assert head is not None
    assert (head.snapshot_at, head.previous_snapshot_at) == (RecordId(1, 1), ZERO_ID)


def test_a_part_that_does_not_follow_the_head_is_behind(log: Log) -> None:
    author = lead(log)
    author.position = Position(RecordId(1, 5), "f" * 32)
    assert author.append_part(0, 1) == Reply(Code.BEHIND, id=RecordId(1, 1))


def cut(log: Log) -> tuple[str, RecordId, RecordId]:
    """The oldest record, where the log says it was cut, and of what the newest complete snapshot is."""
    head = log.look().head
    assert head is not None
    return ids(log)[0], head.previous_snapshot_at, head.snapshot_at


def test_the_log_is_trimmed_when_the_next_snapshot_begins_and_not_when_it_is_complete(log: Log) -> None:
    """G8: the complete one, and all that came after it, stays; two are there at the most."""
    author = lead(log)
    author.append()
    as_of = author.position  # 1-2; the parts are 1-3 and 1-4
    author.append_part(0, as_of=as_of)
    assert cut(log) == ("1-1", ZERO_ID, ZERO_ID), "nothing is complete yet"
    author.append_part(1, 2, as_of=as_of)
    author.append()
    assert cut(log) == ("1-1", ZERO_ID, RecordId(1, 2))
    as_of = author.position
    author.append_part(0, as_of=as_of)  # of 1-5
    assert cut(log) == ("1-3", RecordId(1, 2), RecordId(1, 2))
    author.append()
    author.append_part(1, as_of=as_of)
    author.append_part(2, 3, as_of=as_of)
    assert cut(log) == ("1-3", RecordId(1, 2), RecordId(1, 5)), "a slow reader of the one before can finish"
    author.append()
    assert cut(log) == ("1-3", RecordId(1, 2), RecordId(1, 5))
    author.append_part(0, as_of=author.position)
    assert cut(log) == ("1-6", RecordId(1, 5), RecordId(1, 5))
    assert ids(log) == [f"1-{n}" for n in range(6, 12)]


def test_what_is_cut_is_gone_after_sweeps_and_nothing_else_is(log: Log) -> None:
    # given large changes before and after the newest complete snapshot, and the first part of another one
    author = lead(log)
    for number in range(40):
        author.append(noise(number))
    author.snapshot(parts=1)
    as_of = author.position
    author.snapshot(parts=1)
    for number in range(40):
        author.append(noise(number))
    kept = ids(log)[ids(log).index(str(as_of.id)) + 1 :]
    assert not log.sweep(), "nothing is cut behind the first snapshot"
    author.append_part(0)
    # when all of it is swept, and once more
    while log.sweep():
        assert ids(log)[-len(kept) - 1 : -1] == kept
    assert not log.sweep()
    # then the log begins behind the cut
    assert cut(log) == (kept[0], as_of.id, as_of.id)
    assert ids(log)[:-1] == kept


def test_a_sweep_of_no_log_or_of_one_without_a_cut_does_nothing(world: World, log: Log) -> None:
    assert not log.sweep()
    author = lead(log)
    author.append()
    before = world.contents()
    assert not log.sweep()
    assert world.contents() == before


def noise(number: int, size: int = 100_000) -> str:
    return random.Random(number).randbytes(size // 2).hex()


def test_a_snapshot_of_one_part_trims_behind_the_one_before_it(log: Log) -> None:
    author = lead(log)
    author.append()
    author.snapshot(parts=1)  # as of 1-2, in 1-3
    author.append()
    author.snapshot(parts=1)  # as of 1-4, in 1-5
    assert cut(log) == ("1-3", RecordId(1, 2), RecordId(1, 4))


def test_a_snapshot_that_is_begun_again_and_again_leaves_the_complete_one(log: Log) -> None:
    """G8."""
    author = lead(log, "a")
    author.snapshot(parts=2)  # as of 1-1, in 1-2 and 1-3
    first = author.part(0, as_of=author.position)
    assert log.part(first).code is Code.OK
    author.position = first.position
    assert log.part(first) == Reply(Code.DUPLICATE, id=first.id)
    author.append_part(0, as_of=author.position)
    promoted = lead(log, "b")
    promoted.append_part(0, as_of=promoted.position)
    assert cut(log) == ("1-2", RecordId(1, 1), RecordId(1, 1))
    assert ids(log) == ["1-2", "1-3", "1-4", "1-5", "2-6", "2-7"]


def test_a_first_part_that_is_refused_trims_nothing(world: World, log: Log) -> None:
    author = lead(log, "a")
    author.append()
    author.snapshot(parts=2)
    author.append()
    behind = seal_part_of(author, after=Position(RecordId(1, 3), "f" * 32))
    late = author.part(0, as_of=author.position)
    before = world.contents()
    assert log.part(behind).code is Code.BEHIND
    assert log.part(author.part(1, as_of=author.position)).code is Code.RESTART
    assert world.contents() == before
    lead(log, "b")
    before = world.contents()
    assert log.part(late).code is Code.FENCED
    assert world.contents() == before


def seal_part_of(author: Author, *, after: Position) -> PartRecord:
    """A first part behind a place at which the log is not."""
    held, author.position = author.position, after
    try:
        return author.part(0, as_of=after)
    finally:
        author.position = held


def test_a_rebase_trims_like_any_other_snapshot_and_the_cut_never_goes_back(log: Log) -> None:
    author = lead(log, "a")
    author.append()
    ahead = Position(RecordId(1, 40), "f" * 32)  # 38 records that the log lost
    second = lead(log, "b")  # 2-3
    second.append()
    second.snapshot(parts=2)  # as of 2-4, in 2-5 and 2-6
    third = lead(log, "a")  # 3-7
    third.position = ahead
    first = third.part(0, as_of=ahead)
    assert log.part(first, rebase=True).code is Code.OK
    assert cut(log) == ("2-5", RecordId(2, 4), RecordId(2, 4)), "the complete one stays, in case this one never is"
    third.position = first.position
    assert log.part(third.part(1, 2, as_of=ahead), rebase=True).code is Code.OK
    third.position = third.part(1, 2, as_of=ahead).position
    assert cut(log) == ("2-5", RecordId(2, 4), ahead.id)
    # what is behind the cut is gone, whatever the newest snapshot is of
    third.append_part(0, as_of=third.position)
    assert cut(log) == ("2-5", RecordId(2, 4), ahead.id)
    third.append_part(1, 2)
    third.append_part(0, as_of=third.position)
    first_id, cut_at, complete = cut(log)
    assert cut_at == complete > first.id
    assert first_id == f"3-{cut_at.n + 1}"


def test_ids_below_the_trim_point_stay_refused(world: World, log: Log) -> None:
    """G2."""
    author = lead(log, "a")
    author = lead(log, "b")
    author.snapshot()
    author.snapshot()
    assert ids(log)[0] == "2-3"
    assert world.write_raw(RecordId(1, 1)) is False
    assert world.write_raw(RecordId(1, 9999)) is False


def test_a_holder_ahead_of_the_log_continues_at_its_own_place(log: Log) -> None:
    author = lead(log, "a")
    author.position = Position(RecordId(1, 40), "f" * 32)  # 39 records that the log lost
    record = author.part(0, as_of=author.position, skip=2)
    assert log.part(record).code is Code.BEHIND
    assert log.part(record, rebase=True) == Reply(Code.OK)
    author.position = record.position
    assert author.append_part(1, 2).code is Code.OK
    assert author.append().code is Code.OK
    assert ids(log) == ["1-1", "1-43", "1-44", "1-45"]


def test_only_the_first_part_may_leave_the_head_behind(log: Log) -> None:
    author = lead(log, "a")
    author.append_part(0)
    author.position = Position(RecordId(1, 40), "f" * 32)
    assert log.part(author.part(1, as_of=author.position), rebase=True).code is Code.BEHIND


def test_a_rebase_does_not_step_over_a_stray_record(world: World, log: Log) -> None:
    author = lead(log, "a")
    world.write_raw(RecordId(1, 10))
    author.position = Position(RecordId(1, 40), "f" * 32)
    record = author.part(0, as_of=author.position)
    before = world.contents()
    assert log.part(record, rebase=True) == Reply(Code.STRAY, id=RecordId(1, 10))
    assert world.contents() == before
