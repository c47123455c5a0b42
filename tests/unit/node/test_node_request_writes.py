"""Which calls of a node count as writes of the request that makes them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import Node
from replicator.errors import ChangeRejected, Fenced, LogUnavailable, NotPrimary, OutcomeUnknown
from replicator.runtime.request_writes import CURRENT, NOTED, Writes
from tests.support.kv import Group, put


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    for node in group.nodes:
        node.stop()


async def both(node: Node) -> None:
    await asyncio.gather(node.asubmit(put("a", 1)), asyncio.create_task(node.asubmit(put("b", 1))))


async def on_a_thread(node: Node) -> None:
    await asyncio.to_thread(node.submit, put("a", 1))


CALLS: list[tuple[Callable[[Node], Any], int]] = [
    (lambda node: node.submit(put("a", 1)), 1),
    (lambda node: node.submit_many([put("a", 1), put("b", 1)]), 1),
    (lambda node: node.replace([["pushed", []], ["data", "a", 1]]), 1),
    (lambda node: asyncio.run(node.asubmit(put("a", 1))), 1),
    (lambda node: asyncio.run(node.asubmit(put("a", 1), ack="applied:1")), 1),
    (lambda node: asyncio.run(node.asubmit_many([put("a", 1)])), 1),
    (lambda node: asyncio.run(both(node)), 2),
    (lambda node: asyncio.run(on_a_thread(node)), 1),
    (lambda node: node.submit_many([]), 0),
    (lambda node: node.wait(n=1), 0),
]


def writes_of(work: Callable[[], Any]) -> int:
    def counted() -> int:
        request = Writes()
        CURRENT.set(request)
        work()
        return request.writes

    return contextvars.copy_context().run(counted)


def test_what_writes_is_counted(group: Group) -> None:
    node = group.primary("a")
    group.node("b")
    assert [writes_of(lambda call=call: call(node)) for call, _ in CALLS] == [count for _, count in CALLS]


def test_what_was_refused_wrote_nothing(group: Group) -> None:
    group.primary("a")
    standby = group.node("b")

    def refused(call: Callable[[Node], Any]) -> None:
        with pytest.raises(NotPrimary):
            call(standby)

    assert [writes_of(lambda call=call: refused(call)) for call, count in CALLS if count == 1] == [0] * 7


@pytest.mark.parametrize(
    ("error", "writes"),
    [
        (Fenced(5, 6, "b"), 0),
        (LogUnavailable(url="redis://h", problem="away"), 0),
        (OutcomeUnknown(url="redis://h", problem="away"), 1),
        (ChangeRejected("no"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_what_may_have_been_written_counts(error: BaseException, writes: int) -> None:
    def work() -> None:
        with pytest.raises(type(error)), NOTED:
            raise error

    assert writes_of(work) == writes


def test_outside_of_a_request_nothing_is_counted() -> None:
    with NOTED:
        assert CURRENT.get() is None
