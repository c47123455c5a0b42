"""An SQLite database as a state: copied while it is used, overwritten while it is read, equal on all nodes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import CorruptRecord, StateError, StateInUse
from replicator.format.codec import digest_of_pieces
from replicator.state import KeptState, SharedState, State, file_stamps
from replicator.state import sqlite as module
from replicator.state.sqlite import SQLiteState
from tests.support.kv import PATIENCE_S, Group, eventually


def database(path: Path, rows: int = 100, *, wal: bool = False) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S, check_same_thread=False)
    if wal:
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)")
    db.execute("BEGIN")
    db.executemany("INSERT INTO t (value) VALUES (?)", [(f"value {at}" * 20,) for at in range(rows)])
    db.execute("COMMIT")
    return db


def rows(path: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return db.execute("SELECT * FROM t ORDER BY id").fetchall()


def pieces(path: Path) -> list[bytes]:
    return list(SQLiteState(path).snapshot())


def kept(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.replaced-*"))


def names(directory: Path) -> set[str]:
    return {found.name for found in directory.iterdir()}


def test_it_is_a_state_without_apply_that_outlives_its_process(tmp_path: Path) -> None:
    state = SQLiteState(tmp_path / "a")
    assert isinstance(state, KeptState)
    assert not isinstance(state, State)
    assert not state.survived()


@pytest.mark.parametrize("wal", [False, True])
def test_what_is_committed_is_read_while_a_program_writes(tmp_path: Path, wal: bool) -> None:
    with closing(database(tmp_path / "a", wal=wal)) as db:
        if wal:
            db.execute("BEGIN")
            db.execute("DELETE FROM t")  # not committed
        SQLiteState(tmp_path / "b").restore(pieces(tmp_path / "a"))
    assert len(rows(tmp_path / "b")) == 100
    assert not {".a.copy", ".b.new", ".b.kept"} & names(tmp_path)


def test_two_may_draw_it_at_the_same_time(tmp_path: Path) -> None:
    with closing(database(tmp_path / "a", 30_000)) as db:
        state = SQLiteState(tmp_path / "a")
        before = list(state.snapshot())
        one = state.snapshot()
        first = next(one)
        db.execute("DELETE FROM t")
        other = list(state.snapshot())
    assert [first, *one] == before
    assert other != before
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize("ours", [False, True], ids=["rollback", "WAL"])
@pytest.mark.parametrize("theirs", [False, True], ids=["into rollback", "into WAL"])
def test_programs_that_have_it_open_see_the_new_content(tmp_path: Path, ours: bool, theirs: bool) -> None:
    # given a program that reads the database of a standby, and has prepared what it asks
    with closing(database(tmp_path / "a", 500, wal=ours)), closing(database(tmp_path / "b", 3, wal=theirs)) as reader:
        ask = "SELECT count(*), max(value) FROM t"
        assert reader.execute(ask).fetchone()[0] == 3
        # when it is overwritten
        SQLiteState(tmp_path / "b").restore(pieces(tmp_path / "a"))
        # then the program sees that
        assert reader.execute(ask).fetchone()[0] == 500
        mode = reader.execute("PRAGMA journal_mode").fetchone()[0]
        assert mode == ("wal" if theirs else "delete")
        # and may write, for all that SQLite cares
        reader.execute("INSERT INTO t (value) VALUES ('x')")
    assert len(rows(tmp_path / "b")) == 501


@pytest.mark.parametrize("wal", [False, True])
def test_equal_contents_are_equal_whatever_happened_to_the_files(tmp_path: Path, wal: bool) -> None:
    with closing(database(tmp_path / "a", wal=wal)) as db:
        db.execute("DROP TABLE IF EXISTS another")
        with closing(database(tmp_path / "b", 7, wal=not wal)) as other:
            other.execute("CREATE TABLE more (x)")  # its schema has another version
            SQLiteState(tmp_path / "b").restore(pieces(tmp_path / "a"))
            assert digest_of_pieces(pieces(tmp_path / "b")) == digest_of_pieces(pieces(tmp_path / "a"))
            other.execute("SELECT count(*) FROM t")
            db.execute("UPDATE t SET value = 'changed' WHERE id = 5")
            assert digest_of_pieces(pieces(tmp_path / "b")) != digest_of_pieces(pieces(tmp_path / "a"))


def test_a_transaction_of_another_program_is_waited_for(tmp_path: Path) -> None:
    new = pieces(_closed(tmp_path / "a", 200))
    with closing(database(tmp_path / "b", 3)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchone()
        thread = threading.Timer(0.3, reader.commit)
        thread.start()
        SQLiteState(tmp_path / "b", busy_s=PATIENCE_S).restore(new)
        thread.join()
    assert len(rows(tmp_path / "b")) == 200


def test_a_transaction_that_does_not_end_is_named(tmp_path: Path) -> None:
    new = pieces(_closed(tmp_path / "a", 200))
    with closing(database(tmp_path / "b", 3)) as reader:
        reader.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateInUse, match="a program has a transaction open"):
            SQLiteState(tmp_path / "b", busy_s=0.2).restore(new)
        reader.execute("ROLLBACK")
    assert len(rows(tmp_path / "b")) == 3
    assert names(tmp_path) == {"a", "b"} | {path.name for path in kept(tmp_path / "b")}


def _closed(path: Path, rows: int = 100) -> Path:
    database(path, rows).close()
    return path


def test_pieces_that_prove_wrong_leave_it_as_it_was(tmp_path: Path) -> None:
    new = pieces(_closed(tmp_path / "a"))

    def wrong() -> Iterator[bytes]:
        yield from new
        raise CorruptRecord(id="1-1", problem="damaged")

    _closed(tmp_path / "b", 3)
    with pytest.raises(CorruptRecord):
        SQLiteState(tmp_path / "b").restore(wrong())
    assert len(rows(tmp_path / "b")) == 3
    assert names(tmp_path) == {"a", "b"}


def test_what_was_not_published_is_kept_and_what_was_is_not(tmp_path: Path) -> None:
    new, newer = pieces(_closed(tmp_path / "a", 50)), pieces(_closed(tmp_path / "c", 60))
    state = SQLiteState(_closed(tmp_path / "b", 3))
    list(state.snapshot())
    state.published()
    state.restore(new)
    assert kept(tmp_path / "b") == []
    # given that somebody writes to it
    with closing(sqlite3.connect(tmp_path / "b")) as db, db:
        db.execute("DELETE FROM t WHERE id > 10")
    state.restore(newer)
    assert len(rows(tmp_path / "b")) == 60
    assert [len(rows(path)) for path in kept(tmp_path / "b")] == [10]
    # and it was only looked at
    rows(tmp_path / "b")
    state.restore(new)
    assert len(kept(tmp_path / "b")) == 1


def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    with closing(database(tmp_path / "b", wal=True)) as db:
        version = db.execute("PRAGMA data_version").fetchone()
        SQLiteState(tmp_path / "b").restore(pieces(tmp_path / "b"))
        assert db.execute("PRAGMA data_version").fetchone() == version
    assert kept(tmp_path / "b") == []


def test_a_file_that_is_no_database_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"this is no database, and long enough to be looked at" * 50)
    with pytest.raises(ZeroDivisionError):
        SQLiteState(tmp_path / "b").restore(1 // 0 for _ in range(1))
    assert names(tmp_path) == {"b"}
    SQLiteState(tmp_path / "b").restore(pieces(_closed(tmp_path / "a")))
    assert len(rows(tmp_path / "b")) == 100
    (aside,) = kept(tmp_path / "b")
    assert aside.read_bytes().startswith(b"this is no")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="there is no such file"):
        SQLiteState(tmp_path / "b").snapshot()
    (tmp_path / "b").write_bytes(b"this is no database" * 50)
    with pytest.raises(StateError, match="not a database"):
        list(SQLiteState(tmp_path / "b").snapshot())
    with pytest.raises(StateError, match="something else than a database"):
        SQLiteState(tmp_path / "c").restore([{"a": 1}])


def test_a_database_without_a_table_is_one(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "a").close()
    (tmp_path / "a").touch()
    found = pieces(tmp_path / "a")
    assert found
    SQLiteState(tmp_path / "b").restore(found)
    with closing(sqlite3.connect(tmp_path / "b")) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


# --- a program that does not stop -------------------------------------------------------------------------------------


def test_a_program_that_reads_is_in_nobodys_way_in_wal_mode(tmp_path: Path) -> None:
    new = pieces(_closed(tmp_path / "a", 200))
    with closing(database(tmp_path / "b", 3, wal=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchone()
        SQLiteState(tmp_path / "b", busy_s=0.1).restore(new)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (3,)
    assert len(rows(tmp_path / "b")) == 200


def test_a_program_that_reads_without_end_keeps_what_it_reads_when_the_node_is_to_lead(tmp_path: Path) -> None:
    new = pieces(_closed(tmp_path / "a", 200))
    with closing(database(tmp_path / "b", 3)) as reader:
        (tmp_path / "b").chmod(0o640)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchone()
        state = SQLiteState(tmp_path / "b", busy_s=0.1)
        for _ in range(3):
            with pytest.raises(StateInUse):
                state.restore(new)
        # when the node is to lead
        assert isinstance(state, SharedState)
        state.restore_in_use(new)
        # then whoever opens it finds what was published, and what was there is aside, once
        assert len(rows(tmp_path / "b")) == 200
        assert [len(rows(path)) for path in kept(tmp_path / "b")] == [3]
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640
        # and the program reads what it read, and cannot write to a database that is not there any more
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (3,)
        reader.execute("COMMIT")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM t")
    assert len(rows(tmp_path / "b")) == 200


@pytest.mark.parametrize("wal", [False, True])
def test_a_program_that_writes_is_waited_for_even_then(tmp_path: Path, wal: bool) -> None:
    new = pieces(_closed(tmp_path / "a", 200))
    with closing(database(tmp_path / "b", 3, wal=wal)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM t WHERE id = 1")
        with pytest.raises(StateInUse):
            SQLiteState(tmp_path / "b", busy_s=0.1).restore_in_use(new)
        writer.execute("COMMIT")
    assert len(rows(tmp_path / "b")) == 2


def test_what_is_tried_again_after_a_restart_is_kept_once(tmp_path: Path) -> None:
    new = pieces(_closed(tmp_path / "a", 200))
    with closing(database(tmp_path / "b", 3)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchone()
        for _ in range(3):
            with pytest.raises(StateInUse):
                SQLiteState(tmp_path / "b", busy_s=0.05).restore(new)
    SQLiteState(tmp_path / "b").restore(new)
    assert [len(rows(path)) for path in kept(tmp_path / "b")] == [3]


# --- modes ------------------------------------------------------------------------------------------------------------


def test_copies_and_drafts_are_private_and_a_new_database_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    pieces_of = module.pieces_of

    def noted(copy: Any) -> Iterator[bytes]:
        modes.append(os.fstat(copy.fileno()).st_mode & 0o777)
        return pieces_of(copy)

    def looking() -> Iterator[bytes]:
        yield from new
        modes.extend(found.stat().st_mode & 0o777 for found in tmp_path.iterdir() if found.name.startswith(".b."))

    before = os.umask(0)
    try:
        _closed(tmp_path / "a").chmod(0o600)
        monkeypatch.setattr(module, "pieces_of", noted)
        new = pieces(tmp_path / "a")
        SQLiteState(tmp_path / "b").restore(looking())
        _closed(tmp_path / "c", 3).chmod(0o640)
        SQLiteState(tmp_path / "c").restore(new)
        SQLiteState(tmp_path / "d", mode=0o644).restore(new)
    finally:
        os.umask(before)
    assert set(modes) == {0o600}
    assert len(modes) > 3
    found = {path.name[0]: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == {"a": 0o600, "b": 0o600, "c": 0o640, "d": 0o644}
    assert {path.stat().st_mode & 0o777 for path in kept(tmp_path / "c")} == {0o640}


# --- has it changed? --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wal", [False, True])
def test_a_commit_is_seen_whatever_the_time_stamps_say(
    tmp_path: Path, wal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = file_stamps.Stamp(1, 2, 3, 4, 1_234_567_891)
    monkeypatch.setattr(file_stamps.Stamp, "of", lambda found: stamp)
    with closing(database(tmp_path / "a", wal=wal)) as db:
        state = SQLiteState(tmp_path / "a")
        seen = state.seen()
        assert state.seen() == seen
        db.execute("UPDATE t SET value = 'changed' WHERE id = 5")
        assert state.seen() != seen


def test_to_look_at_a_database_gives_up_no_lock_of_this_process(tmp_path: Path) -> None:
    # given a program that has its database in the process of the node, and is in the middle of writing
    with closing(database(tmp_path / "a")) as db:
        state = SQLiteState(tmp_path / "a")
        state.seen()
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM t")
        # when the node looks, again and again
        for _ in range(3):
            state.seen()
        # then another process finds it locked
        writes = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('DELETE FROM t')"
        done = subprocess.run(
            [sys.executable, "-c", writes, tmp_path / "a"], capture_output=True, text=True, check=False
        )
        assert "database is locked" in done.stderr
        db.execute("ROLLBACK")


@pytest.mark.parametrize("wal", [False, True])
def test_it_is_seen_to_change_with_each_commit(tmp_path: Path, wal: bool) -> None:
    with closing(database(tmp_path / "a", wal=wal)) as db:
        state = SQLiteState(tmp_path / "a")
        seen = state.seen()
        assert state.seen() == seen
        db.execute("UPDATE t SET value = 'changed' WHERE id = 5")
        assert state.seen() != seen


@pytest.mark.parametrize("wal", [False, True])
def test_to_read_it_does_not_count_as_a_change(tmp_path: Path, wal: bool) -> None:
    # SQLite sets the owner of the log whenever root opens a database
    with closing(database(tmp_path / "a", wal=wal)):
        state = SQLiteState(tmp_path / "a")
        eventually(lambda: state.seen() == state.seen())
        seen = state.seen()
        assert list(state.snapshot())
        if (log := tmp_path / "a-wal").exists():  # for who is not root
            log.chmod(log.stat().st_mode)
        assert state.seen() == seen


def test_the_database_of_a_standby_follows_that_of_the_primary(tmp_path: Path) -> None:
    group = Group(tmp_path / "nodes")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with closing(database(ours, 20_000, wal=True)) as db:
        try:
            a = group.primary("a", state=SQLiteState(ours))
            b = group.node("b", state=SQLiteState(theirs))
            assert a.publish().what == "whole"
            eventually(lambda: b.position == a.position)
            with closing(sqlite3.connect(theirs, timeout=PATIENCE_S)) as reader:
                db.execute("UPDATE t SET value = 'changed' WHERE id = 700")
                db.execute("INSERT INTO t (value) VALUES ('new')")
                published = a.publish()
                assert published.what == "patch"
                assert published.bytes < 2000
                assert a.publish().what == "nothing"
                eventually(lambda: reader.execute("SELECT count(*) FROM t").fetchone() == (20_001,))
            # and the other way round, after a failover
            b.promote(timeout_s=PATIENCE_S)
            assert b.publish().what == "nothing"
            with closing(sqlite3.connect(theirs)) as writer, writer:
                writer.execute("DELETE FROM t WHERE id = 1")
            assert b.publish().what == "patch"
            eventually(lambda: a.position == b.position)
            assert rows(ours) == rows(theirs)
            assert kept(ours) == kept(theirs) == []
        finally:
            group.close()
