"""The lock on a node's data directory, and the few words in its file that outlive the process that held it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from replicator.errors import DirectoryInUse
from replicator.storage import disk
from replicator.storage.file_identity import place_of

__all__ = ["DirectoryLock", "Mark", "ended_boot"]

#: Whoever asks which boot has ended (`ended_boot`) holds the lock for a moment, shared: a node that starts in that
#: moment tries again. A moment is long where that process stands still: then as often as that, if no node has the lock.
TRIES, TRIES_WHILE_ASKED = 5, 500
TRY_AGAIN_S = 0.02


class Mark(NamedTuple):
    """Up to where a checkpoint is synced: the number of the save that it tells, and how many changes it has."""

    save: int = 0
    changes: int = 0


class DirectoryLock:
    """The lock on a data directory; its file says which process has it, and up to where it was saved (`marked`).

    Below that it says which boot worked here last, and where this file was then: in a copy of the directory the file is
    elsewhere (`file_identity.py`), and the boot may still be at work. Here it has ended, for it had the lock. The
    changes of the mark come last, where programs of before look for nothing.
    """

    def __init__(self, data_dir: Path) -> None:
        self._file = disk.open_lock(data_dir / "lock")
        try:
            self._take(data_dir)
            self.marked = _marked(self._file)
            self.ended = _ran_here(self._file)
            ran = _RAN.match(os.pread(self._file, 512, len(_text(0))))
            self._ran = ran[0] if ran else b""
            os.pwrite(self._file, _text(self.marked.save), 0)
        except BaseException:
            self.release()
            raise

    def _take(self, data_dir: Path) -> None:
        for turn in range(1, TRIES_WHILE_ASKED + 1):
            if _is_locked(self._file, fcntl.LOCK_EX):
                return
            if turn >= TRIES and not _is_locked(self._file, fcntl.LOCK_SH):
                break  # who has it does not only ask
            fcntl.flock(self._file, fcntl.LOCK_UN)  # another one that starts may have the lock meanwhile
            time.sleep(TRY_AGAIN_S)
        raise _in_use(self._file, data_dir)

    def mark(self, mark: Mark) -> None:
        # The save has happened. Without its mark it only cannot be missed if the disk forgets it.
        self.marked = mark
        with contextlib.suppress(OSError):
            os.pwrite(self._file, _text(mark.save) + self._ran + _changes_text(mark), 0)

    def runs(self, boot: str) -> None:
        # Without it the next start here takes a few heartbeats longer, if it comes that soon.
        self._ran = f"boot {boot} {place_of(self._file)}\n".encode()
        text = self._ran + _changes_text(self.marked)
        with contextlib.suppress(OSError):
            os.pwrite(self._file, text, len(_text(0)))
            os.ftruncate(self._file, len(_text(0)) + len(text))

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _is_locked(file: int, kind: int) -> bool:
    """Whether the lock of this kind was to be had, and is held now."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    return False


_TEXT = re.compile(rb"pid +(\d+)\nsave (\d{20})\n")
_RAN = re.compile(rb"boot (\S+) (\S+)\n")
_CHANGES = re.compile(rb"changes (\d{20}) of (\d{20})\n")


def ended_boot(data_dir: Path) -> str:
    """The boot that ran in this data directory last, which has ended; empty: none is known.

    The proof is the lock, which a node holds for as long as any part of its process is there, and which the system
    takes back with it. A process id proves nothing: it may be that of a wrapper, or another one's by now. A boot that
    has ended never comes back. Raises `DirectoryInUse` if a process holds the lock, and `OSError` if there is none.
    """
    file = os.open(data_dir / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Shared: two that ask do not get in each other's way. A node's own lock is exclusive.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return _ran_here(file)
    except BlockingIOError:
        raise _in_use(file, data_dir) from None
    finally:
        os.close(file)


def _ran_here(file: int) -> str:
    """The boot that its file names; empty if the file is a copy of that, which says nothing of the original's boot."""
    ran = _RAN.match(os.pread(file, 512, len(_text(0))))
    return ran[1].decode() if ran and ran[2] == place_of(file).encode() else ""


def _found(file: int) -> re.Match[bytes] | None:
    return _TEXT.match(os.pread(file, 64, 0))


def _marked(file: int) -> Mark:
    """Zeros where nothing can be said: no file, or one that a power cut emptied."""
    found, changes = _found(file), _CHANGES.search(os.pread(file, 512, 0))
    save = int(found[2]) if found else 0
    # Otherwise a program of before, which knows of no changes, marked a later save.
    return Mark(save, int(changes[1]) if changes and int(changes[2]) == save else 0)


def _in_use(file: int, data_dir: Path) -> DirectoryInUse:
    found = _found(file)
    return DirectoryInUse(path=data_dir, who=f"process {int(found[1])}" if found else "another process")


def _changes_text(mark: Mark) -> bytes:
    return b"changes %020d of %020d\n" % (mark.changes, mark.save)


def _text(save: int) -> bytes:
    return b"pid %10d\nsave %020d\n" % (os.getpid(), save)
