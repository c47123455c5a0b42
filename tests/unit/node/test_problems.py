"""What is in a node's way: told once, and in the words in which a heartbeat says it."""

from __future__ import annotations

import logging
import re

import pytest

from replicator.errors import (
    CheckpointError,
    LogLost,
    LogUnavailable,
    NoThread,
    OutcomeUnknown,
    ReplicatorError,
    Stalled,
    StateInUse,
    UpgradeNeeded,
)
from replicator.node.problems import Problems, Unanswered, Unhealthy


def away(problem: str) -> LogUnavailable:
    return LogUnavailable(url="url", problem=problem)


def test_a_problem_is_told_once_until_it_is_solved(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems()
    for _ in range(3):
        problems.report("saver", CheckpointError(path="p", problem="full"))
    problems.solved("saver")
    problems.report("saver", CheckpointError(path="p", problem="full"))
    assert len(caplog.records) == 2


def test_that_redis_is_away_is_news_once_in_whichever_words(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems()
    problems.report("reader", away("refused"))
    problems.report("reader", away("timed out"))
    assert len(caplog.records) == 1
    assert "timed out" in str(problems)


def test_a_redis_that_is_away_is_told_once_whoever_meets_it_and_once_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = Problems()
    with caplog.at_level(logging.INFO):
        for name in ("reader", "ha-loop", "reader"):
            problems.report(name, away("refused"))
        problems.solved("reader")
        assert len(caplog.records) == 1, "the keeper has not met it again"
        problems.solved("ha-loop")
        problems.solved("ha-loop")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.records[-1].getMessage().startswith("Redis is back after ")


def test_a_problem_that_only_counts_on_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems()
    for n in range(3):
        problems.report("saver", CheckpointError(path="p", problem=f"{n} bytes are left"))
    assert len(caplog.records) == 1


def test_an_outcome_that_nobody_waits_for_is_just_a_redis_that_is_away() -> None:
    problems = Problems()
    problems.report("ha-loop", OutcomeUnknown(url="url", problem="lost"))
    assert type(problems.get("ha-loop")) is LogUnavailable


def test_a_node_that_stops_complains_no_more(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems()
    problems.be_quiet()
    with caplog.at_level(logging.ERROR):
        problems.report("reader", away("closed"))
    assert caplog.records == []


def test_a_heartbeat_keeps_apart_what_is_wrong_with_the_log_and_what_with_the_node() -> None:
    problems = Problems()
    problems.report("reader", away("refused"))
    problems.report("log", LogLost(what="the log is gone"))
    problems.report("saver", CheckpointError(path="p", problem="full"))
    (of_the_log,), (of_the_node,) = problems.others, problems.of_the_node
    assert of_the_log.startswith("the log is gone")
    assert "full" in of_the_node


def test_what_redis_refuses_to_read_is_told_by_the_heartbeat_and_that_it_was_away_is_not() -> None:
    problems = Problems()
    problems.report("reader", away("refused"))
    assert problems.others == []
    problems.report("reader", LogUnavailable.refuses("url", "WRONGTYPE commands is a string"))
    assert problems.others == ["Redis at url refuses: WRONGTYPE commands is a string"]
    assert problems.of_the_node == []


def test_that_redis_refuses_is_news_after_it_was_away(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems()
    problems.report("reader", away("refused"))
    problems.report("reader", LogUnavailable.refuses("url", "WRONGTYPE"))
    assert len(caplog.records) == 2


def test_one_problem_that_several_met_is_told_once() -> None:
    problems = Problems()
    for who in ("saver", "reader", "ha-loop"):
        problems.report(who, CheckpointError(path="p", problem="disk full"))
    assert problems.of_the_node == ["p: disk full"]
    assert str(problems) == "p: disk full"


@pytest.mark.parametrize(
    ("problem", "begins", "level", "ends", "over"),
    [
        (CheckpointError(path="p", problem="full"), "disk.failed", "ERROR", "disk.works", "the disk is writable again"),
        (Stalled(id="1-2", problem="x"), "apply.stalled", "ERROR", "apply.resumed", "applies again"),
        (LogLost(what="gone"), "log.lost", "ERROR", "log.found", "the log is there again"),
        (StateInUse(path="p"), "state.in_use", "WARNING", "state.free", "the state is free again"),
        (NoThread(what="t", problem="x"), "threads.missing", "WARNING", "threads.enough", "there are enough threads"),
        (away("refused"), "redis.unavailable", "WARNING", "redis.back", "Redis is back"),
        (LogUnavailable.refuses("url", "NOAUTH"), "redis.refuses", "ERROR", "redis.accepts", "Redis does what it is"),
        (Unhealthy(problem="x"), "app.unhealthy", "ERROR", "app.healthy", "the application is well again"),
        (Unanswered(), "app.unanswered", "INFO", "app.answered", "the watchdog has answered"),
        (
            UpgradeNeeded(id="1-2", version=2, reads="1"),
            "version.unreadable",
            "ERROR",
            "version.readable",
            "the group's",
        ),
        (ReplicatorError("x"), "problem.found", "ERROR", "problem.solved", "a problem is solved"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_begins_is_seen_to_end_and_only_what_needs_somebody_is_an_error(
    problem: ReplicatorError, begins: str, level: str, ends: str, over: str, caplog: pytest.LogCaptureFixture
) -> None:
    problems = Problems()
    with caplog.at_level(logging.INFO):
        problems.report("part", problem)
        problems.solved("part")
    first, last = caplog.records
    assert (vars(first)["event"], first.levelname, vars(last)["event"]) == (begins, level, ends)
    assert last.getMessage().startswith(over)
    assert re.search(r" after \d+\.\d s$", last.getMessage())
