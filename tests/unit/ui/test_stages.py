"""How long the stages of a change took within the last minute."""

from __future__ import annotations

from replicator.metrics.histogram import Histogram
from replicator.metrics.node_metrics import NodeMetrics
from replicator.ui.stages import METRIC, RecentStages, percentile


def test_a_percentile_is_between_the_bounds_where_it_falls() -> None:
    assert percentile([0, 4, 0], [1.0, 2.0], 0.5) == 1.5
    assert percentile([1, 2, 1], [1.0, 2.0], 0.25) == 1.0
    assert percentile([0, 0, 9], [1.0, 2.0], 0.99) == 2.0, "more than that is not known"
    assert percentile([0, 0, 0], [1.0, 2.0], 0.5) is None


def test_what_is_told_is_of_the_last_minute() -> None:
    append = Histogram()
    values: dict = {}
    stages = RecentStages(lambda: NodeMetrics("g", "a", values))
    assert stages.at(0.0) == [], "nobody has asked for figures yet"
    values[METRIC] = {"append": append}
    append.add(0.0004, 10)
    (shown,) = stages.at(1.0)
    assert (shown.stage, shown.times) == ("append", 10)
    assert shown.p99_ms is not None
    assert 0.25 < shown.p99_ms <= 0.5
    # when a minute passes, and then it gets slow
    (shown,) = stages.at(61.5)
    assert (shown.times, shown.p50_ms) == (0, None)
    append.add(2.0)
    (shown,) = stages.at(62.0)
    assert shown.times == 1
    assert shown.p50_ms is not None
    assert shown.p50_ms > 1000
