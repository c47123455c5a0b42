"""A histogram that costs little to add to: how often values fell between fixed bounds, and their sum."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["BATCH_BOUNDS", "LATENCY_BOUNDS_S", "Histogram"]

#: From a fifth of the time that a write takes on one machine to what callers wait for at the most.
LATENCY_BOUNDS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

#: Changes in a record, of which there are a thousand at the most.
BATCH_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Histogram:
    """Of values, by upper bounds that belong to their buckets. One thread at a time adds to it; any may read it."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS_S) -> None:
        self.bounds = bounds
        #: The last one is of the values above all bounds.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def cumulative(self) -> list[int]:
        """For each bound how many values it takes in; for the last entry, all."""
        total, found = 0, []
        for count in self.counts.copy():
            total += count
            found.append(total)
        return found
