"""Forks as files: what is read of them, what is exported, and what is said of those that are no forks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from replicator.cli import cli
from replicator.errors import CheckpointError, ConfigError
from replicator.format.codec import SnapshotEncoder, digest_of
from replicator.format.ids import RecordId
from replicator.format.records import Record
from replicator.protocol.group import Code
from replicator.storage import forks
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.storage.checkpoint_file import Run
from replicator.storage.fork_writer import StateInFork
from replicator.testing import MemoryRedis
from tests.support.history import act
from tests.support.kv import push
from tests.support.logs import Pen


class Disk:
    """The checkpoint of a node that has read all that a pen wrote; `fork` writes one, as `replica/replica.py` does."""

    def __init__(self, server: MemoryRedis, data_dir: Path, node: str = "s") -> None:
        self.data_dir, self.reader = data_dir, Pen(MemoryRedis(), node)
        self.log = Pen(server, node).log
        self.checkpoint = Checkpoint(data_dir, "g", node=node)

    def fork(self, parted_id: str, reason: str = "replaced by the snapshot 9-9 of b") -> Path:
        while records := self.log.read(self.reader.node_state.view.cursor.id).records:
            steps = [self._step(record) for record in records]
            self.checkpoint.save(self.view, steps, boot="1")
        return self.checkpoint.write_fork(reason, RecordId.parse(parted_id))

    def _step(self, record: Record) -> Step:
        verdict, self.reader.node_state = self.reader.node_state.fold(record)
        return Step(record, verdict, self.view)

    @property
    def view(self) -> Any:
        return self.reader.node_state.view


@pytest.fixture
def pen() -> Pen:
    """1-1 term, 1-2 "x", 1-3 a marker, 1-4 "y" and "z"."""
    pen = Pen(MemoryRedis(clock_ms=lambda: 1.0), "a")
    pen.promote()
    pen.change("x")
    pen.change()
    pen.change("y", "z")
    return pen


@pytest.fixture
def disk(pen: Pen, tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(pen.server, tmp_path / "s")
    yield disk
    disk.checkpoint.close()


def exported(fork: forks.Fork) -> list[tuple[str, int, Any]]:
    return [(line["id"], line["index"], line["change"]) for line in forks.export(fork)]


# --- what is in one --------------------------------------------------------------------------------------------------


def test_the_divergent_tail_is_what_lies_behind_the_parting(disk: Disk) -> None:
    fork = forks.read(disk.fork("1-2"))
    assert (fork.node, fork.group, fork.reason) == ("s", "g", "replaced by the snapshot 9-9 of b")
    assert (str(fork.position), fork.term, str(fork.parted_id)) == ("1-4", 1, "1-2")
    assert (fork.divergent_change_count, fork.has_more_in_snapshot) == (2, False)
    assert fork.written_at is not None
    assert exported(fork) == [("1-4", 0, push("y")), ("1-4", 1, push("z"))]


def test_a_state_that_is_not_what_its_changes_come_to_is_kept_itself(pen: Pen, disk: Disk) -> None:
    """Whatever snapshot and changes the checkpoint has."""
    disk.fork("1-2")
    for more in (False, True):
        if more:
            pen.snapshot()
            pen.change("w")
            disk.fork("1-2")
        here = disk.view.position.id
        pieces = [["pushed", ["x", "other"]], ["data", "k", "v" * 300_000]]
        fork = forks.read(disk.checkpoint.write_fork("it differed", here, of_state=StateInFork(iter(pieces))))
        assert [line["piece"] for line in forks.export_state(fork)] == pieces
        assert (fork.divergent_change_count, fork.has_more_in_snapshot) == (0, False)
        assert (fork.position, fork.parted_id, fork.reason) == (here, here, "it differed")
        assert exported(fork) == []


def test_a_node_can_be_started_on_such_a_fork(disk: Disk, tmp_path: Path) -> None:
    disk.fork("1-2")
    of_state = StateInFork([["pushed", ["other"]]])
    path = disk.checkpoint.write_fork("it differed", disk.view.position.id, of_state=of_state)
    (tmp_path / "s2").mkdir()
    shutil.copy(path, tmp_path / "s2" / "checkpoint.sqlite")
    with Checkpoint(tmp_path / "s2", "g", node="s") as checkpoint:
        pieces = checkpoint.payload()
        assert pieces is not None
        assert list(pieces) == [["pushed", ["other"]]]
        assert list(checkpoint.changes()) == []
        loaded = checkpoint.load()
        assert loaded is not None
        assert loaded.view.position == disk.view.position


def test_pieces_that_cannot_be_drawn_leave_no_fork(disk: Disk) -> None:
    before = set((disk.data_dir / "forks").glob("*")) if disk.fork("1-2") else set()

    def fails() -> Iterator[Any]:
        yield ["pushed", []]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        disk.checkpoint.write_fork("it differed", disk.view.position.id, of_state=StateInFork(fails()))
    assert set((disk.data_dir / "forks").glob("*-*.sqlite")) == before
    assert disk.fork("1-2").exists(), "the next one is written all the same"


def test_an_act_is_no_change_of_the_application(pen: Pen, disk: Disk) -> None:
    node_state = pen.node_state
    record = act(node_state.me, 1, pen.position, 2)
    assert pen.log.append(record).code is Code.OK
    fork = forks.read(disk.fork("1-2"))
    assert fork.position == record.id
    assert fork.divergent_change_count == len(list(forks.divergent(fork))) == 2


def test_a_history_that_the_group_has_nothing_of_is_all_divergent_tail(disk: Disk) -> None:
    fork = forks.read(disk.fork("0-0"))
    assert [id_ for id_, _, _ in exported(fork)] == ["1-2", "1-4", "1-4"]


def test_a_snapshot_before_the_parting_is_no_obstacle(pen: Pen, disk: Disk) -> None:
    parted_id = pen.snapshot()[-1].id
    pen.change("only here")
    fork = forks.read(disk.fork(str(parted_id)))
    assert (fork.divergent_change_count, fork.has_more_in_snapshot) == (1, False)
    assert [change for _, _, change in exported(fork)] == [push("only here")]


def test_a_snapshot_behind_the_parting_that_has_no_change_from_there_is_none_either(pen: Pen, disk: Disk) -> None:
    pen.change()
    pen.snapshot()
    pen.change("only here")
    fork = forks.read(disk.fork("1-4"))
    assert (fork.divergent_change_count, fork.has_more_in_snapshot) == (1, False)


def test_divergent_tail_in_a_snapshot_is_not_exported_in_part(pen: Pen, disk: Disk) -> None:
    pen.snapshot()
    pen.change("later")
    fork = forks.read(disk.fork("1-2"))
    assert (fork.divergent_change_count, fork.has_more_in_snapshot) == (1, True)
    with pytest.raises(forks.InSnapshot, match="from 1-2 up to 1-4 are in its snapshot") as raised:
        forks.export(fork)
    assert raised.value.exit_code == 3
    assert list(forks.export_state(fork)) == [
        {"piece": ["pushed", ["x", "y", "z"]]},
        {"id": str(pen.position.id), "index": 0, "change": push("later")},
    ]


@pytest.mark.parametrize(("parted", "inside"), [("before", True), ("in the parts", True), ("after", False)])
def test_a_state_that_was_replaced_is_a_change_at_its_last_part(
    pen: Pen, disk: Disk, parted: str, inside: bool
) -> None:
    *_, before, last = [record.id for record in pen.snapshot(size=10, replaces=True)]
    pen.change("later")
    fork = forks.read(disk.fork(str({"before": "1-4", "in the parts": before, "after": last}[parted])))
    assert (fork.divergent_change_count, fork.has_more_in_snapshot) == (1, inside)
    assert fork.snapshot_changed == last


def test_without_a_snapshot_the_state_is_all_changes(disk: Disk) -> None:
    fork = forks.read(disk.fork("1-2"))
    assert [line["change"] for line in forks.export_state(fork)] == [push("x"), push("y"), push("z")]


def test_bytes_are_exported_as_base64(pen: Pen, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = SnapshotEncoder.feed
    monkeypatch.setattr(SnapshotEncoder, "feed", lambda self, piece: feed(self, b"\x00\xff" * 3))
    pen.snapshot()
    monkeypatch.undo()
    fork = forks.read(disk.fork("1-4"))
    assert [base64.b64decode(line["piece_base64"]) for line in forks.export_state(fork)] == [b"\x00\xff" * 3]


def test_reading_leaves_the_file_and_its_directory_as_they_are(pen: Pen, disk: Disk) -> None:
    pen.snapshot()
    path = disk.fork("1-4")
    path.chmod(0o400)
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir())
    path.parent.chmod(0o500)
    try:
        fork = forks.read(path)
        list(forks.divergent(fork))
        list(forks.export_state(fork))
    finally:
        path.parent.chmod(0o700)
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir())) == before


def test_a_fork_of_a_checkpoint_that_was_a_fork_tells_its_own_parting(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    shutil.copy(disk.fork("1-2"), tmp_path / "t" / "checkpoint.sqlite")
    with Checkpoint(tmp_path / "t", "g", node="s") as again:
        fork = forks.read(again.write_fork("another", RecordId(1, 3)))
    assert (str(fork.parted_id), fork.reason) == ("1-3", "another")


# --- which there are -------------------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_not_a_fork(disk: Disk) -> None:
    path = disk.fork("1-2")
    (path.parent / forks.UNFINISHED).write_bytes(b"half")
    assert forks.paths([disk.data_dir]) == [path]
    assert forks.find(path.stem, [disk.data_dir]) == path


def test_a_name_that_is_not_there_or_there_twice_is_refused(disk: Disk, tmp_path: Path) -> None:
    path = disk.fork("1-2")
    with pytest.raises(ConfigError, match="no fork 'x'"):
        forks.find("x", [disk.data_dir])
    shutil.copytree(disk.data_dir, tmp_path / "t")
    with pytest.raises(ConfigError, match="2 forks"):
        forks.find(path.stem, [disk.data_dir, tmp_path / "t"])


def test_a_directory_that_is_no_data_directory_is_not_one_without_forks(disk: Disk, tmp_path: Path) -> None:
    assert forks.paths([disk.data_dir]) == []
    with pytest.raises(ConfigError, match="no node was ever started"):
        forks.paths([tmp_path])


def test_one_that_cannot_be_read_is_not_one_without_forks(disk: Disk) -> None:
    (disk.data_dir / "forks").touch()
    with pytest.raises(CheckpointError, match="forks"):
        forks.paths([disk.data_dir])


# --- damaged and foreign ones ----------------------------------------------------------------------------------------


def test_every_kind_of_damage_is_an_error(disk: Disk) -> None:
    path = disk.fork("1-2")
    whole = path.read_bytes()
    for damaged in (b"", b"x" * 5000, whole[: len(whole) // 2], whole.replace(b'{"push":"y"}', b'{"push":"Y"}')):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="it is damaged"):
            forks.read(path)


def test_a_parting_that_is_no_id_is_damage(disk: Disk) -> None:
    path = disk.fork("1-2")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = '1-x' WHERE key = 'parted_id'")
    with pytest.raises(CheckpointError, match="'1-x'"):
        forks.read(path)


def test_a_checkpoint_is_not_a_fork(disk: Disk, tmp_path: Path) -> None:
    disk.fork("1-2")
    disk.checkpoint.close()
    with pytest.raises(CheckpointError, match="not a fork"):
        forks.read(disk.checkpoint.path)


def test_the_database_of_another_program_is_not_a_fork(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(CheckpointError, match="another program"):
        forks.read(tmp_path / "x.sqlite")


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


def crafted(disk: Disk, *statements: str) -> Path:
    """A fork that somebody else made."""
    path = disk.fork("1-2")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)
    return path


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE change RENAME TO x",
         f"CREATE VIEW change AS {ENDLESS} SELECT x AS term, x AS n, '' AS link, x'' AS header, x'' AS body FROM n"),
        ("ALTER TABLE meta RENAME TO x", "CREATE VIEW meta AS SELECT * FROM x"),
        ("CREATE TABLE x (y CHECK (length(y) > 0))",),
    ],
)  # fmt: skip
def test_one_whose_tables_are_views_is_named_and_the_others_are_listed(disk: Disk, statements: tuple[str, ...]) -> None:
    good = disk.fork("1-2")
    bad = crafted(disk, *statements)
    result = run("list", "--data-dir", disk.data_dir)
    assert result.exit_code == 1
    assert f"{bad}: it is damaged: its tables are not those of a checkpoint" in result.stderr
    assert good.stem in result.stdout


def test_a_pipe_among_the_forks_is_named_and_the_others_are_listed(disk: Disk) -> None:
    good = disk.fork("1-2")
    os.mkfifo(good.with_name("pipe.sqlite"))
    result = run("list", "--data-dir", disk.data_dir)
    assert result.exit_code == 1
    assert "pipe.sqlite: it is not a file" in result.stderr
    assert good.stem in result.stdout


@pytest.mark.parametrize("header", [b"[1]", b"{}", b"a term"])
def test_one_whose_rows_are_no_changes_is_named_and_the_others_are_listed(disk: Disk, pen: Pen, header: bytes) -> None:
    # given a fork whose hashes fit, whoever made it
    good = disk.fork("1-2")
    bad = disk.fork("1-2")
    if header == b"a term":
        header = disk.log.read(RecordId(0, 0)).records[0].header
    run_of_rows = Run().with_row("1-2", header, b"")
    with closing(sqlite3.connect(bad, isolation_level=None)) as db:
        data = orjson.loads(db.execute("SELECT value FROM meta WHERE key = 'saved'").fetchone()[0][32:])
        said = orjson.dumps(data | {"changes": run_of_rows}, default=list)
        db.execute("UPDATE meta SET value = ? WHERE key = 'saved'", (digest_of(said).encode() + said,))
        db.execute("UPDATE meta SET value = '0-0' WHERE key = 'parted_id'")
        db.execute("DELETE FROM change")
        db.execute("INSERT INTO change VALUES (1, 2, ?, ?, x'')", (run_of_rows.link, header))
    result = run("list", "--data-dir", disk.data_dir)
    assert result.exit_code == 1
    assert f"{bad}: it is damaged: the log has something at 1-2" in result.stderr
    assert good.stem in result.stdout


# --- the command -----------------------------------------------------------------------------------------------------


def run(*args: object, **options: Any) -> Result:
    return CliRunner().invoke(cli, ["forks", *map(str, args)], **options)


def test_list_shows_a_line_for_each(disk: Disk, pen: Pen) -> None:
    path = disk.fork("1-2")
    result = run("list", "--data-dir", disk.data_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    heading, line = result.stdout.splitlines()
    assert heading.split() == ["FORK", "NODE", "WHEN", "POSITION", "TERM", "PARTED", "DIVERGENT", "REASON"]
    assert line.startswith(f"{path.stem}  s     20")
    assert line.endswith("1-4       1     1-2     2          replaced by the snapshot 9-9 of b")


def test_list_as_json_has_the_fields_of_the_contract(disk: Disk) -> None:
    path = disk.fork("1-2")
    (told,) = json.loads(run("list", "--data-dir", disk.data_dir, "--output", "json").stdout)
    assert told | {"written_at": 0} == {
        "fork": path.stem, "path": str(path), "group": "g", "node": "s", "written_at": 0, "position": "1-4", "term": 1,
        "parted_id": "1-2", "divergent_change_count": 2, "has_more_in_snapshot": False,
        "reason": "replaced by the snapshot 9-9 of b",
    }  # fmt: skip
    assert isinstance(told["written_at"], int)


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_damaged_fork_is_named_and_the_others_are_listed(disk: Disk, output: str) -> None:
    bad, good = disk.fork("1-2"), disk.fork("1-3")
    bad.write_bytes(b"x" * 5000)
    (bad.parent / "zz.sqlite").write_bytes(b"")
    result = run("list", "--data-dir", disk.data_dir, "--output", output)
    assert result.exit_code == 1
    assert str(bad) in result.stderr
    assert "zz.sqlite" in result.stderr
    assert good.stem in result.stdout
    assert "zz" not in result.stdout


def test_a_node_without_forks_says_so(disk: Disk) -> None:
    assert run("list", "--data-dir", disk.data_dir).stdout == "no forks\n"
    assert run("list", "--data-dir", disk.data_dir, "--output", "json").stdout == "[]\n"


def test_the_data_directory_comes_from_the_environment_or_the_nodes_settings(disk: Disk, tmp_path: Path) -> None:
    path = disk.fork("1-2")
    for name in ("REPLICATOR_DATA_DIR", "REPLICATOR_NODE_DATA_DIR"):
        assert path.stem in run("list", env={name: str(disk.data_dir)}).stdout
    settings = tmp_path / "node.toml"
    settings.write_text(f'[node]\nname = "s"\ndata-dir = "{disk.data_dir}"\n')
    result = CliRunner().invoke(cli, ["--config", str(settings), "forks", "list"])
    assert path.stem in result.stdout


def test_a_directory_with_those_of_several_nodes_stands_for_them(
    disk: Disk, pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Disk(pen.server, tmp_path / "data" / "t", "t")
    names = [disk.fork("1-2").stem, other.fork("1-3").stem]
    monkeypatch.chdir(tmp_path)
    assert names[1] in run("list").stdout  # ./data, as of `replicator node`
    assert names[1] in run("list", "--data-dir", "data").stdout
    (tmp_path / "data" / "lock").touch()  # as that of a dev stack has one
    assert names[1] in run("list", "--data-dir", "data").stdout
    both = run("list", "--data-dir", "data", "--data-dir", disk.data_dir).stdout.splitlines()
    assert [line.split()[1] for line in both[1:]] == ["t", "s"]
    other.checkpoint.close()


def test_a_directory_below_which_no_node_was_ever_started_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    result = run("list", "--data-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no node was ever started" in result.stderr


@pytest.mark.parametrize("args", [["list"], ["list", "--data-dir", "/nowhere"], ["show"], ["export"], ["nonsense"]])
def test_a_wrong_option_is_2(args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_an_unknown_name_is_2(disk: Disk) -> None:
    for command in ("show", "export"):
        result = run(command, "x", "--data-dir", disk.data_dir)
        assert (result.exit_code, result.stdout) == (2, "")


def test_show_tells_the_facts_and_the_changes(disk: Disk) -> None:
    path = disk.fork("1-2")
    result = run("show", path.stem, "--data-dir", disk.data_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "parted at  1-2: up to there, the group has all of its history" in result.stdout
    assert "divergent  2 changes" in result.stdout
    assert result.stdout.splitlines()[-2:] == [
        '2026-01-01 00:00:00.000  1-4               0  a  {"push":"y"}',
        '2026-01-01 00:00:00.000  1-4               1  a  {"push":"z"}',
    ]
    told = json.loads(run("show", path.stem, "--data-dir", disk.data_dir, "--output", "json").stdout)
    assert told["divergent_change_count"] == 2
    assert told["changes"][1] == {"id": "1-4", "index": 1, "change": push("z")}


def test_export_is_a_change_a_line(disk: Disk) -> None:
    path = disk.fork("1-2")
    result = run("export", path.stem, "--data-dir", disk.data_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        '{"id":"1-4","index":0,"change":{"push":"y"}}\n{"id":"1-4","index":1,"change":{"push":"z"}}\n'
    )


def test_a_change_with_a_key_is_exported_with_it(pen: Pen, disk: Disk) -> None:
    pen.change("w", key="k")
    lines = run("export", disk.fork("1-4").stem, "--data-dir", disk.data_dir).stdout
    assert json.loads(lines) == {"id": "1-5", "index": 0, "change": push("w"), "key": "k"}


def test_export_of_what_is_in_the_snapshot_is_3_and_names_the_way(disk: Disk, pen: Pen) -> None:
    pen.snapshot()
    path = disk.fork("1-2")
    result = run("export", path.stem, "--data-dir", disk.data_dir)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"replicator forks export {path.stem} --state" in result.stderr
    assert "in its snapshot" in run("show", path.stem, "--data-dir", disk.data_dir).stdout
    assert "0 + those in its snapshot" in run("list", "--data-dir", disk.data_dir).stdout
    result = run("export", path.stem, "--state", "--data-dir", disk.data_dir)
    assert (result.exit_code, result.stdout) == (0, '{"piece":["pushed",["x","y","z"]]}\n')


def test_show_and_export_of_a_damaged_one_are_1(disk: Disk) -> None:
    path = disk.fork("1-2")
    path.write_bytes(b"x" * 5000)
    for command in ("show", "export"):
        result = run(command, path.stem, "--data-dir", disk.data_dir)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "it is damaged: it is not an SQLite file" in result.stderr


def test_help_needs_nothing() -> None:
    assert "\n  forks " in CliRunner().invoke(cli, ["-h"]).stdout
    for command in ("list", "show", "export"):
        assert run(command, "--help").exit_code == 0
