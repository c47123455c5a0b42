"""The calls of a node for asyncio tasks. None of them blocks the event loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Generic, overload

from ..format.codec import Encoded, encoded
from ..state.changes import Change
from .acks import Level
from .calls import NodeCalls, ResultT, StateT, are_rejected, check_fits, result_of
from .running import RunningNode

__all__ = ["AsyncCalls"]


class AsyncCalls(NodeCalls, Generic[StateT]):
    """Those of one node."""

    @overload
    async def asubmit(
        self, change: Change[ResultT], *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> ResultT: ...
    @overload
    async def asubmit(
        self, change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> Any: ...
    async def asubmit(
        self, change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> Any:
        """`submit` from an asyncio task. The event loop goes on meanwhile, and tasks that submit at the same time share
        a round trip: the way to write from many places at once (see `async_writer.py`).
        """
        running, level = self._changing(blocks=False), self._level(ack)
        changes = encoded([change])
        if level.kind != "appended":
            return result_of((await _acknowledged(running, changes, level, timeout_s=timeout_s, term=term))[0])
        _, results = await running.async_writer.submit(changes, timeout_s=timeout_s, term=term, wants_acks=0)
        return result_of(results[0])

    async def asubmit_many(
        self, changes: Sequence[Any], *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> list[Any]:
        """`submit_many` from an asyncio task."""
        check_fits(changes)
        running, level = self._changing(blocks=False), self._level(ack)
        if not changes:
            return []
        return await _acknowledged(running, encoded(changes), level, timeout_s=timeout_s, term=term)


async def _acknowledged(
    running: RunningNode, changes: Encoded, level: Level, *, timeout_s: float, term: int | None
) -> list[Any]:
    deadline = time.monotonic() + timeout_s
    id_, results = await running.async_writer.submit(changes, timeout_s=timeout_s, term=term, wants_acks=level.standbys)
    if level.kind != "appended" and not are_rejected(results):
        await running.acks.awaited(level, id_, deadline - time.monotonic())
    return results
