"""As of when a node has all that was committed, by its own clock.

A look at the group, asked for at some moment while a lease runs, shows a head that has everything that was committed
before that moment. So a node that has that head lacks at most what came since. That is a promise, unlike a lag, which
is as of the newest look and says nothing of the time since: it gets worse by itself while Redis does not answer, while
nobody leads, and while the process is paused.
"""

from __future__ import annotations

import threading
from collections import deque

from ..format.ids import RecordId

__all__ = ["Freshness"]

#: Looks that a node does not have yet; with a beat of 1 s, those of an hour.
HEADS_KEPT = 3600


class Freshness:
    """Of one node. Thread-safe. Times are those of the node's clock, in seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: When looks were asked for, and the newest record that they showed, of those that are not reached yet.
        self._heads: deque[tuple[float, RecordId]] = deque(maxlen=HEADS_KEPT)
        self._as_of: float | None = None

    def saw(self, asked_at: float, head: RecordId) -> None:
        """A look that was asked for then, while a lease ran, showed this as the newest record."""
        with self._lock:
            if self._heads and self._heads[-1][1] == head:
                self._heads.pop()  # the later one says more
            self._heads.append((asked_at, head))

    def as_of(self, position: RecordId) -> float | None:
        """All that was committed before this moment is in a state at `position`; None: not known."""
        with self._lock:
            while self._heads and self._heads[0][1] <= position:
                self._as_of = self._heads.popleft()[0]
            return self._as_of
