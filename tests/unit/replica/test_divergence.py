"""What a node notes of its own state, and what of that a restart leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.errors import CheckpointError
from replicator.format.ids import ZERO_ID, RecordId
from replicator.replica import divergence as module
from replicator.replica.divergence import Divergence
from replicator.replica.replica import Replica
from replicator.storage.checkpoint import Checkpoint
from replicator.testing import MemoryLog
from tests.support.kv import push
from tests.support.replicas import all_of, snapshot_of
from tests.support.worlds import Author

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
