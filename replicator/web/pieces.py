"""A large body while it comes: in pieces, so that nothing is done to all of it at once on the event loop.

Memory of 60 MB takes 5 to 10 ms to be given back, and as long again to be moved, and no other request is answered
meanwhile. So what is dropped is dropped a piece at a time, with the turns of others in between, and pieces are joined
on the thread that reads the whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["PIECE_BYTES", "Pieces"]

#: To give one back takes a fraction of a millisecond.
PIECE_BYTES = 1024 * 1024


class Pieces:
    """Of one body, in their order. Each holds `PIECE_BYTES` at the most, or one chunk that is longer."""

    def __init__(self) -> None:
        self._pieces: deque[bytearray] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def take(self, chunk: bytes) -> None:
        """One more chunk of it."""
        if not self._pieces or len(self._pieces[-1]) + len(chunk) > PIECE_BYTES:
            self._pieces.append(bytearray())
        self._pieces[-1] += chunk
        self._size += len(chunk)

    async def drop(self) -> None:
        """Give it all back, one piece in a turn of the loop."""
        self._size = 0
        while self._pieces:
            self._pieces.pop()
            await asyncio.sleep(0)

    def joined(self, pause: Callable[[], None] = lambda: None) -> bytearray:
        """All of it; the pieces are gone then. `pause`: called after each. A large one belongs on a thread."""
        body = self._pieces.popleft() if self._pieces else bytearray()
        while self._pieces:
            body += self._pieces.popleft()
            pause()
        self._size = 0
        return body
