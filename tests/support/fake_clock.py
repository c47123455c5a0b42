"""The clock of one process, set by libfaketime (`apt-get install faketime`): a file says by how much, at any time."""

from __future__ import annotations

import glob
from pathlib import Path

__all__ = ["LIBRARIES", "environment", "set_clock"]

LIBRARIES = [
    path
    for pattern in ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
    for path in glob.glob(pattern)
]


def environment(setting: Path) -> dict[str, str]:
    """For a process whose clock this file sets. What measures durations is not touched."""
    return {
        "LD_PRELOAD": LIBRARIES[0],
        "FAKETIME_TIMESTAMP_FILE": str(setting),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(setting: Path, by_s: int) -> None:
    setting.write_text(f"{by_s:+d}\n")
