"""Pauses between attempts: longer each time, never longer than they may be, and never in step."""

from __future__ import annotations

import pytest

from replicator.runtime.backoff import Backoff


def test_each_pause_is_twice_as_long_as_the_one_before_up_to_the_bound() -> None:
    backoff = Backoff(0.1, 1.0, chance=lambda: 0.0)
    assert [backoff.failed() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_after_a_success_it_begins_anew() -> None:
    backoff = Backoff(0.1, 1.0, chance=lambda: 0.0)
    assert backoff.is_fresh
    backoff.failed()
    backoff.failed()
    assert not backoff.is_fresh
    backoff.succeeded()
    assert backoff.is_fresh
    assert backoff.failed() == 0.1


def test_chance_makes_a_pause_shorter_by_half_at_the_most_and_never_longer() -> None:
    assert Backoff(0.1, 1.0, chance=lambda: 1.0).failed() == pytest.approx(0.05)
    backoff = Backoff(0.1, 1.0)
    assert all(pause <= 1.0 for pause in (backoff.failed() for _ in range(100)))
    assert len({Backoff(0.1, 1.0).failed() for _ in range(20)}) > 1, "those who fail together try again one by one"


def test_a_bound_below_the_first_pause_bounds_it_too() -> None:
    backoff = Backoff(0.1, 0.03, chance=lambda: 0.0)
    assert [backoff.failed(), backoff.failed()] == [0.03, 0.03]
