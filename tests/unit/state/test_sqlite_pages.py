"""An SQLite database that is replicated by pages: what a program does to it arrives, and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

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
            b.promote(timeout_s=PATIENCE_S)
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
