"""A histogram: what is in which bucket."""

from __future__ import annotations

from replicator.metrics.histogram import BATCH_BOUNDS, LATENCY_BOUNDS_S, Histogram


def test_a_bound_takes_in_what_is_equal_to_it_as_prometheus_has_it() -> None:
    histogram = Histogram((1.0, 10.0))
    for value in (0.5, 1.0, 1.5, 10.0, 10.5):
        histogram.add(value)
    assert histogram.cumulative == [2, 4, 5]
    assert (histogram.count, histogram.sum) == (5, 23.5)


def test_one_value_may_count_for_many() -> None:
    histogram = Histogram((1.0,))
    histogram.add(0.25, 4)
    assert (histogram.cumulative, histogram.sum) == ([4, 4], 1.0)


def test_bounds_ascend() -> None:
    for bounds in (LATENCY_BOUNDS_S, BATCH_BOUNDS):
        assert list(bounds) == sorted(set(bounds))
