"""Writing through a node: what a submitter is told, also without an answer or a Redis, and what is tried again."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

import replicator.node.publisher
from replicator import (
    ChangeRejected,
    ChangeTooLarge,
    ConfigError,
    Fenced,
    LogUnavailable,
    Node,
    NotJSON,
    NotPrimary,
    OutcomeUnknown,
    RecordId,
    ReplicatorError,
    ops,
)
from replicator.format.ids import ERA
from replicator.protocol import snapshot_due
from replicator.protocol.group import Reply
from replicator.protocol.heartbeat import Heartbeat
from tests.support.kv import (
    BEAT_S,
    PATIENCE_S,
    FaultyLog,
    Group,
    document,
    eventually,
    in_step,
    in_thread,
    push,
    pushed,
    put,
)
from tests.support.nodes import Counting, impatient, replace_holder


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
        marker = in_thread(node._running.primary.commits.mark)
        assert under_way.wait(PATIENCE_S)
        results = []
        for i, change in enumerate(changes):
            results.append(in_thread(lambda change=change: node.submit(change)))
            eventually(lambda i=i: len(node._running.primary.commits._queue) == i + 1)
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

            node._setup.state.in_apply = pause
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
            node._setup.state.in_apply = lambda change: None

    def test_a_fresh_read_waits_for_what_is_in_the_log(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        for i in range(20):
            a.submit(put("x", i))
            with b.reading(fresh=True, timeout_s=PATIENCE_S) as state:
                assert state.data["x"] == i

    def test_a_change_for_a_term_that_is_over_is_refused_and_the_others_of_its_batch_are_not(
        self, group: Group
    ) -> None:
        a = group.primary("a")
        assert a.submit(push("x"), term=1) == 1
        a.promote(timeout_s=PATIENCE_S)
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
        marker = in_thread(a._running.primary.commits.mark)
        eventually(lambda: log.sent)
        writers = [in_thread(lambda i=i: a.submit(push(i))) for i in range(3)]
        eventually(lambda: len(a._running.primary.commits._queue) == 3)
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

    @pytest.mark.parametrize("moment", ["before it is folded", "before it is sent again"])
    def test_an_interrupt_that_the_program_survives_does_not_cost_the_term(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")
        me, left = threading.get_ident(), [1]

        def interrupting(call: Any) -> Any:
            def called(*args: Any, **more: Any) -> Any:
                if threading.get_ident() == me and left:
                    left.pop()
                    raise KeyboardInterrupt
                return call(*args, **more)

            return called

        # given a record that is in the log, and a Ctrl-C before the node has it, or knows
        if moment == "before it is folded":
            monkeypatch.setattr(a._running.replica, "commit", interrupting(a._running.replica.commit))
        else:
            log.faults.append(log.lose_the_answer)
            monkeypatch.setattr(time, "sleep", interrupting(time.sleep))
        with pytest.raises(KeyboardInterrupt):
            a.submit(push("x"))
        # when the program goes on
        assert a.submit(push("y"), timeout_s=PATIENCE_S) == 2
        # then it is there once, and nobody has to lead anew
        in_step(a, b)
        assert (a.role, a.term, pushed(a), pushed(b)) == ("primary", 1, ["x", "y"], ["x", "y"])

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

    def test_a_timeout_says_what_is_in_the_way(self, group: Group) -> None:
        log = group.log()
        log.down = "Connection refused"
        a = group.node("a", log=log)
        eventually(lambda: a.problem)
        with pytest.raises(TimeoutError, match=r"a is standby at 0-0 after 0 s: Redis at .* is not available: Conn"):
            a.wait(role="primary", timeout_s=0)

    def test_a_standby_that_has_not_read_the_log_yet_does_not_say_that_nobody_leads(self, group: Group) -> None:
        a, log = group.primary("a"), group.faulty_log()
        log.deaf = True
        b = group.node("b", log=log)
        with pytest.raises(NotPrimary, match=r"b is not the primary .* read nothing of the log yet"):
            b.submit(put("x", 1))
        log.deaf = False
        in_step(a, b)
        with pytest.raises(NotPrimary, match="send them to a"):
            b.submit(put("x", 1))

    def test_a_node_of_a_group_without_a_log_says_how_it_is_given_a_primary(self, group: Group) -> None:
        a = group.node("a")
        with pytest.raises(NotPrimary, match="nobody leads the group: `replicator promote NODE`"):
            a.submit(put("x", 1))


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
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b")
        impatient(a)
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
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        impatient(a)
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
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b")
        impatient(a)
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
            b.promote(timeout_s=PATIENCE_S)
            raise OutcomeUnknown(url=log.url, problem="the answer was lost")

        log.faults.append(replaced_meanwhile)
        if executed:
            assert a.submit(push("x"), timeout_s=PATIENCE_S) == 1
        else:
            with pytest.raises(Fenced):
                a.submit(push("x"), timeout_s=PATIENCE_S)
        b.submit(push("y"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == (["x", "y"] if executed else ["y"])

    def test_a_node_that_was_replaced_before_it_could_settle_reads_the_outcome_in_the_log(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b")
        impatient(a)
        self._lose_an_answer_for_good(log, executed=True)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        b.promote(timeout_s=PATIENCE_S)
        b.submit(push("y"))
        log.down = ""
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x", "y"]
        with pytest.raises(NotPrimary):
            a.submit(push("z"))

    def test_a_lost_request_of_a_node_that_was_replaced_meanwhile_is_no_lasting_problem(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b")
        impatient(a)
        self._lose_an_answer_for_good(log, executed=False)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        b.promote(timeout_s=PATIENCE_S)
        log.down = ""
        in_step(a, b)
        eventually(lambda: a.problem == "")
        assert pushed(a) == pushed(b) == []
        assert ops.promote(group.log(), "a", by="ops", timeout_s=PATIENCE_S).term == 3

    def test_what_was_trimmed_away_before_it_was_looked_up_stays_unknown(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b")

        def replaced_and_trimmed(record: Any) -> Reply:
            log.execute(record)
            b.promote(timeout_s=PATIENCE_S)
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
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
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


class TestWhatIsTriedAgain:
    """Each attempt is later after the one before than that was, up to a bound; and it is told once."""

    #: Over so long attempts are counted. On a slow machine there are fewer.
    WATCH_S = 2.0

    def _watch(self) -> float:
        """For so long, or for so many times as long, if this thread itself stood still."""
        began = time.monotonic()
        time.sleep(self.WATCH_S)
        return (time.monotonic() - began) / self.WATCH_S

    def _told(self, caplog: pytest.LogCaptureFixture, text: str) -> int:
        return sum(text in record.getMessage() for record in caplog.records)

    def test_a_snapshot_that_redis_has_no_room_for(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = Counting(group.server)
        a = group.primary("a", log=log, beat_every_s=0.2)
        log.full = True
        with caplog.at_level(logging.INFO, logger="replicator"):
            monkeypatch.setattr(replicator.node.publisher, "snapshot_is_due", lambda *args, **more: True)
            eventually(lambda: log.asked["part"] > 0)
            log.asked.clear()
            times = self._watch()
            assert log.asked["part"] < 12 * times
            assert log.asked["look"] < 30 * times, "the keeper has its beat, and no more"
            eventually(lambda: log.asked["part"] > 0)
            assert self._told(caplog, "publishing a snapshot: the changes outweigh") == 1
            assert self._told(caplog, "the snapshot was not published") == 1
            a.submit(push("x"))
            log.full = False
            monkeypatch.setattr(replicator.node.publisher, "snapshot_is_due", snapshot_due.snapshot_is_due)
            a.publish()
            monkeypatch.setattr(
                replicator.node.publisher, "snapshot_is_due", lambda *args, **more: log.asked["part"] < 100
            )
            eventually(lambda: "the snapshot was published after" in caplog.text)

    def test_a_snapshot_that_does_not_help_the_one_who_needs_it(
        self, group: Group, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = Counting(group.server)
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        a.submit(push("x"))
        far = RecordId(a.term, 10**9)
        group.server.beat(Heartbeat("z", "z1", cursor=far, in_sync=False, every_ms=10**6, run=group.server.state.run))
        eventually(lambda: log.asked["part"] > 0)
        times = self._watch()
        assert log.asked["part"] < 6 * times
        group.server.beat(Heartbeat("z", "z1", cursor=far, every_ms=10**6, run=group.server.state.run))
        a._running.ha_loop.wake()
        eventually(lambda: not a._running.ha_loop.publisher._need._served)

    def test_a_redis_that_is_away(self, group: Group, caplog: pytest.LogCaptureFixture) -> None:
        log = Counting(group.server)
        a = group.node("a", log=log, lease_s=30.0)
        eventually(lambda: log.asked["read"] > 0)
        with caplog.at_level(logging.INFO, logger="replicator"):
            log.down = "it was unplugged"
            eventually(lambda: "unplugged" in a.problem)
            log.asked.clear()
            times = self._watch()
            assert log.asked["read"] < 14 * times
            assert log.asked["look"] < 14 * times
            eventually(lambda: log.asked["read"] > 0)
            assert self._told(caplog, "unplugged") == 1
            log.down = ""
            eventually(lambda: a.problem == "")
            eventually(lambda: "Redis is back after" in caplog.text)
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
        a = group.primary("a", log=log)
        a._running.primary.writer._patience_s = self.WATCH_S
        log.asked.clear()

        def lost(record: Any, **options: Any) -> Reply:
            log.asked["append"] += 1
            raise OutcomeUnknown(url=log.url, problem="no answer")

        log.append = lost  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        assert log.asked["append"] < 15
