"""An SQLite database as a state that is replicated whole, while programs use it.

On the primary any program writes it; `Node.publish` sends the pages that changed. On a standby it becomes what was
published, and programs may read it.

**Read** by SQLite's own backup, in one step: a copy of one moment, of whatever the writers have committed by then, also
in WAL mode. Writers wait for it if the database is not in WAL mode. A copy has its pages where the database has them,
so what did not change is not sent. (VACUUM would move them all.)

**Written** by the backup as well, into the database that is there, in one transaction. So programs that have it open
see the old content until then and the new one from their next statement on, and no side file of SQLite's is left to a
file that it does not belong to, which is what renaming another database to its place would do. The journal mode of
either database is its own business.

It waits for programs that are in the middle of a transaction for `busy_s`, and raises `StateInUse` then: whoever keeps
the state tries again. In WAL mode a program that reads is in nobody's way. Without WAL one that never stops reading
would keep a standby from taking over for ever, so `restore_in_use`, for a node that is to lead, renames the new
database to the place of the old one. That is safe while nobody writes, which a lock on the old one ensures: programs
that have that one open go on reading it until they open the database anew, and SQLite refuses what they would write to
it (SQLITE_READONLY_DBMOVED).

A database that is not there yet is for its owner alone, or gets `mode`; one that is there keeps its mode. Copies and
drafts are for their owner alone.

**Has it changed?** The time stamps of its files say so (`file_stamps.py`), and SQLite does: the counter of changes in
the header of the database, and what the WAL index says is committed.

What a database has in its header for its own sake (counters of changes, the version of the library, the journal mode)
is left out of what is replicated: equal contents are equal on all nodes.

**Nothing is lost silently**, as in `file.py`: a database that is about to be overwritten, and is neither what was
restored nor what was published, is copied to `PATH.replaced-<UTC time>`, once. So is a file that is no database.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import xxhash

from replicator.errors import StateError, StateInUse
from replicator.storage import disk

from ..runtime.event_log import EventLogger
from .file_stamps import Watch
from .replaced_files import Kept, draft_of, explained, is_kept, stat_of, survived, unused

__all__ = ["BUSY_S", "SQLiteState", "content_digest", "digest_of", "discard", "normal", "pieces_of"]

_logger = EventLogger(__name__)

PIECE_BYTES = 1024 * 1024

#: How long programs may keep the database locked before it is tried again later: the node stands still for so long.
BUSY_S = 1.0

#: How soon it is tried again.
BUSY_AGAIN_S = 0.05

#: What belongs to a file and not to its content (sqlite.org/fileformat.html, 1.3), and what stands there instead.
#: Journal modes: rollback. The two counters of changes are equal, or the size in the header would not be believed.
_OF_THE_FILE = ((18, b"\x01\x01"), (24, bytes(4)), (40, b"\0\0\0\x01"), (92, bytes(8)))

#: Where the counter of changes is (sqlite.org/fileformat.html, 1.3), and what is committed in the WAL (walformat.html,
#: 2.1: the first copy of the header of the index).
_HEADER_BYTES = 100
_INDEX_BYTES = 48

#: In the place of a digest.
_NO_DATABASE = "no database"

#: A database, and what SQLite may have beside it.
_SUFFIXES = ("", "-wal", "-journal")
_WAL = _SUFFIXES.index("-wal")


class SQLiteState:
    """The database at `path`. It need not be there yet on a standby; on the primary it has to be, to be published.

    `busy_s`: how long a transaction of a program is waited for. `mode`: of a database that is not there yet.
    """

    def __init__(self, path: str | Path, *, busy_s: float = BUSY_S, mode: int = disk.PRIVATE) -> None:
        self.path = Path(path)
        self._busy_s = busy_s
        self._mode = mode
        self._watch = Watch()
        self._headers = _Headers(self.path)
        #: A content that may be overwritten, because it was published or put aside: as which it was seen, its digest.
        self._known: tuple[object, str] | None = None
        self._drawn: tuple[object, str] | None = None
        self._copying = threading.Lock()
        #: What is put aside for it.
        self.kept = Kept(self.path)

    def seen(self) -> object:
        """Something that is another one once a transaction was committed. Raises `StateError` if it cannot be said."""
        with explained(self.path):
            self.path.stat()
            found = [stat_of(f"{self.path}{suffix}") for suffix in _SUFFIXES]
            header, index = self._headers.read("", _HEADER_BYTES), self._headers.read("-shm", _INDEX_BYTES)
        log = found[_WAL]
        counted = header is not None and (index is not None or log is None)
        if log is None or not counted:
            return self._watch.look(found, (header, index), counted=counted)
        # Not by its ctime: SQLite sets its owner whenever root opens the database, as this very node does.
        found[_WAL] = None
        told = f"{log.st_dev} {log.st_ino} {log.st_size} {log.st_mtime_ns}".encode()
        return self._watch.look(found, (header, index, told), counted=True)

    # --- what a node asks for ---

    def survived(self) -> bool:
        """Whether the database is there."""
        return survived(self.path)

    def published(self) -> None:
        """What the last snapshot gave is published."""
        self._known, self.kept.has_published, self.kept.is_new = self._drawn, True, False

    def snapshot(self) -> Iterator[bytes]:
        """The database as it is when the first piece is drawn."""
        with explained(self.path):
            self.path.stat()
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        seen = self.seen()
        digest = xxhash.xxh3_128()
        with self._copied() as copy:
            for piece in pieces_of(copy):
                digest.update(piece)
                yield piece
        # Of before the copy: what was committed since shows.
        self._drawn = seen, digest.hexdigest()

    def _copied(self) -> IO[bytes]:
        """A copy that has no name any more: several may be drawn at the same time."""
        with self._copying:
            copy = self._empty("copy")
            try:
                self._copy(copy)
                with explained(copy):
                    return copy.open("rb")
            finally:
                discard(copy)

    def _empty(self, what: str) -> Path:
        """A file to copy into. SQLite would make it readable for everybody."""
        draft = draft_of(self.path, what)
        with explained(draft):
            os.close(disk.create(draft))
        return draft

    def _copy(self, copy: Path) -> None:
        """Raises `StateError`; `sqlite3.DatabaseError` in it means that the file is no database."""
        with self._translated(), closing(self._opened("rw")) as source:
            self._copy_of(source, copy)

    def _copy_of(self, source: sqlite3.Connection, copy: Path) -> None:
        with closing(sqlite3.connect(copy)) as target:
            # It is read once, here, and removed.
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            self._backup(source, target)

    def _opened(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_AGAIN_S, isolation_level=None)
        # Without it, fsync on macOS does not reach the disk (as in `storage/disk.py`). Elsewhere it does nothing.
        db.execute("PRAGMA fullfsync = ON")
        return db

    def _backup(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._busy_s

        def check(status: int, remaining: int, total: int) -> None:
            # Of itself it would wait for ever.
            if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
                raise StateInUse(path=self.path)

        source.backup(target, progress=check, sleep=BUSY_AGAIN_S)

    def restore(self, pieces: Iterable[Any]) -> None:
        """Become what `pieces` say. Raises `StateError`, `StateInUse`; the database is what it was then."""
        self._restore(pieces, self._swap)

    def restore_in_use(self, pieces: Iterable[Any]) -> None:
        """The same, also if a program does not stop reading what is there: it goes on reading that."""
        self._restore(pieces, self._swap_or_replace)

    def _restore(self, pieces: Iterable[Any], swap: Callable[[Path], None]) -> None:
        draft = self._empty("new")
        kept = self._empty("kept")
        try:
            known, content = self._known_or_kept(kept)
            digest = self._write(draft, pieces)
            if digest is None:
                return  # nothing was ever published
            if content != digest:
                if content == _NO_DATABASE:
                    self._put_aside()
                elif content not in ("", known):
                    self._keep(kept, content)
                swap(draft)
            self._known = (self.seen(), digest) if self.survived() else None
            self.kept.has_published = self.kept.is_new = False
        finally:
            discard(draft)
            discard(kept)

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
        return known, digest_of(kept)

    def _keep(self, kept: Path, content: str) -> None:
        seen = self.seen()
        with explained(self.path):
            if not is_kept(self.path, kept.stat().st_size, content, digest_of):
                descriptor = os.open(kept, os.O_RDWR)
                try:
                    disk.take_after(descriptor, self.path.stat())
                finally:
                    os.close(descriptor)
                aside = unused(self.path)
                disk.publish(kept, aside)
                self.kept.keep(aside)
        # Whatever happens from here on, it need not be kept again.
        self._known = seen, content

    def _put_aside(self) -> None:
        """Move away what is there, with what may belong to it."""
        aside = unused(self.path)
        with explained(self.path):
            for suffix in _SUFFIXES:
                with suppress(FileNotFoundError):
                    os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
        self.kept.keep(aside)

    def _write(self, draft: Path, pieces: Iterable[Any]) -> str | None:
        digest = xxhash.xxh3_128()
        some = False
        with draft.open("r+b", buffering=0) as file:
            for piece in pieces:
                if not isinstance(piece, bytes):
                    raise StateError(path=self.path, problem="the group replicates something else than a database")
                some = True
                digest.update(piece)
                with explained(self.path):
                    disk.write(file.fileno(), piece)
        return digest.hexdigest() if some else None

    def _swap(self, draft: Path) -> None:
        if not self.survived():
            with explained(self.path):
                descriptor = disk.create(self.path)
                os.fchmod(descriptor, self._mode)
                os.close(descriptor)
                disk.sync(self.path.parent)
        with self._translated(), closing(sqlite3.connect(draft)) as source, closing(self._opened("rw")) as target:
            self._backup(source, target)

    def _swap_or_replace(self, draft: Path) -> None:
        try:
            self._swap(draft)
        except StateInUse:
            self._replace(draft)

    def _replace(self, draft: Path) -> None:
        with self._translated(), closing(self._opened("rw")) as lock:
            if lock.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                raise StateInUse(path=self.path)  # by one that writes
            try:
                # Nobody is in the middle of writing, and nobody begins to: no journal is left to the new database.
                lock.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                raise StateInUse(path=self.path) from None
            with explained(self.path):
                descriptor = os.open(draft, os.O_RDWR)
                try:
                    disk.take_after(descriptor, self.path.stat())
                finally:
                    os.close(descriptor)
                disk.publish(draft, self.path)
        _logger.warning(
            "state.replaced_in_use", "%s was replaced while a program reads it: that one has to open it anew", self.path
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            problem = str(error)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                problem += f" ({disk.free_mb(self.path)}); it is what it was"
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StateInUse(path=self.path) from error
            if code == sqlite3.SQLITE_READONLY:
                problem += "; a database in WAL mode cannot take one of another page size"
            raise StateError(path=self.path, problem=problem) from error


def pieces_of(copy: IO[bytes]) -> Iterator[bytes]:
    """What is replicated of a database that nobody uses."""
    # A database without a table has no page.
    first = copy.read(PIECE_BYTES)
    yield normal(first) if first else b""
    while piece := copy.read(PIECE_BYTES):
        yield piece


def normal(first: bytes) -> bytes:
    """A first piece as it is replicated."""
    page = bytearray(first)
    for place, value in _OF_THE_FILE:
        page[place : place + len(value)] = value
    return bytes(page)


def digest_of(path: Path) -> str:
    """Of a database that nobody uses."""
    with path.open("rb") as copy:
        return content_digest(pieces_of(copy))


def content_digest(pieces: Iterable[bytes]) -> str:
    """Of what is replicated, however it is cut."""
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


class _Headers:
    """The first bytes of a database and of its WAL index, as they are in the files.

    They are read through descriptors that stay open: a process that closes one of a file gives up every lock that it
    has on that file (fcntl(2), *Advisory record locking*), those of SQLite's own connections, too. So one is closed
    only when its file is not the one of that name any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}
        weakref.finalize(self, _close_all, self._files)

    def read(self, suffix: str, size: int) -> bytes | None:
        """None: there is no such file, or this user may not read it."""
        with self._lock:
            file = self._file(suffix)
            return None if file is None else os.pread(file, size, 0)

    def _file(self, suffix: str) -> int | None:
        path = f"{self._path}{suffix}"
        there, file = stat_of(path), self._files.get(suffix)
        if file is not None and (there is None or not os.path.samestat(there, os.fstat(file))):
            os.close(self._files.pop(suffix))
            file = None
        if file is None and there is not None:
            try:
                file = self._files[suffix] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
        return file


def _close_all(files: dict[str, int]) -> None:
    for file in files.values():
        os.close(file)


def discard(path: Path) -> None:
    for suffix in (*_SUFFIXES, "-shm"):
        with suppress(OSError):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
