"""A state that cannot be written for a while: the log goes on, the node says what is in the way, and makes it up."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from replicator import ops
from replicator.errors import NotAcknowledged, PromotionRefused, Stalled, StateError, StateInUse
from replicator.format.ids import ZERO_ID
from replicator.node.acks import Level
from replicator.node.problems import Problems
from replicator.node.state_writer import FIRST_PAUSE_S, PAUSE_S_MAX, StateWriter
from replicator.state import SharedState
from replicator.state.callbacks import Application
from tests.support.kv import BEAT_S, PATIENCE_S, SHORT_LEASE_S, Group, eventually
from tests.support.opaque import KIB, Kept, Text, has, pieces

FULL = StateError(path="the-file", problem="the disk is full")
IN_USE = StateInUse(path="the-file")


class Refusing(Kept):
    """Cannot be written as long as there is a refusal, at the first piece or when it is swapped in."""

    def __init__(self, found: Iterable[Any] = (), *, at_end: bool = True) -> None:
        super().__init__(found)
        self.refusal: Exception | None = None
        self.attempts = 0
        self._at_end = at_end

    def restore(self, pieces: Iterable[Any]) -> None:
        self._restore(pieces, self.refusal)

    def _restore(self, pieces: Iterable[Any], refusal: Exception | None) -> None:
        self.attempts += 1
        found = []
        for piece in pieces:
            if refusal is not None and not self._at_end:
                raise refusal
            found.append(piece)
        if refusal is not None:
            raise refusal
        self.pieces = found


class Shared(Refusing):
    """One that a program reads, which goes on reading what was there."""

    def restore_in_use(self, pieces: Iterable[Any]) -> None:
        self._restore(pieces, None if isinstance(self.refusal, StateInUse) else self.refusal)


def status_of(group: Group, name: str) -> ops.NodeStatus:
    return next(node for node in ops.status(group.log()).nodes if node.node == name)


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("what", ["patch", "whole"])
def test_what_comes_meanwhile_is_taken_once_and_the_state_follows_later(group: Group, at_end: bool, what: str) -> None:
    rest = pieces(100 * KIB) if what == "patch" else []
    a = group.primary("a", state=Text([b"one", *rest]))
    b = group.node("b", state=Refusing(at_end=at_end), beat_every_s=BEAT_S)
    a.publish()
    has(b, [b"one", *rest])
    # given a standby whose disk is full
    b._setup.state.refusal = FULL
    for text in (b"two", b"three"):
        a._setup.state.pieces = [text, *rest]
        assert a.publish().what == what
        # then it takes every record, acknowledges it, and says what is in the way
        eventually(lambda: b.position == a.position)
        eventually(lambda: "the disk is full" in b.problem)
    assert b.in_sync
    assert b.stalled is None
    assert "the disk is full" in (b.state_problem or "")
    eventually(lambda: "the disk is full" in (status_of(group, "b").problem or ""))
    with pytest.raises(StateError, match="the disk is full"), b.reading():
        pass
    assert b._setup.state.pieces == [b"one", *rest]
    # when there is room again, then it has the newest, and nothing is said any more
    b._setup.state.refusal = None
    has(b, [b"three", *rest])
    eventually(lambda: not b.problem)
    assert b.state_problem is None
    with b.reading() as state:
        assert state.pieces == [b"three", *rest]
    # and each record is on its disk once
    a._running.replica.flush()
    assert [str(each.id) for each in b._running.checkpoint.changes()] == [
        str(each.id) for each in a._running.checkpoint.changes()
    ]
    a._setup.state.pieces = [b"four", *rest]
    a.publish()
    has(b, [b"four", *rest])


def test_each_record_is_saved_once_whenever_the_state_refuses(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    a = group.primary("a", state=Text(pieces(100 * KIB)))
    b = group.node("b", state=Refusing())
    a.publish()
    has(b, a._setup.state.pieces)
    saved: list[str] = []
    save = b._running.replica.saved.save

    def noted(steps: Any, *, synced: bool = True) -> None:
        saved.extend(str(step.record.id) for step in steps)
        save(steps, synced=synced)

    monkeypatch.setattr(b._running.replica.saved, "save", noted)
    b._setup.state.refusal = FULL
    for text in (b"two", b"three"):
        a._setup.state.pieces[0] = text
        a.publish()
    eventually(lambda: b.position == a.position)
    assert len(saved) == len(set(saved)) == 2


def test_the_records_that_follow_do_not_try_it_again_and_again(group: Group) -> None:
    a = group.primary("a", state=Text(pieces(100 * KIB)))
    b = group.node("b", state=Refusing())
    a.publish()
    has(b, a._setup.state.pieces)
    b._running.ha_loop._state_writer._next_at = time.monotonic() + 3600
    b._setup.state.refusal = FULL
    b._running.replica.applied.unwritten = FULL
    before = b._setup.state.attempts
    for at in range(10):
        a._setup.state.pieces[0] = b"text %d" % at
        a.publish()
    eventually(lambda: b.position == a.position)
    assert b._setup.state.attempts == before


def test_what_is_published_while_the_state_is_written_is_not_missed(group: Group) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    a = group.primary("a", state=Text(pieces(100 * KIB)))
    b = group.node("b", state=Refusing(), beat_every_s=BEAT_S)
    a.publish()
    has(b, a._setup.state.pieces)
    b._setup.state.refusal = FULL
    a._setup.state.pieces[0] = b"two"
    a.publish()
    eventually(lambda: b.state_problem)
    # given that it is being written, which takes its time
    state = b._setup.state
    updater: Any = b._running.replica._updater
    becoming = updater._becoming

    class Stopping:
        """Draws all there is, and swaps it in when it is told to."""

        snapshot = state.snapshot

        def restore(self, found: Iterable[Any]) -> None:
            def slowly() -> Iterator[Any]:
                for at, piece in enumerate(found):
                    if at == 1:
                        begun.set()
                        assert goes_on.wait(PATIENCE_S)
                    yield piece

            state.restore(slowly())

    def stopping(version: int, *, to_come: bool = False, insisting: bool = False) -> Application:
        if to_come:
            return becoming(version, to_come=True, insisting=insisting)  # type: ignore[no-any-return]
        return Application(Stopping(), updater._applied.inside)

    updater._becoming = stopping
    state.refusal = None
    assert begun.wait(PATIENCE_S)
    # when more is published, then the node takes it without waiting
    a._setup.state.pieces[0] = b"three"
    a.publish()
    eventually(lambda: b.position == a.position)
    assert not goes_on.is_set()
    updater._becoming = becoming
    goes_on.set()
    # then that is what the state becomes
    has(b, a._setup.state.pieces)
    eventually(lambda: b.state_problem is None)


def test_a_restart_meanwhile_starts_and_makes_it_up(group: Group) -> None:
    a = group.primary("a", state=Text([b"one"]))
    b = group.node("b", state=Refusing())
    a.publish()
    has(b, [b"one"])
    b._setup.state.refusal = FULL
    a._setup.state.pieces = [b"two"]
    a.publish()
    eventually(lambda: b.position == a.position)
    # when it is restarted, in order or not, and the disk is still full
    data_dir = group.crash(b)
    state = Refusing([b"one"])
    state.refusal = FULL
    again = group.node("b", state=state, data_dir=data_dir, beat_every_s=BEAT_S)
    eventually(lambda: "the disk is full" in again.problem)
    assert again.position == a.position
    again.stop()
    again = group.node("b", state=state, data_dir=data_dir, beat_every_s=BEAT_S)
    # then it runs, and follows once it can
    state.refusal = None
    has(again, [b"two"])
    eventually(lambda: not again.problem)


def test_what_a_program_did_meanwhile_is_given_up_once_it_can_be(group: Group) -> None:
    a = group.primary("a", state=Refusing([b"one"]), beat_every_s=BEAT_S)
    b = group.node("b", state=Text())
    a.publish()
    has(b, [b"one"])
    a._setup.state.pieces = [b"not published"]
    a._setup.state.refusal = FULL
    b.promote(timeout_s=PATIENCE_S)
    eventually(lambda: "the disk is full" in a.problem)
    b._setup.state.pieces = [b"newer"]
    b.publish()
    eventually(lambda: a.position == b.position)
    assert a._setup.state.pieces == [b"not published"]
    a._setup.state.refusal = None
    has(a, [b"newer"])


def test_a_node_leads_once_its_state_is_what_was_published(group: Group) -> None:
    a = group.primary("a", state=Text([b"one"]))
    b = group.node("b", state=Refusing(), beat_every_s=BEAT_S)
    a.publish()
    has(b, [b"one"])
    b._setup.state.refusal = FULL
    a._setup.state.pieces = [b"two"]
    a.publish()
    # given that the tools refuse it, for what it says
    eventually(lambda: "the disk is full" in (status_of(group, "b").problem or ""))
    with pytest.raises(PromotionRefused, match="the disk is full"):
        b.promote(timeout_s=PATIENCE_S)
    # when it is promoted all the same
    with pytest.raises(TimeoutError):
        b.promote(force=True, timeout_s=0.5)
    assert b.role == "standby"
    assert b.term == 1
    # then it leads when it has what was published, and not a moment before
    b._setup.state.refusal = None
    b.wait(role="primary", timeout_s=PATIENCE_S)
    assert b._setup.state.pieces == [b"two"]
    assert b.publish().what == "nothing"


def test_one_that_ends_before_it_could_lead_does_not_come_back_with_what_it_had(group: Group) -> None:
    a = group.primary("a", state=Text([b"one"]))
    b = group.node("b", state=Refusing(), beat_every_s=BEAT_S)
    a.publish()
    has(b, [b"one"])
    b._setup.state.refusal = FULL
    a._setup.state.pieces = [b"two"]
    a.publish()
    eventually(lambda: b.position == a.position)
    # given that it took the term, and ends before it could lead
    with pytest.raises(TimeoutError):
        b.promote(force=True, timeout_s=0.3)
    b.stop()
    b._running.replica.applied.unwritten = FULL
    with pytest.raises(StateError), b._running.replica.write_lock:
        b._running.replica._updater._lead(*[None] * 3)  # type: ignore[arg-type]
    # when it comes back
    state = Refusing([b"one"])
    again = group.node("b", state=state)
    again.promote(force=True, timeout_s=PATIENCE_S)
    # then it leads with what was published
    assert state.pieces == [b"two"]


def test_one_that_cannot_lead_keeps_nobody_waiting(group: Group) -> None:
    a = group.primary("a", state=Text([b"one"]), beat_every_s=BEAT_S)
    b = group.node("b", state=Refusing(), lease_s=SHORT_LEASE_S)
    c = group.node("c", state=Text(), beat_every_s=BEAT_S, auto_promote=True)
    a.publish()
    has(b, [b"one"])
    has(c, [b"one"])
    b._setup.state.refusal = FULL
    a._setup.state.pieces = [b"two"]
    a.publish()
    has(c, [b"two"])
    eventually(lambda: b.position == a.position)
    with pytest.raises(TimeoutError):
        b.promote(force=True, timeout_s=0.2)
    c.wait(role="primary", timeout_s=PATIENCE_S)
    b._setup.state.refusal = None
    has(b, [b"two"])
    eventually(lambda: b.term == c.term)
    assert b.role == "standby"


def test_a_state_in_use_is_no_reason_not_to_lead(group: Group) -> None:
    a = group.primary("a", state=Text([b"one"]), beat_every_s=BEAT_S)
    b = group.node("b", state=Shared(), beat_every_s=BEAT_S)
    assert isinstance(b._setup.state, SharedState)
    a.publish()
    has(b, [b"one"])
    # given a program that does not stop reading
    b._setup.state.refusal = IN_USE
    a._setup.state.pieces = [b"two"]
    a.publish()
    eventually(lambda: "a program has a transaction open" in (status_of(group, "b").problem or ""))
    assert group.log().look().heartbeats["b"].stalled == ""
    assert b._setup.state.pieces == [b"one"]
    # when the node is to lead, then it does, with what was published
    b.promote(timeout_s=PATIENCE_S)
    assert b._setup.state.pieces == [b"two"]
    assert b.state_problem is None


def test_a_primary_whose_state_was_replaced_and_could_not_be_written_publishes_nothing_old(group: Group) -> None:
    a = group.primary("a", state=Refusing([b"one"]))
    b = group.node("b", state=Text())
    a.publish()
    a._setup.state.refusal = FULL
    a.replace([b"two"])
    has(b, [b"two"])
    with pytest.raises(StateError, match="the disk is full"):
        a.publish()
    has(b, [b"two"])
    a._setup.state.refusal = None
    assert a.publish().what == "nothing"
    assert a._setup.state.pieces == [b"two"]


def test_what_a_node_could_not_lead_with_it_does_not_acknowledge(group: Group) -> None:
    a = group.primary("a", state=Text([b"one"]))
    b = group.node("b", state=Shared(), beat_every_s=BEAT_S)
    a.publish()
    has(b, [b"one"])
    # given a state in use: this node could lead all the same
    b._setup.state.refusal = IN_USE
    a._setup.state.pieces = [b"two"]
    a.publish(ack="applied:1", timeout_s=PATIENCE_S)
    assert b._setup.state.pieces == [b"one"]
    b._setup.state.refusal = None
    has(b, [b"two"])
    eventually(lambda: b.state_problem is None)
    # when it could not
    b._setup.state.refusal = FULL
    a._setup.state.pieces = [b"three"]
    with pytest.raises(NotAcknowledged):
        a.publish(ack="applied:1", timeout_s=0.5)
    eventually(lambda: b.position == a.position)
    assert group.log().look().heartbeats["b"].synced < a.position.id
    # then it does once it can
    b._setup.state.refusal = None
    has(b, [b"three"])
    a._running.acks.wait(Level.parse("applied:1"), a.position.id, PATIENCE_S)


def test_what_is_not_written_is_not_called_equal(group: Group) -> None:
    a = group.primary("a", state=Text([b"one"]), beat_every_s=BEAT_S)
    b = group.node("b", state=Refusing(), beat_every_s=BEAT_S)
    a.publish()
    has(b, [b"one"])
    b._setup.state.refusal = FULL
    a._setup.state.pieces = [b"two"]
    a.publish()
    eventually(lambda: b.position == a.position)
    a._running.primary.commits.mark()
    eventually(lambda: group.log().look().heartbeats["b"].digest_at > ZERO_ID)
    assert group.log().look().heartbeats["b"].digest == "none"


def test_what_a_state_gets_wrong_is_still_a_bug_in_it(group: Group) -> None:
    a = group.primary("a", state=Text([b"one"]))
    b = group.node("b", state=Refusing())
    a.publish()
    has(b, [b"one"])
    b._setup.state.refusal = KeyError("no such thing")
    a._setup.state.pieces = [b"two"]
    a.publish()
    eventually(lambda: b.stalled)
    assert "KeyError" in (b.stalled or "")


# --- the writer -------------------------------------------------------------------------------------------------------


class _Replica:
    """As much of one as the writer sees."""

    def __init__(self) -> None:
        self.unwritten: StateError | None = FULL
        self.attempts: list[float] = []
        self.raises: Exception = FULL

    def write_state(self) -> None:
        self.attempts.append(time.monotonic())
        raise self.raises


def test_attempts_are_further_and_further_apart_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("replicator.node.state_writer.time.monotonic", lambda: now[0])
    replica, problems = _Replica(), Problems()
    writer = StateWriter(replica, problems, name="a")  # type: ignore[arg-type]
    attempts = []
    for _ in range(600):  # a minute, ten beats a second
        before = len(replica.attempts)
        writer.keep()
        if writer._aside._thread is not None:
            writer._aside._thread.join(PATIENCE_S)
        if len(replica.attempts) > before:
            attempts.append(now[0])
        now[0] += 0.1
    apart = [b - a for a, b in itertools.pairwise(attempts)]
    assert attempts[0] == 0.0
    assert FIRST_PAUSE_S <= apart[0] < 2 * FIRST_PAUSE_S
    assert apart == sorted(apart, key=lambda pause: round(pause))
    assert PAUSE_S_MAX <= apart[-1] < PAUSE_S_MAX + 0.3
    assert len(attempts) < 20
    # when it is written, then nothing is said, and the next failure is tried again soon
    assert "the disk is full" in str(problems)
    replica.unwritten = None
    writer.keep()
    assert str(problems) == ""
    assert writer._backoff.is_fresh


def test_a_stall_while_it_is_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    replica, problems = _Replica(), Problems()
    replica.raises = Stalled(id="1-2", problem="KeyError")
    writer = StateWriter(replica, problems, name="a")  # type: ignore[arg-type]
    writer.keep()
    assert writer._aside._thread is not None
    writer._aside._thread.join(PATIENCE_S)
    assert "KeyError" in str(problems)
