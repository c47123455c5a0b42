"""A node's own disk: the view, the newest snapshot as received, and the changes since, in one SQLite file.

    data_dir/checkpoint.sqlite   the file (and its -wal while a node runs)
    data_dir/lock                held while a node runs; its process id, up to where it is synced, its boot
    data_dir/forks/              copies of histories that lost

**One save is one transaction**, whatever it holds: records, parts, the view (`SyncedDatabase.transaction` owns begin,
commit and rollback). So whatever instant the process is killed at, the file is as after some save that happened (G7).
Values in memory change after the commit only, so a save that failed (a full disk) can be repeated.

**A power cut is another matter.** It takes the newest saves that were not *synced* (`checkpoint_sync.py`).

**A change that follows is one row.** Other saves say anew what the file holds and how far it is. One of changes alone
does not: to open the file is to fold the rows after what it says of itself. So that these are not too many, every
`_UNSAID_MAX` changes it is said all the same.

**What is kept** is told in `checkpoint_file.py`. A complete snapshot becomes the payload by its number and no byte is
copied.

**What it takes the place of is given up there and then, and deleted a little later**: an id says up to where the
changes are in the payload now, and its number that another one is not. To delete 50 MB takes a while, and some saves
are waited for, so `tidy` deletes a slice at a time, between saves, and each part that is saved takes a slice along.
Pages that are free are used again: the file grows to some snapshots and the changes.

**Staged is exactly what the view says**: as many parts as `view.snapshot` has seen, none if it follows no snapshot. A
complete one becomes the payload only if the fold took it for its own history (`save_transaction.py`). A snapshot that
did not follow, or of another than the term's holder, is dropped: the state at `position` does not come from it.

**Nothing is believed that was not checked.** `inspect` checks the whole file. SQLite drops the end of a WAL that does
not fit its checksums without a word, which would give an older save: which one was synced last, and how many changes
it had, stands in the lock file too. That is written after the commit and not synced: at worst it lags, and is never
ahead.

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

import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from replicator.errors import CheckpointError, CorruptRecord
from replicator.format.ids import ZERO_ID, RecordId
from replicator.format.records import ChangeRecord, Opens, is_private
from replicator.format.unpacked_size import SNAPSHOT_BYTES_MAX
from replicator.protocol.fold import APPLY, View
from replicator.runtime.gil import let_others_run
from replicator.runtime.process import Owner, let_go_in_child, quiet_before_fork
from replicator.storage import disk
from replicator.storage.checkpoint_file import (
    REPLACED,
    Leavings,
    Payload,
    Rows,
    Saved,
    base_version_of,
    bodies_in,
    changes_in,
    with_digest,
)
from replicator.storage.checkpoint_sync import SyncedDatabase
from replicator.storage.database_files import mark_sealed
from replicator.storage.directory_lock import DirectoryLock
from replicator.storage.disk_errors import translated
from replicator.storage.fork_writer import StateInFork, copy_database, finish_fork
from replicator.storage.opening import mark_of, opened_or_begun
from replicator.storage.save_transaction import SaveTransaction, Step, Weights, weights_of, with_less

__all__ = ["Checkpoint", "Loaded", "Step"]


#: A primary under load saves a thousand steps at once, on another thread. In between a writer gets the interpreter.
_STEPS_AT_ONCE = 32

#: To fold so many when the file is opened takes a few hundredths of a second.
_UNSAID_MAX = 1000


class Loaded(NamedTuple):
    """What a node finds of itself: the view as of its last save, and which boot wrote it."""

    view: View
    boot: str
    group: str


class Checkpoint:
    """The checkpoint of one node. Every method may be called from any thread; one process at a time has it."""

    def __init__(self, data_dir: Path, group: str, *, node: str, opens: Opens = None) -> None:
        """Lock the directory, check what is there, begin a file if there is none.

        `opens`: what opens the records of the group, and seals its state in a fork (`format/sealing.py`).

        Raises `CheckpointError` if another process has the directory, if the file is another group's, another node's,
        another program's or a newer version's, and if the disk cannot be read or written. A damaged file is set aside:
        `set_aside` is its new name then, and the node has to rebuild itself from the log.
        """
        self.data_dir = data_dir = data_dir.absolute()  # wherever this process goes
        self.path = data_dir / "checkpoint.sqlite"
        self._owner = Owner(f"the checkpoint {self.path}")
        self._opens = opens
        self._mutex = threading.RLock()
        quiet_before_fork(self._mutex)
        self._database = SyncedDatabase(self.path, self._mutex)
        self._weights = Weights()
        #: What is given up, and still there.
        self._left = Leavings()
        with translated(self.data_dir):
            disk.make_directory(data_dir)
            #: It knows which boot worked here last, too.
            self.lock = DirectoryLock(data_dir)
        let_go_in_child(self, Checkpoint._let_go)
        try:
            with translated(self.path):
                self._saved, self._left, self.set_aside = opened_or_begun(self.path, self.lock, group, node)
                self._database.open()
                if is_private(opens):
                    mark_sealed(self._database.connection)
                self._saved = with_digest(self._saved, self._rows_of_now(), self._left.changes, self.path, opens)
                #: What is known to outlive a power cut, and what the file says of itself, but for changes since.
                self._synced = self._said = self._saved
                self._weights = weights_of(self._database.connection, self._saved, self._left.changes)
        except BaseException:
            self.close()
            raise

    # --- reading ---

    def load(self) -> Loaded | None:
        """What the last save said, or None: a new node, or one whose checkpoint was set aside."""
        saved = self._saved
        return None if saved.view is None else Loaded(saved.view, saved.boot, saved.group)

    @property
    def base_version(self) -> int:
        """The version that the group was at where the changes begin: of the snapshot, or of the log at its beginning.

        Raises `CorruptRecord`.
        """
        if self._saved.payload is not None:
            return self._saved.payload.version
        return base_version_of(self._saved.view or View(), self.changes)

    def payload(self, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX) -> Iterator[Any] | None:
        """The pieces of the newest complete snapshot, decoded as they are drawn; None if there never was one."""
        payload = self._saved.payload
        return None if payload is None else _pieces(self.path, payload, self.bodies(), snapshot_bytes_max)

    def ledger(self) -> bytes:
        """What the library keeps beside the state, as the newest complete snapshot has it; empty: nothing."""
        payload = self._saved.payload
        return b"" if payload is None else _ledger(self.path, payload, self.bodies())

    @property
    def snapshot(self) -> Payload | None:
        """What the newest complete snapshot says of itself."""
        return self._saved.payload

    def bodies(self) -> Iterator[bytes]:
        """The bodies of its parts."""
        payload = self._saved.payload
        return (
            iter(())
            if payload is None
            else bodies_in(self._rows_of_now(), payload.number, payload.run.rows, self.path, opens=self._opens)
        )

    def changes(self) -> Iterator[ChangeRecord]:
        """The changes that the payload does not contain, in order; without a payload, all since the beginning."""
        return changes_in(self._rows_of_now(), self._left.changes, opens=self._opens)

    def staged(self) -> Iterator[bytes]:
        """The bodies of the parts of the snapshot that is passing by, in order, as far as they were saved."""
        staged = self._saved.staged
        return bodies_in(self._rows_of_now(), staged.number, staged.run.rows, self.path, opens=self._opens)

    def staged_part(self, part: int) -> bytes:
        """One of these bodies. Raises `CheckpointError`, also if it is not there, or not any more."""
        number = self._saved.staged.number
        return next(bodies_in(self._rows_of_now(), number, part + 1, self.path, start=part, opens=self._opens))

    def _rows_of_now(self) -> Rows:
        """Reads rows as long as they belong to the present payload: `staged.number` moves when another becomes it."""
        number = self._saved.staged.number

        def rows(query: str, values: tuple[int, ...]) -> list[tuple[Any, ...]]:
            self._owner.check()
            with self._mutex, translated(self.path):
                if number != self._saved.staged.number:
                    raise CheckpointError(path=self.path, problem=REPLACED)
                return self._database.connection.execute(query, values).fetchall()

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

    @property
    def is_private(self) -> bool:
        """Whether the group has a key: nothing of its state stands on the disk as it is."""
        return is_private(self._opens)

    @property
    def group(self) -> str:
        """Of whose node it is."""
        return self._saved.group

    @property
    def file_bytes(self) -> int:
        """Bytes of the file and of its WAL. It asks the disk, which may hang."""
        return sum(disk.size_of(path) for path in (self.path, self._database.wal))

    # --- writing ---

    def save(self, view: View, steps: Sequence[Step] = (), *, boot: str, synced: bool = True) -> None:
        """Write what was folded since the last save, and the view after it, in one transaction.

        `steps` are all records since then, in order: also those that only move the view. `synced`: on the disk, and not
        only with the system, when this returns. Raises `CheckpointError` if the disk refuses: nothing was saved then,
        and the same may be tried again. `ValueError`: parts are missing.
        """
        self._owner.check()
        with self._mutex:
            unsaid = self._saved.changes.rows + len(steps) - self._said.changes.rows
            rows_say_all = unsaid <= _UNSAID_MAX and _follow(self._saved, steps, boot)
            with self._database.transaction(synced=synced) as db:
                draft = SaveTransaction(db, self._saved, self._weights, self._left)
                for count, step in enumerate(steps, 1):
                    draft.take(step)
                    if count % _STEPS_AT_ONCE == 0:
                        let_others_run()
                saved = draft.finish(view, boot)
                if rows_say_all:
                    saved = saved._replace(save=self._saved.save)
                else:
                    _write_saved(db, saved)
            if not rows_say_all:
                self._said = saved
            self._saved, self._weights = saved, Weights(draft.headers, draft.earlier)
            self._left = draft.left
            if synced:
                self._has_synced(saved)

    def tidy(self) -> bool:
        """Delete a slice of what was given up; whether there is more. Raises `CheckpointError`."""
        with self._mutex:
            if self.is_tidy:
                return False
            with self._database.transaction(synced=False) as db:
                left = with_less(db, self._left, self._saved.payload, self._saved.staged)
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
            self._database.check_trusted()
            saved = self._saved
        if self._database.sync_wal():
            with self._mutex:
                self._has_synced(saved)

    def _has_synced(self, saved: Saved) -> None:
        if mark_of(saved) > mark_of(self._synced):
            self._synced = saved
            self.lock.mark(mark_of(saved))

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
        """Leave a text beside what is saved: `CheckpointReader.note` gives it. Raises `CheckpointError`."""
        with self._mutex:
            if self.noted(key) != text:
                with self._database.transaction(synced=False) as db:
                    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))

    def noted(self, key: str) -> str:
        """The text that was left under that name; empty: none was. Raises `CheckpointError`."""
        with self._mutex, translated(self.path):
            found = self._database.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found is not None and isinstance(found[0], str) else ""

    def write_fork(self, reason: str, parted_id: RecordId, *, of_state: StateInFork | None = None) -> Path:
        """Copy the whole checkpoint into `forks/`, with `reason` and `parted_id` in its table `meta`; where it is then.

        `parted_id`: the last record that the group's history has, too. `of_state`: the state at its position, if that
        may be another one than the checkpoint comes to: the fork has it in the place of snapshot and changes. It is
        drawn while others may save. One thread at a time. On disk when this returns. Raises `CheckpointError`, and what
        drawing the pieces raises.
        """
        self._owner.check()
        with translated(self.data_dir / "forks"):
            with self._mutex:
                saved, draft = self._saved, copy_database(self._database.connection, self.data_dir / "forks")
            return finish_fork(draft, saved, reason, parted_id, of_state, opens=self._opens)

    def copy_to(self, place: Path) -> None:
        """Copy the data directory as it is between two saves: what a process leaves that is killed now."""
        with self._mutex:
            shutil.copytree(self.data_dir, place)

    # --- beginning and end ---

    def close(self) -> None:
        """Close the file and release the directory. Nothing is lost without it."""
        self._owner.check()
        with self._mutex:
            try:
                self._database.close()
            finally:
                self.lock.release()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._owner.is_here:
            self.close()

    def _let_go(self) -> None:
        self._database.let_go()
        self.lock.release()


def _pieces(path: Path, payload: Payload, bodies: Iterable[bytes], snapshot_bytes_max: int) -> Iterator[Any]:
    with _decodable(path):
        yield from payload.pieces(bodies, snapshot_bytes_max=snapshot_bytes_max)


def _ledger(path: Path, payload: Payload, bodies: Iterable[bytes]) -> bytes:
    with _decodable(path):
        return payload.ledger(bodies)


@contextmanager
def _decodable(path: Path) -> Iterator[None]:
    try:
        yield
    except CorruptRecord as problem:
        # Its bytes are as they came (that was checked), so its writer made it wrong.
        hint = "move the file away, and the node rebuilds itself from the log"
        raise CheckpointError(path=path, problem=f"its snapshot cannot be decoded ({problem}); {hint}") from None


def _follow(saved: Saved, steps: Sequence[Step], boot: str) -> bool:
    """Whether these steps can be folded when the file is opened: they are changes that follow what is saved."""
    view = saved.view
    return (
        view is not None
        and view.in_sync
        and saved.boot == boot
        and bool(steps)
        and steps[0].record.prev == view.position.chain
        and (steps[-1].view.term, steps[-1].view.holder) == (view.term, view.holder)
        and all(step.verdict is APPLY for step in steps)
    )


def _write_saved(db: sqlite3.Connection, saved: Saved) -> None:
    db.execute("UPDATE meta SET value = ? WHERE key = 'saved'", (saved.to_bytes(),))
