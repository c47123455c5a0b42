"""What a node says of itself: unknown is unknown, never 0."""

from __future__ import annotations

import pytest

from replicator.core.ids import ORIGIN, ZERO_ID, Position, RecordId
from replicator.core.replies import Head, Look, Peer
from replicator.core.sightings import Sight
from replicator.health import Lag, lag_as_reported, lag_of

UNKNOWN = Lag(None, None)


def at(term: int, n: int, history: str = "0") -> Position:
    return Position(RecordId(term, n), history * 32)


def look(head: Position | None, *, now_ms: int = 20_000, run: str = "run-1") -> Look:
    parsed = Head("log-1", "run-1", head.id.term, "a", "1", head) if head else None
    return Look(run, 1, parsed, head.id if head else ZERO_ID, 4000, {}, now_ms)


#: By the clock of the node, when it looked.
ASKED_MS = 500_000.0


def lag(
    position: Position,
    head: Position | None,
    *,
    applied_at: int = 0,
    age_s: float = 0.0,
    lease_s: float | None = 4.0,
    run: str = "run-1",
) -> Lag:
    seen = Sight(look(head, run=run), ASKED_MS, ASKED_MS + lease_s * 1000 if lease_s is not None else None)
    return lag_of(position, applied_at, seen, now_ms=ASKED_MS + age_s * 1000, fresh_ms=3000)


def test_a_node_that_never_looked_knows_no_lag() -> None:
    assert lag_of(ORIGIN, 0, None, now_ms=ASKED_MS, fresh_ms=3000) == UNKNOWN


def test_while_no_lease_runs_nobody_knows_whether_the_head_is_the_newest() -> None:
    """A master that was cut off shows the head that it had then."""
    assert lag(at(1, 5), at(1, 5), lease_s=None) == UNKNOWN
    assert lag(at(1, 5), at(1, 8), lease_s=None) == UNKNOWN


def test_a_lag_is_known_no_longer_than_the_lease_runs_counted_from_before_redis_was_asked() -> None:
    assert lag(at(1, 5), at(1, 5), lease_s=2.0, age_s=1.9) == (0, 0.0)
    assert lag(at(1, 5), at(1, 5), lease_s=2.0, age_s=2.0) == UNKNOWN


def test_in_a_new_run_in_which_nobody_took_a_term_there_is_no_lag() -> None:
    assert lag(at(1, 5), at(1, 5), run="run-2") == UNKNOWN


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


def test_of_a_head_that_nobody_moves_no_lag_is_reported() -> None:
    """While no lease runs, or no term was taken in this run, nobody knows whether it is the newest."""
    peer = Peer("b", "b1", position=at(1, 5), applied_at=15_000)
    seen = look(at(1, 8))
    assert lag_as_reported(peer, seen) == (3, 5.0)
    assert lag_as_reported(peer, seen._replace(lease_ms=None)) == UNKNOWN
    assert lag_as_reported(peer, seen._replace(run="run-2")) == UNKNOWN
