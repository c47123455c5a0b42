"""The shortcuts of the fold give what the long way gives: for all views and records of a small world, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from replicator.format.ids import N_LEAP, TERM_LEAP, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, Record
from replicator.format.snapshot_parts import Progress
from replicator.protocol.fold import NOBODY, Holder, Verdict, View, by_table, is_beyond, leaps, step
from tests.support.history import RUN, A, B, act, change, part, term_record

HERE, THERE = "a" * 32, "b" * 32
REBORN, NAMESAKE = Writer("a", "a2"), Writer("b", "a1")
#: A snapshot that passes by, and one that has.
PASSING = Progress(A, Position(RecordId(3, 7), HERE), Position(RecordId(3, 8), THERE), 1, False)


def views() -> Iterator[View]:
    positions = [Position(RecordId(*id), HERE) for id in ((2, 10), (3, 10))]
    cursors = [Position(RecordId(*id), chain) for id, chain in product([(3, 10), (3, 12)], [HERE, THERE])]
    holders = [Holder(*A, RUN), Holder(*A, ""), NOBODY]
    snapshots = [None, PASSING, PASSING._replace(complete=True)]
    places = product(positions, cursors, holders, snapshots, [True, False], [2, 3])
    for position, cursor, holder, snapshot, in_sync, term in places:
        version = 4 if snapshot == PASSING else 2  # acts are of 3: some of these views are beyond them
        changed, ends = RecordId(2, 5), (RecordId(1, 4),)
        yield View("log-1", term, holder, position, changed, in_sync, ends, cursor, snapshot, version)


def records() -> Iterator[Record]:
    ids = [(2, 11), (3, 9), (3, 11), (3, 13), (3, N_LEAP + 20), (4, 11), (TERM_LEAP + 9, 11)]
    for (term, n), prev, writer in product(ids, [HERE, THERE], [A, REBORN, NAMESAKE]):
        after = Position(RecordId(term, n - 1), prev)
        yield change(writer, term, after, "x")
        yield change(writer, term, after)
        yield act(writer, term, after, 3)
        yield part(writer, term, after, (0, 0), as_of=after)
        yield part(writer, term, after, (1, 2), as_of=PASSING.as_of)
        yield part(writer, term, after, (0, 1), as_of=after, replaces=True)
        yield term_record(writer, term, after)


def test_the_next_change_is_folded_as_the_table_has_it() -> None:
    folded = list(records())
    shortcuts = 0
    for view, record, me in product(views(), folded, [A, B]):
        verdict, after = by_table(view, record, me)
        assert step(view, record, me) == (verdict, after)
        shortcuts += isinstance(record, ChangeRecord) and verdict is Verdict.APPLY
    assert shortcuts > 100, "there are some that it takes"


def test_the_next_number_is_taken_as_all_checks_have_it() -> None:
    read = list(records())
    new = View()
    every = [*product(views(), read), *product([new], read)]
    for view, record in every:
        assert is_beyond(view, record) is leaps(view, record)
    assert {is_beyond(view, record) for view, record in every} == {True, False}
    assert new.cursor.id == ZERO_ID
