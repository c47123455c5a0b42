"""Files beside the one in which a state is kept: drafts of it, and what it replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from replicator.errors import StateError
from replicator.storage import disk
from replicator.storage.database_files import utc_now

__all__ = [
    "Kept",
    "asides",
    "copied",
    "draft_of",
    "explained",
    "is_kept",
    "stat_of",
    "survived",
    "unused",
]

_CHUNK = 1024 * 1024

#: What SQLite has beside a database is a part of it.
_OF_A_DATABASE = ("-journal", "-wal", "-shm")

#: Why a file is put aside, in words.
_AT_THE_START = "it was there when the node started, and is not what the group has"
_UNPUBLISHED = "it was written after the last publication of this node, which leads no more"
_ON_A_STANDBY = "it was written while this node was a standby"

#: How old the count may be.
COUNT_EVERY_S = 10.0


class Kept:
    """What is put aside for one file: how many there are, and who is to be told of each, and why."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._counted: tuple[float, int] | None = None
        #: Called with the file that was put aside, and why.
        self.told: Callable[[Path, str], None] = _nobody
        #: What was published last is from here, and not from the group: this node leads, or did so just now.
        self.has_published = False
        #: Nothing was published or restored yet.
        self.is_new = True

    def count(self) -> int:
        """How many there are, as of some seconds ago."""
        now = self._clock()
        if self._counted is None or now - self._counted[0] >= COUNT_EVERY_S:
            try:
                self._counted = now, len(asides(self._path))
            except OSError:
                self._counted = now, 0
        return self._counted[1]

    def keep(self, aside: Path) -> None:
        """This file was put aside."""
        self._counted = None
        self.told(aside, _AT_THE_START if self.is_new else _UNPUBLISHED if self.has_published else _ON_A_STANDBY)


def _nobody(path: Path, reason: str) -> None:
    """Where nobody is to be told."""


def draft_of(path: Path, what: str = "new") -> Path:
    """A name in the same directory, so that it can be renamed. One that was left by a process of old is removed."""
    draft = path.with_name(f".{path.name}.{what}")
    with explained(draft):
        for suffix in ("", *_OF_A_DATABASE):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    return draft


def unused(path: Path) -> Path:
    """`PATH.replaced-<UTC time>`, or with -2, -3 … if there is such a file."""
    first = aside = path.with_name(f"{path.name}.replaced-{utc_now()}")
    count = 1
    while aside.exists():
        count += 1
        aside = first.with_name(f"{first.name}-{count}")
    return aside


def stat_of(path: str | Path) -> os.stat_result | None:
    """None: there is no such file."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def survived(path: Path) -> bool:
    """Whether a file is there, or may be, where that cannot be told: then it must not be taken for one to be made."""
    try:
        return stat_of(path) is not None
    except OSError:
        return True


def asides(path: Path) -> list[Path]:
    """What was put aside for this file, by whatever process."""
    prefix = f"{path.name}.replaced-"
    names = (found for found in path.parent.iterdir() if found.name.startswith(prefix))
    return sorted(found for found in names if not found.name.endswith(_OF_A_DATABASE))


def is_kept(path: Path, size: int, digest: str, digest_of: Callable[[Path], str]) -> bool:
    """Whether this content is aside already: who tries again and again keeps it once."""
    return any(
        found.is_file() and found.stat().st_size == size and digest_of(found) == digest for found in asides(path)
    )


def copied(source: Path, target: Path) -> None:
    """A copy with the mode and the owner of the original, at no time readable for more. On the disk at the end."""
    descriptor = disk.create(target)
    try:
        with source.open("rb", buffering=0) as file:
            while data := file.read(_CHUNK):
                disk.write(descriptor, data)
            disk.take_after(descriptor, os.fstat(file.fileno()))
        disk.sync_descriptor(descriptor)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path, below: str = "") -> Iterator[None]:
    """What the system says of it, or of what is below it, as a `StateError`."""
    try:
        yield
    except FileNotFoundError as error:
        path /= below
        missing = Path(error.filename or path)
        what = "there is no such file" if missing.parent.is_dir() else f"there is no directory {missing.parent}"
        raise StateError(path=path, problem=what) from error
    except OSError as error:
        path /= below
        problem = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem += f" ({disk.free_mb(path)}); it is what it was"
        raise StateError(path=path, problem=problem) from error
