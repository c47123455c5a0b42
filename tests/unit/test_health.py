"""What a node says of itself: unknown is unknown, never 0."""

from __future__ import annotations

import pytest

from replicator.core.ids import ORIGIN, ZERO_ID, Position, RecordId
from replicator.core.replies import Head, Look
from replicator.health import Lag, lag_of

UNKNOWN = Lag(None, None)


def at(term: int, n: int, history: str = "0") -> Position:
    return Position(RecordId(term, n), history * 32)


def look(head: Position | None, *, now_ms: int = 20_000) -> Look:
    parsed = Head("log-1", "run-1", head.id.term, "a", "1", head) if head else None
    return Look("run-1", 1, parsed, head.id if head else ZERO_ID, None, {}, now_ms)


def lag(position: Position, head: Position | None, *, applied_at: int = 0, age_s: float = 0.0) -> Lag:
    return lag_of(position, applied_at, look(head), age_s, 3.0)


def test_a_node_that_never_looked_knows_no_lag() -> None:
    assert lag_of(ORIGIN, 0, None, 0.0, 3.0) == UNKNOWN


def test_without_a_log_there_is_no_lag() -> None:
    assert lag(ORIGIN, None) == UNKNOWN


def test_a_look_that_is_too_old_tells_nothing() -> None:
    assert lag(at(1, 5), at(1, 5), age_s=3.1) == UNKNOWN


def test_at_the_head_there_is_none() -> None:
    assert lag(at(1, 5), at(1, 5)) == (0, 0.0)


def test_behind_the_head_it_counts_records_and_the_age_of_the_newest_one_applied() -> None:
    assert lag(at(1, 5), at(1, 8), applied_at=15_000, age_s=1.0) == (3, 6.0)


def test_the_age_is_not_known_before_anything_was_applied() -> None:
    assert lag(ORIGIN, at(1, 8)) == (8, None)


def test_a_writers_clock_that_is_ahead_gives_no_negative_age() -> None:
    assert lag(at(1, 5), at(1, 8), applied_at=99_000) == (3, 0.0)


def test_a_node_that_applied_more_since_the_look_has_none() -> None:
    assert lag(at(1, 9), at(1, 8)) == (0, 0.0)


@pytest.mark.parametrize("position", [at(1, 5, "f"), at(1, 9)], ids=["same number", "more records"])
def test_a_node_with_another_history_has_a_lag_that_nobody_knows(position: Position) -> None:
    assert lag(position, at(2, 5)) == UNKNOWN
