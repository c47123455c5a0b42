"""SQLite files that somebody else may have made: nothing in them is carried out, and no look at one goes on for ever.

A table's name may stand for a view that never ends, a column for an expression; a file may be a pipe that nobody writes
to. So a file is looked at only if it is a file, and holds the tables that it should, by the very words that made them,
and nothing else: no view, trigger, index or virtual table. It is opened read-only, with `trusted_schema` off and, where
Python can say so, in defensive mode; a value has a bound, and so has a query: as many steps as a file of its size can
need (sqlite.org/security.html, *Untrusted SQLite Database Files*).
"""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["SUFFIXES", "Guarded", "NotAsItShouldBe", "check_is_file", "head_of"]

#: A database file, and what SQLite may have beside it. It opens those by itself.
SUFFIXES = ("", "-wal", "-shm", "-journal")

#: No value, and no row, of ours is larger: a body has 256 KiB, a header 16.
_VALUE_BYTES_MAX = 1024 * 1024

#: A row takes SQLite some ten steps, and has more bytes than that. For files that are nearly empty, so many.
_STEPS_MIN = 1_000_000

#: How often the steps are counted.
_STEPS_AT_ONCE = 10_000


class NotAsItShouldBe(Exception):
    """The file can be read, and is not what it is taken for."""


def check_is_file(path: Path) -> None:
    """Raises `OSError` if it, or what SQLite would open beside it, is anything but a file: a pipe, a device."""
    for suffix in SUFFIXES:
        try:
            mode = os.stat(f"{path}{suffix}").st_mode
        except FileNotFoundError:
            continue
        _check_regular(mode, f"{path}{suffix}")


def head_of(path: Path, size: int) -> bytes:
    """Its first bytes. Raises `OSError`, also if it is anything but a file."""
    # A pipe would have whoever opens it wait for somebody who writes.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor).st_mode, str(path))
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def _check_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a file, but a pipe, a socket or a device", path)


class Guarded:
    """The database in a file that must have the tables of `schema` (SQL that makes them), and nothing else."""

    def __init__(self, path: Path, schema: str) -> None:
        """Raises `NotAsItShouldBe`, `OSError` and `sqlite3.Error`."""
        check_is_file(path)
        self._size = sum(os.stat(f"{path}{suffix}").st_size for suffix in SUFFIXES if os.path.exists(f"{path}{suffix}"))
        self._steps = 0
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            _guard(self._db)
            self._db.set_progress_handler(self._count, _STEPS_AT_ONCE)
            self._check_schema(schema)
        except BaseException:
            self._db.close()
            raise

    def _count(self) -> bool:
        self._steps += _STEPS_AT_ONCE
        return self._are_too_many

    @property
    def _are_too_many(self) -> bool:
        return self._steps > max(self._size, _STEPS_MIN)

    def _check_schema(self, schema: str) -> None:
        wanted = _schema_of(schema)
        found = list(self.rows(f"SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT {len(wanted) + 1}"))
        if sorted(map(repr, found)) != sorted(map(repr, wanted)):
            raise NotAsItShouldBe("its tables are not those of a checkpoint")

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """What a query finds, one after the other. Raises `NotAsItShouldBe` if that takes too many steps."""
        self._steps = 0
        try:
            yield from self._db.execute(query, values)
        except sqlite3.OperationalError:
            if self._are_too_many:
                raise NotAsItShouldBe("to read it takes more steps than there can be in a file of its size") from None
            raise

    def close(self) -> None:
        self._db.close()


def _guard(db: sqlite3.Connection) -> None:
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES_MAX)
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    if hasattr(db, "setconfig"):  # Python 3.12
        db.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)  # type: ignore[attr-defined, unused-ignore]
    for setting in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON", "mmap_size = 0"):
        db.execute(f"PRAGMA {setting}")


@functools.cache
def _schema_of(schema: str) -> list[tuple[str, str, str, str]]:
    with sqlite3.connect(":memory:") as db:
        db.executescript(schema)
        found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    db.close()
    return found
