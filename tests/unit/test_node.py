"""A node through its life, over a log in memory: what it promises to the application that embeds it."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

import replicator.node.commit_queue
import replicator.node.ha_loop
import replicator.node.publisher
from replicator import (
    ChangeRejected,
    ChangeTooLarge,
    CheckpointError,
    ConfigError,
    CorruptRecord,
    Fenced,
    LeaseLost,
    LogLost,
    LogUnavailable,
    Node,
    NotJSON,
    NotPrimary,
    NotRunning,
    OutcomeUnknown,
    Outdated,
    PositionLost,
    PromotionRefused,
    RecordId,
    ReplicatorError,
    Stalled,
    ops,
)
from replicator.format.ids import ERA, ORIGIN, Writer
from replicator.format.records import PartRecord
from replicator.log.interface import Batch
from replicator.node.consumer import PARTS_AT_ONCE, RECORDS_AT_ONCE
from replicator.node.health import Lag
from replicator.node.identity import Name
from replicator.protocol import election, snapshot_policy
from replicator.protocol.group import Claim, Code, GroupView, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.storage.checkpoint import Checkpoint
from replicator.testing import MemoryLog
from tests.integration.worlds import Author, lead, promote
from tests.kv import (
    KV,
    LEASE_S,
    PATIENCE_S,
    SHORT_LEASE_S,
    FaultyLog,
    Group,
    after_beats,
    document,
    eventually,
    fork_of,
    forks,
    in_step,
    in_thread,
    push,
    pushed,
    put,
    submitted,
)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


def replace_holder(group: Group, name: str = "b") -> int:
    """Somebody else, of whom there is no process here, takes the next term."""
    look = group.server.look()
    claim = Claim(writer=Writer(name, "boot"), floor=0, lease_ms=60_000, by="test", reason="")
    reply = group.log().promote(claim)
    assert reply.term == look.term + 1
    return reply.term


def large(n: int = 40) -> dict[str, Any]:
    """`put`s of 16 KiB each that do not compress."""
    rng = random.Random(n)
    return {f"k{i}": rng.randbytes(12 * 1024).hex() for i in range(n)}


def failing_disk(monkeypatch: pytest.MonkeyPatch, node: Node) -> threading.Event:
    """From now on the disk is full, until the event is set."""
    mended = threading.Event()
    save = node._checkpoint.save

    def refuse(*args: Any, **options: Any) -> None:
        if not mended.is_set():
            raise CheckpointError(path=node.data_dir, problem=errno.errorcode[errno.ENOSPC])
        save(*args, **options)

    monkeypatch.setattr(node._checkpoint, "save", refuse)
    return mended


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "setting"),
        [
            ({"name": ""}, "name"),
            ({"name": "a b"}, "name"),
            ({"name": "{a}"}, "name"),
            ({"name": "a\tb"}, "name"),
            ({"name": 7}, "name"),
            ({"group": "a/b"}, "group"),
            ({"data_dir": ""}, "data_dir"),
            ({"data_dir": "a\0b"}, "data_dir"),
            ({"data_dir": None}, "data_dir"),
            ({"http": "http://0.0.0.0:8000"}, "http"),
            ({"http": "nonsense"}, "http"),
            ({"ack": None}, "ack"),
            ({"lease_s": "5"}, "lease_s"),
            ({"lease_s": True}, "lease_s"),
            ({"lease_s": float("inf")}, "lease_s"),
            ({"lease_s": float("nan")}, "lease_s"),
            ({"lease_s": 1e12}, "lease_s"),
            ({"beat_every_s": 0}, "beat_every_s"),
            ({"beat_every_s": float("nan")}, "beat_every_s"),
            ({"beat_every_s": 3.0}, "beat_every_s"),
            ({"auto_promote": "no"}, "auto_promote"),
            ({"auto_promote": 1}, "auto_promote"),
            ({"on_restart": None}, "on_restart"),
            ({"redis": None, "log": None}, "redis"),
            ({"lease_s": 0.0}, "lease_s"),
            ({"on_restart": "perhaps"}, "on_restart"),
            ({"on_log_lost": "ignore"}, "on_log_lost"),
            ({"snapshot_bytes_max": 0}, "snapshot_bytes_max"),
            ({"redis": "redis://localhost"}, "redis"),
            ({"log": None}, "redis"),
            ({"log": None, "redis": "http://localhost"}, "redis"),
            ({"log": None, "redis": "redis://localhost", "group": "{g}"}, "group"),
        ],
    )
    def test_a_setting_that_makes_no_sense_is_named(
        self, group: Group, tmp_path: Path, options: dict[str, Any], setting: str
    ) -> None:
        settings = {"group": "g", "name": "a", "data_dir": tmp_path / "a", "log": group.log()} | options
        with pytest.raises(ConfigError) as raised:
            Node(KV(), **settings)
        assert raised.value.fields["setting"] == setting


class TestOutsideOfItsLife:
    """Before `start` and after `stop`: facts are facts, and what needs a node that runs says so."""

    CALLS: ClassVar[dict[str, Callable[[Node], Any]]] = {
        "submit": lambda node: node.submit(push("x")),
        "submit_many": lambda node: node.submit_many([push("x")]),
        "asubmit": lambda node: asyncio.run(node.asubmit(push("x"))),
        "asubmit_many": lambda node: asyncio.run(node.asubmit_many([push("x")])),
        "replace": lambda node: node.replace([["pushed", []]]),
        "publish": lambda node: node.publish(),
        "promote": lambda node: node.promote(),
        "wait": lambda node: node.wait(role="standby"),
    }

    def test_before_its_start_a_node_is_a_standby_that_has_nothing(self, group: Group) -> None:
        a = group.new_node("a")
        assert (a.role, a.boot, a.term, a.position, a.in_sync) == ("standby", "", 0, ORIGIN, False)
        assert (a.lag, a.lease_ms, a.rejected, a.primary_http) == (Lag(None, None), None, 0, None)
        assert (a.problem, a.stalled, a.failed) == ("not started", None, None)

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    def test_before_its_start_a_call_says_what_to_do(self, group: Group, call: Callable[[Node], Any]) -> None:
        with pytest.raises(NotRunning, match=r"^a was not started: call start\(\)"):
            call(group.new_node("a"))

    def test_before_its_start_it_has_no_state_to_read(self, group: Group) -> None:
        with pytest.raises(NotRunning, match="was not started"), group.new_node("a").reading():
            pass

    def test_what_others_are_told_may_be_said_before_its_start(self, group: Group) -> None:
        a = group.new_node("a")
        a.announce("http://a")
        a.start()
        eventually(lambda: group.server.look().heartbeats["a"].http == "http://a")

    def test_a_node_whose_start_failed_was_not_started(self, group: Group) -> None:
        first = group.node("a")
        second = group.new_node("a", data_dir=first.data_dir)
        with pytest.raises(CheckpointError):
            second.start()
        assert (second.problem, second.role) == ("not started", "standby")
        first.stop()
        second.start()
        assert second.problem == ""

    def test_a_node_that_was_stopped_says_so(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.stop()
        assert (a.role, a.term, str(a.position.id), a.lease_ms, a.problem) == ("standby", 1, "1-2", None, "stopped")
        assert pushed(a) == ["x"]

    @pytest.mark.parametrize("call", [*CALLS.values(), Node.start], ids=[*CALLS, "start"])
    def test_after_its_end_a_call_says_what_to_do(self, group: Group, call: Callable[[Node], Any]) -> None:
        a = group.primary("a")
        a.stop()
        with pytest.raises(NotRunning, match="a was stopped: make another one"):
            call(a)

    def test_one_that_never_started_can_be_stopped_and_is_not_started_then(self, group: Group) -> None:
        a = group.new_node("a")
        a.stop()
        assert a.problem == "not started"
        with pytest.raises(NotRunning, match="was stopped"):
            a.start()


class TestPromotion:
    def test_a_new_node_is_a_standby_that_knows_no_term(self, group: Group) -> None:
        a = group.node("a")
        assert (a.role, a.term, str(a.position.id), a.in_sync, a.lease_ms) == ("standby", 0, "0-0", True, None)
        with pytest.raises(NotPrimary, match="replicator promote"):
            a.submit(put("x", 1))

    def test_the_first_promotion_founds_the_log_and_the_node_leads(self, group: Group) -> None:
        a = group.node("a")
        assert a.promote() == 1
        assert (a.role, a.term, str(a.position.id)) == ("primary", 1, "1-1")
        assert a.submit(put("x", 1)) is None
        assert str(a.position.id) == "1-2"

    def test_the_old_primary_follows_the_new_one(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(put("x", 1))
        assert b.promote() == 2
        b.submit(put("x", 2))
        a.wait(role="standby", position=str(b.position.id), timeout_s=PATIENCE_S)
        assert document(a) == document(b)
        with pytest.raises(NotPrimary) as raised:
            a.submit(put("x", 3))
        assert raised.value.primary == "b"

    def test_a_leader_that_is_promoted_leads_in_the_new_term_when_promote_returns(self, group: Group) -> None:
        a = group.primary("a")
        assert a.promote() == 2
        assert (a.role, a.term) == ("primary", 2)
        a.submit(put("x", 1))
        assert str(a.position.id) == "2-3"

    def test_a_candidate_that_claims_a_term_by_itself_at_that_moment_is_promoted(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a = group.node("a")
        take_term = a._ha_loop.take_term

        def second(reason: str, look: GroupView, *, until: float, guarded: bool = False) -> Reply:
            lead(a._log, "a", boot=a.boot)
            return take_term(reason, look, until=until, guarded=guarded)

        monkeypatch.setattr(a._ha_loop, "take_term", second)
        assert a.promote() == 1
        assert (a.role, a.term) == ("primary", 1)

    def test_the_new_primary_has_read_everything_before_it_leads(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        for i in range(100):
            a.submit(push(i))
        b.promote()
        assert pushed(b) == list(range(100))

    def test_the_primary_of_the_others_is_known_by_its_url(self, group: Group) -> None:
        a = group.primary("a", http="http://a", lease_s=SHORT_LEASE_S)
        b = group.node("b", lease_s=SHORT_LEASE_S)
        assert a.primary_http == "http://a"
        eventually(lambda: b.primary_http == "http://a")
        a.announce("http://elsewhere")
        eventually(lambda: b.primary_http == "http://elsewhere")
        a.stop()
        eventually(lambda: b.primary_http is None)


class TestWriting:
    def test_a_change_is_in_the_log_before_it_is_in_the_state(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        seen: list[Any] = []

        def look(record: Any) -> Reply:
            seen.append(pushed(a))
            return log.execute(record)

        log.faults.append(look)
        a.submit(push("x"))
        assert seen == [[]]
        assert pushed(a) == ["x"]

    def test_the_state_of_a_fenced_primary_does_not_move(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        a.submit(push("kept"))

        def too_late(record: Any) -> Reply:
            replace_holder(group)
            return log.execute(record)

        log.faults.append(too_late)
        with pytest.raises(Fenced) as raised:
            a.submit(push("refused"))
        assert (raised.value.term, raised.value.current_term, raised.value.primary) == (1, 2, "b")
        a.wait(role="standby", position="2-3", timeout_s=PATIENCE_S)
        assert pushed(a) == ["kept"]
        assert a.problem == ""
        assert a.in_sync

    def test_a_rejected_change_is_the_error_of_its_submitter_alone(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")
        outcomes = self._in_one_batch(a, log, [push("x"), {"reject": "not that one"}, push("y")])
        assert isinstance(outcomes[1], ChangeRejected)
        assert str(outcomes[1]) == "not that one"
        assert [outcomes[0], outcomes[2]] == [1, 2]
        in_step(a, b)
        assert pushed(b) == ["x", "y"]
        assert str(b.position.id) == "1-3"

    def _in_one_batch(self, node: Node, log: FaultyLog, changes: list[Any]) -> list[Any]:
        """Submit while a first write is under way, so that they share a record; results and errors, in order."""
        under_way, go_on = threading.Event(), threading.Event()

        def wait(record: Any) -> Reply:
            under_way.set()
            assert go_on.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.append(wait)
        marker = in_thread(node._primary.commits.mark)
        assert under_way.wait(PATIENCE_S)
        results = []
        for i, change in enumerate(changes):
            results.append(in_thread(lambda change=change: node.submit(change)))
            eventually(lambda i=i: len(node._primary.commits._queue) == i + 1)
        go_on.set()
        marker()
        outcomes = []
        for result in results:
            try:
                outcomes.append(result())
            except ReplicatorError as error:
                outcomes.append(error)
        return outcomes

    def test_changes_that_wait_for_the_same_round_trip_share_one_record(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        assert self._in_one_batch(a, log, [push(i) for i in range(10)]) == list(range(1, 11))
        assert [record.count for record in log.sent] == [0, 10]

    def test_a_batch_is_cut_where_its_record_would_be_too_large(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        values = ["x" * 100_000] * 5
        assert self._in_one_batch(a, log, [push(value) for value in values]) == [1, 2, 3, 4, 5]
        assert [record.count for record in log.sent] == [0, 2, 2, 1]

    def test_many_threads_commit_every_change_once_and_in_one_order(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        places: dict[tuple[int, int], int] = {}

        def submit_many(thread: int) -> None:
            for i in range(50):
                places[thread, i] = a.submit(push([thread, i]))

        for result in [in_thread(lambda t=t: submit_many(t)) for t in range(8)]:
            result()
        in_step(a, b)
        assert pushed(a) == pushed(b)
        assert [list(key) for key, _ in sorted(places.items(), key=lambda item: item[1])] == pushed(a)
        assert len(places) == 400

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (push(float("nan")), NotJSON),
            (push([1, {"x": float("inf")}]), NotJSON),
            (push({1, 2}), NotJSON),
            (push(2**70), NotJSON),
            (push("x" * 300_000), ChangeTooLarge),
            (push(b"x"), NotJSON),
        ],
        ids=["nan", "infinity", "a set", "a huge integer", "too large", "bytes"],
    )
    def test_what_does_not_fit_into_a_record_is_refused_at_the_door(
        self, group: Group, change: Any, error: type[Exception]
    ) -> None:
        a = group.primary("a")
        with pytest.raises(error):
            a.submit(change)
        assert a.submit(push("next")) == 1
        assert str(a.position.id) == "1-2"

    def test_the_state_sees_what_json_says_and_not_the_callers_object(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        value = {"list": [1], "tuple": (1, 2)}
        a.submit(put("x", value))
        value["list"].append(2)  # type: ignore[attr-defined]
        in_step(a, b)
        with a.reading() as here, b.reading() as there:
            assert here.data["x"] == there.data["x"] == {"list": [1], "tuple": [1, 2]}

    def test_a_reader_never_sees_half_a_change(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        for node in (a, b):
            a.submit(put("x", 1))
            in_step(a, b)
            inside, go_on = threading.Event(), threading.Event()

            def pause(change: Any, inside: threading.Event = inside, go_on: threading.Event = go_on) -> None:
                inside.set()
                assert go_on.wait(PATIENCE_S)

            node._state.in_apply = pause
            written = in_thread(lambda: a.submit(put("x", 2)))
            assert inside.wait(PATIENCE_S)
            looked = threading.Event()

            def look(node: Node = node, looked: threading.Event = looked) -> Any:
                with node.reading() as state:
                    looked.set()
                    return state.data["x"], state.data["x.copy"]

            seen = in_thread(look)
            assert not looked.wait(0.05)
            go_on.set()
            assert seen() == (2, 2)
            written()
            node._state.in_apply = lambda change: None

    def test_a_fresh_read_waits_for_what_is_in_the_log(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        for i in range(20):
            a.submit(put("x", i))
            with b.reading(fresh=True) as state:
                assert state.data["x"] == i

    def test_a_change_for_a_term_that_is_over_is_refused_and_the_others_of_its_batch_are_not(
        self, group: Group
    ) -> None:
        a = group.primary("a")
        assert a.submit(push("x"), term=1) == 1
        a.promote()
        with pytest.raises(Fenced) as raised:
            a.submit(push("y"), term=1)
        assert (raised.value.term, raised.value.current_term) == (1, 2)
        assert a.submit(push("z"), term=2) == 2
        with pytest.raises(Fenced):
            a.replace([["pushed", []]], term=1)
        assert pushed(a) == ["x", "z"]

    def test_a_write_inside_a_read_is_refused_instead_of_waiting_for_itself(self, group: Group) -> None:
        a = group.primary("a")
        with a.reading(), pytest.raises(ReplicatorError, match="inside `reading"):
            a.submit(push("x"))
        assert a.submit(push("y")) == 1

    @pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
    def test_an_interrupt_in_the_thread_that_writes_for_all_leaves_nobody_waiting(
        self, group: Group, executed: bool
    ) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")
        queued = threading.Event()

        def interrupted(record: Any) -> Reply:
            if executed:
                log.execute(record)
            raise KeyboardInterrupt

        def first(record: Any) -> Reply:
            assert queued.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.extend([first, interrupted])
        marker = in_thread(a._primary.commits.mark)
        eventually(lambda: log.sent)
        writers = [in_thread(lambda i=i: a.submit(push(i))) for i in range(3)]
        eventually(lambda: len(a._primary.commits._queue) == 3)
        queued.set()
        marker()
        outcomes = []
        for writer in writers:
            with pytest.raises((KeyboardInterrupt, OutcomeUnknown)) as raised:
                writer()
            outcomes.append(raised.type)
        assert sorted(outcomes, key=str).count(KeyboardInterrupt) == 1
        a.submit(push("next"))
        in_step(a, b)
        assert pushed(a) == pushed(b)
        assert sorted(pushed(a)[:-1]) == [0, 1, 2]  # it is settled: it may have been there

    def test_whoever_waits_too_long_for_an_earlier_write_has_written_nothing(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        under_way, go_on = threading.Event(), threading.Event()

        def wait(record: Any) -> Reply:
            under_way.set()
            assert go_on.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.append(wait)
        first = in_thread(lambda: a.submit(push("first")))
        assert under_way.wait(PATIENCE_S)
        with pytest.raises(LogUnavailable, match="nothing was written"):
            a.submit(push("second"), timeout_s=0.01)
        go_on.set()
        assert first() == 1
        assert pushed(a) == ["first"]

    def test_a_position_that_does_not_come_is_a_timeout_that_says_where_the_node_is(self, group: Group) -> None:
        a = group.primary("a")
        with pytest.raises(TimeoutError, match=r"a is primary at 1-1"):
            a.wait(n=5, timeout_s=0.01)
        with pytest.raises(ConfigError):
            a.wait(position="nonsense")


class TestLease:
    def test_without_its_lease_the_primary_refuses_writes_until_it_is_renewed(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
        log.renewals_fail = True
        eventually(lambda: a.lease_ms is None)
        with pytest.raises(LeaseLost):
            a.submit(put("x", 1))
        assert a.role == "primary"
        log.renewals_fail = False
        a.wait(role="primary", timeout_s=PATIENCE_S)
        a.submit(put("x", 2))
        assert str(a.position.id) == "1-2"

    def test_the_lease_counts_from_before_the_request(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
        # Each answer takes longer than the lease.
        log.before_renewal = lambda: time.sleep(1.2 * SHORT_LEASE_S)
        eventually(lambda: a.lease_ms is None)
        asked = threading.Event()
        answered = threading.Event()

        def slow() -> None:
            if asked.is_set():
                answered.set()
            asked.set()
            time.sleep(1.2 * SHORT_LEASE_S)

        log.before_renewal = slow
        assert answered.wait(PATIENCE_S)
        with pytest.raises(LeaseLost):
            a.submit(put("x", 1))

    def test_a_renewal_that_is_refused_ends_the_lease_at_once(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        replace_holder(group)
        a.wait(role="standby", timeout_s=PATIENCE_S)
        assert a.lease_ms is None

    def test_a_node_that_stops_in_the_middle_of_a_renewal_leaves_no_lease_behind(self, group: Group) -> None:
        # given a log that stays open, for it shares its connections
        log = group.faulty_log()
        log.close = lambda: None  # type: ignore[method-assign]
        a = group.primary("a", log=log, lease_s=60.0, beat_every_s=0.05)
        renews, goes_on = threading.Event(), threading.Event()

        def hang() -> None:
            renews.set()
            goes_on.wait(PATIENCE_S)

        log.before_renewal = hang
        assert renews.wait(PATIENCE_S)
        # when it is stopped meanwhile, and the renewal gets its way after that, as far as it can
        stopped = in_thread(a.stop)
        time.sleep(0.2)
        goes_on.set()
        stopped()
        # then others need not wait for the end of a lease
        assert group.log().look().lease_ms is None
        a._ha_loop.keep()
        assert group.log().look().lease_ms is None

    @pytest.mark.parametrize("code", [Code.FENCED, Code.LOST])
    def test_a_refusal_that_a_look_denies_does_not_end_the_term(
        self, group: Group, code: Code, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody damaged the head for a moment: the fence refuses everybody meanwhile."""
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
        renew, refusals = log.renew, [Reply(code, term=1, node="a")] * 3
        monkeypatch.setattr(log, "renew", lambda *args: refusals.pop() if refusals else renew(*args))
        eventually(lambda: not refusals)
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert a.submit(push("x")) == 1
        assert a.term == 1


class TestLostAnswers:
    @pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
    def test_a_write_whose_answer_was_lost_is_sent_again_and_lands_once(self, group: Group, executed: bool) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")
        log.faults.extend([log.lose_the_answer if executed else log.lose_the_request] * 3)
        assert a.submit(push("x")) == 1
        assert a.submit(push("y")) == 2
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x", "y"]
        assert len({record.chain for record in log.sent}) == 2
        assert len(log.sent) == 5

    @pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
    def test_an_unknown_outcome_is_settled_before_the_next_write(self, group: Group, executed: bool) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b")
        self._lose_an_answer_for_good(log, executed)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        log.down = ""
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert a.submit(push("y")) == 2
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x", "y"]

    def _lose_an_answer_for_good(self, log: FaultyLog, executed: bool) -> None:
        def cut_off(record: Any) -> Reply:
            if executed:
                log.execute(record)
            log.down = "cut off"
            raise OutcomeUnknown(url=log.url, problem="the answer was lost")

        log.faults.append(cut_off)

    def test_a_write_before_redis_answers_again_is_refused_with_nothing_written(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=1.0)
        self._lose_an_answer_for_good(log, executed=True)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        with pytest.raises(LogUnavailable, match="nothing was written") as raised:
            a.submit(push("y"))
        assert not isinstance(raised.value, OutcomeUnknown)
        log.down = ""
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert a.submit(push("z")) == 2
        assert pushed(a) == ["x", "z"]

    def test_an_unknown_outcome_is_settled_without_another_write(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b")
        self._lose_an_answer_for_good(log, executed=True)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        log.down = ""
        a.wait(n=2, timeout_s=PATIENCE_S)
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x"]

    @pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
    def test_after_a_replacement_the_log_tells_what_became_of_a_lost_answer(self, group: Group, executed: bool) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")

        def replaced_meanwhile(record: Any) -> Reply:
            if executed:
                log.execute(record)
            b.promote()
            raise OutcomeUnknown(url=log.url, problem="the answer was lost")

        log.faults.append(replaced_meanwhile)
        if executed:
            assert a.submit(push("x")) == 1
        else:
            with pytest.raises(Fenced):
                a.submit(push("x"))
        b.submit(push("y"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == (["x", "y"] if executed else ["y"])

    def test_a_node_that_was_replaced_before_it_could_settle_reads_the_outcome_in_the_log(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b")
        self._lose_an_answer_for_good(log, executed=True)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        b.promote()
        b.submit(push("y"))
        log.down = ""
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x", "y"]
        with pytest.raises(NotPrimary):
            a.submit(push("z"))

    def test_a_lost_request_of_a_node_that_was_replaced_meanwhile_is_no_lasting_problem(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b")
        self._lose_an_answer_for_good(log, executed=False)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        b.promote()
        log.down = ""
        in_step(a, b)
        eventually(lambda: a.problem == "")
        assert pushed(a) == pushed(b) == []
        assert ops.promote(group.log(), "a", by="ops").term == 3

    def test_what_was_trimmed_away_before_it_was_looked_up_stays_unknown(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b")

        def replaced_and_trimmed(record: Any) -> Reply:
            log.execute(record)
            b.promote()
            for _ in range(2):
                b.publish()
                b.submit(push("y"))
            b.publish()
            raise OutcomeUnknown(url=log.url, problem="the answer was lost")

        log.faults.append(replaced_and_trimmed)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x", "y", "y"]

    def test_a_lost_answer_of_a_run_that_is_gone_is_unknown_and_never_twice(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        before = group.server.state

        def failed_over(record: Any) -> Reply:
            log.execute(record)
            group.fail_over(replace(before, beats=group.server.state.beats))
            raise OutcomeUnknown(url=log.url, problem="the answer was lost")

        log.faults.append(failed_over)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        eventually(lambda: {a.role, b.role} == {"primary", "standby"} and a.term > ERA, "a new era")
        in_step(a, b)
        assert pushed(a) == pushed(b)
        assert pushed(a).count("x") <= 1


class TestWithoutRedis:
    def test_it_starts_as_a_standby_with_what_it_has_and_joins_later(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(put("x", 1))
        a.stop()
        log = group.log()
        log.down = "not started yet"
        again = group.node("a", log=log)
        assert (again.role, str(again.position.id)) == ("standby", "1-2")
        assert document(again) == document(a)
        assert again.lag.records is None
        with pytest.raises(NotPrimary):
            again.submit(put("x", 2))
        eventually(lambda: "not started yet" in again.problem)
        log.down = ""
        again.wait(role="primary", timeout_s=PATIENCE_S)
        assert again.term == 2
        eventually(lambda: again.problem == "")

    def test_a_standby_reads_on_when_redis_is_back(self, group: Group) -> None:
        a, log = group.primary("a"), group.log()
        b = group.node("b", log=log)
        in_step(a, b)
        log.down = "cut off"
        a.submit(put("x", 1))
        eventually(lambda: "cut off" in b.problem)
        assert document(b) == [["pushed", []]]
        log.down = ""
        in_step(a, b)
        assert document(a) == document(b)

    def test_a_write_that_was_not_sent_has_written_nothing(self, group: Group) -> None:
        log = group.log()
        a = group.primary("a", log=log)
        log.down = "cut off"
        with pytest.raises(LogUnavailable) as raised:
            a.submit(push("x"))
        assert not isinstance(raised.value, OutcomeUnknown)
        log.down = ""
        assert a.submit(push("y")) == 1
        assert pushed(a) == ["y"]


class TestNames:
    def test_another_live_boot_of_the_name_is_refused(self, group: Group, tmp_path: Path) -> None:
        group.node("a", http="http://first", lease_s=SHORT_LEASE_S)
        with pytest.raises(ConfigError, match=r"'a' is taken in group .*http://first"):
            group.node("a", data_dir=tmp_path / "elsewhere", lease_s=SHORT_LEASE_S)

    def test_a_live_boot_is_found_even_if_it_reported_just_now(self, group: Group, tmp_path: Path) -> None:
        first = group.node("a", lease_s=SHORT_LEASE_S)
        for i in range(5):
            first._ha_loop._beat()
            with pytest.raises(ConfigError, match="is taken"):
                group.node("a", data_dir=tmp_path / str(i), lease_s=SHORT_LEASE_S)

    def test_a_boot_that_died_a_moment_ago_elsewhere_is_in_nobodys_way(self, group: Group, tmp_path: Path) -> None:
        group.node("a", lease_s=SHORT_LEASE_S).stop()
        again = group.node("a", data_dir=tmp_path / "elsewhere", lease_s=SHORT_LEASE_S)
        assert again.failed is None

    def test_a_live_boot_is_found_when_redis_comes_up_later(self, group: Group, tmp_path: Path) -> None:
        group.node("a", lease_s=SHORT_LEASE_S)
        log = group.log()
        log.down = "not yet"
        second = group.node("a", data_dir=tmp_path / "elsewhere", log=log, lease_s=SHORT_LEASE_S)
        log.down = ""
        assert isinstance(eventually(lambda: second.failed), ConfigError)
        with pytest.raises(ConfigError):
            second.submit(put("x", 1))

    def test_of_two_that_started_at_the_same_moment_one_yields(
        self, group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Name, "_check_is_free", lambda self, look: None)
        first = group.node("a", lease_s=SHORT_LEASE_S)
        second = group.node("a", data_dir=tmp_path / "elsewhere", lease_s=SHORT_LEASE_S)
        lower, higher = sorted((first, second), key=lambda node: node.boot)
        assert isinstance(eventually(lambda: lower.failed), ConfigError)
        assert higher.failed is None

    def test_a_copy_of_a_running_nodes_directory_is_refused_and_displaces_nobody(
        self, group: Group, tmp_path: Path
    ) -> None:
        # given a primary whose checkpoint names its boot, so that a copy takes that for its own previous one
        first = group.primary("a", lease_s=SHORT_LEASE_S)
        first.submit(push("x"))
        eventually(lambda: (loaded := first._checkpoint.load()) and loaded.boot == first.boot)
        copy = tmp_path / "copy"
        with first._checkpoint._mutex:
            shutil.copytree(first.data_dir, copy)
        # when, then
        with pytest.raises(ConfigError, match=r"is taken .* is a copy of its data directory"):
            group.node("a", data_dir=copy, lease_s=SHORT_LEASE_S)
        after_beats(2, first)
        assert (first.role, first.term, first.failed) == ("primary", 1, None)
        first.wait(role="primary", timeout_s=PATIENCE_S)
        assert first.submit(push("y")) == 2

    def test_a_copy_of_a_directory_starts_once_the_original_beats_no_more(self, group: Group, tmp_path: Path) -> None:
        first = group.primary("a", lease_s=SHORT_LEASE_S)
        first.submit(push("x"))
        copy = tmp_path / "copy"
        shutil.copytree(group.crash(first), copy)
        again = group.node("a", data_dir=copy, lease_s=SHORT_LEASE_S)
        again.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(again) == ["x"]

    def test_a_killed_node_starts_again_in_its_own_directory_without_waiting(
        self, group: Group, caplog: pytest.LogCaptureFixture
    ) -> None:
        # given a heartbeat that is young for longer than any test takes
        first = group.node("a", lease_s=60 * PATIENCE_S, beat_every_s=PATIENCE_S)
        eventually(lambda: group.log().look().heartbeats)
        directory = group.crash(first)
        # when
        again = group.node("a", data_dir=directory, lease_s=SHORT_LEASE_S)
        # then
        assert again.failed is None
        assert "waiting whether it lives" not in caplog.text

    def test_a_node_that_lost_redis_while_it_looked_for_another_one_looks_again(
        self, group: Group, tmp_path: Path
    ) -> None:
        group.node("a", lease_s=SHORT_LEASE_S)
        log = group.faulty_log()
        look, looks = log.look, count(1)

        def fails_the_second_time() -> GroupView:
            if next(looks) == 2:
                raise LogUnavailable(url=log.url, problem="for a moment")
            return look()

        log.look = fails_the_second_time  # type: ignore[method-assign]
        second = group.node("a", data_dir=tmp_path / "elsewhere", log=log, lease_s=SHORT_LEASE_S)
        assert isinstance(eventually(lambda: second.failed), ConfigError)

    def test_a_second_node_on_the_directory_is_refused(self, group: Group) -> None:
        group.node("a")
        with pytest.raises(CheckpointError, match="process"):
            group.node("a")


class TestSnapshotsThatAreTooHeavy:
    def test_a_standby_says_so_in_its_heartbeat_and_takes_the_next_one(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
        a.submit(put("large", "x" * 100_000))
        a.publish()
        a.submit(push("since"))
        a.publish()
        b = group.node("b", lease_s=SHORT_LEASE_S, snapshot_bytes_max=50_000)
        eventually(lambda: "is not taken" in b.problem, "it names it")
        shown = eventually(lambda: ops.status(group.log()).nodes[1].problem, "it reports it")
        assert "snapshot_bytes_max" in shown
        assert (b.failed, b.stalled, b.in_sync) == (None, None, False)
        # and is not sent one each beat
        after_beats(30, a)
        assert sum(isinstance(record, PartRecord) and record.is_last for record in log.sent) < 10
        a.submit(put("large", ""))
        a.submit(put("large.copy", ""))
        a.publish()
        eventually(lambda: b.in_sync, "another one comes")
        eventually(lambda: b.problem == "", "it is told no more")
        assert document(b) == document(a)

    def test_a_primary_does_not_send_what_others_refuse(self, group: Group) -> None:
        a = group.primary("a", snapshot_bytes_max=50_000)
        a.submit(put("large", "x" * 100_000))
        before = a.position
        with pytest.raises(ChangeTooLarge, match="snapshot_bytes_max"):
            a.publish()
        with pytest.raises(ChangeTooLarge, match="snapshot_bytes_max"):
            a.replace([["data", "large", "x" * 100_000]])
        assert a.position == before


class TestRestart:
    def test_a_primary_takes_a_new_term_and_goes_on(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        a.stop()
        a = group.node("a")
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert a.term == 2
        a.submit(push("y"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x", "y"]

    def test_a_primary_that_should_not_stays_a_standby(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        a.stop()
        a = group.node("a", on_restart="standby", lease_s=SHORT_LEASE_S)
        eventually(lambda: a._replica.node_state.beats_in_run >= 4)
        assert (a.role, a.term) == ("standby", 1)
        assert a.promote() == 2

    def test_a_primary_that_was_replaced_while_it_was_down_follows(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        a.stop()
        b.promote()
        b.submit(push("y"))
        a = group.node("a", lease_s=SHORT_LEASE_S)
        in_step(a, b)
        eventually(lambda: a._replica.node_state.beats_in_run >= 3)
        assert (a.role, a.term, pushed(a)) == ("standby", 2, ["x", "y"])

    def test_a_killed_primary_has_all_it_acknowledged(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)  # so that nothing flushes meanwhile
        eventually(lambda: a._replica.node_state.beats_in_run > 0)
        for i in range(20):
            a.submit(push(i))
        a = group.node("a", data_dir=group.crash(a))
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(a) == list(range(20))

    def test_a_standby_continues_where_it_was(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        for i in range(10):
            a.submit(push(i))
        in_step(a, b)
        b.stop()
        a.submit(push(10))
        log = group.log()
        log.down = "not yet"
        b = group.node("b", log=log)
        assert pushed(b) == list(range(10))
        log.down = ""
        in_step(a, b)
        assert pushed(b) == list(range(11))

    def test_a_standby_that_was_killed_at_any_record_neither_misses_nor_repeats_one(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b", lease_s=SHORT_LEASE_S)
        for i in range(10):
            a.submit(push(i))
            if i % 3 == 0:
                b = group.node("b", data_dir=group.crash(b), lease_s=SHORT_LEASE_S)
        in_step(a, b)
        assert pushed(b) == list(range(10))

    def test_a_term_is_on_disk_before_anything_of_it_is_applied(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        on_disk_at_apply: list[tuple[int, RecordId]] = []
        b._state.in_apply = lambda change: on_disk_at_apply.append(self._on_disk(b))
        a.promote()
        a.submit(push("x"))
        in_step(a, b)
        assert on_disk_at_apply == [(2, RecordId(2, 3))]

    def _on_disk(self, node: Node) -> tuple[int, RecordId]:
        saved = node._checkpoint.load()
        assert saved is not None
        return saved.view.term, saved.view.position.id

    def test_a_term_is_on_disk_before_the_node_leads_in_it(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a = group.node("a", lease_s=SHORT_LEASE_S)
        mended = failing_disk(monkeypatch, a)
        claim = Claim(writer=Writer("a", a.boot), floor=0, lease_ms=1000, by="test", reason="", new_log_id="log-1")
        group.log().promote(claim)
        eventually(lambda: "ENOSPC" in a.problem)
        assert (a.role, a.term) == ("standby", 0)
        mended.set()
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert self._on_disk(a)[0] == 1

    def test_a_damaged_checkpoint_is_set_aside_and_the_node_comes_back_from_the_log(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b", lease_s=SHORT_LEASE_S)
        for i in range(10):
            a.submit(push(i))
        in_step(a, b)
        b.stop()
        (b.data_dir / "checkpoint.sqlite").write_bytes(b"not a database" * 1000)
        b = group.node("b", lease_s=SHORT_LEASE_S)
        in_step(a, b)
        assert pushed(b) == list(range(10))


class TestNewRun:
    def test_after_a_clean_restart_of_redis_the_former_holder_leads_again(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        in_step(a, b)
        group.fail_over()
        eventually(lambda: a.term == ERA + 1 and a.role == "primary")
        a.wait(role="primary", timeout_s=PATIENCE_S)
        a.submit(push("y"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x", "y"]

    def test_a_term_of_another_run_is_held_by_nobody(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=60.0)

        def too_late(record: Any) -> Reply:
            group.fail_over()
            a._log.look()  # it connects anew, and knows the new run
            return log.execute(record)

        log.faults.append(too_late)
        with pytest.raises(NotPrimary, match="another run"):
            a.submit(push("x"))
        assert pushed(a) == []

    def test_a_holder_ahead_of_a_log_that_lost_records_rebases_and_all_are_equal(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        c = group.node("c", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        in_step(a, b, c)
        c.stop()
        before = group.server.state
        for i in range(5):
            a.submit(push(i))
        in_step(a, b)
        group.fail_over(before)
        eventually(lambda: a.role == "primary" and a.term > ERA)
        a.submit(push("y"))
        c = group.node("c", lease_s=SHORT_LEASE_S)
        in_step(a, b, c)
        assert pushed(a) == pushed(b) == pushed(c) == ["x", *range(5), "y"]
        assert ops.verify(group.log(), by="test").equal

    def test_terms_never_go_back(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        terms = [a.term]
        before = group.server.state
        terms.append(a.promote())
        group.fail_over(before)
        eventually(lambda: a.role == "primary" and a.term > ERA)
        terms.append(a.term)
        group.fail_over()
        eventually(lambda: a.role == "primary" and a.term > 2 * ERA)
        terms.append(a.term)
        assert terms == [1, 2, ERA + 1, 2 * ERA + 1]


class TestSnapshots:
    def test_a_node_that_is_out_of_sync_gets_a_snapshot_from_the_primary(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        for i in range(5):
            a.submit(push(i))
        a.publish()
        a.publish()  # now the log does not begin at its beginning
        a.submit(push(5))
        state = group.server.state
        # A reader that finds changes behind a gap, and no snapshot.
        group.server._write_all(replace(state, entries=tuple(e for e in state.entries if b'"part"' not in e.header)))
        b = group.node("b", lease_s=SHORT_LEASE_S)
        in_step(a, b)
        assert pushed(b) == list(range(6))

    def test_a_new_node_is_built_from_the_snapshot_and_what_came_after_it(self, group: Group) -> None:
        a = group.primary("a")
        for key, value in large().items():
            a.submit(put(key, value))
        a.publish()
        a.publish()
        a.submit(push("after"))
        b = group.node("b")
        in_step(a, b)
        assert document(a) == document(b)
        # The log does not have the changes themselves any more.
        assert group.server.state.entries[0].id.n > 40

    def test_writes_go_on_while_a_snapshot_is_sent(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")
        for key, value in large().items():
            a.submit(put(key, value))
        sending, go_on = threading.Event(), threading.Event()

        def first_part(record: Any) -> Reply:
            reply = log.execute(record)
            sending.set()
            return reply

        def second_part(record: Any) -> Reply:
            assert go_on.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.append(first_part)
        published = in_thread(a.publish)
        assert sending.wait(PATIENCE_S)
        results = [a.submit(push(i)) for i in range(3)]
        go_on.set()
        published()
        assert results == [1, 2, 3]
        in_step(a, b)
        c = group.node("c")
        in_step(a, b, c)
        assert document(a) == document(b) == document(c)

    def test_one_snapshot_is_sent_when_the_changes_outweigh_the_last_one(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(snapshot_policy, "SNAPSHOT_DUE_BYTES_MIN", 100_000)
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b")

        def slow(record: Any) -> Reply:
            beats = a._replica.node_state.beats_in_run
            eventually(lambda: a._replica.node_state.beats_in_run > beats + 2)
            return log.execute(record)

        for i in range(12):
            a.submit(put("x", random.Random(i).randbytes(8 * 1024).hex()))
            if i == 3:
                log.faults.extend([log.execute] * 8 + [slow])
        eventually(lambda: a._checkpoint.payload_bytes > 0)
        beats = a._replica.node_state.beats_in_run
        eventually(lambda: a._replica.node_state.beats_in_run > beats + 3)
        assert sum(record.kind == "part" for record in log.sent) == 1
        in_step(a, b)
        assert document(a) == document(b)

    @pytest.mark.parametrize(("times", "least_s"), [(0, 1000.0), (10**9, 0.0)])
    def test_behind_a_snapshot_is_a_pause_and_the_beat_looks_when_it_is_over(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, times: int, least_s: float
    ) -> None:
        # given a primary that just sent one, and changes that outweigh it
        monkeypatch.setattr(snapshot_policy, "SNAPSHOT_DUE_BYTES_MIN", 10_000)
        monkeypatch.setattr(snapshot_policy, "PAUSE_TIMES", times)
        monkeypatch.setattr(snapshot_policy, "PAUSE_S_MIN", least_s)
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
        a.publish()
        a.submit(put("x", "y" * 20_000))
        after_beats(3, a)
        assert not a._primary.publisher.snapshot_is_due
        assert sum(record.kind == "part" for record in log.sent) == 1
        # when the pause is over, then nobody has to write for the next one to be sent
        monkeypatch.setattr(snapshot_policy, "PAUSE_TIMES", 0)
        monkeypatch.setattr(snapshot_policy, "PAUSE_S_MIN", 0.0)
        eventually(lambda: sum(record.kind == "part" for record in log.sent) == 2)

    def test_no_pause_lets_the_log_grow_without_bounds(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshot_policy, "SNAPSHOT_DUE_BYTES_MIN", 10_000)
        monkeypatch.setattr(snapshot_policy, "OVERDUE_BYTES_MIN", 100_000)
        monkeypatch.setattr(snapshot_policy, "PAUSE_S_MIN", 1000.0)
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
        a.publish()
        while a._replica.saved.changes_bytes <= snapshot_policy.changes_bytes_max(a._replica.saved.snapshot_bytes):
            a.submit(put("x", "y" * 20_000))
        eventually(lambda: sum(record.kind == "part" for record in log.sent) == 2)

    def test_a_new_primary_knows_of_no_pause(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        # given a group whose primary sent one, and then changes that outweigh it
        monkeypatch.setattr(snapshot_policy, "SNAPSHOT_DUE_BYTES_MIN", 10_000)
        monkeypatch.setattr(snapshot_policy, "PAUSE_S_MIN", 1000.0)
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        a.publish()
        a.submit(put("x", "y" * 20_000))
        in_step(a, b)
        first = group.server.look().head.snapshot_at
        # when another one leads, it sends the next one at once, and only that
        b.promote()
        eventually(lambda: group.server.look().head.snapshot_at > first)
        second = group.server.look().head.snapshot_at
        b.submit(put("x", "z" * 20_000))
        after_beats(3, b)
        assert group.server.look().head.snapshot_at == second

    def test_a_snapshot_that_is_asked_for_while_another_is_sent_comes_after_it(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        a.submit(push("x"))
        sending, go_on = threading.Event(), threading.Event()

        def wait(record: Any) -> Reply:
            sending.set()
            assert go_on.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.append(wait)
        asked = in_thread(lambda: ops.snapshot(group.log(), by="first", timeout_s=PATIENCE_S))
        assert sending.wait(PATIENCE_S)
        group.log().ask("snapshot", by="second")
        again = in_thread(lambda: a.submit(push("y")))
        go_on.set()
        asked()
        again()
        eventually(lambda: group.server.look().head.snapshot_at >= RecordId(1, 3))

    @pytest.mark.parametrize(
        ("from_bytes", "for_s", "held"), [(1000, 60.0, "all"), (1000, 0.0, "first"), (10**9, 60.0, "")]
    )
    def test_while_a_large_snapshot_is_drawn_the_collector_is_held_but_not_for_ever(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, from_bytes: int, for_s: float, held: str
    ) -> None:
        monkeypatch.setattr(replicator.node.publisher, "HOLD_COLLECTOR_FROM_BYTES", from_bytes)
        monkeypatch.setattr(replicator.node.publisher, "HOLD_COLLECTOR_FOR_S", for_s)
        log = group.faulty_log()
        a = group.primary("a", log=log)
        for key, value in large().items():
            a.submit(put(key, value))
        on: list[bool] = []

        def noted(record: Any) -> Reply:
            on.append(gc.isenabled())
            return log.execute(record)

        log.faults.extend([noted] * 3)
        frozen = gc.get_freeze_count()
        a.publish()
        assert on == {"all": [False] * 3, "first": [False, True, True], "": [True] * 3}[held]
        assert gc.isenabled()
        assert gc.get_freeze_count() == frozen

    def test_changes_that_wait_for_a_part_go_before_the_next_one(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replicator.node.commit_queue, "YIELD_FOR_S", 0.3)
        log = group.faulty_log()
        a = group.primary("a", log=log)
        for key, value in large().items():
            a.submit(put(key, value))
        sent = len(log.sent)
        waiting: list[Callable[[], Any]] = []

        def one_waits(record: Any) -> Reply:
            waiting.append(in_thread(lambda: a.submit(push(record.part))))
            eventually(lambda: a._primary.commits.has_queued)
            return log.execute(record)

        # given a change that comes while a part is sent, for some of them
        log.faults.extend([one_waits, log.execute, one_waits, log.execute])
        a.publish()
        for result in waiting:
            result()
        assert [record.kind for record in log.sent[sent : sent + 5]] == ["part", "change", "part", "change", "part"]

    def test_a_change_that_waits_for_a_part_is_woken_when_it_was_sent(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # given a primary in the middle of sending a part, and a change that found the turn taken
        log = group.faulty_log()
        a = group.primary("a", log=log)
        sending, go_on = threading.Event(), threading.Event()

        def wait(record: Any) -> Reply:
            sending.set()
            assert go_on.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.append(wait)
        published = in_thread(a.publish)
        assert sending.wait(PATIENCE_S)
        monkeypatch.setattr(replicator.node.commit_queue, "LOOK_AGAIN_S", 1000.0)  # it does not look again by itself
        submitted = in_thread(lambda: a.submit(push("x"), timeout_s=1000.0))
        eventually(lambda: a._primary.commits._queue, "the change in the queue")
        time.sleep(0.05)
        # when
        go_on.set()
        # then
        assert submitted() == 1
        published()

    def test_a_node_that_stops_while_it_restores_does_so_at_its_next_start(self, group: Group) -> None:
        # given a standby whose restore takes its time: it is past its first piece, and has all of the log
        a = group.primary("a")
        for key, value in large().items():
            a.submit(put(key, value))
        a.publish()
        group.server._write(entries=group.server.state.entries[-2:])
        restores, go_on = threading.Event(), threading.Event()

        class Slow(KV):
            def restore(self, pieces: Any) -> None:
                def slowly() -> Iterator[Any]:
                    for piece in pieces:
                        yield piece
                        restores.set()
                        assert go_on.wait(PATIENCE_S)

                super().restore(slowly())

        b = group.node("b", state=Slow())
        a.publish()
        assert restores.wait(PATIENCE_S)
        with b.reading() as state:
            assert state.data == {}
        # when
        stopped = in_thread(b.stop)
        eventually(lambda: b._replica._rebuild.closed)
        go_on.set()
        stopped()
        # then
        assert b._state.data == {}
        again = group.node("b", state=KV())
        in_step(a, again)
        assert document(again) == document(a)

    def test_while_parts_pass_by_few_records_are_read_at_once(self, group: Group) -> None:
        # given
        asked: list[tuple[bool, int]] = []

        class Counting(MemoryLog):
            def read(self, after: RecordId | None, **options: Any) -> Batch:
                asked.append((b._replica.node_state.view.follows_snapshot, options["count"]))
                return super().read(after, **options)

        log = group.faulty_log()
        a = group.primary("a", log=log)
        for key, value in large().items():
            a.submit(put(key, value))
        b = group.new_node("b", log=Counting(group.server))
        b.start()
        in_step(a, b)
        go_on = threading.Event()

        def wait(record: Any) -> Reply:
            eventually(lambda: (True, PARTS_AT_ONCE) in asked, "a read of few")
            go_on.set()
            return log.execute(record)

        # when a snapshot passes by, whose second part waits until the standby has the first
        log.faults.extend([log.execute, wait])
        a.publish()
        a.submit(push("x"))
        in_step(a, b)
        # then
        assert go_on.is_set()
        assert set(asked) == {(True, PARTS_AT_ONCE), (False, RECORDS_AT_ONCE)}

    def test_a_snapshot_that_is_interrupted_by_a_replacement_is_not_restored(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")
        for key, value in large().items():
            a.submit(put(key, value))

        def replaced(record: Any) -> Reply:
            reply = log.execute(record)
            b.promote()
            return reply

        log.faults.append(replaced)
        with pytest.raises((Fenced, NotPrimary)):
            a.publish()
        b.submit(push("y"))
        c = group.node("c")
        in_step(a, b, c)
        assert document(a) == document(b) == document(c)

    def test_a_snapshot_ends_with_the_term_in_which_it_was_begun(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a"), group.node("b")
        for key, value in large().items():
            a.submit(put(key, value))
        pieces = document(a)

        def promoted_meanwhile() -> Iterator[Any]:
            yield from pieces[:-1]
            a.promote()
            yield pieces[-1]

        with monkeypatch.context() as patched:
            patched.setattr(a._state, "snapshot", promoted_meanwhile)
            with pytest.raises(NotPrimary):
                a.publish()
        a.submit(push("y"))
        c = group.node("c")
        in_step(a, b, c)
        assert document(a) == document(b) == document(c)

    def test_a_part_whose_answer_is_lost_lands_once(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        for key, value in large().items():
            a.submit(put(key, value))
        log.faults.extend([log.lose_the_answer, log.lose_the_request, log.lose_the_answer])
        a.publish()
        a.publish()
        b = group.node("b")
        in_step(a, b)
        assert document(a) == document(b)


class TestReplace:
    def test_it_replaces_the_state_everywhere_at_one_record(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(put("old", 1))
        seen: list[Any] = []
        in_step(a, b)
        b._state.in_restore = lambda: seen.append(b._state.data.copy())
        a.replace([["pushed", ["new"]], *(["data", key, value] for key, value in large().items())])
        in_step(a, b)
        assert document(a) == document(b)
        assert seen == [{"old": 1, "old.copy": 1}]
        with b.reading() as state:
            assert "old" not in state.data
        a.submit(push("next"))
        in_step(a, b)
        assert pushed(b) == ["new", "next"]
        for node in (a, b):
            node.stop()
        a = group.node("a")
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(a) == ["new", "next"]

    def test_a_standby_refuses_it(self, group: Group) -> None:
        group.primary("a")
        b = group.node("b")
        with pytest.raises(NotPrimary):
            b.replace([["pushed", []]])

    def test_what_moved_since_it_was_seen_is_not_replaced(self, group: Group) -> None:
        a = group.primary("a")
        seen = str(a.position.id)
        a.submit(push("x"))
        for position in (seen, "1-9", "2-1", "0-0"):
            with pytest.raises(Outdated, match=f"not what it was at {position} any more, it is at 1-2: nothing was"):
                a.replace([["pushed", []]], expect=position)
        assert (pushed(a), str(a.position.id)) == (["x"], "1-2")
        with pytest.raises(ConfigError):
            a.replace([["pushed", []]], expect="now")

    def test_what_was_seen_is_replaced_although_the_log_went_on_without_a_change(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)
        seen = str(b.position.id)
        a.publish()
        ops.verify(group.log(), by="test")
        b.promote()
        assert b.position.id > RecordId.parse(seen)
        b.replace([["pushed", ["new"]]], expect=seen)
        assert pushed(b) == ["new"]
        with pytest.raises(Outdated):
            b.replace([["pushed", ["newer"]]], expect=seen)

    def test_a_change_that_is_on_its_way_when_it_is_compared_counts(self, group: Group) -> None:
        """The comparison is under the turn, and not a look before."""
        log = group.faulty_log()
        a = group.primary("a", log=log)
        seen, sent, go_on = str(a.position.id), threading.Event(), threading.Event()

        def slow(record: Any) -> Any:
            sent.set()
            assert go_on.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.append(slow)
        writing = in_thread(lambda: a.submit(push("x")))
        assert sent.wait(PATIENCE_S)
        replacing = in_thread(lambda: a.replace([["pushed", []]], expect=seen))
        eventually(lambda: a._replica.write_lock.is_wanted)
        go_on.set()
        writing()
        with pytest.raises(Outdated):
            replacing()
        assert pushed(a) == ["x"]

    def test_pieces_that_cannot_be_encoded_are_refused_before_anything_is_sent(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        with pytest.raises(NotJSON):
            a.replace([["pushed", ["x"]], ["data", "x", float("nan")]])
        assert log.sent == []
        assert pushed(a) == []

    def test_a_crash_in_the_middle_of_it_leaves_the_state_as_it_was(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")
        a.submit(push("old"))
        in_step(a, b)
        as_left: list[Path] = []

        def killed(record: Any) -> Reply:
            reply = log.execute(record)
            log.down = "killed"
            return reply

        log.faults.append(killed)
        with pytest.raises(LogUnavailable):
            a.replace([["pushed", ["new"]], *(["data", key, value] for key, value in large().items())])
        as_left.append(group.crash(a))
        assert pushed(b) == ["old"]
        a = group.node("a", data_dir=as_left[0])
        a.wait(role="primary", timeout_s=PATIENCE_S)
        a.submit(push("next"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["old", "next"]

    def test_its_last_part_lands_once_though_the_answer_is_lost(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b")

        def cut_off(record: Any) -> Reply:
            log.execute(record)
            log.down = "cut off"
            raise OutcomeUnknown(url=log.url, problem="the answer was lost")

        log.faults.append(cut_off)
        with pytest.raises(OutcomeUnknown):
            a.replace([["pushed", ["new"]]])
        log.down = ""
        a.wait(role="primary", timeout_s=PATIENCE_S)
        a.submit(push("next"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["new", "next"]


class TestDigests:
    def test_nodes_at_one_position_have_one_digest(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(put("x", 1))
        report = ops.verify(group.log(), by="test")
        assert report.equal
        assert set(report.digests) == {"a", "b"}
        assert report.position == str(a.position.id) == str(b.position.id)

    def test_an_apply_that_is_not_deterministic_is_found(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        b._state.in_apply = lambda change: b._state.data.update(who="b")
        a.submit(put("x", 1))
        report = ops.verify(group.log(), by="test")
        assert not report.equal
        assert report.missing == []
        assert report.digests["a"] != report.digests["b"]


class TestStalled:
    @pytest.fixture
    def bug(self) -> Any:
        def fail_at_bug(change: Any) -> None:
            if change.get("push") == "bug":
                raise ZeroDivisionError("oops")

        return fail_at_bug

    def test_a_standby_keeps_its_place_and_says_so(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a"), group.node("b", lease_s=SHORT_LEASE_S)
        b._state.in_apply = bug
        a.submit(push("x"))
        a.submit(push("bug"))
        a.submit(push("y"))
        eventually(lambda: b.stalled is not None)
        assert "1-3" in b.stalled
        assert "oops" in b.stalled
        assert str(b.position.id) == "1-2"
        eventually(lambda: "oops" in str(ops.status(group.log()).nodes[1].problem))

    def test_after_a_restart_it_stalls_again_at_the_same_place(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a"), group.node("b", lease_s=SHORT_LEASE_S)
        b._state.in_apply = bug
        a.submit(push("x"))
        a.submit(push("bug"))
        a.submit(push("y"))
        eventually(lambda: b.stalled is not None)
        b.stop()
        state = KV()
        state.in_apply = bug
        b = group.node("b", state=state, lease_s=SHORT_LEASE_S)
        eventually(lambda: b.stalled is not None)
        assert str(b.position.id) == "1-2"
        b.stop()
        b = group.node("b")  # the application was mended
        in_step(a, b)
        assert pushed(b) == ["x", "bug", "y"]

    def test_behind_a_snapshot_it_stalls_at_the_place_of_the_snapshot(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        a.publish()
        in_step(a, b)
        b._state.in_apply = bug
        a.submit(push("bug"))
        eventually(lambda: b.stalled is not None)
        b.stop()
        state = KV()
        state.in_apply = bug
        b = group.node("b", state=state)
        eventually(lambda: b.stalled is not None)
        assert b.position.id.n >= 2

    def test_a_primary_stops_writing_and_loses_its_lease(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b")
        a._state.in_apply = bug
        with pytest.raises(Stalled):
            a.submit(push("bug"))
        with pytest.raises(Stalled):
            a.submit(push("next"))
        eventually(lambda: group.server.look().lease_ms is None)
        b.promote()
        assert pushed(b) == ["bug"]
        assert b.submit(push("next")) == 2

    def test_a_stalled_primary_learns_that_it_was_replaced(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b")
        a._state.in_apply = bug
        with pytest.raises(Stalled):
            a.submit(push("bug"))
        b.promote()
        eventually(lambda: a.role == "standby")
        assert a.stalled is not None

    def test_a_restore_that_fails_stalls_and_leaves_the_state_as_it_was(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)

        def fail() -> None:
            raise ZeroDivisionError("oops")

        b._state.in_restore = fail
        a.replace([["pushed", ["new"]]])
        eventually(lambda: b.stalled is not None)
        assert pushed(b) == ["x"]


def vacant_group(group: Group, *names: str, lease_s: float = LEASE_S, **options: Any) -> list[Node]:
    """Candidates that have read everything, in a group whose holder `z` has no process. Its lease runs on."""
    promote(group.log(), "z")
    nodes = [group.node(name, auto_promote=True, lease_s=lease_s, **options) for name in names]
    eventually(lambda: all(node.term == 1 for node in nodes), "the term of z")
    reported(group, *nodes)
    return nodes


def reported(group: Group, *nodes: Node) -> None:
    """Wait until the others can see where each of these nodes is."""

    def all_told() -> bool:
        group.wake()
        heartbeats = group.server.look().heartbeats
        return all(node.name in heartbeats and heartbeats[node.name].position == node.position for node in nodes)

    eventually(all_told, "the heartbeats")


def sleeps(group: Group, node: Node) -> None:
    """Wait until nothing but the end of the holder's lease, or being woken, has the node look at the group again."""
    node._ha_loop._policy = node._ha_loop._policy._replace(beat_every_s=3600.0)
    looked_at = node._ha_loop.looked_at
    group.wake()
    eventually(lambda: node._ha_loop.looked_at > looked_at)


class TestAutomaticFailover:
    def test_a_candidate_takes_over_when_the_lease_runs_out_and_not_at_its_next_beat(self, group: Group) -> None:
        b = group.node("b", auto_promote=True)
        sleeps(group, b)
        promote(group.log(), "z", lease_ms=300)
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert b.submit(push("x")) == 1
        assert b.term == 2
        (_, record) = ops.history(group.log())
        assert (record.by, record.reason) == ("b", "the lease of z ran out, and nothing is known of it")

    def test_the_history_tells_an_end_in_order_from_a_crash_and_from_another_redis(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", auto_promote=True, lease_s=SHORT_LEASE_S)
        in_step(a, b)
        # given a primary that stops in order, one that Redis forgets, and one that falls silent
        a.stop()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        group.fail_over()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        eventually(lambda: b.term > ERA)
        c = group.node("c", auto_promote=True, lease_s=SHORT_LEASE_S)
        in_step(b, c)
        b._log.down = "cut off"
        c.wait(role="primary", timeout_s=PATIENCE_S)
        # then each term says why it was taken
        _, second, third, fourth = (term.reason for term in ops.history(group.log()))
        assert second == "a stopped in order"
        assert third == "Redis came back as another run, and it held the term before"
        assert fourth.startswith("the lease of b ran out: it has not reported for")

    def test_of_three_candidates_one_wins(self, group: Group) -> None:
        """G1."""
        nodes = vacant_group(group, "a", "b", "c")
        group.end_lease()
        eventually(lambda: any(node.role == "primary" for node in nodes), "a primary")
        in_step(*nodes)
        after_beats(2, *nodes)
        assert sorted(node.role for node in nodes) == ["primary", "standby", "standby"]
        assert [term.node for term in ops.history(group.log())][:-1] == ["z"], "one term was taken"

    def test_candidates_that_claim_at_the_same_moment_do_no_harm(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """G1: the claim depends on that no lease runs, and on the term."""
        monkeypatch.setattr(replicator.node.ha_loop, "CLAIM_EVERY_S", 0.0)
        nodes = vacant_group(group, "a", "b", "c", "d")
        claiming = threading.Barrier(4)
        for node in nodes:
            claim = node._ha_loop._claim
            monkeypatch.setattr(
                node._ha_loop, "_claim", lambda *a, claim=claim, **o: (claiming.wait(PATIENCE_S), claim(*a, **o))
            )
        group.end_lease()
        eventually(lambda: any(node.role == "primary" for node in nodes), "a primary")
        in_step(*nodes)
        assert group.server.state.term == 2

    def test_candidates_that_claim_at_the_same_moment_in_a_new_run_do_no_harm(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """G1: there is no lease in it, and the claim depends on the term."""
        nodes = vacant_group(group, "a", "b")
        claiming = threading.Barrier(2)
        for node in nodes:
            claim = node._ha_loop._claim
            monkeypatch.setattr(
                node._ha_loop, "_claim", lambda *a, claim=claim, **o: (claiming.wait(PATIENCE_S), claim(*a, **o))
            )
        group.fail_over()
        eventually(lambda: any(node.role == "primary" for node in nodes), "a primary")
        in_step(*nodes)
        assert group.server.state.term == ERA + 1

    def test_the_most_advanced_goes_first(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.node.ha_loop, "CLAIM_EVERY_S", 60.0)
        author, log = lead(group.log(), "z"), group.faulty_log()
        log.deaf = True
        b, c = group.node("b", auto_promote=True), group.node("c", auto_promote=True, log=log)
        author.append(push("x"))
        b.wait(position="1-2", timeout_s=PATIENCE_S)
        reported(group, b, c)
        group.end_lease()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert c._ha_loop._claim_at is None or c._ha_loop._claim_at > time.monotonic() + 30, (
            "c would have to wait for its turn"
        )
        log.deaf = False
        in_step(b, c)
        assert (b.term, pushed(c)) == (2, ["x"])

    def test_if_the_first_one_is_dead_the_second_goes(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        b, c = vacant_group(group, "b", "c")
        claimed = threading.Event()
        monkeypatch.setattr(b._ha_loop, "_claim", lambda *args, **options: claimed.set())  # it dies there
        group.end_lease()
        c.wait(role="primary", timeout_s=PATIENCE_S)
        eventually(claimed.is_set, "the turn of b, which was the first")

    def test_one_that_lags_reads_everything_before_it_leads(self, group: Group) -> None:
        """G4."""
        author, log = lead(group.log(), "z"), group.faulty_log()
        b = group.node("b", auto_promote=True, log=log)
        b.wait(position="1-1", timeout_s=PATIENCE_S)
        log.deaf = True
        for i in range(20):
            author.append(push(i))
        group.end_lease()
        eventually(lambda: group.server.state.term == 2, "it has the term")
        assert b.role == "standby"
        with pytest.raises(NotPrimary):
            b.submit(push("too early"))
        log.deaf = False
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(b) == list(range(20))

    def test_a_clean_stop_is_followed_at_once(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        b = group.node("b", auto_promote=True, lease_s=60.0)
        in_step(a, b)
        sleeps(group, b)
        a.submit(push("x"))
        a.stop()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(b) == ["x"]

    def test_nobody_takes_over_while_the_holder_renews(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a = group.primary("a")
        claims: list[Claim] = []
        monkeypatch.setattr(group.server, "promote", claims.append)
        b = group.node("b", auto_promote=True, lease_s=SHORT_LEASE_S)
        after_beats(5, a, b)
        assert (a.role, a.term, b.role, claims) == ("primary", 1, "standby", [])

    def test_who_is_no_candidate_does_not_take_over(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", lease_s=SHORT_LEASE_S)
        b._ha_loop._policy = b._ha_loop._policy._replace(auto_promote=False)
        group.end_lease()
        after_beats(4, b)
        assert (b.role, group.server.state.term) == ("standby", 1)

    def test_nobody_takes_over_while_it_is_paused_and_once_it_is_resumed_somebody_does(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", lease_s=SHORT_LEASE_S)
        ops.pause(group.log(), by="ann", reason="moving house")
        group.end_lease()
        after_beats(4, b)
        assert (b.role, group.server.state.term) == ("standby", 1)
        assert "paused (by ann: moving house)" in str(ops.status(group.log()).problem)
        sleeps(group, b)
        ops.resume(group.log())
        eventually(lambda: group.server.state.term == 2)
        assert "paused" not in str(ops.status(group.log()).problem)

    def test_a_pause_holds_over_a_new_run_and_a_promotion_by_hand(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", lease_s=SHORT_LEASE_S)
        ops.pause(group.log(), by="ann")
        group.fail_over()
        after_beats(4, b)
        assert b.role == "standby"
        assert ops.promote(group.log(), "b", by="ann", timeout_s=PATIENCE_S).term == ERA + 1
        assert ops.status(group.log()).holder == "b"
        assert group.server.look().head.paused != ""

    def test_after_a_demotion_nobody_takes_over_not_even_in_another_run(self, group: Group) -> None:
        a, b = (group.node(name, auto_promote=True, lease_s=SHORT_LEASE_S) for name in "ab")
        eventually(lambda: "primary" in (a.role, b.role))
        eventually(lambda: _demoted(group))
        after_beats(4, a, b)
        term = group.server.state.term
        assert (a.role, b.role) == ("standby", "standby")
        group.fail_over()
        after_beats(5, a, b)
        assert (a.role, b.role, group.server.state.term) == ("standby", "standby", term)
        assert ops.promote(group.log(), "a", by="ann", timeout_s=PATIENCE_S).term == ERA + 1

    def test_one_that_lacks_what_the_log_lost_does_not_take_over(self, group: Group) -> None:
        """G5."""
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        b, c = (group.node(name, lease_s=SHORT_LEASE_S) for name in "bc")
        a.submit(push("x"))
        in_step(a, b, c)
        b.stop()
        before = group.server.state
        a.submit(push("c has it"))
        in_step(a, c)
        group.crash(a)
        group.fail_over(before)
        b = group.node("b", lease_s=SHORT_LEASE_S, auto_promote=True)
        eventually(lambda: not group.server.look().heartbeats["a"].alive)
        after_beats(5, b, c)
        assert b.role == "standby"
        with pytest.raises(PromotionRefused) as raised:
            ops.promote(group.log(), "b", by="test")
        assert raised.value.better == "c"
        c.stop()
        c = group.node("c", lease_s=SHORT_LEASE_S, auto_promote=True)
        c.wait(role="primary", timeout_s=PATIENCE_S)
        eventually(lambda: pushed(b) == pushed(c) == ["x", "c has it"])

    def test_in_a_new_run_a_candidate_takes_over_from_a_holder_that_is_gone(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S, auto_promote=True)
        c = group.node("c", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        in_step(a, b, c)
        group.crash(a)
        group.fail_over()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert b.term == ERA + 1
        b.submit(push("y"))
        assert pushed(b) == ["x", "y"]

    def test_a_group_that_never_had_a_log_elects_its_first_primary(self, group: Group) -> None:
        nodes = [group.node(name, auto_promote=True) for name in "abc"]
        eventually(lambda: any(node.role == "primary" for node in nodes))
        in_step(*nodes)
        assert [term.term for term in ops.history(group.log())] == [1]
        assert sorted(node.role for node in nodes) == ["primary", "standby", "standby"]

    def test_a_group_that_lost_its_log_elects_nobody(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", lease_s=SHORT_LEASE_S)
        group.server.flush()
        after_beats(5, b)
        assert (b.role, group.server.look().head) == ("standby", None)

    def test_a_stray_record_is_taken_over_by_nobody(self, group: Group) -> None:
        (b,) = vacant_group(group, "b", lease_s=SHORT_LEASE_S)
        group.server.stray(RecordId(1_700_000_000_000, 0))
        group.end_lease()
        after_beats(3, b)
        assert (b.role, group.server.state.term) == ("standby", 1)


def _demoted(group: Group) -> bool:
    """Demote whoever leads; with short leases the term may just have moved on."""
    try:
        ops.demote(group.log(), by="ann")
    except (PromotionRefused, NotPrimary):
        return False
    return True


class TestFlapping:
    """A node that takes the term by itself and loses it again lets another one go first."""

    def flaps(self, group: Group, name: str, times: int = 3) -> None:
        now_ms = int(group.server.clock_ms())
        head = group.server.look().head
        assert head is not None
        group.server._write(head=head._replace(taken=((now_ms, name),) * times))

    def test_it_is_held_back_in_favour_of_another_and_says_so(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(replicator.node.ha_loop, "CLAIM_EVERY_S", 60.0)
        b, c = vacant_group(group, "b", "c")
        self.flaps(group, "b")  # otherwise it would be the first
        with monkeypatch.context() as slow:
            slow.setattr(c._ha_loop, "_claim", lambda *_, **__: None)
            group.end_lease()
            told = eventually(lambda: [r.getMessage() for r in caplog.records if "held back" in r.getMessage()])
        c.wait(role="primary", timeout_s=PATIENCE_S)
        in_step(b, c)
        assert c.term == 2
        assert told[0].startswith("held back in favour of c: it took the term 3 times in 60 s and lost it again")
        after_beats(1, b)
        assert len([r for r in caplog.records if "held back" in r.getMessage()]) == 1, "it says so once"

    def test_the_tools_refuse_it_and_name_the_other(self, group: Group) -> None:
        vacant_group(group, "b", "c")
        self.flaps(group, "b")
        with pytest.raises(PromotionRefused, match="it took the term 3 times") as raised:
            ops.promote(group.log(), "b", by="test")
        assert raised.value.better == "c"
        assert ops.promote(group.log(), "b", by="test", force=True, timeout_s=PATIENCE_S).term == 2

    def test_where_nobody_else_can_it_goes_itself(self, group: Group) -> None:
        (c,) = vacant_group(group, "c")
        self.flaps(group, "c")
        group.end_lease()
        c.wait(role="primary", timeout_s=PATIENCE_S)
        assert c.term == 2

    def test_twice_is_no_flapping(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.node.ha_loop, "CLAIM_EVERY_S", 60.0)
        b, c = vacant_group(group, "b", "c")
        self.flaps(group, "b", times=2)
        group.end_lease()
        b.wait(role="primary", timeout_s=PATIENCE_S)
        in_step(b, c)

    def test_one_that_loses_the_term_again_and_again_comes_to_that(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replicator.node.ha_loop, "CLAIM_EVERY_S", 60.0)
        b, c = vacant_group(group, "b", "c")
        for term in (2, 4, 6):
            group.end_lease()
            b.wait(role="primary", position=f"{term}-{term}", timeout_s=PATIENCE_S)
            promote(group.log(), "z")
            b.wait(role="standby", position=f"{term + 1}-{term + 1}", timeout_s=PATIENCE_S)
            reported(group, b, c)
        group.end_lease()
        c.wait(role="primary", timeout_s=PATIENCE_S)
        head = group.server.look().head
        assert head is not None
        assert [node for _, node in head.taken] == ["b", "b", "b", "c"]


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
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        c = group.node("c", lease_s=SHORT_LEASE_S)
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
        c = group.node("c", lease_s=SHORT_LEASE_S)
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
        b.promote()
        b.submit(push("x"))
        assert (a.role, pushed(a)) == ("primary", [])
        with pytest.raises(TimeoutError):
            self._fresh(a, 0.1)

    def test_once_the_lease_ran_out_nobody_knows_what_is_committed(self, group: Group) -> None:
        """The primary was cut off with its Redis, which takes no writes: heartbeats stand still, and say it leads."""
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
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
        sight = b._ha_loop.sight
        now_ms = time.monotonic() * 1000
        monkeypatch.setattr(b._ha_loop, "sight", lambda *log: sight(*log)._replace(lease_until_ms=now_ms))
        with pytest.raises(TimeoutError, match="with a lease that runs"):
            self._fresh(b, 0.1)
        monkeypatch.setattr(b._ha_loop, "sight", sight)
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


class Counting(MemoryLog):
    """Counts what it is asked, and can refuse snapshots."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self.asked: Counter[str] = Counter()
        self.full = False

    def look(self) -> GroupView:
        self.asked["look"] += 1
        return super().look()

    def read(self, after: Any, **options: Any) -> Batch:
        self.asked["read"] += 1
        return super().read(after, **options)

    def append(self, record: Any, **options: Any) -> Reply:
        self.asked["append"] += 1
        return super().append(record, **options)

    def part(self, record: Any, *, rebase: bool = False) -> Reply:
        self.asked["part"] += 1
        if self.full:
            raise LogUnavailable(url=self.url, problem="OOM")
        return super().part(record, rebase=rebase)


class TestWhatIsTriedAgain:
    """Each attempt is later after the one before than that was, up to a bound; and it is told once."""

    #: Over so long attempts are counted. On a slow machine there are fewer.
    WATCH_S = 2.0

    def _told(self, caplog: pytest.LogCaptureFixture, text: str) -> int:
        return sum(text in record.getMessage() and "over:" not in record.getMessage() for record in caplog.records)

    def test_a_snapshot_that_redis_has_no_room_for(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = Counting(group.server)
        a = group.primary("a", log=log, lease_s=0.6)
        log.full = True
        with caplog.at_level(logging.INFO, logger="replicator"):
            monkeypatch.setattr(replicator.node.publisher, "snapshot_is_due", lambda *args, **more: True)
            eventually(lambda: log.asked["part"] > 0)
            log.asked.clear()
            time.sleep(self.WATCH_S)
            assert 0 < log.asked["part"] < 12
            assert log.asked["look"] < 30, "the keeper has its beat, and no more"
            assert self._told(caplog, "publishing a snapshot: the changes outweigh") == 1
            assert self._told(caplog, "the snapshot was not published") == 1
            a.submit(push("x"))
            log.full = False
            monkeypatch.setattr(replicator.node.publisher, "snapshot_is_due", snapshot_policy.snapshot_is_due)
            a.publish()
            monkeypatch.setattr(
                replicator.node.publisher, "snapshot_is_due", lambda *args, **more: log.asked["part"] < 100
            )
            eventually(lambda: "over: the snapshot was not published" in caplog.text)

    def test_a_snapshot_that_does_not_help_the_one_who_needs_it(
        self, group: Group, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = Counting(group.server)
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        far = RecordId(a.term, 10**9)
        group.server.beat(Heartbeat("z", "z1", cursor=far, in_sync=False, every_ms=10**6, run=group.server.state.run))
        eventually(lambda: log.asked["part"] > 0)
        time.sleep(self.WATCH_S)
        assert log.asked["part"] < 6
        group.server.beat(Heartbeat("z", "z1", cursor=far, every_ms=10**6, run=group.server.state.run))
        a._ha_loop.wake()
        eventually(lambda: not a._ha_loop._need._served)

    def test_a_redis_that_is_away(self, group: Group, caplog: pytest.LogCaptureFixture) -> None:
        log = Counting(group.server)
        a = group.node("a", log=log, lease_s=30.0)
        eventually(lambda: log.asked["read"] > 0)
        with caplog.at_level(logging.INFO, logger="replicator"):
            log.down = "it was unplugged"
            eventually(lambda: "unplugged" in a.problem)
            log.asked.clear()
            time.sleep(self.WATCH_S)
            assert 0 < log.asked["read"] < 14
            assert log.asked["look"] < 14
            assert self._told(caplog, "unplugged") == 1
            log.down = ""
            eventually(lambda: a.problem == "")
            eventually(lambda: "over: Redis at memory: is not available: it was unplugged" in caplog.text)
        a.wait(role="standby", timeout_s=PATIENCE_S)

    def test_a_fresh_read_that_waits_for_somebody_to_lead(self, group: Group) -> None:
        log = Counting(group.server)
        a = group.node("a", log=log, lease_s=30.0)
        log.asked.clear()
        with pytest.raises(TimeoutError), a.reading(fresh=True, timeout_s=self.WATCH_S):
            pass
        assert log.asked["look"] < 40

    def test_a_write_whose_answers_are_lost(self, group: Group) -> None:
        log = Counting(group.server)
        a = group.primary("a", log=log, lease_s=self.WATCH_S)
        log.asked.clear()

        def lost(record: Any, **options: Any) -> Reply:
            log.asked["append"] += 1
            raise OutcomeUnknown(url=log.url, problem="no answer")

        log.append = lost  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        assert log.asked["append"] < 15


HOUR_MS = 3_600_000


class TestAClockThatIsSet:
    """That of Redis, by an hour: nodes tell who lives, and what a lease is worth, by their own."""

    def _set(self, group: Group, by_ms: int) -> None:
        before = group.server.clock_ms
        group.server.clock_ms = lambda: before() + by_ms

    def test_back_a_dead_primary_is_followed_all_the_same(self, group: Group) -> None:
        a, b = (group.node(name, lease_s=SHORT_LEASE_S, auto_promote=True) for name in ("a", "b"))
        eventually(lambda: "primary" in (a.role, b.role))
        holder, other = (a, b) if a.role == "primary" else (b, a)
        holder.submit(push("x"))
        in_step(a, b)
        group.crash(holder)
        self._set(group, -HOUR_MS)
        assert (group.server.look().lease or "").startswith("1 "), "Redis has it for another hour"
        other.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(other) == ["x"]

    def test_back_a_dead_node_is_not_alive_for_an_hour(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        in_step(a, b)
        eventually(lambda: a._ha_loop.look is not None and "b" in a._ha_loop.look.heartbeats)
        group.crash(b)
        self._set(group, -HOUR_MS)
        assert not group.server.look().heartbeats["b"].alive, "at a single look"
        eventually(lambda: a._ha_loop.look is not None and not a._ha_loop.look.heartbeats["b"].alive)
        assert a._ha_loop.look is not None
        assert a._ha_loop.look.heartbeats["a"].alive

    @pytest.mark.parametrize("by_ms", [-HOUR_MS, HOUR_MS, -2000])
    def test_a_primary_that_lives_keeps_the_term(self, group: Group, by_ms: int) -> None:
        a = group.primary("a", lease_s=1.0)
        b = group.node("b", lease_s=1.0, auto_promote=by_ms < 0)  # forward, the lease of the moment is gone for a beat
        in_step(a, b)
        self._set(group, by_ms)
        after_beats(4, a, b)
        assert (a.role, a.term, b.role) == ("primary", 1, "standby")
        eventually(lambda: b.lag == (0, 0.0))
        a.submit(push("x"))
        with b.reading(fresh=True) as state:
            assert list(state.pushed) == ["x"]

    def test_back_the_name_of_a_node_that_was_killed_is_free(self, group: Group, tmp_path: Path) -> None:
        a = group.node("a", lease_s=SHORT_LEASE_S)
        eventually(lambda: "a" in group.server.look().heartbeats)
        group.crash(a)
        self._set(group, -HOUR_MS)
        again = group.node("a", lease_s=SHORT_LEASE_S, data_dir=tmp_path / "another")
        after_beats(2, again)
        assert again.failed is None

    def test_back_the_name_of_a_node_that_lives_is_taken(self, group: Group, tmp_path: Path) -> None:
        group.node("a", lease_s=SHORT_LEASE_S)
        eventually(lambda: "a" in group.server.look().heartbeats)
        self._set(group, -HOUR_MS)
        with pytest.raises(ConfigError, match="is taken in group"):
            group.node("a", lease_s=SHORT_LEASE_S, data_dir=tmp_path / "another")

    def test_back_nobody_is_held_back_for_an_hour(self, group: Group) -> None:
        a = group.primary("a")
        head = group.server.look().head
        assert head is not None
        now_ms = int(group.server.clock_ms())
        group.server._write(head=head._replace(taken=((now_ms, "a"),) * 3))
        assert election.cool_down_ms("a", group.server.look()) > 0
        self._set(group, -HOUR_MS)
        assert election.cool_down_ms("a", group.server.look()) == 0
        a.submit(push("x"))


class TestReadTokens:
    def test_the_beginning_is_in_every_history(self, group: Group) -> None:
        a = group.primary("a")
        a.promote(force=True)
        a.wait(position="0-0", timeout_s=PATIENCE_S)

    @pytest.fixture
    def lost(self, group: Group) -> tuple[Node, str]:
        """A node of a group that lost 1-3 and 1-4 in a failover to it, and the token of 1-4."""
        a, log = group.primary("a", lease_s=SHORT_LEASE_S), group.faulty_log()
        b = group.node("b", log=log, lease_s=SHORT_LEASE_S)
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
        a = group.node("a", data_dir=self.a_as_left, lease_s=SHORT_LEASE_S)
        in_step(a, b)
        assert self._is_lost_on(a, token).term_end == RecordId(1, 2)

    def test_also_after_further_failovers(self, group: Group, lost: tuple[Node, str]) -> None:
        b, token = lost
        b.promote()
        b.promote()
        assert f"the failover to term {ERA + 1}" in str(self._is_lost_on(b, token))
        group.fail_over()
        b.wait(role="primary", position=f"{2 * ERA + 1}-1", timeout_s=PATIENCE_S)
        assert f"the failover to term {ERA + 1}" in str(self._is_lost_on(b, token))

    def test_who_waits_already_is_told_when_it_happens(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        waiting = in_thread(lambda: a.wait(position="1-5", timeout_s=2 * PATIENCE_S))
        a.submit(push("x"))
        a.promote()
        with pytest.raises(PositionLost, match=r"term 1 ended at 1-2; 1-5 was lost in the failover to term 2"):
            waiting()

    def test_a_token_that_survived_by_a_rebase_is_not_lost(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        c = group.node("c", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        in_step(a, b, c)
        c.stop()
        before = group.server.state
        a.submit(push("y"))
        a.submit(push("z"))
        in_step(a, b)
        group.fail_over(before)
        a.wait(role="primary", position=f"{ERA + 1}-1", timeout_s=PATIENCE_S)
        c = group.node("c", lease_s=SHORT_LEASE_S)
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


def test_a_primary_saves_what_it_committed_although_redis_does_not_answer(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", log=log)
    released = threading.Event()
    log.before_renewal = lambda: released.wait(PATIENCE_S)  # the keeper hangs there from now on
    try:
        a.submit(push("x"))
        eventually(lambda: (loaded := a._checkpoint.load()) and loaded.view.position == a.position)
    finally:
        released.set()


class TestForks:
    """G9: exactly the changes that the group's history has not are kept."""

    def test_a_node_whose_changes_are_left_behind_keeps_them_and_says_from_where_on(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        a.submit(push("both"))
        in_step(a, b)
        b.stop()
        before = group.server.state
        a.submit(push("one"))
        a.submit(push("two"))
        log.down = "cut off"
        group.fail_over(before)
        b = group.node("b", lease_s=SHORT_LEASE_S)
        b.wait(position="1-2", timeout_s=PATIENCE_S)
        eventually(lambda: b._ha_loop.look is not None and not b._ha_loop.look.heartbeats["a"].alive)
        b.promote(timeout_s=PATIENCE_S)
        log.down = ""
        in_step(a, b)
        assert fork_of(a) == ("1-2", [push("both"), push("one"), push("two")])
        assert forks(b) == []
        for _ in range(2):
            b.publish()
        in_step(a, b)
        assert len(forks(a)) == 1, "and once"

    def test_who_lost_nothing_in_a_rebase_keeps_no_fork(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        c = group.node("c", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        in_step(a, b, c)
        before = group.server.state
        c.stop()
        a.submit(push("y"))
        in_step(a, b)
        group.fail_over(before)
        a.wait(role="primary", position=f"{ERA + 1}-1", timeout_s=PATIENCE_S)
        c = group.node("c", lease_s=SHORT_LEASE_S)
        d = group.node("d", lease_s=SHORT_LEASE_S)
        in_step(a, b, c, d)
        assert pushed(a) == pushed(b) == pushed(c) == pushed(d) == ["x", "y"]
        assert [forks(node) for node in (a, b, c, d)] == [[], [], [], []]

    def test_who_comes_back_after_a_long_time_keeps_no_fork(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)
        b.stop()
        for i in range(3):
            a.promote(force=True)
            a.submit(push(i))
            a.publish()
        b = group.node("b")
        in_step(a, b)
        assert pushed(b) == ["x", 0, 1, 2]
        assert forks(b) == []

    def test_a_node_whose_only_divergent_tail_is_the_record_of_a_term_keeps_no_fork(self, group: Group) -> None:
        """The record of a term is above everything, and holds nothing."""
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        in_step(a, b)
        b.stop()
        before = group.server.state
        a.promote()
        log.down = "cut off"
        group.fail_over(before)
        b = group.node("b", lease_s=SHORT_LEASE_S)
        b.wait(position="1-2", timeout_s=PATIENCE_S)
        eventually(lambda: b._ha_loop.look is not None and not b._ha_loop.look.heartbeats["a"].alive)
        b.promote(timeout_s=PATIENCE_S)
        b.submit(push("y"))
        log.down = ""
        in_step(a, b)
        assert pushed(a) == ["x", "y"]
        assert forks(a) == []

    def test_a_node_that_has_no_change_keeps_no_fork(self, group: Group) -> None:
        a, log = group.primary("a"), group.log()
        b = group.node("b", log=log)
        in_step(a, b)
        log.down = "cut off"
        for i in range(3):
            a.submit(push(i))
            a.publish()
        a.promote()
        log.down = ""
        in_step(a, b)
        assert pushed(b) == [0, 1, 2]
        assert forks(b) == []

    def test_a_state_that_was_replaced_on_purpose_is_no_fork(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("old"))
        in_step(a, b)
        a.replace([["pushed", ["new"]]])
        in_step(a, b)
        assert forks(a) == forks(b) == []


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """`recover` waits for heartbeats that come ten times a second."""
    monkeypatch.setattr(election, "BEAT_EVERY_MS_MAX", 100)


def broken_by(how: str, group: Group) -> None:
    if how == "stray":
        group.server.stray(RecordId(1_700_000_000_000, 0))
    elif how == "gone":
        group.server.flush()
    else:
        group.server._write(entries=(), exists=False, last_id=RecordId(0, 0))


BROKEN = ["gone", "half", "stray"]


@pytest.mark.usefixtures("quickly")
class TestLogLost:
    def test_a_log_that_is_gone_leaves_the_node_reading_and_it_says_so(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        group.server.flush()
        assert "there is none" in eventually(lambda: a.problem)
        with pytest.raises(LogLost, match="replicator recover"):
            a.submit(push("y"))
        after_beats(3, a)
        (told,) = ops.status(group.log()).nodes
        assert "there is none" in str(told.problem)
        assert told.alive
        assert "replicator recover" in str(ops.status(group.log()).problem)
        assert (a.failed, a.role, pushed(a)) == (None, "standby", ["x"])

    def test_nothing_but_a_heartbeat_is_written_where_the_log_was(self, group: Group) -> None:
        nodes = [group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S, auto_promote=True)]
        group.server.flush()
        empty = replace(group.server.state, beats=())
        after_beats(5, *nodes)
        assert replace(group.server.state, beats=()) == empty

    def test_a_write_to_a_log_that_is_gone_writes_nothing(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=60.0)

        def flushed(record: Any) -> Reply:
            group.server.flush()
            return log.execute(record)

        log.faults.append(flushed)
        with pytest.raises(LogLost):
            a.submit(push("y"))
        assert pushed(a) == []

    def test_a_marker_that_is_asked_for_when_the_log_is_gone_does_not_end_the_primary(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        broken_by("half", group)
        group.log().ask("digest", by="test")
        assert "there is none" in eventually(lambda: a.problem)
        eventually(lambda: a.role == "standby")
        assert a.failed is None

    def test_an_answer_that_was_lost_with_the_log_stays_unknown(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)

        def lost(record: Any) -> Reply:
            log.execute(record)
            group.server.flush()
            raise OutcomeUnknown(url=log.url, problem="the answer was lost")

        log.faults.append(lost)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        after_beats(3, a)
        assert (a.failed, pushed(a)) == (None, [])

    @pytest.mark.parametrize("how", BROKEN)
    def test_recovered_from_the_most_advanced_node_the_group_goes_on(self, group: Group, how: str) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        c = group.node("c", log=log, lease_s=SHORT_LEASE_S)
        a.submit(push("all have it"))
        in_step(a, b, c)
        log.deaf = True
        a.submit(push("a and b have it"))
        in_step(a, b)
        log.down = "cut off"
        a._replica.flush()
        a_as_left = group.crash(a)
        broken_by(how, group)
        log.down, log.deaf = "", False
        eventually(lambda: b.problem and c.problem)
        group.wake()
        eventually(lambda: {"b", "c"} <= {n.name for n in ops.status(group.log()).nodes if n.alive and n.problem})
        done = ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        assert (done.node, done.term, done.id) == ("b", ERA + 1, f"{ERA + 1}-1")
        b.wait(role="primary", timeout_s=PATIENCE_S)
        b.submit(push("next"))
        in_step(b, c)
        assert (b.failed, c.failed) == (None, None)
        eventually(lambda: b.problem == c.problem == "")
        a = group.node("a", data_dir=a_as_left, lease_s=SHORT_LEASE_S)
        in_step(a, b, c)
        assert pushed(a) == pushed(b) == pushed(c) == ["all have it", "a and b have it", "next"]
        assert forks(a) == forks(b) == forks(c) == []
        eventually(lambda: ops.status(group.log()).problem is None)
        assert ops.verify(group.log(), by="test").equal

    def test_what_only_others_had_becomes_a_fork(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        a.submit(push("both"))
        in_step(a, b)
        b.stop()
        a.submit(push("a has it"))
        group.server.flush()
        log.down = "cut off"
        b = group.node("b", lease_s=SHORT_LEASE_S)
        ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        b.wait(role="primary", timeout_s=PATIENCE_S)
        log.down = ""
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["both"]
        assert fork_of(a) == ("1-2", [push("both"), push("a has it")])

    def test_the_tokens_of_before_are_still_good_after_a_recovery(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        group.server.flush()
        eventually(lambda: a.problem)
        ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        a.wait(role="primary", position="1-2", timeout_s=PATIENCE_S)
        with pytest.raises(PositionLost, match="term 1 ended at 1-2"):
            a.wait(position="1-3", timeout_s=PATIENCE_S)

    def test_where_nodes_may_the_most_advanced_founds_it_by_itself(self, group: Group) -> None:
        logs = {name: group.faulty_log() for name in "bcd"}
        options = {"lease_s": SHORT_LEASE_S, "on_log_lost": "recover"}
        a = group.primary("a", **options)
        b, c, d = (group.node(name, log=logs[name], **options) for name in "bcd")
        a.submit(push("all"))
        in_step(a, b, c, d)
        logs["d"].deaf = True
        a.submit(push("b and c"))
        in_step(a, b, c)
        logs["b"].deaf = True
        a.submit(push("c"))
        in_step(a, c)
        a._replica.flush()
        a_as_left = group.crash(a)
        group.server.flush()
        logs["b"].deaf = logs["d"].deaf = False
        c.wait(role="primary", timeout_s=PATIENCE_S)
        c.submit(push("next"))
        in_step(b, c, d)
        a = group.node("a", data_dir=a_as_left, **options)
        in_step(a, b, c, d)
        assert all(pushed(node) == ["all", "b and c", "c", "next"] for node in (a, b, c, d))
        assert [forks(node) for node in (a, b, c, d)] == [[], [], [], []]
        assert c.term > ERA
        assert len({node._replica.node_state.view.log_id for node in (a, b, c, d)}) == 1

    def test_a_stray_record_is_recovered_by_nobody_unasked(self, group: Group) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S, on_log_lost="recover")
        broken_by("stray", group)
        after_beats(5, a)
        assert group.server.state.term == 1


class TestAnotherLog:
    """Somebody else's Redis, or database: nothing is written there, and nothing taken from there."""

    def _of_others(self, group: Group, *, term: int = 1) -> Author:
        """Somebody else's log takes the place of the group's."""
        group.server.flush()
        author = lead(group.log(), "z", new_log_id="another", floor=term - 1)
        author.append(push("theirs"))
        return author

    @pytest.mark.parametrize("term", [1, 7])
    def test_it_ends_a_node_at_once(self, group: Group, term: int) -> None:
        nodes = [group.primary("a"), group.node("b", auto_promote=True)]
        nodes[0].submit(push("ours"))
        in_step(*nodes)
        log_id = nodes[0]._replica.node_state.view.log_id
        for node in nodes:
            node._log.down = "cut off"
        self._of_others(group, term=term)
        for node in nodes:
            node._log.disconnect()
            node._log.down = ""
        theirs = group.server.state
        for node in nodes:
            assert isinstance(eventually(lambda node=node: node.failed), LogLost)
            assert "there is log another: the URL leads to another Redis" in str(node.failed)
            with pytest.raises(LogLost):
                node.submit(push("x"))
            assert (pushed(node), node.role) == (["ours"], "standby")
        assert group.server.state == theirs, "not even a heartbeat"
        for node in nodes:
            node.stop()
            saved = _loaded(node)
            assert (saved.log_id, saved.in_sync, str(saved.position.id)) == (log_id, True, "1-2")
        assert group.server.state == theirs

    def test_one_that_replaces_the_log_under_a_node_that_reads_is_not_taken_in(self, group: Group) -> None:
        """The reader learns of it before the keeper looks."""
        a = group.primary("a", lease_s=60.0)
        a.submit(push("ours"))
        b = group.node("b", lease_s=60.0)
        in_step(a, b)
        sleeps(group, b)
        self._of_others(group, term=7).snapshot()
        assert isinstance(eventually(lambda: b.failed), LogLost)
        assert (pushed(b), b.term, b.in_sync) == (["ours"], 1, True)

    def test_a_node_does_not_start_there(self, group: Group) -> None:
        group.primary("a").stop()
        self._of_others(group)
        theirs = group.server.state
        with pytest.raises(LogLost, match="there is log another"):
            group.node("a")
        assert group.server.state == theirs

    def test_a_node_that_was_started_without_redis_finds_out_when_it_comes(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("ours"))
        a.stop()
        author = self._of_others(group, term=7)
        author.snapshot()
        author.snapshot()  # so that the log begins with something that does not say whose it is
        log = group.log()
        log.down = "not yet"
        a = group.node("a", log=log)
        log.down = ""
        assert isinstance(eventually(lambda: a.failed), LogLost)
        assert (pushed(a), a.term, a.in_sync) == (["ours"], 1, True)

    def test_a_new_node_joins_whatever_is_there(self, group: Group) -> None:
        group.server.flush()
        lead(group.log(), "z", new_log_id="another").append(push("theirs"))
        a = group.node("a")
        a.wait(n=2, timeout_s=PATIENCE_S)
        assert pushed(a) == ["theirs"]


def _loaded(node: Node) -> Any:
    with Checkpoint(node.data_dir, node.group, node=node.name) as checkpoint:
        loaded = checkpoint.load()
        assert loaded is not None
        return loaded.view


class TestStop:
    def test_it_writes_the_checkpoint_and_gives_the_lease_back(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        a.submit(push("x"))
        assert group.server.look().lease_ms is not None
        a.stop()
        assert group.server.look().lease_ms is None
        log = group.log()
        log.down = "off"
        again = group.node("a", log=log)
        assert str(again.position.id) == "1-2"

    def test_it_can_be_called_twice_and_nothing_is_written_after_it(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.stop()
        a.stop()
        with pytest.raises(NotPrimary):
            a.submit(push("y"))
        assert pushed(a) == ["x"]
        assert a.role == "standby"

    def test_it_may_be_called_on_a_node_that_was_never_started(self, group: Group) -> None:
        group.new_node("a").stop()

    def test_it_finishes_the_record_under_way(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        under_way, go_on = threading.Event(), threading.Event()

        def wait(record: Any) -> Reply:
            under_way.set()
            assert go_on.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.append(wait)
        written = in_thread(lambda: a.submit(push("x")))
        assert under_way.wait(PATIENCE_S)
        stopped = in_thread(a.stop)
        assert a._stopping.wait(PATIENCE_S)
        go_on.set()
        assert written() == 1
        stopped()
        again = group.node("a")
        assert pushed(again) == ["x"]

    def test_writers_that_wait_meanwhile_are_refused(self, group: Group) -> None:
        a = group.primary("a")
        refused = threading.Event()

        def write() -> list[Any]:
            done = []
            try:
                while True:
                    done.append(a.submit(push("x")))
            except NotPrimary:
                refused.set()
            return done

        writers = [in_thread(write) for _ in range(4)]
        eventually(lambda: a.position.id.n > 10)
        a.stop()
        done = sorted(place for writer in writers for place in writer())
        assert done == list(range(1, len(done) + 1))
        assert len(pushed(a)) == len(done)

    def test_it_ends_a_restore_wherever_that_runs(self, group: Group) -> None:
        a = group.primary("a")
        for number in range(500):
            a.submit(put(f"{number:03}", number))
        a.publish()
        a.submit(push("since"))
        a.publish()  # the log is cut: whoever comes needs the snapshot

        class Slow(KV):
            drawn = 0

            def restore(self, pieces: Any) -> None:
                def slowly() -> Iterator[Any]:
                    for piece in pieces:
                        self.drawn += 1
                        time.sleep(0.05)
                        yield piece

                super().restore(slowly())

        state = Slow()
        b = group.node("b", state=state)
        eventually(lambda: state.drawn, "the restore")
        b.stop()
        assert state.drawn < 500
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(("b-", "restore-"))]
        again = group.node("b")
        again.wait(position=str(a.position.id), timeout_s=PATIENCE_S)
        assert document(again) == document(a)

    def test_a_node_that_is_stopped_leaves_no_thread(self, group: Group) -> None:
        a = group.primary("a")
        a.stop()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("a-")]


class TestStrays:
    def test_a_stray_record_is_reported_and_nothing_is_skipped(self, group: Group) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        group.server.stray(RecordId(1_700_000_000_000, 0))
        with pytest.raises(CorruptRecord, match="1700000000000-0"):
            a.submit(push("y"))
        eventually(lambda: "1700000000000-0" in b.problem)
        assert pushed(a) == pushed(b) == ["x"]
        assert "1700000000000-0" in (ops.status(group.log()).problem or "")

    def test_what_came_before_the_stray_is_applied(self, group: Group) -> None:
        a, log = group.primary("a"), group.log()
        log.down = "not yet"
        b = group.node("b", log=log)
        a.submit(push("x"))
        group.server.stray(RecordId(1_700_000_000_000, 0))
        log.down = ""
        eventually(lambda: "1700000000000-0" in b.problem)
        assert pushed(b) == ["x"]


class TestFullDisk:
    def test_a_standby_applies_nothing_that_was_not_saved_and_goes_on_later(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a"), group.node("b", lease_s=SHORT_LEASE_S)
        a.submit(push("x"))
        in_step(a, b)
        mended = failing_disk(monkeypatch, b)
        a.submit(push("y"))
        eventually(lambda: "ENOSPC" in b.problem)
        assert pushed(b) == ["x"]
        assert str(b.position.id) == "1-2"
        mended.set()
        in_step(a, b)
        assert pushed(b) == ["x", "y"]
        eventually(lambda: b.problem == "")

    def test_a_snapshot_that_cannot_be_saved_is_not_restored_and_is_tried_again(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)
        mended = failing_disk(monkeypatch, b)
        a.replace([["pushed", ["new"]]])
        eventually(lambda: "ENOSPC" in b.problem)
        assert b.stalled is None
        assert pushed(b) == ["x"]
        mended.set()
        in_step(a, b)
        assert pushed(b) == ["new"]

    def test_a_primary_replaces_its_state_although_it_can_only_save_later(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b")
        a.submit(push("x"))
        in_step(a, b)
        mended = failing_disk(monkeypatch, a)
        a.replace([["pushed", ["new"]], *(["data", key, value] for key, value in large().items())])
        assert a.stalled is None
        in_step(a, b)
        assert document(a) == document(b)
        mended.set()
        a.wait(role="primary", timeout_s=PATIENCE_S)
        a.submit(push("y"))
        eventually(lambda: a.problem == "" and self._saved(a) == a.position)
        a = group.node("a", data_dir=group.crash(a))
        assert pushed(a) == ["new", "y"]

    def _saved(self, node: Node) -> Any:
        loaded = node._checkpoint.load()
        return loaded and loaded.view.position

    def test_a_primary_saves_later_what_it_could_not_save(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a = group.primary("a", lease_s=SHORT_LEASE_S)
        mended = failing_disk(monkeypatch, a)
        a.submit(push("x"))
        eventually(lambda: "ENOSPC" in a.problem)
        mended.set()
        eventually(lambda: self._saved(a) == a.position)
        log = group.log()
        log.down = "off"
        as_left = group.crash(a)
        again = group.node("a", data_dir=as_left, log=log)
        assert pushed(again) == ["x"]


class TestLag:
    def test_lag_is_unknown_where_nobody_can_know_it(self, group: Group) -> None:
        a, log = group.primary("a", lease_s=SHORT_LEASE_S), group.log()
        b = group.node("b", log=log, lease_s=SHORT_LEASE_S)
        in_step(a, b)
        eventually(lambda: b.lag == (0, 0.0))
        log.down = "cut off"
        eventually(lambda: b.lag == (None, None))


def test_a_beat_under_way_does_not_take_a_goodbye_back(group: Group) -> None:
    # given a standby that stops while its keeper is about to report
    a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", lease_s=SHORT_LEASE_S)
    in_step(a, b)
    ha_loop, beat, end = b._ha_loop, b._ha_loop._beat, b._ha_loop.end
    about_to, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def late_beat() -> None:
        about_to.set()
        go_on.wait(PATIENCE_S)
        beat()
        done.set()

    def ended(**options: Any) -> None:
        end(**options)
        go_on.set()
        done.wait(PATIENCE_S)

    ha_loop._beat, ha_loop.end = late_beat, ended  # type: ignore[method-assign]
    assert about_to.wait(PATIENCE_S)
    # when it has stopped
    b.stop()
    # then the group knows that it left
    assert group.server.look().heartbeats["b"].left
