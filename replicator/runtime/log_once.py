"""Log lines about what goes on for long: one when it begins, and one when it is over, however often it is noticed.

What comes and goes is told less and less: each time that it is back soon, it has to be gone for twice as long before it
is called over. Numbers do not make another problem of it: a position or a count may move while it lasts.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["LogOnce"]

#: What is back within this time is the same again.
SOON_S = 60.0

#: How long something has to be gone for, once it was back, before it is called over; and at the most.
PATIENCE_S = 1.0
PATIENCE_S_MAX = 60.0


@dataclass(slots=True)
class _Told:
    text: str
    #: So long it has to be gone for.
    patience_s: float
    #: Since when it is gone; None: it is not.
    gone_at: float | None = None


class LogOnce:
    """What was told to `logger`, and is not over. Thread-safe."""

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], _Told] = {}
        #: When something was over, and how patient one was with it.
        self._past: dict[tuple[str, str], tuple[float, float]] = {}

    def tell(self, name: str, level: int, text: str, *, kind: str = "") -> bool:
        """Log it, unless it is known: by `name`, and by `kind`, or else by its text. Whether it was news."""
        key = name, kind or re.sub(r"\d+", "0", text)
        with self._lock:
            known = self._told.get(key)
            gone = known is not None and self._is_gone(known)
            if known is not None and not gone:
                known.gone_at = None
                return False
            if known is not None:  # nobody said so since
                self._past[key] = self._clock(), known.patience_s
            self._told[key] = _Told(text, self._patience_s(key))
        if known is not None:
            self._logger.info("over: %s", known.text)
        self._logger.log(level, "%s", text)
        return True

    def _is_gone(self, told: _Told) -> bool:
        return told.gone_at is not None and self._clock() - told.gone_at >= told.patience_s

    def over(self, name: str, *, but: str = "") -> None:
        """What was told by that name goes on no more, but for what is of the kind `but`."""
        if not self._told:  # as almost always: whatever goes well says so
            return
        now, ended = self._clock(), []
        with self._lock:
            for key, told in list(self._told.items()):
                if key[0] != name or key[1] == but:
                    continue
                told.gone_at = told.gone_at if told.gone_at is not None else now
                if self._is_gone(told):
                    del self._told[key]
                    self._past[key] = now, told.patience_s
                    ended.append(told.text)
        for text in ended:
            self._logger.info("over: %s", text)

    def _patience_s(self, key: tuple[str, str]) -> float:
        now = self._clock()
        self._past = {each: past for each, past in self._past.items() if now - past[0] < SOON_S + past[1]}
        if key not in self._past:
            return 0.0
        return min(PATIENCE_S_MAX, max(PATIENCE_S, 2 * self._past[key][1]))
