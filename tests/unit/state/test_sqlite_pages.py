"""An SQLite database that is replicated by pages: what a program does to it arrives, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import CheckpointError
from replicator.node.node import Node
from replicator.state import SharedState
from replicator.state.sqlite import SQLiteState
from replicator.state.sqlite_pages import SQLitePages
from tests.support.kv import PATIENCE_S, Group, eventually

#: As it is replicated: of the shadow of a node.
SHADOW = "shadow"


def opened(path: Path, mode: str = "wal") -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S, check_same_thread=False)
    db.execute(f"PRAGMA journal_mode = {mode}")
    return db


def filled(db: sqlite3.Connection, rows: int = 500) -> None:
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)")
    db.execute("BEGIN")
    db.executemany("INSERT INTO t (value) VALUES (?)", [(f"value {at}" * 20,) for at in range(rows)])
    db.execute("COMMIT")


def rows(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return db.execute("SELECT * FROM t ORDER BY id").fetchall()


def content(path: Path) -> list[bytes]:
    """As `SQLiteState` has it: the same for equal databases, whatever belongs to the file."""
    return list(SQLiteState(path).snapshot())


def kept(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.replaced-*"))


def of(node: Node[Any]) -> Path:
    return Path(node.data_dir) / SHADOW


def test_it_is_a_state_that_programs_share(tmp_path: Path) -> None:
    assert isinstance(SQLitePages(tmp_path / "a"), SharedState)


def test_what_a_program_does_arrives_and_comes_back_after_a_failover(tmp_path: Path) -> None:
    group = Group(tmp_path / "nodes")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with closing(opened(ours)) as db:
        filled(db)
        try:
            a = group.primary("a", state=SQLitePages(ours))
            b = group.node("b", state=SQLitePages(theirs))
            assert a.publish().what == "whole"
            db.execute("UPDATE t SET value = 'changed' WHERE id = 200")
            published = a.publish()
            assert (published.what, published.bytes < 2000) == ("patch", True)
            assert a.publish().what == "nothing"
            eventually(lambda: b.position == a.position)
            assert content(of(b)) == content(of(a)) == content(ours)
            reader = opened(theirs, "delete")
            assert reader.execute("SELECT value FROM t WHERE id = 200").fetchone() != ("changed",)
            b.promote(timeout_s=PATIENCE_S)
            # who reads it sees it as well: it was brought up to date in place
            assert reader.execute("SELECT value FROM t WHERE id = 200").fetchone() == ("changed",)
            reader.close()
            # its program finds all of it, and goes on
            assert rows(theirs) == rows(ours)
            with closing(opened(theirs)) as now:
                now.execute("DELETE FROM t WHERE id = 1")
                now.execute("CREATE INDEX i ON t (value)")
                assert b.publish().what == "patch"
            eventually(lambda: a.position == b.position)
            assert content(of(a)) == content(theirs)
            a.promote(timeout_s=PATIENCE_S)
            assert rows(ours) == rows(theirs)
            assert kept(ours) == kept(theirs) == []
        finally:
            group.close()


def test_what_is_written_right_after_it_was_brought_up_to_date_is_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    with closing(opened(path, "delete")) as db:
        filled(db)
        state = SQLitePages(path)
        published = list(state.snapshot())
        page = published[0][:4096]
        state.is_published(page)
        seen = state.seen

        def somebody_is_faster() -> object:
            db.execute("UPDATE t SET value = 'mine' WHERE id = 1")
            return seen()

        monkeypatch.setattr(state, "seen", somebody_is_faster)
        assert state.catch_up({1: page}, path.stat().st_size // 4096)
        monkeypatch.undo()
    state.restore(published)
    (aside,) = kept(path)
    assert ("mine",) in [row[1:] for row in rows(aside)]


def test_what_is_written_right_after_it_was_restored_is_kept_aside_and_no_pages_are_put_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    with closing(opened(path, "delete")) as db:
        filled(db)
        state = SQLitePages(path)
        published = list(state.snapshot())
        db.execute("DELETE FROM t WHERE id > 5")
        seen = state.seen

        def somebody_is_faster() -> object:
            db.execute("UPDATE t SET value = 'mine' WHERE id = 1")
            return seen()

        swap = state._swap

        def swapped(draft: Path) -> None:
            swap(draft)
            monkeypatch.setattr(state, "seen", somebody_is_faster)

        monkeypatch.setattr(state, "_swap", swapped)
        state.published_pieces = lambda: iter(published)
        state.restore(published)
        monkeypatch.undo()
    page = published[0][:4096]
    state.is_published(page)
    assert not state.catch_up({1: page}, path.stat().st_size // 4096)
    state.restore(published)
    assert ("mine",) in [row[1:] for row in rows(kept(path)[-1])]
    assert content(path) == published
    # and then they are
    state.is_published(page)
    assert state.catch_up({1: page}, path.stat().st_size // 4096)
    assert content(path) == published


def test_what_cannot_be_compared_with_what_was_published_is_restored_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with closing(opened(path, "delete")) as db:
        filled(db)
    state = SQLitePages(path, live=True)
    page = next(iter(state.snapshot()))[:4096]

    def broken() -> Iterator[Any]:
        raise CheckpointError(path=path, problem="a test has broken the shadow")

    state.published_pieces = broken
    state.is_published(page)
    assert not state.catch_up({1: page}, path.stat().st_size // 4096)


def mode_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        return str(db.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_standby_that_starts_again_keeps_aside_what_somebody_wrote_and_nothing_else(tmp_path: Path) -> None:
    group = Group(tmp_path / "nodes")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with closing(opened(ours)) as db, closing(opened(theirs)) as before:
        filled(db)
        before.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)")
        before.close()
        try:
            a = group.primary("a", state=SQLitePages(ours))
            a.publish()
            b = group.node("b", state=SQLitePages(theirs))
            eventually(lambda: b.position == a.position)
            b.stop()
            b = group.node("b", state=SQLitePages(theirs))
            # what was there before the node was is aside; it is out of WAL mode for as long as this is a standby
            assert len(kept(theirs)) == 1
            assert (mode_of(theirs), rows(theirs)) == ("delete", rows(ours))
            # it lags, and is known to be of the group
            for _ in range(2):
                db.execute("UPDATE t SET value = hex(randomblob(9)) WHERE id = 7")
                a.publish()
                eventually(partial(_together, a, b))
                b.stop()
                b = group.node("b", state=SQLitePages(theirs))
                assert rows(theirs) == rows(ours)
            assert len(kept(theirs)) == 1
            with closing(opened(theirs, "delete")) as somebody:
                somebody.execute("UPDATE t SET value = 'mine' WHERE id = 1")
            db.execute("UPDATE t SET value = 'ours' WHERE id = 2")
            a.publish()
            eventually(lambda: b.position == a.position)
            b.promote(timeout_s=PATIENCE_S)
            assert (mode_of(theirs), rows(theirs)) == ("wal", rows(ours))
            assert ("mine",) in [row[1:] for row in rows(kept(theirs)[-1])]
            assert len(kept(theirs)) == 2
        finally:
            group.close()


def _together(a: Node[Any], b: Node[Any]) -> bool:
    return a.position == b.position


def _equal(theirs: Path, ours: Path) -> bool:
    """It is made empty, and then filled, in one transaction."""
    try:
        return theirs.exists() and rows(theirs) == rows(ours)
    except sqlite3.OperationalError:
        return False


def _has(reader: sqlite3.Connection, value: str) -> bool:
    return reader.execute("SELECT value FROM t WHERE id = 9").fetchone() == (value,)


def test_a_live_one_is_what_is_published_all_the_time(tmp_path: Path) -> None:
    group = Group(tmp_path / "nodes")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with closing(opened(ours)) as db:
        filled(db)
        try:
            a = group.primary("a", state=SQLitePages(ours))
            a.publish()
            b = group.node("b", state=SQLitePages(theirs, live=True))
            eventually(lambda: b.position == a.position)
            b.stop()
            b = group.node("b", state=SQLitePages(theirs, live=True))
            with closing(opened(theirs, "delete")) as reader:
                for turn in range(5):
                    db.execute("UPDATE t SET value = ? WHERE id % 9 = 0", (f"turn {turn}",))
                    db.execute(f"CREATE TABLE t{turn} (x)")
                    a.publish()
                    eventually(partial(_has, reader, f"turn {turn}"), patience_s=3 * PATIENCE_S)
                    assert reader.execute(f"SELECT * FROM t{turn}").fetchall() == []
                    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert rows(theirs) == rows(ours)
            b.promote(timeout_s=PATIENCE_S)
            assert kept(theirs) == []
        finally:
            group.close()


def test_a_live_one_that_somebody_wrote_is_what_is_published_again(tmp_path: Path) -> None:
    group = Group(tmp_path / "nodes")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with closing(opened(ours)) as db:
        filled(db)
        try:
            a = group.primary("a", state=SQLitePages(ours))
            a.publish()
            b = group.node("b", state=SQLitePages(theirs, live=True))
            eventually(lambda: b.position == a.position)
            # in WAL mode, and in use: restored as a whole, and then in place again
            with closing(opened(theirs)) as somebody:
                somebody.execute("UPDATE t SET value = 'mine' WHERE id = 1")
                db.execute("UPDATE t SET value = 'ours' WHERE id = 9")
                a.publish()
                eventually(partial(_has, somebody, "ours"), patience_s=3 * PATIENCE_S)
                assert somebody.execute("SELECT value FROM t WHERE id = 1").fetchone() != ("mine",)
                (aside,) = kept(theirs)
                assert ("mine",) in [row[1:] for row in rows(aside)]
            for value in ("once", "and again"):
                db.execute("UPDATE t SET value = ? WHERE id = 9", (value,))
                a.publish()
                with closing(sqlite3.connect(theirs)) as reader:
                    eventually(partial(_has, reader, value), patience_s=3 * PATIENCE_S)
            assert rows(theirs) == rows(ours)
            assert kept(theirs) == [aside]
            # somebody removed it
            theirs.unlink()
            db.execute("UPDATE t SET value = 'more' WHERE id = 9")
            a.publish()
            eventually(partial(_equal, theirs, ours), patience_s=3 * PATIENCE_S)
        finally:
            group.close()
