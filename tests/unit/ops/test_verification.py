"""A snapshot that is asked for, and whether the states of the nodes are equal."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from replicator import ChangeRejected, NotPrimary, RecordId, ops
from replicator.ops import common, verification
from replicator.protocol.heartbeat import Heartbeat
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_step, in_thread, push
from tests.support.nodes import reported
from tests.support.paper import Paper


class TestSnapshot:
    def test_it_waits_until_the_snapshot_is_complete_and_tells_its_place(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        told: list[str] = []
        assert ops.snapshot(group.log(), by="ops", progress=told.append) == "1-2"
        assert told[0] == "asked a for a snapshot"
        assert told[-1] == "the snapshot of 1-2 is complete"
        assert group.server.state.head is not None
        assert group.server.state.head.snapshot_at == RecordId(1, 2)

    def test_without_a_primary_nobody_can(self, paper: Paper) -> None:
        with pytest.raises(NotPrimary, match="nobody leads the group"):
            ops.snapshot(paper.log, by="ops")

    def test_a_primary_that_does_not_answer_is_a_timeout(self, paper: Paper) -> None:
        paper.take_term("a")
        with pytest.raises(TimeoutError, match="a has not completed a snapshot"):
            ops.snapshot(paper.log, by="ops", timeout_s=0.01)

    def test_two_who_ask_at_once_both_get_one(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        asked = [in_thread(lambda: ops.snapshot(group.log(), by="ops", timeout_s=PATIENCE_S)) for _ in range(4)]
        a.submit(push("y"))
        assert all(RecordId.parse(done()) >= RecordId(1, 2) for done in asked)


class TestVerify:
    def test_all_live_nodes_are_compared_at_one_position(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        reported(group, a, b)
        told: list[str] = []
        report = ops.verify(group.log(), by="ops", progress=told.append)
        assert report.to_dict() == {
            "position": "1-3", "digests": dict.fromkeys(["a", "b"], report.digests["a"]), "late_nodes": [],
            "silent_nodes": [], "equal": True,
        }  # fmt: skip
        assert told[0] == "asked a for a marker"
        assert told[-1] == "2 of 2 nodes reported at 1-3"

    def test_a_live_node_that_does_not_report_is_missing_and_nothing_is_shown_equal(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        group.server.beat(Heartbeat("b", "1", run="run-1", every_ms=60_000))
        over_s = 0.0
        # given that the time is over once the others have reported
        for module in (verification, common):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: over_s, sleep=time.sleep))

        def told(step: str) -> None:
            nonlocal over_s
            if step.startswith("1 of 2 nodes reported"):
                over_s = PATIENCE_S + 1

        report = ops.verify(group.log(), by="ops", timeout_s=PATIENCE_S, progress=told)
        assert report.late_nodes == ["b"]
        assert not report.equal
        assert report.verdict == "not all nodes could be compared: b did not report in time; a told its state at 1-3"

    def test_a_node_of_the_group_that_does_not_report_is_named_and_nothing_is_shown_equal(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        reported(group, a, b)
        group.server.beat(Heartbeat("c", "1", run="run-1", every_ms=0))
        report = eventually(
            lambda: (found := ops.verify(group.log(), by="ops", timeout_s=PATIENCE_S)).silent_nodes and found,
            "c is dead",
        )
        assert (report.late_nodes, report.silent_nodes, sorted(report.digests)) == ([], ["c"], ["a", "b"])
        assert not report.equal
        assert not report.differ
        assert report.verdict.startswith("not all nodes could be compared: c does not report; a, b have equal states")

    def test_a_primary_that_does_not_report_is_a_timeout(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", role="primary")
        with pytest.raises(TimeoutError, match="a has not reported a digest"):
            ops.verify(paper.log, by="ops", timeout_s=0.01)

    def test_without_a_primary_nobody_can(self, paper: Paper) -> None:
        with pytest.raises(NotPrimary):
            ops.verify(paper.log, by="ops")

    def test_it_can_be_asked_again_and_again(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        reported(group, a, b)
        places = []
        for i in range(3):
            a.submit(push(i))
            report = ops.verify(group.log(), by="ops")
            assert report.equal
            places.append(report.position)
        assert places == ["1-3", "1-5", "1-7"]
        in_step(a, b)


def test_a_rolling_upgrade_with_other_words_of_a_rejection_leaves_the_nodes_equal(group: Group) -> None:
    class Words(KV):
        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

        def apply(self, change: Any) -> Any:
            raise ChangeRejected(self.words, field="stock")

    a = group.primary("a", state=Words("none left"), app="shop")
    b = group.node("b", state=Words("out of stock"), app="shop")  # new code
    for _ in range(2):
        with pytest.raises(ChangeRejected):
            a.submit(push("x"), key="order-1")
    in_step(a, b)
    reported(group, a, b)
    report = ops.verify(group.log(), by="test", timeout_s=PATIENCE_S)
    assert (sorted(report.digests), report.equal) == (["a", "b"], True)
