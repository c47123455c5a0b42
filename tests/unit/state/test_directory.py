"""A directory as a state: cut at one moment, written file by file, and nothing of it lost silently."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicator import ConfigError, StateChanged, StateError
from replicator.state.directory import DirectoryState, contents, cut, databases, state
from replicator.state.file_stamps import FINE_TICK_S, Stamp
from replicator.storage import disk
from tests.support import small_disk
from tests.support.kv import PATIENCE_S, Group, eventually
from tests.support.needs import needs
from tests.support.slept_time import SleptTime


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    ours = tmp_path / "ours"
    ours.mkdir()
    return ours


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path / "nodes")
    yield group
    group.close()


def put(top: Path, **files: str) -> None:
    """Files, whose names have `__` for a slash."""
    for name, content in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def inside(top: Path) -> dict[str, Any]:
    """What is in a directory: contents, modes, and where links lead."""
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            found[str(path.relative_to(top))] = os.readlink(path)
        else:
            found[str(path.relative_to(top))] = mode if path.is_dir() else (mode, path.read_bytes())
    return found


def are_equal(one: Path, two: Path) -> bool:
    """Whether they are now; one that is being written is not."""
    try:
        return inside(one) == inside(two)
    except FileNotFoundError:
        return False


def asides(top: Path) -> list[dict[str, Any]]:
    """What was put aside of a directory, without its modes."""
    found = []
    for aside in sorted(top.parent.glob(f"{top.name}.replaced-*")):
        each = inside(aside).items()
        found.append({path: what[1] if isinstance(what, tuple) else what for path, what in each if what != 0o700})
    return found


def rows(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [row for (row,) in db.execute("SELECT n FROM t ORDER BY n")]


# --- there and back ---


def test_another_directory_becomes_what_was_published_whatever_became_of_it(ours: Path, theirs: Path) -> None:
    one, two = DirectoryState(ours), DirectoryState(theirs)
    put(ours, a="1", b__c="2", b__d="2", b__e__f="3", empty="")
    (ours / "nothing").mkdir()
    (ours / "b" / "link").symlink_to("../a")
    (ours / os.fsdecode(b"\xff")).write_bytes(b"no text")
    (ours / "b" / "c").chmod(0o751)
    (ours / "nothing").chmod(0o555)

    def follows() -> None:
        pieces = [*one.snapshot()]
        two.restore(iter(pieces))
        assert inside(theirs) == inside(ours)
        assert [*two.snapshot()] == pieces
        one.published()

    follows()
    # a file is written, one is renamed, one removed; modes change
    put(ours, a="another")
    os.rename(ours / "b" / "c", ours / "c")
    (ours / "b" / "d").unlink()
    (ours / "nothing").chmod(0o700)
    follows()
    # one thing takes the place of another: a file of a directory, a directory of a file and of a link, a link of a file
    (ours / "nothing").rmdir()
    put(ours, nothing="a file")
    (ours / "a").unlink()
    put(ours, a__b="in what was a file")
    (ours / "b" / "link").unlink()
    put(ours, b__link__x="in what was a link")
    (ours / "c").unlink()
    (ours / "c").symlink_to("a/b")
    follows()
    # a directory that is closed to its owner gets a file
    put(ours, closed__x="1")
    (ours / "closed").chmod(0o555)
    follows()
    (ours / "closed").chmod(0o755)
    put(ours, closed__y="2")
    (ours / "closed").chmod(0o555)
    follows()
    # and all of this was no loss
    assert asides(theirs) == []
    assert not (theirs / ".replicator").exists()
    (ours / "closed").chmod(0o755)
    (theirs / "closed").chmod(0o755)


def test_what_is_equal_is_not_touched(ours: Path, theirs: Path) -> None:
    one, two = DirectoryState(ours), DirectoryState(theirs)
    put(ours, a="1", b="2", c="2")
    two.restore(one.snapshot())
    before = {name: Stamp.of((theirs / name).stat()) for name in "abc"}
    put(ours, a="new")
    two.restore(one.snapshot())
    now = {name: Stamp.of((theirs / name).stat()) for name in "abc"}
    assert [name for name in "abc" if now[name] != before[name]] == ["a"]


def test_a_content_is_there_once_and_only_what_changed_is_read(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    read_from = contents.read_from
    monkeypatch.setattr(cut, "read_from", lambda *args: read.append(1) or read_from(*args))
    put(ours, a="same" * 100, b="same" * 100, c="other")
    one = DirectoryState(ours)
    pieces = b"".join(one.snapshot())
    assert pieces.count(b"same" * 100) == 1
    eventually(lambda: time.time() - (ours / "c").stat().st_ctime > FINE_TICK_S)
    [*one.snapshot()]
    read.clear()
    # when one of three changed
    put(ours, b="new")
    [*one.snapshot()]
    assert len(read) == 1


def test_a_digest_counts_once_another_write_would_show(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(ours, a="1")
    about = (ours / "a").stat()
    for is_settled, known in ((True, "digest"), (False, None), (True, "digest")):
        index = contents.Index()
        index.note("a", contents.Read(Stamp.of(about), "digest", 1, is_settled))
        assert index.get("a", about) == known
    index.note("a", contents.Read(Stamp.of(about), "newer", 1, False))
    assert index.get("a", about) is None
    now = time.time_ns()
    monkeypatch.setattr(contents, "time", SimpleNamespace(time=lambda: now / 10**9))
    assert not contents.is_old(Stamp(1, 1, 1, 0, now | 1))
    assert contents.is_old(Stamp(1, 1, 1, 0, now - 60 * 10**9 | 1))
    # of a clock with ticks of a second
    assert not contents.is_old(Stamp(1, 1, 1, 0, now // 10**9 * 10**9 - 10**9))


def test_a_file_that_grows_as_fast_as_it_is_read_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_bytes(b"line")
    reads: list[int] = []

    def grown(descriptor: int, size: int) -> bytes:
        reads.append(size)
        assert len(reads) < 10
        return bytes(size)

    monkeypatch.setattr(contents.os, "read", grown)
    with (tmp_path / "log").open("rb") as file:
        for stage in (None, contents.Stage(None)):
            reads.clear()
            assert contents.read_from(file.fileno(), stage) is None


def test_seen_is_another_one_after_whatever_was_done(ours: Path) -> None:
    one = DirectoryState(ours, exclude=["*.log"], with_sqlite=["*.db"])
    put(ours, a="1", b="2", d__e="3")
    with closing(sqlite3.connect(ours / "x.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n)")

        def settled() -> object:
            eventually(lambda: one.seen() == one.seen())
            return one.seen()

        actions: list[Callable[[], object]] = [
            lambda: put(ours, a="2"),
            lambda: (ours / "a").chmod(0o600),
            lambda: os.rename(ours / "a", ours / "z"),
            lambda: (ours / "b").unlink(),
            lambda: (ours / "new").mkdir(),
            lambda: (ours / "d").chmod(0o700),
            lambda: (ours / "link").symlink_to("z"),
            lambda: db.execute("INSERT INTO t VALUES (1)"),
        ]
        for act in actions:
            before = settled()
            act()
            assert one.seen() != before
        before = settled()
        (ours / "x.log").write_text("left out")
        assert one.seen() == before
        # nor is to read it a change
        [*one.snapshot()]
        assert one.seen() == before


# --- what it refuses ---


def test_what_is_no_file_or_leads_out_is_skipped_with_a_word(
    ours: Path, theirs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(ours, a="1")
    os.mkfifo(ours / "fifo")
    (ours / "absolute").symlink_to("/etc/passwd")
    (ours / "up").symlink_to("../secret")
    (ours / "dot").symlink_to(".")
    (ours / "through").symlink_to("dot/../../secret")
    one = DirectoryState(ours)
    for _ in range(2):
        DirectoryState(theirs).restore(one.snapshot())
    assert sorted(inside(theirs)) == ["a", "dot"]
    said = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "state.skipped"]
    assert len(said) == 4
    assert f"{ours / 'fifo'} is not replicated: it is a socket, a fifo or a device" in said


def test_an_empty_directory_is_never_published_and_counts_as_gone(ours: Path, tmp_path: Path) -> None:
    one = DirectoryState(ours)
    assert not one.survived()
    for ask in (one.seen, lambda: [*one.snapshot()]):
        with pytest.raises(StateError, match="it is empty, and that is not published"):
            ask()
    put(ours, a="1")
    assert one.survived()
    missing = DirectoryState(tmp_path / "missing")
    assert not missing.survived()
    with pytest.raises(StateError, match="there is no such file"):
        missing.snapshot()


def test_one_whose_file_system_is_not_mounted_any_more_is_neither_published_nor_written(
    ours: Path, theirs: Path, tmp_path: Path
) -> None:
    needs(small_disk.can_mount(), "the right to mount a tmpfs")
    kept = tmp_path / "kept"
    small_disk.mount(ours, 1_000_000)
    try:
        put(ours, a="1", b="2")
        one = DirectoryState(ours, stage=kept)
        pieces = [*one.snapshot()]
    finally:
        small_disk.unmount(ours)
    # when a program begins anew in what is there then, as the same process sees it, and one that was started since
    put(ours, b="of a program that found nothing")
    for each in (one, DirectoryState(ours, stage=kept)):
        assert not each.survived()
        for ask in (each.seen, lambda each=each: [*each.snapshot()], lambda each=each: each.restore(iter(pieces))):
            with pytest.raises(StateError, match="its file system was mounted there, and is not any more: mount it"):
                ask()
    assert inside(ours) == {"b": (0o644, b"of a program that found nothing")}
    # what is mounted there again counts, and so does what is there after the operator has said so
    small_disk.mount(ours, 1_000_000)
    try:
        one.restore(iter(pieces))
        assert sorted(inside(ours)) == ["a", "b"]
    finally:
        small_disk.unmount(ours)
    (kept / "directory.mounted").unlink()
    assert DirectoryState(ours, stage=kept).survived()


def test_a_disk_that_is_full_is_named_and_not_what_was_read(ours: Path, tmp_path: Path) -> None:
    needs(small_disk.can_mount(), "the right to mount a tmpfs")
    small = tmp_path / "small"
    small.mkdir()
    small_disk.mount(small, 400_000)
    try:
        with closing(sqlite3.connect(ours / "x.db")) as db, db:
            db.execute("CREATE TABLE t AS SELECT randomblob(500000) AS n")
        one, plain = (DirectoryState(ours, with_sqlite=["*.db"], stage=stage) for stage in (small / "stage", None))
        with pytest.raises(StateError, match=r"small/stage cannot be used: no copy of .*/x\.db can be made there"):
            [*one.snapshot()]
        other = DirectoryState(small / "theirs", with_sqlite=["*.db"])
        with pytest.raises(StateError, match=r"small/theirs cannot be used: No space left on device"):
            other.restore(plain.snapshot())
        (ours / "x.db").unlink()
        (ours / "large").write_bytes(os.urandom(500_000))
        with pytest.raises(StateError, match=r"small/stage cannot be used: No space left on device"):
            [*one.snapshot()]
        with pytest.raises(StateError, match=r"small/theirs cannot be used: No space left on device"):
            other.restore(plain.snapshot())
        # nothing of all that is left there, and once there is room, it goes on
        assert [*(small / "theirs").iterdir(), *(small / "stage").iterdir()] == []
        (ours / "large").write_bytes(b"small")
        other.restore(one.snapshot())
        assert inside(small / "theirs") == inside(ours)
    finally:
        small_disk.unmount(small)


@pytest.mark.parametrize("glob", ["", "/", "a\0b"])
def test_a_pattern_of_nothing_is_refused(ours: Path, glob: str) -> None:
    with pytest.raises(ConfigError, match="exclude"):
        DirectoryState(ours, exclude=[glob])


def test_nodes_with_other_options_are_told(ours: Path, theirs: Path) -> None:
    put(ours, a__b="1")
    with closing(sqlite3.connect(ours / "x.db")) as db:
        db.execute("CREATE TABLE t (n)")
    plain = [*DirectoryState(ours).snapshot()]
    for options in ({"exclude": ["a"]}, {"with_sqlite": ["*.db"]}):
        with pytest.raises(StateError, match="give all nodes the same options"):
            DirectoryState(theirs, **options).restore(iter(plain))
    assert not theirs.exists()


def test_a_tree_that_is_deeper_than_python_goes_costs_what_is_in_it(
    ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep, opened, real = 1010, [0], os.open

    def counted(*args: Any, **options: Any) -> int:
        opened[0] += 1
        return real(*args, **options)

    monkeypatch.setattr(os, "open", counted)
    monkeypatch.setattr(disk, "sync_descriptor", lambda descriptor: None)
    one, two = DirectoryState(ours), DirectoryState(theirs)
    try:
        above = real(ours, os.O_RDONLY)
        for _ in range(deep):
            os.mkdir("d", dir_fd=above)
            os.close(real("f", os.O_CREAT | os.O_WRONLY, dir_fd=above))
            below = real("d", os.O_RDONLY, dir_fd=above)
            os.close(above)
            above = below
        os.close(above)
        opened[0] = 0
        two.restore(one.snapshot())
        now, there = DirectoryState(theirs)._tree.scan(), one._tree.scan()
        assert (len(now), now.keys()) == (2 * deep, there.keys())
        assert opened[0] < 50 * deep
        # and it can be removed: by a file that takes its place
        subprocess.run(["rm", "-rf", ours / "d"], check=True)
        put(ours, d="a file")
        two.restore(one.snapshot())
        assert (theirs / "d").read_text() == "a file"
    finally:
        subprocess.run(["rm", "-rf", ours, theirs], check=True)  # Python's own goes no deeper than 1000


# --- what is left out ---


def test_what_is_left_out_is_neither_sent_nor_touched(ours: Path, theirs: Path) -> None:
    options = {"exclude": ["*.log", "cache", "top/only"]}
    put(ours, a="1", x__log="no log", b__c__log="2", cache__x="3", d__cache__y="4", top__only="5", d__top__only="6")
    os.rename(ours / "x" / "log", ours / "x.log")
    put(theirs, mine__cache__z="mine", cache__m="mine", e="mine")
    DirectoryState(theirs, **options).restore(DirectoryState(ours, **options).snapshot())
    now = sorted(path for path, what in inside(theirs).items() if isinstance(what, tuple))
    assert now == ["a", "b/c/log", "cache/m", "d/top/only"]
    # what was left out of a directory that is gone went with it, and is kept
    assert asides(theirs) == [{"e": b"mine", "mine/cache/z": b"mine"}]


# --- nothing is lost ---


def test_what_nobody_published_is_kept_aside_once(ours: Path, theirs: Path) -> None:
    one, two = DirectoryState(ours), DirectoryState(theirs)
    put(ours, a="1", b__c="2")
    put(theirs, a="of before", old="1", b__c="2")
    (theirs / "link").symlink_to("a")
    told: list[tuple[Path, str]] = []
    two.kept.told = lambda path, reason: told.append((path, reason))
    two.restore(one.snapshot())
    assert asides(theirs) == [{"a": b"of before", "link": "a", "old": b"1"}]
    assert [path.name for path, _ in told] == [path.name for path in theirs.parent.glob("theirs.replaced-*")]
    # what was restored is not
    put(ours, a="3")
    two.restore(one.snapshot())
    assert len(asides(theirs)) == 1
    # what somebody writes there is, and the same again is not
    for _ in range(2):
        put(theirs, b__c="by hand")
        two.restore(one.snapshot())
    assert asides(theirs)[1:] == [{"b/c": b"by hand"}]
    # nor is what this node published
    put(theirs, a="published")
    [*two.snapshot()]
    two.published()
    two.restore(one.snapshot())
    assert len(asides(theirs)) == 2
    # but what it wrote after that
    put(theirs, a="not published")
    two.restore(one.snapshot())
    assert asides(theirs)[2:] == [{"a": b"not published"}]
    assert told[-1][1].startswith("it was written while this node was a standby")


def test_a_restore_that_is_given_up_changes_nothing(ours: Path, theirs: Path) -> None:
    put(ours, a="1", b="2")
    put(theirs, a="mine")
    pieces = [*DirectoryState(ours).snapshot()]

    def broken() -> Iterator[bytes]:
        yield from pieces[:-1]
        raise ConnectionError("gone")

    before = inside(theirs)
    with pytest.raises(ConnectionError):
        DirectoryState(theirs).restore(broken())
    assert inside(theirs) == before
    for wrong in (pieces[:-1], [*pieces, b"more"], [*pieces[:-1], b"3"], [pieces[0]], [b"x", *pieces], [{"a": 1}]):
        with pytest.raises(StateError):
            DirectoryState(theirs).restore(iter(wrong))
        assert inside(theirs) == before
    assert asides(theirs) == []


def test_one_that_was_killed_halfway_is_no_whole_cut(ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(ours, a="1", b="2")
    put(theirs, a="0", b="0")
    one = DirectoryState(ours)
    replace, count = os.replace, []

    def dies(*args: Any, **more: Any) -> None:
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        replace(*args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dies)
        with suppress(KeyboardInterrupt):
            DirectoryState(theirs).restore(one.snapshot())
    assert {path.read_text() for path in (theirs / "a", theirs / "b")} == {"0", "1"}
    # then a node that starts does not take it for what its program left, and publishes nothing of it
    two = DirectoryState(theirs)
    assert not two.survived()
    for ask in (two.seen, lambda: [*two.snapshot()]):
        with pytest.raises(StateError, match="a restore of it broke off"):
            ask()
    two.restore(one.snapshot())
    assert two.survived()
    assert inside(theirs) == inside(ours)


def test_nothing_is_written_through_a_link_that_somebody_put_there(ours: Path, theirs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    put(elsewhere, f="not ours")
    for path, value in ((ours / "x.db", 1), (elsewhere / "x", 99)):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("CREATE TABLE t (n)")
            db.execute("INSERT INTO t VALUES (?)", (value,))
    put(ours, d__f="1", g="2")
    theirs.mkdir()
    for name in ("d", ".replicator"):
        (theirs / name).symlink_to(elsewhere)
    (theirs / "g").symlink_to(elsewhere / "f")
    (theirs / "x.db").symlink_to(elsewhere / "x")
    options = {"with_sqlite": ["*.db"]}
    two = DirectoryState(theirs, **options)
    with pytest.raises(StateError, match=r"\.replicator cannot be used: Not a directory"):
        two.restore(DirectoryState(ours, **options).snapshot())
    (theirs / ".replicator").unlink()
    two.restore(DirectoryState(ours, **options).snapshot())
    assert ((elsewhere / "f").read_text(), rows(elsewhere / "x")) == ("not ours", [99])
    assert ((theirs / "d/f").read_text(), rows(theirs / "x.db")) == ("1", [1])
    assert sorted(os.listdir(elsewhere)) == ["f", "x"]
    # nor is one followed that is put there later, on the way to a file or as that
    (theirs / "d/f").unlink()
    (theirs / "d/f").symlink_to(elsewhere / "f")
    (theirs / "way").symlink_to(elsewhere)
    with state.Tree(theirs).descent() as way:
        for path in ("d/f", "way/f", "way"):
            with pytest.raises(OSError, match=path.rpartition("/")[2] if path == "d/f" else "way"):
                way.open(path)


# --- one moment ---


def test_files_that_belong_together_are_cut_together(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PATIENCE_S", PATIENCE_S)
    put(ours, a="0", z="0", between="x" * 100_000)
    one, over, writing = DirectoryState(ours), threading.Event(), threading.Lock()
    hesitated: list[float] = []

    def write() -> None:
        number = 0
        while not over.wait(0.15):  # longer than what nobody writes for
            with writing:
                number += 1
                began = time.monotonic()
                put(ours, z=str(number))
                put(ours, a=str(number))
                # Whoever stands still in between for long seems to be done with both.
                if (took_s := time.monotonic() - began) >= state.STILL_S / 2:
                    hesitated.append(took_s)

    def is_of_one_moment() -> bool:
        """Of a cut; whether there was one, of a writer that did not hesitate."""
        hesitated.clear()
        with suppress(StateChanged):
            pieces = b"".join(one.snapshot()).split(b"\n")
            # the contents are the same: one of them is not there
            digests = [line.split(b",")[4] for line in pieces if line.startswith((b'["f","a"', b'["f","z"'))]
            with writing:  # what was under way meanwhile is over
                pass
            assert hesitated or len(set(digests)) == 1
            return not hesitated
        return False

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            eventually(is_of_one_moment)
    finally:
        over.set()
        writer.join()


def names(pieces: Iterator[bytes]) -> set[str]:
    """The files of a snapshot."""
    return {Path(json.loads(line)[1]).name for line in b"".join(pieces).split(b"\n") if line.startswith(b'["f"')}


def test_what_is_written_between_one_look_and_the_other_is_there_whole(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ours, d__a="1", e__a="1")
    look, seen = state.Tree._look, []

    def written(self: Any, root: int, above: str, *args: Any) -> Any:
        found = look(self, root, above, *args)
        if above and not seen:  # one of the two was looked at, and the other one will be
            seen.append(above)
            put(ours, **{f"{above}__first": "1", f"{'d' if above == 'e' else 'e'}__second": "1"})
        return found

    monkeypatch.setattr(state.Tree, "_look", written)
    assert names(DirectoryState(ours, still_s=0).snapshot()) == {"a", "first", "second"}


def test_who_has_just_written_may_write_what_belongs_to_it(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SleptTime(meanwhile=lambda before: before or put(ours, second="1"))
    monkeypatch.setattr(cut, "time", clock)
    put(ours, first="1")
    one = DirectoryState(ours, still_s=0.5)
    assert names(one.snapshot()) == {"first", "second"}
    assert clock.slept_s >= 0.5


def test_what_changes_while_the_cut_is_drawn_does_not_show_or_breaks_it_off(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ours, a="old", b="old b")
    one = DirectoryState(ours)
    pieces = one.snapshot()
    next(pieces)  # the cut is taken
    put(ours, a="new", b="new b")
    assert [*pieces][-2:] == [b"old", b"old b"]
    # when there was no room for a copy
    monkeypatch.setattr(contents, "STAGE_BYTES_MAX", 0)
    pieces = one.snapshot()
    next(pieces)
    put(ours, a="newer")
    with pytest.raises(StateChanged, match=str(ours / "a")):
        list(pieces)


def test_a_file_that_never_holds_still_is_named(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PATIENCE_S", 0.2)
    put(ours, a="1", restless="1")
    scan = state.Tree.scan

    def written(self: Any, *args: str) -> Any:
        found = scan(self, *args)
        with (ours / "restless").open("a") as file:
            file.write("more")
        return found

    monkeypatch.setattr(state.Tree, "scan", written)
    with pytest.raises(StateError, match=f"{ours / 'restless'} cannot be used: it was written to again and again"):
        [*DirectoryState(ours).snapshot()]
    # and a program that waits is not waited for
    said = []

    @contextmanager
    def quiesced() -> Iterator[bool]:
        said.append("begin")
        monkeypatch.setattr(state.Tree, "scan", scan)
        yield True
        said.append("end")

    one = DirectoryState(ours, still_s=1000)
    one.quiesced = quiesced
    assert [*one.snapshot()]
    assert said == ["begin", "end"]


# --- databases ---


def test_a_database_is_cut_with_the_files_while_programs_use_it(ours: Path, theirs: Path) -> None:
    options = {"with_sqlite": ["*.db"]}
    one, two = DirectoryState(ours, **options), DirectoryState(theirs, **options)
    put(ours, a="1")
    with closing(sqlite3.connect(ours / "x.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n)")
        db.execute("INSERT INTO t VALUES (1)")
        two.restore(one.snapshot())
        one.published()
        assert sorted(inside(theirs)) == ["a", "x.db"]
        with closing(sqlite3.connect(theirs / "x.db")) as reader:
            # a program that reads there sees the next one, too
            db.execute("INSERT INTO t VALUES (2)")
            pieces = one.snapshot()
            first = next(pieces)  # the cut is taken
            db.execute("INSERT INTO t VALUES (3)")
            two.restore(chain([first], pieces))
            assert [row for (row,) in reader.execute("SELECT n FROM t")] == [1, 2]
        two.restore(one.snapshot())
        assert rows(theirs / "x.db") == [1, 2, 3]
    assert asides(theirs) == []
    # what is written there by hand is kept, and a database that is gone goes with what is beside it
    with closing(sqlite3.connect(theirs / "x.db", isolation_level=None)) as db:
        db.execute("INSERT INTO t VALUES (99)")
    two.restore(one.snapshot())
    (aside,) = theirs.parent.glob("theirs.replaced-*")
    assert rows(aside / "x.db") == [1, 2, 3, 99]
    assert rows(theirs / "x.db") == [1, 2, 3]
    for end in ("", "-wal", "-shm"):
        (ours / f"x.db{end}").unlink(missing_ok=True)
    two.restore(one.snapshot())
    assert sorted(inside(theirs)) == ["a"]


def test_a_database_is_of_the_moment_of_the_files_and_of_no_later_one(
    ours: Path, monkeypatch: pytest.MonkeyPatch, theirs: Path
) -> None:
    put(ours, a="1")
    one, looks, scan = DirectoryState(ours, with_sqlite=["*.db"]), [], state.Tree.scan
    eventually(lambda: time.time() - (ours / "a").stat().st_ctime > state.STILL_S)
    opened = [sqlite3.connect(ours / name, isolation_level=None) for name in ("x.db", "y.db")]
    for db in opened:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n)")

    def written(self: Any, *args: str) -> Any:
        looks.append(1)
        if len(looks) == 2:  # what was read and pinned is held against this one
            opened[0].execute("INSERT INTO t VALUES (1)")
        return scan(self, *args)

    monkeypatch.setattr(state.Tree, "scan", written)
    pieces = [*one.snapshot()]
    monkeypatch.setattr(state.Tree, "scan", scan)
    for db in opened:
        db.close()
    DirectoryState(theirs, with_sqlite=["*.db"]).restore(iter(pieces))
    assert rows(theirs / "x.db") == []


def test_two_databases_are_of_one_moment(ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"with_sqlite": ["*.db"]}
    opened = {name: sqlite3.connect(ours / name, isolation_level=None) for name in ("x.db", "y.db")}
    for db in opened.values():
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n)")
    pin, pinned = databases.Databases._pin, []

    def written(self: Any, path: str, *args: Any) -> Any:
        if path == "y.db" and not pinned:  # a transaction after the other, between one pin and the other
            pinned.append(1)
            for db in opened.values():
                db.execute("INSERT INTO t VALUES (1)")
        return pin(self, path, *args)

    monkeypatch.setattr(databases.Databases, "_pin", written)
    DirectoryState(theirs, **options).restore(DirectoryState(ours, **options).snapshot())
    for db in opened.values():
        db.close()
    assert rows(theirs / "x.db") == rows(theirs / "y.db") == [1]


def test_a_database_that_is_none_is_named(ours: Path) -> None:
    put(ours, x__db="no database at all, but as long as the header of one " * 3)
    os.rename(ours / "x" / "db", ours / "x.db")
    with pytest.raises(StateError, match=r"x\.db cannot be used: file is not a database"):
        [*DirectoryState(ours, with_sqlite=["*.db"]).snapshot()]


# --- in a group ---


def test_a_standby_follows_takes_over_and_the_old_primary_keeps_what_it_had(
    group: Group, ours: Path, theirs: Path
) -> None:
    put(ours, a="1", d__b="2", large="".join(map(str, range(20_000))))
    a = group.primary("a", state=DirectoryState(ours))
    a.publish()
    b = group.node("b", state=DirectoryState(theirs))
    eventually(lambda: are_equal(theirs, ours))
    put(ours, a="3")
    (ours / "d/b").unlink()
    done = a.publish()
    assert done.what == "patch"
    eventually(lambda: are_equal(theirs, ours))
    assert a.publish().what == "nothing"
    # when b leads, and a has something that nobody else has
    put(ours, mine="1")
    b.promote(timeout_s=PATIENCE_S)
    put(theirs, of_b="1")
    b.publish()
    eventually(lambda: are_equal(theirs, ours))
    assert asides(ours) == [{"mine": b"1"}]
    assert asides(theirs) == []
