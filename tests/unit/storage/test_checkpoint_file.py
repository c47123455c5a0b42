"""A checkpoint file at rest: what `CheckpointReader` gives of it. Damage of every kind: test_checkpoint_damage.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from replicator.errors import CheckpointError
from replicator.format.ids import RecordId
from replicator.protocol.fold import View
from replicator.storage import checkpoint_file
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.storage.checkpoint_reader import CheckpointReader, DamagedCheckpoint
from replicator.testing import MemoryRedis
from tests.support.logs import Pen


@pytest.fixture
def pen() -> Pen:
    pen = Pen(MemoryRedis(), "a")
    pen.promote()
    return pen


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    with Checkpoint(tmp_path / "s", "g", node="s") as checkpoint:
        yield checkpoint


def saved(pen: Pen, checkpoint: Checkpoint) -> Path:
    """All that the pen wrote, read by another member and saved; where it is, at rest."""
    reader = Pen(MemoryRedis(), "s").node_state
    steps = []
    for record in pen.log.read(reader.view.cursor.id, count=1000).records:
        verdict, reader = reader.fold(record)
        steps.append(Step(record, verdict, reader.view))
    checkpoint.save(reader.view, steps, boot="1")
    return checkpoint.write_fork("a copy", RecordId(1, 1))


def test_it_gives_what_the_checkpoint_gives(pen: Pen, checkpoint: Checkpoint) -> None:
    pen.change("x")
    pen.snapshot(size=10)
    records = [pen.change("y"), pen.change("z")]
    with CheckpointReader(saved(pen, checkpoint)) as stored:
        assert (stored.group, stored.node, stored.note("reason")) == ("g", "s", "a copy")
        loaded = checkpoint.load()
        assert loaded is not None
        assert stored.view == loaded.view
        assert stored.payload is not None
        assert stored.payload.as_of.id == RecordId(1, 2)
        assert list(stored.pieces()) == list(checkpoint.payload() or ()) == [["pushed", ["x"]]]
        assert list(stored.changes()) == list(checkpoint.changes()) == records
        assert list(stored.changes(records[0].id)) == records[1:]


def test_more_changes_than_are_read_at_once_come_whole(
    pen: Pen, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "ROWS_AT_ONCE", 3)
    records = [pen.change(number) for number in range(10)]
    with CheckpointReader(saved(pen, checkpoint)) as stored:
        assert list(stored.changes()) == records


def test_one_that_nobody_saved_to_knows_nothing(checkpoint: Checkpoint) -> None:
    path = checkpoint.path
    checkpoint.close()
    with CheckpointReader(path) as stored:
        assert stored.view == View()
        assert stored.payload is None
        assert list(stored.pieces()) == list(stored.changes()) == []
        assert stored.note("reason") is None


def test_a_note_that_is_no_text_is_none(pen: Pen, checkpoint: Checkpoint) -> None:
    with CheckpointReader(saved(pen, checkpoint)) as stored:
        assert stored.note("saved") is None


def test_a_snapshot_that_its_writer_made_wrong_is_said_so(pen: Pen, checkpoint: Checkpoint) -> None:
    (part,) = pen.snapshot(size=1000)
    with CheckpointReader(saved(pen, checkpoint)) as stored:
        assert stored._saved.payload is not None
        wrong = stored._saved.payload._replace(digest="0" * 32)
        stored._saved = stored._saved._replace(payload=wrong)
        with pytest.raises(DamagedCheckpoint, match="cannot be decoded"):
            list(stored.pieces())
    assert part.is_last


def test_it_cannot_be_written_to(pen: Pen, checkpoint: Checkpoint) -> None:
    with (
        CheckpointReader(saved(pen, checkpoint)) as stored,
        pytest.raises(CheckpointError, match="readonly"),
    ):
        stored._rows("DELETE FROM meta", ())


def test_what_is_not_there_or_is_a_directory_is_an_error_and_not_damage(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(CheckpointError) as raised:
            CheckpointReader(path)
        assert not isinstance(raised.value, DamagedCheckpoint)


def test_a_disk_that_fails_is_not_taken_for_damage(
    pen: Pen, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(pen, checkpoint)

    def failing(db: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    monkeypatch.setattr(checkpoint_file, "_verified", failing)
    with pytest.raises(CheckpointError, match="disk I/O error") as raised:
        CheckpointReader(path)
    assert not isinstance(raised.value, DamagedCheckpoint)


def test_one_of_a_newer_version_is_refused(pen: Pen, checkpoint: Checkpoint) -> None:
    path = saved(pen, checkpoint)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 3")
    with pytest.raises(CheckpointError, match="its format is 3"):
        CheckpointReader(path)
