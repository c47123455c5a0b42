"""An SQLite database as a state that is replicated whole, while programs use it.

On the primary any program writes it; `Node.publish` sends the pages that changed. On a standby it becomes what was
published, and programs may read it.

**Read** by SQLite's own backup, in one step: a copy of one moment, of whatever the writers have committed by then, also
in WAL mode. Writers wait for it if the database is not in WAL mode. A copy has its pages where the database has them,
so what did not change is not sent. (VACUUM would move them all.)

**Written** by the backup as well, into the database that is there, in one transaction. So programs that have it open
see the old content until then and the new one from their next statement on, and no side file of SQLite's is left to a
file that it does not belong to, which is what renaming another database to its place would do. It waits for programs
that are in the middle of a transaction, for `busy_s` at most. The journal mode of either database is its own business.

What a database has in its header for its own sake (counters of changes, the version of the library, the journal mode)
is left out of what is replicated: equal contents are equal on all nodes.

**Nothing is lost silently**, as in `file.py`: a database that is about to be overwritten, and is neither what was
restored nor what was published, is copied to `PATH.replaced-<UTC time>`. So is a file that is no database.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import xxhash

from replicator.errors import StateError

from .beside import draft_of, explained, sync, unused

__all__ = ["SQLiteState"]

PIECE_BYTES = 1024 * 1024

#: How long programs may keep the database locked.
BUSY_S = 30.0

#: How soon it is tried again.
BUSY_AGAIN_S = 0.05

#: What belongs to a file and not to its content (sqlite.org/fileformat.html, 1.3), and what stands there instead.
#: Journal modes: rollback. The two counters of changes are equal, or the size in the header would not be believed.
_OF_THE_FILE = ((18, b"\x01\x01"), (24, bytes(4)), (40, b"\0\0\0\x01"), (92, bytes(8)))

#: In the place of a digest.
_NO_DATABASE = "no database"

#: A database, and what SQLite may have beside it.
_SUFFIXES = ("", "-wal", "-journal")


class SQLiteState:
    """The database at `path`. It need not be there yet on a standby; on the primary it has to be, to be published."""

    def __init__(self, path: str | Path, *, busy_s: float = BUSY_S) -> None:
        self.path = Path(path)
        self._busy_s = busy_s
        #: What is known to be published: what the files looked like, and the digest of the content.
        self._known: tuple[object, str] | None = None
        self._drawn: tuple[object, str] | None = None
        self._copying = threading.Lock()

    def seen(self) -> object:
        """Something that is another one once a transaction was committed. Raises `StateError` if it cannot be said."""
        with explained(self.path):
            self.path.stat()
            return tuple(map(self._seen, _SUFFIXES))

    def _seen(self, suffix: str) -> tuple[int, int, int] | None:
        try:
            found = os.stat(f"{self.path}{suffix}")
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    # --- what a node asks for ---

    def survived(self) -> bool:
        """Whether the database is there."""
        return self.path.exists()

    def published(self) -> None:
        """What the last snapshot gave is published."""
        self._known = self._drawn

    def snapshot(self) -> Iterator[bytes]:
        """The database as it is when the first piece is drawn."""
        with explained(self.path):
            self.path.stat()
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        seen = self.seen()
        digest = xxhash.xxh3_128()
        with self._copied() as copy:
            for piece in _pieces_of(copy):
                digest.update(piece)
                yield piece
        # Of before the copy: what was committed since shows.
        self._drawn = seen, digest.hexdigest()

    def _copied(self) -> IO[bytes]:
        """A copy that has no name any more: several may be drawn at the same time."""
        with self._copying:
            copy = draft_of(self.path, "copy")
            try:
                self._copy(copy)
                with explained(copy):
                    return copy.open("rb")
            finally:
                _discard(copy)

    def _copy(self, copy: Path) -> None:
        """Raises `StateError`; `sqlite3.DatabaseError` in it means that the file is no database."""
        with self._translated(), closing(self._opened("rw")) as source, closing(sqlite3.connect(copy)) as target:
            # It is read once, here, and removed.
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            self._backup(source, target)

    def _opened(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_AGAIN_S, isolation_level=None)

    def _backup(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._busy_s

        def check(status: int, remaining: int, total: int) -> None:
            # Of itself it would wait for ever.
            if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
                problem = f"a program has had a transaction open for {self._busy_s:g} s"
                raise StateError(path=self.path, problem=problem)

        source.backup(target, progress=check, sleep=BUSY_AGAIN_S)

    def restore(self, pieces: Iterable[Any]) -> None:
        """Become what `pieces` say. Raises `StateError`; the database is what it was then."""
        draft = draft_of(self.path)
        kept = draft_of(self.path, "kept")
        try:
            known, content = self._known_or_kept(kept)
            digest = self._write(draft, pieces)
            if digest is None:
                return  # nothing was ever published
            if content != digest:
                if content == _NO_DATABASE:
                    self._put_aside()
                elif content not in ("", known):
                    with explained(self.path):
                        os.replace(kept, unused(self.path))
                self._swap(draft)
            self._known = self.seen(), digest
        finally:
            _discard(draft)
            _discard(kept)

    def _known_or_kept(self, kept: Path) -> tuple[str, str]:
        """The digest that is known to be published, and that of what is there, copied to `kept` if it is another."""
        known = self._known[1] if self._known is not None else ""
        if not self.survived():
            return known, ""
        if self._known is not None and self.seen() == self._known[0]:
            return known, known
        try:
            self._copy(kept)
        except StateError as error:
            if not isinstance(error.__cause__, sqlite3.DatabaseError) or isinstance(
                error.__cause__, sqlite3.OperationalError
            ):
                raise
            return known, _NO_DATABASE
        with explained(kept), kept.open("rb") as file:
            return known, _digest(file)

    def _put_aside(self) -> None:
        """Move away what is there, with what may belong to it."""
        aside = unused(self.path)
        with explained(self.path):
            for suffix in _SUFFIXES:
                with suppress(FileNotFoundError):
                    os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")

    def _write(self, draft: Path, pieces: Iterable[Any]) -> str | None:
        digest = xxhash.xxh3_128()
        some = False
        with explained(draft):
            file = draft.open("xb", buffering=0)
        with file:
            for piece in pieces:
                if not isinstance(piece, bytes):
                    raise StateError(path=self.path, problem="the group replicates something else than a database")
                some = True
                digest.update(piece)
                left = memoryview(piece)
                with explained(self.path):
                    while left:
                        left = left[file.write(left) :]
        return digest.hexdigest() if some else None

    def _swap(self, draft: Path) -> None:
        new = not self.survived()
        with self._translated(), closing(sqlite3.connect(draft)) as source, closing(self._opened("rwc")) as target:
            self._backup(source, target)
        if new:
            with explained(self.path):
                sync(self.path.parent)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            problem = str(error)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_READONLY:
                problem += "; a database in WAL mode cannot take one of another page size"
            raise StateError(path=self.path, problem=problem) from error


def _pieces_of(copy: IO[bytes]) -> Iterator[bytes]:
    # A database without a table has no page.
    first = copy.read(PIECE_BYTES)
    yield _normal(first) if first else b""
    while piece := copy.read(PIECE_BYTES):
        yield piece


def _normal(first: bytes) -> bytes:
    page = bytearray(first)
    for place, value in _OF_THE_FILE:
        page[place : place + len(value)] = value
    return bytes(page)


def _digest(copy: IO[bytes]) -> str:
    digest = xxhash.xxh3_128()
    for piece in _pieces_of(copy):
        digest.update(piece)
    return digest.hexdigest()


def _discard(path: Path) -> None:
    for suffix in (*_SUFFIXES, "-shm"):
        with suppress(OSError):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
