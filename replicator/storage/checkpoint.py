"""A node's own disk: the view, the newest snapshot as received, and the changes since, in one SQLite file.

    data_dir/checkpoint.sqlite   the file (and its -wal while a node runs)
    data_dir/lock                held while a node runs; its process id, the number of its last synced save, its boot
    data_dir/forks/              copies of histories that lost

**One save is one transaction**, whatever it holds: records, parts, the view (`_transaction` owns begin, commit and
rollback). So whatever instant the process is killed at, the file is as after some save that happened (G7). Values in
memory change after the commit only, so a save that failed (a full disk) can be repeated.

**A power cut is another matter.** A save that must outlive one is *synced*: synchronous=FULL makes that one fsync,
which takes longer than all else that happens to a change. Other saves are with the system when they return, and on the
disk after the next synced one, or after `sync`. A power cut takes the newest of them, in order, and never a part of
one: the node comes back a moment earlier, and reads the rest from the log. What must not be forgotten (a term, what was
vouched for) is synced.

**A change that follows is one row.** Other saves say anew what the file holds and how far it is. One of changes alone,
not synced, does not: who opens the file folds the rows behind what it says of itself.

**What is kept** is told in `checkpoint_file.py`. A complete snapshot becomes the payload by its number and no byte is
copied.

**What it takes the place of is given up there and then, and deleted a little later**: an id says up to where the
changes are in the payload now, and its number that another one is not. To delete 50 MB takes a while, and a standby
saves before it applies, so `tidy` deletes a slice at a time, between saves, and each part that is saved takes a slice
along. Pages that are free are used again: the file grows to some snapshots and the changes.

**Staged is exactly what the view says**: as many parts as `view.snapshot` has seen, none if it follows no snapshot. A
complete one becomes the payload only if the fold took it for its own history (`_ADOPTING`). A snapshot that did not
follow, or of another than the term's holder, is dropped: the state at `position` does not come from it.

**Nothing is believed that was not checked.** `inspect` checks the whole file. SQLite drops the end of a WAL that does
not fit its checksums without a word, which would give an older save: the number of the last synced one stands in the
lock file too. It is written after the commit and not synced: behind the truth at worst, never before it.

**Two failures are kept apart.** A file that can be read and is wrong is *damaged*: it is set aside under another name
and the node rebuilds itself from the log (G8). A disk that cannot be read or written is an error and stays one: taken
for an empty one, it would switch fencing off. The first look is through a read-only connection, so a file that is
refused (another group's, a newer version's) or set aside stays as it was.

A file appears under its name only when it is whole: it is made under another one first. An empty one is thus damaged.

**A forked child has no part in it.** SQLite's connections must not cross a fork: closed in the child, or freed there,
this one would write back and delete the WAL into which the parent goes on writing. So a child never frees it. It gives
up its copy of the lock at once, or the directory would stay locked for as long as the child lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from replicator.errors import CheckpointError, CorruptRecord
from replicator.format.ids import ZERO_CHAIN, ZERO_ID, RecordId
from replicator.format.records import ChangeRecord, PartRecord, Record
from replicator.format.weight import SNAPSHOT_BYTES_MAX
from replicator.protocol.fold import Verdict, View
from replicator.protocol.snapshot_policy import changes_bytes_max
from replicator.runtime.process import Owner, keep_for_ever, let_go_in_child, quiet_before_fork
from replicator.storage import disk
from replicator.storage.checkpoint_file import (
    APPLICATION_ID,
    FORMAT_VERSION,
    GIVEN_UP,
    REPLACED,
    SCHEMA,
    Damaged,
    Leavings,
    Payload,
    Rows,
    Run,
    Saved,
    Staged,
    bodies_in,
    changes_in,
    code_of,
    inspect,
    parts_under_way,
)
from replicator.storage.place import place_of

__all__ = ["Checkpoint", "Loaded", "Step"]

_logger = logging.getLogger(__name__)


#: Bytes that a WAL keeps once it was written back. It is written back every 1000 pages (4 MiB, SQLite's default), and
#: grows beyond that only for one large save.
_WAL_BYTES_KEPT = 8 * 1024 * 1024

#: Before all other settings: nobody else has business in the file while a node runs, even if the lock file was deleted.
#: It also saves the -shm.
_ALONE = "PRAGMA locking_mode = EXCLUSIVE"

_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    # Without these, fsync on macOS does not reach the disk. Elsewhere they do nothing.
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
    f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}",
    # Some builds overwrite what is deleted with zeros: twice the writing for each snapshot.
    "PRAGMA secure_delete = OFF",
)


#: A primary under load saves a thousand steps at once, aside: whoever writes is not to wait for the interpreter for as
#: long as that takes, which a thread that has work keeps for 5 ms. `sleep(0)` is over before the other one is awake.
_STEPS_AT_ONCE = 16
_PAUSE_S = 0.0001


#: What is deleted in one go: less than 1 ms. Small changes take time by their number, parts and patches by their bytes.
_SLICE_CHANGES = 64
_SLICE_PARTS = 8
_SLICE_BYTES = 1024 * 1024

#: The verdicts with which the last part of a complete snapshot belongs to the history that the state has.
_ADOPTING = (Verdict.SKIP, Verdict.LEAD, Verdict.RESTORE)


class Step(NamedTuple):
    """One folded record: what `step()` said, and the view after it."""

    record: Record
    verdict: Verdict
    view: View


class Loaded(NamedTuple):
    """What a node finds of itself: the view as of its last save, and which boot wrote it."""

    view: View
    boot: str
    group: str


class Checkpoint:
    """The checkpoint of one node. Every method may be called from any thread; one process at a time has it."""

    def __init__(self, data_dir: Path, group: str, *, node: str) -> None:
        """Lock the directory, check what is there, begin a file if there is none.

        Raises `CheckpointError` if another process has the directory, if the file is another group's, another node's,
        another program's or a newer version's, and if the disk cannot be read or written. A damaged file is set aside:
        `set_aside` is its new name then, and the node has to rebuild itself from the log.
        """
        self.data_dir = data_dir = data_dir.absolute()  # wherever this process goes
        self.path = data_dir / "checkpoint.sqlite"
        self.set_aside: Path | None = None
        self._owner = Owner(f"the checkpoint {self.path}")
        self._mutex = threading.RLock()
        quiet_before_fork(self._mutex)
        self._db: sqlite3.Connection | None = None
        self._syncs = True
        #: Why nothing that is synced from now on can be vouched for.
        self._lost = ""
        self._weights = _Weights()
        #: What is given up, and still there.
        self._left = Leavings()
        with _translated(self.data_dir):
            disk.make_directory(data_dir)
            self._lock = _DirectoryLock(data_dir)
        let_go_in_child(self, Checkpoint._let_go)
        try:
            with _translated(self.path):
                self._saved = self._synced = self._checked(group, node) or self._begun(group, node)
                self._db = _connect(self.path)
                # Of a process that was killed: its last saves are with the system, and perhaps not on the disk yet.
                with contextlib.suppress(FileNotFoundError):
                    disk.sync(self._wal)
                self._weights = _weights_of(self._db, self._saved, self._left.changes)
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> str:
        """The boot that was the last to work in this very directory, and has ended. Empty: that is not known."""
        return self._lock.ended

    def runs(self, boot: str) -> None:
        """Note that this boot works here now."""
        self._lock.runs(boot)

    # --- reading ---

    def load(self) -> Loaded | None:
        """What the last save said, or None: a new node, or one whose checkpoint was set aside."""
        saved = self._saved
        return None if saved.view is None else Loaded(saved.view, saved.boot, saved.group)

    def payload(self, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX) -> Iterator[Any] | None:
        """The pieces of the newest complete snapshot, decoded as they are drawn; None if there never was one."""
        payload = self._saved.payload
        return None if payload is None else self._pieces(payload, self._rows_of_now(), snapshot_bytes_max)

    @property
    def snapshot(self) -> Payload | None:
        """What the newest complete snapshot says of itself."""
        return self._saved.payload

    def bodies(self) -> Iterator[bytes]:
        """The bodies of its parts."""
        payload = self._saved.payload
        return (
            iter(()) if payload is None else bodies_in(self._rows_of_now(), payload.number, payload.run.rows, self.path)
        )

    def _pieces(self, payload: Payload, rows: Rows, snapshot_bytes_max: int) -> Iterator[Any]:
        bodies = bodies_in(rows, payload.number, payload.run.rows, self.path)
        try:
            yield from payload.pieces(bodies, snapshot_bytes_max=snapshot_bytes_max)
        except CorruptRecord as problem:
            # Its bytes are as they came (that was checked), so its writer made it wrong.
            hint = "move the file away, and the node rebuilds itself from the log"
            raise CheckpointError(
                path=self.path, problem=f"its snapshot cannot be decoded ({problem}); {hint}"
            ) from None

    def changes(self) -> Iterator[ChangeRecord]:
        """The changes that the payload does not contain, in order; without a payload, all since the beginning."""
        return changes_in(self._rows_of_now(), self._left.changes)

    def staged(self) -> Iterator[bytes]:
        """The bodies of the parts of the snapshot that is passing by, in order, as far as they were saved."""
        staged = self._saved.staged
        return bodies_in(self._rows_of_now(), staged.number, staged.run.rows, self.path)

    def staged_part(self, part: int) -> bytes:
        """One of these bodies. Raises `CheckpointError`, also if it is not there, or not any more."""
        return next(bodies_in(self._rows_of_now(), self._saved.staged.number, part + 1, self.path, start=part))

    def _rows_of_now(self) -> Rows:
        """Reads rows as long as they belong to the present payload: `staged.number` moves when another becomes it."""
        number = self._saved.staged.number

        def rows(query: str, values: tuple[int, ...]) -> list[tuple[Any, ...]]:
            self._owner.check()
            with self._mutex, _translated(self.path):
                if number != self._saved.staged.number:
                    raise CheckpointError(path=self.path, problem=REPLACED)
                return self._connection.execute(query, values).fetchall()

        return rows

    @property
    def changes_bytes(self) -> int:
        """Bytes of all changes since the payload, as they weigh in the log: a small one is nearly all header."""
        return self._saved.changes.size + self._weights.headers

    @property
    def kept_bytes(self) -> int:
        """The same, and of those in the payload that the log still has: it is cut when the next snapshot begins.

        Where this was not seen (a payload that was restored, or loaded at the start), those count as many as there may
        have been when it was due.
        """
        return self.changes_bytes + self._weights.earlier

    @property
    def payload_bytes(self) -> int:
        """Bytes of the bodies of the payload's parts."""
        return self._saved.payload.run.size if self._saved.payload else 0

    # --- writing ---

    def save(self, view: View, steps: Sequence[Step] = (), *, boot: str, synced: bool = True) -> None:
        """Write what was folded since the last save, and the view after it, in one transaction.

        `steps` are all records since then, in order: also those that only move the view. `synced`: on the disk, and not
        only with the system, when this returns. Raises `CheckpointError` if the disk refuses: nothing was saved then,
        and the same may be tried again. `ValueError`: parts are missing.
        """
        self._owner.check()
        with self._mutex:
            rows_say_all = not synced and _follow(self._saved, steps, boot)
            with self._transaction(synced=synced) as db:
                draft = _Draft(db, self._saved, self._weights, self._left)
                for count, step in enumerate(steps, 1):
                    draft.take(step)
                    if count % _STEPS_AT_ONCE == 0:
                        time.sleep(_PAUSE_S)
                saved = draft.finish(view, boot)
                if not rows_say_all:
                    _write_saved(db, saved)
            self._saved, self._weights = saved, _Weights(draft.headers, draft.earlier)
            self._left = draft.left
            if synced:
                self._has_synced(saved)

    def tidy(self) -> bool:
        """Delete a slice of what was given up; whether there is more. Raises `CheckpointError`."""
        with self._mutex:
            if self.is_tidy:
                return False
            with self._transaction(synced=False) as db:
                left = _with_less(db, self._left, self._saved.payload, self._saved.staged)
            self._left = left
            return not self.is_tidy

    @property
    def is_tidy(self) -> bool:
        """Whether `tidy` has nothing to do."""
        return self._left == Leavings()

    def sync(self) -> None:
        """Have all saves so far outlive a power cut. Raises `CheckpointError`."""
        self._owner.check()
        with self._mutex:
            if self.is_synced:
                return
            self._check_trusted()
            saved = self._saved
            with self._transaction(synced=False) as db:
                _write_saved(db, saved)
        # Others save meanwhile: a standby would wait for the disk here, and whoever waits for the standby with it. What
        # SQLite has moved out of the WAL by now, it has synced itself.
        with _translated(self.path):
            try:
                disk.sync(self._wal)
            except OSError as error:
                with self._mutex:
                    if self._db is None:  # it was closed meanwhile: that moves all out of the WAL, and deletes it
                        return
                    self._distrust(error)
                raise
        with self._mutex:
            self._has_synced(saved)

    def _has_synced(self, saved: Saved) -> None:
        if saved.save > self._synced.save:
            self._synced = saved
            self._lock.mark(saved.save)

    @property
    def is_synced(self) -> bool:
        """Whether `sync` has nothing to do."""
        return self._synced is self._saved

    @property
    def synced_upto(self) -> RecordId:
        """The newest record that is in the state on the disk, whatever happens to this machine."""
        view = self._synced.view
        return view.position.id if view is not None and view.in_sync else ZERO_ID

    def note(self, key: str, text: str) -> None:
        """Leave a text beside what is saved: `Stored.note` gives it. Raises `CheckpointError`."""
        with self._mutex:
            with _translated(self.path):
                found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            if found is None or found[0] != text:
                with self._transaction(synced=False) as db:
                    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))

    def write_fork(self, reason: str, parted_at: RecordId) -> Path:
        """Copy the whole checkpoint into `forks/`, with `reason` and `parted_at` in its table `meta`; where it is then.

        `parted_at`: the last record that the group's history has, too. On disk when this returns.
        Raises `CheckpointError`.
        """
        self._owner.check()
        with self._mutex, _translated(self.data_dir / "forks"):
            forks = self.data_dir / "forks"
            disk.make_directory(forks)
            draft = forks / "new.sqlite"
            _discard(draft)  # of a process that was killed here
            _create(draft)
            self._connection.execute("VACUUM INTO ?", (str(draft),))
            _write_reason(draft, reason, parted_at)
            at = self._saved.view.position.id if self._saved.view else ZERO_ID
            path = _unused(forks / f"{_utc_now()}-{at}.sqlite")
            disk.publish(draft, path)
            return path

    @contextlib.contextmanager
    def _transaction(self, *, synced: bool) -> Iterator[sqlite3.Connection]:
        if synced:
            self._check_trusted()
        with _translated(self.path):
            db = self._connection
            if synced is not self._syncs:
                db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                self._syncs = synced
            db.execute("BEGIN")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                self._distrust(error)
                if db.in_transaction:  # SQLite rolls back by itself after some errors
                    db.execute("ROLLBACK")
                raise

    def _check_trusted(self) -> None:
        if self._lost:
            raise CheckpointError(path=self.path, problem=self._lost)

    def _distrust(self, error: BaseException) -> None:
        """Vouch for nothing more if what failed was an fsync.

        The system then drops what it could not write, and calls the next fsync a success.
        """
        if _lost_writes(error):
            hint = "give this node an empty data directory on another disk: it rebuilds itself from the log"
            self._lost = f"what was written before may be lost ({error}); {hint}"

    @property
    def _wal(self) -> Path:
        return Path(f"{self.path}-wal")

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise CheckpointError(path=self.path, problem="it was closed")
        return self._db

    # --- beginning and end ---

    def _checked(self, group: str, node: str) -> Saved | None:
        """What the file holds; None if there is none, or one that had to be set aside."""
        _discard(self.data_dir / _NEW)  # of a process that was killed while it began a file
        if not _exists(self.path):
            return None
        try:
            _check_writable(self.path)
            saved, self._left = inspect(self.path)
            if saved.save < self._lock.marked:
                raise Damaged(f"its newest saves are missing: it has {saved.save} of {self._lock.marked}")
        except Damaged as problem:
            self.set_aside = _put_aside(self.path)
            hint = "The node rebuilds itself from the log."
            _logger.error("%s is damaged (%s) and was set aside as %s. %s", self.path, problem, self.set_aside, hint)
            return None
        _check_owner(self.path, saved, group, node)
        return saved

    def _begun(self, group: str, node: str) -> Saved:
        saved = Saved(group=group, node=node)
        if self._lock.marked:  # by a file that is gone: come back behind a power cut, it would make this one damaged
            self._lock.mark(0)
            disk.sync(self.data_dir / "lock")
        _begin(self.data_dir / _NEW, saved)
        disk.publish(self.data_dir / _NEW, self.path)
        return saved

    def close(self) -> None:
        """Close the file and release the directory. Nothing is lost without it."""
        self._owner.check()
        with self._mutex:
            try:
                if self._db is not None:
                    self._db.close()
            finally:
                self._db = None
                self._lock.release()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._owner.is_here:
            self.close()

    def _let_go(self) -> None:
        if self._db is not None:
            keep_for_ever(self._db)
        self._lock.release()


# --- one save ---------------------------------------------------------------------------------------------------------


class _Weights(NamedTuple):
    """What changes weigh in the log besides their bodies. Counted, and not saved: older programs read the file, too.

    `headers`: of the changes since the payload. `earlier`: whole changes in the payload that the log still has.
    """

    headers: int = 0
    earlier: int = 0


def _weights_of(db: sqlite3.Connection, saved: Saved, given_up: RecordId) -> _Weights:
    query = "SELECT coalesce(sum(length(header)), 0) FROM change WHERE (term, n) > (?, ?)"
    headers = int(db.execute(query, given_up).fetchone()[0])
    payload, begun = saved.payload, saved.staged.run.rows > 0
    return _Weights(headers, 0 if payload is None or begun else changes_bytes_max(payload.run.size))


class _Draft:
    """A save while its transaction is open: rows go out as steps are taken, `finish` writes the rest."""

    def __init__(self, db: sqlite3.Connection, before: Saved, weights: _Weights, left: Leavings) -> None:
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
        elif step.verdict is Verdict.APPLY:
            self._changes = self._changes.with_row(str(record.id), record.header, record.body)
            self.headers += len(record.header)
            self._waiting.append((*record.id, self._changes.link, record.header, record.body))
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
            # The log was cut behind the payload, unless this is the payload: after a restore its parts come again.
            if self._payload is None or self._payload.as_of != record.as_of:
                self.earlier = 0
        number, run = self._staged
        if run.rows != record.part:
            raise ValueError(f"part {record.part} of a snapshot was given to save, but {run.rows} parts before it")
        self._db.execute("INSERT INTO part VALUES (?, ?, ?)", (number, record.part, record.body))
        self._staged = Staged(number, run.with_row(str(record.part), b"", record.body))
        # So that the file stays bounded, however fast snapshots follow one another.
        self.left = _with_less(self._db, self.left, self._payload, self._staged)

    def _clear_staged(self) -> None:
        number, run = self._staged
        if run.rows:
            self._staged = Staged(number + 1)
            self.left = self.left._replace(parts=True)

    def _adopt(self, last: PartRecord, *, all_changes: bool) -> None:
        number, run = self._staged
        if self._payload is not None:
            self.left = self.left._replace(parts=True)
        self._payload = Payload(number, run, last.as_of, last.changed, last.codec, last.digest, last.replaces)
        self._staged = Staged(number + 1)
        self._flush()
        before = self._changes.size + self.headers
        if all_changes:
            # At once: what follows may have lower ids than a history that lost.
            self._db.execute("DELETE FROM change")
            self._give_up(ZERO_ID)
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

    def _give_up(self, upto: RecordId) -> None:
        self.left = self.left._replace(changes=upto)
        _write_given_up(self._db, upto)

    def _flush(self) -> None:
        if self._waiting:
            self._db.executemany("INSERT INTO change VALUES (?, ?, ?, ?, ?)", self._waiting)
            self._waiting.clear()


def _with_less(db: sqlite3.Connection, left: Leavings, payload: Payload | None, staged: Staged) -> Leavings:
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


def _follow(saved: Saved, steps: Sequence[Step], boot: str) -> bool:
    """Whether whoever opens the file can fold these steps behind what is saved: they are changes that follow it."""
    view = saved.view
    return (
        view is not None
        and view.in_sync
        and saved.boot == boot
        and bool(steps)
        and steps[0].record.prev == view.position.chain
        and (steps[-1].view.term, steps[-1].view.holder) == (view.term, view.holder)
        and all(step.verdict is Verdict.APPLY for step in steps)
    )


def _write_saved(db: sqlite3.Connection, saved: Saved) -> None:
    db.execute("UPDATE meta SET value = ? WHERE key = 'saved'", (saved.to_bytes(),))


def _check_owner(path: Path, saved: Saved, group: str, node: str) -> None:
    hint = "every node needs a data directory of its own"
    if saved.group != group:
        raise CheckpointError(path=path, problem=f"it belongs to group {saved.group}, this is group {group}; {hint}")
    if saved.node != node:
        raise CheckpointError(path=path, problem=f"it belongs to node {saved.node}, this is node {node}; {hint}")


def _put_aside(path: Path) -> Path:
    """Rename the file and what SQLite has beside it; the new name."""
    aside = _unused(path.with_name(f"{path.name}.damaged-{_utc_now()}"))
    # The file goes first. Killed in between, the others are found without it; the file found without its WAL could pass
    # for an older one.
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        disk.sync(path.parent)
    return aside


# --- files ------------------------------------------------------------------------------------------------------------

_NEW = "checkpoint.sqlite.new"

#: A database file, and what SQLite may have beside it.
_SUFFIXES = ("", "-wal", "-shm", "-journal")


def _connect(path: Path, *, synced: bool = True) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for setting in (_ALONE, f"PRAGMA synchronous = {'FULL' if synced else 'OFF'}", *_SETTINGS):
            db.execute(setting)
    except BaseException:
        db.close()
        raise
    return db


def _begin(path: Path, saved: Saved) -> None:
    _create(path)
    # Who gives the file its name syncs it, once and as a whole: nothing of it counts before.
    with contextlib.closing(_connect(path, synced=False)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        db.executescript(SCHEMA)
        db.execute("INSERT INTO meta VALUES ('saved', ?)", (saved.to_bytes(),))


def _create(path: Path) -> None:
    # SQLite would create it readable for everybody; its -wal takes the mode of the file.
    os.close(disk.create(path))


def _write_reason(path: Path, reason: str, parted_at: RecordId) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        # A checkpoint that was made of a fork has them already.
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("reason", reason), ("parted_at", str(parted_at))])


def _check_writable(path: Path) -> None:
    # SQLite takes a file that it may not write without a word, and then fails at something else.
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(path, os.O_RDWR))


def _exists(path: Path) -> bool:
    """Whether a database of that name is there, or any of its files."""
    return any(os.path.lexists(f"{path}{suffix}") for suffix in _SUFFIXES)


def _discard(path: Path) -> None:
    for suffix in _SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _unused(path: Path) -> Path:
    """`path`, or with -2, -3 … before its suffix what is not there yet."""
    stem, suffix = (path.stem, path.suffix) if path.suffix == ".sqlite" else (path.name, "")
    count = 1
    while _exists(path):
        count += 1
        path = path.with_name(f"{stem}-{count}{suffix}")
    return path


def _utc_now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


class _DirectoryLock:
    """The lock on a data directory; in its file stand who has it, and the number of the last save (`marked`).

    Below stands which boot worked here last, and where this file was then: in a copy of the directory the file is
    elsewhere (`place.py`), and the boot may still be at work. Here it has ended, for it had the lock.
    """

    _TEXT = re.compile(rb"pid +(\d+)\nsave (\d{20})\n")
    _RAN = re.compile(rb"boot (\S+) (\S+)\n")

    def __init__(self, data_dir: Path) -> None:
        self._file = disk.open_lock(data_dir / "lock")
        try:
            self._take(data_dir)
            found = self._found()
            #: 0 where nothing can be said: no file, or one that a power cut emptied.
            self.marked = int(found[2]) if found else 0
            ran = self._RAN.match(os.pread(self._file, 512, len(self._text(0))))
            self.ended = ran[1].decode() if ran and ran[2] == place_of(self._file).encode() else ""
            os.pwrite(self._file, self._text(self.marked), 0)
        except BaseException:
            self.release()
            raise

    def _take(self, data_dir: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = self._found()
            who = f"process {int(found[1])}" if found else "another process"
            hint = "stop it, or give this node a data directory of its own"
            raise CheckpointError(path=data_dir, problem=f"{who} is using it; {hint}") from None

    def _found(self) -> re.Match[bytes] | None:
        return self._TEXT.match(os.pread(self._file, 64, 0))

    def mark(self, save: int) -> None:
        # The save has happened. Without its mark it only cannot be missed if the disk forgets it.
        with contextlib.suppress(OSError):
            os.pwrite(self._file, self._text(save), 0)

    def runs(self, boot: str) -> None:
        # Without it the next start here takes a few heartbeats longer, if it comes that soon.
        text = f"boot {boot} {place_of(self._file)}\n".encode()
        with contextlib.suppress(OSError):
            os.pwrite(self._file, text, len(self._text(0)))
            os.ftruncate(self._file, len(self._text(0)) + len(text))

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @staticmethod
    def _text(save: int) -> bytes:
        return b"pid %10d\nsave %020d\n" % (os.getpid(), save)


# --- errors -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """What SQLite and the system say, as a `CheckpointError` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise CheckpointError(path=path, problem=_explained(error, path)) from error
    except OSError as error:
        raise CheckpointError(path=error.filename or path, problem=error.strerror or str(error)) from error


def _lost_writes(error: BaseException) -> bool:
    """Whether this is an fsync that failed (fsync(2), *ERRORS*), and not a file that could not be opened."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_FSYNC
    return isinstance(error, OSError) and error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT)


def _explained(error: sqlite3.Error, path: Path) -> str:
    code = code_of(error)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return f"{error} ({disk.free_mb(path)} on that disk); nothing was saved"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"{error}; restart the node: it sets the file aside and rebuilds itself from the log"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{error}: another program has the file open; close it"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"{error}; this user needs to read and write the file and its directory"
    return str(error)
