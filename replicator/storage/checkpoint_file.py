"""What is in a checkpoint file, how it is checked, and how its rows are read.

**What is kept.** Everything but rows of bytes is one JSON value, `Saved`, written whole by each save that is more than
changes. Changes are rows, as they came. So are the parts of snapshots: those of the *payload* (the newest complete
snapshot) and those *staged* (of a snapshot that is passing by). Both have a number, so a complete snapshot becomes the
payload by its number and no byte is copied.

**What is given up is deleted a little later**, a slice at a time (`Leavings`): changes up to an id that stands beside
`Saved`, and the parts of snapshots that are neither the payload nor staged. Nobody reads such rows, and nothing is said
of them.

**Nothing is believed that was not checked.** `Saved` carries its digest. Each run of rows carries a hash over its ids,
headers and bodies, so a row that is missing, repeated or changed shows.

**Two failures are kept apart.** A file that can be read and is wrong is *damaged*. One that cannot be read, or is not
ours, is an error and says nothing about what the file holds.

**Anybody may have made it.** A fork, or a copy, may come from another machine. It is opened as `untrusted_sqlite.py`
says: it must have our tables by the very words that make them, and nothing else.

`checkpoint.py` writes these files. `checkpoint_reader.py` reads one that nobody writes any more.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from replicator.errors import CheckpointError, ConfigError, CorruptRecord
from replicator.format.acts import decode_act
from replicator.format.codec import SnapshotDecoder, digest_of, ledger_in
from replicator.format.ids import TERM_MAX, ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer, extend_chain, new_tuple
from replicator.format.records import CLOSED, ChangeRecord, Opens, parse
from replicator.format.snapshot_parts import Progress
from replicator.format.term_ends import parse_ends, show_ends
from replicator.format.unpacked_size import SNAPSHOT_BYTES_MAX
from replicator.protocol.fold import Holder, Verdict, View, step
from replicator.storage.kept_parts import opened_part
from replicator.storage.untrusted_sqlite import Guarded, NotAsItShouldBe, head_of

__all__ = [
    "APPLICATION_ID",
    "FORMAT_SEALED",
    "FORMAT_VERSION",
    "GIVEN_UP",
    "OF_THE_SYSTEM",
    "REPLACED",
    "ROWS_AT_ONCE",
    "SCHEMA",
    "Damaged",
    "Leavings",
    "Payload",
    "Rows",
    "Run",
    "Saved",
    "Staged",
    "as_damage",
    "base_version_of",
    "bodies_in",
    "changes_in",
    "code_of",
    "inspect",
    "opened",
    "parts_under_way",
    "with_digest",
]

#: In the header of the file: "Rckp", so that nobody's other database is taken for ours.
APPLICATION_ID = 0x52636B70

#: Raised with every change of `SCHEMA` or of `Saved` that an older program cannot read.
FORMAT_VERSION = 1

#: Of a file in which there may be sealed records: for a program that knows of no keys they would be damage, and this
#: number has it say that it is to be updated. Everything else is the same.
FORMAT_SEALED = 2

SCHEMA = """
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- link: the hash over this row and all before it
CREATE TABLE change (
    term INTEGER, n INTEGER, link TEXT NOT NULL, header BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (term, n)
) WITHOUT ROWID;
CREATE TABLE part (snapshot INTEGER, part INTEGER, body BLOB NOT NULL, PRIMARY KEY (snapshot, part)) WITHOUT ROWID;
COMMIT;
"""

#: Rows in one go, so that reading long runs holds the lock for short times.
ROWS_AT_ONCE = 64

REPLACED = "a newer snapshot took its place while it was read; read it again"

#: SQLite's primary result codes that speak of the disk and the system, and not of what the file holds.
OF_THE_SYSTEM = frozenset(
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


# --- what is saved beside the rows ------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Rows in order: how many, the bytes of their bodies, the hash over them all."""

    rows: int = 0
    size: int = 0
    link: str = ZERO_CHAIN

    def with_row(self, key: str, header: bytes, body: bytes) -> Run:
        # The lengths are in it because a flipped bit in a row's own header moves the border between two columns.
        place = f"{key} {len(header)} {len(body)} ".encode()
        rows, size, link = self
        return new_tuple(Run, (rows + 1, size + len(body), extend_chain(link, place + header, body)))


class Staged(NamedTuple):
    """The parts that passed by of a snapshot that is not complete."""

    number: int = 1
    run: Run = Run()


class Payload(NamedTuple):
    """A complete snapshot: the parts with this number, and what its records said of it."""

    number: int
    run: Run
    as_of: Position
    changed: RecordId
    codec: str
    digest: str
    replaces: bool
    version: int = 1
    #: Then its digest is sealed, too, and not written down: `with_digest` opens it.
    is_sealed: bool = False

    @property
    def last_change(self) -> RecordId:
        """The newest change that is in it. One that replaced the state is a change itself, at its last part."""
        if not self.replaces:
            return self.changed
        # Older programs wrote down the change before it. Nothing came between such parts, and their writer led when it
        # began them: `as_of` was in their term.
        return max(self.changed, RecordId(self.as_of.id.term, self.as_of.id.n + self.run.rows))

    def pieces(self, bodies: Iterable[bytes], *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX) -> Iterator[Any]:
        """The pieces of the state. Raises `CorruptRecord` if its writer made it wrong, or heavier than that."""
        decoder = SnapshotDecoder(self.codec, self.digest, id_=str(self.as_of.id), most=snapshot_bytes_max)
        return decoder.pieces(bodies)

    def ledger(self, bodies: Iterable[bytes]) -> bytes:
        """What the library keeps beside the state; empty: nothing. Raises `CorruptRecord`."""
        return ledger_in(self.codec, bodies, id_=str(self.as_of.id))


class Saved(NamedTuple):
    """All that a save writes, but for the rows. `base`: the hash over the changes that were deleted since the start.

    A save of nothing but changes that follow writes their rows alone: what they make of `view` and `changes` is worked
    out again when the file is opened. That is a page or two of 4 KiB less to write for a change.
    """

    group: str
    node: str
    boot: str = ""
    save: int = 0
    view: View | None = None
    base: str = ZERO_CHAIN
    changes: Run = Run()
    staged: Staged = Staged()
    payload: Payload | None = None

    def to_bytes(self) -> bytes:
        fields = self._asdict() | {
            "view": None if self.view is None else _view_to_json(self.view),
            "payload": None if self.payload is None else _payload_to_json(self.payload),
        }
        encoded = orjson.dumps(fields, default=list)  # named tuples are arrays
        return digest_of(encoded).encode() + encoded

    @classmethod
    def from_bytes(cls, data: bytes) -> Saved:
        """Raises `Damaged`."""
        digest, encoded = data[:32], data[32:]
        if digest_of(encoded).encode() != digest:
            raise Damaged("what it says of itself does not fit its digest")
        try:
            return _saved_from_json(orjson.loads(encoded))
        except (ValueError, ConfigError) as problem:
            raise Damaged(f"what it says of itself cannot be read: {problem}") from None


#: Where it stands in the table `meta` up to which id changes are given up, if some are.
GIVEN_UP = "given_up"


class Leavings(NamedTuple):
    """Rows that are to be deleted: changes up to an id, and whether there are parts of snapshots that nobody needs."""

    changes: RecordId = ZERO_ID
    parts: bool = False


# A version is written down only where there is more than one: a file of before is read, and one without is read by
# programs of before.


def _view_to_json(view: View) -> dict[str, Any]:
    return _version_to_json(view.version) | {
        "log_id": view.log_id,
        "term": view.term,
        "holder": view.holder,
        "position": str(view.position),
        "changed": str(view.changed),
        "in_sync": view.in_sync,
        "ends": show_ends(view.ends),
        "cursor": str(view.cursor),
        "snapshot": None if view.snapshot is None else _progress_to_json(view.snapshot),
    }


def _progress_to_json(progress: Progress) -> dict[str, Any]:
    return progress._asdict() | {"as_of": str(progress.as_of), "before": str(progress.before)}


def _payload_to_json(payload: Payload) -> dict[str, Any]:
    fields = payload._asdict() | {"as_of": str(payload.as_of), "changed": str(payload.changed)}
    del fields["version"], fields["is_sealed"]
    if payload.is_sealed:
        fields |= {"digest": "", "sealed": True}
    return fields | _version_to_json(payload.version)


def _version_to_json(version: int) -> dict[str, Any]:
    return {"version": version} if version > 1 else {}


# The way back is strict: a field that is missing, foreign or of another type is an error (ValueError, ConfigError). A
# default in its place could be term 0.


def _saved_from_json(value: object) -> Saved:
    fields = _object(
        value, group=str, node=str, boot=str, save=int, view=_OPTIONAL, base=str, changes=list, staged=list,
        payload=_OPTIONAL,
    )  # fmt: skip
    number, run = _array(fields["staged"], int, list)
    return Saved(**fields | {
        "view": None if fields["view"] is None else _view_from_json(fields["view"]),
        "changes": _run_from_json(fields["changes"]),
        "staged": Staged(number, _run_from_json(run)),
        "payload": None if fields["payload"] is None else _payload_from_json(fields["payload"]),
    })  # fmt: skip


def _version_from_json(value: object) -> tuple[int, object]:
    """The version that is written down, and the rest."""
    if not isinstance(value, dict) or "version" not in value:
        return 1, value
    rest = {name: each for name, each in value.items() if name != "version"}
    (version,) = _array([value["version"]], int)
    return version, rest


def _view_from_json(value: object) -> View:
    version, rest = _version_from_json(value)
    fields = _object(
        rest, log_id=str, term=int, holder=list, position=str, changed=str, in_sync=bool, ends=str, cursor=str,
        snapshot=_OPTIONAL,
    )  # fmt: skip
    return View(**fields | {
        "version": version,
        "holder": Holder(*_array(fields["holder"], str, str, str)),
        "position": Position.parse(fields["position"]),
        "changed": RecordId.parse(fields["changed"]),
        "ends": parse_ends(fields["ends"]),
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


def _payload_from_json(value: object) -> Payload:
    version, rest = _version_from_json(value)
    is_sealed, rest = _sealed_from_json(rest)
    fields = _object(rest, number=int, run=list, as_of=str, changed=str, codec=str, digest=str, replaces=bool)
    return Payload(**fields | {
        "version": version,
        "is_sealed": is_sealed,
        "run": _run_from_json(fields["run"]),
        "as_of": Position.parse(fields["as_of"]),
        "changed": RecordId.parse(fields["changed"]),
    })  # fmt: skip


def _sealed_from_json(value: object) -> tuple[bool, object]:
    """Whether that is written down, and the rest."""
    if not isinstance(value, dict) or "sealed" not in value:
        return False, value
    if value["sealed"] is not True:
        raise ValueError("sealed is not true")
    return True, {name: each for name, each in value.items() if name != "sealed"}


def _run_from_json(value: object) -> Run:
    return Run(*_array(value, int, int, str))


#: For a field that may be null, and is looked at further otherwise.
_OPTIONAL = object


def _object(value: object, **kinds: type) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise ValueError(f"not an object with exactly {', '.join(kinds)}")
    for name, kind in kinds.items():
        if kind is not _OPTIONAL and not _fits(value[name], kind):
            raise ValueError(f"{name} is not {kind.__name__}")
    return value


def _array(value: object, *kinds: type) -> list[Any]:
    if not isinstance(value, list) or len(value) != len(kinds) or not all(map(_fits, value, kinds)):
        raise ValueError(f"not an array of {', '.join(kind.__name__ for kind in kinds)}")
    return value


def _fits(value: object, kind: type) -> bool:
    # No number of ours is larger. SQLite takes none of 64 bits, and JSON none that is counted on from there.
    return type(value) is kind and (not isinstance(value, int) or 0 <= value <= TERM_MAX)


def parts_under_way(view: View) -> int:
    """How many parts a file has staged if this is its view."""
    return view.snapshot.next_part if view.snapshot is not None and view.follows_snapshot else 0


# --- checking a file --------------------------------------------------------------------------------------------------


class Damaged(Exception):
    """The file can be read, and is not what was written."""


def inspect(path: Path) -> tuple[Saved, Leavings]:
    """Check everything in the file, and change nothing; what it holds, and what of it is still to be deleted.

    Raises `Damaged`; `CheckpointError` for what is not ours; `OSError` or `sqlite3.Error` if it cannot be read.
    """
    if not path.exists():
        raise Damaged("only what SQLite keeps beside it is there")
    db, saved, left = opened(path)
    db.close()
    return saved, left


def opened(path: Path) -> tuple[Guarded, Saved, Leavings]:
    _check_header(path)
    with as_damage():
        db = Guarded(path, SCHEMA)
        try:
            return db, *_verified(db)
        except BaseException:
            db.close()
            raise


@contextlib.contextmanager
def as_damage() -> Iterator[None]:
    """What cannot be there in a file of ours."""
    try:
        yield
    except NotAsItShouldBe as problem:
        raise Damaged(str(problem)) from None
    except ValueError as error:
        # Damage in names and texts is found by Python: it is no UTF-8, or a table has other columns.
        raise Damaged(str(error)) from None
    except sqlite3.Error as error:
        if code_of(error) in OF_THE_SYSTEM:
            raise
        raise Damaged(str(error)) from None


def _check_header(path: Path) -> None:
    # Read without SQLite, which would open the file's WAL. Places: sqlite.org/fileformat.html, 1.3.
    header = head_of(path, 100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise Damaged("it is not an SQLite file")
    version, application = int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big")
    if application != APPLICATION_ID:
        hint = "move it away, or give this node another data directory"
        raise CheckpointError(path=path, problem=f"it belongs to another program; {hint}")
    if version > FORMAT_SEALED:
        hint = "update replicator, or give this node another data directory"
        raise CheckpointError(path=path, problem=f"its format is {version}, this program reads {FORMAT_SEALED}; {hint}")
    if version < FORMAT_VERSION:
        raise Damaged(f"there is no format {version}")


def _verified(db: Guarded) -> tuple[Saved, Leavings]:
    for (found,) in db.rows("PRAGMA quick_check(1)"):
        if found != "ok":
            raise Damaged(str(found))
    said = list(db.rows("SELECT value FROM meta WHERE key = 'saved'"))
    if not said:
        raise Damaged("what it says of itself is missing")
    saved = Saved.from_bytes(_blob(said[0][0]))
    _check_staged(saved)
    left = Leavings(_given_up(db), _check_parts(db, saved))
    saved = _with_changes(db, saved, left.changes)
    _check_staged(saved)
    return saved, left


def _check_staged(saved: Saved) -> None:
    if saved.view is not None and saved.staged.run.rows != parts_under_way(saved.view):
        raise Damaged("the parts that it has are not those of its view")


def _given_up(db: Guarded) -> RecordId:
    for (value,) in db.rows("SELECT value FROM meta WHERE key = ?", (GIVEN_UP,)):
        try:
            return RecordId.parse(value)
        except (ConfigError, TypeError):
            raise Damaged("it does not say up to where its changes are given up") from None
    return ZERO_ID


# By their names, as they will be read: damage may also have given a column another.


def _with_changes(db: Guarded, saved: Saved, given_up: RecordId) -> Saved:
    """What it says of itself, once the changes that were saved without saying so are folded."""
    query = "SELECT term, n, link, header, body FROM change WHERE (term, n) > (?, ?) ORDER BY term, n"
    run, view = Run(link=saved.base), saved.view
    is_said = run == saved.changes
    for term, n, link, header, body in db.rows(query, given_up):
        run = run.with_row(f"{term}-{n}", _blob(header), _blob(body))
        if link != run.link:
            raise Damaged(f"its change {term}-{n} is not the one that was saved")
        if is_said:
            view = _folded(view, saved, RecordId(term, n), header, body)
        is_said = is_said or run == saved.changes
    if not is_said:
        raise Damaged("its changes are not those that were saved")
    return saved._replace(view=view, changes=run)


def _folded(view: View | None, saved: Saved, id_: RecordId, header: bytes, body: bytes) -> View:
    try:
        verdict, after = step(view or View(), parse(str(id_), header, body, CLOSED), Writer(saved.node, saved.boot))
    except CorruptRecord as problem:
        raise Damaged(str(problem)) from None
    if verdict is not Verdict.APPLY:
        raise Damaged(f"its change {id_} does not follow the one before")
    return after


def _check_parts(db: Guarded, saved: Saved) -> bool:
    """Whether there are parts of other snapshots, before the one that is staged: those were given up."""
    wanted = {saved.staged.number: saved.staged.run}
    if saved.payload is not None:
        wanted[saved.payload.number] = saved.payload.run
    runs = dict.fromkeys(wanted, Run())
    leavings = False
    for snapshot, part, body in db.rows("SELECT snapshot, part, body FROM part ORDER BY snapshot, part"):
        if snapshot in wanted:
            runs[snapshot] = runs[snapshot].with_row(str(part), b"", _blob(body))
        elif type(snapshot) is int and snapshot < saved.staged.number:
            leavings = True
        else:
            raise Damaged("it has parts of a snapshot that was not saved")
    if runs != wanted:
        raise Damaged("its snapshot is not the one that was saved")
    return leavings


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise Damaged("a value in it is not bytes")
    return value


# --- reading its rows -------------------------------------------------------------------------------------------------

#: Answers a query with its rows; raises `CheckpointError`.
Rows = Callable[[str, tuple[int, ...]], list[tuple[Any, ...]]]


def changes_in(rows: Rows, after: RecordId = ZERO_ID, *, opens: Opens = None) -> Iterator[ChangeRecord]:
    """The changes that the payload does not contain, in order; only those after `after`. Raises `CorruptRecord`.

    `opens`: see `parse`.
    """
    query = "SELECT term, n, header, body FROM change WHERE (term, n) > (?, ?) ORDER BY term, n LIMIT ?"
    last = after
    while found := rows(query, (*last, ROWS_AT_ONCE)):
        for term, n, header, body in found:
            last = RecordId(term, n)
            record = parse(str(last), header, body, opens)
            if not isinstance(record, ChangeRecord):
                raise CorruptRecord(id=str(last), problem=f"it is a {record.kind}, and not a change")
            yield record


def base_version_of(view: View, changes: Callable[[], Iterable[ChangeRecord]]) -> int:
    """The version before all of these changes, if the view is the one after them. Raises `CorruptRecord`."""
    if view.version == 1:
        return 1  # it only ever rises
    raised = (record for record in changes() if record.version)
    for record in raised:
        return int(decode_act(record.payload, record.digest, record.version, id_=str(record.id))["before"])
    return view.version


def bodies_in(
    rows: Rows, snapshot: int, count: int, path: Path, start: int = 0, *, opens: Opens = None
) -> Iterator[bytes]:
    """The payloads of the first `count` parts of the snapshot with this number, but for those before `start`.

    `opens`: see `parse`. Raises `CorruptRecord`.
    """
    for part in range(start, count):
        yield opened_part(_row_of(rows, snapshot, part, path), part, opens, what="the snapshot")[0]


def _row_of(rows: Rows, snapshot: int, part: int, path: Path) -> bytes:
    found = rows("SELECT body FROM part WHERE (snapshot, part) = (?, ?)", (snapshot, part))
    if not found:
        raise CheckpointError(path=path, problem=REPLACED)
    return bytes(found[0][0])


def with_digest(saved: Saved, rows: Rows, given_up: RecordId, path: Path, opens: Opens) -> Saved:
    """What a file says of itself, with what is sealed of that, once it is known that these keys open what it has.

    The end of its snapshot and its first change are tried: where they open, all opens that was written at that time.
    Raises `CheckpointError`.
    """
    payload = saved.payload
    try:
        next(changes_in(rows, given_up, opens=opens), None)
        if payload is None:
            return saved
        last = payload.run.rows - 1
        _, digest = opened_part(_row_of(rows, payload.number, last, path), last, opens, what="the snapshot")
    except CorruptRecord as problem:
        what, why = problem.fields["id"], problem.fields["problem"]
        hint = "give the keys that it was written with, or move it away, and the node rebuilds itself from the log"
        raise CheckpointError(path=path, problem=f"{what} in it cannot be opened: {why}; {hint}") from None
    return saved._replace(payload=payload._replace(digest=digest)) if payload.is_sealed else saved


# --- errors -----------------------------------------------------------------------------------------------------------


def code_of(error: sqlite3.Error) -> int:
    """The primary result code. Errors that Python raises by itself (text that is not UTF-8) count as damage."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)) & 0xFF
