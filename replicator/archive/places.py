"""Where an archive is: a directory of this machine, here, or an object store (`object_store.py`).

Nothing in a place is ever changed: a segment comes to be whole, under a name that nothing had before, or not at all.
The only other thing there is `archiver.json`, in which an archiver says what it does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from ..storage import disk
from .errors import ArchiveInUse, ArchiveUnavailable

__all__ = ["SEGMENT", "STATUS", "Directory", "Place", "Taken"]

#: What an archiver says of itself (`status.py`).
STATUS = "archiver.json"

#: TIMELINE/NUMBER.segment
SEGMENT = re.compile(r"([0-9]{6})/([0-9]{10})\.segment")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Taken(Exception):
    """Something is there under that name."""


class Place(Protocol):
    """Every method raises `ArchiveUnavailable`."""

    #: For messages.
    name: str

    def names(self) -> list[str]:
        """The segments that are there, in order, as far as the place knows: a list of an object store may lag."""
        ...

    def exists(self, name: str) -> bool: ...

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """What is there from `start` (below 0: from the end) to `end`; empty if there is nothing of that name."""
        ...

    def publish(self, name: str, data: bytes) -> None:
        """Have it there, whole, and for good when this returns. Raises `Taken`, and then changed nothing."""
        ...

    def remove(self, name: str) -> None: ...

    def write_status(self, data: bytes) -> None:
        """Replace `archiver.json`."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """A context: this process archives here, and no other does. Raises `ArchiveInUse`."""
        ...


class Directory:
    """A directory, for this user alone. A segment is written under another name, synced, renamed; then its directory is
    synced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.name = str(path)

    def names(self) -> list[str]:
        with self._translated():
            found = [
                f"{timeline.name}/{entry}"
                for timeline in self.path.iterdir()
                if timeline.is_dir()
                for entry in os.listdir(timeline)
            ]
        return sorted(name for name in found if SEGMENT.fullmatch(name))

    def exists(self, name: str) -> bool:
        with self._translated():
            return (self.path / name).exists()

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        with self._translated():
            try:
                with open(self.path / name, "rb", opener=disk.opener) as file:
                    size = os.fstat(file.fileno()).st_size
                    begin = max(0, size + start) if start < 0 else start
                    return os.pread(file.fileno(), (size if end is None else min(end, size)) - begin, begin)
            except FileNotFoundError:
                return b""

    def publish(self, name: str, data: bytes) -> None:
        path = self.path / name
        with self._translated():
            disk.make_directory(path.parent)
            if not path.exists():
                disk.write_private(path, data)
            elif path.read_bytes() == data:  # of an earlier attempt, which failed after the file had its name
                disk.sync(path)
                disk.sync(path.parent)
            else:
                raise Taken

    def remove(self, name: str) -> None:
        path = self.path / name
        with self._translated():
            path.unlink(missing_ok=True)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()

    def write_status(self, data: bytes) -> None:
        # Not synced: it is about now.
        draft = self.path / f".{STATUS}.new"
        with self._translated():
            draft.write_bytes(data)
            os.replace(draft, self.path / STATUS)

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._translated():
            disk.make_directory(self.path)
            lock = disk.open_lock(self.path / "lock")
        try:
            self._lock(lock)
            for draft in self.path.glob("*/.*.new"):  # of a process that was killed
                draft.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            raise ArchiveInUse(place=self.name, who=f"process {pid}" if pid else "another process") from None
        with self._translated():
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            room = f" ({disk.free_mb(self.path)} on that disk)" if error.errno in _FULL else ""
            problem = f"{error.strerror or error}: {error.filename or self.path}{room}"
            raise ArchiveUnavailable(place=self.name, problem=problem) from error
