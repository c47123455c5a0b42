"""A node's own disk: the view, the newest snapshot as received, and the changes since, in one SQLite file.

    data_dir/checkpoint.sqlite   the file (and its -wal while a node runs)
    data_dir/lock                held while a node runs; its process id, and the number of its last save
    data_dir/forks/              copies of histories that lost

**One save is one transaction**, whatever it holds: records, parts, the view (`_transaction` owns begin, commit and
rollback). So whatever instant the process is killed at, the file is as after some save that happened (G7). WAL with
synchronous=FULL makes that one fsync. Values in memory change after the commit only, so a save that failed (a full
disk) can be repeated.

**What is kept.** Everything but rows of bytes is one JSON value, `_Saved`, written whole with each save. Changes are
rows, as they came. So are the parts of snapshots: those of the *payload* (the newest complete snapshot) and those
*staged* (of a snapshot that is passing by). Both have a number, so a complete snapshot becomes the payload by its
number and no byte is copied. Pages that are given up are used again: the file grows to two snapshots and the changes.

**Staged is exactly what the view says**: as many parts as `view.snapshot` has seen, none if it follows no snapshot. A
complete one becomes the payload only if the fold took it for its own history (`_ADOPTING`). A snapshot that did not
follow, or of another than the term's holder, is dropped: the state at `position` does not come from it.

**Nothing is believed that was not checked.** `_Saved` carries its digest. Each run of rows carries a hash over its ids,
headers and bodies, so a row that is missing, repeated or changed shows. SQLite drops the end of a WAL that does not fit
its checksums without a word, which would give an older save: the number of the last one stands in the lock file too. It
is written after the commit and not synced: behind the truth at worst, never before it.

**Two failures are kept apart.** A file that can be read and is wrong is *damaged*: it is set aside under another name
and the node rebuilds itself from the log (G8). A disk that cannot be read or written is an error and stays one: taken
for an empty one, it would switch fencing off. The first look is through a read-only connection, so a file that is
refused (another group's, a newer version's) or set aside stays as it was.

A file appears under its name only when it is whole: it is made under another one first. An empty one is thus damaged.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orjson

from replicator.core.codec import SnapshotDecoder, digest_of
from replicator.core.fold import Holder, Verdict, View
from replicator.core.ids import ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer, extend_chain
from replicator.core.parts import Progress
from replicator.core.records import ChangeRecord, PartRecord, Record, parse
from replicator.errors import CheckpointError, ConfigError, CorruptRecord

__all__ = ["Checkpoint", "Loaded", "Step"]

_logger = logging.getLogger(__name__)

#: In the header of the file: "Rckp", so that nobody's other database is taken for ours.
APPLICATION_ID = 0x52636B70

#: Raised with every change of `_SCHEMA` or of `_Saved` that an older program cannot read.
FORMAT_VERSION = 1

_SCHEMA = """
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- link: the hash over this row and all before it
CREATE TABLE change (
    term INTEGER, n INTEGER, link TEXT NOT NULL, header BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (term, n)
) WITHOUT ROWID;
CREATE TABLE part (snapshot INTEGER, part INTEGER, body BLOB NOT NULL, PRIMARY KEY (snapshot, part)) WITHOUT ROWID;
COMMIT;
"""

#: Bytes that a WAL keeps once it was written back. It is written back every 1000 pages (4 MiB, SQLite's default), and
#: grows beyond that only for one large save.
_WAL_BYTES_KEPT = 8 * 1024 * 1024

_SETTINGS = (
    # Nobody else has business in the file while a node runs, even if the lock file was deleted. It also saves the -shm.
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    # Without these, fsync on macOS does not reach the disk. Elsewhere they do nothing.
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
    f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}",
    # Some builds overwrite what is deleted with zeros: twice the writing for each snapshot.
    "PRAGMA secure_delete = OFF",
)

#: Rows in one go, so that reading long runs holds the lock for short times.
_ROWS_AT_ONCE = 64

_REPLACED = "a newer snapshot took its place while it was read; read it again"

#: The verdicts with which the last part of a complete snapshot belongs to the history that the state has.
_ADOPTING = (Verdict.SKIP, Verdict.LEAD, Verdict.RESTORE)

#: SQLite's primary result codes that speak of the disk and the system, and not of what the file holds.
_OF_THE_SYSTEM = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_AUTH,
    }
)


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
        self.data_dir = data_dir
        self.path = data_dir / "checkpoint.sqlite"
        self.set_aside: Path | None = None
        self._mutex = threading.RLock()
        self._db: sqlite3.Connection | None = None
        with _translated(self.data_dir):
            _make_directory(data_dir)
            self._lock = _DirectoryLock(data_dir)
        try:
            with _translated(self.path):
                self._saved = self._checked(group, node) or self._begun(group, node)
                self._db = _connect(self.path)
        except BaseException:
            self.close()
            raise

    # --- reading ---

    def load(self) -> Loaded | None:
        """What the last save said, or None: a new node, or one whose checkpoint was set aside."""
        saved = self._saved
        return None if saved.view is None else Loaded(saved.view, saved.boot, saved.group)

    def payload(self) -> Iterator[Any] | None:
        """The pieces of the newest complete snapshot, decoded as they are drawn; None if there never was one."""
        payload = self._saved.payload
        return None if payload is None else self._pieces(payload, self._number())

    def _pieces(self, payload: _Payload, number: int) -> Iterator[Any]:
        try:
            decoder = SnapshotDecoder(payload.codec, payload.digest, id_=str(payload.as_of.id))
            yield from decoder.pieces(self._bodies(payload.number, payload.run.rows, number))
        except CorruptRecord as problem:
            # Its bytes are as they came (that was checked), so its writer made it wrong.
            hint = "move the file away, and the node rebuilds itself from the log"
            raise CheckpointError(
                path=self.path, problem=f"its snapshot cannot be decoded ({problem}); {hint}"
            ) from None

    def changes(self) -> Iterator[ChangeRecord]:
        """The changes that the payload does not contain, in order; without a payload, all since the beginning."""
        number, last = self._number(), ZERO_ID
        while rows := self._rows(
            "SELECT term, n, header, body FROM change WHERE (term, n) > (?, ?) ORDER BY term, n LIMIT ?",
            (*last, _ROWS_AT_ONCE),
            number,
        ):
            for term, n, header, body in rows:
                last = RecordId(term, n)
                record = parse(str(last), header, body)
                assert isinstance(record, ChangeRecord)
                yield record

    def staged(self) -> Iterator[bytes]:
        """The bodies of the parts of the snapshot that is passing by, in order, as far as they were saved."""
        staged = self._saved.staged
        return self._bodies(staged.number, staged.run.rows, staged.number)

    def _bodies(self, snapshot: int, count: int, number: int) -> Iterator[bytes]:
        for part in range(count):
            rows = self._rows("SELECT body FROM part WHERE (snapshot, part) = (?, ?)", (snapshot, part), number)
            if not rows:
                raise CheckpointError(path=self.path, problem=_REPLACED)
            yield rows[0][0]

    def _rows(self, query: str, values: tuple[int, ...], number: int) -> list[tuple[Any, ...]]:
        with self._mutex, _translated(self.path):
            if number != self._number():
                raise CheckpointError(path=self.path, problem=_REPLACED)
            return self._connection.execute(query, values).fetchall()

    def _number(self) -> int:
        """Which payload the rows belong to: it moves with each snapshot that becomes one."""
        return self._saved.staged.number

    @property
    def changes_bytes(self) -> int:
        """Bytes of the bodies of all changes since the payload."""
        return self._saved.changes.size

    @property
    def payload_bytes(self) -> int:
        """Bytes of the bodies of the payload's parts."""
        return self._saved.payload.run.size if self._saved.payload else 0

    # --- writing ---

    def save(self, view: View, steps: Sequence[Step] = (), *, boot: str) -> None:
        """Write what was folded since the last save, and the view after it, in one transaction.

        `steps` are all records since then, in order: also those that only move the view. Raises `CheckpointError` if
        the disk refuses: nothing was saved then, and the same may be tried again. `ValueError`: parts are missing.
        """
        with self._mutex:
            with self._transaction() as db:
                draft = _Draft(db, self._saved)
                for step in steps:
                    draft.take(step)
                saved = draft.finish(view, boot)
            self._saved = saved
            self._lock.mark(saved.save)

    def write_fork(self, reason: str) -> Path:
        """Copy the whole checkpoint into `forks/`, with `reason` in its table `meta`; where it is then.

        On disk when this returns. Raises `CheckpointError`.
        """
        with self._mutex, _translated(self.data_dir / "forks"):
            forks = self.data_dir / "forks"
            _make_directory(forks)
            draft = forks / "new.sqlite"
            _discard(draft)  # of a process that was killed here
            _create_file(draft)
            self._connection.execute("VACUUM INTO ?", (str(draft),))
            _write_reason(draft, reason)
            at = self._saved.view.position.id if self._saved.view else ZERO_ID
            path = _unused(forks / f"{_utc_now()}-{at}.sqlite")
            _publish(draft, path)
            return path

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _translated(self.path):
            db = self._connection
            db.execute("BEGIN")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite rolls back by itself after some errors
                    db.execute("ROLLBACK")
                raise

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise CheckpointError(path=self.path, problem="it was closed")
        return self._db

    # --- beginning and end ---

    def _checked(self, group: str, node: str) -> _Saved | None:
        """What the file holds; None if there is none, or one that had to be set aside."""
        _discard(self.data_dir / _NEW)  # of a process that was killed while it began a file
        if not _exists(self.path):
            return None
        try:
            saved = _inspect(self.path)
            if saved.save < self._lock.marked:
                raise _Damaged(f"its newest saves are missing: it has {saved.save} of {self._lock.marked}")
        except _Damaged as problem:
            self.set_aside = _put_aside(self.path)
            hint = "The node rebuilds itself from the log."
            _logger.error("%s is damaged (%s) and was set aside as %s. %s", self.path, problem, self.set_aside, hint)
            return None
        _check_owner(self.path, saved, group, node)
        return saved

    def _begun(self, group: str, node: str) -> _Saved:
        saved = _Saved(group=group, node=node)
        self._lock.mark(0)
        _begin(self.data_dir / _NEW, saved)
        _publish(self.data_dir / _NEW, self.path)
        return saved

    def close(self) -> None:
        """Close the file and release the directory. Nothing is lost without it."""
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
        self.close()


# --- what is saved beside the rows ------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """Rows in order: how many, the bytes of their bodies, the hash over them all."""

    rows: int = 0
    size: int = 0
    link: str = ZERO_CHAIN

    def with_row(self, key: str, header: bytes, body: bytes) -> _Run:
        # The lengths are in it because a flipped bit in a row's own header moves the border between two columns.
        place = f"{key} {len(header)} {len(body)} ".encode()
        return _Run(self.rows + 1, self.size + len(body), extend_chain(self.link, place + header, body))


class _Staged(NamedTuple):
    """The parts that passed by of a snapshot that is not complete."""

    number: int = 1
    run: _Run = _Run()


class _Payload(NamedTuple):
    """A complete snapshot: the parts with this number, and what its records said of it."""

    number: int
    run: _Run
    as_of: Position
    changed: RecordId
    codec: str
    digest: str
    replaces: bool


class _Saved(NamedTuple):
    """All that a save writes, but for the rows. `base`: the hash over the changes that were deleted since the start."""

    group: str
    node: str
    boot: str = ""
    save: int = 0
    view: View | None = None
    base: str = ZERO_CHAIN
    changes: _Run = _Run()
    staged: _Staged = _Staged()
    payload: _Payload | None = None

    def to_bytes(self) -> bytes:
        fields = self._asdict() | {
            "view": None if self.view is None else _view_to_json(self.view),
            "payload": None if self.payload is None else _payload_to_json(self.payload),
        }
        encoded = orjson.dumps(fields, default=list)  # named tuples are arrays
        return digest_of(encoded).encode() + encoded

    @classmethod
    def from_bytes(cls, data: bytes) -> _Saved:
        """Raises `_Damaged`."""
        digest, encoded = data[:32], data[32:]
        if digest_of(encoded).encode() != digest:
            raise _Damaged("what it says of itself does not fit its digest")
        try:
            return _saved_from_json(orjson.loads(encoded))
        except (ValueError, ConfigError) as problem:
            raise _Damaged(f"what it says of itself cannot be read: {problem}") from None


def _view_to_json(view: View) -> dict[str, Any]:
    return {
        "log_id": view.log_id,
        "term": view.term,
        "holder": view.holder,
        "position": str(view.position),
        "changed": str(view.changed),
        "in_sync": view.in_sync,
        "diverged": view.diverged,
        "cursor": str(view.cursor),
        "snapshot": None if view.snapshot is None else _progress_to_json(view.snapshot),
    }


def _progress_to_json(progress: Progress) -> dict[str, Any]:
    return progress._asdict() | {"as_of": str(progress.as_of), "before": str(progress.before)}


def _payload_to_json(payload: _Payload) -> dict[str, Any]:
    return payload._asdict() | {"as_of": str(payload.as_of), "changed": str(payload.changed)}


# The way back is strict: a field that is missing, foreign or of another type is an error (ValueError, ConfigError). A
# default in its place could be term 0.


def _saved_from_json(value: object) -> _Saved:
    fields = _object(
        value, group=str, node=str, boot=str, save=int, view=_OPTIONAL, base=str, changes=list, staged=list,
        payload=_OPTIONAL,
    )  # fmt: skip
    number, run = _array(fields["staged"], int, list)
    return _Saved(**fields | {
        "view": None if fields["view"] is None else _view_from_json(fields["view"]),
        "changes": _run_from_json(fields["changes"]),
        "staged": _Staged(number, _run_from_json(run)),
        "payload": None if fields["payload"] is None else _payload_from_json(fields["payload"]),
    })  # fmt: skip


def _view_from_json(value: object) -> View:
    fields = _object(
        value, log_id=str, term=int, holder=list, position=str, changed=str, in_sync=bool, diverged=bool, cursor=str,
        snapshot=_OPTIONAL,
    )  # fmt: skip
    return View(**fields | {
        "holder": Holder(*_array(fields["holder"], str, str, str)),
        "position": Position.parse(fields["position"]),
        "changed": RecordId.parse(fields["changed"]),
        "cursor": Position.parse(fields["cursor"]),
        "snapshot": None if fields["snapshot"] is None else _progress_from_json(fields["snapshot"]),
    })  # fmt: skip


def _progress_from_json(value: object) -> Progress:
    fields = _object(value, writer=list, as_of=str, before=str, next_part=int, complete=bool)
    return Progress(**fields | {
        "writer": Writer(*_array(fields["writer"], str, str)),
        "as_of": Position.parse(fields["as_of"]),
        "before": Position.parse(fields["before"]),
    })  # fmt: skip


def _payload_from_json(value: object) -> _Payload:
    fields = _object(value, number=int, run=list, as_of=str, changed=str, codec=str, digest=str, replaces=bool)
    return _Payload(**fields | {
        "run": _run_from_json(fields["run"]),
        "as_of": Position.parse(fields["as_of"]),
        "changed": RecordId.parse(fields["changed"]),
    })  # fmt: skip


def _run_from_json(value: object) -> _Run:
    return _Run(*_array(value, int, int, str))


#: For a field that may be null, and is looked at further otherwise.
_OPTIONAL = object


def _object(value: object, **kinds: type) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise ValueError(f"not an object with exactly {', '.join(kinds)}")
    for name, kind in kinds.items():
        if kind is not _OPTIONAL and type(value[name]) is not kind:
            raise ValueError(f"{name} is not {kind.__name__}")
    return value


def _array(value: object, *kinds: type) -> list[Any]:
    if not isinstance(value, list) or [type(item) for item in value] != list(kinds):
        raise ValueError(f"not an array of {', '.join(kind.__name__ for kind in kinds)}")
    return value


# --- one save ---------------------------------------------------------------------------------------------------------


class _Draft:
    """A save while its transaction is open: rows go out as steps are taken, `finish` writes the rest."""

    def __init__(self, db: sqlite3.Connection, before: _Saved) -> None:
        self._db = db
        self._before = before
        self._base = before.base
        self._changes = before.changes
        self._staged = before.staged
        self._payload = before.payload
        # Changes go out together: at the end, or before rows are deleted.
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
            self._waiting.append((*record.id, self._changes.link, record.header, record.body))
        if self._staged.run.rows and not _parts_under_way(step.view):
            self._clear_staged()

    def finish(self, view: View, boot: str) -> _Saved:
        if self._staged.run.rows != _parts_under_way(view):
            # Saved like this, the snapshot could never be completed, or would be completed with a hole in it.
            raise ValueError(f"{self._staged.run.rows} parts are staged, the view says {_parts_under_way(view)}")
        self._flush()
        saved = self._before._replace(
            boot=boot,
            save=self._before.save + 1,
            view=view,
            base=self._base,
            changes=self._changes,
            staged=self._staged,
            payload=self._payload,
        )
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'saved'", (saved.to_bytes(),))
        return saved

    def _stage(self, record: PartRecord) -> None:
        if record.part == 0:
            self._clear_staged()
        number, run = self._staged
        if run.rows != record.part:
            raise ValueError(f"part {record.part} of a snapshot was given to save, but {run.rows} parts before it")
        self._db.execute("INSERT INTO part VALUES (?, ?, ?)", (number, record.part, record.body))
        self._staged = _Staged(number, run.with_row(str(record.part), b"", record.body))

    def _clear_staged(self) -> None:
        number, run = self._staged
        if run.rows:
            self._db.execute("DELETE FROM part WHERE snapshot = ?", (number,))
            self._staged = _Staged(number)

    def _adopt(self, last: PartRecord, *, all_changes: bool) -> None:
        number, run = self._staged
        if self._payload is not None:
            self._db.execute("DELETE FROM part WHERE snapshot = ?", (self._payload.number,))
        self._payload = _Payload(number, run, last.as_of, last.changed, last.codec, last.digest, last.replaces)
        self._staged = _Staged(number + 1)
        self._flush()
        if all_changes:
            self._db.execute("DELETE FROM change")
            self._base, self._changes = ZERO_CHAIN, _Run()
        else:
            self._delete_changes(last.as_of.id)

    def _delete_changes(self, upto: RecordId) -> None:
        db = self._db
        of_last = "SELECT link FROM change WHERE (term, n) <= (?, ?) ORDER BY term DESC, n DESC LIMIT 1"
        last = db.execute(of_last, upto).fetchone()
        if last is None:
            return
        db.execute("DELETE FROM change WHERE (term, n) <= (?, ?)", upto)
        count, size = db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM change").fetchone()
        self._base, self._changes = last[0], _Run(count, size, self._changes.link)

    def _flush(self) -> None:
        if self._waiting:
            self._db.executemany("INSERT INTO change VALUES (?, ?, ?, ?, ?)", self._waiting)
            self._waiting.clear()


def _parts_under_way(view: View) -> int:
    return view.snapshot.next_part if view.snapshot is not None and not view.snapshot.complete else 0


# --- looking at a file that is there ----------------------------------------------------------------------------------


class _Damaged(Exception):
    """The file can be read, and is not what was written."""


def _inspect(path: Path) -> _Saved:
    """Check everything in the file. Changes nothing. Raises `_Damaged`, or `CheckpointError` for what is not ours."""
    if not path.exists():
        raise _Damaged("only what SQLite keeps beside it is there")
    _check_header(path)
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return _verified(db)
    except sqlite3.Error as error:
        if _code(error) in _OF_THE_SYSTEM:
            raise
        raise _Damaged(str(error)) from None


def _check_header(path: Path) -> None:
    # Read without SQLite, which would open the file's WAL. Places: sqlite.org/fileformat.html, 1.3. Opened for writing
    # because SQLite takes a file that it may not write without a word, and then fails at something else.
    with path.open("r+b") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise _Damaged("it is not an SQLite file")
    version, application = int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big")
    if application != APPLICATION_ID:
        hint = "move it away, or give this node another data directory"
        raise CheckpointError(path=path, problem=f"it belongs to another program; {hint}")
    if version > FORMAT_VERSION:
        hint = "update replicator, or give this node another data directory"
        raise CheckpointError(
            path=path, problem=f"its format is {version}, this program reads {FORMAT_VERSION}; {hint}"
        )
    if version < FORMAT_VERSION:
        raise _Damaged(f"there is no format {version}")


def _verified(db: sqlite3.Connection) -> _Saved:
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _Damaged(str(found))
    row = db.execute("SELECT value FROM meta WHERE key = 'saved'").fetchone()
    if row is None:
        raise _Damaged("what it says of itself is missing")
    saved = _Saved.from_bytes(_blob(row[0]))
    if saved.view is not None and saved.staged.run.rows != _parts_under_way(saved.view):
        raise _Damaged("the parts that it has are not those of its view")
    _check_changes(db, saved)
    _check_parts(db, saved)
    return saved


def _check_changes(db: sqlite3.Connection, saved: _Saved) -> None:
    run = _Run(link=saved.base)
    for term, n, link, header, body in db.execute("SELECT * FROM change ORDER BY term, n"):
        run = run.with_row(f"{term}-{n}", _blob(header), _blob(body))
        if link != run.link:
            raise _Damaged(f"its change {term}-{n} is not the one that was saved")
    if run != saved.changes:
        raise _Damaged("its changes are not those that were saved")


def _check_parts(db: sqlite3.Connection, saved: _Saved) -> None:
    runs: dict[int, _Run] = {}
    for snapshot, part, body in db.execute("SELECT * FROM part ORDER BY snapshot, part"):
        runs[snapshot] = runs.get(snapshot, _Run()).with_row(str(part), b"", _blob(body))
    wanted = {saved.staged.number: saved.staged.run} if saved.staged.run.rows else {}
    if saved.payload is not None:
        wanted[saved.payload.number] = saved.payload.run
    if runs != wanted:
        raise _Damaged("its snapshot is not the one that was saved")


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _Damaged("a value in it is not bytes")
    return value


def _check_owner(path: Path, saved: _Saved, group: str, node: str) -> None:
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
        _sync(path.parent)
    return aside


# --- files ------------------------------------------------------------------------------------------------------------

_NEW = "checkpoint.sqlite.new"

#: A database file, and what SQLite may have beside it.
_SUFFIXES = ("", "-wal", "-shm", "-journal")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for setting in _SETTINGS:
            db.execute(setting)
    except BaseException:
        db.close()
        raise
    return db


def _begin(path: Path, saved: _Saved) -> None:
    _create_file(path)
    with contextlib.closing(_connect(path)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        db.executescript(_SCHEMA)
        db.execute("INSERT INTO meta VALUES ('saved', ?)", (saved.to_bytes(),))


def _write_reason(path: Path, reason: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO meta VALUES ('reason', ?)", (reason,))


def _exists(path: Path) -> bool:
    """Whether a database of that name is there, or any of its files."""
    return any(os.path.lexists(f"{path}{suffix}") for suffix in _SUFFIXES)


def _discard(path: Path) -> None:
    for suffix in _SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True)
        _sync(path.parent)


def _create_file(path: Path) -> None:
    # SQLite would create it readable for everybody; its -wal takes the mode of the file.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _publish(draft: Path, path: Path) -> None:
    """Give a whole file its name, so that it is there after a power cut too."""
    _sync(draft)
    os.rename(draft, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    """The lock on a data directory; in its file stand who has it, and the number of the last save (`marked`)."""

    _TEXT = re.compile(rb"pid +(\d+)\nsave (\d{20})\n")

    def __init__(self, data_dir: Path) -> None:
        self._file = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take(data_dir)
            found = self._found()
            #: 0 where nothing can be said: no file, or one that a power cut emptied.
            self.marked = int(found[2]) if found else 0
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


def _explained(error: sqlite3.Error, path: Path) -> str:
    code = _code(error)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return f"{error} ({_free(path)}); nothing was saved"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"{error}; restart the node: it sets the file aside and rebuilds itself from the log"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{error}: another program has the file open; close it"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"{error}; this user needs to read and write the file and its directory"
    return str(error)


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free on that disk"
    except OSError as error:
        return f"how much is free cannot be said: {error.strerror}"


def _code(error: sqlite3.Error) -> int:
    """The primary result code. Errors that Python raises by itself (text that is not UTF-8) count as damage."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)) & 0xFF
