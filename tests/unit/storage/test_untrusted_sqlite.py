"""SQLite files of somebody else: only the tables that there should be, no query without an end, and only files."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from replicator.storage import untrusted_sqlite
from replicator.storage.untrusted_sqlite import Guarded, NotAsItShouldBe, check_is_file, head_of

SCHEMA = """
BEGIN;
CREATE TABLE thing (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE other (number INTEGER);
COMMIT;
"""

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT"


def made(path: Path, *statements: str, schema: str = SCHEMA) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(schema)
        for statement in statements:
            db.execute(statement)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return made(tmp_path / "x.sqlite", "INSERT INTO thing VALUES ('a', x'01'), ('b', x'02')")


def test_what_is_in_it_can_be_read_and_not_written(path: Path) -> None:
    db = Guarded(path, SCHEMA)
    assert list(db.rows("SELECT key, value FROM thing WHERE key > ? ORDER BY key", ("a",))) == [("b", b"\x02")]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        list(db.rows("DELETE FROM thing"))
    assert list(db.rows("PRAGMA trusted_schema")) == [(0,)]
    assert list(db.rows("PRAGMA query_only")) == [(1,)]
    db.close()


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE other", f"CREATE VIEW other AS {ENDLESS} x AS number FROM n"),
        ("CREATE VIEW one_more AS SELECT 1",),
        ("CREATE TABLE one_more (x)",),
        ("CREATE INDEX one_more ON other (abs(number))",),
        ("CREATE TRIGGER one_more AFTER INSERT ON other BEGIN DELETE FROM thing; END",),
        ("CREATE VIRTUAL TABLE one_more USING rtree (id, a, b)",),
        ("DROP TABLE other",),
        ("DROP TABLE other", "CREATE TABLE other (number INTEGER, twice AS (number * 2))"),
        ("DROP TABLE other", "CREATE TABLE other (number INTEGER CHECK (length(zeroblob(number)) > 0))"),
        ("DROP TABLE other", "CREATE TABLE other (number INTEGER DEFAULT (abs(1)))"),
        ("DROP TABLE other", "CREATE TABLE OTHER (number INTEGER)"),
    ],
    ids=[
        "a view in place of a table", "a view", "a table", "an index", "a trigger", "a virtual table", "one is missing",
        "a generated column", "a check", "a default", "another name",
    ],
)  # fmt: skip
def test_a_file_with_other_tables_or_anything_else_is_refused(path: Path, statements: tuple[str, ...]) -> None:
    try:
        made(path, *statements, schema="")
    except sqlite3.OperationalError as missing:
        pytest.skip(str(missing))
    with pytest.raises(NotAsItShouldBe, match="its tables are not those"):
        Guarded(path, SCHEMA)


def test_a_query_without_an_end_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted_sqlite, "_STEPS_MIN", 100_000)
    db = Guarded(path, SCHEMA)
    with pytest.raises(NotAsItShouldBe, match="more steps"):
        list(db.rows(f"{ENDLESS} count(*) FROM n"))
    assert list(db.rows("SELECT count(*) FROM thing")) == [(2,)], "each query has its own"
    db.close()


def test_a_file_of_many_rows_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what a file may take goes by its size
    monkeypatch.setattr(untrusted_sqlite, "_STEPS_MIN", 10_000)
    path = made(tmp_path / "many.sqlite")
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany("INSERT INTO thing VALUES (?, x'01')", ((f"{number:030}",) for number in range(50_000)))
    opened = Guarded(path, SCHEMA)
    assert sum(1 for _ in opened.rows("SELECT key, value FROM thing ORDER BY key")) == 50_000
    opened.close()


def test_a_value_that_is_too_large_is_not_read(path: Path) -> None:
    made(path, "INSERT INTO thing VALUES ('large', zeroblob(2000000))", schema="")
    db = Guarded(path, SCHEMA)
    with pytest.raises(sqlite3.DataError, match="too big"):
        list(db.rows("SELECT value FROM thing"))
    db.close()


def test_what_it_does_not_end_with_is_as_sqlite_says(path: Path) -> None:
    db = Guarded(path, SCHEMA)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        list(db.rows("SELECT * FROM missing"))
    db.close()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


CHILD = """
import sys
from pathlib import Path
from replicator.storage.untrusted_sqlite import check_is_file, head_of
for look in (lambda path: head_of(path, 100), check_is_file):
    try:
        look(Path(sys.argv[1]))
    except OSError as error:
        print(error.strerror)
"""


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
@pytest.mark.parametrize("make", [a_pipe, a_device])
def test_a_pipe_or_a_device_is_no_file(tmp_path: Path, make: Callable[[Path], None], suffix: str) -> None:
    path = tmp_path / "x.sqlite"
    if suffix:
        made(path)
    make(tmp_path / f"x.sqlite{suffix}")
    # In a process of its own: who opens a pipe may wait for ever.
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, timeout=300, check=True)
    told = done.stdout.decode().splitlines()
    assert told == ["it is not a file, but a pipe, a socket or a device"] * (1 if suffix else 2)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    for look in (check_is_file, lambda path: head_of(path, 100)):
        with pytest.raises(IsADirectoryError):
            look(tmp_path)
