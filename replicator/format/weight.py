"""How heavy a state is once it is unpacked, and how much of that a node takes.

A few bytes may be made to unpack to many: zstd makes 128 KiB of four of them, and JSON an object of 64 bytes and more
of two. Whoever can write to Redis, or to a file that is looked at, could have every reader run out of memory, or never
come to an end. So what pieces *weigh* is bounded: about what they take in the memory of who keeps them.

    a piece      256 bytes, however small it is: no end of empty pieces comes to an end
    its bytes    as many as there are
    JSON         64 bytes besides for each `[` and each `,` (an array, a value) and 256 for each `{` (an object)

Who makes a snapshot weighs it in the same way, so what a node refuses to take another one refuses to send, before it is
in the log. Between nodes that were given different bounds that does not hold: give all of them the same.

Counting is a tenth of what JSON takes to decode. It begins where the bytes alone could weigh as much as is taken: what
comes before it is at most as much again, and a state of usual size is not counted at all.
"""

from __future__ import annotations

__all__ = ["SNAPSHOT_BYTES_MAX", "Weight"]

#: What a node takes unless it is told otherwise. 100,000 records of a registry are 80 MB of JSON, and weigh 0.4 GB.
SNAPSHOT_BYTES_MAX = 4 * 1024 * 1024 * 1024

#: What an application keeps of the smallest piece is not smaller.
_PIECE = 256

#: An empty list has 56 bytes and a place in another one, a text or a number 24 and more; a dict has 184 and more.
_VALUE = 64
_OBJECT = 256

#: The most that a byte of JSON can weigh for long: `[[[[`.
_A_BYTE_MAX = _VALUE + 1


class Weight:
    """What the pieces of one snapshot weigh so far, and whether that is more than `most`."""

    __slots__ = ("_bytes", "_sum", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._sum = 0
        self._bytes = 0

    def takes(self, piece: bytes, *, raw: bool) -> bool:
        """Add a piece, as it is encoded; whether all so far is within the bound."""
        size = len(piece)
        self._bytes += size
        self._sum += _PIECE + size
        if not raw and self._bytes * _A_BYTE_MAX > self.most:
            self._sum += _VALUE * (piece.count(b",") + piece.count(b"[")) + _OBJECT * piece.count(b"{")
        return self._sum <= self.most

    @property
    def problem(self) -> str:
        """What is said of a state that is heavier."""
        return (
            f"unpacked it weighs more than {self.most} bytes: if the state is that large, give every node a larger "
            f"snapshot_bytes_max"
        )
