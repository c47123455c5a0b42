"""How long the stages of a change took on this node within the last minute, of the histograms that it keeps.

A histogram only grows, so what was added within a minute is the difference of two looks. Where a percentile falls
between two bounds is taken for even, as Prometheus' `histogram_quantile` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..metrics.histogram import LATENCY_BOUNDS_S, Histogram
from ..metrics.node_metrics import NodeMetrics

__all__ = ["KEPT_S", "RecentStages", "StageShown", "percentile"]

#: Over how long it is told.
KEPT_S = 60.0

METRIC = "replicator_stage_seconds"

Counts = dict[str, list[int]]


class StageShown(NamedTuple):
    """`times`: how often it was done within the last minute. `p50_ms`, `p99_ms`: how long it took; None: not once."""

    stage: str
    times: int
    p50_ms: float | None
    p99_ms: float | None


class RecentStages:
    """`metrics`: those of the node. One thread at a time asks."""

    def __init__(self, metrics: Callable[[], NodeMetrics]) -> None:
        self._metrics = metrics
        self._kept: deque[tuple[float, Counts]] = deque()

    def at(self, now_s: float) -> list[StageShown]:
        """As of now, on a clock that goes on (seconds). Stages of which nothing was ever measured are left out."""
        counts = self._counts()
        self._kept.append((now_s, counts))
        while len(self._kept) > 2 and self._kept[1][0] <= now_s - KEPT_S:
            self._kept.popleft()
        before = self._kept[0][1]
        return [_shown(stage, after, before.get(stage)) for stage, after in counts.items()]

    def _counts(self) -> Counts:
        found = self._metrics().values.get(METRIC)
        stages = found if isinstance(found, dict) else {}
        return {stage: each.counts.copy() for stage, each in stages.items() if isinstance(each, Histogram)}


def _shown(stage: str, after: Sequence[int], before: Sequence[int] | None) -> StageShown:
    added = [now - then for now, then in zip(after, before or [0] * len(after), strict=True)]
    p50, p99 = (percentile(added, LATENCY_BOUNDS_S, share) for share in (0.5, 0.99))
    return StageShown(stage, sum(added), p50 if p50 is None else p50 * 1000, p99 if p99 is None else p99 * 1000)


def percentile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    """Below which value that share of the values is. `counts`: of each bound, and of what is above all; above those
    it is the last bound. None: there are no values.
    """
    left = share * sum(counts)
    if not left:
        return None
    lower = 0.0
    for count, upper in zip(counts, bounds, strict=False):
        if count >= left:
            return lower + (upper - lower) * left / count
        left, lower = left - count, upper
    return bounds[-1]
