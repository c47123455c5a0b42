"""An archive over a real Redis, with nodes of every kind of state: what is archived can be had again, everywhere."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from replicator import Node, ops
from replicator.archive.archiver import Archiver, Settings
from replicator.archive.places import Directory
from replicator.archive.status import read_status
from replicator.cli import cli
from replicator.errors import LogUnavailable
from replicator.log.redis_log import RedisLog
from replicator.protocol.heartbeat import Heartbeat
from replicator.sandbox.redis_server import find_server
from replicator.state.directory import DirectoryState
from replicator.state.sqlite_pages import SQLitePages
from tests.support.kv import KV as State
from tests.support.kv import LEASE_S, PATIENCE_S, document, eventually, in_step, push
from tests.support.opaque import Text
from tests.support.versions import APP, Two
from tests.support.worlds import RedisWorld

Run = Callable[..., Result]

KV = "tests.support.kv:KV"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RedisWorld]:
    (tmp_path / "redis").mkdir()
    world = RedisWorld(find_server(), tmp_path / "redis")
    yield world
    world.close()


@pytest.fixture
def place(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "archive")


@pytest.fixture
def run(world: RedisWorld, place: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("REPLICATOR_ARCHIVE", str(place.path))

    def run(*args: object, code: int = 0) -> Result:
        words = ["--redis", world.server.url, "--group", "g", *map(str, args)]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == code, result.output
        return result

    return run


Start = Callable[..., Node[Any]]


@pytest.fixture
def start(world: RedisWorld, tmp_path: Path) -> Iterator[Start]:
    started: list[Node[Any]] = []

    def start(name: str, state: Any, **more: Any) -> Node[Any]:
        more = {"lease_s": LEASE_S, "on_restart": "standby", "data_dir": tmp_path / name} | more
        node = Node(state, group="g", name=name, redis=world.server.url, **more)
        started.append(node)
        node.start()
        return node

    yield start
    for node in started:
        node.stop()


@contextmanager
def archiving(world: RedisWorld, place: Directory, **settings: Any) -> Iterator[Callable[[], None]]:
    """An archiver on a thread; what this gives waits until all that the log has is in the archive."""
    log, stopping = RedisLog(world.server.url, "g"), threading.Event()
    archiver = Archiver(log, place, Settings(**({"segment_every_s": 0.1, "snapshot_every_s": 0.0} | settings)))
    thread = threading.Thread(target=archiver.run, args=(stopping,))
    thread.start()

    def catch_up() -> None:
        head = log.look().head
        assert head is not None

        def has_all() -> bool:
            status = read_status(place)
            return status is not None and status.position == str(head.position.id)

        eventually(has_all)

    try:
        yield catch_up
    finally:
        stopping.set()
        thread.join(PATIENCE_S)
        log.close()


def test_any_application_has_an_earlier_state_back_on_all_nodes(
    world: RedisWorld, place: Directory, start: Start, run: Run
) -> None:
    a, b = start("a", State()), start("b", State())
    a.promote(timeout_s=PATIENCE_S)
    with archiving(world, place) as catch_up:
        a.submit(push(1))
        a.submit(push(2), key="k")
        good = a.position.id
        wanted = document(a)
        a.submit(push("a mistake"))
        catch_up()
        in_step(a, b)
        run("restore", "--at", good, "--load", "--force", "--yes", "--state", KV, "--timeout", 3 * PATIENCE_S)
        eventually(lambda: document(a) == wanted and document(b) == wanted)
        eventually(lambda: a.leads)
        assert a.submit(push(3)) == 3
        with _log(world) as log:
            assert ops.verify(log, by="test", timeout_s=PATIENCE_S).equal
            names = {node.node for node in ops.status(log).nodes}
        assert names == {"a", "b"}, "the node that brought it is forgotten"


@contextmanager
def _log(world: RedisWorld) -> Iterator[RedisLog]:
    log = RedisLog(world.server.url, "g")
    yield log
    log.close()


def test_a_state_without_apply_needs_no_class(world: RedisWorld, place: Directory, start: Start, run: Run) -> None:
    text, other = Text([b"one" * 1000]), Text()
    a, b = start("a", text, app="files"), start("b", other, app="files")
    a.promote(timeout_s=PATIENCE_S)
    with archiving(world, place) as catch_up:
        a.publish()
        text.pieces = [b"one" * 999 + b"two"]
        a.publish()
        good = a.position.id
        text.pieces = [b"a mistake"]
        a.publish()
        catch_up()
        run("restore", "--at", good, "--to", place.path.parent / "out")
        assert (place.path.parent / "out").read_bytes() == b"one" * 999 + b"two"
        # the node that loads comes by a marker that the others have passed
        with _log(world) as log:
            assert ops.verify(log, by="test", timeout_s=PATIENCE_S).equal
        load = ("restore", "--at", good, "--load", "--force", "--yes", "--timeout", 3 * PATIENCE_S)
        run(*load, "--state", "whole")
        eventually(lambda: text.pieces == other.pieces == [b"one" * 999 + b"two"])
        in_step(a, b)


def test_a_database_that_is_replicated_by_pages_has_an_earlier_state_back(
    world: RedisWorld, start: Start, run: Run, tmp_path: Path
) -> None:
    ours, theirs, file = tmp_path / "ours", tmp_path / "theirs", tmp_path / "backup"

    def does(what: str) -> None:
        with closing(sqlite3.connect(ours)) as db:
            db.execute(what)
            db.commit()

    def found(path: Path) -> list[Any]:
        with closing(sqlite3.connect(path)) as db:
            return db.execute("SELECT x FROM t").fetchall()

    does("CREATE TABLE t AS SELECT 'good' AS x")
    a, b = start("a", SQLitePages(ours)), start("b", SQLitePages(theirs, live=True))
    a.promote(timeout_s=PATIENCE_S)
    a.publish()
    run("backup", file, "--data-dir", tmp_path / "a")
    does("UPDATE t SET x = 'a mistake'")
    assert a.publish().what == "patch"
    with _log(world) as log:
        assert ops.verify(log, by="test", timeout_s=PATIENCE_S).equal
    run("import", file, "--force", "--yes", "--timeout", 3 * PATIENCE_S)
    eventually(lambda: a.leads and found(ours) == [("good",)])
    in_step(a, b)
    eventually(lambda: found(theirs) == [("good",)])
    does("INSERT INTO t VALUES ('more')")
    assert a.publish().what != "nothing"
    in_step(a, b)
    eventually(lambda: found(theirs) == found(ours))


def found(top: Path) -> dict[str, str]:
    """The files of a directory."""
    return {str(path.relative_to(top)): path.read_text() for path in sorted(top.rglob("*")) if path.is_file()}


@pytest.fixture
def pair(start: Start, tmp_path: Path) -> tuple[Node[Any], Node[Any]]:
    """A primary and a standby of a directory, with a publication by file."""
    (tmp_path / "ours/d").mkdir(parents=True)
    (tmp_path / "ours/d/large").write_text("".join(map(str, range(5000))))
    (tmp_path / "ours/a").write_text("old")
    a, b = (start(name, DirectoryState(tmp_path / top)) for name, top in (("a", "ours"), ("b", "theirs")))
    a.promote(timeout_s=PATIENCE_S)
    a.publish()
    (tmp_path / "ours/a").write_text("good")
    assert a.publish().what == "patch"
    return a, b


def test_what_was_different_in_a_directory_is_told_and_it_is_made_again(
    world: RedisWorld, place: Directory, pair: tuple[Node[Any], Node[Any]], run: Run, tmp_path: Path
) -> None:
    (a, b), ours = pair, tmp_path / "ours"
    good, wanted = str(a.position.id), found(ours)
    with archiving(world, place) as catch_up:
        (ours / "a").write_text("a mistake")
        (ours / "d/large").rename(ours / "moved")
        assert a.publish().what == "patch"
        catch_up()
    told = json.loads(run("diff", good, "latest", "--output", "json").output)["differences"]
    kinds = [("a", "changed"), ("d/large", "removed"), ("moved", "added")]
    assert [(each["entry"], each["kind"]) for each in told] == kinds
    assert [each["after"] and each["after"]["bytes"] for each in told] == [9, None, len(wanted["d/large"])]
    run("restore", "--at", good, "--to", tmp_path / "out")
    assert found(tmp_path / "out") == wanted
    assert "is a directory" in run("restore", "--at", good, "--to", tmp_path / "out", code=2).output
    assert "is there already" in run("restore", "--at", good, "--to", tmp_path / "out/a", code=2).output
    assert found(tmp_path / "out") == wanted
    in_step(a, b)
    run("certify", "--state", "whole", "--data-dir", tmp_path / "a", "--data-dir", tmp_path / "b")


def test_a_directory_has_an_earlier_state_back(
    world: RedisWorld, place: Directory, pair: tuple[Node[Any], Node[Any]], run: Run, tmp_path: Path
) -> None:
    (a, b), ours, theirs, file = pair, tmp_path / "ours", tmp_path / "theirs", tmp_path / "backup"
    good, wanted = str(a.position.id), found(ours)
    run("backup", file, "--data-dir", tmp_path / "a")
    with archiving(world, place) as catch_up:
        (ours / "a").write_text("a mistake")
        a.publish()
        catch_up()
    ways = (("restore", "--at", good, "--load"), ("import", file))
    for way in ways:
        (ours / "a").write_text("another mistake")
        assert a.publish().what == "patch"
        with _log(world) as log:  # the node that loads comes by a marker that the others have passed
            assert ops.verify(log, by="test", timeout_s=PATIENCE_S).equal
        run(*way, "--force", "--yes", "--timeout", 3 * PATIENCE_S)
        eventually(lambda: a.leads and found(ours) == wanted)
        in_step(a, b)
        eventually(lambda: found(theirs) == wanted)
    # and they go on
    (ours / "more").write_text("more")
    assert a.publish().what == "patch"
    eventually(lambda: found(theirs) == found(ours))


def test_without_a_class_only_snapshots_can_be_restored_and_that_is_said(
    world: RedisWorld, place: Directory, start: Start, run: Run, tmp_path: Path
) -> None:
    a = start("a", State())
    a.promote(timeout_s=PATIENCE_S)
    with archiving(world, place) as catch_up:
        a.submit(push(1))
        catch_up()  # so that the snapshot of this record is in a later segment than the record
        a.publish()
        at = ops_snapshot_id(world)
        a.submit(push(2))
        catch_up()
    said = run("show", "--at", "latest", "--data-dir", tmp_path / "redis", code=3).output
    assert f"1 change after the snapshot of {at}" in said
    assert f"--at {at}" in said
    shown = json.loads(run("show", "--at", at, "--data-dir", tmp_path / "redis", "--output", "json").output)
    assert (shown["change_count"], shown["snapshot_id"]) == (0, at)
    # A checkpoint knows the class.
    named = json.loads(run("show", "--at", "latest", "--data-dir", tmp_path / "a", "--output", "json").output)
    assert named["change_count"] == 1
    wrong = run("show", "--at", "latest", "--data-dir", tmp_path / "a", "--state", "x:Other", code=2).output
    assert "tests.support.kv:KV" in wrong


def ops_snapshot_id(world: RedisWorld) -> str:
    with _log(world) as log:
        head = log.look().head
        assert head is not None
        return str(head.snapshot_at)


def test_a_data_directory_of_the_past_founds_a_group_anew(
    world: RedisWorld, place: Directory, start: Start, run: Run, tmp_path: Path
) -> None:
    a = start("a", State())
    a.promote(timeout_s=PATIENCE_S)
    with archiving(world, place) as catch_up:
        a.submit(push(1), key="k")
        a.publish()
        a.submit(push(2))
        good, wanted = a.position.id, document(a)
        a.submit(push("a mistake"))
        catch_up()
    a.stop()
    world.flush()  # Redis, and every node, are gone
    new = tmp_path / "new"
    run("restore", "--at", good, "--to-data-dir", new, "--name", "n")
    assert "is not empty" in run("restore", "--at", good, "--to-data-dir", new, "--name", "n", code=2).output
    n = start("n", State(), data_dir=new)
    assert document(n) == wanted
    with _log(world) as log:
        ops.recover(log, "n", force=True, by="test", timeout_s=PATIENCE_S)
    eventually(lambda: n.leads)
    assert n.submit(push(1), key="k") == 1, "the table of keys is there, too"
    assert n.submit(push(3)) == 3


def backed_up(start: Start, run: Run, tmp_path: Path) -> tuple[Node[Any], Path]:
    """A primary with one change, and a backup of that."""
    a = start("a", State())
    a.promote(timeout_s=PATIENCE_S)
    a.submit(push(1))
    file = tmp_path / "state.backup"
    run("backup", file, "--data-dir", tmp_path / "a")
    return a, file


def test_a_backup_is_checked_whole_before_anything_changes(
    world: RedisWorld, start: Start, run: Run, tmp_path: Path
) -> None:
    a = start("a", State())
    a.promote(timeout_s=PATIENCE_S)
    a.submit(push(1))
    wanted = document(a)
    file = tmp_path / "state.backup"
    told = json.loads(run("backup", file, "--data-dir", tmp_path / "a", "--output", "json").output)
    assert (told["app"], told["state"], told["group"]) == ("KV", KV, "g")
    a.submit(push("a mistake"))
    data = file.read_bytes()
    before = a.position
    for at in (2, 30, len(data) // 2, len(data) - 20, len(data) - 2):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert "is no backup, or is damaged" in run("import", file, "--force", "--yes", code=1).output
    assert a.position == before
    file.write_bytes(data)
    assert "--expect" in run("import", file, code=2).output
    assert "has changed since" in run("import", file, "--expect", told["position"], code=3).output
    run("import", file, "--force", "--yes", "--timeout", 3 * PATIENCE_S)
    eventually(lambda: document(a) == wanted)


def test_what_replaces_a_state_by_force_asks_first(world: RedisWorld, start: Start, run: Run, tmp_path: Path) -> None:
    a, file = backed_up(start, run, tmp_path)
    a.submit(push(2))
    before, wanted = a.position, document(a)
    said = run("import", file, "--force", code=2).output
    assert f"the whole state of the group, with its changes up to {before.id}, is replaced" in said
    assert "--yes" in said
    assert (a.position, document(a)) == (before, wanted)


def test_a_state_of_another_version_than_the_groups_is_refused(
    world: RedisWorld, place: Directory, start: Start, run: Run, tmp_path: Path
) -> None:
    a = start("a", Two(), app=APP, version=2, reads=range(1, 3))
    b = start("b", Two(), app=APP, version=1, reads=range(1, 3))
    b.promote(timeout_s=PATIENCE_S)
    b.submit(["add", "k", 1])
    file = tmp_path / "state.backup"
    run("backup", file, "--data-dir", tmp_path / "b")
    b.stop()
    a.promote(timeout_s=PATIENCE_S)
    with _log(world) as log:
        ops.forget(log, "b", by="test")
        ops.finalize(log, 2, by="test", timeout_s=PATIENCE_S)
    before = a.position
    said = run("import", file, "--force", "--yes", code=2).output
    assert "this is a state of version 1, and group g is at version 2" in said
    assert a.position == before


def test_a_node_that_loads_is_promoted_once_the_others_have_heard_of_it(
    world: RedisWorld, start: Start, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, file = backed_up(start, run, tmp_path)
    a.submit(push(2))
    really, silent = RedisLog.beat, [3]

    def beat(self: RedisLog, heartbeat: Heartbeat) -> None:
        if heartbeat.node.startswith("import-") and silent[0]:
            silent[0] -= 1
            raise LogUnavailable(url=world.server.url, problem="a test has it unheard")
        really(self, heartbeat)

    monkeypatch.setattr(RedisLog, "beat", beat)
    assert "the log has the state" in run("import", file, "--force", "--yes").output
    assert silent == [0]


def test_a_load_whose_lead_nobody_takes_back_says_so(
    world: RedisWorld, start: Start, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, file = backed_up(start, run, tmp_path)
    really = ops.switchover

    def switchover(log: RedisLog, node: str, **more: Any) -> Any:
        if node == "a":
            raise TimeoutError("a does not report")
        return really(log, node, **more)

    monkeypatch.setattr(ops, "switchover", switchover)
    said = run("import", file, "--force", "--yes", code=3).output
    assert "the log has the state at" in said
    assert "a, which led before, did not take the lead back (a does not report): nobody leads now, until you" in said
    # and so it is
    eventually(lambda: a.in_sync and not a.leads)
    a.promote(timeout_s=PATIENCE_S)
    a.submit(push(2))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_load_that_is_ended_gives_the_lease_back(
    world: RedisWorld, start: Start, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    a, file = backed_up(start, run, tmp_path)
    wanted = document(a)

    def ended(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Node, "replace", ended)
    before = signal.getsignal(number)
    signal.signal(number, lambda *_: None)  # unless it is heeded, nothing happens
    try:
        assert "Abort" in run("import", file, "--force", "--yes", code=1).output
    finally:
        signal.signal(number, before)
    eventually(lambda: a.leads)
    assert document(a) == wanted
    with _log(world) as log:
        assert {node.node for node in ops.status(log).nodes} == {"a"}


def test_the_file_of_another_application_is_refused(world: RedisWorld, start: Start, run: Run, tmp_path: Path) -> None:
    a, file = backed_up(start, run, tmp_path)
    a.stop()
    world.flush()
    b = start("b", State(), app="Other")
    b.promote(timeout_s=PATIENCE_S)
    said = run("import", file, "--force", "--yes", code=2).output
    assert "this is a state of `KV`, and group g is of `Other`" in said
