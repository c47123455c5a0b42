"""Whether a file was written since somebody looked at it, by what the file system says of it.

By which file it is, its size and its times. The time of the last change (ctime) is what counts: `cp -p`, tar and rsync
set the time of the last write (mtime) to what they like, and nobody sets the other one.

**A clock has ticks**, of 4 ms (Linux before 6.13) or of 1 to 2 s (ext2, FAT, HFS+, NFS), and what is written twice
within one tick looks as if it had been written once. So a look at a file proves nothing as long as another write could
leave the same stamps: such a look equals no other one, and whoever compares looks again later. It is over when the
stamps are older than a tick. By whose clock? A file server has one of its own. For ticks that are fine, and a stamp
that is old, this machine's will do; otherwise the stamps have to stay the same for a tick, by a clock that only goes
forward.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Seen", "Stamp", "Watch"]

_SECOND_NS = 1_000_000_000

#: Longer than a tick where stamps have fractions of a second (10 ms, with a timer of 100 Hz), and where they have none.
FINE_TICK_S = 0.02
COARSE_TICK_S = 2.1


class Stamp(NamedTuple):
    """What a file system says of a file."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def fits(self, found: os.stat_result) -> bool:
        """Whether it is that of such a file."""
        return (
            self.changed_ns == found.st_ctime_ns
            and self.modified_ns == found.st_mtime_ns
            and self.size == found.st_size
            and self.inode == found.st_ino
            and self.device == found.st_dev
        )

    @property
    def is_coarse(self) -> bool:
        """Whether its clock has ticks of whole seconds, as far as that can be told."""
        return self.changed_ns % _SECOND_NS == 0


class Seen(NamedTuple):
    """What was seen of a file, or of several. Equal to another one: nothing was written in between, for certain."""

    stamps: tuple[Stamp | None, ...]
    more: tuple[bytes | None, ...]
    #: Something that equals nothing else, as long as a write might not show.
    fresh: object | None


class Watch:
    """Looks at one file, or at several that belong together. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[object, object] | None = None
        self._since = 0.0

    def look(
        self, found: Sequence[os.stat_result | None], more: Sequence[bytes | None] = (), *, counted: bool = False
    ) -> Seen:
        """What is there now. `more`: what else tells contents apart; `counted`: each write changes that."""
        stamps = tuple(Stamp.of(each) if each is not None else None for each in found)
        now = time.monotonic()
        with self._lock:
            if (stamps, more) != self._last:
                self._last, self._since = (stamps, more), now
            unchanged_s = now - self._since
        there = [stamp for stamp in stamps if stamp is not None]
        return Seen(stamps, tuple(more), None if _is_settled(there, unchanged_s, counted=counted) else object())


def _is_settled(stamps: Sequence[Stamp], unchanged_s: float, *, counted: bool) -> bool:
    if any(stamp.is_coarse for stamp in stamps):
        return unchanged_s > COARSE_TICK_S
    newest_ns = max((stamp.changed_ns for stamp in stamps), default=0)
    return counted or unchanged_s > FINE_TICK_S or time.time() - newest_ns / _SECOND_NS > FINE_TICK_S
