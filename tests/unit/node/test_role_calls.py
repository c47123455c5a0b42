"""What a node does when its role changes and while it leads, over a log in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator import (
    ConfigError,
    Fenced,
    Leadership,
    LeadershipLost,
    Node,
    NotPrimary,
    NotRunning,
    ReplicatorError,
    RoleEvent,
    ops,
)
from replicator.format.ids import ERA
from replicator.node import leader_work, role_watch
from replicator.node import node as node_module
from replicator.node.lease import MARGIN
from tests.support.forking import in_child, outcome
from tests.support.kv import (
    BEAT_S,
    PATIENCE_S,
    SHORT_LEASE_S,
    Group,
    after_beats,
    eventually,
    in_step,
    push,
    pushed,
    submitted,
)
from tests.support.nodes import lease_runs_out, replace_holder
from tests.support.worlds import promote

#: Work that is not told would go on for ever.
NEVER_S = 3 * PATIENCE_S


class Work:
    """Work that notes its leaderships, and goes on until it is told to end, and as long after that as a test likes."""

    def __init__(self) -> None:
        self.begun: list[Leadership] = []
        self.ended: list[Leadership] = []
        #: Runs end at once when told; or only once this is set.
        self.may_end = threading.Event()
        self.may_end.set()
        self.at_end: Callable[[Leadership], None] = lambda leadership: None

    def __call__(self, leadership: Leadership) -> None:
        self.begun.append(leadership)
        leadership.lost.wait(NEVER_S)
        self.may_end.wait(NEVER_S)
        self.at_end(leadership)
        self.ended.append(leadership)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.may_end.set()


class Heard:
    """A callback that notes what it hears."""

    def __init__(self) -> None:
        self.events: list[RoleEvent] = []

    def __call__(self, event: RoleEvent) -> None:
        self.events.append(event)

    def eventually(self, *last: RoleEvent) -> None:
        eventually(lambda: tuple(self.events[-len(last) :]) == last, f"{last}, after {self.events}")


STANDBY = RoleEvent("standby", 0, False)
LEADS = RoleEvent("primary", 1, True)


class TestOnRole:
    def test_it_hears_in_order_what_the_node_is_and_becomes(self, group: Group) -> None:
        a, heard = group.new_node("a"), Heard()
        a.on_role(heard)
        assert heard.events == [], "it was not started"
        a.start()
        heard.eventually(STANDBY)
        a.promote(timeout_s=PATIENCE_S)
        heard.eventually(LEADS)
        term = replace_holder(group)
        heard.eventually(RoleEvent("standby", term, False))
        terms = [event.term for event in heard.events]
        assert terms == sorted(terms)

    def test_one_that_comes_later_hears_at_once_what_the_node_is(self, group: Group) -> None:
        a, heard = group.primary(), Heard()
        a.on_role(heard)
        heard.eventually(LEADS)

    def test_it_hears_that_the_lease_ran_out_and_that_it_is_back(self, group: Group) -> None:
        log, heard = group.faulty_log(), Heard()
        a = group.primary(log=log, beat_every_s=BEAT_S)
        a.on_role(heard)
        heard.eventually(LEADS)
        log.renewals_fail = True
        lease_runs_out(a)
        heard.eventually(LEADS, RoleEvent("primary", 1, False))
        log.renewals_fail = False
        heard.eventually(RoleEvent("primary", 1, False), LEADS)

    def test_it_hears_the_end(self, group: Group) -> None:
        a, heard = group.primary(), Heard()
        a.on_role(heard)
        heard.eventually(LEADS)
        a.stop()
        assert heard.events[-1].leads is False, "before stop() returned"

    def test_a_node_that_has_stopped_is_kept_by_nobody_who_only_has_its_lease_or_its_node_state(
        self, group: Group
    ) -> None:
        a = group.primary("a")
        a.on_role(lambda event: None)
        lease, known, watch = a._setup.lease, a._running.replica.known, a._roles
        assert watch.poke in known.turned
        assert lease.changed == watch.poke
        a.stop()
        assert watch.poke not in known.turned
        assert lease.changed != watch.poke

    def test_an_error_is_logged_and_the_others_hear_all_the_same(
        self, group: Group, caplog: pytest.LogCaptureFixture
    ) -> None:
        a, heard = group.new_node("a"), Heard()

        @a.on_role
        def broken(event: RoleEvent) -> None:
            raise ValueError("a bug of the application")

        a.on_role(heard)
        a.start()
        heard.eventually(STANDBY)
        a.promote(timeout_s=PATIENCE_S)
        heard.eventually(LEADS)
        eventually(lambda: "a bug of the application" in caplog.text)

    def test_a_callback_may_call_what_it_likes(self, group: Group) -> None:
        a = group.new_node("a")
        results: list[Any] = []

        def call(event: RoleEvent) -> None:
            if event.leads:
                results.append(a.submit(push("x")))
                a.on_role(lambda event: None)
                a.stop()
                results.append("stopped")

        a.on_role(call)
        a.start()
        promote(group.log(), "a", boot=a.boot)
        eventually(lambda: results == [1, "stopped"])

    def test_it_can_be_taken_back_and_is_still_a_function(self, group: Group) -> None:
        a, heard = group.new_node("a"), Heard()

        @a.on_role
        def doubled(event: RoleEvent) -> int:
            heard.events.append(event)
            return 2 * event.term

        assert doubled(RoleEvent("primary", 21, True)) == 42
        a.start()
        heard.eventually(STANDBY)
        doubled.unregister()
        last = Heard()
        a.on_role(last)
        a.promote(timeout_s=PATIENCE_S)
        last.eventually(LEADS)
        assert heard.events[-1] == STANDBY
        doubled.unregister()

    def test_it_hears_of_a_change_when_it_happens_and_not_when_somebody_looks(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(role_watch, "LOOK_EVERY_S", 3600.0)
        a, heard = group.new_node("a", lease_s=3600.0, beat_every_s=0.1), Heard()
        a.on_role(heard)
        a.start()
        heard.eventually(STANDBY)
        a.promote(timeout_s=PATIENCE_S)
        heard.eventually(LEADS)
        term = replace_holder(group)
        heard.eventually(RoleEvent("standby", term, False))

    def test_a_slow_callback_holds_nothing_up(self, group: Group, work: Work) -> None:
        a, goes_on = group.new_node("a"), threading.Event()
        a.on_role(lambda event: goes_on.wait(NEVER_S))
        a.while_leading(work)
        a.start()
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: work.begun)
        replace_holder(group)
        eventually(lambda: work.ended)
        goes_on.set()

    def test_what_is_no_callback_is_refused(self, group: Group) -> None:
        async def later(event: RoleEvent) -> None: ...

        a = group.node("a")
        for wrong in (later, None, 5):
            with pytest.raises(ConfigError, match=r"on_role: .* is not a function of a RoleEvent"):
                a.on_role(wrong)  # type: ignore[type-var, arg-type]
        a.stop()
        for register in (a.on_role, a.while_leading, lambda f: a.every(1, f)):
            with pytest.raises(NotRunning, match="was stopped"):
                register(print)


def leading(group: Group, work: Callable[[Leadership], Any], **options: Any) -> Node:
    """A node that leads, and has begun."""
    a = group.new_node("a", **options)
    a.while_leading(work)
    a.start()
    a.promote(timeout_s=PATIENCE_S)
    return a


class TestWhileLeading:
    def test_it_begins_when_the_node_leads_and_is_told_when_it_does_not(self, group: Group, work: Work) -> None:
        a = group.new_node("a")
        a.while_leading(work)
        a.start()
        after_beats(2, a)
        assert work.begun == [], "a standby"
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: work.begun)
        (leadership,) = work.begun
        assert leadership.term == 1
        leadership.check()
        assert not leadership.is_over
        replace_holder(group)
        eventually(lambda: work.ended)
        with pytest.raises(LeadershipLost, match="a does not lead in term 1 any more") as raised:
            leadership.check()
        assert raised.value.term == 1
        assert isinstance(raised.value, NotPrimary)

    def test_work_that_comes_while_the_node_leads_begins_at_once(self, group: Group, work: Work) -> None:
        a = group.primary()
        registered = a.while_leading(work)
        eventually(lambda: work.begun)
        registered.unregister()
        eventually(lambda: work.ended)
        after_beats(2, a)
        assert len(work.begun) == 1

    def test_it_is_told_in_time_although_whoever_renews_the_lease_hangs(
        self, group: Group, work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither the holder of the lease nor the HA loop has a part in it, and nobody looks again and again."""
        monkeypatch.setattr(role_watch, "LOOK_EVERY_S", 3600.0)
        log, goes_on = group.faulty_log(), threading.Event()
        a = leading(group, work, log=log, beat_every_s=BEAT_S)
        eventually(lambda: work.begun)
        log.renewals_fail = True
        lease_runs_out(a, a._setup.lease.margin_s + 0.5)
        log.before_renewal = lambda: goes_on.wait(NEVER_S)  # type: ignore[assignment, return-value]
        a._running.ha_loop.keep = lambda: goes_on.wait(NEVER_S)  # type: ignore[assignment, union-attr]
        eventually(lambda: work.ended)
        assert a.role == "primary", "it has heard of nothing"
        goes_on.set()

    def test_it_is_over_a_margin_before_the_lease_is_by_the_clock_alone(self, group: Group, work: Work) -> None:
        log = group.faulty_log()
        a = leading(group, work, log=log)
        eventually(lambda: work.begun)
        (leadership,) = work.begun
        lease = a._setup.lease
        log.renewals_fail = True  # from here on only the test moves the clock
        lease._clock = lambda: lease.until - lease.length_s * MARGIN - 0.001
        leadership.check()
        lease._clock = lambda: lease.until - lease.length_s * MARGIN
        with pytest.raises(LeadershipLost):
            leadership.check()
        assert a.leads, "and a write could still go"
        assert leadership.lost.is_set()

    def test_a_pause_is_noticed_before_anything_else_is_done(self, group: Group, work: Work) -> None:
        """As after SIGSTOP: the clock went on, and no thread of the node has run yet."""
        a = leading(group, work)
        eventually(lambda: work.begun)
        a._roles._turn = lambda: 60.0  # type: ignore[method-assign]
        lease = a._setup.lease
        lease._clock = lambda: lease.until + 60.0
        with pytest.raises(LeadershipLost):
            work.begun[0].check()

    def test_what_is_over_stays_over_and_the_next_leadership_may_be_of_the_same_term(
        self, group: Group, work: Work
    ) -> None:
        log = group.faulty_log()
        a = leading(group, work, log=log, beat_every_s=BEAT_S)
        eventually(lambda: work.begun)
        log.renewals_fail = True
        lease_runs_out(a)
        eventually(lambda: work.ended)
        log.renewals_fail = False
        eventually(lambda: len(work.begun) == 2)
        first, second = work.begun
        assert (first.term, second.term) == (1, 1)
        second.check()
        assert a.leads
        with pytest.raises(LeadershipLost):
            first.check()

    def test_work_that_found_out_by_itself_is_begun_again_if_the_node_leads_on(self, group: Group) -> None:
        begun: list[Leadership] = []

        def checking(leadership: Leadership) -> None:
            begun.append(leadership)
            while not leadership.is_over:
                time.sleep(0.001)

        a = leading(group, checking)
        eventually(lambda: begun)
        # when the work alone has seen that it is over, and a moment later it would not be
        lease, turn = a._setup.lease, a._roles._turn
        a._roles._turn = lambda: 0.001  # type: ignore[method-assign]
        clock, lease._clock = lease._clock, lambda: lease.until + 1.0
        eventually(lambda: begun[0].lost.is_set())
        lease._clock = clock
        a._roles._turn = turn  # type: ignore[method-assign]
        eventually(lambda: len(begun) > 1, "another leadership")

    def test_work_that_returns_is_begun_again_in_the_next_leadership_only(self, group: Group) -> None:
        log, terms = group.faulty_log(), []
        a = leading(group, lambda leadership: terms.append(leadership.term), log=log, beat_every_s=BEAT_S)
        eventually(lambda: terms == [1])
        after_beats(3, a)
        assert terms == [1]
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: 2 in terms)

    def test_work_that_raises_is_a_problem_and_begun_again(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(leader_work, "RETRY_S", 0.01)
        attempts: list[int] = []
        mended, goes_on = threading.Event(), threading.Event()

        def works(leadership: Leadership) -> None:
            attempts.append(leadership.term)
            if not mended.is_set():
                raise ValueError("no disk")
            goes_on.wait(NEVER_S)

        a = leading(group, works, beat_every_s=BEAT_S)
        eventually(lambda: len(attempts) >= 3)
        assert "works raised ValueError('no disk'); it is tried again while this node leads" in a.problem
        assert a.leads
        assert a.unready is None, "it serves all the same"
        eventually(lambda: "no disk" in str(ops.status(group.log()).to_dict()), "the others see it")
        told = [each for each in caplog.records if each.name.startswith("replicator") and each.exc_info]
        assert len(told) == 1, "told once"
        mended.set()
        goes_on.set()
        eventually(lambda: a.problem == "")

    def test_that_the_leadership_is_over_is_no_problem(self, group: Group, caplog: pytest.LogCaptureFixture) -> None:
        begun, raised = threading.Event(), threading.Event()

        def checks(leadership: Leadership) -> None:
            begun.set()
            try:
                while True:
                    leadership.check()
                    time.sleep(0.001)
            finally:
                raised.set()

        a = leading(group, checks)
        assert begun.wait(PATIENCE_S)
        replace_holder(group)
        assert raised.wait(PATIENCE_S)
        eventually(lambda: not a._roles._works[0].runs)
        assert a.problem == ""
        assert "checks failed" not in caplog.text

    def test_work_that_does_not_end_is_said_and_not_begun_beside_itself(self, group: Group, work: Work) -> None:
        log = group.faulty_log()
        work.may_end.clear()
        a = leading(group, work, log=log, lease_s=10.0, beat_every_s=BEAT_S)
        eventually(lambda: work.begun)
        log.renewals_fail = True
        lease_runs_out(a)
        eventually(lambda: "goes on although the leadership in term 1 is over" in a.problem)
        log.renewals_fail = False
        eventually(lambda: a.leads and a._roles._tenure)
        after_beats(3, a)
        assert len(work.begun) == 1
        assert "goes on although" in a.problem, "still"
        work.may_end.set()
        eventually(lambda: len(work.begun) == 2)
        eventually(lambda: a.problem == "")

    def test_a_stop_waits_for_work_before_it_gives_the_lease_back(self, group: Group, work: Work) -> None:
        a = leading(group, work)
        eventually(lambda: work.begun)
        leased: list[bool] = []

        def slowly(leadership: Leadership) -> None:
            time.sleep(0.1)
            leased.append(group.server.state.lease is not None)

        work.at_end = slowly
        a.stop()
        assert work.ended == work.begun
        assert leased == [True]
        assert group.server.state.lease is None

    def test_a_stop_waits_no_longer_than_a_lease(
        self, group: Group, work: Work, caplog: pytest.LogCaptureFixture
    ) -> None:
        work.may_end.clear()
        log = group.faulty_log()
        a = leading(group, work, log=log, lease_s=10.0)
        eventually(lambda: work.begun)
        log.renewals_fail = True
        lease_runs_out(a, 1.0)
        a.stop()
        assert work.ended == []
        assert "a-Work goes on although this node stops" in caplog.text

    def test_work_may_stop_its_node(self, group: Group) -> None:
        stopped: list[Any] = []
        promoted = threading.Event()

        def last(leadership: Leadership) -> None:
            assert promoted.wait(PATIENCE_S)  # who promotes it may not have seen yet that it leads
            a.stop()
            stopped.append(leadership.is_over)

        a = group.new_node("a", lease_s=3600.0)  # it would wait for so long
        a.while_leading(last)
        a.start()
        a.promote(timeout_s=PATIENCE_S)
        promoted.set()
        eventually(lambda: stopped == [True])

    def test_it_can_be_taken_back_and_is_told(self, group: Group, work: Work) -> None:
        a, other = group.new_node("a", lease_s=3600.0, beat_every_s=0.1), Work()
        registered = a.while_leading(work)
        a.while_leading(other)
        a.start()
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: work.begun and other.begun)
        registered.unregister()
        eventually(lambda: work.ended)
        other.begun[0].check()
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: len(other.begun) == 2, "nobody led in between, so it waits for nobody")
        assert len(work.begun) == 1

    def test_writes_are_of_the_term_and_of_no_other(self, group: Group, work: Work) -> None:
        a = leading(group, work)
        eventually(lambda: work.begun)
        (leadership,) = work.begun
        assert leadership.submit(push("one")) == 1
        assert leadership.submit_many([push("two"), push("three")], timeout_s=PATIENCE_S) == [2, 3]
        # when the node leads again, in another term
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: len(work.begun) == 2)
        with pytest.raises(LeadershipLost):
            leadership.submit(push("late"))
        # and if no clock had told: then the log does
        leadership.lost.clear()
        leadership._tenure._over = False
        leadership._tenure._goes_on = lambda term: True
        with pytest.raises((Fenced, NotPrimary)):
            leadership.submit(push("late"))
        with pytest.raises((Fenced, NotPrimary)):
            leadership.submit_many([push("late")])
        assert pushed(a) == ["one", "two", "three"]

    def test_who_is_promoted_while_another_lease_may_run_writes_at_once_and_waits_with_work(
        self, group: Group, work: Work
    ) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        b = group.new_node("b", lease_s=SHORT_LEASE_S)
        b.while_leading(work)
        b.start()
        in_step(a, b)
        began = time.monotonic()
        b.promote(timeout_s=PATIENCE_S)
        assert submitted(b, push("x")) == 1
        eventually(lambda: work.begun)
        assert time.monotonic() - began >= SHORT_LEASE_S, "a may have been cut off"
        assert work.begun[0].term == 2

    def test_who_stops_before_it_may_begin_lets_its_lease_run_out(self, group: Group, work: Work) -> None:
        group.primary("a", lease_s=10 * PATIENCE_S)
        for name, waits in (("b", True), ("c", False)):
            # given one that is promoted while the lease of another one may run, which its own one hides
            node = group.node(name, lease_s=10 * PATIENCE_S)
            if waits:
                node.while_leading(work)
            node.promote(timeout_s=PATIENCE_S)
            node.stop()
            assert (group.log().look().lease != "") is waits
        assert work.begun == []

    def test_who_takes_over_when_a_lease_has_run_out_does_not_wait_for_another_one(
        self, group: Group, work: Work
    ) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        b = group.new_node("b", auto_promote=True, lease_s=3600.0, beat_every_s=0.1)
        b.while_leading(work)
        b.start()
        in_step(a, b)
        group.crash(a)
        eventually(lambda: work.begun)
        assert work.begun[0].term == 2

    def test_when_redis_may_have_lost_a_term_its_lease_is_waited_for(self, group: Group, work: Work) -> None:
        leading(group, work, lease_s=SHORT_LEASE_S)
        eventually(lambda: work.begun)
        began = time.monotonic()
        group.fail_over()
        eventually(lambda: work.begun[-1].term > ERA)
        assert time.monotonic() - began >= SHORT_LEASE_S

    def test_in_a_forked_child_it_says_so(self, group: Group, work: Work) -> None:
        a = leading(group, work)
        eventually(lambda: work.begun)

        def misuse() -> list[str]:
            calls = [work.begun[0].check, lambda: a.while_leading(print), lambda: a.on_role(print)]
            return [outcome(call).partition(":")[0] for call in calls]

        assert in_child(misuse) == ["WrongProcess"] * 3
        work.begun[0].check()
        replace_holder(group)
        eventually(lambda: work.ended)
        assert in_child(misuse) == ["WrongProcess"] * 3, "and not that it is over, which it found in the other one"

    def test_a_stalled_node_does_not_lead(self, group: Group, work: Work) -> None:
        a = leading(group, work)
        eventually(lambda: work.begun)
        with a.reading() as state:
            state.in_apply = lambda change: 1 / 0
        with pytest.raises(Exception, match="division by zero"):
            a.submit(push("x"))
        with pytest.raises(LeadershipLost):
            work.begun[0].check()
        eventually(lambda: work.ended)


class TestTasks:
    def test_a_coroutine_function_is_a_task_and_is_cancelled(self, group: Group) -> None:
        async def main() -> None:
            a, told = group.new_node("a"), []

            @a.while_leading
            async def work(leadership: Leadership) -> None:
                told.append((leadership.term, await leadership.asubmit(push("x"))))
                assert await leadership.asubmit_many([push("y")]) == [2]
                try:
                    await asyncio.sleep(NEVER_S)
                except asyncio.CancelledError:
                    told.append(leadership.is_over)
                    raise

            a.start()
            await asyncio.to_thread(a.promote, timeout_s=PATIENCE_S)
            await until(lambda: told == [(1, 1)] and len(pushed(a)) == 2)
            replace_holder(group)
            await until(lambda: told == [(1, 1), True])
            await asyncio.to_thread(a.stop)

        asyncio.run(main())

    def test_without_an_event_loop_it_waits_for_the_one_in_which_the_node_is_started(self, group: Group) -> None:
        """As in a module of a service."""
        a, loops = group.new_node("a"), []

        @a.while_leading
        async def works(leadership: Leadership) -> None:
            loops.append(asyncio.get_running_loop())

        @a.every(0.01)
        async def job(leadership: Leadership) -> None:
            loops.append(asyncio.get_running_loop())

        async def main() -> None:
            async with a:
                await asyncio.to_thread(a.promote, timeout_s=PATIENCE_S)
                await until(lambda: len(loops) >= 4)
                assert set(loops) == {asyncio.get_running_loop()}

        asyncio.run(main())

    def test_a_plain_start_has_no_event_loop_for_it_and_says_so(self, group: Group) -> None:
        async def sync_flags(leadership: Leadership) -> None: ...

        a = group.new_node("a")
        registered = a.every(1, sync_flags)
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"^every: .*sync_flags is a coroutine function, .*`async with node`"):
                a.start()
        registered.unregister()
        a.start()
        assert a.boot

    def test_once_the_node_is_started_it_is_refused_without_an_event_loop(self, group: Group) -> None:
        async def work(leadership: Leadership) -> None: ...

        a = group.node("a")
        with pytest.raises(ConfigError, match="no event loop runs here: register it in a coroutine, or before"):
            a.while_leading(work)
        with pytest.raises(ConfigError, match=r"every: .*no event loop runs here"):
            a.every(1, work)
        assert a._roles._copy() == []

    def test_work_that_comes_while_a_node_starts_is_not_forgotten(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def work(leadership: Leadership) -> None: ...

        a, watch = group.new_node("a"), Node._watch_role
        monkeypatch.setattr(Node, "_watch_role", lambda *more: (a.while_leading(work), watch(*more)))
        with pytest.raises(ConfigError, match="work is a coroutine function"):
            a.start()
        assert a.problem == "stopped"

    def test_a_start_that_failed_keeps_no_loop_for_it(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a, runs = group.new_node("a"), []

        @a.while_leading
        async def work(leadership: Leadership) -> None:
            runs.append(leadership.term)

        async def fails() -> None:
            with pytest.raises(OSError, match="no disk"):
                await a.__aenter__()

        with monkeypatch.context() as broken:
            broken.setattr(node_module, "joined", lambda setup: raises(OSError("no disk")))
            asyncio.run(fails())
        with pytest.raises(ConfigError, match="work is a coroutine function"):
            a.start()

        async def main() -> None:
            async with a:
                with pytest.raises(ReplicatorError):
                    await a.__aenter__()  # it runs: whoever starts it again takes nothing away
                await asyncio.to_thread(a.promote, timeout_s=PATIENCE_S)
                await until(lambda: runs)

        asyncio.run(main())

    def test_a_task_that_raises_is_a_problem_and_begun_again(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leader_work, "RETRY_S", 0.01)

        async def main() -> None:
            a, attempts = group.primary(), []

            @a.while_leading
            async def work(leadership: Leadership) -> None:
                attempts.append(leadership.term)
                if len(attempts) < 3:
                    raise ValueError("not yet")

            await until(lambda: len(attempts) == 3 and a.problem == "")
            await asyncio.to_thread(a.stop)

        asyncio.run(main())

    def test_a_cancelled_error_that_nobody_caused_by_cancelling_the_task_is_one_like_any_other(
        self, group: Group
    ) -> None:
        async def main() -> None:
            a, runs = group.primary(), []

            @a.every(0.01)
            async def job(leadership: Leadership) -> None:
                runs.append(leadership.term)
                if len(runs) < 4:
                    waited_for = asyncio.get_running_loop().create_future()
                    waited_for.cancel()  # as a library may do
                    await waited_for

            problems: list[str] = []
            await until(lambda: problems.append(a.problem) or len(runs) >= 4)
            assert any("job raised CancelledError" in problem for problem in problems)
            await until(lambda: a.problem == "")
            await asyncio.to_thread(a.stop)

        asyncio.run(main())

    def test_the_end_of_the_loop_ends_a_task_for_good(self, group: Group) -> None:
        """`asyncio.run` cancels what is left, and waits for it."""
        a = group.primary()

        async def main() -> None:
            begun: list[int] = []

            @a.every(0.01)
            async def job(leadership: Leadership) -> None:
                begun.append(leadership.term)
                await asyncio.sleep(NEVER_S)

            await until(lambda: begun)

        asyncio.run(main())
        eventually(lambda: not a._roles._works[0].runs)
        assert a.problem == ""

    def test_a_stop_on_another_thread_waits_for_the_task(self, group: Group) -> None:
        async def main() -> None:
            a, ended = group.primary(), []

            @a.while_leading
            async def work(leadership: Leadership) -> None:
                try:
                    await asyncio.sleep(NEVER_S)
                finally:
                    ended.append(group.server.state.lease is not None)

            await until(lambda: a._roles._works[0].runs)
            await asyncio.sleep(0.01)
            await asyncio.to_thread(a.stop)
            assert ended == [True]

        asyncio.run(main())

    def test_a_stop_on_the_thread_of_the_loop_does_not_wait_for_itself(self, group: Group) -> None:
        async def main() -> None:
            a = group.primary(lease_s=3600.0)  # it would wait for so long

            @a.while_leading
            async def work(leadership: Leadership) -> None:
                await asyncio.sleep(3600)

            await until(lambda: a._roles._works[0].runs)
            a.stop()

        asyncio.run(main())

    def test_a_loop_that_is_gone_is_a_problem(self, group: Group) -> None:
        async def work(leadership: Leadership) -> None: ...

        async def register(node: Node) -> None:
            node.while_leading(work)

        a = group.node("a")
        asyncio.run(register(a))
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: "the event loop in which it was registered is closed" in a.problem)
        a.stop()

    def test_a_loop_that_is_closed_before_a_run_begins_is_a_problem(self, group: Group) -> None:
        async def work(leadership: Leadership) -> None: ...

        async def register() -> None:
            a.while_leading(work)

        a = group.node("a")
        loop = asyncio.new_event_loop()
        loop.run_until_complete(register())
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: a._roles._works[0].runs)  # it is to begin, and this loop does not turn
        loop.close()
        eventually(lambda: "the event loop in which it was registered is closed" in a.problem)

    def test_work_that_is_taken_back_leaves_no_problem(self, group: Group) -> None:
        async def work(leadership: Leadership) -> None: ...

        async def register() -> Any:
            return a.while_leading(work)

        a = group.primary("a")
        loop = asyncio.new_event_loop()
        registered = loop.run_until_complete(register())
        loop.close()
        eventually(lambda: "register it again" in a.problem)
        registered.unregister()
        assert a.problem == ""
        after_beats(2, a)
        assert a.problem == ""


def raises(error: Exception) -> Any:
    raise error


async def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


class TestEvery:
    def test_a_job_is_done_again_and_again_once_at_a_time(self, group: Group) -> None:
        runs: list[int] = []
        inside, most = [0], [0]
        a = group.new_node("a")

        @a.every(0.005)
        def job(leadership: Leadership) -> None:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)  # longer than its interval
            runs.append(leadership.term)
            inside[0] -= 1

        a.start()
        after_beats(1, a)
        assert runs == [], "a standby"
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: len(runs) >= 3)
        replace_holder(group)
        eventually(lambda: not a._roles._works[0].runs)
        count = len(runs)
        after_beats(2, a)
        assert len(runs) == count
        assert most == [1]

    def test_the_end_comes_also_while_its_job_pauses(self, group: Group) -> None:
        a, runs = group.primary(), []
        a.every(3600, lambda leadership: runs.append(leadership.term))
        (work,) = a._roles._works
        eventually(lambda: work.due_at is not None)
        replace_holder(group)
        eventually(lambda: not work.runs)
        assert runs == [1]

    def test_a_run_that_raises_is_a_problem_until_one_goes_well(self, group: Group) -> None:
        runs: list[int] = []
        mended = threading.Event()

        def job(leadership: Leadership) -> None:
            runs.append(leadership.term)
            if not mended.is_set():
                raise ValueError("no disk")

        a = group.primary()
        a.every(0.01, job)
        eventually(lambda: len(runs) >= 3, "the next times come")
        eventually(lambda: "job raised ValueError('no disk')" in a.problem)
        mended.set()
        eventually(lambda: a.problem == "")

    def test_a_coroutine_function_is_done_in_its_loop(self, group: Group) -> None:
        async def main() -> None:
            a, runs = group.primary(), []

            @a.every(0.01)
            async def job(leadership: Leadership) -> None:
                runs.append(asyncio.get_running_loop())

            await until(lambda: len(runs) >= 3)
            assert set(runs) == {asyncio.get_running_loop()}
            await asyncio.to_thread(a.stop)

        asyncio.run(main())

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", None, True])
    def test_an_interval_is_a_number_of_seconds_above_none(self, group: Group, seconds: Any) -> None:
        with pytest.raises(ConfigError, match=r"^every: "):
            group.new_node("a").every(seconds, print)
        with pytest.raises(ConfigError, match=r"^every: "):
            group.new_node("a").every(seconds)


def test_two_functions_of_the_same_name_are_two_pieces_of_work(group: Group) -> None:
    a, first, second = group.primary(), Work(), Work()
    a.while_leading(first)
    a.while_leading(second)
    eventually(lambda: first.begun and second.begun)
    assert [work.name for work in a._roles._works] == ["a-Work", "a-Work-2"]


def test_a_function_that_only_gives_a_coroutine_is_a_problem(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    async def later(leadership: Leadership) -> None: ...

    a = group.primary()
    a.while_leading(lambda leadership: later(leadership))
    eventually(lambda: "it gave a coroutine, and did nothing" in a.problem)


def test_a_node_that_was_not_started_stops(group: Group, work: Work) -> None:
    a = group.new_node("a")
    a.while_leading(work)
    a.on_role(print)
    a.stop()
    assert work.begun == []


def test_nothing_of_it_is_left_when_a_node_has_stopped(group: Group, work: Work) -> None:
    a, heard = group.new_node("a"), Heard()
    a.while_leading(work)
    a.on_role(heard)
    a.start()
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: work.begun)
    a.stop()
    ours = ("a-role", "a-Work")
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith(ours)])


def test_a_node_without_any_of_it_has_no_thread_for_it(group: Group) -> None:
    group.primary()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("a-role")]
