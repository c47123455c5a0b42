"""Listening to a node: what it becomes, in order, until it stops."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from replicator import Node, NodeEvent, ProgramError
from replicator.node.events import EVENTS_MAX, Outlook
from replicator.node.watch import Watch
from tests.support.kv import BEAT_S, PATIENCE_S, Group, eventually, in_step, in_thread, push
from tests.support.nodes import failing_disk, lease_runs_out

STANDBY = Outlook(role="standby", leads=False, term=1, primary="b", in_sync=True, problems={})


async def until(events: list[NodeEvent], what: str, **facts: object) -> NodeEvent:
    """Wait for such an event."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        for event in events:
            if event.what == what and all(getattr(event, name) == value for name, value in facts.items()):
                return event
        assert asyncio.get_running_loop().time() < deadline, (what, facts, events)
        await asyncio.sleep(0.005)


async def heard(node: Node, events: list[NodeEvent]) -> None:
    async for event in node.events():
        events.append(event)


def test_listening_begins_with_how_it_stands_and_ends_with_the_node(group: Group) -> None:
    async def main() -> None:
        a = group.new_node("a", beat_every_s=BEAT_S)
        events: list[NodeEvent] = []
        task = asyncio.create_task(heard(a, events))
        first = await until(events, "now")
        assert (first.role, first.leads, first.term, first.in_sync) == ("standby", False, 0, False)
        async with a:
            done = in_thread(lambda: a.promote(timeout_s=PATIENCE_S))
            gained = await until(events, "lease_gained")
            assert (gained.role, gained.term, gained.primary) == ("primary", 1, "a")
            done()
            names = [event.what for event in events]
            assert names.index("term") < names.index("role") < names.index("lease_gained")
        await asyncio.wait_for(task, PATIENCE_S)
        assert not events[-1].leads
        assert "lease_lost" in [event.what for event in events]
        # one who comes too late is told that as well
        late: list[NodeEvent] = []
        await asyncio.wait_for(heard(a, late), PATIENCE_S)
        assert [event.what for event in late] == ["now"]

    asyncio.run(main())


def test_a_failover_is_heard_on_both_sides(group: Group) -> None:
    a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
    in_step(a, b)

    async def main() -> None:
        of_a: list[NodeEvent] = []
        of_b: list[NodeEvent] = []
        tasks = [asyncio.create_task(heard(a, of_a)), asyncio.create_task(heard(b, of_b))]
        await until(of_a, "now", leads=True)
        await until(of_b, "now")
        in_thread(lambda: b.promote(timeout_s=PATIENCE_S))
        await until(of_a, "lease_lost")
        await until(of_a, "role", role="standby")
        await until(of_a, "term", term=2, primary="b")
        await until(of_b, "lease_gained", term=2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    eventually(lambda: not a._setup.watch._listeners and not b._setup.watch._listeners)


def test_a_lease_that_only_runs_out_is_heard(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", log=log, beat_every_s=BEAT_S)

    async def main() -> None:
        events: list[NodeEvent] = []
        task = asyncio.create_task(heard(a, events))
        await until(events, "now", leads=True)
        log.renewals_fail = True
        lease_runs_out(a)
        await until(events, "lease_lost", role="primary")
        await until(events, "problem")
        log.renewals_fail = False
        await until(events, "lease_gained")
        await until(events, "solved")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_loop_that_is_too_slow_is_told_what_it_missed(group: Group) -> None:
    a = group.primary("a")
    problems = a._setup.problems

    async def main() -> None:
        events = a.events()
        assert (await anext(events)).what == "now"
        async with asyncio.timeout(PATIENCE_S):
            for number in range(EVENTS_MAX + 1):
                report(a, number)
            await asyncio.sleep(0)
            event = await anext(events)
            while event.what != "missed":
                event = await anext(events)
            assert event.missed > EVENTS_MAX
            assert event.leads
        await events.aclose()

    def report(node: Node, number: int) -> None:
        """Begin a problem, and wait until the watch has seen it."""
        problems.report(f"p{number}", ProgramError(what="it", problem="fails"))
        eventually(lambda: f"p{number}" in node._setup.watch._seen.problems)  # type: ignore[union-attr]

    asyncio.run(main())


def test_a_disk_that_fails_is_a_problem_that_begins_and_ends(group: Group) -> None:
    a = group.primary("a", beat_every_s=BEAT_S)

    async def main() -> None:
        events: list[NodeEvent] = []
        task = asyncio.create_task(heard(a, events))
        await until(events, "now")
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            mended = failing_disk(patch, a)
            await a.asubmit(push("x"))
            began = await until(events, "problem")
            assert "ENOSPC" in began.problem
            mended.set()
            await until(events, "solved")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_one_thread_watches_while_there_is_a_listener_and_no_longer() -> None:
    outlook = [STANDBY]
    watch = Watch("w", lambda: outlook[0], lambda: None)
    told: list[NodeEvent | None] = []
    forget = [watch.listen(told.append), watch.listen(lambda event: None)]
    watches = [thread for thread in threading.enumerate() if thread.name == "w-watch"]
    assert len(watches) == 1
    outlook[0] = STANDBY._replace(term=2)
    watch.stir()
    eventually(lambda: [event.what for event in told if event] == ["now", "term"])
    for each in forget:
        each()
    watches[0].join(PATIENCE_S)
    assert not watches[0].is_alive()
    # who comes later has a thread again, and hears how things are then
    outlook[0] = STANDBY._replace(term=3)
    later: list[NodeEvent | None] = []
    watch.listen(later.append)
    assert [event.term for event in later if event] == [3]
    watch.close()
    assert later[-1] is None
    assert told[-1] is not None


def test_a_listener_that_fails_keeps_nobody_from_hearing() -> None:
    outlook = [STANDBY]
    watch = Watch("w", lambda: outlook[0], lambda: None)
    told: list[NodeEvent | None] = []
    heard_first: list[NodeEvent | None] = []

    def fails(event: NodeEvent | None) -> None:
        heard_first.append(event)
        if len(heard_first) > 1:
            raise ValueError("a bug of a listener")

    watch.listen(fails)
    watch.listen(told.append)
    outlook[0] = STANDBY._replace(term=2)
    watch.stir()
    eventually(lambda: [event.term for event in told if event] == [1, 2])
    watch.close()
    assert told[-1] is None
