"""Who is inside of a node and must not wait for it: by thread, by context, and no longer than it lasts."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from replicator import WouldDeadlock
from replicator.runtime.reentrancy import READING, Inside
from tests.support.kv import in_thread


def is_inside(inside: Inside, *, blocks: bool = True) -> bool:
    try:
        inside.check("it", blocks=blocks)
    except WouldDeadlock:
        return True
    return False


@pytest.fixture
def inside() -> Inside:
    return Inside("a")


def test_who_is_inside_is_refused_and_told_what_to_do(inside: Inside) -> None:
    with inside.of("apply()"), pytest.raises(WouldDeadlock) as raised:
        inside.check("submit()")
    assert str(raised.value).startswith("submit() inside `apply()` of a would wait for itself: do it when `apply()`")
    with inside.of(READING), pytest.raises(WouldDeadlock, match="end the read first"):
        inside.check("submit()")


def test_outside_nobody_is_refused(inside: Inside) -> None:
    assert not is_inside(inside)
    with inside.of("apply()"):
        pass
    assert not is_inside(inside)
    with pytest.raises(KeyError), inside.of("apply()"):
        raise KeyError
    assert not is_inside(inside)


def test_another_node_is_another_matter_but_the_way_back_is_not(inside: Inside) -> None:
    other = Inside("b")
    with inside.of("apply()"):
        assert not is_inside(other)
        with other.of("apply()"):
            assert is_inside(inside, blocks=False)
            assert is_inside(other, blocks=False)
        assert is_inside(inside)
        assert not is_inside(other)


def test_another_thread_may_wait(inside: Inside) -> None:
    with inside.of("apply()"):
        assert not in_thread(lambda: is_inside(inside))()


def test_a_thread_that_works_for_one_who_is_inside_may_not(inside: Inside) -> None:
    with inside.of(READING):
        context = contextvars.copy_context()
        assert in_thread(lambda: context.run(is_inside, inside))()
    assert not in_thread(lambda: context.run(is_inside, inside))()


def test_a_read_that_ends_on_another_thread_is_over_on_both(inside: Inside) -> None:
    stay = inside.of(READING)
    in_thread(stay.__enter__)()
    in_thread(lambda: stay.__exit__(None, None, None))()
    assert inside._threads == {}
    assert not is_inside(inside)


def test_callbacks_may_be_in_one_another(inside: Inside) -> None:
    with inside.of("restore()"):
        with inside.of("snapshot()"):
            pass
        with pytest.raises(WouldDeadlock, match="inside `restore"):
            inside.check("it")
    assert inside._threads == {}


def test_tasks_are_told_apart(inside: Inside) -> None:
    async def check() -> list[bool]:
        read, over = asyncio.Event(), asyncio.Event()
        found = []

        async def reader() -> None:
            with inside.of(READING):
                found.append(is_inside(inside, blocks=False))
                found.append(await asyncio.create_task(child()))
                found.append(await asyncio.to_thread(is_inside, inside, blocks=False))
                read.set()
                await over.wait()
            found.append(is_inside(inside, blocks=False))

        async def child() -> bool:
            return is_inside(inside, blocks=False)

        async def other() -> None:
            await read.wait()
            found.append(is_inside(inside, blocks=False))
            found.append(is_inside(inside, blocks=True))  # it would stop the loop, and the reader with it
            over.set()

        other_task = asyncio.create_task(other())
        await asyncio.create_task(reader())
        await other_task
        return found

    assert asyncio.run(check()) == [True, True, True, False, True, False]


def test_what_is_over_is_not_kept(inside: Inside) -> None:
    def many() -> int:
        for _ in range(100):
            stay = inside.of(READING)
            stay.__enter__()
            # It ends elsewhere: this context keeps the last of them.
            in_thread(lambda stay=stay: stay.__exit__(None, None, None))()
        depth, outer = 0, stay.outer
        while outer is not None:
            depth, outer = depth + 1, outer.outer
        return depth

    assert contextvars.copy_context().run(many) == 0
    assert threading.active_count() < 100
