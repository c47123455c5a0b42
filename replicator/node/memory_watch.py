"""How full Redis is, asked for once in a while, and only once somebody wants to know: for metrics alone."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import LogUnavailable
from ..log.interface import Log, Memory

__all__ = ["MemoryWatch"]

#: A Redis that fills up within this time is beyond what an alert can do.
ASK_EVERY_S = 30.0


class MemoryWatch:
    """Of the Redis of one node. `is_wanted`: whether somebody asks. `now`: the clock of the node."""

    def __init__(self, log: Log, *, is_wanted: Callable[[], bool], now: Callable[[], float]) -> None:
        #: As of the newest answer; None: there is none, or the user may not ask.
        self.seen: Memory | None = None
        self._log = log
        self._is_wanted = is_wanted
        self._now = now
        self._asked_at = float("-inf")

    def keep(self) -> None:
        """Once a beat. Raises nothing: whether Redis answers is found elsewhere."""
        now = self._now()
        if not self._is_wanted() or now - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = now
        try:
            self.seen = self._log.memory()
        except LogUnavailable:
            self.seen = None
