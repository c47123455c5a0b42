"""Files beside the one in which a state is kept: drafts of it, and what it replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from replicator.errors import StateError

__all__ = ["draft_of", "explained", "sync", "unused"]


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


def sync(path: Path) -> None:
    """Have it on the disk: a file, or what a directory lists."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
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
            problem += f" ({shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free); it is what it was"
        raise StateError(path=path, problem=problem) from error
