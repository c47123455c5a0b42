"""How long to wait before the next attempt at something that failed: longer each time, with chance in it, to a bound.

Whatever is tried again and again, in this package, pauses by this. What ails (a Redis that is full, a disk, a network)
is not helped by those who hammer at it, and they must not do it in step either.
"""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]

#: Each pause is twice as long as the one before.
FACTOR = 2.0

#: The part of a pause that chance takes away.
JITTER = 0.5


class Backoff:
    """Pauses from `first_s` to `most_s` seconds. One thread at a time uses it, or it does no harm.

    `chance` gives a number from 0 to 1.
    """

    def __init__(self, first_s: float, most_s: float, *, chance: Callable[[], float] = random.random) -> None:
        self._first_s = min(first_s, most_s)
        self._most_s = most_s
        self._chance = chance
        self._next_s = self._first_s

    def failed(self) -> float:
        """Another attempt failed: the seconds until the next one."""
        pause_s = self._next_s
        self._next_s = min(self._most_s, pause_s * FACTOR)
        return pause_s * (1 - JITTER * self._chance())

    def succeeded(self) -> None:
        """The next failure is the first one."""
        self._next_s = self._first_s

    @property
    def is_fresh(self) -> bool:
        """Nothing failed since the last success."""
        return self._next_s == self._first_s
