"""Disks that are full soon: a tmpfs in a directory, where the user of the test may mount one."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["can_mount", "fill", "mount", "unmount"]


@functools.cache
def can_mount() -> bool:
    """Whether this user may give a node a disk of its own."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as place:
        tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
        if tried.returncode == 0:
            unmount(Path(place))
    return tried.returncode == 0


def mount(place: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place], check=True)


def unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", place], check=True)


def fill(filler: Path) -> None:
    """Use up all that is left on that disk, with this file."""
    # Where it is full already, not even the file can be made.
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(64 * 1024))
            file.flush()
