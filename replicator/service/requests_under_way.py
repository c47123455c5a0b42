"""The requests that a program is at work on: it is left to answer them before it is told to stop, for a while.

A proxy counts them (`proxy/`), and the sidecar waits for them in a switchover and when its node stops. A program that
is told to stop mostly breaks its connections off, and then nobody knows what became of a write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ANSWERED_WITHIN_S", "RequestsUnderWay"]

#: A switchover waits no longer than that for them: nobody can write meanwhile.
ANSWERED_WITHIN_S = 5.0


class RequestsUnderWay:
    """Counted on one thread, and asked for on another one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        #: Since when somebody waits for them.
        self._awaited_since: float | None = None

    @contextmanager
    def one(self) -> Iterator[None]:
        """One more meanwhile. Look whether the program still takes requests only once it is counted."""
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for them to be answered."""
        return self._awaited_since is not None

    def wait_is_over(self) -> None:
        """Nobody waits for them any more: the next one who does waits from then on."""
        with self._lock:
            self._awaited_since = None

    def are_answered(self) -> bool:
        """Whether there are none, or they were waited for long enough, which begins with the first time that this is
        asked."""
        with self._lock:
            now = self._clock()
            if self._awaited_since is None:
                self._awaited_since = now
            if self._count and now - self._awaited_since < ANSWERED_WITHIN_S:
                return False
            self._awaited_since = None
            return True
