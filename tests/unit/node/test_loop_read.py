"""Reads of asyncio tasks: they block no loop, and one that awaits something is over, and says where it was."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from replicator import Node, NotRunning, ReadSuspended, WouldDeadlock
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_thread, push, pushed


def line_of(function: Any, text: str) -> int:
    """The line of this file that has that text, in this function."""
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def held_by_another(node: Node) -> Callable[[], Any]:
    """Another thread reads, until what this gives is called."""
    reads, enough = threading.Event(), threading.Event()

    def read() -> None:
        with node.reading():
            reads.set()
            assert enough.wait(PATIENCE_S)

    done = in_thread(read)
    assert reads.wait(PATIENCE_S)

    def end() -> None:
        enough.set()
        done()

    return end


def test_a_task_reads_the_state_and_gives_it_back(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("x"))

    async def main() -> list[Any]:
        async with a.areading() as state:
            seen = list(state.pushed)
        await a.asubmit(push("y"))
        async with a.areading(fresh=True, timeout_s=PATIENCE_S) as state:
            return seen + list(state.pushed)

    assert asyncio.run(main()) == ["x", "x", "y"]


def test_an_exception_of_the_block_comes_out_of_it_as_it_is(group: Group) -> None:
    a = group.primary("a")

    async def main() -> None:
        async with a.areading():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())
    assert a.submit(push("x")) == 1


def test_an_await_in_the_block_ends_the_read_and_is_named_with_its_line(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    a = group.primary("a")

    async def inner() -> None:
        await asyncio.sleep(0.01)

    async def main() -> list[Any]:
        async with a.areading() as state:
            seen = list(state.pushed)
            await inner()  # here
        return seen

    with caplog.at_level(logging.ERROR), pytest.raises(ReadSuspended) as raised:
        asyncio.run(main())
    where = f"{__file__}:{line_of(main, '# here')}, in main"
    assert where in str(raised.value)
    assert raised.value.fields["where"] == where
    assert where in caplog.text


def test_the_node_goes_on_while_the_block_awaits(group: Group) -> None:
    """A change of this very node, which another task submits: that used to be for ever."""
    a = group.primary("a")

    async def main() -> None:
        submitted = asyncio.Event()

        async def other() -> None:
            assert await a.asubmit(push("x"), timeout_s=PATIENCE_S) == 1
            async with a.areading() as state:
                assert state.pushed == ["x"]
            submitted.set()

        task = asyncio.create_task(other())
        async with a.areading():
            await asyncio.wait_for(submitted.wait(), PATIENCE_S)
        await task

    with pytest.raises(ReadSuspended):
        asyncio.run(main())
    assert pushed(a) == ["x"]


def test_an_error_after_the_await_is_the_cause_of_what_is_raised(group: Group) -> None:
    a = group.primary("a")

    async def main() -> None:
        async with a.areading():
            await asyncio.sleep(0)
            raise KeyError("mine")

    with pytest.raises(ReadSuspended) as raised:
        asyncio.run(main())
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_task_that_is_cancelled_in_the_block_is_cancelled_and_the_log_has_the_line(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    a = group.primary("a")

    async def main() -> None:
        async with asyncio.timeout(0.02), a.areading():
            await asyncio.sleep(PATIENCE_S)  # here

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert f":{line_of(main, '# here')}" in caplog.text
    assert a.submit(push("x")) == 1


def test_an_await_that_gives_nothing_back_to_the_loop_is_no_error(group: Group) -> None:
    a = group.primary("a")

    async def at_once() -> int:
        return 7

    async def main() -> int:
        async with a.areading():
            return await at_once()

    assert asyncio.run(main()) == 7


async def forever() -> None:
    await asyncio.sleep(PATIENCE_S)


def test_the_line_is_that_of_the_block_also_through_context_managers_and_generators(group: Group) -> None:
    a = group.primary("a")

    @contextlib.asynccontextmanager
    async def wrapped() -> AsyncIterator[KV]:
        async with a.areading() as state:
            yield state

    async def by_manager() -> None:
        async with wrapped():
            await asyncio.sleep(0.01)  # here

    async def by_stack() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(a.areading())
            await asyncio.sleep(0.01)  # here

    async def by_group() -> None:
        async with a.areading(), asyncio.TaskGroup() as tasks:  # here
            tasks.create_task(asyncio.sleep(0.01))

    async def generator() -> AsyncIterator[int]:
        async with a.areading():
            await asyncio.sleep(0.01)  # here
            yield 1

    async def by_generator() -> None:
        async for _ in generator():
            pass

    async def in_a_callee() -> None:
        await by_manager()

    for block, where in (
        (by_manager, by_manager),
        (by_stack, by_stack),
        (by_group, by_group),
        (by_generator, generator),
        (in_a_callee, by_manager),
    ):
        with pytest.raises(ReadSuspended) as raised:
            asyncio.run(block())
        assert f"{__file__}:{line_of(where, '# here')}, in {where.__name__}" in str(raised.value)


def test_while_another_reads_the_loop_goes_on(group: Group) -> None:
    a = group.primary("a")
    end = held_by_another(a)

    async def main() -> list[Any]:
        async def reader() -> list[Any]:
            async with a.areading(timeout_s=PATIENCE_S) as state:
                return list(state.pushed)

        task = asyncio.create_task(reader())
        for _ in range(10):
            await asyncio.sleep(0.005)
        assert not task.done()
        end()
        return await task

    assert asyncio.run(main()) == []


def test_a_state_that_is_in_use_for_too_long_is_a_timeout(group: Group) -> None:
    a = group.primary("a")
    end = held_by_another(a)

    async def main() -> None:
        async with a.areading(timeout_s=0.02):
            pass

    with pytest.raises(TimeoutError, match="in use"):
        asyncio.run(main())
    end()


def test_what_waits_for_the_node_is_refused_in_the_block(group: Group) -> None:
    a = group.primary("a")

    async def main() -> None:
        async with a.areading():
            with pytest.raises(WouldDeadlock):
                await a.asubmit(push("x"))
            with pytest.raises(WouldDeadlock):
                async with a.areading():
                    pass
            with pytest.raises(WouldDeadlock):
                await a.await_position("1-99")
            with pytest.raises(WouldDeadlock), a.reading():
                pass
        await a.asubmit(push("x"))

    asyncio.run(main())


def test_a_fresh_read_has_what_is_committed_and_one_without_redis_ends_in_time(group: Group) -> None:
    a, log = group.primary("a"), group.faulty_log()
    b = group.node("b", log=log)
    b.wait(position=str(a.position.id), timeout_s=PATIENCE_S)
    log.deaf = True
    a.submit(push("x"))

    async def fresh(timeout_s: float) -> list[Any]:
        async with b.areading(fresh=True, timeout_s=timeout_s) as state:
            return list(state.pushed)

    async def main() -> list[Any]:
        with pytest.raises(TimeoutError):
            await fresh(0.05)
        task = asyncio.create_task(fresh(PATIENCE_S))
        await asyncio.sleep(0.02)
        log.deaf = False
        return await task

    assert asyncio.run(main()) == ["x"]


def test_where_nobody_leads_a_fresh_read_of_a_task_says_so(group: Group) -> None:
    b = group.node("b")

    async def main() -> None:
        async with b.areading(fresh=True, timeout_s=0.05):
            pass

    def why_not() -> str:
        with pytest.raises(TimeoutError) as raised:
            asyncio.run(main())
        return str(raised.value)

    # A busy machine may not even have looked at the group by then, which it says.
    eventually(lambda: re.search(r"nobody leads the group.* read without `fresh`", why_not()))


def test_a_node_that_was_not_started_has_no_state_and_a_stopped_one_has_what_it_had(group: Group) -> None:
    async def read(node: Node) -> list[Any]:
        async with node.areading() as state:
            return list(state.pushed)

    with pytest.raises(NotRunning):
        asyncio.run(read(group.new_node("z")))
    a = group.primary("a")
    a.submit(push("x"))
    a.stop()
    assert asyncio.run(read(a)) == ["x"]


def test_what_other_tasks_of_the_pass_do_before_the_read_is_ended_blocks_nobody(group: Group) -> None:
    """A blocking read on the loop, between the await and the next pass: it is refused, and does not hang."""
    a = group.primary("a")

    async def main() -> None:
        async def other() -> None:
            with pytest.raises(WouldDeadlock), a.reading():
                pass

        other_task = asyncio.create_task(other())
        async with a.areading():
            await asyncio.sleep(0)
        await other_task

    with pytest.raises(ReadSuspended):
        asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_with_uvloop_too(group: Group) -> None:
    uvloop = pytest.importorskip("uvloop")
    a = group.primary("a")

    async def fine() -> list[Any]:
        async with a.areading() as state:
            return list(state.pushed)

    async def main() -> None:
        async with a.areading():
            await asyncio.sleep(0.01)  # here

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(fine()) == []
        with pytest.raises(ReadSuspended, match=f":{line_of(main, '# here')}, in main"):
            runner.run(main())


def test_a_read_is_not_held_for_longer_than_a_pass_of_the_loop(group: Group) -> None:
    a = group.primary("a")
    applied = a._running.replica.applied

    async def main() -> None:
        async with a.areading():
            assert applied.lock.locked()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not applied.lock.locked()
            time.sleep(0)

    with pytest.raises(ReadSuspended):
        asyncio.run(main())
