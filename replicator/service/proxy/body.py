"""The body of a request: a small one is kept, so that it can be sent once more; of a large one a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

__all__ = ["KEPT_BYTES", "Body", "ClientGone"]

#: Of one request. A server has two thousand of them at the most.
KEPT_BYTES = 64 * 1024

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client left in the middle of its body."""


class Body:
    """`exists`: whether a header says that there is one."""

    def __init__(self, receive: Receive, *, exists: bool) -> None:
        self._receive = receive
        self._kept: list[bytes] = []
        self._has_begun = False
        #: How much of it is kept here.
        self.kept_bytes = 0
        self.has_ended = not exists
        #: Whether all that was read of it is still here.
        self.is_whole = True

    async def begin(self) -> None:
        """Read what is kept of it. Raises `ClientGone`."""
        if self._has_begun:
            return
        self._has_begun = True
        while not self.has_ended and self.kept_bytes < KEPT_BYTES:
            piece = await self._next()
            self._kept.append(piece)
            self.kept_bytes += len(piece)

    def content(self) -> bytes | AsyncIterator[bytes] | None:
        """All of it, from its beginning. One that is not kept can be had once."""
        if self.has_ended:
            return b"".join(self._kept) or None
        return self._streamed()

    async def _streamed(self) -> AsyncIterator[bytes]:
        self.is_whole = False
        for piece in self._kept:
            yield piece
        while not self.has_ended:
            yield await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.has_ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece
