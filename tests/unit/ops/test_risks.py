"""What an operation may lose, told before it is done."""

from __future__ import annotations

from replicator.format.ids import RecordId
from replicator.ops import risks
from tests.support.kv import Group, push
from tests.support.paper import Paper, at


def of_three(paper: Paper) -> None:
    """A group of three that is well; a holds the term."""
    for name in "abc":
        paper.beat(name, term=1, log_id="log-1", position=at(1, 1), changed=RecordId(1, 1), cursor=RecordId(1, 1))
    paper.take_term()


def test_a_promotion_of_a_node_that_keeps_up_loses_nothing() -> None:
    paper = Paper()
    of_three(paper)
    assert risks.of_promotion(paper.log, "b") == []


def test_a_promotion_tells_why_it_would_be_refused() -> None:
    paper = Paper()
    of_three(paper)
    paper.beat("b", term=1, log_id="log-1", position=at(1, 1), changed=RecordId(1, 1), diverged="1-1")
    (told,) = risks.of_promotion(paper.log, "b")
    assert told == "b would be refused: its state differs from the primary's at 1-1"


def test_a_node_is_given_up_for_nothing_while_the_log_is_whole(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    a.submit(push("x"))
    b.stop()
    assert risks.of_forget(group.log(), "b") == []


def test_after_redis_came_back_a_node_that_does_not_report_may_have_what_only_it_has() -> None:
    paper = Paper()
    of_three(paper)
    paper.server.fail_over(paper.server.state, run="run-2")
    paper.now_ms += 5000
    for name in "ab":
        paper.beat(name, run="run-2", term=1, log_id="log-1", position=at(1, 1), changed=RecordId(1, 1))
    (told,) = risks.of_forget(paper.log, "c")
    assert "only c has" in told
    assert risks.of_forget(paper.log, "a") == []
    assert risks.of_recovery(paper.log, "b") == ["what only c has is lost"]


def test_a_change_that_a_node_has_applied_may_have_been_acknowledged() -> None:
    paper = Paper()
    of_three(paper)
    log_id = paper.log.look().head.log_id
    paper.beat("a", term=1, log_id=log_id, position=at(1, 2), changed=RecordId(1, 2), cursor=RecordId(1, 2))
    assert risks.of_skip(paper.log, RecordId(1, 3)) == []
    assert risks.of_skip(paper.log, RecordId(1, 2)) == ["a has applied 1-2, and may have acknowledged it"]


def test_a_document_replaces_the_state_if_there_is_one(group: Group) -> None:
    a = group.primary("a")
    assert risks.of_load(group.log()) == []
    a.submit(push("x"))
    assert risks.of_load(group.log()) == ["the whole state of the group, with its changes up to 1-2, is replaced"]
