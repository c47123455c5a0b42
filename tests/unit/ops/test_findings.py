"""The lines above the table of `status`: what is a problem, what a warning, and that each is said once."""

from __future__ import annotations

import pytest

from replicator import RecordId, ops
from replicator.testing import MemoryRedis
from tests.support.paper import Paper, at


@pytest.fixture
def led() -> Paper:
    """a leads; b and c follow."""
    paper = Paper()
    paper.take_term("a")
    paper.beat("a", role="primary", term=1, position=at(1, 1))
    for name in "bc":
        paper.beat(name, term=1, position=at(1, 1))
    return paper


NOT_WELL = [
    ({"diverged": "1-1"}, "node b: its state differs from the primary's at 1-1"),
    ({"problem": "database or disk is full: make room there"}, "node b: database or disk is full: make room there"),
    ({"stalled": "the event loop does not turn; restart it"}, "node b: the event loop does not turn; restart it"),
    ({"in_sync": False}, "node b: it is out of sync"),
]


@pytest.mark.parametrize(("facts", "line"), NOT_WELL)
def test_what_is_wrong_with_a_node_is_a_warning_while_the_group_goes_on(led: Paper, facts: dict, line: str) -> None:
    led.beat("b", term=1, **{"position": at(1, 1)} | facts)
    now = ops.status(led.log)
    assert now.problem is None
    (warning,) = now.warnings
    assert warning.startswith(line)
    # and whoever waits for the exit code learns of what is more than a warning
    assert now.well == (now.nodes[1].problem is None)


def test_it_is_a_problem_once_nobody_could_take_over_or_nobody_writes(led: Paper) -> None:
    led.beat("b", term=1, position=at(1, 1), diverged="1-1")
    led.beat("c", term=1, position=at(1, 1), problem="its disk is full")
    led.beat("c", term=1, position=at(1, 1), stalled="its disk is full")
    now = ops.status(led.log)
    assert [line.split(":")[0] for line in now.problems] == [
        "no standby is left that could take over", "node b", "node c",
    ]  # fmt: skip
    assert now.problem == "; ".join(now.problems)
    assert now.warnings == []
    # when the primary is gone, and one standby is well
    led.now_ms += 6000
    led.beat("b", term=1, position=at(1, 1), diverged="1-1")
    led.beat("c", term=1, position=at(1, 1))
    now = ops.status(led.log)
    assert [line.split(":")[0] for line in now.problems] == ["a holds term 1, and has not reported for 6.0 s", "node b"]
    assert [line.split(":")[0] for line in now.warnings] == ["node a"]


def test_a_pause_counts_as_a_problem(led: Paper) -> None:
    ops.pause(led.log, by="ops", reason="kernel upgrade")
    now = ops.status(led.log)
    assert now.problem is not None
    assert now.problem.startswith("automatic failover is paused (by ops: kernel upgrade)")
    assert now.warnings == []


def test_a_stray_record_hides_what_follows_from_it(led: Paper) -> None:
    led.server.stray(RecordId(1_700_000_000_000, 0))
    told = "something that is not a record is in it"
    led.now_ms += 6000
    led.beat("a", role="primary", term=1, position=at(1, 1), stalled=f"it can write nothing: {told}")
    led.beat("b", term=1, position=at(1, 1), problem=told)
    led.beat("c", term=1, position=at(1, 1), problem=told, diverged="1-1")
    now = ops.status(led.log)
    # then the lease, which has run out, is not told of: it follows from that; what is not of the log is told
    assert [line.split(":")[0] for line in now.problems] == [
        "something that is not a record is in the log, at 1700000000000-0", "node c",
    ]  # fmt: skip
    assert now.warnings == []
    assert "lease_expired" not in now.codes
    assert {reason.code.value for reason in ops.why(led.log, "a").reasons if reason.question == "leads"} == {
        "log_broken", "stalled",
    }  # fmt: skip


def test_the_era_of_the_term_is_told(led: Paper) -> None:
    assert ops.status(led.log).era == 1
    led.server.fail_over(led.server.state, run="run-2")
    led.beat("a", term=1, position=at(1, 1))
    led.take_term("a")
    now = ops.status(led.log)
    assert (now.term, now.era) == (2**20 + 1, 2)


def test_of_a_group_that_is_not_known_nothing_is_said() -> None:
    paper = Paper()
    assert isinstance(paper.server, MemoryRedis)
    assert (ops.status(paper.log).problems, ops.status(paper.log).warnings) == ([], [])
