"""What a disk refuses, in words: errors of SQLite and of the system as a `CheckpointError` that says what to do."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from replicator.errors import CheckpointError
from replicator.storage import disk
from replicator.storage.checkpoint_file import code_of

__all__ = ["lost_writes", "translated", "unusable"]


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """What SQLite and the system say, as a `CheckpointError` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise CheckpointError(path=path, problem=_explained(error, path)) from error
    except OSError as error:
        raise unusable(error.filename or path, error) from error


def unusable(path: str | Path, error: OSError) -> CheckpointError:
    return CheckpointError(path=path, problem=error.strerror or str(error))


def lost_writes(error: BaseException) -> bool:
    """Whether this is an fsync that failed (fsync(2), *ERRORS*), and not a file that could not be opened."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_FSYNC
    return isinstance(error, OSError) and error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT)


def _explained(error: sqlite3.Error, path: Path) -> str:
    code = code_of(error)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        do = "make room there" if code == sqlite3.SQLITE_FULL else "see to that disk"
        return f"{error} ({disk.free_mb(path)} on that disk), and nothing was saved: {do}"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"{error}; restart the node: it sets the file aside and rebuilds itself from the log"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{error}: another program has the file open; close it"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"{error}; this user needs to read and write the file and its directory"
    return str(error)
