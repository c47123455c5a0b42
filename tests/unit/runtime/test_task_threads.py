"""What blocks is done for tasks on threads of ours: bounded, named, and nobody's default executor."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from replicator import NoThread
from replicator.runtime import task_threads
from replicator.runtime.task_threads import TaskThreads, begun, waited_out
from tests.support.kv import PATIENCE_S, eventually


def raises(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_a_task_has_what_its_work_gives_or_raises() -> None:
    threads = TaskThreads("t", most=2)

    async def main() -> None:
        assert await threads.run(lambda: 7) == 7
        with pytest.raises(KeyError, match="k"):
            await threads.run(raises(KeyError("k")))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await threads.run(raises(StopIteration(1)))
        assert await threads.run(lambda: threading.current_thread().name) == "t"

    asyncio.run(main())


def test_no_more_threads_than_it_may_have_and_the_others_wait_for_one() -> None:
    threads, free, at_work = TaskThreads("most-two", most=2), threading.Event(), threading.Semaphore(0)

    def work() -> str:
        at_work.release()
        assert free.wait(PATIENCE_S)
        return "done"

    async def main() -> list[str]:
        tasks = [asyncio.create_task(threads.run(work)) for _ in range(6)]
        for _ in range(2):
            while not at_work.acquire(blocking=False):
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert not at_work.acquire(blocking=False)
        assert [thread.name for thread in threading.enumerate()].count("most-two") == 2
        free.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ["done"] * 6


def test_threads_that_have_nothing_to_do_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_threads, "IDLE_S", 0.01)
    threads = TaskThreads("idle-ends", most=2)
    asyncio.run(threads.run(lambda: None))
    eventually(lambda: "idle-ends" not in [thread.name for thread in threading.enumerate()])
    assert asyncio.run(threads.run(lambda: 1)) == 1


def test_once_closed_nobody_waits_for_more_and_what_comes_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_threads, "IDLE_S", 3 * PATIENCE_S)
    threads = TaskThreads("closed", most=2)
    asyncio.run(threads.run(lambda: None))
    threads.close()
    eventually(lambda: "closed" not in {thread.name for thread in threading.enumerate()}, "its end")
    assert asyncio.run(threads.run(lambda: 7)) == 7
    eventually(lambda: "closed" not in {thread.name for thread in threading.enumerate()}, "its end")


def test_work_of_a_cancelled_task_that_has_not_begun_is_not_begun() -> None:
    threads, free, done = TaskThreads("one", most=1), threading.Event(), []

    async def main() -> None:
        first = asyncio.create_task(threads.run(lambda: free.wait(PATIENCE_S)))
        second = asyncio.create_task(threads.run(lambda: done.append("second")))
        third = asyncio.create_task(threads.run(lambda: done.append("third")))
        await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        free.set()
        await asyncio.gather(first, third)

    asyncio.run(main())
    assert done == ["third"]


def test_the_work_has_the_context_of_its_task() -> None:
    here: contextvars.ContextVar[str] = contextvars.ContextVar("here")

    async def main() -> str:
        here.set("mine")
        return await TaskThreads("t", most=1).run(here.get)

    assert asyncio.run(main()) == "mine"


def test_without_a_thread_the_task_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: Any, **__: Any) -> None:
        raise NoThread(what="t", problem="a limit")

    monkeypatch.setattr(task_threads, "started", no_thread)
    threads = TaskThreads("t", most=1)
    with pytest.raises(NoThread):
        asyncio.run(threads.run(lambda: 1))
    monkeypatch.undo()
    assert asyncio.run(threads.run(lambda: 2)) == 2


def test_what_is_waited_out_is_over_before_a_cancellation_is_raised() -> None:
    free, over = threading.Event(), []

    def work() -> None:
        assert free.wait(PATIENCE_S)
        over.append(True)

    async def patient() -> None:
        try:
            await waited_out(begun(work, name="patient"))
        except asyncio.CancelledError:
            assert over
            raise

    async def main() -> None:
        task = asyncio.create_task(patient())
        for _ in range(3):
            await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        free.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert over == [True]
