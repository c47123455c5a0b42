"""A log that is founded anew: from which node, and what is lost with it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from replicator import PromotionRefused, RecordId, ops
from replicator.format.ids import ERA
from replicator.ops import common, promotion, recovery
from replicator.protocol import election
from replicator.protocol.group import Claim, Head, Reply
from tests.support.paper import Paper
from tests.support.worlds import CLOCK_ID, lead


class TestRecover:
    """Over heartbeats only; tests/unit/node/test_node_log_lost.py has it over nodes."""

    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody reports on paper, so nobody is waited for."""
        monkeypatch.setattr(election, "BEATS_BEFORE_CLAIM", 0)

    def recover(self, paper: Paper, node: str | None = None, **options: Any) -> Head:
        """Recover as far as it goes where nobody answers: the claim. The head after it."""
        with pytest.raises(TimeoutError, match="does not lead yet"):
            ops.recover(paper.log, node, by="ann", timeout_s=0.01, **options)
        head = paper.server.look().head
        assert head is not None
        return head

    def group_of(self, paper: Paper) -> None:
        author = lead(paper.log, "a", boot="a-1", new_log_id="ours")
        author.append()
        for name, n in (("a", 2), ("b", 4), ("c", 3)):
            paper.beat(name, term=7, log_id="ours", changed=RecordId(1, n))

    def test_a_whole_log_is_left_alone(self, paper: Paper) -> None:
        self.group_of(paper)
        before = paper.server.state
        with pytest.raises(PromotionRefused, match="the log is whole"):
            ops.recover(paper.log, by="ann")
        with pytest.raises(PromotionRefused, match="the log is whole"):
            ops.recover(paper.log, "b", by="ann")
        assert paper.server.state == before

    def test_where_the_head_alone_names_another_log_it_is_set_right_and_the_log_goes_on(self, paper: Paper) -> None:
        author = lead(paper.log, "a", boot="a-1", new_log_id="ours")
        author.append()
        head = paper.server.state.head
        assert head is not None
        paper.beat("a", term=1, log_id="ours", changed=RecordId(1, 2), position=head.position)
        paper.server._write(head=head._replace(log_id="forged"))
        entries = paper.server.state.entries
        after = self.recover(paper)
        assert (after.log_id, after.term, after.position.id) == ("ours", 2, RecordId(2, 3))
        assert paper.server.state.entries[:-1] == entries

    def test_a_node_of_another_log_renames_none(self, paper: Paper) -> None:
        self.group_of(paper)
        paper.beat("b", term=7, log_id="theirs", changed=RecordId(1, 4))
        before = paper.server.state
        with pytest.raises(PromotionRefused, match="the log is whole"):
            ops.recover(paper.log, "b", by="ann")
        assert paper.server.state == before

    def test_a_log_that_became_whole_meanwhile_is_left_alone(self, paper: Paper) -> None:
        self.group_of(paper)
        whole = paper.server.state
        paper.server.stray(CLOCK_ID)
        promote = paper.server.promote

        def mended(claim: Claim) -> Reply:
            paper.server.state = whole
            return promote(claim)

        paper.server.promote = mended  # type: ignore[method-assign]
        with pytest.raises(PromotionRefused, match="the log is whole"):
            ops.recover(paper.log, by="ann")
        assert paper.server.state == whole

    @pytest.mark.parametrize("how", ["gone", "stray"])
    def test_it_is_founded_from_the_most_advanced_above_all_that_was_seen(self, paper: Paper, how: str) -> None:
        self.group_of(paper)
        if how == "stray":
            paper.server.stray(CLOCK_ID)
        else:
            paper.server.state = replace(
                paper.server.state, head=None, entries=(), exists=False, last_id=RecordId(0, 0), term=0, lease=None
            )
        told: list[str] = []
        head = self.recover(paper, progress=told.append)
        assert (head.node, head.boot, head.term, head.log_id) == ("b", "b-1", ERA + 1, "ours")
        assert head.position.id == RecordId(ERA + 1, 1)
        assert "b has changes up to 1-4" in told
        term = ops.history(paper.log).entries[-1]
        assert (term.what, term.by, term.reason) == ("recover", "ann", "the log was lost")

    def test_it_is_founded_from_the_one_that_is_named(self, paper: Paper) -> None:
        self.group_of(paper)
        paper.server.stray(CLOCK_ID)
        assert self.recover(paper, "c").node == "c"

    def test_who_is_dead_or_has_no_log_is_no_node_to_found_it_from(self, paper: Paper) -> None:
        paper.beat("dead", term=1, log_id="ours", changed=RecordId(1, 99))
        paper.now_ms += 4000
        paper.beat("new", run="run-1")
        paper.server.state = replace(paper.server.state, term=3)
        for name in ("dead", "new", "zz"):
            with pytest.raises(PromotionRefused, match="no live node of that name has the log"):
                ops.recover(paper.log, name, by="ann")
        with pytest.raises(PromotionRefused, match="no live node"):
            ops.recover(paper.log, by="ann")
        told: list[str] = []
        paper.beat("b", term=1, log_id="ours", changed=RecordId(1, 3))
        assert self.recover(paper, progress=told.append).node == "b"
        assert "dead has changes up to 1-99 (dead)" in told

    def test_one_that_stalled_is_not_chosen_unasked(self, paper: Paper) -> None:
        paper.beat("a", term=1, log_id="ours", changed=RecordId(1, 9), stalled="a bug")
        paper.beat("b", term=1, log_id="ours", changed=RecordId(1, 3))
        assert self.recover(paper).node == "b"

    def test_where_nodes_had_different_logs_one_has_to_be_named(self, paper: Paper) -> None:
        paper.beat("a", term=1, log_id="ours", changed=RecordId(1, 9))
        paper.beat("b", term=1, log_id="another", changed=RecordId(1, 3))
        with pytest.raises(PromotionRefused, match="different logs; name the one"):
            ops.recover(paper.log, by="ann")
        assert self.recover(paper, "b").log_id == "another"

    def test_a_term_that_somebody_took_meanwhile_is_a_refusal(self, paper: Paper) -> None:
        self.group_of(paper)
        paper.server.stray(CLOCK_ID)
        promote = paper.server.promote

        def overtaken(claim: Claim) -> Reply:
            paper.server.state = replace(paper.server.state, term=99)
            return promote(claim)

        paper.server.promote = overtaken  # type: ignore[method-assign]
        with pytest.raises(PromotionRefused, match="the term is 99"):
            ops.recover(paper.log, by="ann")

    def test_a_redis_that_restarts_meanwhile_is_a_refusal(self, paper: Paper) -> None:
        self.group_of(paper)
        paper.server.stray(CLOCK_ID)
        promote = paper.server.promote

        def restarted(claim: Claim) -> Reply:
            paper.server.fail_over(paper.server.state, run="run-2")
            return promote(claim)

        paper.server.promote = restarted  # type: ignore[method-assign]
        with pytest.raises(PromotionRefused, match="newrun"):
            ops.recover(paper.log, by="ann")


def test_the_nodes_get_the_time_of_two_heartbeats_before_one_is_chosen(
    paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper.beat("a", term=1, log_id="ours", changed=RecordId(1, 3), every_ms=1500)

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            paper.beat("late", term=1, log_id="ours", changed=RecordId(1, 9))

    waited: list[float] = []
    # No time passes but what is waited.
    for module in (recovery, promotion, common):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: sum(waited)))
    with pytest.raises(TimeoutError, match="late has term"):
        ops.recover(paper.log, by="ann", timeout_s=0.0)
    assert waited[0] == 3.0
