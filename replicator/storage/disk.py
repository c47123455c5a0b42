"""To the disk: how a file of this package comes to be, whole and for nobody else, and is there after a power cut.

A file is made under another name (a *draft*), readable for its owner alone, and gets the mode that it is to have when
its content is complete. Then it is synced, renamed, and its directory is synced: whoever opens it by its name finds the
old content or the new one. What is opened to be written is never a link that somebody put there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

__all__ = [
    "PRIVATE",
    "PRIVATE_UMASK",
    "create",
    "free_mb",
    "give_name",
    "make_directory",
    "open_lock",
    "opener",
    "publish",
    "size_of",
    "sync",
    "sync_descriptor",
    "take_after",
    "write",
    "write_at",
    "write_private",
]

#: What nobody but the owner may read.
PRIVATE = 0o600
_PRIVATE_DIRECTORY = 0o700

#: For processes of ours whose files are for nobody else.
PRIVATE_UMASK = 0o077

#: On macOS, where fsync does not reach the disk (fcntl(2) there).
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def create(path: Path) -> int:
    """A new file, private, open for reading and writing; its descriptor. Raises `FileExistsError`, also for a link."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)


def open_lock(path: Path) -> int:
    """A file to lock, made if it is not there. Raises `OSError` (ELOOP) if a link is in its place."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: what it creates is private, and it follows no link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)


def make_directory(path: Path) -> None:
    """Make a directory for this user alone, and those above it, unless it is there: then it is left as it is."""
    if not path.is_dir():
        path.mkdir(mode=_PRIVATE_DIRECTORY, parents=True)
        sync(path.parent)


def write(descriptor: int, data: bytes) -> None:
    """All of it, however much the system takes at a time."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def write_at(descriptor: int, data: bytes, at: int) -> None:
    """The same from this byte on."""
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written


def sync_descriptor(descriptor: int) -> None:
    """Have it on the disk. Raises `OSError`; then nobody knows what of it is there."""
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(descriptor, _FULL_SYNC)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):  # a file system that does not know it
                raise
    os.fsync(descriptor)


def sync(path: Path) -> None:
    """Have it on the disk: what is in a file, or what a directory lists."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def publish(draft: Path, path: Path) -> None:
    """Give a complete file its name, so that it is there after a power cut, too."""
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)


def give_name(draft: Path, path: Path) -> None:
    """Give a file of a cache its name: what has it is gone, and a process that is killed in between makes it anew.

    Not over the old one: ext4 writes all of a file that replaces another one at once, and this may be gone in a moment.
    """
    path.unlink(missing_ok=True)
    os.replace(draft, path)


def size_of(path: Path) -> int:
    """In bytes; 0 if it is not there, or cannot be seen."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def write_private(path: Path, data: bytes) -> None:
    """Put a private file with this content at `path`, whole or not at all."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)  # of a process that was killed here
    descriptor = create(draft)
    try:
        write(descriptor, data)
    finally:
        os.close(descriptor)
    publish(draft, path)


def take_after(descriptor: int, before: os.stat_result) -> None:
    """Give a file the owner and the mode of the one whose place it takes: the owner only where this process may.

    The owner first, for a file must not be readable for the wrong group in between.
    """
    mode = stat.S_IMODE(before.st_mode)
    for owner in ((before.st_uid, before.st_gid), (-1, before.st_gid)):
        with suppress(PermissionError):
            os.fchown(descriptor, *owner)
            break
    now = os.fstat(descriptor)
    if now.st_uid != before.st_uid:
        mode &= ~stat.S_ISUID
    if now.st_gid != before.st_gid:
        # What the old group might do is not for the new one.
        mode &= ~(stat.S_ISGID | stat.S_IRWXG)
    os.fchmod(descriptor, mode)


def free_mb(path: Path) -> str:
    """How much room there is on the disk of a file, in words."""
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free"
    except OSError as error:
        return f"how much is free cannot be said: {error.strerror}"
