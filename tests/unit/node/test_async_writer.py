"""Writing from asyncio tasks: they share records, and learn what became of their own change."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from replicator import ChangeRejected, ChangeTooLarge, Fenced, LogUnavailable, NotJSON, NotPrimary, OutcomeUnknown
from replicator.format.codec import encoded
from replicator.node.async_writer import AsyncWriter
from replicator.node.commit_queue import BATCH_CHANGES_MAX
from tests.support.kv import PATIENCE_S, Group, document, eventually, in_step, in_thread, push, pushed, put


def test_a_task_learns_what_apply_returned(group: Group) -> None:
    a = group.primary("a")

    async def writes() -> list[Any]:
        return [await a.asubmit(put("k", 1)), await a.asubmit(put("k", 2))]

    assert asyncio.run(writes()) == [None, 1]


def test_tasks_that_submit_at_the_same_time_share_records_and_each_has_its_own_result(group: Group) -> None:
    a = group.primary("a")
    before = a.position.id.n

    async def writes() -> list[Any]:
        return await asyncio.gather(*(a.asubmit(push(number)) for number in range(500)))

    results = asyncio.run(writes())
    assert [pushed(a)[result - 1] for result in results] == list(range(500))
    assert a.position.id.n - before < 50, "a record for each would be 500"


def test_tasks_that_ask_for_different_things_at_the_same_time_keep_their_order(group: Group) -> None:
    # given tasks that submit at the same time, with another timeout, in a term that is not, or as they come
    a = group.primary("a")
    before = a.position.id.n

    async def writes() -> list[Any]:
        asked: list[dict[str, Any]] = [{}, {"timeout_s": 7.0}, {"term": a.term + 1}, {"term": a.term}, {}]
        tasks = [a.asubmit(push([turn, number]), **each) for turn in range(3) for number, each in enumerate(asked)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    # then those of the other term are refused, and the others are in the log as they were submitted
    results = asyncio.run(writes())
    assert [type(result) for result in results] == 3 * [int, int, Fenced, int, int]
    assert pushed(a) == [[turn, number] for turn in range(3) for number in (0, 1, 3, 4)]
    assert a.position.id.n - before < 12


def test_what_does_not_fit_into_one_record_goes_into_the_next(group: Group) -> None:
    a = group.primary("a")
    before = a.position.id.n

    async def writes(count: int, size: int) -> list[Any]:
        return await asyncio.gather(*(a.asubmit(push(f"{number:0{size}}")) for number in range(count)))

    assert asyncio.run(writes(40, 20_000)) == list(range(1, 41))
    assert a.position.id.n - before >= 4
    assert len(asyncio.run(writes(2500, 4))) == 2500
    assert len(set(pushed(a))) == 2540


def test_a_change_that_comes_while_a_shared_committer_ends_is_committed_as_well(group: Group) -> None:
    commits = group.primary("a")._running.primary.commits
    due: list[Callable[[], None]] = []
    tasks = AsyncWriter(commits, name="a", soon=due.append)
    commit_all = commits.commit_all

    async def writes() -> list[Any]:
        def submit(value: str) -> asyncio.Future[Any]:
            return tasks.submit(encoded([push(value)]), timeout_s=PATIENCE_S, term=None, wants_acks=False)

        async def another() -> None:
            told.append(submit("y"))
            await asyncio.sleep(0)  # handed over

        def and_another() -> None:
            commit_all()
            # It relies on the committer, which has just looked for the last time.
            asyncio.run_coroutine_threadsafe(another(), loop).result(PATIENCE_S)
            commits.commit_all = commit_all  # type: ignore[method-assign]

        loop = asyncio.get_running_loop()
        commits.commit_all = and_another  # type: ignore[method-assign]
        told = [submit("x")]
        await asyncio.sleep(0)
        while due:
            await asyncio.to_thread(due.pop())
        return [result for _, (result,) in await asyncio.wait_for(asyncio.gather(*told), PATIENCE_S)]

    assert asyncio.run(writes()) == [1, 2]


def test_a_rejected_change_is_the_answer_of_its_own_task_alone(group: Group) -> None:
    a = group.primary("a")

    async def writes() -> list[Any]:
        some = (a.asubmit({"reject": "no"}) if number % 2 else a.asubmit(push(number)) for number in range(20))
        return await asyncio.gather(*some, return_exceptions=True)

    results = asyncio.run(writes())
    assert [isinstance(result, ChangeRejected) for result in results] == [bool(number % 2) for number in range(20)]


def test_the_loop_goes_on_while_redis_does_not_answer(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    log = group.log()
    a = group.primary("a", log=log)
    append, sent, answers = log.append, threading.Event(), threading.Event()

    def slow(record: Any, **options: Any) -> Any:
        sent.set()
        assert answers.wait(PATIENCE_S)
        return append(record, **options)

    monkeypatch.setattr(log, "append", slow)

    async def writes() -> None:
        write = asyncio.ensure_future(a.asubmit(push("x")))
        while not sent.is_set():
            await asyncio.sleep(0.01)
        for _ in range(5):  # the loop goes on, and only what it does then lets the answer come
            await asyncio.sleep(0.01)
        assert not write.done()
        answers.set()
        assert await write == 1

    asyncio.run(writes())


def test_threads_and_tasks_write_side_by_side(group: Group) -> None:
    a = group.primary("a")
    threads = [in_thread(lambda: [a.submit(push("thread")) for _ in range(50)]) for _ in range(3)]

    async def writes() -> None:
        await asyncio.gather(*(a.asubmit(push("task")) for _ in range(150)))

    asyncio.run(writes())
    for thread in threads:
        thread()
    assert sorted(pushed(a)) == ["task"] * 150 + ["thread"] * 150


def test_a_task_that_waits_too_long_is_told_whether_its_change_was_written(group: Group) -> None:
    a = group.primary("a")

    async def writes() -> None:
        with pytest.raises(LogUnavailable) as caught:
            await a.asubmit(push("x"), timeout_s=0.2)
        assert not isinstance(caught.value, OutcomeUnknown), "it was still in the queue: nothing was written"

    with a._running.replica.write_lock:
        asyncio.run(writes())
    assert a.submit(push("y")) == 1


def test_a_cancelled_task_holds_up_nobody(group: Group) -> None:
    a = group.primary("a")

    async def writes() -> Any:
        with a._running.replica.write_lock:
            gone = asyncio.ensure_future(a.asubmit(push("gone")))
            await asyncio.sleep(0.05)
            gone.cancel()
        return await a.asubmit(push("x"))

    assert asyncio.run(writes()) in (1, 2)


def test_a_standby_refuses_and_so_does_another_term(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")

    async def writes() -> None:
        with pytest.raises(NotPrimary):
            await b.asubmit(push("x"))
        with pytest.raises(Fenced):
            await a.asubmit(push("x"), term=a.term + 1)

    asyncio.run(writes())
    assert pushed(a) == []


def test_what_is_still_queued_when_the_node_stops_is_refused_at_once(group: Group) -> None:
    a = group.primary("a")

    async def writes() -> list[Any]:
        await a.asubmit(push("first"))
        a._running.replica.write_lock.acquire()
        tasks = [asyncio.ensure_future(a.asubmit(push("x"), timeout_s=PATIENCE_S)) for _ in range(3)]
        await asyncio.sleep(0.05)
        stopping = in_thread(a.stop)
        await asyncio.to_thread(eventually, a._setup.stopping.is_set)
        a._running.replica.write_lock.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(stopping)
        return results

    began = time.monotonic()
    assert {type(result) for result in asyncio.run(writes())} <= {NotPrimary, int}
    assert time.monotonic() - began < PATIENCE_S


def test_what_was_not_handed_over_when_the_node_stopped_is_refused_at_once(group: Group) -> None:
    # given a task whose change waits for the loop to run its tasks once
    a = group.primary("a")

    async def writes() -> Any:
        await a.asubmit(push("first"))
        task = asyncio.ensure_future(a.asubmit(push("late"), timeout_s=PATIENCE_S))
        await asyncio.sleep(0)
        # when the node stops before the loop goes on
        a.stop()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    # then it hears so at once, and not when it has waited for long enough
    began = time.monotonic()
    assert isinstance(asyncio.run(writes()), NotPrimary)
    assert time.monotonic() - began < PATIENCE_S / 2
    assert pushed(a) == ["first"]


def test_what_is_queued_as_the_committer_ends_is_answered_at_once(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a committer that has looked for the last time whether there is something to commit
    commits = group.primary("a")._running.primary.commits
    tasks = AsyncWriter(commits, name="a")
    commit_all, stopping = commits.commit_all, list[Callable[[], None]]()

    async def writes() -> list[Any]:
        loop, told = asyncio.get_running_loop(), list[Any]()

        def submit(value: str) -> asyncio.Future[Any]:
            return tasks.submit(encoded([push(value)]), timeout_s=PATIENCE_S, term=None, wants_acks=False)

        async def late() -> None:
            told.append(submit("late"))
            await asyncio.sleep(0.01)  # until it was handed over

        def and_then() -> None:
            commit_all()
            monkeypatch.setattr(commits, "commit_all", commit_all)
            # when a change is queued, and the node stops
            asyncio.run_coroutine_threadsafe(late(), loop).result(PATIENCE_S)
            stopping.append(in_thread(tasks.close))
            eventually(lambda: tasks._closed)

        monkeypatch.setattr(commits, "commit_all", and_then)
        await submit("first")
        await asyncio.to_thread(eventually, lambda: told)
        return await asyncio.gather(*told, return_exceptions=True)

    # then it does not wait until its time is over
    began = time.monotonic()
    ((_, results),) = asyncio.run(writes())
    stopping[0]()
    assert results == [2]
    assert time.monotonic() - began < PATIENCE_S / 2


def test_event_loops_that_are_closed_are_forgotten(group: Group) -> None:
    a = group.primary("a")

    async def write() -> None:
        await a.asubmit(push(1))

    for _ in range(20):
        asyncio.run(write())
    assert a._running.async_writer is not None
    assert len(a._running.async_writer._loops) == 1


def test_a_task_can_wait_for_standbys(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")

    async def writes() -> Any:
        return await a.asubmit(push("x"), ack="applied:1", timeout_s=PATIENCE_S)

    assert asyncio.run(writes()) == 1
    assert pushed(b) == ["x"]


class TestMany:
    def test_all_of_them_are_one_record(self, group: Group) -> None:
        a = group.primary("a")
        before = a.position.id.n
        assert a.submit_many([push(number) for number in range(100)]) == list(range(1, 101))
        assert a.position.id.n == before + 1

    def test_a_rejected_one_stands_in_its_place_and_the_others_are_applied(self, group: Group) -> None:
        a = group.primary("a")
        first, second, third = a.submit_many([push("x"), {"reject": "no"}, push("y")])
        assert (first, str(second), third) == (1, "no", 2)
        assert isinstance(second, ChangeRejected)

    def test_none_is_in_the_log_if_one_is_not_json(self, group: Group) -> None:
        a = group.primary("a")
        before = a.position
        with pytest.raises(NotJSON):
            a.submit_many([push("x"), push(float("nan"))])
        assert a.position == before

    def test_more_than_a_record_takes_are_refused(self, group: Group) -> None:
        a = group.primary("a")
        with pytest.raises(ChangeTooLarge, match="1001"):
            a.submit_many([push("x")] * (BATCH_CHANGES_MAX + 1))
        with pytest.raises(ChangeTooLarge, match="bytes"):
            a.submit_many([push("x" * 3000)] * 100)
        assert a.submit_many([]) == []

    def test_a_standby_applies_the_same(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit_many([put("k", 1), {"reject": "no"}, put("l", [2])])
        in_step(a, b)
        assert document(a) == document(b)

    def test_tasks_can_too(self, group: Group) -> None:
        a = group.primary("a")

        async def writes() -> list[list[Any]]:
            return await asyncio.gather(*(a.asubmit_many([push("x"), push("y")]) for _ in range(3)))

        assert sorted(result for results in asyncio.run(writes()) for result in results) == [1, 2, 3, 4, 5, 6]
