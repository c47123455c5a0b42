"""What a node has after it was down, or Redis was; and what it does when it cannot go on."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from replicator import Node, NotAcknowledged, NotPrimary, RecordId, Stalled, ops
from replicator.format.ids import ERA, Writer
from replicator.protocol.group import Claim, Reply
from replicator.replica import save_queue
from replicator.testing import MemoryLog
from tests.support.kv import BEAT_S, KV, PATIENCE_S, Group, after_beats, document, eventually, in_step, push, pushed
from tests.support.nodes import failing_disk, large, saves_nothing_unasked


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
        a = group.primary("a", beat_every_s=BEAT_S)
        a.submit(push("x"))
        a.stop()
        a = group.node("a", on_restart="standby", beat_every_s=BEAT_S)
        eventually(lambda: a._running.replica.node_state.beats_in_run >= 4)
        assert (a.role, a.term) == ("standby", 1)
        assert a.promote(timeout_s=PATIENCE_S) == 2

    def test_a_primary_that_was_replaced_while_it_was_down_follows(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        a.stop()
        b.promote(timeout_s=PATIENCE_S)
        b.submit(push("y"))
        a = group.node("a", beat_every_s=BEAT_S)
        in_step(a, b)
        eventually(lambda: a._running.replica.node_state.beats_in_run >= 3)
        assert (a.role, a.term, pushed(a)) == ("standby", 2, ["x", "y"])

    def test_a_killed_primary_has_all_it_acknowledged(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)  # so that nothing flushes meanwhile
        eventually(lambda: a._running.replica.node_state.beats_in_run > 0)
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
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        for i in range(10):
            a.submit(push(i))
            if i % 3 == 0:
                b = group.node("b", data_dir=group.crash(b), beat_every_s=BEAT_S)
        in_step(a, b)
        assert pushed(b) == list(range(10))

    def test_a_term_is_on_disk_before_anything_of_it_is_applied(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        on_disk_at_apply: list[tuple[int, RecordId]] = []
        b._setup.state.in_apply = lambda change: on_disk_at_apply.append(self._on_disk(b))
        a.promote(timeout_s=PATIENCE_S)
        a.submit(push("x"))
        in_step(a, b)
        ((term, position),) = on_disk_at_apply
        assert term == 2
        assert position >= RecordId(2, 2)

    def test_what_a_killed_standby_had_shown_and_not_saved_it_reads_again_and_a_token_waits_for_that(
        self, group: Group
    ) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        # given a standby that has shown a change which is not on its disk
        saves_nothing_unasked(b)
        a.submit(push("x"))
        in_step(a, b)
        token, shown = str(b.position.id), pushed(b)
        # when it is killed, and cannot read yet
        log = group.log()
        log.down = "not yet"
        b = group.node("b", data_dir=group.crash(b), log=log)
        # then a plain read shows less than before, and one with the token waits
        assert (shown, pushed(b)) == (["x"], [])
        with pytest.raises(TimeoutError):
            b.wait(position=token, timeout_s=0.01)
        # until it has read on
        log.down = ""
        b.wait(position=token, timeout_s=PATIENCE_S)
        assert pushed(b) == ["x"]

    def test_a_standby_has_all_that_it_applied_on_its_disk_when_it_leads(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        saves_nothing_unasked(b)
        a.submit(push("x"))
        in_step(a, b)
        assert self._on_disk(b)[1] < b.position.id
        a.stop()
        b.promote(timeout_s=PATIENCE_S)
        assert self._on_disk(b) == (2, b.position.id)
        b = group.node("b", data_dir=group.crash(b), log=_cut_off(group))
        assert pushed(b) == ["x"]

    def _on_disk(self, node: Node) -> tuple[int, RecordId]:
        saved = node._running.checkpoint.load()
        assert saved is not None
        return saved.view.term, saved.view.position.id

    def test_a_term_is_on_disk_before_the_node_leads_in_it(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a = group.node("a", beat_every_s=BEAT_S)
        mended = failing_disk(monkeypatch, a)
        claim = Claim(writer=Writer("a", a.boot), floor=0, lease_ms=1000, by="test", reason="", new_log_id="log-1")
        group.log().promote(claim)
        eventually(lambda: "ENOSPC" in a.problem)
        assert (a.role, a.term) == ("standby", 0)
        mended.set()
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert self._on_disk(a)[0] == 1

    def test_a_damaged_checkpoint_is_set_aside_and_the_node_comes_back_from_the_log(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        for i in range(10):
            a.submit(push(i))
        in_step(a, b)
        b.stop()
        (b.data_dir / "checkpoint.sqlite").write_bytes(b"not a database" * 1000)
        b = group.node("b", beat_every_s=BEAT_S)
        in_step(a, b)
        assert pushed(b) == list(range(10))


class TestNewRun:
    def test_after_a_clean_restart_of_redis_the_former_holder_leads_again(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
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
            a._setup.log.look()  # it connects anew, and knows the new run
            return log.execute(record)

        log.faults.append(too_late)
        with pytest.raises(NotPrimary, match="another run"):
            a.submit(push("x"))
        assert pushed(a) == []

    def test_a_holder_ahead_of_a_log_that_lost_records_rebases_and_all_are_equal(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        c = group.node("c", beat_every_s=BEAT_S)
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
        c = group.node("c", beat_every_s=BEAT_S)
        in_step(a, b, c)
        assert pushed(a) == pushed(b) == pushed(c) == ["x", *range(5), "y"]
        assert ops.verify(group.log(), by="test").equal

    def test_terms_never_go_back(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        terms = [a.term]
        before = group.server.state
        terms.append(a.promote(timeout_s=PATIENCE_S))
        group.fail_over(before)
        eventually(lambda: a.role == "primary" and a.term > ERA)
        terms.append(a.term)
        group.fail_over()
        eventually(lambda: a.role == "primary" and a.term > 2 * ERA)
        terms.append(a.term)
        assert terms == [1, 2, ERA + 1, 2 * ERA + 1]


class TestStalled:
    @pytest.fixture
    def bug(self) -> Any:
        def fail_at_bug(change: Any) -> None:
            if change.get("push") == "bug":
                raise ZeroDivisionError("oops")

        return fail_at_bug

    def test_a_standby_keeps_its_place_and_says_so(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        b._setup.state.in_apply = bug
        a.submit(push("x"))
        a.submit(push("bug"))
        a.submit(push("y"))
        eventually(lambda: b.stalled is not None)
        assert "1-3" in b.stalled
        assert "oops" in b.stalled
        assert str(b.position.id) == "1-2"
        eventually(lambda: "oops" in str(ops.status(group.log()).nodes[-1].problem))

    def test_after_a_restart_it_stalls_again_at_the_same_place(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        b._setup.state.in_apply = bug
        a.submit(push("x"))
        a.submit(push("bug"))
        a.submit(push("y"))
        eventually(lambda: b.stalled is not None)
        b.stop()
        state = KV()
        state.in_apply = bug
        b = group.node("b", state=state, beat_every_s=BEAT_S)
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
        b._setup.state.in_apply = bug
        a.submit(push("bug"))
        eventually(lambda: b.stalled is not None)
        b.stop()
        state = KV()
        state.in_apply = bug
        b = group.node("b", state=state)
        eventually(lambda: b.stalled is not None)
        assert b.position.id.n >= 2

    def test_a_primary_stops_writing_and_loses_its_lease(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b")
        a._setup.state.in_apply = bug
        with pytest.raises(Stalled):
            a.submit(push("bug"))
        with pytest.raises(Stalled):
            a.submit(push("next"))
        group.end_lease()  # what is left of it
        after_beats(3, a)
        assert group.server.look().lease_ms is None
        b.promote(timeout_s=PATIENCE_S)
        assert pushed(b) == ["bug"]
        assert b.submit(push("next")) == 2

    def test_a_stalled_primary_learns_that_it_was_replaced(self, group: Group, bug: Any) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b")
        a._setup.state.in_apply = bug
        with pytest.raises(Stalled):
            a.submit(push("bug"))
        b.promote(timeout_s=PATIENCE_S)
        eventually(lambda: a.role == "standby")
        assert a.stalled is not None

    def test_a_restore_that_fails_stalls_and_leaves_the_state_as_it_was(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)

        def fail() -> None:
            raise ZeroDivisionError("oops")

        b._setup.state.in_restore = fail
        a.replace([["pushed", ["new"]]])
        eventually(lambda: b.stalled is not None)
        assert pushed(b) == ["x"]


def test_a_primary_saves_what_it_committed_although_redis_does_not_answer(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", log=log)
    released = threading.Event()
    log.before_renewal = lambda: released.wait(PATIENCE_S)  # the keeper hangs there from now on
    try:
        a.submit(push("x"))
        eventually(lambda: (loaded := a._running.checkpoint.load()) and loaded.view.position == a.position)
    finally:
        released.set()


def _cut_off(group: Group) -> MemoryLog:
    log = group.log()
    log.down = "cut off"
    return log


class TestFullDisk:
    def test_a_standby_applies_what_it_may_forget_says_why_that_is_not_saved_and_saves_it_later(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        a.submit(push("x"))
        in_step(a, b)
        eventually(lambda: self._saved(b) == b.position)
        mended = failing_disk(monkeypatch, b)
        a.submit(push("y"))
        in_step(a, b)
        eventually(lambda: "ENOSPC" in b.problem)
        assert pushed(b) == ["x", "y"]
        assert str(self._saved(b).id) == "1-2"
        mended.set()
        eventually(lambda: self._saved(b) == b.position and b.problem == "")

    def test_a_standby_neither_applies_nor_acknowledges_what_somebody_waits_for_before_it_is_saved(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        in_step(a, b)
        mended = failing_disk(monkeypatch, b)
        with pytest.raises(NotAcknowledged):
            a.submit(push("y"), ack="applied:1", timeout_s=0.1)
        eventually(lambda: "ENOSPC" in b.problem)
        assert pushed(b) == []
        mended.set()
        a.submit(push("z"), ack="applied:1", timeout_s=PATIENCE_S)
        assert pushed(b) == ["y", "z"]

    def test_a_standby_that_has_too_much_to_save_reads_no_more_and_says_why(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(save_queue, "UNSAVED_BYTES_MAX", 2 * save_queue.STEP_BYTES)
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        in_step(a, b)
        mended = failing_disk(monkeypatch, b)
        for value in range(2):
            a.submit(push(value))
            in_step(a, b)
        a.submit(push("one too many"))
        eventually(lambda: "ENOSPC" in str(b._setup.problems.get("reader")))
        assert pushed(b) == [0, 1]
        mended.set()
        in_step(a, b)
        assert pushed(b) == [0, 1, "one too many"]
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
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b")
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
        loaded = node._running.checkpoint.load()
        return loaded and loaded.view.position

    def test_a_primary_saves_later_what_it_could_not_save(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
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
