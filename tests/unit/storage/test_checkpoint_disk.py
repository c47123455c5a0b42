"""A disk under a checkpoint that is full, fails or loses its power."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from replicator.errors import CheckpointError
from replicator.protocol.fold import View
from replicator.storage import checkpoint, checkpoint_file
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.testing import MemoryRedis
from tests.support.checkpoint_child import state_of
from tests.support.checkpoints import Primary, Standby, noise
from tests.support.kv import PATIENCE_S, in_thread

# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_and_the_same_save_works_later(primary: Primary, standby: Standby) -> None:
    # given a file that may not grow
    standby.read()
    db = standby.stored._database.connection
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    record = primary.change(noise(1, 100_000))
    verdict, after = standby.node_state.fold(record)
    step = Step(record, verdict, after.view)
    # when a save does not fit, then it says how much is free, and nothing was saved
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"full \([\d,.]+ MB are free"):
            standby.stored.save(after.view, [step], boot="boot-s")
    assert list(standby.stored.changes()) == []
    # when there is room again, then the same save works
    db.execute(f"PRAGMA max_page_count = {pages * 1000}")
    standby.stored.save(after.view, [step], boot="boot-s")
    assert list(standby.stored.changes()) == [record]


def test_a_file_that_the_system_does_not_let_grow_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    # given a process that may write 256 KiB to a file
    text = """
import resource, sys
from pathlib import Path
from replicator.storage.checkpoint import Checkpoint
from replicator.protocol.fold import View
from replicator.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, 256 * 1024))
with Checkpoint(Path(sys.argv[1]), "g", node="a") as stored:
    for term in range(1, 1000):
        try:
            stored.save(View(term=term), boot="b")
        except CheckpointError as problem:
            print(stored.load().view.term, problem)
            break
"""
    # when its WAL has reached that
    done = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    term, _, problem = done.stdout.partition(" ")
    # then the save is refused, and the one before it is there
    assert "nothing was saved" in problem
    with Checkpoint(tmp_path, "g", node="a") as stored:
        loaded = stored.load()
        assert loaded is not None
        assert loaded.view.term == int(term) > 1


@pytest.mark.parametrize(("name", "mode"), [(".", 0o500), ("checkpoint.sqlite", 0o000), ("checkpoint.sqlite", 0o400)])
def test_a_directory_or_file_without_permission_is_an_error_and_not_a_fresh_start(
    tmp_path: Path, name: str, mode: int
) -> None:
    (tmp_path / "locked").touch(mode=0)
    if os.access(tmp_path / "locked", os.R_OK):
        pytest.skip("this user may read and write everything")
    # given a checkpoint that this user may not read or write
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        stored.save(View(term=5), boot="b")
    (tmp_path / "a" / "lock").unlink()
    (tmp_path / "a" / name).chmod(mode)
    # when a node starts on it, then it does not
    try:
        with pytest.raises(CheckpointError), Checkpoint(tmp_path / "a", "g", node="a") as stored:
            stored.save(View(term=6), boot="b")
    finally:
        (tmp_path / "a" / name).chmod(0o700)
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        assert stored.load() == (View(term=5), "b", "g")


@pytest.mark.parametrize("call", ["open", "read"])
def test_a_disk_that_fails_to_read_is_an_error_and_not_a_fresh_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    # given a checkpoint, and a disk on which reading fails
    with Checkpoint(tmp_path, "g", node="a") as stored:
        stored.save(View(term=5), boot="b")

    def failing(*_: object) -> None:
        if call == "open":
            raise OSError(5, "Input/output error", str(tmp_path))
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    with monkeypatch.context() as failure:
        failure.setattr(checkpoint_file, "_check_header" if call == "open" else "_verified", failing)
        # when a node starts on it, then it does not, and the file stays
        with pytest.raises(CheckpointError, match=r"(?i)(input/output|i/o) error"):
            Checkpoint(tmp_path, "g", node="a")
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.load() == (View(term=5), "b", "g")


def test_pages_of_a_large_checkpoint_are_not_kept_in_memory(standby: Standby) -> None:
    # A process may have a thousand of them. Negative: it is in KiB, and not in pages, whose size differs.
    assert standby.stored._database.connection.execute("PRAGMA cache_size").fetchone() == (-256,)


def test_a_data_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    # given a file of that name, when a node starts on it, then that is said
    (tmp_path / "a").touch()
    with pytest.raises(CheckpointError, match="exists"):
        Checkpoint(tmp_path / "a", "g", node="a")


# --- a power cut ------------------------------------------------------------------------------------------------------


class Cut:
    """A standby whose saves are as they are while it follows changes, and what a power cut could leave of it."""

    def __init__(self, standby: Standby, primary: Primary, place: Path) -> None:
        self.standby, self.primary, self.place = standby, primary, place
        self.wal = Path(f"{standby.stored.path}-wal")
        #: Bytes of the WAL, and the state, after each save.
        self.saves: list[tuple[int, tuple[str, ...]]] = []

    def follow(self, text: str, *, synced: bool) -> None:
        record = self.primary.change(text)
        verdict, self.standby.node_state = self.standby.node_state.fold(record)
        step = Step(record, verdict, self.standby.node_state.view)
        self.standby.stored.save(self.standby.node_state.view, [step], boot="boot-s", synced=synced)
        self.noted()

    def noted(self) -> None:
        self.saves.append((self.wal.stat().st_size, self.primary.state))

    def left(self, upto: int) -> tuple[Path | None, tuple[str, ...]]:
        """Where a damaged file went, if it was set aside, and the state, if so many bytes of the WAL reached the disk.

        All else did: the lock file is written after the save that it names, but may reach the disk before it.
        """
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.standby.data_dir, self.place)
        os.truncate(self.place / "checkpoint.sqlite-wal", upto)
        with Checkpoint(self.place, "g", node="s") as stored:
            return stored.set_aside, () if stored.set_aside else state_of(stored)


@pytest.fixture
def cut(standby: Standby, primary: Primary, tmp_path: Path) -> Cut:
    standby.synced = True
    standby.read()
    return Cut(standby, primary, tmp_path / "cut")


def test_a_power_cut_takes_the_newest_saves_that_were_not_synced_and_nothing_else(cut: Cut) -> None:
    # given a synced save, and three that were not
    cut.follow("one", synced=True)
    for text in ("two", "three", "four"):
        cut.follow(text, synced=False)
    # when the power goes, and any number of the bytes behind the synced save have reached the disk
    (synced, _), (end, _) = cut.saves[0], cut.saves[-1]
    for upto in range(synced, end + 1, 997):
        set_aside, state = cut.left(upto)
        # then the node has the newest save that is whole, and takes it for no damage
        assert set_aside is None
        assert state == [state for size, state in cut.saves if size <= upto][-1]


def test_what_was_synced_and_is_missing_is_damage(cut: Cut) -> None:
    cut.follow("one", synced=True)
    before = cut.saves[-1][0]
    cut.follow("two", synced=False)
    cut.standby.stored.sync()
    set_aside, _ = cut.left(before)
    assert set_aside is not None


def test_it_says_what_outlives_a_power_cut(cut: Cut) -> None:
    stored, node_state = cut.standby.stored, cut.standby.node_state
    assert stored.synced_upto == node_state.view.position.id
    cut.follow("one", synced=False)
    assert stored.synced_upto == node_state.view.position.id
    stored.sync()
    assert stored.synced_upto == cut.standby.node_state.view.position.id > node_state.view.position.id


def test_saves_go_on_while_the_disk_syncs_and_only_those_before_outlive_a_power_cut(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a sync that waits for the disk
    stored = cut.standby.stored
    cut.follow("before", synced=False)
    before = stored.load()
    begun, ends = threading.Event(), threading.Event()
    sync = checkpoint.disk.sync

    def slow(path: Path) -> None:
        begun.set()
        assert ends.wait(PATIENCE_S)
        sync(path)

    monkeypatch.setattr(checkpoint.disk, "sync", slow)
    syncing = in_thread(stored.sync)
    assert begun.wait(PATIENCE_S)
    # when a save comes meanwhile, then it does not wait, and what the sync vouches for is what was there before
    cut.follow("meanwhile", synced=False)
    assert stored.synced_upto < before.view.position.id
    ends.set()
    syncing()
    assert stored.synced_upto == before.view.position.id
    assert not stored.is_synced
    # and when a later save was synced before it ends, it takes nothing of that back
    begun.clear()
    ends.clear()
    syncing = in_thread(stored.sync)
    assert begun.wait(PATIENCE_S)
    cut.follow("later", synced=True)
    ends.set()
    syncing()
    assert stored.synced_upto == cut.standby.node_state.view.position.id
    assert stored.is_synced
    size = cut.wal.stat().st_size
    assert cut.left(size)[0] is None


def test_a_disk_that_refuses_a_sync_is_an_error_and_nothing_is_vouched_for(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    cut.follow("one", synced=False)
    stored, before = cut.standby.stored, cut.standby.stored.synced_upto
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.disk, "sync", refused)
        with pytest.raises(CheckpointError, match="Input/output error"):
            stored.sync()
    # what it could not write the system forgets, and the next sync has nothing to do: its word is worth nothing
    with pytest.raises(CheckpointError, match="an empty data directory on another disk"):
        stored.sync()
    with pytest.raises(CheckpointError, match="may be lost"):
        cut.follow("two", synced=True)
    assert (stored.synced_upto, stored.is_synced) == (before, False)
    # and what does not have to outlive a power cut goes on
    stored.save(cut.standby.node_state.view, (), boot="boot-s", synced=False)


def test_a_synced_save_that_does_not_reach_the_disk_is_the_last_one(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, before = cut.standby.stored, cut.standby.stored.synced_upto
    with monkeypatch.context() as patched:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        patched.setattr(checkpoint.SaveTransaction, "finish", Mock(side_effect=error))
        with pytest.raises(CheckpointError, match="disk I/O error"):
            cut.follow("one", synced=True)
    with pytest.raises(CheckpointError, match="may be lost"):
        cut.follow("two", synced=True)
    assert stored.synced_upto == before


def test_a_sync_that_could_not_open_the_file_is_tried_again(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    cut.follow("one", synced=False)
    stored = cut.standby.stored
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.disk, "sync", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(CheckpointError, match="Too many open files"):
            stored.sync()
    stored.sync()
    assert stored.is_synced


@pytest.fixture
def synced_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are synced from now on, but for what SQLite does by itself."""
    seen: list[str] = []
    sync = checkpoint.disk.sync

    def noted(path: Path) -> None:
        sync(path)
        seen.append(path.name)

    monkeypatch.setattr(checkpoint.disk, "sync", noted)
    return seen


def test_a_sync_reaches_the_file_wherever_the_process_has_gone(
    server: MemoryRedis, primary: Primary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced_files: list[str]
) -> None:
    # given a data directory with a relative path, and a process that changes its directory
    monkeypatch.chdir(tmp_path)
    standby = Standby(server, Path("s"), synced=False)
    standby.read()
    primary.change("x")
    standby.read()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    del synced_files[:]
    # then what it vouches for is on the disk
    standby.stored.sync()
    assert synced_files == ["checkpoint.sqlite-wal"]
    assert standby.stored.is_synced


def test_a_directory_that_was_moved_away_is_an_error_and_nothing_is_vouched_for(cut: Cut) -> None:
    cut.follow("one", synced=False)
    stored, before = cut.standby.stored, cut.standby.stored.synced_upto
    os.rename(cut.standby.data_dir, cut.place)
    with pytest.raises(CheckpointError, match="No such file"):
        stored.sync()
    assert (stored.synced_upto, stored.is_synced) == (before, False)


def test_what_a_killed_process_had_not_synced_is_synced_before_it_is_vouched_for(
    cut: Cut, synced_files: list[str]
) -> None:
    # given what a process that is killed leaves behind: its last save is with the system, and not on the disk
    cut.follow("one", synced=False)
    shutil.copytree(cut.standby.data_dir, cut.place)
    del synced_files[:]
    # then the next one, which says that it has that, brings it there
    with Checkpoint(cut.place, "g", node="s") as stored:
        assert stored.synced_upto == cut.standby.node_state.view.position.id
        assert "checkpoint.sqlite-wal" in synced_files


def test_the_mark_of_a_file_that_is_gone_does_not_come_back_behind_a_power_cut(
    cut: Cut, synced_files: list[str]
) -> None:
    # given a checkpoint of many saves that somebody moves away
    cut.follow("one", synced=True)
    cut.follow("two", synced=True)
    cut.standby.stored.close()
    for path in cut.standby.data_dir.glob("checkpoint.sqlite*"):
        path.unlink()
    del synced_files[:]
    # then the new one does not begin before the lock file, on the disk, says nothing of the old one
    cut.standby.start()
    assert synced_files[0] == "lock"
    assert b"save %020d" % 0 in (cut.standby.data_dir / "lock").read_bytes()


def test_a_sync_of_nothing_new_writes_nothing(cut: Cut) -> None:
    cut.follow("one", synced=True)
    size, changed_at = cut.wal.stat().st_size, cut.wal.stat().st_mtime_ns
    cut.standby.stored.sync()
    assert (cut.wal.stat().st_size, cut.wal.stat().st_mtime_ns) == (size, changed_at)
