"""Files come to be whole, for nobody else, and never where a link leads."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import CheckpointError, ConfigError
from replicator.sandbox.stack import DevStack
from replicator.storage import disk
from replicator.storage.checkpoint import Checkpoint


@pytest.fixture(autouse=True)
def generous() -> Any:
    """A umask that hides nothing, so that what is private is so by its making."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_new_file_is_private_and_never_one_that_is_there(tmp_path: Path) -> None:
    os.close(disk.create(tmp_path / "new"))
    assert mode(tmp_path / "new") == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("new", "link"):
        with pytest.raises(FileExistsError):
            disk.create(tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_it_makes_is_private_and_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    disk.make_directory(tmp_path / "new")
    assert mode(tmp_path / "new") == 0o700
    (tmp_path / "shared").mkdir(mode=0o755)
    disk.make_directory(tmp_path / "shared")
    assert mode(tmp_path / "shared") == 0o755


def test_a_private_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.new").write_text("of a process that was killed")
    disk.write_private(path, b"one")
    with path.open("rb") as before:
        disk.write_private(path, b"two")
        assert before.read() == b"one"
    assert path.read_bytes() == b"two"
    assert mode(path) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_what_is_written_is_synced_before_it_has_its_name_and_its_directory_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    path = tmp_path / "file"

    def noted(place: Path) -> None:
        seen.append((place.name, path.exists()))

    monkeypatch.setattr(disk, "sync", noted)
    disk.write_private(path, b"x")
    assert seen == [(".file.new", False), (tmp_path.name, True)]


@pytest.mark.parametrize("known", [True, False])
def test_on_macos_the_sync_is_the_one_that_reaches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    asked: list[str] = []

    def full(descriptor: int, command: int) -> None:
        asked.append("full")
        if not known:
            raise OSError(errno.ENOTSUP, "not on this file system")

    monkeypatch.setattr(disk, "_FULL_SYNC", 51)
    monkeypatch.setattr(disk.fcntl, "fcntl", full)
    monkeypatch.setattr(disk.os, "fsync", lambda descriptor: asked.append("plain"))
    disk.sync(tmp_path)
    assert asked == (["full"] if known else ["full", "plain"])


def test_a_sync_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "_FULL_SYNC", 51)
    monkeypatch.setattr(disk.fcntl, "fcntl", broken)
    with pytest.raises(OSError, match="Input/output"):
        disk.sync(tmp_path)


def test_what_takes_the_place_of_a_file_has_its_mode(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o640)
    new = disk.create(tmp_path / "new")
    disk.take_after(new, (tmp_path / "old").stat())
    os.close(new)
    assert mode(tmp_path / "new") == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_mode_that_was_for_another_group_is_not_given_to_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").touch()
    os.chown(tmp_path / "old", 1234, 2345)
    (tmp_path / "old").chmod(0o4664)
    before = (tmp_path / "old").stat()
    new = disk.create(tmp_path / "new")
    disk.take_after(new, before)
    found = os.fstat(new)
    assert (found.st_uid, found.st_gid, mode(tmp_path / "new")) == (1234, 2345, 0o4664)

    def refused(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "not root")

    # given that this process may not
    os.fchown(new, 0, 0)
    monkeypatch.setattr(disk.os, "fchown", refused)
    disk.take_after(new, before)
    os.close(new)
    assert mode(tmp_path / "new") == 0o604


# --- who uses it ------------------------------------------------------------------------------------------------------


def test_a_data_directory_and_all_that_is_in_it_is_private(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "data", "g", node="a"):
        assert mode(tmp_path / "data") == 0o700
        assert {mode(found) for found in (tmp_path / "data").iterdir()} == {0o600}


def test_a_lock_that_is_a_link_is_refused_and_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    for place in ("data", "stack"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(CheckpointError, match="lock"):
        Checkpoint(tmp_path / "data", "g", node="a")
    with pytest.raises(ConfigError, match="lock"):
        DevStack(tmp_path / "stack", port=0).start()
    assert (tmp_path / "victim").read_text() == "precious"
