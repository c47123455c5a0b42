"""A directory of backups: what goes, what stays, and that nothing else in it is touched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from replicator.archive.backup import Facts
from replicator.archive.errors import ArchiveUnavailable
from replicator.jobs.backups import BackupFile, Backups, outdated
from replicator.jobs.errors import BackupsInUse
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.logs import Pen

DAY_MS = 86_400_000
NOW_MS = 100 * DAY_MS


def file(age_days: float) -> BackupFile:
    facts = Facts(
        group="g", app="", state="", version=1, log_id="", position="1-1", changed="1-1", at=0,
        made_at=NOW_MS - int(age_days * DAY_MS),
    )  # fmt: skip
    return BackupFile(path=Path(f"{age_days:g}"), facts=facts)


def gone(*ages: float, keep: int | None = None, keep_days: float | None = None, damaged: Any = ()) -> list[str]:
    """The ages of those that go."""
    keep_s = None if keep_days is None else keep_days * 86_400
    found = outdated(
        [file(age) for age in ages],
        now_ms=NOW_MS,
        keep=keep,
        keep_s=keep_s,
        is_whole=lambda backup: float(backup.path.name) not in damaged,
    )
    return [backup.path.name for backup in found]


class TestWhatGoes:
    def test_without_a_bound_nothing_goes(self) -> None:
        assert gone(0, 1, 2, 300) == []

    def test_the_newest_stay(self) -> None:
        assert gone(0, 1, 2, 3, keep=2) == ["2", "3"]
        assert gone(0, keep=2) == []

    def test_the_young_stay(self) -> None:
        assert gone(0, 1, 2, 3, keep_days=1.5) == ["2", "3"]

    def test_of_both_bounds_the_one_counts_that_keeps_more(self) -> None:
        assert gone(0, 1, 2, 3, keep=1, keep_days=2.5) == ["3"]
        assert gone(0, 1, 2, 3, keep=3, keep_days=0.5) == ["3"]

    def test_one_that_is_damaged_does_not_count_and_does_not_go(self) -> None:
        assert gone(0, 1, 2, 3, keep=2, damaged={1}) == ["3"]

    def test_one_from_the_future_stays(self) -> None:
        assert gone(0, -5, 1, keep_days=0.5) == ["1"]


@pytest.fixture
def pen() -> Pen:
    pen = Pen(MemoryRedis())
    pen.promote()
    pen.change("x")
    pen.snapshot()
    return pen


@pytest.fixture
def backups(tmp_path: Path) -> Backups:
    return Backups(tmp_path / "backups", "g", snapshot_bytes_max=1_000_000)


def write(backups: Backups, pen: Pen, number: int) -> BackupFile:
    log = MemoryLog(pen.server, "g")
    head = log.look().head
    assert head is not None
    time.sleep(0.002)  # made at another millisecond
    return backups.write(log, as_of=head.snapshot_at, state="", key=f"{number:016x}")


class TestADirectory:
    def test_the_newest_stay_and_what_is_no_backup_of_the_group_is_not_touched(
        self, backups: Backups, pen: Pen
    ) -> None:
        written = [write(backups, pen, number) for number in range(4)]
        name = written[0].path.name
        others = {
            backups.path / "notes.txt": b"mine",
            backups.path / name.replace("g.", "h."): written[0].path.read_bytes(),  # of another group, by its name
            backups.path / "g.20200101T000000Z.0123456789abcdef.backup": b"no backup at all",
            backups.path / "g.20200101T000000Z.backup": written[0].path.read_bytes(),
            backups.path / f"{name}.old": written[0].path.read_bytes(),
        }
        for path, data in others.items():
            path.write_bytes(data)
        removed, damaged = backups.retain(written[-1], keep=2, keep_s=None)
        assert sorted(removed) == sorted(each.path.name for each in written[:2])
        assert damaged == ["g.20200101T000000Z.0123456789abcdef.backup"]
        assert {path: path.read_bytes() for path in others} == others
        assert [each.path.exists() for each in written] == [False, False, True, True]

    def test_a_link_is_not_followed(self, backups: Backups, pen: Pen, tmp_path: Path) -> None:
        old = write(backups, pen, 1)
        elsewhere = tmp_path / "elsewhere"
        old.path.rename(elsewhere)
        old.path.symlink_to(elsewhere)
        assert backups.retain(write(backups, pen, 2), keep=1, keep_s=None) == ([], [])
        assert elsewhere.exists()
        assert old.path.is_symlink()

    def test_a_file_of_another_group_with_a_name_of_this_one_stays(self, backups: Backups, pen: Pen) -> None:
        theirs = Backups(backups.path, "h", snapshot_bytes_max=1_000_000)
        log = MemoryLog(pen.server, "h")
        log_of_g = MemoryLog(pen.server, "g").look().head
        assert log_of_g is not None
        old = write(backups, pen, 1)
        stranger = backups.path / "h.20200101T000000Z.0123456789abcdef.backup"
        old.path.rename(stranger)  # it says of itself that it is of g
        assert theirs.retain(BackupFile(path=backups.path / "h", facts=old.facts), keep=1, keep_s=None)[0] == []
        assert stranger.exists()
        log.close()

    def test_one_that_is_damaged_is_told_and_another_one_is_kept_in_its_place(self, backups: Backups, pen: Pen) -> None:
        first, second, third = [write(backups, pen, number) for number in range(3)]
        data = bytearray(second.path.read_bytes())
        data[10] ^= 1
        second.path.write_bytes(bytes(data))
        assert backups.retain(third, keep=2, keep_s=None) == ([], [second.path.name])
        assert first.path.exists()

    def test_the_same_request_is_one_file(self, backups: Backups, pen: Pen) -> None:
        written = write(backups, pen, 7)
        found = backups.of_request(f"{7:016x}")
        assert found is not None
        assert found.path == written.path
        assert backups.of_request(f"{8:016x}") is None

    def test_a_damaged_one_is_written_anew(self, backups: Backups, pen: Pen) -> None:
        written = write(backups, pen, 7)
        written.path.write_bytes(written.path.read_bytes()[:-1])
        assert backups.of_request(f"{7:016x}") is None

    def test_one_process_at_a_time(self, backups: Backups) -> None:
        other = Backups(backups.path, "g", snapshot_bytes_max=1)
        with backups.held(), pytest.raises(BackupsInUse), other.held():
            pass
        with other.held():
            pass

    def test_drafts_of_processes_that_were_killed_are_removed_and_others_are_not(self, backups: Backups) -> None:
        draft = backups.path / ".g.20200101T000000Z.0123456789abcdef.backup.new"
        mine = backups.path / ".g.mine.backup.new"
        for path in (draft, mine):
            path.write_bytes(b"x")
        with backups.held():
            assert (draft.exists(), mine.exists()) == (False, True)

    def test_a_place_that_is_no_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(ArchiveUnavailable, match="file"):
            Backups(tmp_path / "file", "g", snapshot_bytes_max=1)
