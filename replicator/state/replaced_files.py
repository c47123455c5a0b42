"""Files beside the one in which a state is kept: drafts of it, and what it replaced."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from replicator.errors import StateError
from replicator.storage import disk

__all__ = ["asides", "copied", "draft_of", "explained", "is_kept", "stat_of", "survived", "unused"]

_CHUNK = 1024 * 1024


def draft_of(path: Path, what: str = "new") -> Path:
    """A name in the same directory, so that it can be renamed. One that was left by a process of old is removed."""
    draft = path.with_name(f".{path.name}.{what}")
    with explained(draft):
        for suffix in ("", "-journal", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    return draft


def unused(path: Path) -> Path:
    """`PATH.replaced-<UTC time>`, or with -2, -3 … if there is such a file."""
    first = aside = path.with_name(f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
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
    return sorted(found for found in path.parent.iterdir() if found.name.startswith(prefix))


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
def explained(path: Path) -> Iterator[None]:
    """What the system says, as a `StateError`."""
    try:
        yield
    except FileNotFoundError as error:
        missing = Path(error.filename or path)
        what = "there is no such file" if missing.parent.is_dir() else f"there is no directory {missing.parent}"
        raise StateError(path=path, problem=what) from error
    except OSError as error:
        problem = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem += f" ({disk.free_mb(path)}); it is what it was"
        raise StateError(path=path, problem=problem) from error
