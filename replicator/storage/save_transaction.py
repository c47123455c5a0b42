"""One save while its transaction is open: the rows of changes and parts, and what a snapshot takes the place of.

`checkpoint_file.py` says what the rows are.
"""

from __future__ import annotations

import sqlite3
from itertools import chain
from typing import NamedTuple

from replicator.format.ids import ZERO_CHAIN, ZERO_ID, RecordId
from replicator.format.records import PartRecord, Record, last_change_after
from replicator.protocol.fold import APPLY, Verdict, View
from replicator.protocol.snapshot_due import changes_bytes_max
from replicator.storage.checkpoint_file import GIVEN_UP, Leavings, Payload, Run, Saved, Staged, parts_under_way
from replicator.storage.kept_parts import kept

__all__ = ["ROWS_TOGETHER", "SaveTransaction", "Step", "Weights", "weights_of", "with_less"]

#: What is deleted in one go: less than 1 ms. Small changes take time by their number, parts and patches by their bytes.
_SLICE_CHANGES = 64
_SLICE_PARTS = 8
_SLICE_BYTES = 1024 * 1024

_INSERT = "INSERT INTO change VALUES (?, ?, ?, ?, ?)"

#: So many changes are written by one statement where there are as many. Between two statements the interpreter changes
#: hands if another thread wants it, as one that writes changes does; and one statement takes less than many.
ROWS_TOGETHER = 16
_INSERT_TOGETHER = _INSERT + ", (?, ?, ?, ?, ?)" * (ROWS_TOGETHER - 1)

#: The verdicts with which the last part of a complete snapshot belongs to the history that the state has.
_ADOPTING = (Verdict.SKIP, Verdict.LEAD, Verdict.RESTORE)


class Step(NamedTuple):
    """One folded record: what `step()` said, and the view after it."""

    record: Record
    verdict: Verdict
    view: View


class Weights(NamedTuple):
    """What changes weigh in the log besides their bodies. Counted, and not saved: older programs read the file, too.

    `headers`: of the changes since the payload. `earlier`: whole changes in the payload that the log still has.
    """

    headers: int = 0
    earlier: int = 0


def weights_of(db: sqlite3.Connection, saved: Saved, given_up: RecordId) -> Weights:
    query = "SELECT coalesce(sum(length(header)), 0) FROM change WHERE (term, n) > (?, ?)"
    headers = int(db.execute(query, given_up).fetchone()[0])
    payload, begun = saved.payload, saved.staged.run.rows > 0
    return Weights(headers, 0 if payload is None or begun else changes_bytes_max(payload.run.size))


class SaveTransaction:
    """A save while its transaction is open: rows go out as steps are taken, `finish` writes the rest."""

    def __init__(self, db: sqlite3.Connection, before: Saved, weights: Weights, left: Leavings) -> None:
        self._db = db
        self._before = before
        self.headers, self.earlier = weights
        self.left = left
        self._base = before.base
        self._changes = before.changes
        self._staged = before.staged
        self._payload = before.payload
        # Changes go out together: at the end, or before some are given up.
        self._waiting: list[tuple[int, int, str, bytes, bytes]] = []

    def take(self, step: Step) -> None:
        record = step.record
        if isinstance(record, PartRecord):
            # A stale part leaves the view's snapshot alone, which then is another one than the part's.
            if step.verdict is not Verdict.REJECT_STALE and step.view.snapshot is not None:
                self._stage(record)
                if step.view.snapshot.complete and step.verdict in _ADOPTING:
                    self._adopt(record, all_changes=record.replaces or step.verdict is Verdict.RESTORE)
        elif step.verdict is APPLY:
            term, n = record.id
            header, body = record.header, record.body
            self._changes = changes = self._changes.with_row(f"{term}-{n}", header, body)
            self.headers += len(header)
            self._waiting.append((term, n, changes.link, header, body))
        if self._staged.run.rows and not parts_under_way(step.view):
            self._clear_staged()

    def finish(self, view: View, boot: str) -> Saved:
        if self._staged.run.rows != parts_under_way(view):
            # Saved like this, the snapshot could never be completed, or would be completed with a hole in it.
            raise ValueError(f"{self._staged.run.rows} parts are staged, the view says {parts_under_way(view)}")
        self._flush()
        return self._before._replace(
            boot=boot,
            save=self._before.save + 1,
            view=view,
            base=self._base,
            changes=self._changes,
            staged=self._staged,
            payload=self._payload,
        )

    def _stage(self, record: PartRecord) -> None:
        if record.part == 0:
            self._clear_staged()
            # The log was cut up to the payload, unless this is the payload: after a restore its parts come again.
            if self._payload is None or self._payload.as_of != record.as_of:
                self.earlier = 0
        number, run = self._staged
        if run.rows != record.part:
            raise ValueError(f"part {record.part} of a snapshot was given to save, but {run.rows} parts before it")
        row = kept(record)
        self._db.execute("INSERT INTO part VALUES (?, ?, ?)", (number, record.part, row))
        self._staged = Staged(number, run.with_row(str(record.part), b"", row))
        # So that the file stays bounded, however fast snapshots follow one another.
        self.left = with_less(self._db, self.left, self._payload, self._staged)

    def _clear_staged(self) -> None:
        number, run = self._staged
        if run.rows:
            self._staged = Staged(number + 1)
            self.left = self.left._replace(parts=True)

    def _adopt(self, last: PartRecord, *, all_changes: bool) -> None:
        number, run = self._staged
        if self._payload is not None:
            self.left = self.left._replace(parts=True)
        changed = last_change_after(last, rebase=True) or last.changed
        self._payload = Payload(
            number, run, last.as_of, changed, last.codec, last.digest, last.replaces, last.version, last.is_sealed
        )
        self._staged = Staged(number + 1)
        self._flush()
        before = self._changes.size + self.headers
        if all_changes:
            self._give_up_all_changes(last.as_of.id)
            self._base, self._changes = ZERO_CHAIN, Run()
            self.headers, self.earlier = 0, before if last.replaces else changes_bytes_max(run.size)
        else:
            self._give_up_changes(last.as_of.id)
            self.earlier += before - self._changes.size - self.headers

    def _give_up_changes(self, upto: RecordId) -> None:
        db = self._db
        of_last = "SELECT term, n, link FROM change WHERE (term, n) <= (?, ?) ORDER BY term DESC, n DESC LIMIT 1"
        last = db.execute(of_last, upto).fetchone()
        if last is None or last[:2] <= self.left.changes:
            return
        *upto_there, link = last
        self._give_up(RecordId(*upto_there))
        left = (
            "SELECT count(*), coalesce(sum(length(body)), 0), coalesce(sum(length(header)), 0) FROM change "
            "WHERE (term, n) > (?, ?)"
        )
        count, size, self.headers = db.execute(left, self.left.changes).fetchone()
        self._base, self._changes = link, Run(count, size, self._changes.link)

    def _give_up_all_changes(self, as_of: RecordId) -> None:
        """What follows has ids above `as_of`."""
        newest = self._db.execute("SELECT term, n FROM change ORDER BY term DESC, n DESC LIMIT 1").fetchone()
        if newest is None or newest <= as_of:
            self._give_up(ZERO_ID if newest is None else RecordId(*newest))
        else:
            # At once: of a history that lost, which has higher ids than what follows may have.
            self._db.execute("DELETE FROM change")
            self._give_up(ZERO_ID)

    def _give_up(self, upto: RecordId) -> None:
        self.left = self.left._replace(changes=upto)
        _write_given_up(self._db, upto)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        together = len(waiting) - len(waiting) % ROWS_TOGETHER
        for begin in range(0, together, ROWS_TOGETHER):
            self._db.execute(_INSERT_TOGETHER, tuple(chain.from_iterable(waiting[begin : begin + ROWS_TOGETHER])))
        self._db.executemany(_INSERT, waiting[together:])


def with_less(db: sqlite3.Connection, left: Leavings, payload: Payload | None, staged: Staged) -> Leavings:
    """Delete a slice; what is left then."""
    if left.parts:
        query = "SELECT snapshot, part FROM part WHERE snapshot < ? AND snapshot <> ? ORDER BY snapshot, part LIMIT ?"
        found = db.execute(query, (staged.number, payload.number if payload else 0, _SLICE_PARTS)).fetchall()
        db.executemany("DELETE FROM part WHERE (snapshot, part) = (?, ?)", found)
        return left._replace(parts=len(found) == _SLICE_PARTS)
    if left.changes == ZERO_ID:
        return left
    query = "SELECT term, n, length(body) FROM change WHERE (term, n) <= (?, ?) ORDER BY term, n LIMIT ?"
    size, last = 0, None
    for term, n, length in db.execute(query, (*left.changes, _SLICE_CHANGES)):
        size, last = size + length, RecordId(term, n)
        if size >= _SLICE_BYTES:
            break
    if last is not None:
        db.execute("DELETE FROM change WHERE (term, n) <= (?, ?)", last)
    if last not in (None, left.changes):
        return left
    _write_given_up(db, ZERO_ID)
    return Leavings()


def _write_given_up(db: sqlite3.Connection, upto: RecordId) -> None:
    if upto == ZERO_ID:
        db.execute("DELETE FROM meta WHERE key = ?", (GIVEN_UP,))
    else:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (GIVEN_UP, str(upto)))
