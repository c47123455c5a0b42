"""What a standby reads, and when it reads on."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from replicator import NotAcknowledged
from replicator.node.consumer import GATHER_S, RECORDS_AT_ONCE, Learnt
from replicator.node.scheduler import NodeWork
from tests.support.kv import Group, push, pushed


class ByHand:
    """A scheduler that does nothing by itself."""

    soon = None
    shared = None
    clock = staticmethod(time.monotonic)
    node_work: NodeWork

    def start(self, node_work: NodeWork) -> None:
        self.node_work = node_work

    def wake(self, node_work: NodeWork) -> None:
        pass

    def stop(self, node_work: NodeWork) -> None:
        pass


class TestWhenAStandbyReadsOn:
    @pytest.fixture(autouse=True)
    def _nodes(self, group: Group) -> None:
        self.primary = group.primary("a")
        scheduler = ByHand()
        self.standby = group.new_node("b", scheduler=scheduler)
        self.standby.start()
        self.read = scheduler.node_work.read
        while self.standby.position != self.primary.position:
            self.read()

    def test_at_once_after_a_change_that_came_alone(self) -> None:
        self.primary.submit(push("x"))
        assert self.read() == 0

    def test_a_moment_later_where_more_came_while_it_took_in_those_before(self) -> None:
        for number in range(2):
            self.primary.submit(push(number))
        assert self.read() == GATHER_S
        # and at once again where they do not
        self.primary.submit(push("alone"))
        assert self.read() == 0
        assert pushed(self.standby) == [0, 1, "alone"]

    def test_at_once_where_there_is_more_than_one_read_takes(self) -> None:
        for number in range(RECORDS_AT_ONCE + 2):
            self.primary.submit(push(number))
        assert self.read() == 0
        assert self.read() == GATHER_S
        assert pushed(self.standby) == list(range(RECORDS_AT_ONCE + 2))

    def test_at_once_where_somebody_waits_until_it_has_them(self) -> None:
        self.primary.submit(push("x"))
        with suppress(NotAcknowledged):
            self.primary.submit(push("y"), ack="applied:1", timeout_s=0.01)
        assert self.read() == 0
        assert pushed(self.standby) == ["x", "y"]

    def test_a_change_is_no_news_and_another_term_is_whatever_else_came_with_it(self) -> None:
        reader = self.standby._running.duties._reader
        self.primary.submit(push("x"))
        assert list(reader.read()) == []
        self.primary.submit(push("y"))
        self.primary.promote()
        self.primary.submit(push("z"))
        assert [news for news in reader.read() if isinstance(news, Learnt)] == [Learnt.NEWS]
        assert pushed(self.standby) == ["x", "y", "z"]
