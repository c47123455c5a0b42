"""What was put aside for the file beside a node is listed with its reason, compared, and put back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from replicator import ConfigError, ops
from replicator.cli import cli
from replicator.cli.context import Settings
from replicator.service.kept_files import LIST, KeptFiles, find, kept_in
from replicator.state.file import FileState
from replicator.state.replaced_files import COUNT_EVERY_S, Kept
from replicator.state.sqlite import SQLiteState
from tests.support.kv import PATIENCE_S, Group, eventually

Run = Callable[..., Result]


@pytest.fixture
def run(group: Group, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(Settings, "log", lambda self: nullcontext(group.log()))
    return lambda *args: CliRunner().invoke(cli, ["forks", *map(str, args)])


def beside(group: Group, name: str, state: FileState | SQLiteState) -> FileState | SQLiteState:
    """The state of a node of the group, as `serve` has it."""
    state.kept.told = KeptFiles(group.directory / name, state.path, name).note
    return state


def reasons(group: Group, name: str) -> list[str]:
    return [file.reason for file in kept_in([group.directory / name])]


def test_each_reason_is_told_from_the_others(group: Group, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("published")
    two.write_text("of before")
    a = group.primary("a", state=beside(group, "a", FileState(one, still_s=0)))
    b = group.node("b", state=beside(group, "b", FileState(two, still_s=0)))
    # when what was there is replaced
    a.publish()
    eventually(lambda: two.read_text() == "published")
    assert reasons(group, "b") == ["it was there when the node started, and is not what the group has"]
    # and what somebody wrote on the standby
    two.write_text("by hand")
    one.write_text("published again")
    a.publish()
    eventually(lambda: two.read_text() == "published again")
    assert reasons(group, "b")[1:] == ["it was written while this node was a standby"]
    # and what the old primary had not published
    one.write_text("not published")
    b.promote(timeout_s=PATIENCE_S)
    two.write_text("of b")
    b.publish()
    eventually(lambda: one.read_text() == "of b")
    assert reasons(group, "a") == ["it was written after the last publication of this node, which leads no more"]
    # then the others are told how many there are
    eventually(lambda: sum(node.kept_count for node in ops.status(group.log()).nodes) >= 2)


def test_a_list_that_is_cut_short_or_missing_hides_no_file(tmp_path: Path) -> None:
    of = tmp_path / "flags.json"
    of.write_text("now")
    for name in ("flags.json.replaced-20260113T101500Z", "flags.json.replaced-by-hand"):
        (tmp_path / name).write_text(name)
    (tmp_path / "flags.json.replaced-20260113T101500Z-wal").write_text("a part of a database")
    kept = KeptFiles(tmp_path / "data", of, "a")
    kept.begin()
    kept.begin()
    with (tmp_path / "data" / LIST).open("ab") as file:
        file.write(b'{"path": "/never/fin')
    found = kept_in([tmp_path / "data"])
    assert [(file.name, file.kept_at) for file in found] == [
        ("flags.json.replaced-by-hand", None),
        ("flags.json.replaced-20260113T101500Z", 1768299300000),
    ]
    assert all(file.reason.startswith("not known") for file in found)
    found[0].path.unlink()
    assert len(kept_in([tmp_path / "data"])) == 1
    with pytest.raises(ConfigError, match="no file 'other' was put aside"):
        find("other", [tmp_path / "data"])


def test_the_count_is_some_seconds_old_at_the_most(tmp_path: Path) -> None:
    of, now = tmp_path / "f", [0.0]
    of.write_text("now")
    kept = Kept(of, clock=lambda: now[0])
    assert kept.count() == 0
    (tmp_path / "f.replaced-x").touch()
    assert kept.count() == 0
    now[0] += COUNT_EVERY_S
    assert kept.count() == 1


def test_a_text_is_compared_by_its_lines_and_put_back(group: Group, run: Run, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.write_text("a\nb\nc\n")
    a = group.primary("a", state=beside(group, "a", FileState(one, still_s=0)))
    a.publish()
    aside = tmp_path / "one.replaced-20260113T101500Z"
    aside.write_text("a\nx\nc\n")
    KeptFiles((group.directory / "a"), one, "a").note(aside, "because")
    dirs = ("--data-dir", (group.directory / "a"))
    listed = json.loads(run("files", *dirs, "--json").stdout)
    assert [(each["file"], each["reason"]) for each in listed] == [(aside.name, "because")]
    assert "1 file was put aside" in run("list", *dirs).stdout
    shown = run("diff", aside.name, *dirs).stdout.splitlines()
    assert [line for line in shown if line[0] in "+-" and line[:3] not in ("+++", "---")] == ["-b", "+x"]
    done = run("restore", aside.name, *dirs)
    assert done.exit_code == 0, done.output
    assert one.read_text() == "a\nx\nc\n"
    assert run("diff", aside.name, *dirs).stdout == "no difference\n"
    (back,) = [file for file in kept_in([(group.directory / "a")]) if file.name != aside.name]
    assert back.path.read_text() == "a\nb\nc\n"
    # and it is for the node that leads
    a.publish()
    ops.demote(group.log(), by="test")
    refused = run("restore", back.name, *dirs)
    assert (refused.exit_code, "a does not lead (nobody does)" in refused.stderr) == (3, True)
    assert one.read_text() == "a\nx\nc\n"


def test_a_database_is_compared_by_its_rows_and_put_back_while_it_is_open(
    group: Group, run: Run, tmp_path: Path
) -> None:
    now = tmp_path / "a?b#c%20d"  # what would end a URI, or mean another name
    aside = tmp_path / f"{now.name}.replaced-20260113T101500Z"
    for path, value in ((now, "now"), (aside, "before")):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
            db.executemany("INSERT INTO t VALUES (?, ?)", [(1, "same"), (2, value)])
    group.primary("a", state=beside(group, "a", SQLiteState(now))).publish()
    KeptFiles((group.directory / "a"), now, "a").note(aside, "because")
    dirs = ("--data-dir", (group.directory / "a"))
    assert run("diff", aside.name, *dirs).stdout.splitlines() == ["- t (2, 'now')", "+ t (2, 'before')"]
    with closing(sqlite3.connect(now, isolation_level=None)) as program:
        assert program.execute("SELECT v FROM t WHERE k = 2").fetchone() == ("now",)
        done = run("restore", aside.name, *dirs)
        assert done.exit_code == 0, done.output
        assert program.execute("SELECT v FROM t WHERE k = 2").fetchone() == ("before",)
    (back,) = [file for file in kept_in([(group.directory / "a")]) if file.name != aside.name]
    with closing(sqlite3.connect(back.path)) as db:
        assert db.execute("SELECT v FROM t WHERE k = 2").fetchone() == ("now",)


def test_a_directory_that_is_not_there_is_said_where_the_file_is(tmp_path: Path) -> None:
    KeptFiles(tmp_path / "data", tmp_path / "nowhere" / "f", "a").begin()
    assert kept_in([tmp_path / "data"]) == []
    assert Kept(tmp_path / "nowhere" / "f").count() == 0


def test_what_is_no_text_is_said_to_differ(group: Group, run: Run, tmp_path: Path) -> None:
    of, aside = tmp_path / "f", tmp_path / "f.replaced-20260113T101500Z"
    of.write_bytes(b"\xff\x00")
    aside.write_bytes(b"\xfe\x00\x00")
    (tmp_path / "data").mkdir()
    KeptFiles(tmp_path / "data", of, "a").note(aside, "because")
    dirs = ("--data-dir", tmp_path / "data")
    assert run("diff", aside.name, *dirs).stdout.startswith("they differ, and are no text: 2 bytes now, 3 bytes in")
    of.unlink()
    assert run("diff", aside.name, *dirs).stdout == f"there is no {of} now\n"
