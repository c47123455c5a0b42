"""What processes give to write(2) and its kin, by file: counted in the processes, by a library that is preloaded.

It takes a compiler of C (`cc`) and Linux. Where there is none, nothing is counted, and figures that need it are left
out.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

__all__ = ["Counting", "can_count"]

_SOURCE = Path(__file__).with_name("written.c")

#: As `struct slot` there.
_SLOT = struct.Struct("Q248s")


def can_count() -> bool:
    """Whether it can be done on this machine."""
    return sys.platform == "linux" and shutil.which("cc") is not None


class Counting:
    """Start a process with `environment(NAME)`; `written(NAME)` is what it and its children have written so far."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._library = directory / "written.so"
        directory.mkdir(parents=True, exist_ok=True)
        if can_count():
            words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(_SOURCE), "-ldl", "-lpthread"]
            subprocess.run(words, check=True)

    def environment(self, name: str) -> dict[str, str]:
        """Empty where it cannot be done."""
        if not self._library.exists():
            return {}
        counts = self._directory / name
        counts.mkdir(exist_ok=True)
        return {"LD_PRELOAD": str(self._library), "WRITTEN_DIR": str(counts)}

    def written(self, name: str) -> Counter[str]:
        """Bytes by the names of files; `socket` and `pipe` are all of these."""
        found: Counter[str] = Counter()
        for path in (self._directory / name).glob("*"):
            for size, text in _SLOT.iter_unpack(path.read_bytes()):
                if size:
                    found[text.partition(b"\0")[0].decode()] += size
        return found
