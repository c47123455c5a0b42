"""Whether an entry of a state is over at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from replicator.state.until import NotATime, is_over, is_surely_over


@dataclass(frozen=True)
class Entry:
    until: Any = None

    @property
    def twice(self) -> float:
        return float(self.until * 2)


EAST = datetime(1970, 1, 1, 2, 0, 10, tzinfo=timezone(timedelta(hours=2)))  # ten seconds of Unix time


@pytest.mark.parametrize(
    ("entry", "until"),
    [
        (Entry(10), "until"),
        (Entry(10.0), "until"),
        (Entry(5), "twice"),
        (Entry(EAST), "until"),
        ({"until": 10}, "until"),
        (10.0, None),
        (EAST.astimezone(UTC), None),
    ],
)
def test_it_is_over_at_its_time_and_not_before(entry: Any, until: str | None) -> None:
    assert not is_over(entry, until, 9.999)
    assert is_over(entry, until, 10.0)
    assert is_surely_over(entry, until, 10.0)


@pytest.mark.parametrize("entry", [Entry(None), Entry(float("inf")), Entry(float("nan")), {"until": None}, {}, 7, "x"])
def test_what_has_no_time_is_never_over(entry: Any) -> None:
    assert not is_over(entry, "until", 1e18)


@pytest.mark.parametrize("value", ["2026-01-31", True, [1], datetime(2026, 1, 31)])  # noqa: DTZ001
def test_what_is_no_time_is_said_and_is_not_over_for_apply(value: Any) -> None:
    with pytest.raises(NotATime, match="is no time: a number of Unix seconds"):
        is_over(Entry(value), "until", 1e18)
    assert not is_surely_over(Entry(value), "until", 1e18)
