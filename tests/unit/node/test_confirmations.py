"""Which question is asked of Redis next, for tasks: of each kind in turn, for the fewest replicas."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any, cast

import pytest

import replicator.node.confirmations
from replicator.errors import NotAcknowledged
from replicator.format.ids import Position, RecordId, Writer
from replicator.log.interface import Confirmation, Log
from replicator.node.confirmations import QUESTION_S_MAX, Confirmations
from replicator.node.lease import Lease
from replicator.node.waiters import Level
from replicator.protocol.fold import Holder, View
from replicator.protocol.group import Code, Reply
from replicator.protocol.node_state import NodeState
from tests.support.kv import PATIENCE_S

ME = Writer("a", "a1")
ID = RecordId(1, 2)
LEADS = NodeState(
    me=ME, view=View(term=1, holder=Holder("a", "a1", "run"), position=Position(ID, "0" * 32)), run="run"
)  # fmt: skip


class Asked:
    """A log that is asked for confirmations: two replicas have everything, and nothing is on a disk."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool, int]] = []
        self.asked_at: list[float] = []
        self.go_on = threading.Event()

    def within(self, until: float) -> Asked:
        return self

    def confirm(self, *_: Any, replicas: int, fsynced: bool, timeout_ms: int) -> Confirmation:
        assert self.go_on.wait(PATIENCE_S)
        self.asked_at.append(time.monotonic())
        self.asked.append((replicas, fsynced, timeout_ms))
        return Confirmation(Reply(Code.OK), 0 if fsynced else 2)


def asked_for(*levels: str, times: int = 0, node_state: NodeState = LEADS) -> tuple[Asked, list[Any]]:
    """What is asked if tasks wait for these, and what they hear: who waits in vain leaves after so many questions."""
    log = Asked()
    confirmations = Confirmations(cast(Log, log), Lease(5.0), lambda: node_state)

    async def waits() -> list[Any]:
        until = asyncio.get_running_loop().time() + PATIENCE_S
        waits = [asyncio.ensure_future(confirmations.awaited(Level.parse(level), ID, until)) for level in levels]
        await asyncio.sleep(0)
        log.go_on.set()
        while len(log.asked) < times:
            await asyncio.sleep(0.005)
        for wait in waits if times else []:
            wait.cancel()
        return await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), PATIENCE_S)

    return log, asyncio.run(waits())


def test_what_is_there_answers_for_each_number_of_replicas_and_the_fewest_are_asked_for() -> None:
    log, heard = asked_for("replicated:2", "replicated:1", "replicated:3", "replicated:2", times=6)
    # The first question was on its way before the others came.
    assert [error is None for error in heard] == [True, True, False, True]
    assert {replicas for replicas, _, _ in log.asked[2:]} == {3}


def test_the_kinds_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicator.node.confirmations, "RETRY_EVERY_S", 0.0)
    log, _ = asked_for("replicated:5", "fsynced", times=10)
    kinds = [fsynced for _, fsynced, _ in log.asked[:10]]
    assert kinds in ([True, False] * 5, [False, True] * 5)


def test_what_is_asked_in_vain_is_asked_again_after_a_pause() -> None:
    log, _ = asked_for("fsynced", times=5)
    apart = [later - before for before, later in itertools.pairwise(log.asked_at[:5])]
    assert min(apart) >= 0.9 * replicator.node.confirmations.RETRY_EVERY_S


def test_a_question_about_replicas_is_short_enough_for_others_to_be_asked() -> None:
    log, _ = asked_for("replicated:5", times=3)
    assert max(timeout_ms for _, _, timeout_ms in log.asked) <= QUESTION_S_MAX * 1000


def test_a_node_whose_term_is_over_asks_nothing() -> None:
    log, (heard,) = asked_for("fsynced", node_state=LEADS._replace(over=1))
    assert isinstance(heard, NotAcknowledged)
    assert log.asked == []
