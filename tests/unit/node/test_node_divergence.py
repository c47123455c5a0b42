"""A node whose state differs from the primary's finds out by itself, says so, and is rebuilt; over live nodes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from replicator import Node, NotAcknowledged, NotPrimary, PromotionRefused, ReinitRefused, ops
from replicator.errors import Stalled
from replicator.format.records import ChangeRecord
from replicator.node import divergence_watch
from replicator.replica import divergence
from replicator.state.file import FileState
from replicator.storage import forks as fork_files
from tests.support.kv import (
    BEAT_S,
    KV,
    PATIENCE_S,
    Group,
    after_beats,
    document,
    eventually,
    forks,
    in_step,
    push,
    pushed,
    put,
)
from tests.support.opaque import Text

#: The log is marked with every beat in which something was written.
OFTEN = {"beat_every_s": BEAT_S, "verify_every_s": 0.001}


class Drifting(KV):
    """A push of `odd` is another one here: what `apply` must not be."""

    def apply(self, change: Any) -> Any:
        return super().apply(push("mine") if change == push("odd") else change)


def spoil(node: Node, what: Any = "odd") -> None:
    """Something changes the state of this node behind its back."""
    with node.reading() as state:
        state.pushed.append(what)


def was_rebuilt(a: Node, b: Node) -> None:
    """So `b` is not rebuilt by itself for an hour."""
    in_step(a, b)
    b._running.replica.divergence.rebuilds(a._running.replica.node_state.view.log_id)


def markers(group: Group) -> int:
    return sum(record.count == 0 for record in ops.records(group.log()) if isinstance(record, ChangeRecord))


def states_of_forks(node: Node) -> list[list[Any]]:
    """The state that each fork of the node has, whole."""
    return [[each["piece"] for each in fork_files.export_state(fork_files.read(path))] for path in forks(node)]


def is_rebuilt(*nodes: Node) -> None:
    """All are in step, and have equal states, and none has anything against its own."""
    primary = nodes[0]
    for node in nodes[1:]:
        eventually(lambda node=node: not node.diverged and node.in_sync, f"{node.name} is as it should be")
    in_step(*nodes)
    assert [document(node) for node in nodes] == [document(primary)] * len(nodes)


# --- markers ---------------------------------------------------------------------------------------------------------


def test_the_primary_marks_the_log_when_it_wrote_and_not_otherwise(group: Group) -> None:
    a = group.primary("a", **OFTEN)
    after_beats(3, a)
    assert markers(group) == 0
    a.submit(push("x"))
    eventually(lambda: markers(group) == 1, "a marker")
    after_beats(4, a)
    assert markers(group) == 1


def test_it_does_not_before_its_time_nor_where_it_is_told_not_to(group: Group, tmp_path: Path) -> None:
    a = group.primary("a", beat_every_s=BEAT_S)
    other = Group(tmp_path / "other")
    never = other.primary("a", beat_every_s=BEAT_S, verify_every_s=0)
    try:
        after_beats(2, a, never)  # they lead, and know what there was then
        a.submit(push("x"))
        never.submit(push("x"))
        after_beats(4, a, never)
        assert (markers(group), markers(other)) == (0, 0)
    finally:
        other.close()


# --- a standby that differs ------------------------------------------------------------------------------------------


def test_a_standby_that_differs_says_so_keeps_its_state_and_becomes_what_the_primary_is(group: Group) -> None:
    a, b = group.primary("a", **OFTEN), group.node("b", **OFTEN)
    a.submit(put("k", 1))
    in_step(a, b)
    spoil(b)
    a.submit(push("x"))
    eventually(lambda: forks(b), "it keeps what it has")
    is_rebuilt(a, b)
    assert pushed(b) == ["x"]
    assert states_of_forks(b) == [[["pushed", ["odd", "x"]], ["data", "k", 1], ["data", "k.copy", 1]]]
    (path,) = forks(b)
    fork = fork_files.read(path)
    assert "differed from the primary's at" in fork.reason
    assert (fork.divergent_change_count, fork.has_more_in_snapshot) == (0, False), "its history is the group's"
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal
    b.promote(timeout_s=PATIENCE_S)


def test_it_is_not_rebuilt_twice_in_an_hour_but_stays_and_says_so(group: Group) -> None:
    a, b = group.primary("a", **OFTEN), group.node("b", state=Drifting(), auto_promote=True, **OFTEN)
    a.submit(push("odd"))
    eventually(lambda: forks(b), "the first time")
    is_rebuilt(a, b)
    a.submit(push("odd"))
    at = eventually(lambda: b.diverged, "the second time")
    after_beats(3, a, b)
    assert len(forks(b)) == 1
    assert b.diverged == at
    assert b.in_sync
    assert b.unready is not None
    assert b.unready.code == "diverged"
    status = ops.status(group.log())
    (of_b,) = (node for node in status.nodes if node.node == "b")
    assert of_b.diverged_id == at
    assert not status.well
    with pytest.raises(PromotionRefused, match="its state differs from the primary's at"):
        ops.promote(group.log(), "b", by="test", timeout_s=PATIENCE_S)
    with pytest.raises(PromotionRefused):
        b.promote(timeout_s=PATIENCE_S)
    assert ops.preview(group.log(), "b").refusal is not None


def test_after_the_hour_it_is_rebuilt_again(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "REBUILD_EVERY_S", 0.0)
    a, b = group.primary("a", **OFTEN), group.node("b", state=Drifting(), **OFTEN)
    for count in (1, 2):
        a.submit(push("odd"))
        eventually(lambda count=count: len(forks(b)) == count, "a fork")
        is_rebuilt(a, b)


def test_it_does_not_take_over_by_itself_and_by_force_its_state_counts(group: Group) -> None:
    a, b = group.primary("a", **OFTEN), group.node("b", state=Drifting(), auto_promote=True, **OFTEN)
    was_rebuilt(a, b)
    a.submit(push("odd"))
    eventually(lambda: b.diverged, "it differs")
    after_beats(1, b)
    group.crash(a)
    group.end_lease()
    after_beats(4, b)
    assert b.role == "standby"
    b.promote(timeout_s=PATIENCE_S, force=True)
    eventually(lambda: not b.diverged, "what it has counts")
    assert pushed(b) == ["mine"]


def test_it_still_knows_after_a_restart(group: Group) -> None:
    a, b = group.primary("a", **OFTEN), group.node("b", state=Drifting(), **OFTEN)
    was_rebuilt(a, b)
    a.submit(push("odd"))
    at = eventually(lambda: b.diverged, "it differs")
    a.stop()  # so nobody tells it anything
    b.stop()
    again = group.new_node("b", state=Drifting(), beat_every_s=BEAT_S)
    again.start()
    assert again.diverged == at


def test_a_later_marker_at_which_it_is_equal_ends_it(group: Group) -> None:
    a, b = group.primary("a", **OFTEN), group.node("b", **OFTEN)
    was_rebuilt(a, b)
    spoil(b)
    a.submit(put("k", 1))
    eventually(lambda: b.diverged, "it differs")
    with b.reading() as state:
        state.pushed.remove("odd")
    a.submit(put("k", 2))
    eventually(lambda: not b.diverged, "it does not any more")
    assert forks(b) == []


def test_a_state_that_cannot_be_drawn_is_not_said_to_differ(group: Group) -> None:
    a, b = group.primary("a", **OFTEN), group.node("b", **OFTEN)
    with b.reading() as state:
        state.snapshot = lambda: 1
    a.submit(push("x"))
    eventually(lambda: group.server.look().heartbeats["b"].digest == "none", "b reports")
    after_beats(2, b)
    assert b.diverged is None


def test_a_digest_of_the_state_before_it_was_replaced_does_not_count(group: Group) -> None:
    a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
    spoil(b)
    a.submit(push("x"))
    ops.verify(group.log(), by="test", timeout_s=PATIENCE_S)
    eventually(lambda: forks(b), "it keeps what it has")
    is_rebuilt(a, b)
    after_beats(3, a, b)
    assert b.diverged is None
    assert len(forks(b)) == 1


def test_a_file_that_somebody_wrote_to_on_a_standby_is_put_aside_and_written_anew(group: Group, tmp_path: Path) -> None:
    """A state that is replicated whole: on a standby it is what its file has."""
    ours, theirs = FileState(tmp_path / "ours"), FileState(tmp_path / "theirs")
    ours.path.write_text("1")
    a, b = group.primary("a", state=ours, **OFTEN), group.node("b", state=theirs, **OFTEN)
    a.publish()
    eventually(lambda: theirs.path.exists() and theirs.path.read_text() == "1", "it is published")
    ops.verify(group.log(), by="test", timeout_s=PATIENCE_S)
    theirs.path.write_text("mine")
    ops.verify(group.log(), by="test", timeout_s=PATIENCE_S)
    eventually(lambda: theirs.path.read_text() == "1", "it is written anew")
    eventually(lambda: not b.diverged and b.in_sync, "nothing is wrong any more")
    assert [path.read_text() for path in tmp_path.glob("theirs.replaced-*")] == ["mine"]
    ours.path.write_text("2")
    a.publish()
    eventually(lambda: theirs.path.read_text() == "2", "it goes on")
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal


def test_what_is_published_meanwhile_takes_no_digest_away(group: Group) -> None:
    """A state that is replicated whole is replaced again and again, and is what it was at the marker all the same."""
    a, b = group.primary("a", state=Text([b"1"]), **OFTEN), group.node("b", state=Text(), **OFTEN)
    a.publish()
    in_step(a, b)
    told = b._running.ha_loop.reporter
    a._running.primary.commits.mark()
    at = a.position.id
    eventually(lambda: told.digest and told.digest[0] >= at, "b has its digest")
    a._setup.state.pieces = [b"2"]
    a.publish()
    in_step(a, b)
    assert told.heartbeat().digest_at >= at


# --- the primary is the odd one --------------------------------------------------------------------------------------


def test_if_the_primary_is_the_odd_one_nobody_acts_and_every_tool_says_so(group: Group) -> None:
    a = group.primary("a", **OFTEN)
    others = [group.node(name, **OFTEN) for name in "bc"]
    in_step(a, *others)
    spoil(a)
    a.submit(push("x"))

    def problem() -> str | None:
        found = ops.status(group.log()).problem
        return found if found and "the state of the primary, a, differs at" in found else None

    assert "they agree, so nobody acts by himself" in eventually(problem, "status says so")
    after_beats(4, a, *others)
    assert [(node.diverged, len(forks(node)), pushed(node)) for node in others] == [(None, 0, ["x"])] * 2
    assert pushed(a) == ["odd", "x"]
    # and as the tool says, one that is right leads, and the odd one is rebuilt
    others[0].promote(timeout_s=PATIENCE_S)
    eventually(lambda: forks(a), "a keeps what it had")
    is_rebuilt(others[0], a, others[1])


def test_a_standby_waits_for_what_the_others_say(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """It might be the primary that is odd. But it does not wait for ever: one may never report at that marker."""
    a = group.primary("a", **OFTEN)
    b = group.node("b", **OFTEN)
    late = group.faulty_log()
    c = group.node("c", log=late, **OFTEN)
    was_rebuilt(a, b)
    in_step(a, b, c)
    late.deaf = True
    spoil(b)
    a.submit(push("x"))
    eventually(lambda: group.server.look().heartbeats["b"].digest, "b reports")
    after_beats(3, a, b)
    assert b.diverged is None
    late.deaf = False
    eventually(lambda: b.diverged, "c has what a has")
    monkeypatch.setattr(divergence, "REBUILD_EVERY_S", 0.0)
    eventually(lambda: forks(b), "it is rebuilt")
    is_rebuilt(a, b, c)
    monkeypatch.setattr(divergence_watch, "AWAITED_FOR_S", 0.0)
    late.deaf = True
    spoil(b)
    a.submit(push("y"))
    eventually(lambda: len(forks(b)) == 2, "it waited long enough")


# --- reinit ----------------------------------------------------------------------------------------------------------


def test_a_standby_is_rebuilt_because_somebody_asks(group: Group) -> None:
    a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
    a.submit(push("x"))
    in_step(a, b)
    spoil(b)
    told: list[str] = []
    done = ops.reinit(group.log(), "b", by="ann", timeout_s=PATIENCE_S, progress=told.append)
    assert (done.node, done.primary) == ("b", "a")
    assert told == ["asked b to give its state up", "b waits for a snapshot of a"]
    is_rebuilt(a, b)
    assert states_of_forks(b) == [[["pushed", ["x", "odd"]]]]
    assert fork_files.read(forks(b)[0]).reason == "asked by ann"
    ops.reinit(group.log(), "b", by="ann", timeout_s=PATIENCE_S)
    b.promote(timeout_s=PATIENCE_S)
    b.submit(push("y"))
    in_step(a, b)


def test_the_primary_and_who_does_not_report_is_refused(group: Group) -> None:
    a = group.primary("a", beat_every_s=BEAT_S)
    group.node("b", beat_every_s=BEAT_S)
    log = group.log()
    with pytest.raises(ReinitRefused, match="it is the primary"):
        ops.reinit(log, "a", by="ann", timeout_s=PATIENCE_S)
    with pytest.raises(ReinitRefused, match="no node of that name"):
        ops.reinit(log, "z", by="ann", timeout_s=PATIENCE_S)
    log.request("reinit", by="ann", node="a")  # past the tool, as by one that looked a moment too early
    after_beats(3, a)
    assert a.leads
    assert a.in_sync
    a.stop()
    with pytest.raises(NotPrimary, match="nobody can send a snapshot"):
        ops.reinit(log, "b", by="ann", timeout_s=PATIENCE_S)


@pytest.mark.parametrize("saved_first", [False, True])
def test_a_standby_that_stalled_goes_on_from_the_snapshot(group: Group, saved_first: bool) -> None:
    """Whether the record at which it stalled is on its disk already, as when somebody waits for that, or not."""
    state = KV()
    a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", state=state, beat_every_s=BEAT_S)
    a.submit(push("x"))
    in_step(a, b)

    def fails(change: Any) -> None:
        raise ZeroDivisionError

    state.in_apply = fails
    with contextlib.suppress(NotAcknowledged):
        a.submit(push("y"), ack="applied:1" if saved_first else "appended", timeout_s=0.2)
    eventually(lambda: b.stalled, "b stalls")
    state.in_apply = lambda change: None
    ops.reinit(group.log(), "b", by="ann", timeout_s=PATIENCE_S)
    a.submit(push("z"))
    is_rebuilt(a, b)
    assert pushed(b) == ["x", "y", "z"]
    assert b.stalled is None
    b.stop()
    again = group.node("b", beat_every_s=BEAT_S)
    is_rebuilt(a, again)
    assert pushed(again) == ["x", "y", "z"]


def test_a_standby_that_stalled_and_ends_before_the_snapshot_comes_is_rebuilt_when_it_is_back(group: Group) -> None:
    state = KV()
    a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", state=state, beat_every_s=BEAT_S)
    in_step(a, b)

    def fails(change: Any) -> None:
        raise ZeroDivisionError

    state.in_apply = fails
    with pytest.raises(NotAcknowledged):
        a.submit(push("x"), ack="applied:1", timeout_s=0.2)
    eventually(lambda: b.stalled, "b stalls")
    b._setup.log.down = "cut off"  # type: ignore[attr-defined]
    assert b._running.replica.give_up_state("for a test")
    b.stop()
    again = group.node("b", beat_every_s=BEAT_S)
    is_rebuilt(a, again)
    a.submit(push("y"))
    in_step(a, again)
    assert pushed(again) == ["x", "y"]


def test_one_that_stalled_does_not_lead_by_force_with_less_than_its_disk_has(group: Group) -> None:
    """Once it is restarted it does, with all of it, and has that after another restart."""
    state = KV()
    a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", state=state, beat_every_s=BEAT_S)
    in_step(a, b)

    def fails(change: Any) -> None:
        raise ZeroDivisionError

    state.in_apply = fails
    with pytest.raises(NotAcknowledged):
        a.submit(push("x"), ack="applied:1", timeout_s=0.2)
    eventually(lambda: b.stalled, "b stalls")
    group.crash(a)
    assert b._running.replica.give_up_state("for a test")
    state.in_apply = lambda change: None
    with pytest.raises(TimeoutError, match="restart this node"):
        b.promote(timeout_s=1, force=True)
    eventually(lambda: "restart this node" in (b.stalled or ""), "b says what to do")
    assert not b.leads
    b.stop()
    again = group.node("b", beat_every_s=BEAT_S)
    assert again.role == "standby"
    again.promote(timeout_s=PATIENCE_S, force=True)
    again.submit(push("y"), timeout_s=PATIENCE_S)
    assert pushed(again) == ["x", "y"]
    again.stop()
    again = group.node("b", beat_every_s=BEAT_S)
    again.wait(role="primary", timeout_s=PATIENCE_S)
    assert pushed(again) == ["x", "y"]


def test_what_was_given_up_is_given_up_after_a_restart_and_does_not_lead(group: Group) -> None:
    a = group.primary("a", beat_every_s=BEAT_S)
    b = group.node("b", beat_every_s=BEAT_S, auto_promote=True)
    a.submit(push("x"))
    in_step(a, b)
    group.crash(a)
    assert b._running.replica.give_up_state("for a test")
    b.stop()
    again = group.node("b", beat_every_s=BEAT_S, auto_promote=True)
    group.end_lease()
    after_beats(4, again)
    assert (again.role, again.in_sync) == ("standby", False)
    with pytest.raises(PromotionRefused, match="waits for a snapshot in the place of its state: for a test"):
        again.promote(timeout_s=PATIENCE_S)
    a = group.node("a", beat_every_s=BEAT_S)
    a.wait(role="primary", timeout_s=PATIENCE_S)
    is_rebuilt(a, again)
    assert len(forks(again)) == 1


def test_a_holder_that_gave_its_state_up_does_not_lead_with_it_in_a_new_run(group: Group) -> None:
    """In a new run nobody holds the term, so it can be asked to; and it would be the one to go on by itself."""
    a = group.primary("a", beat_every_s=BEAT_S)
    a.submit(push("x"))
    a._setup.log.down = "cut off"  # type: ignore[attr-defined]
    group.fail_over()
    a._running.replica.known.talks_to("run-2")
    assert a._running.replica.give_up_state("for a test")
    a._setup.log.down = ""  # type: ignore[attr-defined]
    after_beats(5, a)
    assert (a.role, group.server.look().term) == ("standby", 1)


def test_a_stalled_primary_gets_on_by_another_one(group: Group) -> None:
    """It stalled alone: the others have the change, and one of them leads; the stalled one is rebuilt."""
    state = KV()
    a, b = group.primary("a", state=state, beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)

    def fails(change: Any) -> None:
        raise ZeroDivisionError

    in_step(a, b)
    state.in_apply = fails
    with pytest.raises(Stalled):
        a.submit(push("x"))
    b.promote(timeout_s=PATIENCE_S)
    state.in_apply = lambda change: None
    eventually(lambda: not a._running.replica.node_state.holds_term, "a knows")
    ops.reinit(group.log(), "a", by="ann", timeout_s=PATIENCE_S)
    b.submit(push("y"))
    is_rebuilt(b, a)
    assert pushed(a) == ["x", "y"]
