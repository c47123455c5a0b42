"""The lock that says that a program which a node ran is not over: a file in the data directory of the node.

What keeps the program (`service/run/keeper.py`) has it until nothing of the program is left, and the node itself does
not: so it outlives a node that was killed. Who gives the lease of that node back has to wait for it, and so has the
next node here before it starts a program.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from . import disk

__all__ = ["program_is_over", "take_program_lock"]

NAME = "program.lock"

POLL_S = 0.02


def take_program_lock(data_dir: Path) -> int | None:
    """A descriptor that has it, to hand on, and to close here; None: a program that ran here is not over."""
    file = disk.open_lock(data_dir / NAME)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    return file


def program_is_over(data_dir: Path, *, within_s: float) -> bool:
    """Whether nothing is left of a program that a node ran here, by now or within that time. Raises `OSError`."""
    try:
        file = os.open(data_dir / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # none was ever run
    deadline = time.monotonic() + within_s
    try:
        while not _is_free(file):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
    finally:
        os.close(file)
    return True


def _is_free(file: int) -> bool:
    try:
        # Shared: two that ask do not get in each other's way.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
