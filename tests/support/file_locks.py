"""The locks that processes have on a file, as another process sees them (fcntl(2), F_GETLK; proc_locks(5)).

SQLite's locks are POSIX locks: they belong to a process and a file, and all of them are gone once that process closes
*any* descriptor of the file. So whoever reads a database beside SQLite may give SQLite's locks away without a sign.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

__all__ = ["Lock", "Onlooker", "locks_of", "looked_at"]

_FLOCK = "hhqqixxxx"
#: SQLite's lock bytes: PENDING, RESERVED and SHARED (os.h); and in the index of the WAL from 120 on (walformat.html).
LOCK_BYTES = {"": (0x40000000, 512), "-shm": (120, 9)}


class Lock(NamedTuple):
    """`kind`: `READ` or `WRITE`. From the byte `start` to the byte `end`."""

    pid: int
    kind: str
    start: int
    end: int


def locks_of(path: Path) -> set[Lock]:
    """All POSIX locks on a file of this machine (Linux)."""
    there = path.stat()
    name = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    found = set()
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "POSIX" and words[5] == name:
            end = 2**63 - 1 if words[7] == "EOF" else int(words[7])
            found.add(Lock(int(words[4]), words[3], int(words[6]), end))
    return found


class Onlooker:
    """A second process: whether somebody else has a lock on the lock bytes of a database, or of its WAL index."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def sees(self, path: Path, suffix: str = "") -> int:
        """The process whose lock is in the way of one that would write; 0: nobody's."""
        self._pipe.send((str(path), suffix))
        pid: int = self._pipe.recv()
        return pid


@contextmanager
def looked_at() -> Iterator[Onlooker]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_look, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Onlooker(ours)
    finally:
        ours.close()
        process.join()


def _look(pipe: Connection) -> None:
    while True:
        try:
            path, suffix = pipe.recv()
        except EOFError:
            return
        pipe.send(_in_the_way(f"{path}{suffix}", *LOCK_BYTES[suffix]))


def _in_the_way(path: str, start: int, length: int) -> int:
    file = os.open(path, os.O_RDWR)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        return 0 if kind == fcntl.F_UNLCK else int(pid)
    finally:
        os.close(file)
