"""Terms that are taken unasked: who takes them and when, what holds it up, and clocks that are set meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import replicator.node.candidate
from replicator import ConfigError, Node, NotPrimary, PromotionRefused, RecordId, ops
from replicator.format.ids import ERA
from replicator.node.scheduler import OwnThreads
from replicator.protocol import election
from replicator.protocol.group import Claim
from tests.support.kv import (
    BEAT_S,
    LEASE_S,
    PATIENCE_S,
    SHORT_LEASE_S,
    Group,
    after_beats,
    eventually,
    in_step,
    push,
    pushed,
)
from tests.support.nodes import is_missed_late, reported, sleeps, vacant_group
from tests.support.worlds import lead, promote


class Hours(OwnThreads):
    """Looks after a node for which time passes when a test says so, besides."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    @property
    def clock(self) -> Callable[[], float]:
        return lambda: time.monotonic() + self.ahead_s

    def pass_for_two_leases(self, group: Group, node: Node) -> None:
        """For it and for Redis, so much at a time that the holder, whose clock this is not, renews its lease before."""
        step_s = LEASE_S / 3
        for _ in range(6):
            self.ahead_s += step_s
            clock_ms = group.server.clock_ms
            group.server.clock_ms = lambda clock_ms=clock_ms: clock_ms() + step_s * 1000
            eventually(lambda: (group.server.look().lease_ms or 0) > (LEASE_S - step_s) * 1000, "the lease is renewed")
            after_beats(1, node)


class TestAutomaticFailover:
    def test_a_candidate_takes_over_when_the_lease_runs_out_and_not_at_its_next_beat(self, group: Group) -> None:
        b = group.node("b", auto_promote=True)
        sleeps(group, b)
        promote(group.log(), "z", lease_ms=300)
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert b.submit(push("x")) == 1
        assert b.term == 2
        (_, record) = ops.history(group.log()).entries
        assert (record.by, record.reason) == ("b", "the lease of z ran out, and nothing is known of it")

    def test_the_history_tells_an_end_in_order_from_a_crash_and_from_another_redis(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", auto_promote=True, beat_every_s=BEAT_S)
        in_step(a, b)
        # given a primary that stops in order, one that Redis forgets, and one that falls silent
        eventually(lambda: a._running.ha_loop.observer.look.head, "it knows the log, so it says goodbye")
        a.stop()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        group.fail_over()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        eventually(lambda: b.term > ERA)
        c = group.node("c", auto_promote=True, beat_every_s=BEAT_S)
        in_step(b, c)
        b._setup.log.down = "cut off"
        eventually(lambda: not group.server.look().heartbeats["b"].alive)
        group.end_lease()
        c.wait(role="primary", timeout_s=PATIENCE_S)
        # then each term says why it was taken
        entries = [each for each in ops.history(group.log()).entries if each.takes_term]
        assert [each.ended for each in entries] == [None, "stopped", "run changed", "lease ran out"]
        _, second, third, fourth = (each.reason or "" for each in entries)
        assert second == "a stopped in order"
        assert third == "Redis came back as another run, and it held the term before"
        assert fourth.startswith("the lease of b ran out: it has not reported for")

    def test_of_three_candidates_one_wins(self, group: Group) -> None:
        """G1."""
        nodes = vacant_group(group, "a", "b", "c")
        group.end_lease()
        eventually(lambda: any(node.role == "primary" for node in nodes), "a primary")
        in_step(*nodes)
        after_beats(2, *nodes)
        assert sorted(node.role for node in nodes) == ["primary", "standby", "standby"]
        assert [each.node for each in ops.history(group.log()).entries][:-1] == ["z"], "one term was taken"

    def test_candidates_that_claim_at_the_same_moment_do_no_harm(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """G1: the claim depends on that no lease runs, and on the term."""
        monkeypatch.setattr(replicator.node.candidate, "CLAIM_EVERY_S", 0.0)
        nodes = vacant_group(group, "a", "b", "c", "d")
        claiming = threading.Barrier(4)
        for node in nodes:
            claim = node._running.ha_loop.candidate.claim
            monkeypatch.setattr(
                node._running.ha_loop.candidate,
                "claim",
                lambda *a, claim=claim, **o: (claiming.wait(PATIENCE_S), claim(*a, **o)),
            )
        group.end_lease()
        eventually(lambda: any(node.role == "primary" for node in nodes), "a primary")
        in_step(*nodes)
        assert group.server.state.term == 2

    def test_candidates_that_claim_at_the_same_moment_in_a_new_run_do_no_harm(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """G1: there is no lease in it, and the claim depends on the term."""
        nodes = vacant_group(group, "a", "b")
        claiming = threading.Barrier(2)
        for node in nodes:
            claim = node._running.ha_loop.candidate.claim
            monkeypatch.setattr(
                node._running.ha_loop.candidate,
                "claim",
                lambda *a, claim=claim, **o: (claiming.wait(PATIENCE_S), claim(*a, **o)),
            )
        group.fail_over()
        eventually(lambda: any(node.role == "primary" for node in nodes), "a primary")
        in_step(*nodes)
        assert group.server.state.term == ERA + 1

    def test_the_most_advanced_goes_first(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.node.candidate, "CLAIM_EVERY_S", 60.0)
        author, log = lead(group.log(), "z"), group.faulty_log()
        log.deaf = True
        b, c = group.node("b", auto_promote=True), group.node("c", auto_promote=True, log=log)
        author.append(push("x"))
        b.wait(position="1-2", timeout_s=PATIENCE_S)
        reported(group, b, c)
        group.end_lease()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert (
            c._running.ha_loop.candidate.claim_at is None
            or c._running.ha_loop.candidate.claim_at > time.monotonic() + 30
        ), "c would have to wait for its turn"
        log.deaf = False
        in_step(b, c)
        assert (b.term, pushed(c)) == (2, ["x"])

    def test_if_the_first_one_is_dead_the_second_goes(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        b, c = vacant_group(group, "b", "c")
        claimed = threading.Event()
        monkeypatch.setattr(
            b._running.ha_loop.candidate, "claim", lambda *args, **options: claimed.set()
        )  # it dies there
        candidate = c._running.ha_loop.candidate
        claim = candidate.claim

        def after_b(*args: Any, **options: Any) -> Any:
            assert claimed.wait(PATIENCE_S), "the turn of b, which is the first"
            return claim(*args, **options)

        monkeypatch.setattr(candidate, "claim", after_b)
        group.end_lease()
        c.wait(role="primary", timeout_s=PATIENCE_S)

    def test_one_that_lags_reads_everything_before_it_leads(self, group: Group) -> None:
        """G4."""
        author, log = lead(group.log(), "z"), group.faulty_log()
        b = group.node("b", auto_promote=True, log=log)
        b.wait(position="1-1", timeout_s=PATIENCE_S)
        log.deaf = True
        for i in range(20):
            author.append(push(i))
        group.end_lease()
        eventually(lambda: group.server.state.term == 2, "it has the term")
        assert b.role == "standby"
        with pytest.raises(NotPrimary):
            b.submit(push("too early"))
        log.deaf = False
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(b) == list(range(20))

    def test_a_clean_stop_is_followed_at_once(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        b = group.node("b", auto_promote=True, lease_s=60.0)
        in_step(a, b)
        sleeps(group, b)
        a.submit(push("x"))
        a.stop()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(b) == ["x"]

    def test_nobody_takes_over_while_the_holder_renews(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        claims: list[Claim] = []
        monkeypatch.setattr(group.server, "promote", claims.append)
        hours = Hours()
        b = group.node("b", auto_promote=True, beat_every_s=BEAT_S, scheduler=hours)
        in_step(a, b)
        hours.pass_for_two_leases(group, b)
        assert (a.role, a.term, b.role, claims) == ("primary", 1, "standby", [])

    def test_who_is_no_candidate_does_not_take_over(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", beat_every_s=BEAT_S)
        policy = b._running.ha_loop._policy._replace(auto_promote=False)
        b._running.ha_loop._policy = b._running.ha_loop.reporter._policy = b._running.ha_loop.candidate._policy = policy
        group.end_lease()
        after_beats(4, b)
        assert (b.role, group.server.state.term) == ("standby", 1)

    def test_nobody_takes_over_while_it_is_paused_and_once_it_is_resumed_somebody_does(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", beat_every_s=BEAT_S)
        ops.pause(group.log(), by="ann", reason="moving house")
        group.end_lease()
        after_beats(4, b)
        assert (b.role, group.server.state.term) == ("standby", 1)
        assert "paused (by ann: moving house)" in str(ops.status(group.log()).problem)
        sleeps(group, b)
        ops.resume(group.log())
        eventually(lambda: group.server.state.term == 2)
        assert "paused" not in str(ops.status(group.log()).problem)

    def test_a_pause_holds_over_a_new_run_and_a_promotion_by_hand(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", beat_every_s=BEAT_S)
        ops.pause(group.log(), by="ann")
        group.fail_over()
        after_beats(4, b)
        assert b.role == "standby"
        assert ops.promote(group.log(), "b", by="ann", timeout_s=PATIENCE_S).term == ERA + 1
        assert ops.status(group.log()).holder == "b"
        assert group.server.look().head.paused != ""

    def test_after_a_demotion_nobody_takes_over_not_even_in_another_run(self, group: Group) -> None:
        a, b = (group.node(name, auto_promote=True, beat_every_s=BEAT_S) for name in "ab")
        eventually(lambda: "primary" in (a.role, b.role))
        eventually(lambda: _demoted(group))
        after_beats(4, a, b)
        term = group.server.state.term
        assert (a.role, b.role) == ("standby", "standby")
        group.fail_over()
        after_beats(5, a, b)
        assert (a.role, b.role, group.server.state.term) == ("standby", "standby", term)
        assert ops.promote(group.log(), "a", by="ann", timeout_s=PATIENCE_S).term == ERA + 1

    def test_one_that_lacks_what_the_log_lost_does_not_take_over(self, group: Group) -> None:
        """G5."""
        a = group.primary("a", beat_every_s=BEAT_S)
        b, c = (group.node(name, beat_every_s=BEAT_S) for name in "bc")
        a.submit(push("x"))
        in_step(a, b, c)
        b.stop()
        before = group.server.state
        a.submit(push("c has it"))
        in_step(a, c)
        group.crash(a)
        group.fail_over(before)
        b = group.node("b", beat_every_s=BEAT_S, auto_promote=True)
        eventually(lambda: not group.server.look().heartbeats["a"].alive)
        after_beats(5, b, c)
        assert b.role == "standby"
        with pytest.raises(PromotionRefused) as raised:
            ops.promote(group.log(), "b", by="test")
        assert raised.value.better == "c"
        c.stop()
        c = group.node("c", beat_every_s=BEAT_S, auto_promote=True)
        c.wait(role="primary", timeout_s=PATIENCE_S)
        eventually(lambda: pushed(b) == pushed(c) == ["x", "c has it"])

    def test_in_a_new_run_a_candidate_takes_over_from_a_holder_that_is_gone(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S, auto_promote=True)
        c = group.node("c", beat_every_s=BEAT_S)
        a.submit(push("x"))
        in_step(a, b, c)
        group.crash(a)
        group.fail_over()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert b.term == ERA + 1
        b.submit(push("y"))
        assert pushed(b) == ["x", "y"]

    def test_a_group_that_never_had_a_log_elects_its_first_primary(self, group: Group) -> None:
        nodes = [group.node(name, auto_promote=True) for name in "abc"]
        eventually(lambda: any(node.role == "primary" for node in nodes))
        in_step(*nodes)
        assert [each.term for each in ops.history(group.log()).entries] == [1]
        assert sorted(node.role for node in nodes) == ["primary", "standby", "standby"]

    def test_a_group_that_lost_its_log_elects_nobody(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", beat_every_s=BEAT_S)
        group.server.flush()
        after_beats(5, b)
        assert (b.role, group.server.look().head) == ("standby", None)

    def test_a_stray_record_is_taken_over_by_nobody(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", beat_every_s=BEAT_S)
        group.server.stray(RecordId(1_700_000_000_000, 0))
        group.end_lease()
        after_beats(3, b)
        assert (b.role, group.server.state.term) == ("standby", 1)


def _demoted(group: Group) -> bool:
    """Demote whoever leads; with short leases the term may just have moved on."""
    try:
        ops.demote(group.log(), by="ann")
    except (PromotionRefused, NotPrimary):
        return False
    return True


class TestFlapping:
    """A node that takes the term by itself and loses it again lets another one go first."""

    def flaps(self, group: Group, name: str, times: int = 3) -> None:
        now_ms = int(group.server.clock_ms())
        head = group.server.look().head
        assert head is not None
        group.server._write(head=head._replace(taken=((now_ms, name),) * times))

    def test_it_is_held_back_in_favour_of_another_and_says_so(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(replicator.node.candidate, "CLAIM_EVERY_S", 60.0)
        b, c = vacant_group(group, "b", "c")
        self.flaps(group, "b")  # otherwise it would be the first
        with monkeypatch.context() as slow:
            slow.setattr(c._running.ha_loop.candidate, "claim", lambda *_, **__: None)
            group.end_lease()
            told = eventually(lambda: [r.getMessage() for r in caplog.records if "held back" in r.getMessage()])
        c.wait(role="primary", timeout_s=PATIENCE_S)
        in_step(b, c)
        assert c.term == 2
        assert told[0].startswith("held back in favour of c: it took the term 3 times in 60 s and lost it again")
        after_beats(1, b)
        assert len([r for r in caplog.records if "held back" in r.getMessage()]) == 1, "it says so once"

    def test_the_tools_refuse_it_and_name_the_other(self, group: Group) -> None:
        vacant_group(group, "b", "c")
        self.flaps(group, "b")
        with pytest.raises(PromotionRefused, match="it took the term 3 times") as raised:
            ops.promote(group.log(), "b", by="test")
        assert raised.value.better == "c"
        assert ops.promote(group.log(), "b", by="test", force=True, timeout_s=PATIENCE_S).term == 2

    def test_where_nobody_else_can_it_goes_itself(self, group: Group) -> None:
        (c,) = vacant_group(group, "c")
        self.flaps(group, "c")
        group.end_lease()
        c.wait(role="primary", timeout_s=PATIENCE_S)
        assert c.term == 2

    def test_twice_is_no_flapping(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.node.candidate, "CLAIM_EVERY_S", 60.0)
        b, c = vacant_group(group, "b", "c")
        self.flaps(group, "b", times=2)
        group.end_lease()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        in_step(b, c)

    def test_one_that_loses_the_term_again_and_again_comes_to_that(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replicator.node.candidate, "CLAIM_EVERY_S", 60.0)
        b, c = vacant_group(group, "b", "c")
        for term in (2, 4, 6):
            group.end_lease()
            b.wait(role="primary", position=f"{term}-{term}", timeout_s=PATIENCE_S)
            promote(group.log(), "z")
            b.wait(role="standby", position=f"{term + 1}-{term + 1}", timeout_s=PATIENCE_S)
            reported(group, b, c)
        group.end_lease()
        c.wait(role="primary", timeout_s=PATIENCE_S)
        head = group.server.look().head
        assert head is not None
        assert [node for _, node in head.taken] == ["b", "b", "b", "c"]


HOUR_MS = 3_600_000


class TestAClockThatIsSet:
    """That of Redis, by an hour: nodes tell who lives, and what a lease is worth, by their own."""

    def _set(self, group: Group, by_ms: float) -> None:
        before = group.server.clock_ms
        group.server.clock_ms = lambda: before() + by_ms

    def test_back_a_dead_primary_is_followed_all_the_same(self, group: Group) -> None:
        log = group.log()
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", log=log, beat_every_s=BEAT_S, auto_promote=True)
        a.submit(push("x"))
        in_step(a, b)
        log.down = "cut off"  # it takes nothing over before the clock is set
        a._setup.lease.length_s = SHORT_LEASE_S
        eventually(lambda: (group.server.look().lease_ms or 0) <= a._setup.lease.length_ms)
        group.crash(a)
        self._set(group, -HOUR_MS)
        assert (group.server.look().lease or "").startswith("1 "), "Redis has it for another hour"
        log.down = ""
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(b) == ["x"]

    def test_back_a_dead_node_is_not_alive_for_an_hour(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        in_step(a, b)
        eventually(
            lambda: a._running.ha_loop.observer.look is not None and "b" in a._running.ha_loop.observer.look.heartbeats
        )
        group.crash(b)
        self._set(group, -HOUR_MS)
        assert not group.server.look().heartbeats["b"].alive, "at a single look"
        eventually(
            lambda: (
                a._running.ha_loop.observer.look is not None
                and not a._running.ha_loop.observer.look.heartbeats["b"].alive
            )
        )
        assert a._running.ha_loop.observer.look is not None
        assert a._running.ha_loop.observer.look.heartbeats["a"].alive

    @pytest.mark.parametrize("by_ms", [-HOUR_MS, HOUR_MS, -2000 * LEASE_S])
    def test_a_primary_that_lives_keeps_the_term(self, group: Group, by_ms: float) -> None:
        a, hours = group.primary("a", beat_every_s=BEAT_S), Hours()
        # forward, the lease of the moment is gone for a beat
        b = group.node("b", beat_every_s=BEAT_S, scheduler=hours, auto_promote=by_ms < 0)
        in_step(a, b)
        self._set(group, by_ms)
        hours.pass_for_two_leases(group, b)
        assert (a.role, a.term, b.role) == ("primary", 1, "standby")
        eventually(lambda: b.lag == (0, 0.0))
        a.submit(push("x"))
        with b.reading(fresh=True, timeout_s=PATIENCE_S) as state:
            assert list(state.pushed) == ["x"]

    def test_back_the_name_of_a_node_that_was_killed_is_free(self, group: Group, tmp_path: Path) -> None:
        a = group.node("a", beat_every_s=BEAT_S)
        eventually(lambda: "a" in group.server.look().heartbeats)
        group.crash(a)
        self._set(group, -HOUR_MS)
        again = group.node("a", beat_every_s=BEAT_S, data_dir=tmp_path / "another")
        after_beats(2, again)
        assert again.failed is None

    def test_back_the_name_of_a_node_that_lives_is_taken(self, group: Group, tmp_path: Path) -> None:
        is_missed_late(group, group.node("a", beat_every_s=BEAT_S))
        self._set(group, -HOUR_MS)
        with pytest.raises(ConfigError, match="is taken in group"):
            group.node("a", beat_every_s=BEAT_S, data_dir=tmp_path / "another")

    def test_back_nobody_is_held_back_for_an_hour(self, group: Group) -> None:
        a = group.primary("a")
        head = group.server.look().head
        assert head is not None
        now_ms = int(group.server.clock_ms())
        group.server._write(head=head._replace(taken=((now_ms, "a"),) * 3))
        assert election.cool_down_ms("a", group.server.look()) > 0
        self._set(group, -HOUR_MS)
        assert election.cool_down_ms("a", group.server.look()) == 0
        a.submit(push("x"))
