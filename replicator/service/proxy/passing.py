"""Finds the program that takes a request, and waits for one while there is none: through a failover, up to a limit.

When it takes too long, nothing was written, and the client is told so: 503,
with `Retry-After`, and `Replicator-Refused` for a proxy that had passed it on, which may know another program by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from ...runtime.backoff import Backoff
from ...runtime.event_log import EventLogger
from ...runtime.log_once import Lasting, LogOnce
from ...web.failures import Refusal
from .measures import GaveUp, Measures, Waiting
from .place import Place
from .routing import Asked, Follow, Local, Refused, Remote, Wait, route

__all__ = ["Again", "Passing"]

logger = EventLogger(__name__)

T = TypeVar("T")

#: How soon it is looked again where a request can go, at first and at the most.
LOOK_AGAIN_S, LOOK_AGAIN_S_MAX = 0.02, 0.4

_WAITS = Lasting("proxy.waits", "proxy.goes_on", "requests go through again", logging.WARNING)

#: Requests that fail and go through turn by turn are one trouble.
QUIET_S = 2.0


class Again(Exception):
    """Nothing came of it, and it may be tried once more. `needs_primary`: not with the program of this standby."""

    def __init__(self, code: str, why: str, *, needs_primary: bool = False) -> None:
        super().__init__(why)
        self.code = code
        self.needs_primary = needs_primary


class Passing:
    """`wait_s`: how long a request waits; `reads`: as for `routing.route`."""

    def __init__(self, place: Place, *, wait_s: float, reads: str) -> None:
        self._place = place
        self._wait_s = wait_s
        self._reads = reads
        self._log_once = LogOnce(logger, patience_s=QUIET_S)
        self.measures = Measures()

    async def until_taken(self, asked: Asked, attempt: Callable[[Local | Follow | Remote], Awaitable[T]]) -> T:
        """What `attempt` gives, which raises `Again` for another one. Raises `Refusal`: nothing was sent."""
        clock = asyncio.get_running_loop().time
        until, backoff = clock() + self._wait_s, Backoff(LOOK_AGAIN_S, LOOK_AGAIN_S_MAX)
        with Waiting(self.measures, clock) as waiting:
            while True:
                where = route(asked, self._place.standing(), reads=self._reads)
                if isinstance(where, Refused):
                    raise Refusal(503, "not_primary", f"{where.why}; nothing was written: try again in a moment")
                taken = await self._tried(where, attempt, waiting)
                if not isinstance(taken, Again):
                    return taken
                if clock() >= until or self._place.is_closing:
                    message = f"{taken}, within {self._wait_s:g} s; nothing was written: try again in a moment"
                    # That a node stops is no trouble of its proxy.
                    raise (Refusal if self._place.is_closing else GaveUp)(503, taken.code, message)
                waiting.begins()
                asked = replace(asked, needs_primary=asked.needs_primary or taken.needs_primary)
                if not taken.needs_primary:
                    self._log_once.tell("waits", _WAITS, f"requests wait: {taken}")
                await asyncio.sleep(min(backoff.failed(), max(0.0, until - clock())))

    async def _tried(
        self,
        where: Local | Follow | Remote | Wait,
        attempt: Callable[[Local | Follow | Remote], Awaitable[T]],
        waiting: Waiting,
    ) -> T | Again:
        if isinstance(where, Wait):
            return Again(*where)
        waiting.tries()
        try:
            taken = await attempt(where)
        except Again as again:
            return again
        self._log_once.over("waits")
        self.measures.taken(where)
        return taken
