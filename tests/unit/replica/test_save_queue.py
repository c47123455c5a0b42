"""What waits to be saved: its order on the disk, what becomes of it where the disk refuses, and how much may wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from replicator import CheckpointError
from replicator.format.ids import RecordId, Writer
from replicator.format.records import Record
from replicator.protocol.fold import View
from replicator.protocol.node_state import NodeState
from replicator.replica import save_queue
from replicator.replica.save_queue import STEP_BYTES, SaveQueue
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.testing import MemoryRedis
from tests.support.checkpoints import Primary, noise, state_of


class Feed:
    """A log, and a reader of it that saves nothing by itself."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.primary = Primary(MemoryRedis())
        self.saved = SaveQueue(checkpoint, boot="boot-s")
        self._node_state = NodeState(me=Writer("s", "boot-s"), view=View())
        self.saved.save([self.step()])

    def step(self) -> Step:
        """The next record of the log, folded."""
        (record,) = self.primary.log.read(self._node_state.view.cursor.id, count=1).records
        verdict, self._node_state = self._node_state.fold(record)
        return Step(record, verdict, self._node_state.view)

    def change(self, text: str) -> Step:
        self.primary.change(text)
        return self.step()

    @property
    def on_disk(self) -> tuple[str, ...]:
        return state_of(self.saved.checkpoint)


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Feed]:
    with Checkpoint(tmp_path / "s", "g", node="s") as checkpoint:
        yield Feed(checkpoint)


def size_of(record: Record) -> int:
    return len(record.header) + len(record.body)  # type: ignore[attr-defined]


def full(*args: Any, **options: Any) -> None:
    raise CheckpointError(path="x", problem="full")


@pytest.fixture
def begun(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each transaction since then: whether it is synced."""
    begun: list[bool] = []
    database = feed.saved.checkpoint._database
    transaction = database.transaction

    def noted(*, synced: bool) -> Any:
        begun.append(synced)
        return transaction(synced=synced)

    monkeypatch.setattr(database, "transaction", noted)
    return begun


def test_what_waits_goes_to_the_disk_in_one_save_before_what_must_not_wait(feed: Feed, begun: list[bool]) -> None:
    feed.saved.add(feed.change("one"))
    feed.saved.add(feed.change("two"))
    assert feed.on_disk == ()
    feed.saved.save([feed.change("three")])
    assert feed.on_disk == ("one", "two", "three")
    assert begun == [True]
    assert feed.saved.is_flushed


def test_a_flush_has_it_on_the_disk_whatever_happens_to_the_machine(feed: Feed) -> None:
    step = feed.change("one")
    feed.saved.add(step)
    assert not feed.saved.is_flushed
    assert feed.saved.checkpoint.synced_upto < step.record.id
    feed.saved.flush()
    assert feed.saved.is_flushed
    assert feed.saved.checkpoint.synced_upto == step.record.id


def test_a_flush_is_one_transaction_at_most(feed: Feed, begun: list[bool]) -> None:
    # when changes wait, one transaction has them
    feed.saved.add(feed.change("one"))
    feed.saved.flush()
    assert begun == [False]
    feed.saved.flush()
    assert begun == [False], "there is nothing to do"
    # and where they were saved already, the flush writes nothing, and only syncs
    newest = feed.change("two")
    feed.saved.save([newest], synced=False)
    assert feed.saved.checkpoint.synced_upto < newest.record.id
    feed.saved.flush()
    assert begun == [False] * 2
    assert feed.saved.checkpoint.synced_upto == newest.record.id


def test_what_a_disk_refuses_waits_on_in_its_order(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    feed.saved.add(feed.change("one"))
    feed.saved.add(feed.change("two"))
    meanwhile = feed.change("three")

    def refuses(*args: Any, **options: Any) -> None:
        feed.saved.add(meanwhile)
        full()

    with monkeypatch.context() as patched:
        patched.setattr(feed.saved.checkpoint, "save", refuses)
        with pytest.raises(CheckpointError):
            feed.saved.flush()
    # and what was refused and had not waited is read again
    last = feed.change("four")
    with monkeypatch.context() as patched:
        patched.setattr(feed.saved.checkpoint, "save", full)
        with pytest.raises(CheckpointError):
            feed.saved.save([last])
    given: list[RecordId] = []
    save = feed.saved.checkpoint.save

    def noted(view: View, steps: Sequence[Step], **options: Any) -> None:
        given.extend(step.record.id for step in steps)
        save(view, steps, **options)

    monkeypatch.setattr(feed.saved.checkpoint, "save", noted)
    feed.saved.save([last])
    assert given == sorted(given)
    assert feed.on_disk == ("one", "two", "three", "four")


def test_what_waits_counts_among_the_changes(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    step = feed.change("one")
    feed.saved.add(step)
    assert feed.saved.changes_bytes == feed.saved.kept_bytes == size_of(step.record)
    feed.saved.flush()
    assert feed.saved.changes_bytes == feed.saved.kept_bytes == size_of(step.record)


class TestRoom:
    @pytest.fixture
    def narrow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(save_queue, "UNSAVED_BYTES_MAX", 2 * STEP_BYTES)
        monkeypatch.setattr(save_queue, "PATIENCE_S", 0.01)

    def test_little_waits_on(self, feed: Feed, narrow: None) -> None:
        feed.saved.add(feed.change("one"))
        feed.saved.make_room()
        assert feed.on_disk == ()

    def test_much_is_saved(self, feed: Feed, narrow: None) -> None:
        for text in ("one", "two"):
            feed.saved.add(feed.change(text))
        feed.saved.make_room()
        assert feed.on_disk == ("one", "two")

    def test_parts_of_snapshots_count_as_well(self, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(save_queue, "UNSAVED_BYTES_MAX", 3 * STEP_BYTES)
        feed.saved.save([feed.change(noise(1, 10 * STEP_BYTES))])
        for _ in feed.primary.snapshot(size=100 * STEP_BYTES):
            feed.saved.add(feed.step())
        assert feed.saved.checkpoint.payload_bytes == 0
        feed.saved.make_room()
        assert feed.saved.checkpoint.payload_bytes > 0

    def test_a_disk_that_refuses_it_is_said(self, feed: Feed, narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:
        for text in ("one", "two"):
            feed.saved.add(feed.change(text))
        with monkeypatch.context() as patched:
            patched.setattr(feed.saved.checkpoint, "save", full)
            with pytest.raises(CheckpointError, match="full"):
                feed.saved.make_room()
        feed.saved.make_room()
        assert feed.on_disk == ("one", "two")

    def test_a_disk_that_is_still_at_what_came_before_is_said(self, feed: Feed, narrow: None) -> None:
        for text in ("one", "two"):
            feed.saved.add(feed.change(text))
        with feed.saved._disk, pytest.raises(CheckpointError, match="slow"):
            feed.saved.make_room()
