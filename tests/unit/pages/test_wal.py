"""The index and the frames of a log of SQLite, as SQLite itself wrote them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from replicator.pages.wal import FRAME_HEADER_BYTES, INDEX_BYTES, Frame, WalIndex


def index_of(path: Path) -> WalIndex | None:
    return WalIndex.of(Path(f"{path}-shm").read_bytes()[:INDEX_BYTES])


def test_it_says_what_is_committed_and_of_which_log(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 1024")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (x)")
        first = index_of(path)
        assert first is not None
        assert (first.page_size, first.is_known) == (1024, True)
        db.execute("INSERT INTO t VALUES (zeroblob(5000))")
        second = index_of(path)
        assert second is not None
        assert second.follows(first)
        assert not first.follows(second)
        assert second.page_count == db.execute("PRAGMA page_count").fetchone()[0]
        log = Path(f"{path}-wal").read_bytes()
        frames = [Frame.of(log[second.place(n) :][:FRAME_HEADER_BYTES]) for n in range(1, second.frames_upto + 1)]
        assert {frame.salts for frame in frames} == {second.salts}
        assert frames[-1].count_at_commit == second.page_count
        assert len(log) == second.place(second.frames_upto + 1)
        db.execute("PRAGMA wal_checkpoint(RESTART)")
        db.execute("INSERT INTO t VALUES (1)")
        third = index_of(path)
        assert third is not None
        assert not third.follows(second)


def test_an_index_that_is_being_written_is_none(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (x)")
        data = Path(f"{tmp_path / 'db'}-shm").read_bytes()[:INDEX_BYTES]
    assert WalIndex.of(data) is not None
    assert WalIndex.of(data[:95]) is None
    assert WalIndex.of(bytes(96)) is None
    assert WalIndex.of(data[:50] + b"?" + data[51:]) is None
