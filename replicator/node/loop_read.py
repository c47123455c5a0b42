"""A read of the state by an asyncio task: it blocks no event loop, and is over once the task gives control back.

A node applies nothing while its state is read. A task that awaits something in the middle of a read would freeze its
node for as long as that takes, and for ever if that is a change of this very node. So the block of such a read has to
be plain code. Whether it is shows surely: what is scheduled (`call_soon`) as the block begins runs only if the block
gave control back to its loop. Then the read ends at once, so nobody waits for it, and its block ends with
`ReadSuspended`, because what it has seen since then may be of several moments.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic

from ..errors import ReadSuspended
from ..replica.applied_state import AppliedState
from ..runtime.await_site import Block
from ..runtime.event_log import EventLogger, Speaker, speaking
from .calls import StateT

__all__ = ["LoopRead"]

logger = EventLogger(__name__)

#: A state that is in use is asked for again so soon, at first and at the most. A change holds it for microseconds.
#: Nobody waits for it on a thread, and hands it over: it would be held until the loop turns, however long that takes.
ASK_AGAIN_S, ASK_AGAIN_S_MAX = 0.0002, 0.005


class LoopRead(Generic[StateT]):
    """One read, for one `async with`. `ready`: waits, at most until then, for what the state is to have."""

    def __init__(
        self,
        node: str,
        ready: Callable[[float], Awaitable[AppliedState]],
        *,
        timeout_s: float,
        speaker: Speaker | None = None,
    ) -> None:
        self._node = node
        self._speaker = speaker
        self._ready = ready
        self._timeout_s = timeout_s
        self._reading: AbstractContextManager[StateT] | None = None
        self._block: Block | None = None
        self._turn: asyncio.Handle | None = None
        #: Why the read was ended before its block was.
        self._broken: ReadSuspended | None = None

    async def __aenter__(self) -> StateT:
        until = time.monotonic() + self._timeout_s
        applied = await self._ready(until)
        pause_s = ASK_AGAIN_S
        while (state := self._at_once(applied)) is None:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"the state of {self._node} was in use for {self._timeout_s:.3g} s")
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, ASK_AGAIN_S_MAX)
        # From here to the first line of the block nothing is awaited.
        self._block = Block(sys._getframe(1))
        self._turn = asyncio.get_running_loop().call_soon(self._gave_back)
        return state[0]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._turn is not None
        self._turn.cancel()
        self._end()
        # A cancellation stays one: the task that is cancelled has to end. What was wrong is in the log.
        if self._broken is not None and (error is None or isinstance(error, Exception)):
            raise self._broken from error

    def _at_once(self, applied: AppliedState) -> tuple[StateT] | None:
        """The state, if nobody has it."""
        reading = applied.reading(blocks=False)
        try:
            state: StateT = reading.__enter__()
        except BlockingIOError:
            return None
        self._reading = reading
        return (state,)

    def _gave_back(self) -> None:
        """The loop turns, and the block is not over."""
        assert self._block is not None
        self._broken = ReadSuspended(node=self._node, where=self._block.suspended_at())
        self._end()
        with speaking(self._speaker):
            logger.error("read.suspended", "%s", self._broken)

    def _end(self) -> None:
        reading, self._reading, self._block = self._reading, None, None
        if reading is not None:
            reading.__exit__(None, None, None)
