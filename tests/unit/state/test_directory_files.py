"""A directory that is told which files changed: it looks at these, and loses no more than where it looks at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from replicator import StateError
from replicator.format.file_changes import FileChange, Listing
from replicator.format.manifest import Content, contents_of
from replicator.state.directory import DirectoryState, contents, folding, state
from replicator.state.directory.tree import Tree
from tests.support import small_disk
from tests.support.needs import needs


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    (tmp_path / "ours").mkdir()
    return tmp_path / "ours"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs"


def put(top: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content)


def inside(top: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        what = os.readlink(path) if path.is_symlink() else mode if path.is_dir() else (mode, path.read_bytes())
        found[str(path.relative_to(top))] = what
    return found


def asides(top: Path) -> dict[str, bytes]:
    """The files that were put aside of it, by path."""
    return {
        str(path.relative_to(aside)): path.read_bytes()
        for aside in sorted(top.parent.glob(f"{top.name}.replaced-*"))
        for path in aside.rglob("*")
        if path.is_file()
    }


class Published:
    """What was published of a directory: the source of another one."""

    def __init__(self, top: Path, **options: Any) -> None:
        self._state = DirectoryState(top, **options)
        self.listing = Listing()
        self.contents: dict[Content, list[bytes]] = {}
        self.change: FileChange | None = None
        #: The contents that were asked for.
        self.read: list[Content] = []

    def publish(self) -> Published:
        with self._state.cut() as cut:
            old, (gone, entries) = self.listing, self.listing.changed_to(cut.entries)
            self.listing = old.after(gone, entries)
            self.contents |= {content: [*pieces] for content, pieces in cut.contents(contents_of(cut.entries))}
        change = FileChange(old.digest, self.listing.digest, old.size, self.listing.size, gone, entries, b"")
        self.change = change if old.entries else None
        self.read.clear()
        return self

    def content(self, content: Content) -> Iterator[bytes]:
        self.read.append(content)
        yield from self.contents[content]

    def to(self, other: DirectoryState) -> None:
        other.restore_files(self, iter(()), change=self.change)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often all of a directory was looked at."""
    found: list[str] = []
    real = Tree.scan

    def counted(self: Tree, under: str = "") -> Any:
        found.append(str(self.path / under))
        return real(self, under)

    monkeypatch.setattr(Tree, "scan", counted)
    return found


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at all of it becomes due."""
    monkeypatch.setattr(state, "LOOK_PAUSE_TIMES", 1e9)


#: What a program may do, one after the other.
STEPS: tuple[Callable[[Path], object], ...] = (
    lambda top: put(top, {"a": "2", "new/deep/f": "1"}),
    lambda top: (top / "d/one").rename(top / "d/other"),
    lambda top: (top / "d").rename(top / "e"),
    lambda top: (top / "e/other").chmod(0o600),
    lambda top: [(top / "a").unlink(), (top / "a").mkdir(), put(top, {"a/b": "in the place of a file"})],
    lambda top: [(top / "a/b").unlink(), (top / "a").rmdir(), put(top, {"a": "a file again"})],
    lambda top: (top / "link").symlink_to("e/other"),
    lambda top: [(top / "link").unlink(), (top / "link").symlink_to("a")],
    lambda top: [(top / "link").unlink(), put(top, {"link": "a file"})],
    lambda top: put(top, {"empty": "", "same": "1", "same2": "1", "e/same3": "1"}),
    lambda top: [(top / "new/deep/f").unlink(), (top / "new/deep").rmdir()],
    lambda top: [path.chmod(0o500) for path in (top / "new", top / "e")],
    lambda top: [(top / "e").chmod(0o700), put(top, {"e/more": "1"}), (top / "e").chmod(0o500)],
)


def begin(ours: Path, theirs: Path) -> tuple[Published, DirectoryState]:
    put(ours, {"a": "1", "b": "1", "d/one": "one", "d/two": "two", "far/away/f": "f"})
    published, other = Published(ours), DirectoryState(theirs)
    published.publish().to(other)
    assert inside(theirs) == inside(ours)
    return published, other


@pytest.mark.usefixtures("patient")
def test_whatever_changes_is_followed_and_nothing_else_is_looked_at(ours: Path, theirs: Path, scans: list[str]) -> None:
    published, other = begin(ours, theirs)
    untouched = (theirs / "far/away/f").stat()
    for step in STEPS:
        step(ours)
        published.publish()
        scans.clear()
        published.to(other)
        assert inside(theirs) == inside(ours)
        # but for what a directory that is gone has in it
        assert str(theirs) not in scans
        assert len(published.read) <= 2
    assert (theirs / "far/away/f").stat() == untouched
    assert asides(theirs) == {}


@pytest.mark.usefixtures("patient")
def test_it_is_looked_at_as_a_whole_unless_it_is_for_certain_what_the_change_starts_from(
    ours: Path, theirs: Path, scans: list[str]
) -> None:
    published, other = begin(ours, theirs)

    def looked() -> bool:
        put(ours, {"b": f"{len(scans)}"})
        published.publish()
        scans.clear()
        published.to(other)
        assert inside(theirs) == inside(ours)
        return str(theirs) in scans

    assert not looked()
    # it missed one
    put(ours, {"missed": "1"})
    published.publish()
    assert looked()
    assert not looked()
    # it was published from here
    other.published()
    assert looked()
    # it was taken away
    theirs.rename(theirs.with_name("elsewhere"))
    assert looked()
    assert not looked()
    # a restore broke off
    (theirs / ".replicator").mkdir()
    (theirs / ".replicator/restoring").touch()
    assert looked()
    # it was another one in between
    other.restore([])
    assert looked()


def test_what_somebody_wrote_there_is_replaced_and_kept_at_the_next_look(
    ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "LOOK_PAUSE_TIMES", 1e9)
    published, other = begin(ours, theirs)
    put(theirs, {"b": "somebody's", "stray": "somebody's, too"})
    put(ours, {"a": "2"})
    published.publish().to(other)
    assert (theirs / "b").read_text() == "somebody's"
    other._look_again_at = 0.0
    put(ours, {"a": "3"})
    published.publish().to(other)
    assert inside(theirs) == inside(ours)
    assert asides(theirs) == {"b": b"somebody's", "stray": b"somebody's, too"}


@pytest.mark.usefixtures("patient")
def test_what_somebody_wrote_where_something_changes_is_kept(ours: Path, theirs: Path) -> None:
    published, other = begin(ours, theirs)
    put(theirs, {"a": "somebody's", "d/stray": "in a directory that goes"})
    (theirs / "b").unlink()
    put(ours, {"a": "2", "b": "2"})
    (ours / "d/one").unlink()
    (ours / "d/two").unlink()
    (ours / "d").rmdir()
    published.publish().to(other)
    assert inside(theirs) == inside(ours)
    assert asides(theirs) == {"a": b"somebody's", "d/stray": b"in a directory that goes"}


@pytest.mark.usefixtures("patient")
def test_what_is_gone_may_not_be_lost_when_somebody_writes_it_again(ours: Path, theirs: Path) -> None:
    published, other = begin(ours, theirs)
    (ours / "a").unlink()
    published.publish().to(other)
    put(theirs, {"a": "1"})
    put(ours, {"a": "2"})
    published.publish().to(other)
    assert inside(theirs) == inside(ours)
    assert asides(theirs) == {"a": b"1"}


@pytest.mark.usefixtures("patient")
def test_a_change_below_what_somebody_took_away_is_not_half_made(ours: Path, theirs: Path) -> None:
    published, other = begin(ours, theirs)
    (theirs / "far/away").rename(theirs / "away")
    (theirs / "far/away").symlink_to(theirs.parent)
    put(ours, {"far/away/f": "2"})
    with pytest.raises(StateError):
        published.publish().to(other)
    assert not (theirs.parent / "f").exists()
    # as a node does then
    published.to(other)
    assert inside(theirs) == inside(ours)
    assert asides(theirs) == {"away/f": b"f"}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("call", ["replace", "unlink", "mkdir", "fsync", "fchmod", "open", "rename"])
def test_one_that_is_killed_at_any_moment_is_whole_or_torn_and_whole_after_the_next(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    put(ours, {"a": "1", "d/one": "one", "e": "e"})
    before = inside(ours)
    real: Any = getattr(os, call)
    for turn in range(40):
        theirs = tmp_path / f"theirs{turn}"
        put(ours, {"a": "1", "d/one": "one", "e": "e"})
        (ours / "x").unlink(missing_ok=True)
        published, other = Published(ours), DirectoryState(theirs)
        published.publish().to(other)
        put(ours, {"a": "2", "x": "new"})
        (ours / "e").unlink()
        after = inside(ours)
        published.publish()
        put(theirs, {"e": "somebody's"})
        left = [turn]

        def dies(*args: Any, left: list[int] = left, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(*args, **more)

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(os, call, dies)
            published.to(other)
        seen = {path: what for path, what in inside(theirs).items() if not path.startswith(".replicator")}
        is_torn = (theirs / ".replicator/restoring").exists()
        assert is_torn or seen in ({**before, "e": (0o644, b"somebody's")}, after)
        # a new process
        published.to(DirectoryState(theirs))
        assert inside(theirs) == after
        assert asides(theirs)["e"] == b"somebody's"
        if left[0] >= 0:
            return


def test_a_disk_that_is_full_is_met_before_anything_shows(ours: Path, tmp_path: Path) -> None:
    """Also by the second file of a content that several have."""
    needs(small_disk.can_mount(), "a user who may mount a tmpfs")
    small = tmp_path / "small"
    small.mkdir()
    small_disk.mount(small, 4 * 1024 * 1024)
    try:
        theirs = small / "theirs"
        put(ours, {"a": "1", "b": "1"})
        published, other = Published(ours), DirectoryState(theirs)
        published.publish().to(other)
        before = inside(theirs)
        for name in ("a", "b", "c", "d"):
            (ours / name).write_bytes(bytes(1_500_000))
        with pytest.raises(StateError, match=r"No space left on device.*it is what it was"):
            published.publish().to(other)
        assert inside(theirs) == before
        for name in ("c", "d"):
            (ours / name).unlink()
        published.publish().to(other)
        assert inside(theirs) == inside(ours)
    finally:
        small_disk.unmount(small)


@pytest.mark.usefixtures("patient")
def test_databases_are_told_from_files_where_they_change(ours: Path, theirs: Path) -> None:
    published, other = begin(ours, theirs)
    put(ours, {"x.db": "no database to them"})
    published.publish()
    with pytest.raises(StateError, match=r"'x\.db' is a file to the primary, and left out"):
        published.to(DirectoryState(theirs, exclude=["*.db"]))
    published.to(other)
    assert inside(theirs) == inside(ours)


def test_the_pieces_are_drawn_after_all_was_prepared_and_before_anything_shows(ours: Path, theirs: Path) -> None:
    published, other = begin(ours, theirs)
    put(ours, {"a": "2", "b": "2"})
    published.publish()
    before = inside(theirs)

    def end() -> Iterator[Any]:
        drafts = {path: what for path, what in inside(theirs).items() if path not in before}
        assert {what[1] for what in drafts.values() if isinstance(what, tuple)} == {b"2"}
        assert {path: what for path, what in inside(theirs).items() if path in before} == before
        raise StateError(path=theirs, problem="not saved")
        yield

    with pytest.raises(StateError, match="not saved"):
        other.restore_files(published, end(), change=published.change)
    assert inside(theirs) == before


def test_names_that_are_one_to_its_file_system_are_refused_before_anything_is_written(
    ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, other = begin(ours, theirs)
    # one that has two names for two
    put(ours, {"d/Two": "other", "caf\u00e9": "1", "cafe\u0301": "2"})
    published.publish().to(other)
    assert inside(theirs) == inside(ours)
    monkeypatch.setattr(folding, "_folds", lambda _: True)
    before, other = inside(theirs), DirectoryState(theirs)
    put(ours, {"a": "2", "d/tWo": "third"})
    with pytest.raises(StateError, match=r"'[^']*' and '[^']*' are one name to its file system"):
        published.publish().to(other)
    assert inside(theirs) == before


@pytest.mark.usefixtures("patient")
def test_a_path_that_is_written_otherwise_now_goes_before_it_comes(
    ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "_folds", lambda _: True)
    published, other = begin(ours, theirs)
    (ours / "a").rename(ours / "A")
    (ours / "d").rename(ours / "D")
    (ours / "b").unlink()
    done: list[str] = []
    for call in ("unlink", "mkdir", "replace", "rmdir"):
        real = getattr(os, call)

        def noted(*args: Any, real: Any = real, call: str = call, **more: Any) -> Any:
            done.append(f"{call} {args[call == 'replace']}")
            return real(*args, **more)

        monkeypatch.setattr(os, call, noted)
    published.publish().to(other)
    assert inside(theirs) == inside(ours)
    assert done.index("unlink a") < done.index("replace A") < done.index("unlink b")
    assert done.count("unlink a") == 1
    assert done.index("mkdir D") < done.index("replace one")


@pytest.mark.usefixtures("patient")
def test_who_asks_for_the_new_spelling_of_a_name_finds_the_old_one_and_is_not_misled(
    ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "_folds", lambda _: True)

    def folds(self: Tree, way: Any, paths: Any) -> dict[str, Any]:
        there = {path.casefold(): found for path, found in self.scan().items()}
        return {path: there[path.casefold()] for path in paths if path.casefold() in there}

    monkeypatch.setattr(Tree, "look_at", folds)
    (ours / "link").symlink_to("a")
    (ours / "e").mkdir()
    published, other = begin(ours, theirs)
    put(ours, {"other": "1"})
    published.publish().to(other)
    (ours / "link").rename(ours / "Link")
    (ours / "e").rename(ours / "E")
    published.publish().to(other)
    assert inside(theirs) == inside(ours)


def test_whether_names_are_one_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert folding._folds(directory) is (tmp_path / "A").exists()
        real = os.stat

        def folds(name: Any, **more: Any) -> os.stat_result:
            found = [each for each in os.listdir(tmp_path) if each.casefold() == str(name).casefold()]
            return real(found[0] if found else name, **more)

        monkeypatch.setattr(os, "stat", folds)
        assert folding._folds(directory)
        assert os.listdir(tmp_path) == []
    finally:
        os.close(directory)


@pytest.mark.parametrize("files", [{"a": "", "d/b": ""}, {}])
@pytest.mark.usefixtures("patient")
def test_a_directory_without_a_byte_is_one_like_any_other(ours: Path, theirs: Path, files: dict[str, str]) -> None:
    published, other = Published(ours), DirectoryState(theirs)
    put(ours, files)
    (ours / "e/f").mkdir(parents=True)
    published.publish().to(other)
    assert inside(theirs) == inside(ours)
    (ours / "e/f").rmdir()
    put(ours, {"g": ""})
    published.publish().to(other)
    assert inside(theirs) == inside(ours)


def test_a_file_that_cannot_be_read_is_named(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(ours, {"a": "1", "d/b": "2"})
    of_ours = DirectoryState(ours)
    [*of_ours.snapshot()]
    monkeypatch.setattr(contents, "STAGE_BYTES_MAX", 0)  # it is read when its turn comes

    def broken(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with of_ours.cut() as cut:
        monkeypatch.setattr(contents, "_piece", broken)
        with pytest.raises(StateError, match="ours/a cannot be used: Input/output error"):
            [[*pieces] for _, pieces in cut.contents(contents_of(cut.entries))]
