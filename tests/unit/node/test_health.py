"""What a node says of itself: unknown is unknown, never 0; and ready is who can do its work now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicator.errors import CheckpointError, LogLost, LogUnavailable, ReplicatorError
from replicator.format.ids import ORIGIN, ZERO_ID, Position, RecordId
from replicator.node.health import (
    BEHIND_RECORDS_MAX,
    BEHIND_S_MAX,
    Condition,
    Lag,
    Standing,
    Trail,
    lag_as_reported,
    lag_of,
    why_unready,
)
from replicator.node.problems import Unhealthy
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.liveness import Sight

UNKNOWN = Lag(None, None)


def at(term: int, n: int, history: str = "0") -> Position:
    return Position(RecordId(term, n), history * 32)


def look(head: Position | None, *, now_ms: int = 20_000, run: str = "run-1") -> GroupView:
    parsed = Head("log-1", "run-1", head.id.term, "a", "1", head) if head else None
    return GroupView(run, 1, parsed, head.id if head else ZERO_ID, 4000, {}, now_ms)


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
    assert lag(at(1, 5), at(1, 5), lease_s=2.0, age_s=1.9) == (0, 0)
    assert lag(at(1, 5), at(1, 5), lease_s=2.0, age_s=2.0) == UNKNOWN


def test_in_a_new_run_in_which_nobody_took_a_term_there_is_no_lag() -> None:
    assert lag(at(1, 5), at(1, 5), run="run-2") == UNKNOWN


def test_without_a_log_there_is_no_lag() -> None:
    assert lag(ORIGIN, None) == UNKNOWN


def test_a_look_that_is_too_old_tells_nothing() -> None:
    assert lag(at(1, 5), at(1, 5), age_s=3.1) == UNKNOWN


def test_at_the_head_there_is_none() -> None:
    assert lag(at(1, 5), at(1, 5)) == (0, 0)


def test_behind_the_head_it_counts_records_and_the_age_of_the_newest_one_applied() -> None:
    assert lag(at(1, 5), at(1, 8), applied_at=15_000, age_s=1.0) == (3, 6000)


def test_the_age_is_not_known_before_anything_was_applied() -> None:
    assert lag(ORIGIN, at(1, 8)) == (8, None)


def test_a_writers_clock_that_is_ahead_gives_no_negative_age() -> None:
    assert lag(at(1, 5), at(1, 8), applied_at=99_000) == (3, 0)


def test_a_node_that_applied_more_since_the_look_has_none() -> None:
    assert lag(at(1, 9), at(1, 8)) == (0, 0)


@pytest.mark.parametrize("position", [at(1, 5, "f"), at(1, 9)], ids=["same number", "more records"])
def test_a_node_with_another_history_has_a_lag_that_nobody_knows(position: Position) -> None:
    assert lag(position, at(2, 5)) == UNKNOWN


def test_of_a_head_that_nobody_moves_no_lag_is_reported() -> None:
    """While no lease runs, or no term was taken in this run, nobody knows whether it is the newest."""
    heartbeat = Heartbeat("b", "b1", position=at(1, 5), applied_at=15_000)
    seen = look(at(1, 8))
    assert lag_as_reported(heartbeat, seen) == (3, 5000)
    assert lag_as_reported(heartbeat, seen._replace(lease_ms=None)) == UNKNOWN
    assert lag_as_reported(heartbeat, seen._replace(run="run-2")) == UNKNOWN


# --- how long it lacks something ------------------------------------------------------------------------------------


def test_who_has_what_the_log_had_at_every_look_is_behind_nothing() -> None:
    trail = Trail()
    assert trail.behind_s(ZERO_ID, 100.0) == 0.0
    for n in range(5):
        trail.saw(float(n), RecordId(1, n))
    assert trail.behind_s(RecordId(1, 4), 100.0) == 0.0


def test_it_counts_from_the_first_look_at_which_the_log_had_what_is_missing() -> None:
    trail = Trail()
    for n in range(5):
        trail.saw(10.0 + n, RecordId(1, n))
    assert trail.behind_s(RecordId(1, 1), 20.0) == 8.0
    trail.saw(19.0, RecordId(1, 4))
    assert trail.behind_s(RecordId(1, 3), 20.0) == 6.0, "nothing new was seen at the last look"
    assert trail.behind_s(RecordId(2, 1), 20.0) == 0.0


# --- ready ----------------------------------------------------------------------------------------------------------

PRIMARY = Condition(
    failed=None, stopping=False, stalled="", problems=[], standing=Standing(True, leads=True), in_sync=True,
    has_read=True, lag=UNKNOWN, behind_s=0.0,
)  # fmt: skip
STANDBY = replace(PRIMARY, standing=Standing(False, leads=False), lag=Lag(0, 0))
AWAY = LogUnavailable(url="r", problem="cut off")
FULL = CheckpointError(path="/data", problem="the disk is full")
HUNG = Unhealthy(problem="the event loop hangs")


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (PRIMARY, ""),
        (replace(PRIMARY, standing=Standing(True, leads=False)), "lease_lost"),
        (replace(PRIMARY, problems=[AWAY]), "log_unavailable"),
        (replace(PRIMARY, problems=[FULL]), ""),
        (replace(PRIMARY, problems=[FULL, LogLost(what="it is gone")]), "log_lost"),
        (replace(PRIMARY, stalled="a bug"), "stalled"),
        (replace(PRIMARY, failed=ReplicatorError("it ended")), "failed"),
        (replace(PRIMARY, stopping=True), "stopping"),
        (STANDBY, ""),
        (replace(STANDBY, in_sync=False), "out_of_sync"),
        (replace(STANDBY, in_sync=False, has_read=False), "out_of_sync"),
        (replace(STANDBY, problems=[FULL]), "problem"),
        (replace(STANDBY, problems=[AWAY]), "log_unavailable"),
        (replace(STANDBY, lag=UNKNOWN), "lag_unknown"),
        (replace(STANDBY, lag=Lag(BEHIND_RECORDS_MAX, 9000)), ""),
        (replace(STANDBY, lag=Lag(BEHIND_RECORDS_MAX + 1, 100)), "behind"),
        (replace(STANDBY, lag=Lag(400, 9000), behind_s=BEHIND_S_MAX), ""),
        (replace(STANDBY, lag=Lag(1, None), behind_s=BEHIND_S_MAX + 1), "behind"),
        (replace(STANDBY, diverged="1-9"), "diverged"),
        # what makes its state unfit to be shown is not hidden by what only keeps it from following
        (replace(STANDBY, diverged="1-9", problems=[AWAY]), "diverged"),
        (replace(STANDBY, diverged="1-9", problems=[FULL]), "diverged"),
        (replace(STANDBY, problems=[AWAY, HUNG]), "unhealthy"),
        (replace(STANDBY, problems=[FULL, HUNG], diverged="1-9"), "unhealthy"),
        (replace(PRIMARY, problems=[FULL, AWAY, HUNG]), "unhealthy"),
        (replace(STANDBY, diverged="1-9", in_sync=False), "diverged"),
        (replace(STANDBY, stalled="a bug"), "stalled"),
        (replace(STANDBY, failed=ReplicatorError("it ended")), "failed"),
    ],
)
def test_ready_is_who_can_do_its_roles_work_now(now: Condition, code: str) -> None:
    unready: Any = why_unready(now)
    assert (unready.code if unready else "") == code
    assert unready is None or unready.message
