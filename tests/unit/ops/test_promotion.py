"""Who leads, changed by hand: over live nodes, and over heartbeats of nodes that are not there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from replicator import Fenced, LeaseLost, Node, NotPrimary, PromotionRefused, RecordId, ops
from replicator.errors import CorruptRecord, LogLost
from replicator.format.ids import ERA, Writer
from replicator.protocol.group import Claim, Code, GroupView, Reply
from replicator.protocol.heartbeat import Heartbeat
from tests.support.kv import PATIENCE_S, SHORT_LEASE_S, Group, beats, eventually, in_step, in_thread, push, pushed
from tests.support.nodes import reported
from tests.support.paper import Paper, at
from tests.support.worlds import lead


class TestPromote:
    def test_it_tells_the_term_and_that_the_node_leads(self, group: Group) -> None:
        group.primary("a")
        reported(group, group.node("b"))
        done = ops.promote(group.log(), "b", by="ops", reason="maintenance", timeout_s=PATIENCE_S)
        assert (done.primary, done.term, done.first_id) == ("b", 2, "2-2")
        assert done.took_ms > 0
        assert group.nodes[1].role == "primary"
        term = ops.history(group.log()).entries[-1]
        assert (term.what, term.by, term.reason, term.node) == ("promote", "ops", "maintenance", "b")

    def test_the_first_promotion_founds_the_log(self, group: Group) -> None:
        reported(group, group.node("a"))
        assert ops.promote(group.log(), "a", by="ops", timeout_s=PATIENCE_S).first_id == "1-1"

    def test_a_node_that_never_reported_is_refused_even_by_force(self, paper: Paper) -> None:
        for force in (False, True):
            with pytest.raises(PromotionRefused, match="no node of that name has reported") as raised:
                paper.promote("zz", force=force)
            assert raised.value.better is None

    def test_the_better_node_is_named(self, paper: Paper) -> None:
        paper.beat("a", changed=RecordId(1, 4))
        paper.beat("c", changed=RecordId(1, 5))
        with pytest.raises(PromotionRefused, match="c is the better one") as raised:
            paper.promote("zz")
        assert raised.value.better == "c"

    def test_a_dead_node_is_refused(self, paper: Paper) -> None:
        paper.beat("b")
        paper.now_ms += 3500
        with pytest.raises(PromotionRefused, match=r"it has not reported for 3\.5 s"):
            paper.promote()

    def test_a_node_that_is_out_of_sync_is_refused(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b", term=1, in_sync=False)
        with pytest.raises(PromotionRefused, match="it is out of sync"):
            paper.promote()

    def test_a_node_that_stalled_is_refused_with_the_reason(self, paper: Paper) -> None:
        paper.beat("b", stalled="a bug at 1-3")
        with pytest.raises(PromotionRefused, match="it stalled: a bug at 1-3"):
            paper.promote()

    def test_after_a_new_run_all_live_nodes_have_to_report_first(self, paper: Paper) -> None:
        paper.beat("b")
        paper.beat("c", run="run-0")
        with pytest.raises(PromotionRefused, match="another run, and c has not reported since"):
            paper.promote()

    def test_a_node_that_lacks_what_the_log_lost_and_another_has_is_refused(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", changed=RecordId(1, 9))
        paper.beat("b", changed=RecordId(1, 1))
        with pytest.raises(
            PromotionRefused, match="it lacks changes up to 1-9, which the log lost and a has"
        ) as raised:
            paper.promote()
        assert raised.value.better == "a"

    def test_lag_is_no_reason_while_the_log_is_whole(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", position=at(1, 1))
        paper.beat("b")
        with pytest.raises(TimeoutError, match="b has term 2, and does not lead yet"):
            paper.promote()
        assert paper.server.state.term == 2

    @pytest.mark.parametrize("facts", [{"in_sync": False}, {"stalled": "a bug"}, {"every_ms": 0}])
    def test_force_goes_past_a_refusal(self, paper: Paper, facts: dict[str, Any]) -> None:
        paper.beat("b", **facts)
        paper.now_ms += 1  # one that beats every 0 ms is dead
        with pytest.raises(TimeoutError):
            paper.promote(force=True)
        assert paper.server.state.head is not None
        assert paper.server.state.head.node == "b"

    def test_another_term_than_the_expected_one_is_refused(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b")
        with pytest.raises(PromotionRefused, match="the term is 1, held by a, and not the expected one"):
            paper.promote(expect=0)
        assert paper.server.state.term == 1

    def test_a_boot_that_changed_meanwhile_is_seen_and_the_new_one_promoted(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b", boot="first")
        promote = paper.server.promote

        def restarted_meanwhile(claim: Claim) -> Reply:
            reply = promote(claim)
            leads = claim.writer.boot == "second"
            paper.beat("b", boot="second", term=reply.term if leads else 0, role="primary" if leads else "standby")
            return reply

        paper.server.promote = restarted_meanwhile  # type: ignore[method-assign]
        done = paper.promote()
        assert done.term == 3
        assert paper.server.state.head is not None
        assert paper.server.state.head.boot == "second"

    def test_a_redis_that_restarts_between_look_and_promotion_is_looked_at_again(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b")
        looks: list[GroupView] = []
        look = paper.server.look

        def restarts() -> GroupView:
            looks.append(look())
            if len(looks) == 1:
                paper.server.fail_over(paper.server.state, run="run-2")
                paper.beat("b")
            if looks[-1].term > ERA:
                paper.beat("b", role="primary", term=looks[-1].term)
            return looks[-1]

        paper.server.look = restarts  # type: ignore[method-assign]
        assert paper.promote(timeout_s=PATIENCE_S).term == paper.server.state.term == ERA + 1

    def test_a_group_that_never_rests_is_not_asked_for_ever(
        self, paper: Paper, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paper.take_term("a")
        paper.beat("b")
        monkeypatch.setattr(paper.server, "promote", lambda *args, **options: Reply(Code.CONFLICT, term=2, node="c"))
        with pytest.raises(TimeoutError, match="nothing was done"):
            paper.promote()

    def test_a_later_promotion_of_another_is_told(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b")
        promote = paper.server.promote

        def overtaken(claim: Claim) -> Reply:
            reply = promote(claim)
            promote(replace(claim, writer=Writer("c", "c-1"), expect=reply.term))
            return reply

        paper.server.promote = overtaken  # type: ignore[method-assign]
        with pytest.raises(PromotionRefused, match="c took term 3 meanwhile"):
            paper.promote()

    def test_a_log_that_was_lost_is_not_founded_by_a_promotion(self, paper: Paper) -> None:
        paper.beat("b", term=5)
        with pytest.raises(LogLost):
            paper.promote()

    def test_a_stray_record_is_named(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b")
        paper.server.stray(RecordId(1_700_000_000_000, 0))
        with pytest.raises(CorruptRecord, match="1700000000000-0"):
            paper.promote()

    def test_many_at_once_give_as_many_terms_and_one_primary(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        reported(group, b)

        def try_it(name: str) -> None:
            try:
                ops.promote(group.log(), name, by="ops", timeout_s=PATIENCE_S)
            except PromotionRefused as refused:
                assert "meanwhile" in refused.reason  # noqa: PT017

        for done in [in_thread(lambda i=i: try_it("ab"[i % 2])) for i in range(8)]:
            done()
        in_step(a, b)
        assert (a.term, {a.role, b.role}) == (9, {"primary", "standby"})

    def test_a_node_that_had_no_redis_a_moment_ago_is_not_refused_for_that(self, group: Group) -> None:
        log = group.faulty_log()
        group.primary("a")
        b = group.node("b", log=log)
        log.down = "cut off"
        eventually(lambda: "cut off" in b.problem)
        beat = log.beat
        told: list[str] = []

        def listen(heartbeat: Heartbeat) -> None:
            told.append(heartbeat.stalled)
            beat(heartbeat)

        log.beat = listen  # type: ignore[method-assign]
        log.down = ""
        eventually(lambda: len(told) > 1)
        assert told[0] == ""
        assert ops.promote(group.log(), "b", by="ops", timeout_s=PATIENCE_S).term == 2


class TestDemote:
    def test_the_primary_steps_down_and_nobody_leads(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        assert ops.demote(group.log(), by="ops", reason="enough") == 2
        a.wait(role="standby", position="2-3", timeout_s=PATIENCE_S)
        now = ops.status(group.log())
        assert (now.holder, now.term) == (None, 2)
        assert "nobody holds the term" in str(now.problem)
        with pytest.raises(NotPrimary):
            a.submit(push("y"))
        assert a.promote(timeout_s=PATIENCE_S) == 3

    def test_a_demoted_node_does_not_take_the_term_back_by_itself(self, group: Group) -> None:
        a = group.primary("a")
        ops.demote(group.log(), by="ops")
        a.wait(role="standby", position="2-2", timeout_s=PATIENCE_S)
        a.stop()
        a = group.node("a", lease_s=SHORT_LEASE_S)
        group.fail_over()
        eventually(lambda: beats(a) >= 4)
        assert (a.role, a.term) == ("standby", 2)

    def test_without_a_primary_there_is_nobody_to_demote(self, paper: Paper) -> None:
        with pytest.raises(NotPrimary, match="nothing to demote"):
            ops.demote(paper.log, by="ops")
        paper.take_term("a")
        ops.demote(paper.log, by="ops")
        with pytest.raises(NotPrimary, match="nothing to demote"):
            ops.demote(paper.log, by="ops")


class TestBudget:
    """What a promotion would lose. It changes nothing."""

    @pytest.fixture(autouse=True)
    def _nothing_changes(self, paper: Paper) -> Iterator[None]:
        yield
        before = paper.server.state
        for name in ("a", "b", "zz"):
            ops.preview(paper.log, name)
        assert paper.server.state is before

    def test_of_a_standby_that_keeps_up_it_is_nothing(self, paper: Paper) -> None:
        paper.take_term("a")
        place = paper.server.look().head.position  # type: ignore[union-attr]
        for name in ("a", "b"):
            paper.beat(name, term=1, position=place)
        assert ops.preview(paper.log, "b").to_dict() == {
            "node": "b", "refusal": None, "better_node": None, "lag_records": 0, "losses": [], "unknowns": [],
            "code": None, "facts": {},
        }  # fmt: skip

    def test_what_it_reads_first_is_its_lag_and_no_loss(self, paper: Paper) -> None:
        author = lead(paper.log, "a", boot="a-1")
        for _ in range(3):
            author.append()
        paper.beat("a", term=1, position=author.position, changed=author.position.id)
        paper.beat("b", term=1, position=at(1, 1))
        told = ops.preview(paper.log, "b")
        assert (told.lag_records, told.losses, told.unknowns, told.refusal) == (3, [], [], None)

    def test_what_the_log_lost_and_another_has_would_be_lost(self, paper: Paper) -> None:
        author = lead(paper.log, "a", boot="a-1")
        author.append()
        paper.beat("a", term=1, changed=RecordId(1, 9))
        paper.beat("b", term=1, changed=RecordId(1, 2))
        told = ops.preview(paper.log, "b")
        assert told.losses == ["a has changes up to 1-9, the log and b only up to 1-2"]
        assert (told.better_node, told.unknowns) == ("a", [])
        assert "it lacks changes up to 1-9" in str(told.refusal)
        assert ops.preview(paper.log, "a").losses == []

    def test_what_a_dead_node_may_have_nobody_knows(self, paper: Paper) -> None:
        author = lead(paper.log, "a", boot="a-1")
        author.append()
        paper.beat("a", term=1, changed=RecordId(1, 2))
        paper.server.fail_over(paper.server.state, run="run-2")
        paper.now_ms += 4500
        paper.beat("b", term=1)
        told = ops.preview(paper.log, "b")
        assert told.unknowns == ["a has not reported for 4.5 s: what it has behind 1-2"]
        assert (told.losses, told.refusal) == ([], None)

    def test_a_dead_node_of_an_earlier_era_may_have_more(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("c", term=1, changed=RecordId(1, 1))
        paper.server.fail_over(paper.server.state, run="run-2")
        paper.take_term("a")
        paper.now_ms += 4000
        paper.beat("b", term=ERA + 1)
        assert len(ops.preview(paper.log, "b").unknowns) == 1

    def test_a_dead_node_that_read_this_term_has_nothing_of_its_own(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("c", term=1)
        paper.now_ms += 4000
        paper.beat("b", term=1)
        assert ops.preview(paper.log, "b").unknowns == []

    def test_in_a_new_run_who_has_not_reported_is_not_known(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", term=1)
        paper.server.fail_over(paper.server.state, run="run-2")
        paper.beat("b", term=1)
        told = ops.preview(paper.log, "b")
        assert told.unknowns == ["a has not reported since Redis came back"]
        assert "try again" in str(told.refusal)

    def test_of_a_node_that_never_reported_nothing_is_known(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", term=1)
        told = ops.preview(paper.log, "zz")
        assert (told.lag_records, told.losses, told.unknowns) == (None, [], ["zz has never reported"])
        assert (told.better_node, "no node of that name" in str(told.refusal)) == ("a", True)

    def test_of_a_node_that_stalled_it_is_refused_and_its_changes_are_no_loss_to_others(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", term=1)
        paper.beat("b", term=1, stalled="a bug")
        assert ops.preview(paper.log, "b").refusal == "it stalled: a bug"

    def test_where_there_is_no_log_it_says_what_each_would_leave_behind(self, paper: Paper) -> None:
        paper.beat("a", term=1, log_id="log-1", changed=RecordId(1, 9))
        paper.beat("b", term=1, log_id="log-1", changed=RecordId(1, 2))
        assert ops.preview(paper.log, "b").losses == ["a has changes up to 1-9, the log and b only up to 1-2"]
        assert ops.preview(paper.log, "a").losses == []


class Writing:
    """A client that writes without a break: to the primary that it knows, and to the next one once that refuses."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = nodes
        self._enough = threading.Event()
        self.done: list[int] = []
        self._thread = in_thread(self._write)

    def _write(self) -> None:
        number = 0
        while not self._enough.is_set():
            for node in self._nodes:
                try:
                    node.submit(push(number))
                except (NotPrimary, Fenced, LeaseLost):
                    continue  # for certain not in the log
                self.done.append(number)
                number += 1
                break

    def more(self, count: int = 10) -> None:
        reached = len(self.done) + count
        eventually(lambda: len(self.done) >= reached, f"{count} more writes")

    def end(self) -> None:
        self._enough.set()
        self._thread()


class TestSwitchover:
    def test_it_moves_the_primary_and_tells_who_follows(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        reported(group, a, b)
        told: list[str] = []
        done = ops.switchover(group.log(), "b", by="ops", reason="new disk", timeout_s=PATIENCE_S, progress=told.append)
        assert (done.primary, done.previous_primary, done.term, done.first_id, done.follows) == (
            "b",
            "a",
            2,
            "2-3",
            True,
        )
        assert done.gap_ms > 0
        assert (a.role, b.role) == ("standby", "primary")
        term = ops.history(group.log()).entries[-1]
        assert (term.what, term.by, term.reason) == ("switchover", "ops", "new disk")
        assert (term.ended, term.ended_node) == ("stepped down", "a")

    def test_under_a_writer_nothing_is_lost_or_written_twice(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        reported(group, a, b)
        writing = Writing(a, b)
        gaps = []
        for target in (b, a, b):
            writing.more()
            gaps.append(ops.switchover(group.log(), target.name, by="ops", timeout_s=PATIENCE_S).gap_ms)
        writing.more()
        writing.end()
        in_step(a, b)
        assert pushed(a) == pushed(b) == list(range(len(writing.done)))
        assert (a.term, all(gap > 0 for gap in gaps)) == (4, True)

    def test_a_node_that_does_not_keep_up_is_refused_and_nothing_is_done(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a"), group.node("b", log=log)
        in_step(a, b)
        reported(group, a, b)
        log.deaf = True
        a.submit(push("x"))
        a.submit(push("y"))
        told: list[str] = []
        with pytest.raises(TimeoutError, match="b does not keep up: it is 2 records behind; nothing was done"):
            ops.switchover(group.log(), "b", by="ops", timeout_s=0.2, progress=told.append)
        assert "waiting for b, which is 2 records behind" in told
        assert (a.role, group.server.state.term) == ("primary", 1)
        assert a.submit(push("z")) == 3
        log.deaf = False
        assert ops.switchover(group.log(), "b", by="ops", timeout_s=PATIENCE_S).term == 2
        assert pushed(b) == ["x", "y", "z"]

    def test_one_that_is_out_of_sync_is_refused_and_nothing_is_done(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", term=1, role="primary")
        paper.beat("b", term=1, in_sync=False)
        with pytest.raises(PromotionRefused, match="out of sync"):
            ops.switchover(paper.log, "b", by="ops")
        assert paper.server.state.term == 1

    def test_the_primary_itself_is_refused(self, group: Group) -> None:
        group.primary("a")
        with pytest.raises(PromotionRefused, match="it leads already"):
            ops.switchover(group.log(), "a", by="ops")

    def test_without_a_primary_there_is_nothing_to_move(self, paper: Paper) -> None:
        paper.beat("b")
        with pytest.raises(NotPrimary):
            ops.switchover(paper.log, "b", by="ops")

    def test_a_term_that_another_took_meanwhile_is_left_alone(self, paper: Paper) -> None:
        paper.take_term("a")
        place = paper.server.look().head.position  # type: ignore[union-attr]
        paper.beat("a", term=1, role="primary")
        paper.beat("b", term=1, position=place)
        promote = paper.server.promote

        def overtaken(claim: Claim) -> Reply:
            paper.server.promote = promote  # type: ignore[method-assign]
            paper.take_term("c")
            return promote(claim)

        paper.server.promote = overtaken  # type: ignore[method-assign]
        with pytest.raises(PromotionRefused, match="the term is 2, held by c, and not the expected one"):
            ops.switchover(paper.log, "b", by="ops")
        assert paper.server.state.term == 2

    def test_an_old_primary_that_does_not_say_so_is_told_as_that(self, group: Group) -> None:
        log = group.log()
        a, b = group.primary("a", log=log, beat_every_s=SHORT_LEASE_S / 3), group.node("b")
        in_step(a, b)
        reported(group, a, b)
        log.down = "cut off"
        done = ops.switchover(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
        assert (done.follows, b.role) == (False, "primary")


class TestPause:
    def test_status_shows_who_paused_and_why_until_it_is_resumed(self, group: Group) -> None:
        reported(group, group.primary("a"))
        assert ops.status(group.log()).problem is None
        ops.pause(group.log(), by="ann", reason="moving house")
        problem = str(ops.status(group.log()).problem)
        when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        pattern = rf"automatic failover is paused \(by ann: moving house\) since {when}; `replicator resume` ends that"
        assert re.fullmatch(pattern, problem)
        ops.pause(group.log(), by="bob")
        assert "(by bob)" in str(ops.status(group.log()).problem)
        ops.resume(group.log())
        assert ops.status(group.log()).problem is None
        ops.resume(group.log())

    def test_promotions_by_hand_go_on_meanwhile(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        reported(group, a, b)
        ops.pause(group.log(), by="ann")
        assert ops.promote(group.log(), "b", by="ann", timeout_s=PATIENCE_S).term == 2
        assert ops.switchover(group.log(), "a", by="ann", timeout_s=PATIENCE_S).term == 3
        assert "paused" in str(ops.status(group.log()).problem)

    def test_where_there_is_no_log_there_is_nothing_to_pause(self, paper: Paper) -> None:
        for switch in (lambda: ops.pause(paper.log, by="ann"), lambda: ops.resume(paper.log)):
            with pytest.raises(LogLost, match="there is no log"):
                switch()
