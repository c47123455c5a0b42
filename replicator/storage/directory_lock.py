"""The lock on a node's data directory, and the few words in its file that outlive the process that held it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path

from replicator.errors import DirectoryInUse
from replicator.storage import disk
from replicator.storage.file_identity import place_of

__all__ = ["DirectoryLock"]


class DirectoryLock:
    """The lock on a data directory; its file says which process has it, and the number of the last save (`marked`).

    Below that it says which boot worked here last, and where this file was then: in a copy of the directory the file is
    elsewhere (`file_identity.py`), and the boot may still be at work. Here it has ended, for it had the lock.
    """

    _TEXT = re.compile(rb"pid +(\d+)\nsave (\d{20})\n")
    _RAN = re.compile(rb"boot (\S+) (\S+)\n")

    def __init__(self, data_dir: Path) -> None:
        self._file = disk.open_lock(data_dir / "lock")
        try:
            self._take(data_dir)
            found = self._found()
            #: 0 where nothing can be said: no file, or one that a power cut emptied.
            self.marked = int(found[2]) if found else 0
            ran = self._RAN.match(os.pread(self._file, 512, len(self._text(0))))
            self.ended = ran[1].decode() if ran and ran[2] == place_of(self._file).encode() else ""
            os.pwrite(self._file, self._text(self.marked), 0)
        except BaseException:
            self.release()
            raise

    def _take(self, data_dir: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = self._found()
            who = f"process {int(found[1])}" if found else "another process"
            raise DirectoryInUse(path=data_dir, who=who) from None

    def _found(self) -> re.Match[bytes] | None:
        return self._TEXT.match(os.pread(self._file, 64, 0))

    def mark(self, save: int) -> None:
        # The save has happened. Without its mark it only cannot be missed if the disk forgets it.
        with contextlib.suppress(OSError):
            os.pwrite(self._file, self._text(save), 0)

    def runs(self, boot: str) -> None:
        # Without it the next start here takes a few heartbeats longer, if it comes that soon.
        text = f"boot {boot} {place_of(self._file)}\n".encode()
        with contextlib.suppress(OSError):
            os.pwrite(self._file, text, len(self._text(0)))
            os.ftruncate(self._file, len(self._text(0)) + len(text))

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @staticmethod
    def _text(save: int) -> bytes:
        return b"pid %10d\nsave %020d\n" % (os.getpid(), save)
