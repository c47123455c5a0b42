"""A file as a state: read as it was at one moment, replaced as a whole, and nothing lost silently."""

from __future__ import annotations

import errno
import os
import random
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import CorruptRecord, StateChanged, StateError
from replicator.state import KeptState, State
from replicator.state import file as module
from replicator.state.file import FileState
from tests.support.kv import PATIENCE_S, Group, eventually
from tests.support.slept_time import SleptTime

MIB = 1024 * 1024


def settled(path: Path, content: bytes) -> Path:
    """Written a while ago."""
    path.write_bytes(content)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def content(state: FileState) -> bytes:
    return b"".join(state.snapshot())


def kept(path: Path) -> list[bytes]:
    return sorted(found.read_bytes() for found in path.parent.glob(f"{path.name}.replaced-*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.json"


def test_it_is_a_state_without_apply_that_outlives_its_process(path: Path) -> None:
    state = FileState(path)
    assert isinstance(state, KeptState)
    assert not isinstance(state, State)
    assert not state.survived()
    settled(path, b"x")
    assert state.survived()


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 5])
def test_what_is_read_is_what_is_written(tmp_path: Path, size: int) -> None:
    data = random.Random(1).randbytes(size)
    state = FileState(settled(tmp_path / "a", data))
    pieces = list(state.snapshot())
    assert pieces
    FileState(tmp_path / "b").restore(iter(pieces))
    assert (tmp_path / "b").read_bytes() == data


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(path: Path) -> None:
    state = FileState(settled(path, b"1" * 3 * MIB))
    pieces = state.snapshot()
    first = next(pieces)
    settled(path.with_name("new"), b"2" * 3 * MIB).rename(path)
    assert first + b"".join(pieces) == b"1" * 3 * MIB
    assert content(state) == b"2" * 3 * MIB


def test_a_file_that_is_written_while_it_is_read_is_not_taken(path: Path) -> None:
    pieces = FileState(settled(path, b"1" * 3 * MIB)).snapshot()
    next(pieces)
    with path.open("r+b") as file:
        file.write(b"2")
    with pytest.raises(StateChanged):
        list(pieces)


def test_a_file_is_read_once_nobody_has_written_to_it_for_a_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a program that is in the middle of writing
    clock = SleptTime(meanwhile=lambda before: before or path.write_bytes(b"half and half"))
    monkeypatch.setattr(module, "time", clock)
    path.write_bytes(b"half")
    # then all of it is read
    assert content(FileState(path, still_s=0.3)) == b"half and half"
    assert clock.slept_s >= 0.3


def test_a_file_that_never_holds_still_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"x")
    clock = SleptTime(meanwhile=lambda before: path.write_bytes(path.read_bytes() + b"x"))
    monkeypatch.setattr(module, "time", clock)
    # when each time it seems to be still, somebody has written since
    monkeypatch.setattr(clock, "time", lambda: path.stat().st_ctime)
    with pytest.raises(StateChanged):
        content(FileState(path))
    assert clock.slept_s > module.PATIENCE_S


def test_a_clock_that_is_ahead_does_not_keep_a_file_from_being_read(path: Path) -> None:
    path.write_bytes(b"x")
    os.utime(path, (time.time() + 1000, time.time() + 1000))
    assert content(FileState(path)) == b"x"


def test_mode_and_owner_stay(path: Path) -> None:
    settled(path, b"old").chmod(0o640)
    FileState(path).restore([b"new"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == b"new"


def test_what_a_link_leads_to_is_replaced(path: Path) -> None:
    target = settled(path.with_name("target"), b"old")
    path.symlink_to(target)
    FileState(path).restore([b"new"])
    assert path.is_symlink()
    assert target.read_bytes() == b"new"


def test_pieces_that_prove_wrong_at_their_end_leave_the_file_as_it_was(path: Path) -> None:
    def wrong() -> Iterator[bytes]:
        yield b"new"
        raise CorruptRecord(id="1-1", problem="damaged")

    settled(path, b"old")
    with pytest.raises(CorruptRecord):
        FileState(path).restore(wrong())
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_a_draft_of_a_process_that_was_killed_is_in_nobodys_way(path: Path) -> None:
    path.with_name(f".{path.name}.new").write_bytes(b"half")
    FileState(path).restore([b"new"])
    assert [found.name for found in path.parent.iterdir()] == [path.name]


# --- modes, and places that cannot be renamed over --------------------------------------------------------------------


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_new_file_is_private_or_has_the_mode_that_was_asked_for(path: Path, open_umask: None) -> None:
    FileState(path).restore([b"new"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    FileState(path.with_name("other"), mode=0o644).restore([b"new"])
    assert stat.S_IMODE(path.with_name("other").stat().st_mode) == 0o644


def test_a_draft_and_a_copy_are_never_readable_for_more_than_the_file_is(
    path: Path, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(path, b"old").chmod(0o600)
    modes = set()

    def looking() -> Iterator[bytes]:
        yield b"n"
        modes.add(stat.S_IMODE(path.with_name(f".{path.name}.new").stat().st_mode))
        yield b"ew"

    write = module.disk.write

    def noted(descriptor: int, data: bytes) -> None:
        modes.add(stat.S_IMODE(os.fstat(descriptor).st_mode))
        write(descriptor, data)

    monkeypatch.setattr(module.disk, "write", noted)
    monkeypatch.setattr(module.os, "link", _no_link)
    FileState(path).restore(looking())
    assert modes | {stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()} == {0o600}
    assert kept(path) == [b"old"]


def test_a_draft_that_somebody_put_there_as_a_link_leads_nowhere(path: Path) -> None:
    victim = settled(path.with_name("victim"), b"precious")
    path.with_name(f".{path.name}.new").symlink_to(victim)
    FileState(path).restore([b"new"])
    assert (victim.read_bytes(), path.read_bytes(), path.is_symlink()) == (b"precious", b"new", False)


def _no_link(*_: Any) -> None:
    raise OSError(errno.EXDEV, "another mount")


@pytest.fixture
def mounted(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is a mount by itself, as far as `rename` says so."""
    replace = os.replace

    def busy(source: Any, target: Any) -> None:
        if Path(target) == path:
            raise OSError(errno.EBUSY, "Device or resource busy")
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", busy)
    return settled(path, b"a long old content")


@pytest.mark.parametrize("new", [b"new", b"a new content that is longer than the old one"])
@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_a_mount_is_overwritten_in_place(
    mounted: Path, new: bytes, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(module.os, "link", _no_link)
    before = mounted.stat().st_ino
    state = FileState(mounted)
    state.restore([new])
    assert (mounted.read_bytes(), mounted.stat().st_ino) == (new, before)
    assert kept(mounted) == [b"a long old content"]
    state.restore([b"newer"])
    assert (mounted.read_bytes(), kept(mounted)) == (b"newer", [b"a long old content"])


def test_a_mount_without_room_for_the_new_content_stays_as_it_was(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    with pytest.raises(StateError, match="No space left"):
        FileState(mounted).restore([b"a new content that is longer than the old one"])
    assert mounted.read_bytes() == b"a long old content"


def test_what_was_overwritten_half_way_is_nobodys_and_not_kept(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module._write
    failing = True
    opened = os.open(mounted, os.O_RDONLY)

    def broken(file: Any, piece: bytes) -> None:
        if failing and os.path.sameopenfile(file.fileno(), opened):
            write(file, piece[:2])
            raise OSError(errno.EIO, "Input/output error")
        write(file, piece)

    monkeypatch.setattr(module, "_write", broken)
    state = FileState(mounted)
    for _ in range(2):
        with pytest.raises(StateError, match="Input/output error"):
            state.restore([b"new"])
    failing = False
    state.restore([b"new"])
    os.close(opened)
    assert (mounted.read_bytes(), kept(mounted)) == (b"new", [b"a long old content"])


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_it_restored_itself_is_not_kept(path: Path) -> None:
    state = FileState(path)
    state.restore([b"one"])
    state.restore([b"two"])
    assert path.read_bytes() == b"two"
    assert kept(path) == []


def test_what_somebody_wrote_since_is_kept(path: Path) -> None:
    state = FileState(path)
    state.restore([b"one"])
    settled(path, b"mine")
    state.restore([b"two"])
    settled(path, b"mine, too")
    state.restore([b"three"])
    assert path.read_bytes() == b"three"
    assert kept(path) == [b"mine", b"mine, too"]


def test_what_was_published_is_not_kept_and_what_was_not_is(path: Path) -> None:
    state = FileState(settled(path, b"published"))
    content(state)
    state.published()
    state.restore([b"newer"])
    assert kept(path) == []
    # given that publishing failed
    settled(path, b"not published")
    content(state)
    state.restore([b"of another"])
    assert kept(path) == [b"not published"]


def test_after_a_restart_only_the_very_content_is_not_kept(path: Path) -> None:
    settled(path, b"same")
    before = path.stat().st_ino
    FileState(path).restore([b"same"])
    assert kept(path) == []
    # and it is not even written
    assert path.stat().st_ino == before
    FileState(path).restore([b"other"])
    assert kept(path) == [b"same"]


def test_a_file_system_without_hard_links_gets_a_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(module.os, "link", no_link)
    FileState(settled(path, b"mine")).restore([b"new"])
    assert kept(path) == [b"mine"]


def test_what_is_tried_again_and_again_is_kept_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    settled(path, b"mine")
    state = FileState(path)
    with monkeypatch.context() as patched:
        patched.setattr(module.os, "replace", refused)
        for again in (state, state, FileState(path), FileState(path)):
            with pytest.raises(StateError, match="Read-only"):
                again.restore([b"new"])
    FileState(path).restore([b"new"])
    assert kept(path) == [b"mine"]


def test_another_content_with_the_size_and_the_time_of_the_old_one_is_seen_and_kept(path: Path) -> None:
    state = FileState(path)
    state.restore([b"one"])
    before, seen = path.stat(), state.seen()
    # as `cp -p` does, tar, and rsync --inplace
    with path.open("r+b") as file:
        file.write(b"own")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert state.seen() != seen
    state.restore([b"two"])
    assert kept(path) == [b"own"]


def test_a_write_within_the_same_tick_of_a_coarse_clock_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = module.Stamp.of

    def coarse(found: os.stat_result) -> Any:
        return of(found)._replace(modified_ns=10**18, changed_ns=10**18)

    monkeypatch.setattr(module.Stamp, "of", coarse)
    state = FileState(path)
    state.restore([b"one"])
    with path.open("r+b") as file:
        file.write(b"own")
    state.restore([b"two"])
    assert kept(path) == [b"own"]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_missing_file_is_said_to_be_missing(path: Path) -> None:
    with pytest.raises(StateError, match=r"registry.json .*there is no such file"):
        FileState(path).snapshot()
    with pytest.raises(StateError, match="there is no directory"):
        FileState(path.with_name("nowhere") / "x").restore([b"x"])


@pytest.mark.skipif(os.geteuid() == 0, reason="this user may read everything")
def test_a_file_that_may_not_be_read_is_said_to_be(path: Path) -> None:
    settled(path, b"x").chmod(0)
    with pytest.raises(StateError, match="Permission denied"):
        FileState(path).snapshot()


def test_a_file_of_which_nobody_can_say_whether_it_is_there_is_not_taken_for_gone(path: Path) -> None:
    # given a path that leads nowhere, which is neither there nor missing
    path.symlink_to(path)
    state = FileState(path)
    assert state.survived()
    with pytest.raises(StateError, match="symbolic links"):
        state.snapshot()
    (path.parent / "file").touch()
    assert not FileState(path.parent / "file" / "x").survived()


def test_a_directory_is_no_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateError, match="directory"):
        FileState(path).snapshot()


def test_a_full_disk_is_said_to_be_full_and_leaves_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    settled(path, b"old")
    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(StateError, match=r"No space left on device \(.* MB are free\)"):
        FileState(path).restore([b"new"])
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_pieces_of_another_kind_of_state_are_refused(path: Path) -> None:
    with pytest.raises(StateError, match="something else than a file"):
        FileState(path).restore([{"a": 1}])
    assert not path.exists()


def test_nothing_published_leaves_the_file_alone(path: Path) -> None:
    FileState(settled(path, b"mine")).restore([])
    assert path.read_bytes() == b"mine"
    FileState(path.with_name("other")).restore([])
    assert not path.with_name("other").exists()


# --- in a group -------------------------------------------------------------------------------------------------------


def test_the_file_of_a_standby_follows_that_of_the_primary(group: Group, tmp_path: Path) -> None:
    ours, theirs = settled(tmp_path / "ours", random.Random(1).randbytes(3 * MIB)), tmp_path / "theirs"
    a = group.primary("a", state=FileState(ours))
    group.node("b", state=FileState(theirs))
    assert a.publish().what == "whole"
    eventually(lambda: theirs.exists() and theirs.read_bytes() == ours.read_bytes())
    settled(ours, b"inserted " + ours.read_bytes()[:-700])
    published = a.publish()
    assert published.what == "patch"
    assert published.bytes < 10_000
    eventually(lambda: theirs.read_bytes() == ours.read_bytes())
    assert kept(ours) == kept(theirs) == []


def test_an_old_primary_that_comes_back_keeps_what_it_had_not_published(group: Group, tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"published")
    a = group.primary("a", state=FileState(path))
    b = group.node("b", state=FileState(tmp_path / "other"))
    a.publish()
    eventually(lambda: (tmp_path / "other").exists())
    data_dir = group.crash(a)
    settled(path, b"not published")
    b.promote(timeout_s=PATIENCE_S)
    again = group.node("a", state=FileState(path), data_dir=data_dir)
    eventually(lambda: path.read_bytes() == b"published")
    assert kept(path) == [b"not published"]
    settled(tmp_path / "other", b"newer")
    b.publish()
    eventually(lambda: path.read_bytes() == b"newer")
    assert kept(path) == [b"not published"]
    assert again.in_sync


def test_an_old_primary_that_comes_back_without_anything_of_its_own_keeps_nothing(group: Group, tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"published")
    a = group.primary("a", state=FileState(path))
    b = group.node("b", state=FileState(tmp_path / "other"))
    a.publish()
    eventually(lambda: (tmp_path / "other").exists())
    data_dir = group.crash(a)
    b.promote(timeout_s=PATIENCE_S)
    settled(tmp_path / "other", b"newer")
    b.publish()
    again = group.node("a", state=FileState(path), data_dir=data_dir)
    eventually(lambda: path.read_bytes() == b"newer")
    assert again.in_sync
    assert kept(path) == []


def test_a_standby_whose_file_is_gone_is_not_equal_and_goes_on(group: Group, tmp_path: Path) -> None:
    ours, theirs = settled(tmp_path / "ours", b"one"), tmp_path / "theirs"
    a = group.primary("a", state=FileState(ours), beat_every_s=0.3)
    b = group.node("b", state=FileState(theirs), beat_every_s=0.3)
    a.publish()
    eventually(theirs.exists)
    theirs.unlink()
    a._running.primary.commits.mark()
    eventually(
        lambda: a._running.ha_loop.reporter.digest is not None and b._running.ha_loop.reporter.digest is not None
    )
    assert b._running.ha_loop.reporter.digest[:2] == (a.position.id, "none")
    assert a._running.ha_loop.reporter.digest != b._running.ha_loop.reporter.digest
    settled(ours, b"two")
    a.publish()
    eventually(lambda: theirs.exists() and theirs.read_bytes() == b"two")
    assert not b.problem
