"""How heavy a state is once it is unpacked, and how much of that a node accepts.

A few bytes can unpack to many: zstd makes 128 KiB of four of them, and JSON makes an object of 64 bytes and more of
two. Anybody who can write to Redis, or to a file that is inspected, could make every reader run out of memory or run
forever. So the *weight* of the pieces is bounded: about what they take in the memory of a process that keeps them.

    a piece      256 bytes, however small it is, so an endless stream of empty pieces reaches the bound
    its bytes    as many as there are
    JSON         also 64 bytes for each `[` and each `,` (an array, a value) and 256 for each `{` (an object)

The sender of a snapshot weighs it in the same way: what a node would refuse to accept, another node refuses to send,
before it is in the log. This holds only between nodes with the same bound, so give all of them the same one.

Counting takes a tenth of the time of decoding JSON. It begins once the bytes alone could weigh as much as the bound:
what came before that is at most as much again, and a state of usual size is never counted at all.
"""

from __future__ import annotations

__all__ = ["SNAPSHOT_BYTES_MAX", "Weight"]

#: What a node accepts by default. 100,000 records of a registry are 80 MB of JSON, and weigh 0.4 GB.
SNAPSHOT_BYTES_MAX = 4 * 1024 * 1024 * 1024

#: An application needs at least this much for the smallest piece.
_PIECE = 256

#: An empty list takes 56 bytes and a slot in another one, a text or a number 24 and more; a dict takes 184 and more.
_VALUE = 64
_OBJECT = 256

#: The most that a byte of JSON can weigh in the long run: `[[[[`.
_A_BYTE_MAX = _VALUE + 1


class Weight:
    """What the pieces of one snapshot weigh so far, and whether that is more than `most`."""

    __slots__ = ("_bytes", "_sum", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._sum = 0
        self._bytes = 0

    def takes(self, piece: bytes, *, raw: bool) -> bool:
        """Add a piece in its encoded form; return whether all so far is within the bound."""
        size = len(piece)
        self._bytes += size
        self._sum += _PIECE + size
        if not raw and self._bytes * _A_BYTE_MAX > self.most:
            self._sum += _VALUE * (piece.count(b",") + piece.count(b"[")) + _OBJECT * piece.count(b"{")
        return self._sum <= self.most

    @property
    def problem(self) -> str:
        """The message about a state that is too heavy."""
        return (
            f"unpacked it weighs more than {self.most} bytes: if the state is that large, give every node a larger "
            f"snapshot_bytes_max"
        )
