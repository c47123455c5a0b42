"""What the primary writes and how it takes answers, without a node around it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import replicator.node.commit_queue
from replicator import (
    CorruptRecord,
    Fenced,
    LeaseLost,
    LogLost,
    LogUnavailable,
    NotJSON,
    NotPrimary,
    OutcomeUnknown,
)
from replicator.format.codec import encoded
from replicator.format.ids import ZERO_ID, RecordId, Writer
from replicator.format.records import PartRecord
from replicator.node.commit_queue import BATCH_CHANGES_MAX
from replicator.node.commit_waiters import Waiting
from replicator.node.lease import Lease
from replicator.node.primary import Primary
from replicator.protocol.group import Code, Reply
from replicator.replica.replica import Replica
from replicator.storage.checkpoint import Checkpoint
from replicator.testing import MemoryRedis
from tests.support.kv import KV, FaultyLog, eventually, in_thread, push, put
from tests.support.worlds import lead

ME = Writer("a", "boot-a")


class Setup:
    """A primary that holds term 1 and has its lease."""

    def __init__(self, directory: Path) -> None:
        self.server = MemoryRedis()
        self.log = FaultyLog(self.server)
        self.checkpoint = Checkpoint(directory, "g", node="a")
        self.replica = Replica(KV(), self.checkpoint, ME)
        self.lease = Lease(60.0)
        self.primary = Primary(self.log, self.replica, self.lease, patience_s=0.05)
        self.replica.known.talks_to("run-1")
        lead(self.log, ME.node, boot=ME.boot)
        self.replica.take(self.log.read(ZERO_ID).records)
        self.lease.renewed(self.lease.now())

    def submit(self, change: Any, **options: Any) -> Any:
        """What apply returned."""
        return self.commit(change, **options)[1]

    def commit(self, change: Any, **options: Any) -> tuple[RecordId, Any]:
        id, results = self.commit_many([change], **options)
        return id, results[0]

    def commit_many(self, changes: list[Any], **options: Any) -> tuple[RecordId, list[Any]]:
        return self.primary.commits.submit(
            encoded(changes), **{"timeout_s": 5.0, "term": None, "wants_acks": False} | options
        )

    @property
    def in_log(self) -> list[str]:
        return [str(entry.id) for entry in self.server.state.entries]


@pytest.fixture
def a(tmp_path: Path) -> Iterator[Setup]:
    setup = Setup(tmp_path)
    yield setup
    setup.checkpoint.close()


def answers(code: Code, **more: Any) -> Any:
    return lambda record: Reply(code, **more)


class TestAnswers:
    @pytest.mark.parametrize(
        ("reply", "error", "leads_on"),
        [
            (Reply(Code.FENCED, term=2, node="b"), Fenced, False),
            (Reply(Code.NEW_RUN), NotPrimary, False),
            (Reply(Code.BEHIND, id=RecordId(1, 1)), NotPrimary, False),
            (Reply(Code.LOST), LogLost, False),
            (Reply(Code.STRAY, id=RecordId(9, 9)), CorruptRecord, True),
        ],
        ids=lambda value: value.code.value if isinstance(value, Reply) else "",
    )
    def test_each_refusal_is_an_error_of_its_own_and_the_state_stays(
        self, a: Setup, reply: Reply, error: type[Exception], leads_on: bool
    ) -> None:
        a.log.faults.append(lambda record: reply)
        with pytest.raises(error):
            a.submit(push("x"))
        assert a.replica.applied.state.pushed == []
        assert a.replica.node_state.is_primary is leads_on

    def test_a_duplicate_is_as_good_as_an_ok(self, a: Setup) -> None:
        def twice(record: Any) -> Reply:
            a.log.execute(record)
            return a.log.execute(record)

        a.log.faults.append(twice)
        assert a.submit(push("x")) == 1
        assert a.in_log == ["1-1", "1-2"]

    def test_a_repeat_that_is_refused_by_a_newer_term_is_looked_up(self, a: Setup) -> None:
        a.log.faults.extend([a.log.lose_the_request, answers(Code.FENCED, term=2, node="b")])
        with pytest.raises(Fenced):
            a.submit(push("x"))
        assert a.replica.applied.state.pushed == []

    def test_a_repeat_that_meets_another_run_leaves_the_outcome_unknown(self, a: Setup) -> None:
        a.log.faults.extend([a.log.lose_the_request, answers(Code.NEW_RUN)])
        with pytest.raises(OutcomeUnknown, match="newrun after an answer was lost"):
            a.submit(push("x"))
        assert not a.replica.node_state.holds_term

    def test_another_record_in_its_place_is_not_taken_for_it(self, a: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        a.log.faults.extend([a.log.lose_the_request, answers(Code.FENCED, term=2, node="b")])
        monkeypatch.setattr(a.log, "find", lambda id: replace(a.log.sent[-1], chain="f" * 32))
        with pytest.raises(Fenced):
            a.submit(push("x"))
        assert a.replica.applied.state.pushed == []


#: Between the first attempt to send a record and the last word on it, Python calls functions of these.
ON_THE_WAY = ("writer.py", "write_outcome.py", "backoff.py", "write_lock.py", "log_once.py")


def interrupted_at(count: int, call: Any) -> bool:
    """Call it, with a Ctrl-C when the way of a record comes to its call number `count`; whether it came so far."""
    calls, before = 0, sys.gettrace()

    def traced(frame: Any, event: str, _: object) -> None:
        nonlocal calls
        calls += frame.f_code.co_filename.endswith(ON_THE_WAY)
        if calls == count:
            sys.settrace(before)
            raise KeyboardInterrupt

    sys.settrace(traced)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


class TestInterrupts:
    @pytest.mark.parametrize("fault", ["execute", "lose_the_answer", "lose_the_request"])
    def test_a_ctrl_c_after_whichever_call_costs_neither_the_term_nor_the_lock(
        self, a: Setup, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        monkeypatch.setattr("replicator.node.writer.RESEND_S", 0.0)

        def submit() -> None:
            a.log.faults.append(getattr(a.log, fault))
            a.submit(push("x"))

        count = 1
        while interrupted_at(count, submit):
            a.log.faults.clear()
            a.submit(push("y"))
            pushed = a.replica.applied.state.pushed
            assert pushed.count("y") == count, "it is written, and nobody has to lead anew"
            assert len(a.in_log) == 1 + len(pushed), "what is in the log was applied, once"
            count += 1
        assert count > 10


class TestMeanwhile:
    """What follows from a change is worked out between its request and the answer."""

    @pytest.mark.parametrize("lands", [True, False])
    def test_an_interrupt_in_between_leaves_the_record_to_be_settled(
        self, a: Setup, monkeypatch: pytest.MonkeyPatch, lands: bool
    ) -> None:
        def interrupted(record: Any) -> Any:
            if not lands:
                a.server.state = before
            raise KeyboardInterrupt

        before = a.server.state
        with monkeypatch.context() as patched:
            patched.setattr(a.replica, "prepare", interrupted)
            with pytest.raises(KeyboardInterrupt):
                a.submit(push("x"))
        assert a.primary.writer.unresolved is not None
        assert a.replica.applied.state.pushed == []
        assert a.log._run == "", "the connection was given up: its answer is unread"
        # then it is in the log, once, before the next one
        assert a.submit(push("y")) == 2
        assert a.replica.applied.state.pushed == ["x", "y"]
        assert a.in_log == ["1-1", "1-2", "1-3"]

    def test_it_is_thrown_away_if_the_answer_is_no(self, a: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        prepared: list[Any] = []
        prepare = a.replica.prepare
        monkeypatch.setattr(a.replica, "prepare", lambda record: prepared.append(prepare(record)) or prepared[-1])
        a.log.faults.append(answers(Code.STRAY, id=RecordId(9, 9)))
        before = a.replica.node_state
        with pytest.raises(CorruptRecord):
            a.submit(push("x"))
        assert len(prepared) == 1
        assert a.replica.node_state is before
        assert a.replica.saved.changes_bytes == 0
        assert a.replica.applied.state.pushed == []

    def test_it_is_worked_out_anew_if_the_term_is_heard_to_be_over(
        self, a: Setup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare = a.replica.prepare

        def heard(record: Any) -> Any:
            prepared = prepare(record)
            a.replica.known.refused(Reply(Code.FENCED, term=2, node="b"))
            return prepared

        with monkeypatch.context() as patched:
            patched.setattr(a.replica, "prepare", heard)
            assert a.submit(push("x")) == 1, "it was in the log before"
        assert a.replica.node_state.over == 1
        assert a.replica.applied.state.pushed == ["x"]


class TestDoor:
    def test_without_the_lease_nothing_is_sent(self, a: Setup) -> None:
        a.lease.lost()
        with pytest.raises(LeaseLost, match="Nothing was written"):
            a.submit(push("x"))
        assert a.log.sent == []

    def test_a_standby_sends_nothing(self, a: Setup) -> None:
        a.replica.known.talks_to("")
        for write in (lambda: a.submit(push("x")), a.primary.publisher.publish, a.primary.commits.mark):
            with pytest.raises(NotPrimary):
                write()
        assert a.log.sent == []

    def test_a_change_for_another_term_is_refused_without_being_sent(self, a: Setup) -> None:
        with pytest.raises(Fenced):
            a.submit(push("x"), term=7)
        assert a.log.sent == []
        assert a.submit(push("x"), term=1) == 1

    def test_a_term_that_ends_while_a_record_is_made_is_for_the_log_to_refuse(
        self, a: Setup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # given a keeper whose renewal is refused just between the look at the member and the record
        encode = replicator.node.commit_queue.encode_changes

        def heard_meanwhile(changes: Any) -> Any:
            a.replica.known.refused(Reply(Code.FENCED, term=2, node="b"))
            return encode(changes)

        monkeypatch.setattr(replicator.node.commit_queue, "encode_changes", heard_meanwhile)
        lead(a.log, "b", boot="boot-b")
        # then the submitter learns what the log says, and nothing else
        with pytest.raises(Fenced):
            a.submit(push("x"))
        assert len(a.log.sent) == 1

    def test_what_is_not_json_is_refused_before_it_is_queued(self, a: Setup) -> None:
        with pytest.raises(NotJSON):
            a.submit(object())
        assert not a.primary.commits._queue


class TestBatches:
    def test_no_more_than_so_many_changes_share_a_record(self, a: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.node.commit_queue, "BATCH_CHANGES_MAX", 3)
        with a.replica.write_lock:
            writers = [in_thread(lambda i=i: a.submit(push(i))) for i in range(7)]
            eventually(lambda: len(a.primary.commits._queue) == 7)
        assert sorted(writer() for writer in writers) == [1, 2, 3, 4, 5, 6, 7]
        assert all(record.count <= 3 for record in a.log.sent)

    def test_each_submitter_learns_in_which_record_its_change_is(self, a: Setup) -> None:
        with a.replica.write_lock:
            writers = [in_thread(lambda i=i: a.commit(push(i))) for i in range(3)]
            eventually(lambda: len(a.primary.commits._queue) == 3)
        assert sorted(writer() for writer in writers) == [(RecordId(1, 2), i) for i in (1, 2, 3)]
        assert a.commit(push("x")) == (RecordId(1, 3), 4)

    def test_a_record_asks_for_acks_if_one_of_its_submitters_waits_for_standbys(self, a: Setup) -> None:
        with a.replica.write_lock:
            writers = [in_thread(lambda i=i: a.submit(push(i), wants_acks=i == 1)) for i in range(3)]
            eventually(lambda: len(a.primary.commits._queue) == 3)
        for writer in writers:
            writer()
        a.submit(push("x"))
        a.primary.commits.mark()
        assert [(record.count, record.wants_acks) for record in a.log.sent] == [(3, True), (1, False), (0, False)]

    def test_others_get_the_turn_although_there_is_always_more_to_commit(self, a: Setup) -> None:
        # given a queue that is never empty: who is told of one change has the next one ready
        more = True

        class Again(Waiting):
            def wake(self) -> None:
                pass  # somebody commits already

            def finish(self) -> None:
                self.done = True
                time.sleep(0.001)
                if more:
                    a.primary.commits.enqueue(Again(encoded([push(1)] * BATCH_CHANGES_MAX), None, wants_acks=False))

        for _ in range(3):
            a.primary.commits.enqueue(Again(encoded([push(1)] * BATCH_CHANGES_MAX), None, wants_acks=False))
        committing = in_thread(a.primary.commits.commit_all)
        eventually(lambda: len(a.log.sent) > 5)
        # then markers and snapshots get in between, soon after their thread has begun
        waited: list[int] = []

        def timed(write: Callable[[], Any]) -> None:
            before = len(a.log.sent)
            write()
            waited.append(len(a.log.sent) - before)

        try:
            for write in (a.primary.commits.mark, a.primary.publisher.publish) * 5:
                in_thread(lambda write=write: timed(write))()
        finally:
            more = False
            committing()
        assert sorted(waited)[4] < 10

    def test_a_marker_is_an_empty_change(self, a: Setup) -> None:
        a.primary.commits.mark()
        assert a.log.sent[0].count == 0
        assert [str(at) for at, *_ in a.replica.applied.markers] == ["1-2"]


class Patient(Waiting):
    """Somebody else's changes, with all the time in the world."""

    def __init__(self, change: Any) -> None:
        super().__init__(encoded([change]), None, wants_acks=False)

    def wake(self) -> None:
        pass

    def finish(self) -> None:
        self.done = True


class TestTime:
    """Who commits for all may have less time than those whose changes it carries."""

    @pytest.fixture
    def a(self, a: Setup) -> Setup:
        a.primary = Primary(a.log, a.replica, a.lease, patience_s=3600.0)
        return a

    def test_it_is_told_when_its_time_is_over_and_they_hear_of_the_same_record_later(self, a: Setup) -> None:
        a.primary.commits.enqueue(patient := Patient(push("patient")))
        a.log.faults.extend([a.log.lose_the_answer] * 1000)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("hasty"), timeout_s=0.1)
        assert not patient.done
        assert a.primary.commits.has_queued
        a.log.faults.clear()
        a.primary.commits.commit_all()
        assert patient.outcome == (RecordId(1, 2), [1])
        assert not a.primary.commits.has_queued
        assert a.replica.applied.state.pushed == ["patient", "hasty"]  # type: ignore[union-attr]
        assert a.in_log == ["1-1", "1-2"]

    def test_nothing_of_theirs_is_lost_either_if_it_could_not_be_sent(self, a: Setup) -> None:
        a.log.faults.extend([a.log.lose_the_request] * 1000)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("first"), timeout_s=0.1)
        patients = [Patient(push(number)) for number in range(3)]
        for patient in patients:
            a.primary.commits.enqueue(patient)
        with pytest.raises(LogUnavailable, match="an earlier write has no answer yet") as caught:
            a.submit(push("second"), timeout_s=0.1)
        assert type(caught.value) is LogUnavailable, "nothing was written"
        assert not any(patient.done for patient in patients)
        a.log.faults.clear()
        a.primary.commits.commit_all()
        assert [patient.outcome for patient in patients] == [(RecordId(1, 3), [number]) for number in (2, 3, 4)]
        assert a.replica.applied.state.pushed == ["first", 0, 1, 2]  # type: ignore[union-attr]

    @pytest.mark.parametrize("knows", [True, False])
    def test_they_hear_when_the_term_ends_before_anybody_knows(self, a: Setup, knows: bool) -> None:
        a.primary.commits.enqueue(patient := Patient(push("patient")))
        a.log.faults.extend([a.log.lose_the_request] * 1000)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("hasty"), timeout_s=0.1)
        a.log.faults.clear()
        lead(a.log, "b")
        if knows:
            a.replica.known.refused(Reply(Code.FENCED, term=2, node="b"))
        a.primary.commits.commit_all()
        with pytest.raises((Fenced, OutcomeUnknown)):
            _ = patient.outcome
        assert not a.primary.commits.has_queued


class TestSnapshots:
    def fill(self, a: Setup) -> None:
        for i in range(40):
            a.submit(put(f"k{i}", random.Random(i).randbytes(12 * 1024).hex()))

    def parts(self, a: Setup) -> list[PartRecord]:
        return [record for record in a.log.sent if isinstance(record, PartRecord)]

    def test_its_parts_fill_their_records_and_only_the_last_one_knows_how_many(self, a: Setup) -> None:
        self.fill(a)
        a.primary.publisher.publish()
        parts = self.parts(a)
        assert [part.part for part in parts] == list(range(len(parts)))
        assert [part.parts for part in parts] == [0] * (len(parts) - 1) + [len(parts)]
        assert len({len(part.body) for part in parts[:-1]}) == 1
        assert len({part.as_of for part in parts}) == 1

    def test_a_snapshot_whose_parts_were_torn_apart_begins_anew(self, a: Setup) -> None:
        self.fill(a)
        a.log.faults.extend([a.log.execute, answers(Code.RESTART)])
        a.primary.publisher.publish()
        assert [part.part for part in self.parts(a)][:4] == [0, 1, 0, 1]
        assert a.server.state.head is not None
        assert a.server.state.head.snapshot_at != ZERO_ID

    def test_an_empty_state_is_one_part(self, a: Setup) -> None:
        a.replica.applied.state.snapshot = lambda: iter([])
        a.primary.publisher.publish()
        assert [(part.part, part.parts) for part in self.parts(a)] == [(0, 1)]

    def test_a_piece_that_is_not_json_ends_it_and_the_log_has_no_whole_snapshot(self, a: Setup) -> None:
        a.replica.applied.state.snapshot = lambda: iter([["pushed", []], float("nan")])
        with pytest.raises(NotJSON):
            a.primary.publisher.publish()
        assert a.server.state.head is not None
        assert a.server.state.head.snapshot_at == ZERO_ID
        assert a.submit(push("x")) == 1
