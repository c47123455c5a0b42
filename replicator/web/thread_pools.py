"""What requests have to wait for, in pools that share nothing: what fills one leaves the others alone.

A request takes a place in the pool of its kind, and leaves it with its answer. When there is none it is told so at once
(`Full`), and not after what it had to wait for: a client that hears can go to another node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from .failures import Full

__all__ = ["Full", "Place", "Pool", "Pools"]

T = TypeVar("T")

#: Of bodies of changes, which are a few hundred bytes each, and a megabyte at the most.
WRITES_BYTES_MAX = 64 * 1024 * 1024

#: Of bodies of whole states: one of the greatest size, or several smaller ones.
REPLACEMENTS_BYTES_MAX = 512 * 1024 * 1024


class Place:
    """One in a pool, and the bytes in memory that belong to it."""

    __slots__ = ("_pool", "bytes")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.bytes = 0

    def take(self, count: int) -> None:
        """So many more. Raises `Full`."""
        self._pool.take(count)
        self.bytes += count


class Pool:
    """`places` for requests, and `threads` for what of them blocks: a request with a place waits for a thread.

    `bytes_max`: of bodies that are in memory for them, all together; 0: they have none.
    """

    def __init__(self, what: str, *, places: int, threads: int, bytes_max: int = 0) -> None:
        self._what = what
        self._places = places
        self._taken = 0
        self._bytes_max = bytes_max
        self._bytes = 0
        self._threads = anyio.CapacityLimiter(threads)

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Have a place meanwhile. Raises `Full`."""
        if self._taken >= self._places:
            raise Full(self._what, self._places)
        self._taken += 1
        place = Place(self)
        try:
            yield place
        finally:
            self._taken -= 1
            self._bytes -= place.bytes

    def take(self, count: int) -> None:
        if self._bytes + count > self._bytes_max:
            raise Full(self._what, self._bytes_max, " bytes of")
        self._bytes += count

    async def on_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        # Abandoned and not awaited when the server stops: the thread ends by the timeout of what it calls.
        return await anyio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True, limiter=self._threads)


class Pools:
    """Those of one application."""

    def __init__(self) -> None:
        #: A read holds the node's lock for less than a millisecond.
        self.reads = Pool("reads", places=1024, threads=32)
        #: The wait for a position, or for what is committed, blocks a thread.
        self.waits = Pool("requests that wait for a position", places=256, threads=256)
        #: A write, and the wait for its acknowledgement, is a task and needs no thread.
        self.writes = Pool("writes", places=1024, threads=1, bytes_max=WRITES_BYTES_MAX)
        #: Each may have a body of half a gigabyte.
        self.replacements = Pool("replacements of the state", places=4, threads=2, bytes_max=REPLACEMENTS_BYTES_MAX)
