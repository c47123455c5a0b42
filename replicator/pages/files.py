"""The files of a database, opened to be read past SQLite: beside a transaction that holds them, or without one.

`held`: while a transaction reads, nothing that is read here is overwritten (`capture.py` says why). It costs what
SQLite takes to open a database.

`unheld`: for the frames that the log got, nobody has to be asked. What is committed stays where it is in the log until
that is begun anew, and that shows by its salts, *before* a frame is overwritten (`wal.py`). So whoever looks at the
salts before and after (`check_still`) has read what was committed. This is for frames alone: the database may be
written meanwhile, by a checkpoint.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..storage.shadow import page_size_in
from .wal import FRAME_HEADER_BYTES, INDEX_BYTES, LOG_HEADER_BYTES, Frame, WalIndex, salts_of_log

__all__ = ["Files", "Moving", "NoDatabase", "held", "unheld"]

#: How long a program that holds the database is waited for.
BUSY_S = 1.0

_HEADER_BYTES = 100
_NO_SIZE = 4096


class NoDatabase(Exception):
    """It cannot be read by pages, or not now; in words."""


class Moving(Exception):
    """The log was begun anew, or cut off, while it was read."""


class Files:
    """What is read of them. `counter`: that of changes, outside of WAL mode."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._database = self._log = self._index = -1
        self.wal: WalIndex | None = None
        self.counter = b""
        self.count = 0
        self.page_size = _NO_SIZE
        self.file = 0, 0
        self.held_from = math.inf

    def open(self) -> None:
        """Raises `NoDatabase`, `Moving`, `OSError`."""
        self.held_from = time.monotonic()
        self._database = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        header, there = os.pread(self._database, _HEADER_BYTES, 0), os.fstat(self._database)
        self.file = there.st_ino, there.st_mtime_ns
        size = there.st_size
        if size and not page_size_in(header):
            raise NoDatabase("file is not a database")
        self.page_size = page_size_in(header) or _NO_SIZE
        told = int.from_bytes(header[28:32], "big") if header[24:28] == header[92:96] else 0
        self.count = told or size // self.page_size
        if header[18:19] == b"\x02":
            self._open_log()
        else:
            self.counter = header[24:32]

    @property
    def inode(self) -> int:
        return self.file[0]

    def is_by_name(self) -> bool:
        """Whether it is the database of that name."""
        return os.path.samestat(os.stat(self._path), os.fstat(self._database))

    def _open_log(self) -> None:
        try:
            self._index = os.open(f"{self._path}-shm", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NoDatabase("a program has it for itself (PRAGMA locking_mode = EXCLUSIVE)") from None
        self._log = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self.wal = self._index_of_now()
        if self.wal.frames_upto:
            self.page_size = self.wal.page_size
            self.count = self.wal.page_count

    def _index_of_now(self) -> WalIndex:
        index = WalIndex.of(os.pread(self._index, INDEX_BYTES, 0))
        if index is None:
            raise Moving
        return index

    def check_still(self) -> None:
        """What was read was not overwritten. Raises `Moving`."""
        if self.wal is None:
            return
        now = self._index_of_now()
        if now.salts != self.wal.salts or now.frames_upto < self.wal.frames_upto:
            raise Moving

    def close(self) -> None:
        for descriptor in (self._log, self._index, self._database):
            if descriptor >= 0:
                os.close(descriptor)

    # --- pages ---

    def frames_since(self, before: WalIndex | None) -> dict[int, int] | None:
        """The newest frame of each page since then, by its number; None: that cannot be told.

        Of a log of which nothing is known, all that is committed in it.
        """
        if self.wal is None or (before is not None and not self.wal.follows(before)):
            return None
        if before is None:
            before = self.wal._replace(frames_upto=0)
        frames: dict[int, int] = {}
        for number in range(before.frames_upto + 1, self.wal.frames_upto + 1):
            frames[self._page_of(number)] = number
        return {number: frame for number, frame in frames.items() if number <= self.count}

    def _page_of(self, frame: int) -> int:
        assert self.wal is not None
        header = os.pread(self._log, FRAME_HEADER_BYTES, self.wal.place(frame))
        if len(header) != FRAME_HEADER_BYTES:
            raise Moving  # a checkpoint made it shorter, or it is the log of a program that came after
        found = Frame.of(header)
        if found.salts != self.wal.salts:
            raise Moving
        return found.number

    def is_all(self) -> bool:
        """Whether the index speaks of this log, and of all of it.

        It does not if a transaction is under way, or if a program that was killed left it, and the next one has an
        index for itself (PRAGMA locking_mode = EXCLUSIVE).
        """
        assert self.wal is not None
        salts, beyond = self.wal.salts, self.wal.place(self.wal.frames_upto + 1)
        if salts_of_log(os.pread(self._log, LOG_HEADER_BYTES, 0)) != salts:
            return False
        header = os.pread(self._log, FRAME_HEADER_BYTES, beyond)
        return len(header) < FRAME_HEADER_BYTES or Frame.of(header).salts != salts

    def in_frame(self, frame: int) -> bytes:
        assert self.wal is not None
        page = os.pread(self._log, self.page_size, self.wal.place(frame) + FRAME_HEADER_BYTES)
        if len(page) != self.page_size:
            raise Moving
        return page

    def pieces(self, size: int, overlaid: dict[int, int]) -> Iterator[tuple[int, bytes]]:
        """All of it, with the number of the first page of each piece."""
        at_once = size // self.page_size
        by_piece: dict[int, list[int]] = {}
        for number in overlaid:
            by_piece.setdefault((number - 1) // at_once, []).append(number)
        for first in range(1, self.count + 1, at_once):
            length = min(at_once, self.count + 1 - first) * self.page_size
            piece = os.pread(self._database, length, (first - 1) * self.page_size)
            over = by_piece.get((first - 1) // at_once, [])
            piece = piece.ljust(length, b"\0")
            yield first, self._laid_over(first, piece, over, overlaid) if over else piece

    def _laid_over(self, first: int, piece: bytes, over: list[int], overlaid: dict[int, int]) -> bytes:
        both = bytearray(piece)
        for number in over:
            start = (number - first) * self.page_size
            both[start : start + self.page_size] = self.in_frame(overlaid[number])
        return bytes(both)


@contextmanager
def held(path: Path) -> Iterator[Files]:
    """The files of the database while a transaction reads it: none of what is in them is overwritten."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None)
    files = Files(path)
    try:
        db.execute("BEGIN")
        db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        files.open()
        yield files
        if not files.is_by_name():
            raise Moving  # another one was put in its place
    finally:
        # In this order: what this process closes takes its locks along.
        db.close()
        files.close()


@contextmanager
def unheld(path: Path) -> Iterator[Files]:
    """The same without a transaction. Raises what `held` raises, but for SQLite's errors."""
    files = Files(path)
    try:
        files.open()
        yield files
        if not files.is_by_name():
            raise Moving
    finally:
        files.close()
