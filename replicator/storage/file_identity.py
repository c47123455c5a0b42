"""Where an open file is: on which machine since its last start, on which device, as which inode.

A copy of a directory has in it all that the original has, but it is not where the original is. So what was written down
in a file together with the place of that file tells whether it is still the same one.
"""

from __future__ import annotations

import functools
import os
import platform
import uuid
from pathlib import Path

__all__ = ["place_of"]

#: Linux draws it at each start of the kernel. Clones of a machine that were started by themselves differ in it.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def place_of(descriptor: int) -> str:
    """The place of an open file, as one word. No other file that exists at the same time has it."""
    found = os.fstat(descriptor)
    return f"{_machine()}/{found.st_dev:x}/{found.st_ino:x}"


@functools.cache
def _machine() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        # Elsewhere the machine has to do. Its clones may look alike, and then the inodes tell them apart in most cases.
        return f"{uuid.uuid5(uuid.NAMESPACE_DNS, platform.node())}-{uuid.getnode():x}"
