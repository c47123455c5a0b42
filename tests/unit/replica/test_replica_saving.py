"""When one node's copy is on its disk: what it applies first, what it saves first, and what a kill leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicator import Stalled
from replicator.format.codec import encode_change, encode_changes
from replicator.format.ids import Position, RecordId, Writer
from replicator.format.records import seal_change
from replicator.protocol.fold import Verdict, View
from replicator.replica.replica import Replica
from replicator.storage.checkpoint_reader import CheckpointReader
from replicator.testing import MemoryLog
from tests.support.kv import push
from tests.support.replicas import ME, all_of, snapshot_of
from tests.support.worlds import Author, lead


def view_on_disk(replica: Replica) -> View:
    loaded = replica.saved.checkpoint.load()
    assert loaded is not None
    return loaded.view


def test_a_term_is_on_disk_before_anything_of_it_is_applied(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    author.append(push("x"))
    author.append(push("y"))
    replica = make()
    on_disk: list[Any] = []
    replica.applied.state.in_apply = lambda change: on_disk.append((change["push"], view_on_disk(replica)))
    replica.take(all_of(log))
    assert [(what, view.term, view.position) for what, view in on_disk] == [
        ("x", 1, author.position),
        ("y", 1, author.position),
    ]


def test_what_may_be_forgotten_is_applied_first_and_saved_at_the_next_flush(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    replica = make()
    replica.take(all_of(log))
    term = author.position
    author.append(push("x"))
    replica.take(all_of(log))
    # then it is in the state, and what is on the disk is older
    assert (replica.applied.state.pushed, replica.node_state.view.position) == (["x"], author.position)
    assert view_on_disk(replica).position == term
    # until it is flushed, with what came meanwhile
    author.append(push("y"))
    replica.take(all_of(log))
    replica.flush()
    assert view_on_disk(replica).position == author.position
    assert make().applied.state.pushed == ["x", "y"]


def test_one_that_is_killed_comes_back_at_an_older_record_and_reads_the_rest_again(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    replica = make()
    for value in "xyz":
        author.append(push(value))
        replica.take(all_of(log))
    assert replica.applied.state.pushed == ["x", "y", "z"]
    # given that nothing of it was saved after the first, which came with the term
    again = make()
    assert again.applied.state.pushed == ["x"]
    assert again.take(all_of(log)) == [Verdict.APPLY, Verdict.APPLY]
    assert again.applied.state.pushed == ["x", "y", "z"]


def test_what_somebody_waits_for_is_synced_before_it_is_applied_with_all_before_it(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    replica = make()
    replica.take(all_of(log))
    author.append(push("x"))
    replica.take(all_of(log))
    codec, body, digest = encode_changes([encode_change(push("waited for"))])
    record = seal_change(
        writer=author.writer, term=1, after=author.position, at=0, codec=codec, body=body, digest=digest, count=1,
        wants_acks=1,
    )  # fmt: skip
    synced: list[RecordId] = []
    replica.applied.state.in_apply = lambda change: synced.append(replica.saved.checkpoint.synced_upto)
    replica.take([record])
    assert synced == [record.id]
    assert replica.synced_upto == record.id
    assert make().applied.state.pushed == ["x", "waited for"]


def test_a_new_term_takes_along_to_the_disk_what_was_applied_before(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    replica = make()
    replica.take(all_of(log))
    author.append(push("x"))
    replica.take(all_of(log))
    # given a change that is not on the disk, when this node reads its own term
    own = lead(log, ME.node, boot=ME.boot)
    assert replica.take(all_of(log)) == [Verdict.LEAD]
    # then it leads, and all that it applied is on the disk
    assert replica.node_state.is_primary
    assert replica.synced_upto == own.position.id
    assert make().applied.state.pushed == ["x"]


def test_what_is_applied_before_such_a_bug_is_saved_and_nothing_after_it(
    log: MemoryLog, author: Author, make: Callable[..., Replica]
) -> None:
    replica = make()
    replica.take(all_of(log))
    author.append(push("x"))
    before = author.position
    author.append({"nonsense": 1})
    with pytest.raises(Stalled, match="1-3"):
        replica.take(all_of(log))
    replica.flush()
    assert view_on_disk(replica).position == replica.node_state.view.position == before
    # and the next boot meets it again in the log
    again = make()
    assert (again.applied.state.pushed, again.stalled) == (["x"], "")
    with pytest.raises(Stalled, match="1-3"):
        again.take(all_of(log))


def test_what_a_standby_applied_and_had_not_saved_is_in_its_fork(
    log: MemoryLog, author: Author, make: Callable[..., Replica], tmp_path: Path
) -> None:
    # given a standby with a change that is not on its disk, and that Redis lost
    replica = make()
    replica.take(all_of(log))
    author.append(push("surplus"))
    replica.take(all_of(log))
    assert view_on_disk(replica).position != replica.node_state.view.position
    # when the first that it reads is a whole snapshot in a later term, whose own record is trimmed already
    other = Author(log, Writer("c", "boot-c"), 9, Position(RecordId(9, 2), "c" * 32))
    assert replica.take([snapshot_of(other, [["pushed", []]], ends=(RecordId(1, 1),))]) == [Verdict.RESTORE]
    # then
    (fork,) = (tmp_path / "b" / "forks").glob("*.sqlite")
    assert [record.id for record in CheckpointReader(fork).changes()] == [RecordId(1, 2)]
