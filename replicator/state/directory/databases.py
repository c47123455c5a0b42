"""The SQLite databases in a directory: their contents of one moment, and how they become others (`state/sqlite.py`)."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO

from replicator.errors import StateError, StateInUse
from replicator.format.manifest import content_hash
from replicator.storage import disk

from ..sqlite import SQLiteState, pieces_of
from .contents import digest_of

__all__ = ["Copied", "Databases", "Pinned"]


#: What a directory for a copy is called; a process that was killed leaves one.
_CUT = "directory-cut-"


class Copied:
    """A copy of a database, in a file without a name."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest, self.size = digest_of(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """What is replicated of it; it begins at the start each time."""
        self._file.seek(0)
        return (piece for piece in pieces_of(self._file) if piece)

    def close(self) -> None:
        """It is not wanted any more."""
        self._file.close()


class Pinned:
    """Databases that are read as they are at one moment: what is committed from then on does not show.

    Without a WAL, who writes waits until they were copied.
    """

    def __init__(self, opened: dict[str, sqlite3.Connection], root: Path, stage: Path | None) -> None:
        self._opened = opened
        self._root = root
        self._stage = stage

    def copies(self) -> dict[str, Copied]:
        """The contents, by path. Raises `StateError`."""
        return {path: self._copied(path, source) for path, source in self._opened.items()}

    def _copied(self, path: str, source: sqlite3.Connection) -> Copied:
        with tempfile.TemporaryDirectory(dir=self._stage, prefix=_CUT) as directory:
            copy = Path(directory) / "copy"
            with _translated(self._root / path, copy), closing(sqlite3.connect(copy)) as target:
                # It is read once, here, and removed.
                target.execute("PRAGMA journal_mode = OFF")
                target.execute("PRAGMA synchronous = OFF")
                source.backup(target)
            return Copied(copy.open("rb"))


class Databases:
    """Those below `root`. `stage`: where copies are made."""

    def __init__(self, root: Path, *, busy_s: float, stage: Path | None) -> None:
        self._root = root
        self._busy_s = busy_s
        self._stage = stage
        self._states: dict[str, SQLiteState] = {}
        #: As which a database was seen, and what was in it.
        self._digests: dict[str, tuple[object, str]] = {}
        self._is_swept = stage is None

    def seen(self, paths: Iterable[str]) -> tuple[object, ...]:
        """Something that is another one once a transaction was committed in one of them."""
        paths = list(paths)
        for gone in self._states.keys() - set(paths):
            del self._states[gone]
        return tuple(self.state(path).seen() for path in paths)

    def state(self, path: str) -> SQLiteState:
        """One of them. It remembers what was in it."""
        if path not in self._states:
            self._states[path] = SQLiteState(self._root / path, busy_s=self._busy_s)
        return self._states[path]

    @contextmanager
    def pinned(self, paths: Sequence[str]) -> Iterator[Pinned | None]:
        """All of them as they are at one moment. None: one was written while the others were being pinned."""
        self._sweep()
        before = self.seen(paths)
        with ExitStack() as opened:
            pinned = Pinned({path: self._pin(path, opened) for path in paths}, self._root, self._stage)
            yield pinned if len(paths) < 2 or self.seen(paths) == before else None

    def _sweep(self) -> None:
        """Once, and not before the first copy: by then nobody else has the stage."""
        if not self._is_swept:
            assert self._stage is not None
            for left in self._stage.glob(f"{_CUT}*"):
                shutil.rmtree(left, ignore_errors=True)
            self._is_swept = True

    def _pin(self, path: str, opened: ExitStack) -> sqlite3.Connection:
        where = self._root / path
        with _translated(where):
            uri = f"{where.absolute().as_uri()}?mode=rw"
            db = opened.enter_context(
                closing(sqlite3.connect(uri, uri=True, timeout=self._busy_s, isolation_level=None))
            )
            db.execute("BEGIN")
            db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        return db

    def digest(self, path: str) -> str:
        """Of what is in it, and what is in it is known to it from then on. Empty: it is no database."""
        state = self.state(path)
        known = self._digests.get(path)
        seen = self.state(path).seen()
        if known is not None and known[0] == seen:
            return known[1]
        digest = content_hash()
        try:
            for piece in state.snapshot():
                digest.update(piece)
        except StateError as error:
            if isinstance(error, StateInUse) or not isinstance(error.__cause__, sqlite3.DatabaseError):
                raise
            return ""
        state.published()
        self._digests[path] = seen, digest.hexdigest()
        return digest.hexdigest()

    def put(self, path: str, pieces: Iterator[bytes], *, insisting: bool) -> None:
        """Make it what these pieces say; none: an empty one. Raises `StateInUse`, unless `insisting`."""
        state = self.state(path)
        some = _some(pieces)
        (state.restore_in_use if insisting else state.restore)(some)


def _some(pieces: Iterator[bytes]) -> Iterator[bytes]:
    empty = True
    for piece in pieces:
        empty = False
        yield piece
    if empty:
        yield b""


@contextmanager
def _translated(path: Path, copy: Path | None = None) -> Iterator[None]:
    """`copy`: what is written; if that cannot be done, it is not the fault of the database at `path`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StateInUse(path=path) from error
        if copy is not None and code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN):
            where = copy.parent.parent
            problem = f"no copy of {path} can be made there: {error} ({disk.free_mb(where)})"
            raise StateError(path=where, problem=problem) from error
        raise StateError(path=path, problem=str(error)) from error
    except OSError as error:
        raise StateError(path=path, problem=error.strerror or str(error)) from error
