"""The fold: what a node does with the next record of the log. It is a table; the first row that matches wins.

    step(view, record, me) -> (verdict, view)

The fold decides and does not act: no socket, file, clock or lock. The shells (`replica/replica.py`, `node/writer.py`)
carry the verdict out, and the explorer in `tests/model/` runs this very function through every order of events.

Terms are compared before anything else, so a record of an old term is never looked at further. A record of a higher
term whose term record was trimmed away opens the term itself (`_adopt`). The chain, not the number, says whether a
record follows what the node has; a record that does not follow is not applied, whoever wrote it.

A record whose numbers cannot follow what the node has read (`is_beyond`) must never be folded: it would take the node
to where no record of ours can follow. The caller checks that first.

Two places are kept apart. `position` is what the state contains. `cursor` is how far the log was read: after a gap it
runs ahead of the position, looking for a snapshot. While a node is in sync both have the same chain.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from ..format import ids
from ..format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer, new_tuple
from ..format.records import ChangeRecord, PartRecord, Record, TermRecord, last_change_after
from ..format.snapshot_parts import Progress, follow
from ..format.term_ends import left_behind, with_end

__all__ = [
    "APPLY",
    "LEADING",
    "NOBODY",
    "RESTORE",
    "TABLE",
    "Holder",
    "Row",
    "Verdict",
    "View",
    "by_table",
    "ends_before",
    "holds",
    "is_beyond",
    "leaps",
    "step",
]


class Verdict(Enum):
    """What the shell has to do. Log lines show the texts."""

    REJECT_STALE = "ignored: its term is over"
    CONFLICT = "written by another than the holder of its term"
    LEAD = "this node leads"
    LEAD_AFTER_REBASE = "this node leads, once the others have its state"
    STEP_DOWN = "this node was replaced"
    FOLLOW = "another node leads"
    APPLY = "applied"
    SKIP = "nothing to do"
    RESTORE = "the state is rebuilt from the snapshot"
    NEED_SNAPSHOT = "does not follow what this node has"


#: Verdicts that every record is compared with: Python 3.11 calls a function for each member of an enum that it gets.
APPLY, RESTORE = Verdict.APPLY, Verdict.RESTORE
LEADING = (Verdict.LEAD, Verdict.LEAD_AFTER_REBASE)


class Holder(NamedTuple):
    """The boot that took a term, and the run of Redis in which it did. In another run nobody holds the term."""

    node: str
    boot: str
    run: str


NOBODY = Holder("", "", "")


class View(NamedTuple):
    """What a node knows. It is written to the checkpoint as one; the role is derived from it and stored nowhere.

    `changed` is the id of the last change in the state (or of the snapshot that took its place): the node with the
    higher one is more advanced. `ends` are those of the terms in the history of `position`. `version` is the one that
    the group is at there: that at which its log was founded, until a change raises it.
    """

    log_id: str = ""
    term: int = 0
    holder: Holder = NOBODY
    position: Position = ORIGIN
    changed: RecordId = ZERO_ID
    in_sync: bool = True
    ends: tuple[RecordId, ...] = ()
    cursor: Position = ORIGIN
    snapshot: Progress | None = None
    version: int = 1

    @property
    def follows_snapshot(self) -> bool:
        """Whether the parts of a snapshot are passing by, and the last was not seen yet."""
        return self.snapshot is not None and not self.snapshot.complete

    def left_behind(self, id: RecordId) -> RecordId | None:
        """Where the history in the state diverged from the one with `id`; None: it has `id`, or may still get it."""
        return left_behind(id, self.ends, self.position.id, self.term)

    @property
    def skipped(self) -> RecordId:
        """The last change that the group has, if this node goes on without it (`skip.py`); 0-0: it has that."""
        parted = self.left_behind(self.changed)  # in its own term, or it is only too old to tell
        return self.changed if parted is not None and parted.term == self.changed.term else ZERO_ID

    def is_unchanged_since(self, id: RecordId) -> bool:
        """Whether the state is still what it was at `id`: a place in its history after which there was no change.

        Terms, markers and parts of snapshots change nothing. A place that is older than the ends cannot be checked, so
        the answer is no.
        """
        if not self.changed <= id <= self.position.id:
            return False
        return id == ZERO_ID or self.left_behind(id) is None


def ends_before(view: View, term: int) -> tuple[RecordId, ...]:
    """The ends of the history in the state, for a record of `term` that continues it."""
    last = view.position.id
    return view.ends if last.term == term or last == ZERO_ID else with_end(view.ends, last)


def holds(view: View, me: Writer, run: str) -> bool:
    """Whether `me` holds the newest term that the view knows, and took it in this run: in another run nobody does."""
    return view.holder == (*me, run)


# --- conditions: (view, record, me) -> bool ---------------------------------------------------------------------------


def _is_stale(view: View, record: Record, me: Writer) -> bool:
    return record.id.term < view.term


def _is_of_another_writer(view: View, record: Record, me: Writer) -> bool:
    return (record.node, record.boot) != view.holder[:2]


def _names_me(view: View, record: Record, me: Writer) -> bool:
    return record.writer == me


def _held_by_me(view: View, record: Record, me: Writer) -> bool:
    return view.holder[:2] == me


def _follows(view: View, record: Record, me: Writer) -> bool:
    return view.in_sync and record.prev == view.position.chain


def _follows_my_rebase(view: View, record: Record, me: Writer) -> bool:
    return not view.in_sync and record.writer == me and record.prev == view.position.chain


def _completes(view: View, record: Record, me: Writer) -> bool:
    return view.snapshot is not None and view.snapshot.complete


def _follows_all_the_same(view: View, record: Record, me: Writer) -> bool:
    return _follows(view, record, me) or _follows_my_rebase(view, record, me)


def _replaces(view: View, record: Record, me: Writer) -> bool:
    return isinstance(record, PartRecord) and record.replaces


def _always(view: View, record: Record, me: Writer) -> bool:
    return True


Condition = Callable[[View, Record, Writer], bool]


def _all(*conditions: Condition) -> Condition:
    def all_hold(view: View, record: Record, me: Writer) -> bool:
        return all(condition(view, record, me) for condition in conditions)

    return all_hold


# --- what the view becomes: (view, record) -> view --------------------------------------------------------------------


def _unchanged(view: View, record: Record) -> View:
    # The cursor passes the record, and never goes back; its chain stays that of the last record that counts.
    return view._replace(cursor=Position(max(record.id, view.cursor.id), view.cursor.chain))


def _moved(view: View, record: Record) -> View:
    place = record.position
    return view._replace(position=place, cursor=place)


def _changed(view: View, record: Record) -> View:
    # A marker carries no change, so it does not make a node more advanced.
    assert isinstance(record, ChangeRecord)
    place = record.position
    version = max(record.version, view.version)
    return view._replace(
        position=place, cursor=place, changed=last_change_after(record) or view.changed, version=version
    )


def _lost_sync(view: View, record: Record) -> View:
    return view._replace(in_sync=False, cursor=record.position)


def _term_taken(view: View, record: Record) -> View:
    assert isinstance(record, TermRecord)
    holder = Holder(record.node, record.boot, record.run)
    return view._replace(term=record.id.term, holder=holder, log_id=record.log_id or view.log_id, snapshot=None)


def _led(view: View, record: Record) -> View:
    assert isinstance(record, TermRecord)
    version = record.version if view.position == ORIGIN else view.version
    return _moved(_term_taken(view, record), record)._replace(ends=record.ends, version=version)


def _led_after_rebase(view: View, record: Record) -> View:
    assert isinstance(record, TermRecord)
    changed = max(record.skip, view.changed)  # what it goes on without is decided: it lacks nothing up to there
    return _term_taken(view, record)._replace(in_sync=False, cursor=record.position, changed=changed)


def _followed(view: View, record: Record) -> View:
    if view.in_sync and record.prev == view.position.chain:
        return _led(view, record)
    return _lost_sync(_term_taken(view, record), record)


def _rebasing(view: View, record: Record) -> View:
    # The first part continues where the node's last term ended, whatever the log has in between.
    return _moved(view, record)._replace(ends=ends_before(view, record.id.term))


def _rebased(view: View, record: Record) -> View:
    assert isinstance(record, PartRecord)
    return _moved(view, record)._replace(in_sync=True, ends=record.ends)


def _restored(view: View, record: Record) -> View:
    assert isinstance(record, PartRecord)
    assert view.snapshot is not None
    if record.replaces:
        back = _moved(view, record)._replace(changed=record.id)
    else:
        back = view._replace(position=record.as_of, changed=record.changed, cursor=view.snapshot.resume)
    return back._replace(in_sync=True, ends=record.ends, version=record.version)


# --- the table --------------------------------------------------------------------------------------------------------

TERM: tuple[type[Record], ...] = (TermRecord,)
PART: tuple[type[Record], ...] = (PartRecord,)
CHANGE: tuple[type[Record], ...] = (ChangeRecord,)
ANY: tuple[type[Record], ...] = (TermRecord, ChangeRecord, PartRecord)


class Row(NamedTuple):
    """One row of the table. `when` and `after` say in words what it does, for the documentation generated from it."""

    number: int
    kinds: tuple[type[Record], ...]
    when: str
    condition: Condition
    verdict: Verdict
    after: str
    become: Callable[[View, Record], View]


TABLE: tuple[Row, ...] = (
    Row(1, ANY, "its term is below mine", _is_stale, Verdict.REJECT_STALE, "unchanged", _unchanged),
    Row(2, CHANGE + PART, "its writer is not the holder of its term", _is_of_another_writer, Verdict.CONFLICT,
        "out of sync", _lost_sync),
    Row(3, TERM, "names me, follows my position, in sync", _all(_names_me, _follows), Verdict.LEAD,
        "term, holder, position", _led),
    Row(4, TERM, "names me", _names_me, Verdict.LEAD_AFTER_REBASE,
        "term, holder, changed if it skips one; out of sync until my snapshot is in the log", _led_after_rebase),
    Row(5, TERM, "I held the term before", _held_by_me, Verdict.STEP_DOWN,
        "term, holder, position; out of sync if it does not follow", _followed),
    Row(6, TERM, "otherwise", _always, Verdict.FOLLOW,
        "term, holder, position; out of sync if it does not follow", _followed),
    Row(7, CHANGE, "follows my position, in sync", _follows, Verdict.APPLY, "position, changed, version", _changed),
    Row(8, PART, "follows, also if I am rebasing, and completes a snapshot that replaces the history",
        _all(_follows_all_the_same, _completes, _replaces), Verdict.RESTORE, "position, changed, version", _restored),
    Row(9, PART, "follows my position, in sync", _follows, Verdict.SKIP, "position", _moved),
    Row(10, PART, "follows my position, I am rebasing, and it completes my snapshot",
        _all(_follows_my_rebase, _completes), Verdict.LEAD, "position, in sync", _rebased),
    Row(11, PART, "follows my position, I am rebasing", _follows_my_rebase, Verdict.SKIP, "position", _rebasing),
    Row(12, PART, "completes a snapshot", _completes, Verdict.RESTORE,
        "position = as_of, changed, version, in sync; reading goes on from there", _restored),
    Row(13, CHANGE + PART, "otherwise", _always, Verdict.NEED_SNAPSHOT, "out of sync", _lost_sync),
)  # fmt: skip


def step(view: View, record: Record, me: Writer) -> tuple[Verdict, View]:
    """Fold one record: return the verdict for the shell, and the view once the verdict has been carried out."""
    if type(record) is ChangeRecord and (after := _after_next_change(view, record)) is not None:
        return APPLY, after
    return by_table(view, record, me)


def _after_next_change(view: View, record: ChangeRecord) -> View | None:
    """What row 7 makes of it, if that takes it: it is of the present term, by its holder, and follows. Nearly every
    record does. It is `_changed` after `_follow_snapshot`, as one new view instead of two. None: another row may.
    """
    log_id, term, holder, position, changed, in_sync, ends, cursor, snapshot, version = view
    id_, prev = record.id, record.prev
    if not (in_sync and prev == position.chain and id_.term == term):
        return None
    if record.boot != holder.boot or record.node != holder.node:
        return None
    place = new_tuple(Position, (id_, record.chain))
    if snapshot is not None and prev != cursor.chain:
        snapshot = None
    if record.count:
        changed = id_
    if record.version > version:
        version = record.version
    return new_tuple(View, (log_id, term, holder, place, changed, True, ends, place, snapshot, version))


def by_table(view: View, record: Record, me: Writer) -> tuple[Verdict, View]:
    """`step` without its shortcut for the next change, which gives the same."""
    if record.id.term > view.term and not isinstance(record, TermRecord):
        view = _adopt(view, record)
    if record.id.term >= view.term:
        view = _follow_snapshot(view, record)
    kind = type(record)
    for _, kinds, _, holds_here, verdict, _, become in TABLE:
        if kind in kinds and holds_here(view, record, me):
            return verdict, become(view, record)
    raise AssertionError("the last row of each kind holds always")


def is_beyond(view: View, record: Record) -> bool:
    """Whether no script of ours can have written these numbers after what the node has read: somebody else did."""
    is_next = record.id.n == view.cursor.id.n + 1 and record.id.term == view.term  # passes all that the other checks
    return not is_next and leaps(view, record)


def leaps(view: View, record: Record) -> bool:
    """`is_beyond` without its shortcut for the next number of the present term, which gives the same."""
    read, has = view.cursor.id.n, view.position.id.n
    if ids.is_beyond(record.id, view.term, max(read, has)):
        return True
    may_leap = isinstance(record, PartRecord) and record.part == 0  # a rebase may, over the history that it abandons
    follows = view.in_sync and record.prev == view.position.chain and record.id.term >= view.term
    return follows and not may_leap and record.id.n not in (read + 1, has + 1)


def _adopt(view: View, record: Record) -> View:
    # The run in which the term was taken is not known here. It matters only to the holder, which has the term record.
    return view._replace(term=record.id.term, holder=Holder(record.node, record.boot, ""), snapshot=None)


def _follow_snapshot(view: View, record: Record) -> View:
    """Keep track of the parts that pass by. A gap, or a new term, ends the tracking of a snapshot."""
    unbroken = view.snapshot if record.prev == view.cursor.chain else None
    if isinstance(record, PartRecord):
        before = view.cursor.id
        return view._replace(snapshot=follow(unbroken, record, before))
    if unbroken is not view.snapshot:
        return view._replace(snapshot=None)
    return view
