"""What the program wrote is published before its answer goes out: one publication for all who wait for one.

A publication that is under way may have looked at the file before a write. So whoever comes meanwhile waits for the
next one, together with all others who came meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio.to_thread

from ..sidecar import Publication

__all__ = ["Publications"]


class Publications:
    """Used on one event loop. `publish` blocks, and runs on a thread, one at a time."""

    def __init__(self, publish: Callable[[], Publication]) -> None:
        self._publish = publish
        self._under_way: asyncio.Task[Publication] | None = None
        self._next: asyncio.Task[Publication] | None = None

    async def of_now(self) -> Publication:
        """One that began after this was called. Raises what `publish` raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._after(self._under_way))
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[Publication] | None) -> Publication:
        if before is not None:
            await asyncio.wait({before})
        self._under_way, self._next = self._next, None
        return await anyio.to_thread.run_sync(self._publish)
