"""What operators do to a group: over live nodes, and over heartbeats of nodes that are not there."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from replicator import Fenced, LeaseLost, Node, NotPrimary, PromotionRefused, RecordId, ReplicatorError, ops
from replicator.errors import CorruptRecord, LogLost
from replicator.format.ids import ERA, Position, Writer
from replicator.format.records import ChangeRecord, PartRecord, TermRecord
from replicator.log.interface import LogSize
from replicator.protocol import election
from replicator.protocol.group import Claim, Code, GroupView, Head, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import PATIENCE_S, SHORT_LEASE_S, Group, beats, eventually, in_step, in_thread, push, pushed
from tests.support.worlds import CLOCK_ID, lead


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


class Paper:
    """A group of nodes that exist as heartbeats only, on a clock that only the test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000.0
        self.server = MemoryRedis(clock_ms=lambda: self.now_ms)
        self.log = MemoryLog(self.server, "g")

    def beat(self, name: str, **facts: Any) -> Heartbeat:
        facts = {"run": self.server.state.run, "every_ms": 1000} | facts
        heartbeat = Heartbeat(name, facts.pop("boot", f"{name}-1"), **facts)
        self.server.beat(heartbeat)
        return heartbeat

    def take_term(self, name: str = "a", **more: Any) -> Reply:
        writer = Writer(name, more.pop("boot", f"{name}-1"))
        arguments = {"floor": 0, "lease_ms": 5000, "by": "test", "reason": "", "new_log_id": "log-1"} | more
        return self.log.promote(Claim(writer=writer, **arguments))

    def promote(self, name: str = "b", **options: Any) -> ops.Promotion:
        return ops.promote(self.log, name, by="test", **{"timeout_s": 0.05} | options)


@pytest.fixture
def paper() -> Paper:
    return Paper()


def at(term: int, n: int) -> Position:
    return Position(RecordId(term, n), "1" * 32)


class TestStatus:
    def test_it_has_the_fields_that_programs_rely_on(self, group: Group) -> None:
        a = group.primary("a", http="http://a", lease_s=SHORT_LEASE_S)
        b = group.node("b", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        in_step(a, b)
        told = eventually(
            lambda: [
                now
                for now in [ops.status(group.log()).to_dict()]
                if [node["position"] for node in now["nodes"]] == ["1-2", "1-2"] and now["nodes"][0]["lag_records"] == 0
            ]
        )[0]
        assert list(told) == [
            "group", "log_id", "run", "term", "holder", "head", "lease_ms", "log_records", "log_bytes",
            "snapshot_bytes", "changes_bytes", "kept_bytes", "nodes", "problem", "warnings",
        ]  # fmt: skip
        sizes = {"log_bytes": 1, "changes_bytes": 1, "kept_bytes": 1}
        assert told | {"nodes": [], "log_id": "", "lease_ms": 1} | sizes == {
            "group": "memory",
            "log_id": "",
            "run": "run-1",
            "term": 1,
            "holder": "a",
            "head": "1-2",
            "lease_ms": 1,
            "log_records": 2,
            **sizes,
            "snapshot_bytes": 0,
            "nodes": [],
            "problem": None,
            "warnings": [],
        }
        (change,) = (entry for entry in group.server.state.entries if str(entry.id) == "1-2")
        weight = len(change.header or b"") + len(change.body or b"")
        assert (told["changes_bytes"], told["kept_bytes"]) == (weight, weight)
        assert told["log_bytes"] > weight  # fmt: skip
        assert len(told["log_id"]) == 32
        assert 0 < told["lease_ms"] <= 1000 * SHORT_LEASE_S
        ages = [node.pop("age_seconds") for node in told["nodes"]]
        assert all(0 <= age < PATIENCE_S for age in ages)
        assert told["nodes"][0] == {
            "name": "a", "boot": a.boot, "role": "primary", "term": 1, "position": "1-2", "lag_records": 0,
            "lag_seconds": 0.0, "in_sync": True, "alive": True, "http": "http://a", "problem": None,
        }  # fmt: skip
        assert told["nodes"][1] | {"boot": ""} == {
            "name": "b", "boot": "", "role": "standby", "term": 1, "position": "1-2", "lag_records": 0,
            "lag_seconds": 0.0, "in_sync": True, "alive": True, "http": None, "problem": None,
        }  # fmt: skip

    def test_of_a_group_that_is_not_there_yet(self, paper: Paper) -> None:
        told = ops.status(paper.log).to_dict()
        assert told == {
            "group": "g", "log_id": None, "run": "run-1", "term": 0, "holder": None, "head": None, "lease_ms": None,
            "log_records": None, "log_bytes": None, "snapshot_bytes": None, "changes_bytes": None, "kept_bytes": None,
            "nodes": [], "problem": None, "warnings": [],
        }  # fmt: skip

    def test_what_snapshots_and_changes_weigh_is_what_a_live_primary_says(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", role="primary", snapshot_bytes=900, changes_bytes=20, kept_bytes=70)
        paper.beat("b", snapshot_bytes=1, changes_bytes=2, kept_bytes=3)
        now = ops.status(paper.log)
        assert (now.snapshot_bytes, now.changes_bytes, now.kept_bytes) == (900, 20, 70)
        paper.now_ms += 3001
        paper.beat("b", snapshot_bytes=1, changes_bytes=2, kept_bytes=3)
        now = ops.status(paper.log)
        assert (now.snapshot_bytes, now.changes_bytes, now.kept_bytes) == (None, None, None)
        assert now.log_records == 1

    def test_the_changes_in_the_log_are_no_more_than_the_log(self, paper: Paper) -> None:
        # given a primary that was restarted: it says what there may be
        paper.take_term("a")
        paper.beat("a", role="primary", snapshot_bytes=900, changes_bytes=200, kept_bytes=8_000_000)
        look = paper.log.look()
        assert ops.status_of("g", look, LogSize(10, 5000)).kept_bytes == 5000
        assert ops.status_of("g", look, LogSize(10, 9_000_000)).kept_bytes == 8_000_000
        assert ops.status_of("g", look, LogSize(None, None)).kept_bytes == 8_000_000

    def test_a_node_behind_shows_by_how_much_and_since_when(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b", position=at(0, 0), applied_at=int(paper.now_ms) - 2500)
        (node,) = ops.status(paper.log).nodes
        assert (node.lag_records, node.lag_seconds) == (1, 2.5)

    def test_the_lag_of_a_dead_node_is_not_known(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b", position=at(0, 0))
        paper.now_ms += 3001
        (node,) = ops.status(paper.log).nodes
        assert (node.alive, node.lag_records, node.lag_seconds) == (False, None, None)

    def test_a_node_ahead_of_the_log_says_so_and_its_lag_is_not_known(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b", position=at(1, 9))
        (node,) = ops.status(paper.log).nodes
        assert (node.lag_records, node.problem) == (None, "ahead of the log")

    def test_whoever_says_it_leads_and_does_not_hold_the_term_is_a_standby(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", role="primary", boot="a-0")
        paper.beat("b", role="primary")
        assert [node.role for node in ops.status(paper.log).nodes] == ["standby", "standby"]
        paper.beat("a", role="primary")
        assert [node.role for node in ops.status(paper.log).nodes] == ["primary", "standby"]

    def test_in_another_run_nobody_holds_the_term(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.server.fail_over(paper.server.state, run="run-2")
        now = ops.status(paper.log)
        assert now.holder is None
        assert "another run" in str(now.problem)

    def test_a_term_key_without_a_log_is_a_problem(self, paper: Paper) -> None:
        paper.server.state = replace(paper.server.state, term=5)
        assert "Redis lost the log" in str(ops.status(paper.log).problem)

    def test_a_stray_record_is_a_problem_with_its_id(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.server.stray(RecordId(1_700_000_000_000, 0))
        assert "1700000000000-0" in str(ops.status(paper.log).problem)

    def test_an_entry_that_is_no_heartbeat_hides_nobody(self, paper: Paper) -> None:
        paper.beat("a")
        state = paper.server.state
        paper.server.state = replace(state, beats=(*state.beats, ("z", paper.now_ms, b"not json")))
        assert [node.name for node in ops.status(paper.log).nodes] == ["a"]


class TestPromote:
    def test_it_tells_the_term_and_that_the_node_leads(self, group: Group) -> None:
        group.primary("a"), group.node("b")
        done = ops.promote(group.log(), "b", by="ops", reason="maintenance")
        assert (done.node, done.term, done.id) == ("b", 2, "2-2")
        assert done.led_ms > 0
        assert group.nodes[1].role == "primary"
        term = ops.history(group.log())[-1]
        assert (term.by, term.reason, term.node) == ("ops", "maintenance", "b")

    def test_the_first_promotion_founds_the_log(self, group: Group) -> None:
        group.node("a")
        assert ops.promote(group.log(), "a", by="ops").id == "1-1"

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
            return looks[-1]

        paper.server.look = restarts  # type: ignore[method-assign]
        with pytest.raises(TimeoutError):
            paper.promote()
        assert paper.server.state.term == ERA + 1

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
        b = group.node("b", log=log, lease_s=SHORT_LEASE_S)
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
        assert ops.promote(group.log(), "b", by="ops").term == 2


class TestDemote:
    def test_the_primary_steps_down_and_nobody_leads(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        assert ops.demote(group.log(), by="ops", reason="enough") == 2
        a.wait(role="standby", position="2-3", timeout_s=PATIENCE_S)
        now = ops.status(group.log())
        assert (now.holder, now.term) == (None, 2)
        assert "nobody holds the term" in str(now.problem)
        with pytest.raises(NotPrimary):
            a.submit(push("y"))
        assert a.promote() == 3

    def test_a_demoted_node_does_not_take_the_term_back_by_itself(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
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
            "node": "b", "refused": None, "better": None, "lag_records": 0, "lost": [], "unknown": [],
        }  # fmt: skip

    def test_what_it_reads_first_is_its_lag_and_no_loss(self, paper: Paper) -> None:
        author = lead(paper.log, "a", boot="a-1")
        for _ in range(3):
            author.append()
        paper.beat("a", term=1, position=author.position, changed=author.position.id)
        paper.beat("b", term=1, position=at(1, 1))
        told = ops.preview(paper.log, "b")
        assert (told.lag_records, told.lost, told.unknown, told.refused) == (3, [], [], None)

    def test_what_the_log_lost_and_another_has_would_be_lost(self, paper: Paper) -> None:
        author = lead(paper.log, "a", boot="a-1")
        author.append()
        paper.beat("a", term=1, changed=RecordId(1, 9))
        paper.beat("b", term=1, changed=RecordId(1, 2))
        told = ops.preview(paper.log, "b")
        assert told.lost == ["a has changes up to 1-9, the log and b only up to 1-2"]
        assert (told.better, told.unknown) == ("a", [])
        assert "it lacks changes up to 1-9" in str(told.refused)
        assert ops.preview(paper.log, "a").lost == []

    def test_what_a_dead_node_may_have_nobody_knows(self, paper: Paper) -> None:
        author = lead(paper.log, "a", boot="a-1")
        author.append()
        paper.beat("a", term=1, changed=RecordId(1, 2))
        paper.server.fail_over(paper.server.state, run="run-2")
        paper.now_ms += 4500
        paper.beat("b", term=1)
        told = ops.preview(paper.log, "b")
        assert told.unknown == ["a has not reported for 4.5 s: what it has behind 1-2"]
        assert (told.lost, told.refused) == ([], None)

    def test_a_dead_node_of_an_earlier_era_may_have_more(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("c", term=1, changed=RecordId(1, 1))
        paper.server.fail_over(paper.server.state, run="run-2")
        paper.take_term("a")
        paper.now_ms += 4000
        paper.beat("b", term=ERA + 1)
        assert len(ops.preview(paper.log, "b").unknown) == 1

    def test_a_dead_node_that_read_this_term_has_nothing_of_its_own(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("c", term=1)
        paper.now_ms += 4000
        paper.beat("b", term=1)
        assert ops.preview(paper.log, "b").unknown == []

    def test_in_a_new_run_who_has_not_reported_is_not_known(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", term=1)
        paper.server.fail_over(paper.server.state, run="run-2")
        paper.beat("b", term=1)
        told = ops.preview(paper.log, "b")
        assert told.unknown == ["a has not reported since Redis came back"]
        assert "try again" in str(told.refused)

    def test_of_a_node_that_never_reported_nothing_is_known(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", term=1)
        told = ops.preview(paper.log, "zz")
        assert (told.lag_records, told.lost, told.unknown) == (None, [], ["zz has never reported"])
        assert (told.better, "no node of that name" in str(told.refused)) == ("a", True)

    def test_of_a_node_that_stalled_it_is_refused_and_its_changes_are_no_loss_to_others(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", term=1)
        paper.beat("b", term=1, stalled="a bug")
        assert ops.preview(paper.log, "b").refused == "it stalled: a bug"

    def test_where_there_is_no_log_it_says_what_each_would_leave_behind(self, paper: Paper) -> None:
        paper.beat("a", term=1, log_id="log-1", changed=RecordId(1, 9))
        paper.beat("b", term=1, log_id="log-1", changed=RecordId(1, 2))
        assert ops.preview(paper.log, "b").lost == ["a has changes up to 1-9, the log and b only up to 1-2"]
        assert ops.preview(paper.log, "a").lost == []


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
        told: list[str] = []
        done = ops.switchover(group.log(), "b", by="ops", reason="new disk", progress=told.append)
        assert (done.node, done.before, done.term, done.id, done.follows) == ("b", "a", 2, "2-3", True)
        assert done.gap_ms > 0
        assert (a.role, b.role) == ("standby", "primary")
        term = ops.history(group.log())[-1]
        assert (term.by, term.reason) == ("ops", "new disk")

    def test_under_a_writer_nothing_is_lost_or_written_twice(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
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
        log.deaf = True
        a.submit(push("x"))
        a.submit(push("y"))
        told: list[str] = []
        with pytest.raises(TimeoutError, match="b does not keep up: it is 2 records behind; nothing was done"):
            ops.switchover(group.log(), "b", by="ops", timeout_s=0.2, progress=told.append)
        assert "b is 2 records behind" in told
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
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        in_step(a, b)
        log.down = "cut off"
        done = ops.switchover(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
        assert (done.follows, b.role) == (False, "primary")


class TestPause:
    def test_status_shows_who_paused_and_why_until_it_is_resumed(self, group: Group) -> None:
        group.primary("a")
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
        in_step(group.primary("a"), group.node("b"))
        eventually(lambda: "b" in group.server.look().heartbeats)
        ops.pause(group.log(), by="ann")
        assert ops.promote(group.log(), "b", by="ann").term == 2
        assert ops.switchover(group.log(), "a", by="ann").term == 3
        assert "paused" in str(ops.status(group.log()).problem)

    def test_where_there_is_no_log_there_is_nothing_to_pause(self, paper: Paper) -> None:
        for switch in (lambda: ops.pause(paper.log, by="ann"), lambda: ops.resume(paper.log)):
            with pytest.raises(LogLost, match="there is no log"):
                switch()


class TestRecover:
    """Over heartbeats only; tests/unit/node/test_node.py has it over nodes."""

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
        (term,) = ops.history(paper.log)
        assert (term.by, term.reason) == ("ann", "the log was lost")

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
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(TimeoutError, match="late has term"):
        ops.recover(paper.log, by="ann", timeout_s=0.0)
    assert waited[0] == 3.0


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
        a, _ = group.primary("a"), group.node("b")
        a.submit(push("x"))
        told: list[str] = []
        report = ops.verify(group.log(), by="ops", progress=told.append)
        assert report.to_dict() == {
            "position": "1-3", "digests": dict.fromkeys(["a", "b"], report.digests["a"]), "missing": [], "silent": [],
            "equal": True,
        }  # fmt: skip
        assert told[0] == "asked a for a marker"
        assert told[-1] == "2 of 2 nodes reported at 1-3"

    def test_a_live_node_that_does_not_report_is_missing_and_nothing_is_shown_equal(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        group.server.beat(Heartbeat("b", "1", run="run-1", every_ms=60_000))
        report = ops.verify(group.log(), by="ops", timeout_s=1.0)
        assert report.missing == ["b"]
        assert not report.equal
        assert report.verdict == "not all nodes could be compared: b did not report in time; a told its state at 1-3"

    def test_a_node_of_the_group_that_does_not_report_is_named_and_nothing_is_shown_equal(self, group: Group) -> None:
        a, _ = group.primary("a"), group.node("b")
        a.submit(push("x"))
        group.server.beat(Heartbeat("c", "1", run="run-1", every_ms=0))
        report = eventually(
            lambda: (found := ops.verify(group.log(), by="ops", timeout_s=PATIENCE_S)).silent and found, "c is dead"
        )
        assert (report.missing, report.silent, sorted(report.digests)) == ([], ["c"], ["a", "b"])
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
        places = []
        for i in range(3):
            a.submit(push(i))
            report = ops.verify(group.log(), by="ops")
            assert report.equal
            places.append(report.position)
        assert places == ["1-3", "1-5", "1-7"]
        in_step(a, b)


class TestHistory:
    def test_it_tells_of_each_term_who_why_and_how_much(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        a.submit(push("y"))
        a.publish()
        ops.promote(group.log(), "b", by="ops", reason="maintenance")
        b.submit(push("z"))
        first, second = (term.to_dict() for term in ops.history(group.log()))
        assert first | {"at": 0} == {
            "term": 1, "node": "a", "boot": a.boot, "run": "run-1", "by": "a's application",
            "reason": "asked by the application",
            "at": 0, "first": "1-1", "last": "1-4", "changes": 2, "snapshots": 1,
        }  # fmt: skip
        assert second["at"] >= first["at"] > 1_600_000_000_000
        assert second | {"at": 0} == {
            "term": 2, "node": "b", "boot": b.boot, "run": "run-1", "by": "ops", "reason": "maintenance",
            "at": 0, "first": "2-5", "last": "2-6", "changes": 1, "snapshots": 0,
        }  # fmt: skip

    def test_of_a_group_without_a_log_it_is_empty(self, paper: Paper) -> None:
        assert ops.history(paper.log) == []


class TestRecords:
    def test_they_come_in_order_and_from_where_one_likes(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.publish()
        records = list(ops.records(group.log()))
        assert [type(record) for record in records] == [TermRecord, ChangeRecord, PartRecord]
        assert [str(record.id) for record in ops.records(group.log(), after=RecordId(1, 1))] == ["1-2", "1-3"]

    def test_more_than_one_batch_is_read(self, group: Group) -> None:
        a = group.primary("a")
        for i in range(80):
            a.submit(push(i))
        assert [record.id.n for record in ops.records(group.log())] == list(range(1, 82))

    def test_those_to_come_are_followed(self, group: Group) -> None:
        a = group.primary("a")
        follow = ops.records(group.log(), follow=True)
        followed = in_thread(lambda: [str(record.id) for record in islice(follow, 3)])
        a.submit(push("x"))
        a.submit(push("y"))
        assert followed() == ["1-1", "1-2", "1-3"]

    def test_at_something_else_they_end_with_an_error(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.server.stray(RecordId(1_700_000_000_000, 0))
        records = ops.records(paper.log)
        assert str(next(records).id) == "1-1"
        with pytest.raises(ReplicatorError, match="1700000000000-0"):
            next(records)
