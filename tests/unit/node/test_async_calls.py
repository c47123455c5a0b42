"""A node of asyncio tasks: it starts and stops off the loop, and what its tasks ask for blocks nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from replicator import CheckpointError, ConfigError, Node, NotRunning, PositionLost
from replicator.node import node as node_module
from replicator.node.async_calls import TASK_THREADS_MAX
from tests.support.kv import BEAT_S, KV, PATIENCE_S, Group, eventually, in_step, in_thread, push, pushed
from tests.support.loops import run


def threads_named(*parts: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if any(part in thread.name for part in parts)]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The start of a node stands in the middle, once the first is set, until the second is."""
    begun, go_on = threading.Event(), threading.Event()
    joined = node_module.joined

    def slowly(setup: Any) -> Any:
        running = joined(setup)
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return running

    monkeypatch.setattr(node_module, "joined", slowly)
    yield begun, go_on
    go_on.set()


class TestLife:
    def test_it_starts_and_stops_with_its_block(self, group: Group) -> None:
        a = group.new_node("a")

        async def main() -> None:
            async with a as same:
                assert same is a
                assert a.problem != "not started"
                await asyncio.wait_for(a.await_position("0-0"), PATIENCE_S)

        run(main())
        assert a.problem == "stopped"
        eventually(lambda: not threads_named("a-start", "a-stop", "a-reader"))

    def test_the_loop_goes_on_while_it_starts(
        self, group: Group, held: tuple[threading.Event, threading.Event]
    ) -> None:
        begun, go_on = held
        a = group.new_node("a")

        async def main() -> None:
            async def enter() -> None:
                async with a:
                    pass

            task = asyncio.create_task(enter())
            while not begun.is_set():
                await asyncio.sleep(0.005)
            go_on.set()
            await task

        run(main())
        assert a.problem == "stopped"

    def test_a_task_that_is_cancelled_while_it_starts_leaves_no_node_behind(
        self, group: Group, held: tuple[threading.Event, threading.Event]
    ) -> None:
        begun, go_on = held
        a = group.new_node("a")

        async def enter() -> None:
            async with a:
                raise AssertionError("it never began")

        async def main() -> None:
            task = asyncio.create_task(enter())
            while not begun.is_set():
                await asyncio.sleep(0.005)
            for _ in range(3):  # however often
                task.cancel()
                await asyncio.sleep(0.01)
            assert not task.done(), "the start is still under way"
            while not a._setup.stopping.is_set():
                await asyncio.sleep(0.005)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert a._running is None

        run(main())
        # its directory is free, and the thread of the start is over
        assert not threads_named("a-reader", "a-holder")
        again = group.node("a", data_dir=a.data_dir)
        again.promote(timeout_s=PATIENCE_S)

    def test_one_that_is_cancelled_as_the_start_is_over_leaves_none_behind(self, group: Group) -> None:
        a = group.new_node("a")

        async def main() -> None:
            task = asyncio.create_task(a.__aenter__())
            while a._running is None:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.done()
            if not task.cancelled():  # it was faster: then it has a node, and stops it
                await a.__aexit__(None, None, None)

        run(main())
        assert a.problem in ("stopped", "not started")
        group.node("a", data_dir=a.data_dir)

    def test_a_stop_goes_to_its_end_also_if_its_task_is_cancelled(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a = group.new_node("a")
        stopping, go_on = threading.Event(), threading.Event()
        stop = a.stop

        def slowly() -> None:
            stopping.set()
            assert go_on.wait(PATIENCE_S)
            stop()

        monkeypatch.setattr(a, "stop", slowly)

        async def inside() -> None:
            async with a:
                pass

        async def main() -> None:
            task = asyncio.create_task(inside())
            while not stopping.is_set():
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(main())
        assert a.problem == "stopped"

    def test_what_start_raises_is_raised(self, group: Group) -> None:
        a = group.node("a")
        other = group.new_node("a", data_dir=a.data_dir)

        async def main() -> None:
            async with other:
                pass

        with pytest.raises(CheckpointError):
            run(main())

    def test_an_exception_of_the_block_stops_the_node(self, group: Group) -> None:
        a = group.new_node("a")

        async def main() -> None:
            async with a:
                raise KeyError("mine")

        with pytest.raises(KeyError):
            run(main())
        assert a.problem == "stopped"


class TestView:
    def view(self, node: Node, function: Callable[[KV], Any], **options: Any) -> Any:
        return run(node.view(function, **options))

    def test_it_gives_what_the_function_makes_of_the_state(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        assert self.view(
            a, lambda state: (list(state.pushed), threading.current_thread() is threading.main_thread())
        ) == (
            ["x"],
            True,
        )
        assert self.view(a, lambda state: len(state.pushed), fresh=True, timeout_s=PATIENCE_S) == 1
        with pytest.raises(ZeroDivisionError):
            self.view(a, lambda state: 1 / 0)
        with pytest.raises(BlockingIOError, match="mine"):
            self.view(a, self._raises)
        assert a.submit(push("y")) == 2

    def _raises(self, state: KV) -> None:
        raise BlockingIOError("mine")

    def test_while_the_state_is_in_use_it_is_called_on_a_thread_of_ours(self, group: Group) -> None:
        a = group.primary("views")
        reads, enough = threading.Event(), threading.Event()

        def read() -> None:
            with a.reading():
                reads.set()
                assert enough.wait(PATIENCE_S)

        done = in_thread(read)
        assert reads.wait(PATIENCE_S)

        async def main() -> list[str]:
            views = [
                asyncio.create_task(a.view(lambda state: threading.current_thread().name, timeout_s=PATIENCE_S))
                for _ in range(3 * TASK_THREADS_MAX)
            ]
            with pytest.raises(TimeoutError, match="in use"):
                await a.view(lambda state: None, timeout_s=0.0)
            assert len(threads_named("views-tasks")) <= TASK_THREADS_MAX
            enough.set()
            return await asyncio.gather(*views)

        assert "views-tasks" in run(main())
        done()

    def test_a_function_that_would_read_later_is_refused(self, group: Group) -> None:
        a = group.primary("a")

        async def coroutine(state: KV) -> None:
            pass

        async def async_generator(state: KV) -> AsyncIterator[int]:
            yield 1

        def generator(state: KV) -> Iterator[int]:
            yield 1

        class Called:
            async def __call__(self, state: KV) -> None:
                pass

        for function in (coroutine, async_generator, generator, partial(coroutine), Called(), 7):
            with pytest.raises(ConfigError, match="view"):
                self.view(a, function)  # type: ignore[arg-type]
        for late in (
            lambda state: coroutine(state),
            lambda state: async_generator(state),
            lambda state: (item for item in state.pushed),
        ):
            with pytest.raises(ConfigError, match="async, or a generator"):
                self.view(a, late)

    def test_it_waits_for_a_position(self, group: Group) -> None:
        a, log = group.primary("a"), group.faulty_log()
        b = group.node("b", log=log)
        in_step(a, b)
        log.deaf = True
        a.submit(push("x"))
        token = str(a.position.id)
        with pytest.raises(TimeoutError):
            self.view(b, lambda state: None, position=token, timeout_s=0.02)
        log.deaf = False
        assert self.view(b, lambda state: list(state.pushed), position=token, timeout_s=PATIENCE_S) == ["x"]


class TestWaiting:
    def test_tasks_wait_for_positions_and_cost_one_thread(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)

        async def main() -> None:
            waits = [asyncio.create_task(b.await_position(f"1-{n}", timeout_s=PATIENCE_S)) for n in range(2, 102)]
            await asyncio.sleep(0.01)
            assert threads_named("b-positions") == ["b-positions"]
            for n in range(100):
                await a.asubmit(push(n))
                if n == 50:
                    await waits[25]
            await asyncio.gather(*waits)

        run(main())

    def test_one_that_does_not_come_is_a_timeout_and_with_0_it_only_looks(self, group: Group) -> None:
        a = group.primary("a")

        async def main() -> None:
            for timeout_s in (0.0, 0.02):
                with pytest.raises(TimeoutError, match="a is primary at 1-1 after"):
                    await a.await_position("1-99", timeout_s=timeout_s)
            await a.await_position("1-1", timeout_s=0)
            with pytest.raises(ConfigError):
                await a.await_position("what")

        run(main())

    def test_one_that_a_failover_left_behind_is_told(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)

        async def main() -> None:
            waits = asyncio.create_task(a.await_position("1-5", timeout_s=2 * PATIENCE_S))
            later = asyncio.create_task(a.await_position("2-99", timeout_s=2 * PATIENCE_S))
            await a.asubmit(push("x"), timeout_s=PATIENCE_S)
            done = in_thread(lambda: a.promote(timeout_s=PATIENCE_S))
            with pytest.raises(PositionLost, match=r"1-5 was lost in the failover to term 2"):
                await waits
            assert not later.done()
            later.cancel()
            while a.term < 2:
                await asyncio.sleep(0.01)
            done()

        run(main())

    def test_a_node_that_stops_tells_those_who_wait(self, group: Group) -> None:
        a = group.primary("a")

        async def main() -> None:
            async with group.new_node("b") as b:
                waits = [
                    asyncio.create_task(b.await_position("9-9", timeout_s=PATIENCE_S)),
                    asyncio.create_task(b.await_role("primary", timeout_s=PATIENCE_S)),
                ]
                await asyncio.sleep(0.02)
            for wait in waits:
                with pytest.raises(NotRunning, match="was stopped"):
                    await wait
            with pytest.raises(NotRunning):
                await b.await_position("9-9")

        run(main())
        assert a.leads

    def test_a_role_is_waited_for_until_it_takes_writes(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)

        async def main() -> None:
            await a.await_role("primary")
            await b.await_role("standby")
            with pytest.raises(TimeoutError, match="b is standby"):
                await b.await_role("primary", timeout_s=0.02)
            with pytest.raises(ConfigError, match="role"):
                await b.await_role("leader")
            wait = asyncio.create_task(b.await_role("primary", timeout_s=PATIENCE_S))
            await asyncio.sleep(0.01)
            done = in_thread(lambda: b.promote(timeout_s=PATIENCE_S))
            await wait
            assert b.leads
            done()
            await a.await_role("standby", timeout_s=PATIENCE_S)

        run(main())


def test_an_executor_of_the_application_refuses() -> None:
    with pytest.raises(AssertionError, match="is the application's"):
        run(asyncio.to_thread(lambda: None))


def test_nothing_of_a_node_uses_the_default_executor(group: Group) -> None:
    """Each call, with the application's executor refusing whatever comes."""

    async def main() -> None:
        async with group.new_node("a") as a:
            done = in_thread(lambda: a.promote(timeout_s=PATIENCE_S))
            await a.await_role("primary", timeout_s=PATIENCE_S)
            done()
            await a.asubmit(push("x"))
            await a.asubmit_many([push("y")])
            async with group.new_node("b") as b:
                await a.asubmit(push("z"), ack="applied:1", timeout_s=PATIENCE_S)
                await b.await_position(str(a.position.id), timeout_s=PATIENCE_S)
                async with b.areading(fresh=True, timeout_s=PATIENCE_S) as state:
                    assert state.pushed == ["x", "y", "z"]
                assert await b.view(pushed_of, fresh=True, timeout_s=PATIENCE_S) == 3
            async for event in a.events():
                assert event.leads
                break

    run(main())


def pushed_of(state: KV) -> int:
    return len(state.pushed)


def test_a_node_of_threads_is_read_by_tasks_as_well(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    assert run(a.view(pushed_of)) == len(pushed(a)) == 1
