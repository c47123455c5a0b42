"""The fold: each row of its table by the smallest example, and that the first match wins."""

from __future__ import annotations

import pytest

from replicator.format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, PartRecord, Record, TermRecord
from replicator.protocol import fold
from replicator.protocol.fold import NOBODY, TABLE, Holder, Verdict, View, by_table, ends_before, holds, step
from tests.support.history import RUN, A, B, act, change, part, term_record, view_at

HERE = Position(RecordId(3, 10), "a" * 32)
ELSEWHERE = Position(RecordId(3, 10), "b" * 32)
IN_SYNC = view_at(HERE)
OUT = IN_SYNC._replace(in_sync=False, cursor=ELSEWHERE)
REBASING = view_at(HERE, holder=A, in_sync=False, cursor=ELSEWHERE)


def row_of(view: View, record: Record, me: Writer, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of the row that is taken."""
    taken: list[int] = []

    def noted(row: fold.Row) -> fold.Row:
        return row._replace(become=lambda view, record: taken.append(row.number) or row.become(view, record))

    monkeypatch.setattr(fold, "TABLE", tuple(map(noted, TABLE)))
    by_table(view, record, me)
    monkeypatch.setattr(fold, "TABLE", TABLE)
    return taken[0]


def begun(view: View, record: PartRecord, me: Writer = B) -> View:
    """The view after the first part of a snapshot."""
    return step(view, record, me)[1]


FIRST = part(A, 3, HERE, (0, 0), as_of=HERE)
REPLACING = begun(IN_SYNC, part(A, 3, HERE, (0, 0), as_of=HERE, replaces=True))
REBASED = begun(REBASING, part(A, 3, HERE, (0, 0), as_of=HERE, skip=3), A)
RESTORING = begun(OUT, part(A, 3, ELSEWHERE, (0, 0), as_of=ELSEWHERE))
IN_SYNC_AT_TERM_2 = view_at(Position(RecordId(2, 9), "a" * 32), holder=B)

EXAMPLES: dict[int, tuple[View, Record, Writer]] = {
    1: (IN_SYNC, change(A, 2, HERE, "x"), B),
    2: (IN_SYNC, change(B, 3, HERE, "x"), Writer("c", "c1")),
    3: (IN_SYNC, term_record(B, 4, HERE), B),
    4: (IN_SYNC, term_record(B, 4, ELSEWHERE), B),
    5: (IN_SYNC, term_record(B, 4, HERE), A),
    6: (IN_SYNC, term_record(A, 4, HERE), B),
    7: (IN_SYNC, change(A, 3, HERE, "x"), B),
    8: (REPLACING, part(A, 3, REPLACING.position, (1, 2), as_of=HERE, replaces=True), B),
    9: (IN_SYNC, FIRST, B),
    10: (REBASED, part(A, 3, REBASED.position, (1, 2), as_of=HERE), A),
    11: (REBASING, part(A, 3, HERE, (0, 0), as_of=HERE, skip=3), A),
    12: (RESTORING, part(A, 3, RESTORING.cursor, (1, 2), as_of=ELSEWHERE), B),
    13: (IN_SYNC, change(A, 3, ELSEWHERE, "x"), B),
}


def test_there_is_an_example_of_every_row() -> None:
    assert list(EXAMPLES) == [row.number for row in TABLE] == list(range(1, len(TABLE) + 1))


@pytest.mark.parametrize("number", EXAMPLES)
def test_the_first_row_that_matches_wins(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    view, record, me = EXAMPLES[number]
    assert row_of(view, record, me, monkeypatch) == number
    assert step(view, record, me)[0] is TABLE[number - 1].verdict


@pytest.mark.parametrize("number", EXAMPLES)
def test_a_row_before_would_have_won(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made stale, every example is row 1, whatever else it is."""
    view, record, me = EXAMPLES[number]
    assert row_of(view._replace(term=99), record, me, monkeypatch) == 1


def test_some_row_matches_every_record() -> None:
    kinds: tuple[type[Record], ...] = (TermRecord, ChangeRecord, PartRecord)
    for kind in kinds:
        last = [row for row in TABLE if kind in row.kinds][-1]
        assert last.when == "otherwise"


# --- what each row makes of the view ---------------------------------------------------------------------------------


def test_a_stale_record_leaves_all_but_the_cursor_as_it_was() -> None:
    """G2."""
    record = change(A, 2, Position(RecordId(2, 20), HERE.chain), "x")
    verdict, view = step(IN_SYNC, record, B)
    assert verdict is Verdict.REJECT_STALE
    assert view == IN_SYNC


def test_a_stale_record_that_lies_ahead_is_passed_by_without_its_chain() -> None:
    """G2: the reader goes on behind it, and its place in the history is not taken."""
    behind = IN_SYNC._replace(cursor=Position(RecordId(1, 5), "c" * 32))
    record = change(A, 2, HERE, "x")
    _, view = step(behind, record, B)
    assert view == behind._replace(cursor=Position(record.id, "c" * 32))


@pytest.mark.parametrize(
    "record",
    [term_record(B, 2, HERE), change(A, 2, HERE, "x"), part(A, 2, HERE, (0, 1), as_of=HERE)],
    ids=lambda record: record.kind,
)
def test_no_kind_of_stale_record_moves_a_position_or_a_term(record: Record) -> None:
    """G2, G3."""
    verdict, view = step(IN_SYNC, record, B)
    assert (verdict, view.position, view.term, view.in_sync) == (Verdict.REJECT_STALE, HERE, 3, True)


def test_a_conflict_takes_a_node_out_of_sync_and_applies_nothing() -> None:
    verdict, view = step(IN_SYNC, change(B, 3, HERE, "x"), Writer("c", "c1"))
    assert (verdict, view.position, view.in_sync) == (Verdict.CONFLICT, HERE, False)


def test_another_boot_of_the_holder_is_another_writer() -> None:
    """G1."""
    assert step(IN_SYNC, change(Writer("a", "a2"), 3, HERE, "x"), B)[0] is Verdict.CONFLICT


def test_leading_takes_term_holder_and_position() -> None:
    record = term_record(B, 4, HERE)
    _, view = step(IN_SYNC, record, B)
    assert (view.term, view.holder, view.position, view.cursor) == (
        4,
        Holder(*B, RUN),
        record.position,
        record.position,
    )
    assert view.in_sync
    assert holds(view, B, RUN)
    assert not holds(view, B, "another run")
    assert not holds(view, B._replace(boot="b2"), RUN)


def test_leading_after_a_rebase_keeps_the_position() -> None:
    record = term_record(B, 4, ELSEWHERE)
    verdict, view = step(IN_SYNC, record, B)
    assert (verdict, view.term, view.holder) == (Verdict.LEAD_AFTER_REBASE, 4, Holder(*B, RUN))
    assert (view.position, view.cursor, view.in_sync) == (HERE, record.position, False)


def test_out_of_sync_one_leads_only_after_a_rebase_even_if_the_chain_fits() -> None:
    assert step(OUT, term_record(B, 4, HERE), B)[0] is Verdict.LEAD_AFTER_REBASE


@pytest.mark.parametrize("me", [A, B], ids=["steps down", "follows"])
def test_whoever_has_the_history_of_a_new_term_stays_in_sync(me: Writer) -> None:
    record = term_record(Writer("c", "c1"), 4, HERE)
    _, view = step(IN_SYNC, record, me)
    assert (view.term, view.holder.node, view.position, view.in_sync) == (4, "c", record.position, True)


@pytest.mark.parametrize("me", [A, B], ids=["steps down", "follows"])
def test_whoever_has_not_the_history_of_a_new_term_falls_out_of_sync(me: Writer) -> None:
    record = term_record(Writer("c", "c1"), 4, Position(RecordId(3, 8), "b" * 32))
    _, view = step(IN_SYNC, record, me)
    assert (view.term, view.holder.node, view.position, view.in_sync) == (4, "c", HERE, False)
    assert view.ends == IN_SYNC.ends, "they are those of what is in its state"


def test_a_term_record_of_the_same_term_by_another_holder_wins() -> None:
    record = term_record(B, 3, ELSEWHERE)
    verdict, view = step(IN_SYNC, record, Writer("c", "c1"))
    assert (verdict, view.holder, view.in_sync) == (Verdict.FOLLOW, Holder(*B, RUN), False)


def test_behind_a_gap_a_node_is_out_of_sync_and_keeps_its_position() -> None:
    verdict, view = step(IN_SYNC, change(A, 3, Position(RecordId(3, 20), "b" * 32), "x"), B)
    assert (verdict, view.in_sync, view.position) == (Verdict.NEED_SNAPSHOT, False, HERE)


def test_an_applied_change_is_the_last_change() -> None:
    record = change(A, 3, HERE, "x")
    _, view = step(IN_SYNC, record, B)
    assert (view.position, view.changed, view.cursor) == (record.position, record.id, record.position)


def test_a_marker_moves_the_position_and_makes_nobody_more_advanced() -> None:
    record = change(A, 3, HERE)
    verdict, view = step(IN_SYNC, record, B)
    assert (verdict, view.position, view.changed) == (Verdict.APPLY, record.position, ZERO_ID)


def test_nothing_is_applied_out_of_sync_even_if_the_chain_fits() -> None:
    verdict, view = step(OUT, change(A, 3, HERE, "x"), B)
    assert (verdict, view.position) == (Verdict.NEED_SNAPSHOT, HERE)


def test_a_restore_goes_to_the_state_of_the_snapshot_and_reads_on_from_there() -> None:
    as_of = Position(RecordId(3, 7), "c" * 32)
    view = begun(OUT, part(A, 3, ELSEWHERE, (0, 0), as_of=as_of))
    verdict, view = step(view, part(A, 3, view.cursor, (1, 2), as_of=as_of, changed=RecordId(3, 6)), B)
    assert verdict is Verdict.RESTORE
    assert (view.position, view.cursor, view.changed) == (as_of, as_of, RecordId(3, 6))
    assert view.in_sync


def test_a_snapshot_with_a_gap_restores_nothing() -> None:
    later = part(A, 3, Position(RecordId(3, 30), "e" * 32), (1, 2), as_of=ELSEWHERE)
    assert step(RESTORING, later, B)[0] is Verdict.NEED_SNAPSHOT


def test_a_snapshot_that_another_term_broke_off_restores_nothing() -> None:
    view = step(RESTORING, term_record(A, 4, RESTORING.cursor), B)[1]
    assert step(view, part(A, 4, view.cursor, (1, 2), as_of=ELSEWHERE), B)[0] is Verdict.NEED_SNAPSHOT


def test_changes_between_the_parts_do_not_break_a_snapshot() -> None:
    view = step(RESTORING, change(A, 3, RESTORING.cursor, "x"), B)[1]
    assert step(view, part(A, 3, view.cursor, (1, 2), as_of=ELSEWHERE), B)[0] is Verdict.RESTORE


def test_a_replacing_snapshot_is_restored_by_nodes_in_sync_and_out_of_sync_to_the_same_place() -> None:
    """G6."""
    ends = []
    for view in (IN_SYNC, OUT._replace(cursor=HERE)):
        view = begun(view, part(A, 3, HERE, (0, 0), as_of=HERE, replaces=True))
        last = part(A, 3, view.cursor, (1, 2), as_of=HERE, replaces=True)
        verdict, view = step(view, last, B)
        assert verdict is Verdict.RESTORE
        ends.append((view.position, view.changed, view.in_sync))
    assert ends == [(last.position, last.id, True)] * 2


def test_a_rebase_ends_with_the_last_part_of_ones_own_snapshot() -> None:
    verdict, view = step(REBASED, part(A, 3, REBASED.position, (1, 2), as_of=HERE), A)
    assert (verdict, view.in_sync, view.position.id) == (Verdict.LEAD, True, RecordId(3, 15))


def test_the_first_record_of_a_trimmed_term_opens_it() -> None:
    verdict, view = step(IN_SYNC_AT_TERM_2, change(A, 3, IN_SYNC_AT_TERM_2.position, "x"), B)
    assert (verdict, view.term, view.holder) == (Verdict.APPLY, 3, Holder(*A, ""))
    assert not holds(view, A, RUN), "in which run it was taken is not known"


def test_a_new_node_follows_from_the_beginning() -> None:
    view = View()
    assert (view.term, view.holder, view.position, view.in_sync) == (0, NOBODY, ORIGIN, True)
    verdict, view = step(view, term_record(A, 1), B)
    assert (verdict, view.log_id, view.in_sync) == (Verdict.FOLLOW, "log-1", True)


# --- the ends of its terms -------------------------------------------------------------------------------------------

BEFORE = (RecordId(1, 4), RecordId(2, 6))
KNOWS = IN_SYNC._replace(ends=BEFORE)


@pytest.mark.parametrize("me", [A, B, Writer("c", "c1")], ids=["steps down", "leads", "follows"])
def test_the_record_of_a_new_term_brings_the_ends_of_all_before_it(me: Writer) -> None:
    _, view = step(KNOWS, term_record(B, 4, HERE, ends="1-4 2-6 3-10"), me)
    assert view.ends == (*BEFORE, HERE.id)
    assert view.left_behind(HERE.id) is None
    assert view.left_behind(RecordId(3, 11)) == HERE.id, "the old holder wrote it, and the new one did not have it"


@pytest.mark.parametrize(
    "record",
    [change(A, 3, HERE, "x"), change(A, 3, HERE), FIRST, part(A, 3, HERE, (0, 1), as_of=HERE, ends=(RecordId(1, 1),))],
    ids=["change", "marker", "first part", "whole snapshot"],
)
def test_within_a_term_the_ends_stay_as_they_are(record: Record) -> None:
    assert step(KNOWS, record, B)[1].ends == BEFORE


@pytest.mark.parametrize(
    ("record", "me"),
    [
        (term_record(B, 4, ELSEWHERE, ends="3-5"), B),
        (term_record(B, 4, ELSEWHERE, ends="3-5"), A),
        (change(A, 3, ELSEWHERE, "x"), B),
    ],
    ids=["has to rebase", "lacks the history of a new term", "gap"],
)
def test_out_of_sync_the_ends_are_those_of_the_position(record: Record, me: Writer) -> None:
    _, view = step(KNOWS, record, me)
    assert (view.position, view.in_sync, view.ends) == (HERE, False, BEFORE)


def test_a_rebase_brings_the_ends_of_the_history_that_it_goes_on_with() -> None:
    ends = (*BEFORE, HERE.id)
    last = part(A, 3, REBASED.position, (1, 2), as_of=HERE, ends=ends)
    verdict, view = step(REBASED._replace(ends=BEFORE), last, A)
    assert (verdict, view.ends) == (Verdict.LEAD, ends)


def test_a_restore_brings_the_ends_of_the_history_of_the_snapshot() -> None:
    as_of = Position(RecordId(3, 7), "c" * 32)
    view = begun(OUT._replace(ends=BEFORE), part(A, 3, ELSEWHERE, (0, 0), as_of=as_of))
    last = part(A, 3, view.cursor, (1, 2), as_of=as_of, ends=(RecordId(2, 5),))
    verdict, view = step(view, last, B)
    assert (verdict, view.ends) == (Verdict.RESTORE, (RecordId(2, 5),))
    assert view.left_behind(RecordId(2, 6)) == RecordId(2, 5), "it had that one"


@pytest.mark.parametrize("in_sync", [True, False])
def test_a_replacing_snapshot_brings_the_ends_of_the_log(in_sync: bool) -> None:
    ends = (RecordId(2, 8),)
    last = part(A, 3, REPLACING.position, (1, 2), as_of=HERE, replaces=True, ends=ends)
    verdict, view = step(REPLACING._replace(ends=BEFORE, in_sync=in_sync), last, B)
    assert (verdict, view.ends) == (Verdict.RESTORE, ends)


def test_a_record_that_goes_on_in_another_term_ends_the_one_before() -> None:
    assert ends_before(KNOWS, 4) == (*BEFORE, HERE.id)
    assert ends_before(KNOWS, 3) == BEFORE
    assert ends_before(View(), 4) == (), "there was none"


def test_a_stale_record_brings_no_ends() -> None:
    assert step(KNOWS, term_record(B, 2, HERE, ends="1-1"), B)[1] == KNOWS


@pytest.mark.parametrize(
    ("id", "unchanged"),
    [
        ((3, 8), True),  # the last change
        ((3, 9), True),  # a part, or a marker, behind it
        ((3, 10), True),
        ((3, 7), False),
        ((2, 5), False),
        ((3, 11), False),  # not there yet
        ((4, 1), False),
        ((2, 99), False),
    ],
)
def test_the_state_is_what_it_was_where_no_change_came_since(id: tuple[int, int], unchanged: bool) -> None:
    view = IN_SYNC._replace(changed=RecordId(3, 8), ends=(RecordId(2, 5),))
    assert view.is_unchanged_since(RecordId(*id)) is unchanged


@pytest.mark.parametrize(("id", "unchanged"), [((2, 5), True), ((2, 4), True), ((2, 6), False), ((1, 1), False)])
def test_a_place_that_the_history_left_behind_is_none_that_was_seen(id: tuple[int, int], unchanged: bool) -> None:
    view = IN_SYNC._replace(changed=RecordId(2, 3), ends=(RecordId(2, 5),))
    assert view.is_unchanged_since(RecordId(*id)) is unchanged


def test_a_state_without_a_change_is_what_it_was_at_the_beginning() -> None:
    assert IN_SYNC._replace(changed=ZERO_ID).is_unchanged_since(ZERO_ID)
    assert not IN_SYNC._replace(changed=RecordId(3, 8)).is_unchanged_since(ZERO_ID)


# --- the version ------------------------------------------------------------------------------------------------------


def test_an_act_raises_the_version_and_nothing_else_does() -> None:
    verdict, after = step(IN_SYNC, act(A, 3, HERE, 2), B)
    assert (verdict, after.version, after.changed) == (Verdict.APPLY, 2, after.position.id)
    assert step(after, change(A, 3, after.position, "x"), B)[1].version == 2
    assert step(after, term_record(B, 4, after.position), B)[1].version == 2
    assert step(after, term_record(B, 4, after.position, v=2, version=7), B)[1].version == 2, "that founds no log"


def test_no_act_lowers_the_version() -> None:
    at_seven = IN_SYNC._replace(version=7)
    for fold_one in (step, by_table):
        assert fold_one(at_seven, act(A, 3, HERE, 2), B)[1].version == 7


def test_a_log_begins_at_the_version_of_the_record_that_founds_it() -> None:
    record = term_record(A, 1, v=2, version=3)
    for me in (A, B):
        assert step(View(), record, me)[1].version == 3
    assert step(View(), term_record(A, 1), B)[1].version == 1


def test_an_act_that_is_not_taken_raises_nothing() -> None:
    assert step(IN_SYNC, act(A, 2, HERE, 2), B)[1].version == 1
    assert step(IN_SYNC, act(B, 3, HERE, 2), Writer("c", "c1"))[1].version == 1
    assert step(OUT, act(A, 3, ELSEWHERE, 2), B)[1].version == 1


def test_a_state_is_of_the_version_of_its_snapshot() -> None:
    ahead = OUT._replace(version=3)
    first = step(ahead, part(A, 3, ELSEWHERE, (0, 0), as_of=ELSEWHERE, version=2), B)[1]
    assert first.version == 3
    verdict, after = step(first, part(A, 3, first.cursor, (1, 2), as_of=ELSEWHERE, version=2), B)
    assert (verdict, after.version) == (Verdict.RESTORE, 2), "also where that is a lower one"
    assert step(IN_SYNC._replace(version=2), FIRST, B)[1].version == 2, "one that passes by changes nothing"
