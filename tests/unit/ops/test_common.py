"""A process that is not run for a moment comes too late for its last look: it says what it waited for all the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from replicator import RecordId, ops
from replicator.errors import LogUnavailable
from replicator.log.interface import Log
from replicator.ops import promotion
from replicator.ops.common import looks
from replicator.protocol.group import GroupView
from replicator.testing import MemoryLog
from tests.support.paper import Paper, at

TIMEOUT_S = 0.05


class Late(MemoryLog):
    """So many looks are in time; before the next one the process stands still until its time is over."""

    def __init__(self, paper: Paper, in_time: int) -> None:
        super().__init__(paper.server, "g")
        self._in_time = in_time
        self._until = math.inf

    def within(self, until: float) -> Log:
        self._until = min(until, self._until)
        return self

    def look(self) -> GroupView:
        if self._in_time <= 0 and self._until < math.inf:
            time.sleep(max(0.0, self._until - time.monotonic()))
            raise LogUnavailable(url=self.url, problem="there was no time left to ask it")
        self._in_time -= 1
        return super().look()


@pytest.fixture
def pair(paper: Paper) -> Paper:
    """`a` leads, and `b` follows."""
    paper.take_term("a")
    paper.beat("a", term=1, role="primary", position=at(1, 1), in_sync=True)
    paper.beat("b", term=1, position=at(1, 1), in_sync=True)
    return paper


WAITS: dict[str, tuple[Callable[[Log], Any], str]] = {
    "promote": (
        lambda log: ops.promote(log, "b", by="test", timeout_s=TIMEOUT_S),
        "b has term 2, and does not lead yet",
    ),
    "switchover": (
        lambda log: ops.switchover(log, "b", by="test", timeout_s=TIMEOUT_S),
        "b does not keep up: it has not said how far it is; nothing was done",
    ),
    "snapshot": (lambda log: ops.snapshot(log, by="test", timeout_s=TIMEOUT_S), "a has not completed a snapshot"),
    "verify": (lambda log: ops.verify(log, by="test", timeout_s=TIMEOUT_S), "a has not reported a digest"),
    "reinit": (lambda log: ops.reinit(log, "b", by="test", timeout_s=TIMEOUT_S), "b has not been rebuilt"),
}


@pytest.mark.parametrize("name", WAITS)
def test_whoever_waits_says_what_for_and_not_that_redis_is_away(pair: Paper, name: str) -> None:
    wait, says = WAITS[name]
    with pytest.raises(TimeoutError, match=says):
        wait(Late(pair, in_time=1))


def test_a_switchover_that_was_done_is_told_though_nobody_could_see_the_old_primary_follow(
    pair: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = promotion.Promotion(primary="b", term=2, first_id="2-2", took_ms=1.0)
    monkeypatch.setattr(promotion, "promote", lambda *_, **__: done)
    told = ops.switchover(Late(pair, in_time=3), "b", by="test", timeout_s=TIMEOUT_S)
    assert (told.primary, told.term, told.follows) == ("b", 2, False)


def test_those_that_told_their_digest_in_time_are_compared(pair: Paper) -> None:
    digest = {"digest_at": RecordId(1, 5), "digest": "1" * 32}
    pair.beat("a", term=1, role="primary", position=at(1, 5), in_sync=True, **digest)
    found = ops.verify(Late(pair, in_time=2), by="test", timeout_s=TIMEOUT_S)
    assert (list(found.digests), found.late_nodes) == (["a"], ["b"])


def test_a_redis_that_is_away_before_the_time_is_over_is_told(paper: Paper) -> None:
    paper.log.down = "nobody listens"
    with pytest.raises(LogUnavailable, match="nobody listens"):
        next(looks(paper.log, time.monotonic() + 3600))


def test_what_redis_answers_is_told_whenever_it_does(paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> GroupView:
        raise LogUnavailable.refuses(paper.log.url, "no right to that")

    monkeypatch.setattr(paper.log, "look", refuse)
    with pytest.raises(LogUnavailable, match="no right to that"):
        next(looks(paper.log, time.monotonic() - 1))


def test_there_is_one_look_at_least(paper: Paper) -> None:
    assert len(list(looks(paper.log, time.monotonic() - 1))) == 1
