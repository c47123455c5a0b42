"""An SQLite database as files, with what SQLite has beside it: made, opened alone, thrown away and set aside."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from replicator.storage import disk
from replicator.storage.checkpoint_file import APPLICATION_ID, FORMAT_SEALED, FORMAT_VERSION, SCHEMA, Saved
from replicator.storage.untrusted_sqlite import SUFFIXES

__all__ = [
    "NEW",
    "begin",
    "check_writable",
    "connect",
    "create",
    "discard",
    "exists",
    "mark_sealed",
    "moment_of",
    "put_aside",
    "unused",
    "utc_now",
]

_STAMP, _STAMP_LENGTH = "%Y%m%dT%H%M%SZ", 16

#: Bytes that a WAL keeps once it was written back. It is written back every 1000 pages (4 MiB, SQLite's default), and
#: grows beyond that only for one large save.
_WAL_BYTES_KEPT = 8 * 1024 * 1024

#: Of pages of a file that are kept in memory: by default 2,000, which each of many groups in a process takes while it
#: writes 2 MB, and never gives back. What is written goes to the end of a table, and what is read was not read before.
_CACHE_KIB = 256

#: Before all other settings: nobody else has business in the file while a node runs, even if the lock file was deleted.
#: It also saves the -shm.
_ALONE = "PRAGMA locking_mode = EXCLUSIVE"

_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    # Without these, fsync on macOS does not reach the disk. Elsewhere they do nothing.
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
    f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}",
    f"PRAGMA cache_size = {-_CACHE_KIB}",
    # Some builds overwrite what is deleted with zeros: twice the writing for each snapshot.
    "PRAGMA secure_delete = OFF",
)

#: What a new one is called until it is whole.
NEW = "checkpoint.sqlite.new"


def connect(path: Path, *, synced: bool = True) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for setting in (_ALONE, f"PRAGMA synchronous = {'FULL' if synced else 'OFF'}", *_SETTINGS):
            db.execute(setting)
    except BaseException:
        db.close()
        raise
    return db


def begin(path: Path, saved: Saved) -> None:
    create(path)
    # It is synced once and as a whole when it gets its name: nothing of it counts before.
    with contextlib.closing(connect(path, synced=False)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        db.executescript(SCHEMA)
        db.execute("INSERT INTO meta VALUES ('saved', ?)", (saved.to_bytes(),))


def mark_sealed(db: sqlite3.Connection) -> None:
    """Say in the file that there may be sealed records in it, before there are any."""
    if db.execute("PRAGMA user_version").fetchone()[0] < FORMAT_SEALED:
        db.execute(f"PRAGMA user_version = {FORMAT_SEALED}")
        # Out of the WAL: who looks at the number does so in the file itself.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def create(path: Path) -> None:
    # SQLite would create it readable for everybody; its -wal takes the mode of the file.
    os.close(disk.create(path))


def check_writable(path: Path) -> None:
    # SQLite takes a file that it may not write without a word, and then fails at something else.
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(path, os.O_RDWR))


def exists(path: Path) -> bool:
    """Whether a database of that name is there, or any of its files."""
    return any(os.path.lexists(f"{path}{suffix}") for suffix in SUFFIXES)


def discard(path: Path) -> None:
    for suffix in SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def unused(path: Path) -> Path:
    """`path`, or with -2, -3 … before its suffix what is not there yet."""
    stem, suffix = (path.stem, path.suffix) if path.suffix == ".sqlite" else (path.name, "")
    count = 1
    while exists(path):
        count += 1
        path = path.with_name(f"{stem}-{count}{suffix}")
    return path


def utc_now() -> str:
    """The stamp with which names of files begin, or end."""
    return datetime.now(UTC).strftime(_STAMP)


def moment_of(name: str) -> int | None:
    """When that was, which a name begins with (unix ms); None: it begins with something else."""
    try:
        return int(datetime.strptime(name[:_STAMP_LENGTH], _STAMP).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None


def put_aside(path: Path) -> Path:
    """Rename the file and what SQLite has beside it; the new name."""
    aside = unused(path.with_name(f"{path.name}.damaged-{utc_now()}"))
    # The file goes first. Killed in between, the others are found without it; the file found without its WAL could pass
    # for an older one.
    for suffix in SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        disk.sync(path.parent)
    return aside
