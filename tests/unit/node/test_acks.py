"""Waiting until a change has come as far as its submitter asked: what is waited for, how long, and who is asked."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from replicator import ChangeRejected, ConfigError, LogUnavailable, NotAcknowledged, RecordId, ops
from replicator.format.ids import ERA, ZERO_ID, Writer
from replicator.log.interface import Ack, Confirmation
from replicator.node import acks as module
from replicator.node.acks import Acks, Level
from replicator.protocol.group import Code, Reply
from replicator.protocol.heartbeat import EVERY_MS_MAX
from replicator.replica.replica import Replica
from replicator.runtime.gc_pause import HeldCollector
from replicator.testing import MemoryRedis
from tests.support.kv import (
    BEAT_S,
    LEASE_S,
    PATIENCE_S,
    SHORT_LEASE_S,
    FaultyLog,
    Group,
    eventually,
    in_step,
    in_thread,
    push,
    pushed,
)
from tests.support.worlds import promote

#: Nothing is to be waited for that long.
LONG_S = 3 * PATIENCE_S


class TestLevel:
    @pytest.mark.parametrize(
        ("text", "level"),
        [
            ("appended", Level("appended")),
            ("fsynced", Level("fsynced")),
            ("replicated:1", Level("replicated", 1)),
            ("applied:12", Level("applied", 12)),
            ("applied:999", Level("applied", 999)),
        ],
    )
    def test_a_level_is_parsed_and_shown(self, text: str, level: Level) -> None:
        assert Level.parse(text) == level
        assert str(level) == text

    @pytest.mark.parametrize(
        "text",
        ["", "all", "Appended", "appended:1", "fsynced:1", "applied", "replicated", "applied:", "applied:0",
         "applied:-1", "applied:1000", "applied:1.5", "applied:x", " applied:1", "applied:1:2"],
    )  # fmt: skip
    def test_what_is_none_is_refused_with_what_there_is(self, text: str) -> None:
        with pytest.raises(ConfigError, match="none of appended, fsynced, replicated:N, applied:N") as raised:
            Level.parse(text)
        assert raised.value.fields["setting"] == "ack"


class Heard(FaultyLog):
    """Answers confirmations as the test says, and counts them."""

    def __init__(self, server: MemoryRedis) -> None:
        super().__init__(server)
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[], Confirmation] = lambda: Confirmation(Reply(Code.OK), 9)

    def confirm(self, writer: Writer, term: int, lease_ms: int, **what: Any) -> Confirmation:
        self.asked.append({"writer": writer, "term": term, "lease_ms": lease_ms, **what})
        return self.answer()


class Waiter:
    """A primary in its term, and what waits for its record 1-2."""

    def __init__(self, group: Group) -> None:
        self.log = Heard(group.server)
        self.node = group.primary("a", log=self.log)
        self.node.submit(push("x"))
        self.node._running.replica.flush()  # its own disk counts as well, and would have it a moment later
        self.id = self.node.position.id
        self.acks: Acks = self.node._running.acks
        self.acks.is_live = lambda node: node != "unheard-of"

    @property
    def replica(self) -> Replica:
        return self.node._running.replica

    def wait(self, level: str, timeout_s: float = LONG_S, *, id_: RecordId | None = None) -> None:
        self.acks.wait(Level.parse(level), id_ or self.id, timeout_s)

    def hear(self, *names: str, at: RecordId | None = None) -> None:
        self.acks.hear(Ack(name, at or self.id) for name in names)

    def is_not_yet(self, level: str) -> None:
        """The wait is in vain as things are."""
        with pytest.raises(NotAcknowledged):
            self.wait(level, 0.0)


@pytest.fixture
def waiter(group: Group) -> Waiter:
    return Waiter(group)


class TestWhoLives:
    """Of a real group: the acks and heartbeats that somebody wrote by hand, and those of a standby."""

    def test_a_heartbeat_that_is_not_replaced_acknowledges_nothing(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        node_state = a._running.replica.node_state
        forged = node_state.heartbeat()._replace(node="z", boot="z1", role="standby", every_ms=EVERY_MS_MAX)
        a.submit(push("x"))
        log, to_come = group.log(), RecordId(a.position.id.term, a.position.id.n + 1)
        log.beat(forged._replace(synced=to_come))
        eventually(lambda: "z" in a._running.ha_loop.observer.look.heartbeats)
        log.ack(Ack("z", to_come))
        log.ack(Ack("y", to_come))
        with pytest.raises(NotAcknowledged, match="0 of 1"):
            a.submit(push("y"), ack="applied:1", timeout_s=3 * SHORT_LEASE_S)

    def test_a_standby_counts_once_it_has_reported_twice(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        group.node("b", beat_every_s=BEAT_S)
        a.submit(push("x"), ack="applied:1", timeout_s=PATIENCE_S)


def test_appended_waits_for_nothing_and_asks_nobody(waiter: Waiter) -> None:
    waiter.wait("appended", 0.0)
    assert waiter.log.asked == []


class TestStandbys:
    def test_as_many_as_were_asked_for_have_to_say_so(self, waiter: Waiter) -> None:
        waiter.is_not_yet("applied:1")
        waiter.hear("b")
        waiter.wait("applied:1", 0.0)
        waiter.is_not_yet("applied:2")
        waiter.hear("c")
        waiter.wait("applied:2", 0.0)

    def test_one_that_says_it_twice_is_one(self, waiter: Waiter) -> None:
        waiter.hear("b", "b")
        waiter.is_not_yet("applied:2")

    def test_the_node_itself_is_no_standby(self, waiter: Waiter) -> None:
        waiter.hear("a")
        waiter.is_not_yet("applied:1")

    def test_who_has_only_what_came_before_does_not_count(self, waiter: Waiter) -> None:
        waiter.hear("b", at=RecordId(1, 1))
        waiter.is_not_yet("applied:1")

    def test_who_has_what_came_after_has_it(self, waiter: Waiter) -> None:
        waiter.node.submit(push("y"))
        waiter.hear("b", at=waiter.node.position.id)
        waiter.wait("applied:1", 0.0)

    def test_who_has_it_before_its_writer_knows_that_it_is_in_the_log_has_it(self, waiter: Waiter) -> None:
        waiter.hear("b", at=RecordId(1, waiter.id.n + 1))
        waiter.wait("applied:1", 0.0)

    def test_who_claims_what_the_log_does_not_have_is_not_believed_then_nor_later(self, waiter: Waiter) -> None:
        waiter.hear("b", at=RecordId(1, waiter.id.n + 2))
        waiter.is_not_yet("applied:1")
        for value in range(5):
            waiter.node.submit(push(value))
        waiter.is_not_yet("applied:1")

    def test_a_name_that_no_live_node_has_does_not_count(self, waiter: Waiter) -> None:
        waiter.hear("unheard-of")
        waiter.is_not_yet("applied:1")

    @pytest.mark.parametrize("at", [RecordId(0, 99), RecordId(2, 99), RecordId(ERA + 1, 99)])
    def test_who_is_in_another_term_says_nothing_about_this_one(self, waiter: Waiter, at: RecordId) -> None:
        """G5: the history of another term may have gone on without it, whatever the number."""
        waiter.hear("b", at=at)
        waiter.is_not_yet("applied:1")

    def test_what_one_said_before_it_said_less_counts(self, waiter: Waiter) -> None:
        waiter.hear("b", at=waiter.id)
        waiter.hear("b", at=RecordId(1, 1))
        waiter.wait("applied:1", 0.0)

    def test_who_waits_goes_on_when_the_last_one_says_so(self, waiter: Waiter) -> None:
        waiting = in_thread(lambda: waiter.wait("applied:2"))
        waiter.hear("b")
        waiter.hear("c")
        waiting()

    def test_who_waits_goes_on_though_its_own_disk_was_synced_by_somebody_else(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # given acks of which only this test brings news, and a thread for the disk that has yet to begin
        a = group.primary("a")
        a.submit(push("x"))
        acks, id_ = Acks(group.log(), a._running.replica, a._setup.lease), a.position.id
        synced, syncs = [ZERO_ID], list[Callable[[], None]]()
        acks.is_live = lambda node: True
        monkeypatch.setattr(Replica, "synced_upto", property(lambda _: synced[0]))
        monkeypatch.setattr(module, "started", lambda work, **_: syncs.append(work))
        waiting = in_thread(lambda: acks.wait(Level.parse("applied:1"), id_, LONG_S))
        eventually(lambda: syncs)
        # when a standby has said so, and a regular save is the first
        acks.hear([Ack("b", id_)])
        synced[0] = id_
        syncs[0]()
        # then nobody waits for anything else
        waiting()

    def test_after_the_timeout_it_says_how_many_have_it(self, waiter: Waiter) -> None:
        waiter.hear("b")
        with pytest.raises(NotAcknowledged, match="1 of 2 standbys say that they have it on their disks") as raised:
            waiter.wait("applied:2", 0.01)
        assert raised.value.fields["id"] == waiter.id
        assert raised.value.exit_code == 4

    def test_once_the_term_is_over_nobody_waits_for_it_any_more(self, group: Group, waiter: Waiter) -> None:
        waiting = in_thread(lambda: waiter.wait("applied:1"))
        promote(group.log(), "z")
        with pytest.raises(NotAcknowledged):
            waiting()


class TestRedis:
    @pytest.mark.parametrize(
        ("level", "asked"),
        [
            ("replicated:2", {"replicas": 2, "fsynced": False}),
            ("fsynced", {"replicas": 0, "fsynced": True}),
        ],
    )
    def test_it_is_asked_for_what_the_level_says_behind_the_fence_of_the_term(
        self, waiter: Waiter, level: str, asked: dict[str, Any]
    ) -> None:
        waiter.wait(level, LONG_S)
        (call,) = waiter.log.asked
        assert LONG_S / 2 < call.pop("timeout_ms") / 1000 <= LONG_S
        assert call == {"writer": waiter.replica.node_state.me, "term": 1, "lease_ms": LEASE_S * 1000, **asked}

    @pytest.mark.parametrize(
        ("level", "have", "enough"),
        [
            ("replicated:2", 1, False),
            ("replicated:2", 2, True),
            ("replicated:1", 3, True),
            ("replicated:1", 0, False),
            ("fsynced", 0, False),
            ("fsynced", 1, True),
        ],
    )
    def test_as_many_as_were_asked_for_have_to_have_it(
        self, waiter: Waiter, level: str, have: int, enough: bool
    ) -> None:
        waiter.log.answer = lambda: Confirmation(Reply(Code.OK), have)
        if enough:
            waiter.wait(level, 0.0)
        else:
            waiter.is_not_yet(level)

    def test_what_it_said_of_later_ones_holds_for_earlier_ones(self, waiter: Waiter) -> None:
        for i in range(5):
            waiter.node.submit(push(i))
        waiter.wait("replicated:1", id_=RecordId(1, 4))
        for n in range(2, 8):
            waiter.wait("replicated:1", id_=RecordId(1, n))
        assert len(waiter.log.asked) == 1

    def test_what_it_said_says_nothing_of_those_that_came_after_it_was_asked(self, waiter: Waiter) -> None:
        def answer() -> Confirmation:
            waiter.node.submit(push("meanwhile"))
            return Confirmation(Reply(Code.OK), 1)

        waiter.log.answer = answer
        waiter.wait("replicated:1")
        waiter.wait("replicated:1", id_=RecordId(1, 3))
        assert len(waiter.log.asked) == 2

    def test_each_level_is_asked_for_by_itself(self, waiter: Waiter) -> None:
        for level in ("replicated:1", "replicated:2", "fsynced"):
            waiter.wait(level)
        assert len(waiter.log.asked) == 3

    def test_what_it_said_in_an_earlier_term_says_nothing_of_this_one(self, waiter: Waiter) -> None:
        waiter.wait("replicated:1")
        waiter.node.promote(timeout_s=PATIENCE_S)
        waiter.node.submit(push("y"))
        waiter.wait("replicated:1", id_=waiter.node.position.id)
        assert [call["term"] for call in waiter.log.asked] == [1, 2]

    def test_what_it_said_in_a_later_term_says_nothing_of_an_earlier_one(self, waiter: Waiter) -> None:
        """The history of that one may lack what is waited for."""
        waiter.node.promote(timeout_s=PATIENCE_S)
        waiter.node.submit(push("y"))
        waiter.wait("replicated:1", id_=waiter.node.position.id)
        waiter.log.answer = lambda: Confirmation(Reply(Code.FENCED, term=2), 0)
        waiter.is_not_yet("replicated:1")
        assert [call["term"] for call in waiter.log.asked] == [2, 1]

    def test_one_confirmation_serves_all_who_wait(self, waiter: Waiter) -> None:
        for i in range(20):
            waiter.node.submit(push(i))
        asking, go_on = threading.Event(), threading.Event()

        def answer() -> Confirmation:
            asking.set()
            assert go_on.wait(PATIENCE_S)
            return Confirmation(Reply(Code.OK), 1)

        waiter.log.answer = answer
        waiting = [in_thread(lambda: waiter.wait("replicated:1"))]
        assert asking.wait(PATIENCE_S)
        waiting += [in_thread(lambda n=n: waiter.wait("replicated:1", id_=RecordId(1, n))) for n in range(3, 23)]
        go_on.set()
        for done in waiting:
            done()
        assert len(waiter.log.asked) == 1

    def test_a_redis_that_does_not_answer_is_asked_again(self, waiter: Waiter) -> None:
        failures = iter([LogUnavailable(url="r", problem="cut off")] * 2)

        def answer() -> Confirmation:
            for failure in failures:
                raise failure
            return Confirmation(Reply(Code.OK), 1)

        waiter.log.answer = answer
        waiter.wait("replicated:1")
        assert len(waiter.log.asked) == 3

    def test_too_few_replicas_are_waited_for(self, waiter: Waiter) -> None:
        have = iter([0, 0, 1])
        waiter.log.answer = lambda: Confirmation(Reply(Code.OK), next(have))
        waiter.wait("replicated:1")
        assert len(waiter.log.asked) == 3

    @pytest.mark.parametrize(
        ("level", "answer", "problem"),
        [
            ("replicated:2", Confirmation(Reply(Code.OK), 1), "1 of 2 replicas have it"),
            ("fsynced", Confirmation(Reply(Code.OK), 0), "it is not on the disk of Redis yet"),
            ("fsynced", LogUnavailable(url="r", problem="cut off"), "cut off"),
        ],
    )
    def test_after_the_timeout_it_says_what_was_missing(
        self, waiter: Waiter, level: str, answer: Any, problem: str
    ) -> None:
        def answered() -> Confirmation:
            if isinstance(answer, Exception):
                raise answer
            return answer

        waiter.log.answer = answered
        with pytest.raises(NotAcknowledged, match=problem):
            waiter.wait(level, 0.01)

    @pytest.mark.parametrize("code", [Code.FENCED, Code.NEW_RUN, Code.LOST])
    def test_a_term_that_is_over_is_told_at_once(self, waiter: Waiter, code: Code) -> None:
        waiter.log.answer = lambda: Confirmation(Reply(code, term=2, node="b"))
        with pytest.raises(NotAcknowledged, match=f"the term ended meanwhile .{code.value}."):
            waiter.wait("replicated:1")
        assert len(waiter.log.asked) == 1

    def test_a_server_that_cannot_is_told_at_once(self, waiter: Waiter) -> None:
        def answer() -> Confirmation:
            raise ConfigError(setting="ack", problem="it needs Redis 7.2")

        waiter.log.answer = answer
        with pytest.raises(NotAcknowledged, match=r"it needs Redis 7\.2"):
            waiter.wait("fsynced")

    def test_who_waits_behind_another_is_not_kept_beyond_its_own_time(self, waiter: Waiter) -> None:
        asking, go_on = threading.Event(), threading.Event()

        def answer() -> Confirmation:
            asking.set()
            assert go_on.wait(PATIENCE_S)
            return Confirmation(Reply(Code.OK), 1)

        waiter.log.answer = answer
        first = in_thread(lambda: waiter.wait("replicated:1"))
        assert asking.wait(PATIENCE_S)
        with pytest.raises(NotAcknowledged, match="still asked"):
            waiter.wait("replicated:1", 0.01)
        go_on.set()
        first()

    def test_after_one_failed_the_next_one_asks_for_itself(self, waiter: Waiter) -> None:
        waiter.log.answer = lambda: Confirmation(Reply(Code.OK), 0)
        waiter.is_not_yet("replicated:1")
        waiter.log.answer = lambda: Confirmation(Reply(Code.OK), 1)
        waiter.wait("replicated:1", 0.0)


def test_the_time_that_a_confirmation_may_take_ends_with_the_wait(waiter: Waiter) -> None:
    waiter.log.answer = lambda: Confirmation(Reply(Code.OK), len(waiter.log.asked) - 1)
    waiter.wait("replicated:1", PATIENCE_S)
    first, second = (call["timeout_ms"] for call in waiter.log.asked)
    assert 0 <= second <= first <= PATIENCE_S * 1000


class TestTasks:
    """What tasks wait for costs no thread, and keeps nobody else waiting."""

    async def all_of(self, *waits: Any) -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), PATIENCE_S)

    async def waiting(self, waiter: Waiter, level: str, count: int, timeout_s: float = LONG_S) -> list[Any]:
        """So many tasks that wait, and have begun to."""
        waits = [
            asyncio.ensure_future(waiter.acks.awaited(Level.parse(level), waiter.id, timeout_s)) for _ in range(count)
        ]
        await asyncio.sleep(0)
        return waits

    def test_those_that_wait_for_what_does_not_come_hold_up_nobody_and_are_no_threads(self, waiter: Waiter) -> None:
        async def others() -> list[Any]:
            before = set(threading.enumerate())
            in_vain = await self.waiting(waiter, "applied:5", 300)
            (good,) = await self.waiting(waiter, "applied:1", 1)
            short = await self.waiting(waiter, "applied:2", 20, 0.05)
            assert len(set(threading.enumerate()) - before) <= 1, "one syncs the own disk, for all of them"
            waiter.hear("b")
            outcomes = await self.all_of(good, *short)
            assert not any(wait.done() for wait in in_vain)
            for wait in in_vain:
                wait.cancel()
            await asyncio.gather(*in_vain, return_exceptions=True)
            return outcomes

        good, *short = asyncio.run(others())
        assert good is None
        assert {str(error).rpartition(": ")[2] for error in short} == {
            "1 of 2 standbys say that they have it on their disks"
        }
        assert waiter.acks._waiting == {} or not any(map(len, waiter.acks._waiting.values())), "who left is forgotten"

    def test_the_application_has_the_threads_of_its_loop_for_itself(self, waiter: Waiter) -> None:
        class Refusing(ThreadPoolExecutor):
            def submit(self, *args: Any, **kwargs: Any) -> Any:
                raise AssertionError("the default executor is the application's")

        async def write() -> None:
            asyncio.get_running_loop().set_default_executor(Refusing(1))
            waiter.log.answer = lambda: Confirmation(Reply(Code.OK), 1)
            for ack in ("appended", "fsynced", "replicated:1"):
                await waiter.node.asubmit(push(ack), ack=ack)
            with pytest.raises((NotAcknowledged, LogUnavailable)):  # as far as it comes in that time
                await waiter.node.asubmit(push("applied"), ack="applied:1", timeout_s=0.05)
            await waiter.node.asubmit_many([push("many")], ack="fsynced")

        asyncio.run(write())

    def test_each_hears_when_its_own_record_is_there(self, waiter: Waiter) -> None:
        for i in range(5):
            waiter.node.submit(push(i))

        async def waits() -> list[bool]:
            level = Level.parse("applied:1")
            waits = [
                asyncio.ensure_future(waiter.acks.awaited(level, RecordId(1, n), LONG_S)) for n in (7, 3, 5, 4, 6, 2)
            ]
            await asyncio.sleep(0)
            waiter.hear("b", at=RecordId(1, 4))
            await self.all_of(waits[1], waits[3], waits[5])
            done = [wait.done() for wait in waits]
            waiter.hear("c", at=RecordId(1, 7))
            await self.all_of(*waits)
            return done

        assert asyncio.run(waits()) == [False, True, False, True, False, True]

    def test_once_the_term_is_over_all_hear_of_it(self, group: Group, waiter: Waiter) -> None:
        async def waits() -> list[Any]:
            waits = await self.waiting(waiter, "applied:1", 10)
            promote(group.log(), "z")
            return await self.all_of(*waits)

        assert [type(error) for error in asyncio.run(waits())] == [NotAcknowledged] * 10

    def test_a_loop_that_was_closed_under_its_tasks_keeps_nobody_from_hearing(self, waiter: Waiter) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(waiter.acks.awaited(Level.parse("applied:1"), waiter.id, LONG_S))
        loop.run_until_complete(asyncio.sleep(0))
        sleeping = in_thread(lambda: waiter.wait("applied:1"))
        eventually(lambda: len(waiter.acks._waiting[1]) == 2)
        loop.close()
        waiter.hear("b")
        sleeping()
        assert not task.done()
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    def test_threads_and_tasks_hear_side_by_side(self, waiter: Waiter) -> None:
        sleeping = [in_thread(lambda: waiter.wait("applied:1")) for _ in range(10)]

        async def waits() -> list[Any]:
            waits = await self.waiting(waiter, "applied:1", 10)
            waiter.hear("b")
            return await self.all_of(*waits)

        assert asyncio.run(waits()) == [None] * 10
        for done in sleeping:
            done()

    @pytest.mark.parametrize("level", ["fsynced", "replicated:1"])
    def test_one_thread_asks_redis_for_all_of_them_and_ends(self, waiter: Waiter, level: str) -> None:
        asked_by: set[threading.Thread] = set()
        all_wait = threading.Event()

        def answer() -> Confirmation:
            asked_by.add(threading.current_thread())
            assert all_wait.wait(PATIENCE_S)
            return Confirmation(Reply(Code.OK), 1)

        async def waits() -> list[Any]:
            before = set(threading.enumerate())
            waits = await self.waiting(waiter, level, 200)
            assert len(set(threading.enumerate()) - before) == 1
            all_wait.set()
            return await self.all_of(*waits)

        waiter.log.answer = answer
        assert asyncio.run(waits()) == [None] * 200
        assert len(waiter.log.asked) <= 2
        (asker,) = asked_by
        asker.join(PATIENCE_S)
        assert not asker.is_alive()
        asyncio.run(self.all_of(waiter.acks.awaited(Level.parse(level), waiter.id, 0.0)))

    def test_more_replicas_than_there_are_keep_nobody_waiting_who_asked_for_fewer(self, waiter: Waiter) -> None:
        def answer() -> Confirmation:
            call = waiter.log.asked[-1]
            if call["fsynced"] or call["replicas"] == 1:
                return Confirmation(Reply(Code.OK), 1)
            assert call["timeout_ms"] <= 1000
            time.sleep(0.01)
            return Confirmation(Reply(Code.OK), 1)

        async def waits() -> tuple[list[Any], list[Any]]:
            in_vain = await self.waiting(waiter, "replicated:5", 100, 1.0)
            good = [*await self.waiting(waiter, "replicated:1", 1), *await self.waiting(waiter, "fsynced", 1)]
            return await self.all_of(*good), await self.all_of(*in_vain)

        def told() -> set[str]:
            good, in_vain = asyncio.run(waits())
            assert good == [None, None]
            return {str(error).rpartition(": ")[2] for error in in_vain}

        waiter.log.answer = answer
        # On a busy machine their time may be over before anybody has asked.
        eventually(lambda: told() == {"1 of 5 replicas have it"})

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (Confirmation(Reply(Code.FENCED, term=2, node="b")), "the term ended meanwhile .fenced."),
            (ConfigError(setting="ack", problem="it needs Redis 7.2"), r"it needs Redis 7\.2"),
        ],
    )
    def test_what_cannot_come_any_more_is_told_at_once(self, waiter: Waiter, answer: Any, problem: str) -> None:
        def answered() -> Confirmation:
            if isinstance(answer, Exception):
                raise answer
            return answer

        waiter.log.answer = answered
        with pytest.raises(NotAcknowledged, match=problem):
            asyncio.run(asyncio.wait_for(waiter.acks.awaited(Level.parse("fsynced"), waiter.id, LONG_S), PATIENCE_S))

    def test_a_redis_that_does_not_answer_is_asked_again_and_named_in_the_end(self, waiter: Waiter) -> None:
        failures: Iterator[LogUnavailable] = iter([LogUnavailable(url="r", problem="cut off")] * 2)

        def answer() -> Confirmation:
            for failure in failures:
                raise failure
            return Confirmation(Reply(Code.OK), 1)

        waiter.log.answer = answer
        asyncio.run(waiter.acks.awaited(Level.parse("fsynced"), waiter.id, LONG_S))
        assert len(waiter.log.asked) == 3
        failures = itertools.repeat(LogUnavailable(url="r", problem="cut off"))
        waiter.node.submit(push("y"))

        def told() -> str:
            with pytest.raises(NotAcknowledged) as raised:
                asyncio.run(waiter.acks.awaited(Level.parse("fsynced"), waiter.node.position.id, 0.3))
            return str(raised.value)

        eventually(lambda: "cut off" in told())  # if it was asked in that time

    def test_one_that_waits_behind_a_question_is_not_kept_beyond_its_own_time(self, waiter: Waiter) -> None:
        go_on = threading.Event()

        def answer() -> Confirmation:
            assert go_on.wait(PATIENCE_S)
            return Confirmation(Reply(Code.OK), 1)

        async def waits() -> list[Any]:
            long = await self.waiting(waiter, "fsynced", 1)
            short = await self.waiting(waiter, "fsynced", 5, 0.05)
            outcomes = await self.all_of(*short)
            go_on.set()
            return [*outcomes, *await self.all_of(*long)]

        waiter.log.answer = answer
        *short, long = asyncio.run(waits())
        assert {str(error).rpartition(": ")[2] for error in short} == {
            "Redis is still asked about earlier changes (fsynced)"
        }
        assert long is None


class TestNodes:
    def test_a_write_waits_until_a_standby_has_it_on_its_disk(self, group: Group) -> None:
        a, b = group.primary("a", ack="applied:1", lease_s=60.0), group.node("b", lease_s=60.0)
        for i in range(10):
            a.submit(push(i))
            saved = b._running.checkpoint.load()
            assert saved is not None
            assert saved.view.position.id.n >= i + 2
        assert pushed(b) == list(range(10))

    def test_each_write_may_wait_for_something_else(self, group: Group) -> None:
        a = group.primary("a", ack="applied:1", lease_s=60.0)
        assert a.submit(push("x"), ack="appended") == 1
        with pytest.raises(NotAcknowledged):
            a.submit(push("y"), timeout_s=0.2)
        with pytest.raises(NotAcknowledged):
            a.submit(push("z"), timeout_s=0.2, ack="replicated:1")
        with pytest.raises(ConfigError):
            a.submit(push("nothing"), ack="perhaps")
        assert pushed(a) == ["x", "y", "z"], "it is in the log, and applied"

    def test_a_replaced_state_waits_for_what_it_says_or_for_what_the_node_was_given(self, group: Group) -> None:
        a = group.primary("a", ack="applied:1", lease_s=60.0)
        a.replace([["pushed", ["x"]]], ack="appended")
        for ack in (None, "applied:1", "replicated:1"):
            with pytest.raises(NotAcknowledged):
                a.replace([["pushed", [ack]]], timeout_s=0.1, ack=ack)
            assert pushed(a) == [ack], "it is in the log, and applied"
        before = a.position
        with pytest.raises(ConfigError):
            a.replace([["pushed", []]], ack="perhaps")
        assert a.position == before

    def test_the_collector_is_held_while_a_state_is_sent_and_not_while_it_is_acknowledged(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # given
        a = group.primary("a", lease_s=60.0)
        on: list[bool] = []

        def pieces(ready: str, maker: HeldCollector) -> Iterator[Any]:
            yield ["pushed", [ready]]
            maker.release()

        replaced = a._running.primary.publisher._replace
        monkeypatch.setattr(
            a._running.primary.publisher, "_replace", lambda *args: (on.append(gc.isenabled()), replaced(*args))[1]
        )
        monkeypatch.setattr(a._running.acks, "wait", lambda *_: on.append(gc.isenabled()))
        # when
        with HeldCollector(freezes=False) as maker:
            maker.hold()
            a.replace(pieces("x", maker), ack="applied:1")
            assert on == [False, True]
        a.replace([["pushed", ["y"]]], ack="applied:1")
        # then
        assert on[2:] == [True, True], "nobody held it, and it is little"
        assert pushed(a) == ["y"]

    def test_a_replaced_state_is_acknowledged_once_a_standby_has_it_on_its_disk(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=60.0), group.node("b", lease_s=60.0)
        for i in range(5):
            a.replace([["pushed", [i]], *(["data", str(key), "y" * 500] for key in range(600))], ack="applied:1")
            saved = b._running.checkpoint.load()
            assert saved is not None
            assert saved.view.position == a.position
            # It applies a moment after it has it on its disk.
            in_step(a, b)
            assert pushed(b) == [i]

    def test_what_is_not_acknowledged_may_still_come_to_all(self, group: Group) -> None:
        a, log = group.primary("a", beat_every_s=BEAT_S), group.log()
        b = group.node("b", log=log, beat_every_s=BEAT_S)
        in_step(a, b)
        log.down = "cut off"
        eventually(lambda: "cut off" in b.problem)
        with pytest.raises(NotAcknowledged, match="0 of 1 standby"):
            a.submit(push("x"), ack="applied:1", timeout_s=0.1)
        log.down = ""
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x"]

    def test_heartbeats_count_as_well(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a, log = group.primary("a", beat_every_s=BEAT_S), group.log()
        monkeypatch.setattr(log, "ack", lambda ack: None)
        group.node("b", log=log, beat_every_s=BEAT_S)
        a.submit(push("x"), ack="applied:1", timeout_s=PATIENCE_S)

    def test_the_heartbeat_of_a_node_out_of_sync_does_not_count(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        a.submit(push("x"))
        beat = group.server.look().heartbeats["a"]._replace(node="b", boot="b-1", in_sync=False, every_ms=60_000)
        group.server.beat(beat._replace(position=a.position, synced=a.position.id))
        beats = a._running.replica.node_state.beats_in_run
        eventually(lambda: a._running.replica.node_state.beats_in_run > beats + 2)
        with pytest.raises(NotAcknowledged):
            a._running.acks.wait(Level.parse("applied:1"), a.position.id, 0.0)
        group.server.beat(beat._replace(position=a.position, in_sync=True))
        eventually(lambda: a._running.replica.node_state.beats_in_run > beats + 5)
        with pytest.raises(NotAcknowledged):  # in its memory, and not on its disk yet
            a._running.acks.wait(Level.parse("applied:1"), a.position.id, 0.0)
        group.server.beat(beat._replace(position=a.position, synced=a.position.id, in_sync=True))
        eventually(lambda: a._running.replica.node_state.beats_in_run > beats + 8)
        a._running.acks.wait(Level.parse("applied:1"), a.position.id, 0.0)

    def test_a_standby_that_stalls_has_not_applied_it(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)

        def fail(change: Any) -> None:
            raise ZeroDivisionError

        b._setup.state.in_apply = fail
        with pytest.raises(NotAcknowledged):
            a.submit(push("x"), ack="applied:1", timeout_s=0.3)
        eventually(lambda: b.stalled)
        with pytest.raises(NotAcknowledged):
            a._running.acks.wait(Level.parse("applied:1"), a.position.id, 0.0)

    def test_nobody_is_asked_to_say_so_where_nobody_waits(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)
        assert group.server.state.acks == ()
        a.submit(push("y"), ack="applied:1", timeout_s=PATIENCE_S)
        assert group.server.state.acks == (Ack("b", RecordId(1, 3)),)

    def test_many_writers_are_all_acknowledged(self, group: Group) -> None:
        a, _, _ = group.primary("a", ack="applied:2"), group.node("b"), group.node("c")
        for done in [in_thread(lambda t=t: [a.submit(push([t, i])) for i in range(10)]) for t in range(8)]:
            done()
        acknowledged = [ack for ack in group.server.state.acks if ack.at >= a.position.id]
        assert {ack.node for ack in acknowledged} == {"b", "c"}

    def test_a_write_of_a_primary_that_is_replaced_meanwhile_is_not_acknowledged(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        waiting = in_thread(lambda: a.submit(push("x"), ack="applied:1", timeout_s=LONG_S))
        eventually(lambda: a.position.id.n == 2)
        promote(group.log(), "z", lease_ms=60_000)
        with pytest.raises(NotAcknowledged):
            waiting()

    def test_a_rejected_change_is_the_answer_and_no_acknowledgement_is_waited_for(self, group: Group) -> None:
        a = group.primary("a", ack="applied:1", lease_s=60.0)
        with pytest.raises(ChangeRejected):
            a.submit({"reject": "not that one"}, timeout_s=LONG_S)

    def test_a_redis_that_vouches_acknowledges(self, group: Group) -> None:
        a = group.primary("a", ack="replicated:2", lease_s=60.0)
        group.server.replicas = 2
        a.submit(push("x"))
        with pytest.raises(NotAcknowledged, match="not on the disk"):
            a.submit(push("y"), ack="fsynced", timeout_s=0.05)
        group.server.fsyncs = True
        a.submit(push("z"), ack="fsynced")
        assert ops.status(group.log()).holder == "a"


def test_waiting_takes_no_longer_than_it_may(waiter: Waiter) -> None:
    waiter.log.answer = lambda: Confirmation(Reply(Code.OK), 0)
    started = time.monotonic()
    waiter.is_not_yet("replicated:1")
    waiter.is_not_yet("applied:1")
    assert time.monotonic() - started < LONG_S / 2


def test_a_disk_of_the_primary_that_hangs_keeps_no_thread_past_its_time(group: Group) -> None:
    # given a primary whose own disk takes long, and a standby that has everything
    a, b = group.primary("a"), group.node("b")
    a.submit(push("x"))
    in_step(a, b)
    go_on, flush = threading.Event(), a._running.replica.flush
    a._running.replica.flush = lambda: go_on.wait(PATIENCE_S) and flush()  # type: ignore[method-assign,assignment]
    # when a change waits for the standby's disk, and so for its own
    try:
        done = in_thread(lambda: a.submit(push("y"), ack="applied:1", timeout_s=0.2))
        with pytest.raises(NotAcknowledged, match="the primary's own disk does not have it yet"):
            done()
        assert not go_on.is_set()
    finally:
        go_on.set()
