"""Snapshots that nodes send and take, replacements of the whole state, and digests of it."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import replicator.node.commit_queue
import replicator.node.publisher
from replicator import (
    ChangeTooLarge,
    ConfigError,
    Fenced,
    LogUnavailable,
    NotJSON,
    NotPrimary,
    OutcomeUnknown,
    Outdated,
    RecordId,
    ops,
)
from replicator.format.records import PartRecord
from replicator.log.interface import Batch
from replicator.node.consumer import PARTS_AT_ONCE, RECORDS_AT_ONCE
from replicator.protocol import snapshot_due
from replicator.protocol.group import Reply
from replicator.testing import MemoryLog
from tests.support.kv import (
    BEAT_S,
    KV,
    PATIENCE_S,
    Group,
    after_beats,
    document,
    eventually,
    in_step,
    in_thread,
    push,
    pushed,
    put,
)
from tests.support.nodes import impatient, large, saves_nothing_unasked
from tests.support.opaque import KIB, Text, pieces


class TestSnapshotsThatAreTooHeavy:
    def test_a_standby_says_so_in_its_heartbeat_and_takes_the_next_one(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=0.05)
        a.submit(put("large", "x" * 100_000))
        a.publish()
        a.submit(push("since"))
        a.publish()
        b = group.node("b", beat_every_s=BEAT_S, snapshot_bytes_max=50_000)
        eventually(lambda: "is not taken" in b.problem, "it names it")
        shown = eventually(lambda: ops.status(group.log()).nodes[-1].problem, "it reports it")
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


class TestSnapshots:
    def test_a_node_that_is_out_of_sync_gets_a_snapshot_from_the_primary(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        for i in range(5):
            a.submit(push(i))
        a.publish()
        a.publish()  # now the log does not begin at its beginning
        a.submit(push(5))
        state = group.server.state
        # A reader that finds changes behind a gap, and no snapshot.
        group.server._write(entries=tuple(e for e in state.entries if b'"part"' not in e.header))
        b = group.node("b", beat_every_s=BEAT_S)
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
        monkeypatch.setattr(snapshot_due, "SNAPSHOT_DUE_BYTES_MIN", 100_000)
        log = group.faulty_log()
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b")

        def slow(record: Any) -> Reply:
            beats = a._running.replica.node_state.beats_in_run
            eventually(lambda: a._running.replica.node_state.beats_in_run > beats + 2)
            return log.execute(record)

        for i in range(12):
            a.submit(put("x", random.Random(i).randbytes(8 * 1024).hex()))
            if i == 3:
                log.faults.extend([log.execute] * 8 + [slow])
        eventually(lambda: a._running.checkpoint.payload_bytes > 0)
        beats = a._running.replica.node_state.beats_in_run
        eventually(lambda: a._running.replica.node_state.beats_in_run > beats + 3)
        assert sum(record.kind == "part" for record in log.sent) == 1
        in_step(a, b)
        assert document(a) == document(b)

    @pytest.mark.parametrize(("times", "least_s"), [(0, 1000.0), (10**9, 0.0)])
    def test_behind_a_snapshot_is_a_pause_and_the_beat_looks_when_it_is_over(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, times: int, least_s: float
    ) -> None:
        # given a primary that just sent one, and changes that outweigh it
        monkeypatch.setattr(snapshot_due, "SNAPSHOT_DUE_BYTES_MIN", 10_000)
        monkeypatch.setattr(snapshot_due, "PAUSE_TIMES", times)
        monkeypatch.setattr(snapshot_due, "PAUSE_S_MIN", least_s)
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        a.publish()
        a.submit(put("x", "y" * 20_000))
        after_beats(3, a)
        assert not a._running.primary.publisher.snapshot_is_due
        assert sum(record.kind == "part" for record in log.sent) == 1
        # when the pause is over, then nobody has to write for the next one to be sent
        monkeypatch.setattr(snapshot_due, "PAUSE_TIMES", 0)
        monkeypatch.setattr(snapshot_due, "PAUSE_S_MIN", 0.0)
        eventually(lambda: sum(record.kind == "part" for record in log.sent) == 2)

    def test_no_pause_lets_the_log_grow_without_bounds(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshot_due, "SNAPSHOT_DUE_BYTES_MIN", 10_000)
        monkeypatch.setattr(snapshot_due, "OVERDUE_BYTES_MIN", 100_000)
        monkeypatch.setattr(snapshot_due, "PAUSE_S_MIN", 1000.0)
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        a.publish()
        while a._running.replica.saved.changes_bytes <= snapshot_due.changes_bytes_max(
            a._running.replica.saved.snapshot_bytes
        ):
            a.submit(put("x", "y" * 20_000))
        eventually(lambda: sum(record.kind == "part" for record in log.sent) == 2)

    def test_what_a_snapshot_has_makes_no_other_one_due_although_the_disk_lags(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # given a primary whose disk lags
        monkeypatch.setattr(snapshot_due, "SNAPSHOT_DUE_BYTES_MIN", 10_000)
        monkeypatch.setattr(snapshot_due, "OVERDUE_BYTES_MIN", 100_000)
        monkeypatch.setattr(snapshot_due, "PAUSE_S_MIN", 1000.0)
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        a.publish()
        saves_nothing_unasked(a)
        for number in (2, 3):
            # when there are so many changes that no pause counts
            for i in range(5):
                a.submit(put("x", f"{i}" * 20_000))
            # then one snapshot follows, and not another one before there are as many again
            eventually(lambda number=number: sum(record.kind == "part" for record in log.sent) >= number)
            after_beats(3, a)
            assert sum(record.kind == "part" for record in log.sent) == number

    def test_a_new_primary_knows_of_no_pause(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        # given a group whose primary sent one, and then changes that outweigh it
        monkeypatch.setattr(snapshot_due, "SNAPSHOT_DUE_BYTES_MIN", 10_000)
        monkeypatch.setattr(snapshot_due, "PAUSE_S_MIN", 1000.0)
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        a.publish()
        a.submit(put("x", "y" * 20_000))
        in_step(a, b)
        first = group.server.look().head.snapshot_at
        # when another one leads, it sends the next one at once, and only that
        b.promote(timeout_s=PATIENCE_S)
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
        group.log().request("snapshot", by="second")
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
        assert gc.get_freeze_count() <= frozen  # of what is frozen some may be let go

    def test_changes_that_wait_for_a_part_go_before_the_next_one(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        queue = a._running.primary.commits._queue
        # Others have a moment: here, as long as they need.
        monkeypatch.setattr(replicator.node.commit_queue, "let_others_run", lambda _: eventually(lambda: not queue))
        for key, value in large().items():
            a.submit(put(key, value))
        sent = len(log.sent)
        waiting: list[Callable[[], Any]] = []

        def one_waits(record: Any) -> Reply:
            waiting.append(in_thread(lambda: a.submit(push(record.part))))
            eventually(lambda: a._running.primary.commits.has_queued)
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
        # given a primary in the middle of sending a part, and a change that found the write lock taken
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
        eventually(lambda: a._running.primary.commits._queue, "the change in the queue")
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
        eventually(lambda: b._running.replica._rebuild.closed)
        go_on.set()
        stopped()
        # then
        assert b._setup.state.data == {}
        again = group.node("b", state=KV())
        in_step(a, again)
        assert document(again) == document(a)

    def test_while_parts_pass_by_few_records_are_read_at_once(self, group: Group) -> None:
        # given
        asked: list[tuple[bool, int]] = []

        class Counting(MemoryLog):
            def read(self, after: RecordId | None, **options: Any) -> Batch:
                asked.append((b._running.replica.node_state.view.follows_snapshot, options["count"]))
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

    @pytest.mark.parametrize(
        "send", [lambda a: a.publish(), lambda a: a.replace([["pushed", []]])], ids=["own", "replaces"]
    )
    def test_what_a_snapshot_cut_is_swept_to_the_end_and_writes_go_on_meanwhile(
        self, group: Group, send: Callable[[Any], object]
    ) -> None:
        # given a log that deletes what was cut in three slices
        swept: list[object] = []

        class InSlices(MemoryLog):
            def sweep(self) -> bool:
                swept.append(in_thread(lambda: a.submit(push("meanwhile")))())
                return len(swept) < 3

        a = group.primary("a", log=InSlices(group.server))
        swept.clear()
        # when
        send(a)
        # then
        assert len(swept) == 3

    def test_the_log_is_asked_to_sweep_after_what_cut_something_and_not_after_a_patch(self, group: Group) -> None:
        class Counting(MemoryLog):
            sweeps = 0

            def sweep(self) -> bool:
                self.sweeps += 1
                return False

        log = Counting(group.server)
        rest = pieces(100 * KIB)
        a = group.primary("a", log=log, state=Text([b"one", *rest]))
        for text, what, more in ((b"one", "whole", 1), (b"two", "patch", 0), (b"three", "patch", 0)):
            a._setup.state.pieces, before = [text, *rest], log.sweeps
            assert a.publish().what == what
            assert log.sweeps == before + more

    def test_a_sweep_takes_no_longer_than_its_caller_has_and_keeps_nobody_from_publishing(self, group: Group) -> None:
        class Endless(MemoryLog):
            sweeps = 0

            def sweep(self) -> bool:
                self.sweeps += 1
                return True

        log = Endless(group.server)
        a = group.primary("a", log=log)
        replacing = in_thread(lambda: a.replace([["pushed", ["x"]]], timeout_s=2.0))
        eventually(lambda: log.sweeps > 3)
        assert a._running.primary.publisher.publishes is False
        replacing()
        assert pushed(a) == ["x"]

    def test_a_sweep_that_fails_is_left_to_the_next_snapshot(self, group: Group) -> None:
        class Refusing(MemoryLog):
            def sweep(self) -> bool:
                raise LogUnavailable.refuses(self.url, "LOADING")

        a = group.primary("a", log=Refusing(group.server))
        a.submit(push("x"))
        a.publish()
        assert a._running.primary.publisher.publishes is False
        assert group.log().look().head.snapshot_at > RecordId(0, 0)  # type: ignore[union-attr]

    def test_a_snapshot_that_is_interrupted_by_a_replacement_is_not_restored(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log), group.node("b")
        for key, value in large().items():
            a.submit(put(key, value))

        def replaced(record: Any) -> Reply:
            reply = log.execute(record)
            b.promote(timeout_s=PATIENCE_S)
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
            a.promote(timeout_s=PATIENCE_S)
            yield pieces[-1]

        with monkeypatch.context() as patched:
            patched.setattr(a._setup.state, "snapshot", promoted_meanwhile)
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
        b._setup.state.in_restore = lambda: seen.append(b._setup.state.data.copy())
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
            with pytest.raises(Outdated, match=f"has changed since {position}, it is at 1-2 now: nothing was"):
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
        b.promote(timeout_s=PATIENCE_S)
        assert b.position.id > RecordId.parse(seen)
        b.replace([["pushed", ["new"]]], expect=seen)
        assert pushed(b) == ["new"]
        with pytest.raises(Outdated):
            b.replace([["pushed", ["newer"]]], expect=seen)

    def test_a_change_that_is_on_its_way_when_it_is_compared_counts(self, group: Group) -> None:
        """The comparison is under the write lock, and not a look before."""
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
        eventually(lambda: a._running.replica.write_lock.is_wanted)
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
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b")
        impatient(a)

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

    def test_the_collector_is_held_while_a_state_is_digested(self, group: Group) -> None:
        a, on = group.primary("a"), []
        snapshot = a._setup.state.snapshot

        def watched() -> Iterator[Any]:
            for piece in snapshot():
                on.append(gc.isenabled())
                yield piece

        a._setup.state.snapshot = watched  # type: ignore[method-assign]
        assert ops.verify(group.log(), by="test").equal
        assert set(on) == {False}
        eventually(gc.isenabled)

    def test_a_state_that_cannot_be_digested_does_not_leave_the_collector_off(self, group: Group) -> None:
        a = group.primary("a")
        a._setup.state.snapshot = lambda: iter([{}, {"no": object()}, {}])  # type: ignore[method-assign]
        assert ops.verify(group.log(), by="test").undrawn == ["a"]
        eventually(lambda: a.problem)  # the error is kept, and with it what it came through
        eventually(gc.isenabled)

    def test_an_apply_that_is_not_deterministic_is_found(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        b._setup.state.in_apply = lambda change: b._setup.state.data.update(who="b")
        a.submit(put("x", 1))
        report = ops.verify(group.log(), by="test")
        assert not report.equal
        assert report.late_nodes == []
        assert report.digests["a"] != report.digests["b"]
