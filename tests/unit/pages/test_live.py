"""A database that is read becomes another one in place: whole or not at all, and every reader sees it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from replicator.format.pages import canonical
from replicator.pages import live
from replicator.pages.live import Left, NotAsLeft, catch_up, journal_of
from replicator.storage import disk
from tests.support.kv import PATIENCE_S


def opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)
    db.execute("PRAGMA synchronous = OFF")
    return db


def pages_of(path: Path, size: int = 4096) -> dict[int, bytes]:
    data = path.read_bytes()
    return {n + 1: canonical(n + 1, data[n * size : (n + 1) * size]) for n in range(len(data) // size)}


class Standby:
    """A copy of a database that programs read, and what follows it. Its descriptor is never closed."""

    def __init__(self, source: Path, path: Path) -> None:
        self.source, self.path = source, path
        path.write_bytes(source.read_bytes())
        self._file = path.open("rb", buffering=0)
        self.pages = pages_of(source)
        self.left = Left(self.header(), self.pages[1][40:44])

    def header(self) -> bytes:
        self._file.seek(0)
        return self._file.read(100)

    def changed(self) -> tuple[dict[int, bytes], int]:
        now = pages_of(self.source)
        pages = {number: page for number, page in now.items() if number == 1 or self.pages.get(number) != page}
        return pages, len(now)

    def follow(self) -> None:
        pages, count = self.changed()
        self.left = catch_up(self.path, self.left, pages, count, header_of=self.header)
        self.pages = pages_of(self.source)


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Standby]:
    with closing(opened(tmp_path / "source")) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (value) VALUES (?)", [("x" * 300,)] * 300)
        db.execute("COMMIT")
    it = Standby(tmp_path / "source", tmp_path / "theirs")
    yield it
    it._file.close()


STEPS = (
    "UPDATE t SET value = 'y' WHERE id % 50 = 3",
    "INSERT INTO t (value) SELECT hex(randomblob(2000)) FROM t",
    "CREATE TABLE u AS SELECT * FROM t LIMIT 10",
    "ALTER TABLE t ADD COLUMN more",
    "DELETE FROM t WHERE id > 20",
    "VACUUM",
    "DROP TABLE u",
    "CREATE TABLE v (x)",
)


def test_programs_that_have_it_open_see_each_step(standby: Standby) -> None:
    everything = "SELECT * FROM t ORDER BY id", "SELECT name, sql FROM sqlite_master ORDER BY name"
    with closing(opened(standby.source)) as db, closing(opened(standby.path)) as reader:
        for step in STEPS:
            db.execute(step)
            standby.follow()
            for query in everything:
                assert reader.execute(query).fetchall() == db.execute(query).fetchall(), step
            assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert not standby.path.with_name("theirs-journal").exists()
            assert pages_of(standby.path).keys() == standby.pages.keys()


def test_one_that_reads_is_not_disturbed_and_it_is_tried_again(
    standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "BUSY_S", 0.01)
    with closing(opened(standby.source)) as db, closing(opened(standby.path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (300,)
        db.execute("DELETE FROM t WHERE id = 1")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            standby.follow()
        # others go on, too: nothing waits beside it
        with closing(opened(standby.path)) as other:
            assert other.execute("SELECT count(*) FROM t").fetchone() == (300,)
        reader.execute("COMMIT")
        standby.follow()
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (299,)


def test_what_somebody_else_wrote_is_left_alone(standby: Standby) -> None:
    with closing(opened(standby.source)) as db, closing(opened(standby.path)) as other:
        db.execute("DELETE FROM t WHERE id = 1")
        other.execute("DELETE FROM t WHERE id = 2")
        with pytest.raises(NotAsLeft):
            standby.follow()
        assert other.execute("SELECT count(*) FROM t WHERE id IN (1, 2)").fetchone() == (1,)
        other.execute("PRAGMA journal_mode = WAL")
        with pytest.raises(NotAsLeft):
            standby.follow()


def test_a_program_sees_a_table_though_the_counters_of_the_schema_are_not_the_same_here(standby: Standby) -> None:
    # given a database that was restored into: its counter of the schema is ahead
    with closing(opened(standby.path)) as db:
        (version,) = db.execute("PRAGMA schema_version").fetchone()
        db.execute(f"PRAGMA schema_version = {version + 1}")
    standby.left = standby.left._replace(header=standby.header())
    with closing(opened(standby.source)) as db, closing(opened(standby.path)) as reader:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (300,)
        # when the other one gets there, too
        db.execute("CREATE TABLE u (x)")
        standby.follow()
        assert reader.execute("SELECT name FROM sqlite_master").fetchall() == [("t",), ("u",)]
        assert reader.execute("SELECT * FROM u").fetchall() == []


def test_a_journal_counts_only_once_all_of_it_is_on_the_disk(standby: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    synced = disk.sync_descriptor

    def noting(descriptor: int) -> None:
        synced(descriptor)
        found.append(standby.path.with_name("theirs-journal").read_bytes())

    with closing(opened(standby.source)) as db:
        db.execute("UPDATE t SET value = 'y'")
    monkeypatch.setattr(disk, "sync_descriptor", noting)
    standby.follow()
    records, whole = found[:2]
    assert records[:512] == bytes(512)
    assert (len(records), records[512:]) == (len(whole), whole[512:])
    assert whole[:512] != bytes(512)


@pytest.mark.parametrize("at", ["no header", "header", "half of the pages"])
def test_killed_at_any_moment_it_is_the_one_or_the_other(standby: Standby, at: str) -> None:
    with closing(opened(standby.source)) as db:
        before = db.execute("SELECT * FROM t").fetchall()
        db.execute("UPDATE t SET value = hex(randomblob(200))")
        db.execute("INSERT INTO t (value) SELECT value FROM t")
        after = db.execute("SELECT * FROM t").fetchall()
    # given what a kill leaves: a journal, and pages that were written already
    pages, count = standby.changed()
    first = live._first_page(standby.left, pages[1])
    header, records = journal_of({**pages, 1: first}, count, 4096)
    standby.path.with_name("theirs-journal").write_bytes((bytes(512) if at == "no header" else header) + records)
    if at == "half of the pages":
        with standby.path.open("r+b") as file:
            for number in list(pages)[1::2]:
                file.seek((number - 1) * 4096)
                file.write(pages[number])
    # whoever comes first
    with closing(opened(standby.path)) as reader:
        assert reader.execute("SELECT * FROM t").fetchall() == (before if at == "no header" else after)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
