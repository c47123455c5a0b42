"""A node whose application is not alive lets others lead, says why, and goes on when it is well again."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from replicator import ConfigError, Host, LeaseLost, NotPrimary, PromotionRefused, ops
from replicator.node.acks import Level
from replicator.node.options import HostedNodeKeywords
from replicator.node.problems import UNHEALTHY, Problems
from replicator.node.vitals import Vitals
from tests.support.kv import (
    BEAT_S,
    PATIENCE_S,
    Group,
    after_beats,
    eventually,
    in_step,
    in_thread,
    push,
    submitted,
)

OPTIONS: dict[str, Any] = {"beat_every_s": BEAT_S, "auto_promote": True}


def why(watchdog: Callable[[], object]) -> str:
    """What a node says of such a watchdog."""
    problems = Problems()
    vitals = Vitals(problems, watchdog, limit_s=PATIENCE_S, watches_loop=True)

    def has_answered() -> bool:
        vitals.look()
        return "has not answered yet" not in str(problems)

    eventually(has_answered, "the first answer")
    problem = problems.get(UNHEALTHY)
    return str(problem) if problem is not None else ""


class TestTheWatchdog:
    @pytest.mark.parametrize("answer", [None, True, ""])
    def test_one_that_is_content_says_so(self, answer: object) -> None:
        assert why(lambda: answer) == ""

    def test_one_that_is_not_says_why(self) -> None:
        assert why(lambda: "the disk is gone").endswith("its watchdog says: the disk is gone")
        assert "its watchdog returned False" in why(lambda: False)
        assert "its watchdog raised ZeroDivisionError" in why(lambda: 1 // 0)
        assert "returned 7, which is neither" in why(lambda: 7)

    @pytest.mark.filterwarnings("ignore:coroutine")
    def test_one_that_is_async_is_refused(self, group: Group) -> None:
        async def later() -> None:
            pass

        assert "gave a coroutine" in why(lambda: later())
        with pytest.raises(ConfigError, match="it is async"):
            group.new_node("a", watchdog=later)
        with pytest.raises(ConfigError, match="cannot be called"):
            group.new_node("a", watchdog=7)
        with pytest.raises(ConfigError, match="watchdog_s"):
            group.new_node("a", watchdog_s=-1)

    def test_one_that_hangs_holds_up_nobody_and_is_not_content(self) -> None:
        problems, go_on, asked = Problems(), threading.Event(), []

        def hangs() -> None:
            asked.append(True)
            assert go_on.wait(PATIENCE_S)

        vitals = Vitals(problems, hangs, limit_s=0.05, watches_loop=True)

        vitals.look()
        assert "its watchdog has not answered yet" in str(problems), "until it has, nobody knows"

        def has_hung() -> bool:
            vitals.look()
            return "has not returned for 0.05 s" in str(problems)

        eventually(has_hung, "it is not content")
        eventually(lambda: asked, "its thread has begun")
        vitals.look()
        assert asked == [True], "it is asked once at a time"
        go_on.set()

        def is_well() -> bool:
            vitals.look()
            return problems.get(UNHEALTHY) is None

        eventually(is_well, "it is content")

    def test_before_its_first_answer_a_node_does_not_lead_and_who_promotes_it_waits(
        self, group: Group, caplog: pytest.LogCaptureFixture
    ) -> None:
        answers = threading.Event()
        # given one that takes its time, and a beat that comes late
        a = group.node("a", watchdog=lambda: answers.wait(PATIENCE_S), lease_s=3 * PATIENCE_S, beat_every_s=PATIENCE_S)
        assert a.problem == "it does not lead so far: its watchdog has not answered yet"
        assert a.unready is not None
        assert a.unready.code == "unhealthy"
        # when it is promoted
        promoted = in_thread(lambda: a.promote(timeout_s=2 * PATIENCE_S), patience_s=2 * PATIENCE_S)
        time.sleep(0.05)
        assert group.server.look().term == 0
        answers.set()
        # then it leads at once, and that it took so long is no error
        assert promoted() == 1
        assert a.problem == ""
        events = [vars(record)["event"] for record in caplog.records if "event" in vars(record)]
        assert "app.unhealthy" not in events

    def test_a_first_answer_that_is_no_is_why_a_promotion_is_refused(self, group: Group) -> None:
        a = group.node("a", watchdog=lambda: time.sleep(0.3) or "the GPU fell off", beat_every_s=BEAT_S)
        with pytest.raises(PromotionRefused, match="the GPU fell off"):
            a.promote(timeout_s=PATIENCE_S)

    def test_one_that_never_answers_is_waited_for_no_longer_than_it_may_be_silent(self, group: Group) -> None:
        go_on = threading.Event()
        a = group.node("a", watchdog=lambda: go_on.wait(3 * PATIENCE_S), watchdog_s=0.2, beat_every_s=BEAT_S)
        promoted = in_thread(lambda: a.promote(timeout_s=1000 * PATIENCE_S))
        with pytest.raises(PromotionRefused, match="its watchdog has not"):
            promoted()
        go_on.set()

    def test_a_primary_that_it_is_not_content_with_is_replaced_and_goes_on_as_a_standby(self, group: Group) -> None:
        unwell: list[str] = []
        a = group.primary("a", watchdog=lambda: "".join(unwell), **OPTIONS)
        b = group.node("b", **OPTIONS)
        submitted(a, push("x"))
        in_step(a, b)
        # when it says why not
        unwell.append("the GPU fell off")
        said = "it does not lead, and lets others take over: its watchdog says: the GPU fell off"
        eventually(lambda: said in a.problem and not a.leads)
        group.end_lease()  # what Redis has left of it
        # then the node says so everywhere, and the other one leads
        eventually(lambda: "GPU" in group.server.look().heartbeats["a"].stalled)
        assert any("GPU" in str(node.problem) for node in ops.status(group.log()).nodes if node.node == "a")
        b.wait(role="primary", timeout_s=PATIENCE_S)
        with pytest.raises(NotPrimary):
            a.submit(push("y"))
        a.wait(role="standby", timeout_s=PATIENCE_S)
        submitted(b, push("z"))
        in_step(a, b)
        # and it is no candidate before it is well again
        with pytest.raises(PromotionRefused, match="GPU"):
            a.promote(timeout_s=PATIENCE_S)
        unwell.clear()
        eventually(lambda: not a.problem)
        eventually(lambda: not group.server.look().heartbeats["a"].stalled)
        a.promote(timeout_s=PATIENCE_S)
        submitted(a, push("again"))

    def test_if_nobody_takes_over_it_leads_again_in_the_same_term(self, group: Group) -> None:
        unwell: list[str] = []
        a = group.primary("a", watchdog=lambda: "".join(unwell), beat_every_s=BEAT_S)
        unwell.append("not now")
        eventually(lambda: not a.leads and "not now" in a.problem)
        assert a.unready is not None
        assert (a.unready.code, "not now" in a.unready.message) == ("unhealthy", True)
        with pytest.raises(LeaseLost):
            a.submit(push("x"), timeout_s=0.1)
        group.end_lease()
        after_beats(2, a)
        assert group.server.look().lease_ms is None, "it does not renew it"
        unwell.clear()
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert a.term == 1
        submitted(a, push("x"))

    def test_a_candidate_that_it_is_not_content_with_takes_over_nothing(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        b = group.node("b", watchdog=lambda: "never", **OPTIONS)
        c = group.node("c", **OPTIONS)
        in_step(a, b, c)
        eventually(lambda: "b" in (told := group.server.look().heartbeats) and told["b"].stalled)
        group.crash(a)
        group.end_lease()
        c.wait(role="primary", timeout_s=PATIENCE_S)
        assert not b.leads

    def test_a_restarted_primary_that_is_not_well_does_not_take_its_term_again(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        submitted(a, push("x"))
        directory = group.crash(a)
        again = group.node("a", data_dir=directory, watchdog=lambda: False, beat_every_s=BEAT_S)
        beats = again._running.replica.node_state.beats_in_run
        eventually(lambda: again._running.replica.node_state.beats_in_run > beats + 3, "it has looked around")
        assert (again.role, again.term) == ("standby", 1)

    def test_what_waits_for_redis_to_confirm_it_renews_no_lease_that_was_given_up(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        with a._running.ha_loop.lease_keeper._leasing:  # it renews nothing meanwhile
            a._setup.lease.lost()
            answer = a._running.acks._redis._ask(Level("fsynced"), a.position.id, 0.1)
        assert answer.is_final
        assert "does not lead any more" in answer.problem


class TestTheLoop:
    def test_a_primary_whose_loop_is_blocked_is_replaced_and_says_why(self, group: Group) -> None:
        b = group.node("b", **OPTIONS)
        leads, blocked, go_on = threading.Event(), threading.Event(), threading.Event()
        a = group.new_node("a", watchdog_s=1.0, **OPTIONS)

        async def serve() -> None:
            async with a:
                await asyncio.get_running_loop().run_in_executor(None, lambda: a.promote(timeout_s=PATIENCE_S))
                leads.set()
                while not go_on.is_set():
                    if blocked.is_set():
                        go_on.wait(3 * PATIENCE_S)  # blocks its loop, as time.sleep() does
                    await asyncio.sleep(0.01)
                # and as a standby it goes on
                await a.await_role("standby", timeout_s=PATIENCE_S)
                await a.await_position(str(b.position.id), timeout_s=PATIENCE_S)
                await asyncio.sleep(3 * BEAT_S)
                while a.problem:
                    await asyncio.sleep(0.01)

        done = in_thread(lambda: asyncio.run(serve()))
        assert leads.wait(PATIENCE_S)
        in_step(a, b)
        blocked.set()
        said = "the event loop of the application does not turn: something has blocked it for 1 s"
        eventually(lambda: said in a.problem and not a.leads)
        group.end_lease()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        submitted(b, push("x"))
        go_on.set()
        done()
        assert a.problem == "stopped"

    def test_a_primary_whose_task_awaits_inside_of_a_plain_read_is_replaced_and_says_why(self, group: Group) -> None:
        b = group.node("b", **OPTIONS)
        a = group.new_node("a", watchdog_s=1.0, **OPTIONS)
        leads, go_on = threading.Event(), threading.Event()

        async def serve() -> None:
            async with a:
                promoted = in_thread(lambda: a.promote(timeout_s=PATIENCE_S))
                await a.await_role("primary", timeout_s=PATIENCE_S)
                promoted()
                leads.set()
                with a.reading():
                    while not go_on.is_set():
                        await asyncio.sleep(0.01)
                await a.await_role("standby", timeout_s=PATIENCE_S)
                while a.problem:
                    await asyncio.sleep(0.01)

        done = in_thread(lambda: asyncio.run(serve()))
        assert leads.wait(PATIENCE_S)
        said = "a task has awaited something inside of reading() for 1 s, so the state stands still: use areading()"
        eventually(lambda: said in a.problem and not a.leads)
        group.end_lease()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        go_on.set()
        done()

    def test_with_0_it_may_do_as_it_likes(self) -> None:
        problems = Problems()
        vitals = Vitals(problems, None, limit_s=0.01, watches_loop=False)
        loop = asyncio.new_event_loop()
        vitals.serve(loop)
        for _ in range(5):
            time.sleep(0.01)
            vitals.look()
        assert str(problems) == ""
        loop.close()

    def looked_at(self, vitals: Vitals, times: int, pause_s: float = 0.01) -> None:
        for _ in range(times):
            vitals.look()
            time.sleep(pause_s)

    def test_one_that_was_closed_or_that_nobody_serves_any_more_is_not_missed(self) -> None:
        problems = Problems()
        vitals = Vitals(problems, None, limit_s=0.01, watches_loop=True)
        loop = asyncio.new_event_loop()
        vitals.serve(loop)
        self.looked_at(vitals, 8)
        assert "does not turn" in str(problems)
        loop.close()
        self.looked_at(vitals, 2)
        assert str(problems) == ""
        other = asyncio.new_event_loop()
        vitals.serve(other)
        self.looked_at(vitals, 8)
        assert "does not turn" in str(problems)
        vitals.serve(None)
        self.looked_at(vitals, 1)
        assert str(problems) == ""
        other.close()

    def test_a_process_that_was_stopped_blames_no_loop(self) -> None:
        """Nobody looked meanwhile, and the loop answers in a moment."""
        problems = Problems()
        vitals = Vitals(problems, None, limit_s=0.4, watches_loop=True)
        loop = asyncio.new_event_loop()
        vitals.serve(loop)
        vitals.look()
        time.sleep(1.0)
        vitals.look()
        assert str(problems) == ""
        loop.close()


def test_a_node_of_a_host_takes_a_watchdog_as_well() -> None:
    assert "watchdog" in HostedNodeKeywords.__annotations__
    assert "HostedNodeKeywords" in str(inspect.signature(Host.node).parameters["options"])
