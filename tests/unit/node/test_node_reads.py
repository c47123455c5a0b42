"""Reads that show all that is committed, or all that a position names."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from replicator import ConfigError, LogUnavailable, Node, OutcomeUnknown, PositionLost, RecordId, WouldDeadlock, ops
from replicator.format.ids import ERA
from replicator.protocol.group import Reply
from tests.support.kv import (
    BEAT_S,
    PATIENCE_S,
    SHORT_LEASE_S,
    Group,
    eventually,
    in_step,
    in_thread,
    push,
    pushed,
    submitted,
)
from tests.support.nodes import reported
from tests.support.worlds import promote


class TestReadsThatDoNotBlock:
    def test_one_that_finds_the_state_free_has_it(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        with a.reading(blocks=False) as state:
            assert state.pushed == ["x"]
        assert a.submit(push("y")) == 2  # it was given back

    def test_one_that_finds_another_reader_is_told_so_at_once(self, group: Group) -> None:
        a = group.primary("a")
        reads, enough = threading.Event(), threading.Event()

        def read() -> None:
            with a.reading():
                reads.set()
                enough.wait(PATIENCE_S)

        other = in_thread(read)
        assert reads.wait(PATIENCE_S)
        with pytest.raises(BlockingIOError), a.reading(blocks=False):
            pass
        enough.set()
        other()
        with a.reading(blocks=False):
            pass

    def test_a_task_finds_what_another_one_of_its_event_loop_reads_in_use(self, group: Group) -> None:
        a = group.primary("a")

        async def tasks() -> list[Any]:
            reads, enough = asyncio.Event(), asyncio.Event()

            async def reader() -> None:
                with a.reading():
                    reads.set()
                    await enough.wait()

            async def other() -> None:
                await reads.wait()
                try:
                    with pytest.raises(BlockingIOError), a.reading(blocks=False):
                        pass
                finally:
                    enough.set()

            return await asyncio.gather(reader(), other())

        asyncio.run(tasks())

    def test_a_look_at_a_position_says_at_once_whether_it_is_there(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.wait(position=str(a.position.id), timeout_s=0)
        with pytest.raises(TimeoutError):
            a.wait(position="1-99", timeout_s=0)

    def test_a_look_waits_for_nobody_and_may_be_taken_inside_of_a_read(self, group: Group) -> None:
        a = group.primary("a")

        async def while_another_task_reads() -> None:
            with a.reading():
                await asyncio.create_task(look())
                await look()

        async def look() -> None:
            a.wait(role="primary", timeout_s=0)
            with pytest.raises(TimeoutError):
                a.wait(n=99, timeout_s=0)

        asyncio.run(while_another_task_reads())
        with a.reading(), pytest.raises(WouldDeadlock):
            a.wait(role="primary", timeout_s=0.1)

    def test_one_cannot_be_fresh_and_wait_for_nobody(self, group: Group) -> None:
        a = group.primary("a")
        with pytest.raises(ConfigError, match="waits for Redis"), a.reading(fresh=True, blocks=False):
            pass


class TestFreshReads:
    def test_one_that_lags_waits_until_it_has_what_is_committed(self, group: Group) -> None:
        a, log = group.primary("a"), group.faulty_log()
        b = group.node("b", log=log)
        in_step(a, b)
        log.deaf = True
        a.submit(push("x"))
        assert pushed(b) == []
        with pytest.raises(TimeoutError), b.reading(fresh=True, timeout_s=0.1):
            pass
        read = in_thread(lambda: self._fresh(b))
        log.deaf = False
        assert read() == ["x"]

    def _fresh(self, node: Node, timeout_s: float = PATIENCE_S) -> list[Any]:
        with node.reading(fresh=True, timeout_s=timeout_s) as state:
            return list(state.pushed)

    def test_where_nobody_leads_nobody_knows_what_is_committed(self, group: Group) -> None:
        b = group.node("b")
        with pytest.raises(TimeoutError, match=r"nobody leads the group.* read without `fresh`"):
            self._fresh(b, 0.05)

    def test_in_a_new_run_nobody_knows_before_somebody_leads(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)
        reported(group, a, b)
        assert self._fresh(b) == ["x"]
        group.crash(a)
        group.fail_over()
        with pytest.raises(TimeoutError, match="nobody leads"):
            self._fresh(b, 0.1)

    def test_a_term_that_nobody_leads_in_yet_answers_nothing(self, group: Group) -> None:
        a, log = group.primary("a"), group.faulty_log()
        b = group.node("b", log=log)
        in_step(a, b)
        log.deaf = True
        promote(group.log(), "b", boot=b.boot, floor=1)
        a.wait(role="standby", timeout_s=PATIENCE_S)
        for node in (a, b):
            with pytest.raises(TimeoutError, match="nobody leads"):
                self._fresh(node, 0.05)
        log.deaf = False
        assert self._fresh(a) == self._fresh(b) == []

    def test_nothing_is_answered_between_a_new_term_and_the_end_of_a_rebase(self, group: Group) -> None:
        """What is committed may not be in the log again yet."""
        log = group.faulty_log()
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        c = group.node("c", beat_every_s=BEAT_S)
        a.submit(push("x"))
        in_step(a, b, c)
        c.stop()
        before = group.server.state
        a.submit(push("committed"))
        in_step(a, b)
        sending, go_on = threading.Event(), threading.Event()

        def held(record: Any) -> Reply:
            sending.set()
            assert go_on.wait(PATIENCE_S)
            raise OutcomeUnknown(url=log.url, problem="held up")

        log.faults.append(held)
        group.fail_over(before)
        c = group.node("c", beat_every_s=BEAT_S)
        assert sending.wait(PATIENCE_S)
        assert group.server.state.term == ERA + 1
        c.wait(position="1-2", timeout_s=PATIENCE_S)
        for node in (a, b, c):
            with pytest.raises(TimeoutError, match="nobody leads"):
                self._fresh(node, 0.1)
        assert pushed(c) == ["x"], "a read that may be old is answered all the while"
        read = [in_thread(lambda node=node: self._fresh(node)) for node in (a, b, c)]
        go_on.set()
        assert [done() for done in read] == [["x", "committed"]] * 3

    def test_a_primary_that_was_replaced_and_does_not_know_does_not_answer_from_what_it_has(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=60.0), group.node("b")
        in_step(a, b)
        log.renewals_fail = log.deaf = True
        b.promote(timeout_s=PATIENCE_S)
        b.submit(push("x"))
        assert (a.role, pushed(a)) == ("primary", [])
        with pytest.raises(TimeoutError):
            self._fresh(a, 0.1)

    def test_once_the_lease_ran_out_nobody_knows_what_is_committed(self, group: Group) -> None:
        """The primary was cut off with its Redis, which takes no writes: heartbeats stand still, and say it leads."""
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b", beat_every_s=BEAT_S)
        in_step(a, b)
        assert self._fresh(b) == []
        log.renewals_fail = True
        eventually(lambda: group.server.look().lease_ms is None)
        for node in (a, b):
            with pytest.raises(TimeoutError, match="with a lease that runs"):
                self._fresh(node, 0.1)
        assert group.server.look().heartbeats["a"].role == "primary"
        read = in_thread(lambda: self._fresh(b))
        log.renewals_fail = False
        assert read() == []

    def test_a_look_is_relied_on_for_what_is_left_of_the_lease_counted_from_before_it(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        assert self._fresh(b) == []
        sight = b._running.ha_loop.observer.sight
        now_ms = time.monotonic() * 1000
        monkeypatch.setattr(
            b._running.ha_loop.observer, "sight", lambda *log: sight(*log)._replace(lease_until_ms=now_ms)
        )
        with pytest.raises(TimeoutError, match="with a lease that runs"):
            self._fresh(b, 0.1)
        monkeypatch.setattr(b._running.ha_loop.observer, "sight", sight)
        assert self._fresh(b) == []

    def test_without_redis_there_is_no_fresh_read(self, group: Group) -> None:
        log = group.log()
        a = group.primary("a", log=log)
        log.down = "cut off"
        with pytest.raises(LogUnavailable, match="cut off"):
            self._fresh(a)
        assert pushed(a) == []

    def test_a_log_that_is_gone_answers_nothing(self, group: Group) -> None:
        a = group.primary("a")
        group.server.flush()
        with pytest.raises(TimeoutError, match="nobody leads"):
            self._fresh(a, 0.05)


class TestReadTokens:
    def test_the_beginning_is_in_every_history(self, group: Group) -> None:
        a = group.primary("a")
        a.promote(force=True, timeout_s=PATIENCE_S)
        a.wait(position="0-0", timeout_s=PATIENCE_S)

    @pytest.fixture
    def lost(self, group: Group) -> tuple[Node, str]:
        """A node of a group that lost 1-3 and 1-4 in a failover to it, and the token of 1-4."""
        a, log = group.primary("a", beat_every_s=BEAT_S), group.faulty_log()
        # Its beats come seldom: it has read the log long before it would ask for a snapshot.
        b = group.node("b", log=log)
        submitted(a, push("kept"))
        in_step(a, b)
        before = group.server.state
        log.deaf = True
        submitted(a, push("lost"))
        submitted(a, push("lost, too"))
        token = str(a.position.id)
        self.a_as_left = group.crash(a)
        group.fail_over(before)
        log.deaf = False
        eventually(lambda: not group.server.look().heartbeats["a"].alive)
        group.wake()
        eventually(lambda: (look := group.server.look()).heartbeats["b"].run == look.run, "b reports to it")
        ops.promote(group.log(), "b", by="test", timeout_s=PATIENCE_S)
        submitted(b, push("next"))
        assert token == "1-4"
        return b, token

    def _is_lost_on(self, node: Node, token: str) -> PositionLost:
        with pytest.raises(PositionLost) as raised:
            node.wait(position=token, timeout_s=PATIENCE_S)
        return raised.value

    def test_a_token_that_a_failover_left_behind_is_told_with_where_the_term_ended(
        self, lost: tuple[Node, str]
    ) -> None:
        b, token = lost
        error = self._is_lost_on(b, token)
        assert str(error) == f"term 1 ended at 1-2; 1-4 was lost in the failover to term {ERA + 1}"
        assert error.term_end == RecordId(1, 2)
        assert self._is_lost_on(b, "1-3").term_end == RecordId(1, 2)
        b.wait(position="1-2", timeout_s=0)

    def test_also_on_a_node_that_was_built_from_a_snapshot(self, group: Group, lost: tuple[Node, str]) -> None:
        b, token = lost
        b.publish()
        b.publish()
        b.submit(push("after"))
        c = group.node("c")
        in_step(b, c)
        assert group.server.state.entries[0].id.n > 3, "the log does not tell it any more"
        assert str(self._is_lost_on(c, token)) == str(self._is_lost_on(b, token))
        c.wait(position="1-2", timeout_s=0)

    def test_also_on_a_node_that_was_restarted(self, group: Group, lost: tuple[Node, str]) -> None:
        b, token = lost
        told = str(self._is_lost_on(b, token))
        b.stop()
        log = group.log()
        log.down = "off"
        again = group.node("b", log=log)
        assert str(self._is_lost_on(again, token)) == told

    def test_also_on_the_node_that_had_it(self, group: Group, lost: tuple[Node, str]) -> None:
        b, token = lost
        a = group.node("a", data_dir=self.a_as_left, beat_every_s=BEAT_S)
        in_step(a, b)
        assert self._is_lost_on(a, token).term_end == RecordId(1, 2)

    def test_also_after_further_failovers(self, group: Group, lost: tuple[Node, str]) -> None:
        b, token = lost
        b.promote(timeout_s=PATIENCE_S)
        b.promote(timeout_s=PATIENCE_S)
        assert f"the failover to term {ERA + 1}" in str(self._is_lost_on(b, token))
        group.fail_over()
        b.wait(role="primary", position=f"{2 * ERA + 1}-1", timeout_s=PATIENCE_S)
        assert f"the failover to term {ERA + 1}" in str(self._is_lost_on(b, token))

    def test_who_waits_already_is_told_when_it_happens(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        waiting = in_thread(lambda: a.wait(position="1-5", timeout_s=2 * PATIENCE_S))
        a.submit(push("x"))
        a.promote(timeout_s=PATIENCE_S)
        with pytest.raises(PositionLost, match=r"term 1 ended at 1-2; 1-5 was lost in the failover to term 2"):
            waiting()

    def test_a_token_that_survived_by_a_rebase_is_not_lost(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        c = group.node("c", beat_every_s=BEAT_S)
        a.submit(push("x"))
        in_step(a, b, c)
        c.stop()
        before = group.server.state
        a.submit(push("y"))
        a.submit(push("z"))
        in_step(a, b)
        group.fail_over(before)
        a.wait(role="primary", position=f"{ERA + 1}-1", timeout_s=PATIENCE_S)
        c = group.node("c", beat_every_s=BEAT_S)
        in_step(a, b, c)
        d = group.node("d")
        in_step(a, d)
        for node in (a, b, c, d):
            node.wait(position="1-3", timeout_s=PATIENCE_S)
            node.wait(position="1-4", timeout_s=PATIENCE_S)
            assert self._is_lost_on(node, "1-5").term_end == RecordId(1, 4)

    def test_a_token_of_what_is_still_to_come_is_waited_for(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        for node, token in ((a, "1-2"), (b, "1-2"), (a, "2-2"), (b, f"{ERA}-1")):
            with pytest.raises(TimeoutError):
                node.wait(position=token, timeout_s=0.01)
        waiting = in_thread(lambda: b.wait(position="1-2", timeout_s=PATIENCE_S))
        a.submit(push("x"))
        waiting()

    def test_a_token_of_a_term_that_nobody_took_is_lost(self, group: Group) -> None:
        a = group.primary("a")
        promote(group.log(), "z", floor=6)
        a.wait(position="7-2", timeout_s=PATIENCE_S)
        assert "was lost in the failover to term 7" in str(self._is_lost_on(a, "3-40"))
