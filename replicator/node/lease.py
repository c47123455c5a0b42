"""The lease of a primary, from its own side: until when it may write without having heard from Redis.

Not what keeps two primaries apart (the term does that, at every append), but what keeps a primary that is cut off from
accepting writes it cannot commit, and what tells the others that it lives. It is counted on this machine's monotonic
clock, from *before* the request that renewed it: a slow answer shortens it and never lengthens it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LEASE_S", "MARGIN", "Lease", "answer_within_s", "nothing", "renew_every_s"]

#: How long a lease is if nobody says so, in seconds.
LEASE_S = 5.0

#: A lease is renewed at the latest when a third of it has passed, so two renewals may fail before it runs out.
RENEW_AT = 1 / 3

#: A request may take a third of the lease: one that hangs leaves the time for another attempt, on a new connection.
ANSWER_WITHIN = 1 / 3

#: The part of a lease that is left when work which only the leader does is told to end, so that it has ended before the
#: lease has. It takes in, too, what the clocks of two machines differ by in how fast they go.
MARGIN = 1 / 10

#: But the shortest leases do not make a busy server one that hangs.
ANSWER_WITHIN_S_MIN = 0.1


def answer_within_s(lease_s: float) -> float:
    """How long a node with such a lease waits for an answer of Redis."""
    return max(ANSWER_WITHIN_S_MIN, lease_s * ANSWER_WITHIN)


def renew_every_s(lease_s: float) -> float:
    """How often a node with such a lease renews it, at the least."""
    return lease_s * RENEW_AT


class Lease:
    """`length_s` seconds at a time. Thread-safe: each method reads or writes one value."""

    def __init__(self, length_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.length_s = length_s
        self._clock = clock
        self._until = float("-inf")
        #: Whether it was refused or given up, and not granted since. One that only ran out is not lost.
        self.is_lost = False
        #: Called after each change of it.
        self.changed: Callable[[], None] = nothing

    @property
    def length_ms(self) -> int:
        return int(self.length_s * 1000)

    @property
    def renew_every_s(self) -> float:
        return renew_every_s(self.length_s)

    def now(self) -> float:
        """Take this before the request, and give it to `renewed` after the answer."""
        return self._clock()

    def renewed(self, asked_at: float) -> None:
        """Redis granted `length_s` seconds, somewhen after `asked_at`."""
        self._until = asked_at + self.length_s
        self.is_lost = False
        self.changed()

    def lost(self) -> None:
        """It was refused, or given back."""
        self._until = float("-inf")
        self.is_lost = True
        self.changed()

    @property
    def until(self) -> float:
        """By the clock of `now`; in the past: it is not held."""
        return self._until

    @property
    def margin_s(self) -> float:
        return self.length_s * MARGIN

    @property
    def work_until(self) -> float:
        """Until when more may be done than writing, which is fenced."""
        return self._until - self.margin_s

    @property
    def held(self) -> bool:
        return self._clock() < self._until

    @property
    def left_ms(self) -> int | None:
        """What is left of it; None if nothing is."""
        left = self._until - self._clock()
        return int(left * 1000) if left > 0 else None


def nothing() -> None:
    """For `changed`, if nobody is to be called."""
