"""The answer of a program while it comes: the beginning is held, so that something can be done before it goes out.

A small answer is held until all of it is there. So a write is published after the program has done all that it does for
it, and a read whose answer breaks off can be asked for once more. A stream (server-sent events, a download) is not kept
waiting: what does not end within moments goes out as it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ...web.forward import Header

if TYPE_CHECKING:
    import httpx

__all__ = ["HELD_BYTES", "Answer"]

HELD_BYTES = 64 * 1024


class Answer:
    """Close it, whatever becomes of it."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces = aiter(response.aiter_raw())
        self._coming: asyncio.Task[bytes | None] | None = None
        self.status = response.status_code
        self.headers: list[Header] = response.headers.raw
        self.held: list[bytes] = []
        self.has_ended = False

    @property
    def is_stream(self) -> bool:
        """Whether it says itself that it comes bit by bit."""
        return any(name.lower() == b"content-type" and b"event-stream" in value for name, value in self.headers)

    async def hold(self, limit_s: float) -> None:
        """Wait for its end for so long, as long as it is small. Raises what httpx does if the connection breaks."""
        size = 0
        try:
            async with asyncio.timeout(limit_s):
                while not self.has_ended and size < HELD_BYTES:
                    if piece := await self._piece():
                        self.held.append(piece)
                        size += len(piece)
        except TimeoutError:
            pass  # the piece that was waited for is still on its way

    async def rest(self) -> AsyncIterator[bytes]:
        """What was not held."""
        while not self.has_ended:
            if piece := await self._piece():
                yield piece

    async def _piece(self) -> bytes | None:
        # A task: to give up waiting for a piece is not to break off the connection.
        if self._coming is None:
            self._coming = asyncio.ensure_future(_next_of(self._pieces))
        piece = await asyncio.shield(self._coming)
        self._coming = None
        self.has_ended = piece is None
        return piece

    async def close(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        await self._response.aclose()


async def _next_of(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)
