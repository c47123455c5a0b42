"""What a node notes of its own state, and what of that a restart leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import CheckpointError, Stalled
from replicator.format.ids import ZERO_ID, Position, RecordId, Writer
from replicator.format.records import PartRecord
from replicator.protocol.fold import Verdict
from replicator.replica import divergence as module
from replicator.replica.divergence import Divergence
from replicator.replica.ledger import Ledger
from replicator.replica.replica import Replica
from replicator.state.callbacks import Application
from replicator.storage import forks
from replicator.storage.checkpoint import Checkpoint
from replicator.storage.checkpoint_reader import CheckpointReader
from replicator.testing import MemoryLog
from tests.support.history import act
from tests.support.kv import KV, push
from tests.support.replicas import ME, all_of, snapshot_of
from tests.support.versions import Two
from tests.support.worlds import Author, lead

AT = RecordId(1, 3)


def test_it_outlives_the_process(tmp_path: Path) -> None:
    for found in (False, True):
        with Checkpoint(tmp_path, "g", node="b") as checkpoint:
            known = Divergence(checkpoint)
            assert known.is_sound is not found
            if not found:
                known.found(AT, "a")
                known.gives_up("it differed")
            assert (known.at, known.given_up) == (AT, "it differed")
    with Checkpoint(tmp_path, "g", node="b") as checkpoint:
        Divergence(checkpoint).over()
    with Checkpoint(tmp_path, "g", node="b") as checkpoint:
        assert Divergence(checkpoint).is_sound


def test_a_state_that_was_loaded_from_a_later_snapshot_is_not_what_differed(
    make: Callable[..., Replica], log: MemoryLog, author: Author
) -> None:
    """A standby in sync has the snapshots that pass by on its disk, and goes on with what it has until it restarts."""
    replica = make()
    author.append(push("x"))
    replica.take(all_of(log))
    place = replica.node_state.view.position.id
    replica.divergence.found(place, "a")
    assert make().divergence.at == place
    replica = make()
    log.part(snapshot_of(author, [["pushed", ["x"]]]))
    with replica.write_lock:
        replica.take(all_of(log))
    replica.flush()
    assert replica.divergence.at == place
    assert make().divergence.at == ZERO_ID


def test_it_is_rebuilt_by_itself_once_per_log_and_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    with Checkpoint(tmp_path, "g", node="b") as checkpoint:
        known = Divergence(checkpoint)
        assert known.may_rebuild("log-1")
        known.rebuilds("log-1")
        assert not Divergence(checkpoint).may_rebuild("log-1")
        assert known.may_rebuild("log-2")
        now[0] += 3599
        assert not known.may_rebuild("log-1")
        now[0] += 1
        assert known.may_rebuild("log-1")
        now[0] -= 24 * 3600
        assert known.may_rebuild("log-1"), "the clock was set back: nobody knows how long ago it was"


def test_a_disk_that_refuses_leaves_the_state_as_it_was(
    make: Callable[..., Replica], log: MemoryLog, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = make()
    author.append(push("x"))
    replica.take(all_of(log))

    def refuses(*args: object, **options: object) -> None:
        raise CheckpointError(path="/data", problem="the disk is full")

    monkeypatch.setattr(replica.saved.checkpoint, "note", refuses)
    with pytest.raises(CheckpointError):
        replica.give_up_state("for a test")
    assert replica.node_state.view.in_sync
    assert replica.divergence.is_sound


def test_what_was_given_up_is_out_of_sync_after_a_restart(
    make: Callable[..., Replica], log: MemoryLog, author: Author
) -> None:
    replica = make()
    author.append(push("x"))
    replica.take(all_of(log))
    assert replica.give_up_state("for a test")
    again = make()
    assert not again.node_state.view.in_sync
    assert again.divergence.given_up == "for a test"
    author.append(push("y"))
    again.take(all_of(log))
    assert again.applied.state.pushed == ["x"], "it applies nothing that follows"


# --- the fork of a state that was given up ---------------------------------------------------------------------------


def forks_of(replica: Replica) -> list[forks.Fork]:
    return [forks.read(path) for path in forks.paths([replica.saved.checkpoint.data_dir])]


def of_another_history(log: MemoryLog, pieces: Iterable[Any], ends: tuple[RecordId, ...]) -> PartRecord:
    author = Author(log, Writer("c", "boot-c"), 9, Position(RecordId(9, 2), "c" * 32))
    return snapshot_of(author, pieces, ends=ends)


def test_changes_that_the_group_lost_are_kept_beside_the_state(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    replica = make()
    author.append(push("x"))
    author.append(push("acknowledged, and lost"))
    replica.take(all_of(log))
    assert replica.give_up_state("asked by ann")
    last = of_another_history(log, [["pushed", ["x"]]], ends=(RecordId(1, 2),))
    assert replica.take([last]) == [Verdict.RESTORE]
    state, changes = sorted(forks_of(replica), key=lambda fork: fork.reason)
    assert [each.change for each in forks.divergent(changes)] == [push("acknowledged, and lost")]
    assert [line["piece"] for line in forks.export_state(state)] == [["pushed", ["x", "acknowledged, and lost"]]]
    assert (state.reason, state.parted_id, state.has_more_in_snapshot) == ("asked by ann", RecordId(1, 2), True)


def test_without_any_there_is_only_the_state(log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
    replica = make()
    author.append(push("x"))
    replica.take(all_of(log))
    assert replica.give_up_state("asked by ann")
    assert replica.take([of_another_history(log, [["pushed", ["x"]]], ends=(RecordId(1, 2),))]) == [Verdict.RESTORE]
    (state,) = forks_of(replica)
    assert (state.reason, state.parted_id, state.has_more_in_snapshot) == ("asked by ann", RecordId(1, 2), False)


def given_up_at_two(tmp_path: Path, log: MemoryLog, author: Author) -> Path:
    """The fork of a state that was given up at version 2, with two keys beside it."""
    with Checkpoint(tmp_path / "b", "g", node="b") as checkpoint:
        replica = Replica(Two(), checkpoint, ME, reads=range(1, 3))
        replica.known.talks_to("run-1")
        author.append(["add", "k", 1], key="first")
        record = act(author.writer, author.term, author.position, 2)
        author._sent(record, log.append(record))
        author.append(["note", "k", "seven"], key="second")
        replica.take(all_of(log))
        assert (replica.node_state.view.version, len(replica.applied.ledger)) == (2, 2)
        assert replica.give_up_state("asked by ann")
        log.part(snapshot_of(author, [["k", 1]]))
        replica.take(all_of(log))
        (fork,) = forks_of(replica)
        return fork.path


def test_the_fork_has_the_version_at_which_it_was_drawn_and_the_keys(
    tmp_path: Path, log: MemoryLog, author: Author
) -> None:
    with CheckpointReader(given_up_at_two(tmp_path, log, author)) as fork:
        assert (fork.view.version, fork.base_version) == (2, 2)
        assert list(fork.pieces()) == [["k", 1, "seven"]], "of version 2"
        assert len(Ledger.of(fork.ledger(), id_="fork")) == 2


def test_a_node_that_is_started_on_such_a_fork_has_them(tmp_path: Path, log: MemoryLog, author: Author) -> None:
    path = given_up_at_two(tmp_path, log, author)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "checkpoint.sqlite").write_bytes(path.read_bytes())
    with Checkpoint(tmp_path / "c", "g", node="b") as checkpoint:
        replica = Replica(Two(), checkpoint, ME, reads=range(1, 3))
        assert (replica.applied.state.numbers, replica.applied.state.notes) == ({"k": 1}, {"k": "seven"})
        assert (replica.applied.version, len(replica.applied.ledger)) == (2, 2)


@pytest.mark.parametrize("most", [1000, 1_000_000])
def test_the_state_may_weigh_in_the_fork_what_it_may_weigh_in_a_snapshot(
    tmp_path: Path, log: MemoryLog, author: Author, most: int
) -> None:
    with Checkpoint(tmp_path / "b", "g", node="b") as checkpoint:
        replica = Replica(KV(), checkpoint, ME, snapshot_bytes_max=most)
        replica.known.talks_to("run-1")
        author.append(push("x" * 5000))
        replica.take(all_of(log))
        replica.applied.state.pushed.append("odd")
        assert replica.give_up_state("its state differed")
        log.part(snapshot_of(author, [["pushed", ["x"]]]))
        replica.take(all_of(log))
        (fork,) = forks_of(replica)
    exported = list(forks.export_state(fork, snapshot_bytes_max=1_000_000))
    if most > 5000:
        assert [line["piece"] for line in exported] == [["pushed", ["x" * 5000, "odd"]]]
    else:
        assert [line["change"] for line in exported] == [push("x" * 5000)], "the checkpoint as it is"


def test_while_the_state_is_drawn_others_save(log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
    replica = make()
    author.append(push("x"))
    replica.take(all_of(log))
    checkpoint = replica.saved.checkpoint
    free: list[bool] = []

    def saves() -> None:
        free.append(checkpoint._mutex.acquire(blocking=False))
        if free[-1]:
            checkpoint._mutex.release()

    class Watched(KV):
        def snapshot(self) -> Iterable[Any]:
            thread = threading.Thread(target=saves)
            thread.start()
            thread.join()
            yield from KV().snapshot()

    replica.applied.application = Application(Watched(), replica.applied.inside)
    assert replica.give_up_state("asked by ann")
    log.part(snapshot_of(author, [["pushed", ["x"]]]))
    replica.take(all_of(log))
    assert free == [True]


# --- a state that stalled before it was given up ---------------------------------------------------------------------


def fails(change: Any) -> None:
    if change == push("bad"):
        raise OSError("on this machine only")


def stalled_and_given_up(log: MemoryLog, author: Author, make: Callable[..., Replica]) -> tuple[Replica, KV]:
    """Its disk has one change that its state failed at, and one that it did not get to."""
    state = KV()
    replica = make(state=state)
    state.in_apply = fails
    for value in ("x", "bad", "y"):
        author.append(push(value))
    lead(log, "c", boot="boot-c")  # so all of it is saved before it is applied
    with pytest.raises(Stalled):
        replica.take(all_of(log))
    assert replica.give_up_state("asked by ann")
    return replica, state


def test_it_does_not_lead_with_less_than_it_says(log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
    replica, state = stalled_and_given_up(log, author, make)
    state.in_apply = lambda change: None
    lead(log, "b", boot=ME.boot)  # by force: the primary is gone before it sent a snapshot
    for _ in range(2):
        with pytest.raises(Stalled, match="restart this node"):
            replica.take(all_of(log))
        assert not replica.node_state.holds_term
    # its disk has it all
    me = Writer("b", "boot-b2")
    again = make(me=me)
    lead(log, "b", boot=me.boot)
    again.take(all_of(log))
    assert again.node_state.must_rebase
    assert again.node_state.begin_snapshot().changed == RecordId(1, 4)
    assert again.applied.state.pushed == ["x", "bad", "y"]


def test_it_takes_what_others_send_and_leads_once_it_has_a_snapshot(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    replica, state = stalled_and_given_up(log, author, make)
    c = lead(log, "c", boot="boot-c")
    c.append(push("z"))
    log.part(snapshot_of(c, [["pushed", ["x", "bad", "y", "z"]]]))
    replica.take(all_of(log))
    assert (state.pushed, replica.stalled) == (["x", "bad", "y", "z"], "")
    lead(log, "b", boot=ME.boot)
    replica.take(all_of(log))
    assert replica.node_state.is_primary


def test_one_that_stalls_again_at_its_start_waits_for_the_snapshot_all_the_same(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    stalled_and_given_up(log, author, make)
    state = KV()
    state.in_apply = fails
    replica = make(state=state)
    assert replica.stalled == ""
    assert not replica.node_state.view.in_sync
    c = lead(log, "c", boot="boot-c")
    log.part(snapshot_of(c, [["pushed", ["x", "bad", "y"]]]))
    replica.take(all_of(log))
    assert (state.pushed, replica.stalled) == (["x", "bad", "y"], "")
    assert replica.node_state.view.in_sync
