"""What is committed in a write-ahead log of SQLite, by its index and its frames (sqlite.org/walformat.html).

Pure: bytes in, values out. The index (`PATH-shm`) begins with two copies of a header, in the byte order of the machine.
They are equal unless somebody writes them right now. `frames_upto` in it bounds what is committed, so the checksums of
frames need not be counted up. A writer that begins the log anew changes the salts of the index before it writes the
first frame, so whoever finds the same salts before and after read what was committed.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["FRAME_HEADER_BYTES", "INDEX_BYTES", "LOG_HEADER_BYTES", "Frame", "WalIndex", "salts_of_log"]

#: Both copies.
INDEX_BYTES = 96

FRAME_HEADER_BYTES = 24
LOG_HEADER_BYTES = 32

_INDEX = struct.Struct("=IIIBBHII8s8s8s")
_FRAME = struct.Struct(">II8s8s")


class WalIndex(NamedTuple):
    """The log as of its newest commit: its frames and the number of pages of the database, then."""

    page_size: int
    frames_upto: int
    page_count: int
    salts: bytes

    @classmethod
    def of(cls, data: bytes) -> WalIndex | None:
        """None: somebody writes it right now, or nobody has yet."""
        if len(data) < INDEX_BYTES or data[:48] != data[48:96]:
            return None
        _, _, _, is_there, _, size, frames_upto, count, _, salts, _ = _INDEX.unpack_from(data)
        page_size = (size & 0xFE00) + ((size & 1) << 16)
        return cls(page_size, frames_upto, count, salts) if is_there == 1 else None

    @property
    def is_known(self) -> bool:
        """Whether the salts tell this log from another one: those of a log that was not begun are zeros."""
        return any(self.salts)

    def place(self, frame: int) -> int:
        """Where a frame begins, counted from 1."""
        return LOG_HEADER_BYTES + (frame - 1) * (FRAME_HEADER_BYTES + self.page_size)

    def follows(self, before: WalIndex) -> bool:
        """Whether it is the same log, with at least as many frames."""
        same = self.is_known and self.salts == before.salts and self.page_size == before.page_size
        return same and self.frames_upto >= before.frames_upto


def salts_of_log(header: bytes) -> bytes:
    """By the header of the log itself; empty: it has none."""
    return header[16:24]


class Frame(NamedTuple):
    """The head of a frame: which page it has, and of which log it is."""

    number: int
    count_at_commit: int
    salts: bytes

    @classmethod
    def of(cls, data: bytes) -> Frame:
        number, count, salts, _ = _FRAME.unpack_from(data)
        return cls(number, count, salts)
