"""What an archiver makes of a log: one chain, or else a timeline that says why it begins."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from replicator.archive.checking import check
from replicator.archive.errors import ArchiveDamaged, ArchiveInUse, NotInArchive
from replicator.archive.places import Directory
from replicator.archive.status import read_status
from replicator.errors import ConfigError
from replicator.format.ids import RecordId
from replicator.storage import disk
from tests.support.logs import Pen
from tests.support.worlds import MemoryWorld
from tests.unit.archive.conftest import Scene


def reasons(scene: Scene) -> list[str]:
    return [scene.catalog.footer(timeline, numbers[0]).reason for timeline, numbers in scene.catalog.timelines.items()]


def test_what_the_log_has_is_in_the_archive_record_by_record(scene: Scene) -> None:
    written = [scene.pen.change(number) for number in range(5)]
    scene.restart()
    scene.turns()
    lineage = scene.catalog.lineage(1)
    found = list(lineage.records(0))
    assert found[1:] == written
    assert [(record.header, record.body) for record in found[1:]] == [(each.header, each.body) for each in written]
    check(scene.catalog, rules=True)


def test_every_record_is_a_state_that_can_be_had_again(scene: Scene) -> None:
    scene.restart()
    ids = []
    for number in range(6):
        ids.append(scene.pen.change(number).id)
        scene.turns(2)
    assert len(scene.catalog.timelines[1]) == 6
    for count, id_ in enumerate(ids, 1):
        assert scene.pushed(id_) == list(range(count))


def test_a_restart_goes_on_where_the_newest_segment_ends(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    scene.turns()
    scene.pen.change(2)
    scene.restart()  # what it may have had in memory is gone
    scene.turns()
    scene.pen.change(3)
    scene.turns()
    assert scene.pushed("latest") == [1, 2, 3]
    assert list(scene.catalog.timelines) == [1]
    check(scene.catalog, rules=True)


def test_a_restart_amid_a_snapshot_knows_where_it_began(scene: Scene) -> None:
    scene.pen.change(*range(100))
    scene.restart()
    parts = scene.pen.parts(size=40)
    first = next(parts)
    scene.turns()
    assert scene.catalog.newest is not None
    assert scene.catalog.newest.begun is not None
    assert scene.catalog.newest.begun.first == str(first.id)
    scene.restart()
    last = list(parts)[-1]
    scene.turns()
    [snapshot] = scene.catalog.newest.snapshots
    assert (snapshot.first, snapshot.last) == (str(first.id), str(last.id))
    assert scene.folded(last.id).snapshot_id == first.as_of.id


def test_an_archive_that_begins_late_begins_with_the_snapshot_that_the_log_has(scene: Scene) -> None:
    scene.pen.change(1)
    scene.pen.snapshot()
    scene.pen.change(2)
    last = scene.pen.snapshot()[-1]
    scene.pen.change(3)
    scene.restart()
    scene.turns()
    assert scene.pushed("latest") == [1, 2, 3]
    assert scene.folded(last.id).change_count == 0
    assert scene.pushed("1-2") == [1], "a snapshot is all that is left of it"
    with pytest.raises(NotInArchive):
        scene.pushed("1-1")


def test_records_that_were_cut_before_they_were_read_are_a_gap_and_never_bridged(scene: Scene) -> None:
    scene.restart()
    before = scene.pen.change(1).id
    scene.turns()
    lost = scene.pen.change(2).id
    scene.pen.snapshot()
    lost_too = scene.pen.change(3).id
    scene.pen.change(4)
    scene.pen.snapshot()
    scene.pen.snapshot()
    while scene.pen.log.sweep():
        pass
    after = scene.pen.change(5).id
    scene.turns(5)
    assert list(scene.catalog.timelines) == [1, 2]
    assert "a gap" in reasons(scene)[1]
    assert scene.pushed(before) == [1]
    assert scene.folded(after).snapshot_id > lost_too
    assert scene.catalog.lineage(2).footer(0).parent is None
    for id_ in (lost, lost_too):
        with pytest.raises(NotInArchive, match="no record has that id"):
            scene.pushed(id_)
    check(scene.catalog, rules=True)


def test_a_new_run_of_redis_begins_a_timeline_that_goes_on(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    scene.turns()
    scene.server.fail_over(scene.server.state, run="run-2")
    scene.pen.promote()
    new = scene.pen.change(2)
    scene.turns()
    assert "another run" in reasons(scene)[1]
    assert scene.pushed(new.id) == [1, 2]
    parent = scene.catalog.footer(2, 1).parent
    assert parent is not None
    assert parent.timeline == 1
    check(scene.catalog, rules=True)


def test_records_that_redis_lost_stay_in_their_timeline(scene: Scene) -> None:
    scene.restart()
    kept = scene.pen.change(1).id
    older = scene.server.state
    other = Pen(scene.server, "b")
    lost = scene.pen.change(2).id
    scene.turns()
    scene.server.fail_over(older, run="run-2")
    other.pushed = [1]
    other.promote()
    new = other.change(3).id
    scene.turns()
    assert "Redis lost what came after" in reasons(scene)[1]
    assert scene.pushed(new) == [1, 3]
    assert scene.pushed(lost) == [1, 2]
    assert scene.pushed(kept) == [1]
    assert scene.pushed("latest", timeline=1) == [1, 2]
    check(scene.catalog, rules=True)


def test_a_rebase_brings_back_what_redis_lost(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    older = scene.server.state
    scene.pen.change(2)
    scene.turns()
    scene.server.fail_over(older, run="run-2")
    scene.pen.promote()
    scene.pen.snapshot()
    new = scene.pen.change(3)
    scene.turns()
    assert "a rebase" in reasons(scene)[2]
    assert scene.pushed(new.id) == [1, 2, 3]
    assert scene.pushed("latest") == [1, 2, 3]
    check(scene.catalog, rules=True)


def test_a_rebase_over_what_was_never_archived_is_a_gap(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    scene.turns()
    older = scene.server.state
    scene.pen.change(2)  # no archiver reads it before Redis loses it
    scene.server.fail_over(older, run="run-2")
    scene.pen.promote()
    scene.pen.snapshot()
    new = scene.pen.change(3)
    scene.turns(5)
    newest = max(scene.catalog.timelines)
    assert "so this is a gap" in reasons(scene)[newest - 1]
    assert scene.catalog.footer(newest, 1).parent is None
    assert scene.pushed(new.id) == [1, 2, 3]
    assert scene.pushed("1-3") == [1, 2], "the snapshot of the rebase has it"
    check(scene.catalog, rules=True)


def test_what_goes_on_from_before_an_earlier_loss_has_its_own_history(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    early = scene.server.state
    c = Pen(scene.server, "c")
    c.pushed = [1]
    scene.pen.change(2)
    later = scene.server.state
    b = Pen(scene.server, "b")
    scene.pen.change(3)
    scene.turns()
    scene.server.fail_over(later, run="run-2")
    b.promote()
    b.change(4)
    scene.turns()
    scene.server.fail_over(early, run="run-3")
    c.promote(floor=b.node_state.view.term)
    new = c.change(5).id
    scene.turns()
    assert list(scene.catalog.timelines) == [1, 2, 3]
    assert scene.pushed(new) == [1, 5]
    assert scene.pushed("latest", timeline=2) == [1, 2, 4]
    check(scene.catalog, rules=True)


def test_another_log_begins_a_timeline_of_its_own(scene: Scene) -> None:
    scene.restart()
    old = scene.pen.change(1).id
    scene.turns()
    scene.server.flush()
    other = Pen(scene.server, "b")
    other.promote(new_log_id="log-2")
    new = other.change(7).id
    scene.turns(5)
    assert old == new, "the case that ids alone do not tell apart"
    assert "another log, log-2" in reasons(scene)[1]
    assert scene.pushed(new) == [7]
    assert scene.pushed(old, timeline=1) == [1]
    check(scene.catalog, rules=True)


def test_it_stops_before_what_is_no_record_and_says_so(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    world = MemoryWorld()
    world.server = scene.server
    world.write_raw(RecordId(1, 3), b"{}")
    scene.turns()
    status = read_status(scene.place)
    assert status is not None
    assert status.position == "1-2"
    assert "nothing after it is archived" in status.problem


# --- the place --------------------------------------------------------------------------------------------------------


def test_a_segment_is_on_the_disk_before_it_has_its_name(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    rename, sync = os.replace, disk.sync

    def replace(draft: Any, path: Any) -> None:
        if str(path).endswith(".segment"):
            done.append("named")
        rename(draft, path)

    def synced(path: Path) -> None:
        done.append("directory" if path.is_dir() else "file")
        sync(path)

    scene.restart()
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(disk, "sync", synced)
    scene.pen.change(1)
    scene.turns(2)
    at = done.index("named")
    assert done[at - 1] == "file"
    assert done[at + 1] == "directory"


def test_two_archivers_at_one_place_are_refused(scene: Scene) -> None:
    scene.restart()
    with (
        pytest.raises(ArchiveInUse, match=f"process {os.getpid()} is archiving there"),
        Directory(scene.place.path).held(),
    ):
        pass


def test_an_archiver_that_was_overtaken_ends(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    scene.now += 10
    (scene.place.path / "000001").mkdir()
    (scene.place.path / "000001" / "0000000001.segment").write_bytes(b"of another archiver")
    with pytest.raises(ArchiveInUse, match="who wrote 000001/0000000001"):
        scene.turns()


def test_a_full_disk_is_said_and_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.restart()
    scene.pen.change(1)
    write = disk.write_private

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(disk, "write_private", full)
    scene.turns()
    status = read_status(scene.place)
    assert status is not None
    assert "No space left on device" in status.problem
    assert "are free on that disk" in status.problem
    assert scene.catalog.timelines == {}
    scene.pen.change(2)
    monkeypatch.setattr(disk, "write_private", write)
    scene.turns()
    assert scene.pushed("latest") == [1, 2]
    told = read_status(scene.place)
    assert told is not None
    assert told.problem == ""


def test_a_segment_that_has_its_name_but_was_not_synced_is_the_archivers_own(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.restart()
    id_ = scene.pen.change(1).id
    sync, failed = disk.sync, list[Path]()

    def fails_once(path: Path) -> None:
        if path.is_dir() and path.name == "000001" and not failed:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error", str(path))
        sync(path)

    monkeypatch.setattr(disk, "sync", fails_once)
    scene.turns(5)
    assert failed
    assert scene.archiver.status.position == str(id_)
    assert scene.pushed("latest") == [1]


def test_it_says_what_it_lags_behind(scene: Scene) -> None:
    scene.restart(segment_every_s=1000.0)
    scene.pen.change(1)
    scene.turns(2)
    behind = read_status(scene.place)
    assert behind is not None
    assert (behind.position, behind.head_id, behind.lag_records, behind.complete_at) == ("0-0", "1-2", 2, 0)
    scene.now += 1000
    scene.turns(2)
    told = read_status(scene.place)
    assert told is not None
    assert (told.position, told.lag_records) == ("1-2", 0)
    assert told.complete_at > 0
    assert told.alive()
    scene.archiver.end()
    ended = read_status(scene.place)
    assert ended is not None
    assert not ended.alive()


def test_it_asks_for_a_snapshot_when_the_newest_is_old_and_there_were_changes(scene: Scene) -> None:
    scene.restart(snapshot_every_s=3600.0)
    scene.turns()

    def asked() -> int:
        found = scene.pen.log.read(None, requests_after="0-0").requests
        return sum(request.what == "snapshot" for request in found)

    assert asked() == 0, "nothing was changed yet"
    scene.pen.change(1)
    scene.turns(2)
    assert asked() == 1, "there is none at all"
    scene.pen.snapshot()
    scene.turns(20, seconds=60.0)
    assert asked() == 1
    scene.turns(60, seconds=60.0)
    assert asked() == 1, "nothing was changed since"
    scene.pen.change(2)
    scene.turns(2)
    assert asked() == 2


# --- what is damaged --------------------------------------------------------------------------------------------------


def test_a_segment_that_is_missing_is_named_at_the_start(scene: Scene) -> None:
    scene.restart()
    for number in range(3):
        scene.pen.change(number)
        scene.turns(2)
    scene.place.remove("000001/0000000002.segment")
    with pytest.raises(ArchiveDamaged, match=r"000001/0000000002\.segment: it is missing"):
        scene.restart()


def test_the_end_of_a_timeline_that_another_one_continues_is_missed(scene: Scene) -> None:
    scene.restart()
    for value in range(3):
        scene.pen.change(value)
        scene.turns(2)
    scene.server.fail_over(scene.server.state, run="run-2")
    scene.pen.promote()
    scene.turns()
    assert list(scene.catalog.timelines) == [1, 2]
    last = scene.catalog.footer(1, 3).name
    scene.place.remove(last)
    with pytest.raises(ArchiveDamaged, match=f"{last}: it is missing"):
        check(scene.catalog, contents=False)


def test_a_flipped_bit_is_found_at_the_start(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    scene.turns()
    path = scene.place.path / "000001" / "0000000001.segment"
    data = path.read_bytes()
    for at in (3, 20, len(data) // 2, len(data) - 40, len(data) - 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ArchiveDamaged):
            scene.restart()
    path.write_bytes(data)
    scene.restart()


def test_the_place_of_another_group_is_refused(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    scene.turns()
    with pytest.raises(ConfigError, match="the archive is of group g, and this is group other"):
        check(scene.catalog, group="other")


def test_a_record_that_follows_nothing_in_the_log_itself_is_not_read_again_and_again(scene: Scene) -> None:
    scene.restart()
    scene.pen.change(1)
    scene.turns()
    forged = scene.pen.change(2)
    world = MemoryWorld()
    world.server = scene.server
    world.write_raw(RecordId(1, 4), forged.header, forged.body)
    scene.turns(8)
    assert len(scene.catalog.timelines) == 2
    status = read_status(scene.place)
    assert status is not None
    assert "1-4 does not follow" in status.problem
    assert scene.pushed("1-3", timeline=1) == [1, 2]
