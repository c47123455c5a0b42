"""What was put aside of a directory is listed, compared and put back, file by file."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from replicator.cli import cli
from replicator.cli.context import Settings
from replicator.service.kept_directories import paths_in, size_of
from replicator.service.kept_files import KeptFiles, kept_in
from replicator.state.directory import DirectoryState
from tests.support.kv import Group

ASIDE = "kept.replaced-20260113T101500Z"


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def database(path: Path, value: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
        db.execute("INSERT INTO t VALUES (1, ?)", (value,))


def test_it_is_listed_compared_and_put_back(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "log", lambda self: nullcontext(group.log()))
    top, aside, dirs = tmp_path / "kept", tmp_path / ASIDE, ("--data-dir", str(group.directory / "a"))

    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, ["forks", *args, *dirs])

    # given a directory, and what was put aside of it: a text, a database, a link, and a file that is not there now
    put(top / "d/text", "a\nb\n")
    put(aside / "d/text", "a\nx\n")
    put(aside / "gone/file", "of before")
    database(top / "x.db", "now")
    database(aside / "x.db", "before")
    (top / "link").symlink_to("d/text")
    (aside / "link").symlink_to("x.db")
    state = DirectoryState(top, with_sqlite=["*.db"])
    state.kept.told = KeptFiles(group.directory / "a", top, "a").note
    group.primary("a", state=state).publish()
    state.kept.told(aside, "because")
    # then it is listed as one thing
    (listed,) = json.loads(run("files", "--json").stdout)
    assert (listed["file"], listed["reason"], listed["size_bytes"]) == (ASIDE, "because", size_of(aside))
    assert [*paths_in(aside)] == ["link", "x.db", "d/text", "gone/file"]
    # each file in it is compared
    shown = run("diff", ASIDE).stdout.splitlines()
    assert [line for line in shown if line[:3] not in ("---", "+++") and line[0] in "+-t"] == [
        f"- {top / 'link'}: a link to d/text",
        f"+ {top / 'link'}: a link to x.db",
        "- t (1, 'now')",
        "+ t (1, 'before')",
        "-b",
        "+x",
        f"there is no {top / 'gone/file'} now",
    ]
    # and put back, also a database that a program has open
    with closing(sqlite3.connect(top / "x.db", isolation_level=None)) as program:
        program.execute("PRAGMA journal_mode = WAL")
        done = run("restore", ASIDE)
        assert done.exit_code == 0, done.output
        assert program.execute("SELECT v FROM t").fetchone() == ("before",)
    assert [(top / path).read_text() for path in ("d/text", "gone/file")] == ["a\nx\n", "of before"]
    assert os.readlink(top / "link") == "x.db"
    assert run("diff", ASIDE).stdout == "no difference\n"
    # what was there is aside now
    (back,) = [file.path for file in kept_in([group.directory / "a"]) if file.name != ASIDE]
    assert [*paths_in(back)] == ["link", "x.db", "d/text"]
    assert (back / "d/text").read_text() == "a\nb\n"
    # and nothing is put through a link
    (top / "gone/file").unlink()
    (top / "gone").rmdir()
    (top / "gone").symlink_to(tmp_path)
    refused = run("restore", ASIDE)
    assert refused.exit_code != 0
    assert "gone cannot be used: it is no directory now" in refused.stderr
