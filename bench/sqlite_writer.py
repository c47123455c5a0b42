"""The program of the benchmark of SQLite: transactions at a steady rate, on a database that is replicated and on one
that is not, in turns; and the reader that says when a standby had them.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bench.harness import now_ns

__all__ = ["RATE", "ROW_BYTES", "Committed", "Seen", "found_database", "read_standby", "write"]

#: Transactions a second.
RATE = 10

#: Of a row, in hex digits, which compress by half; four rows or so have a page.
ROW_BYTES = 900

#: How soon the reader looks again.
LOOK_S = 0.004

#: The reader does not end before it has seen something newer than at the beginning, or waited so long for it.
NEWER_WITHIN_S = 60.0


@dataclass(frozen=True)
class Committed:
    """A transaction: when its COMMIT had returned, and how long that took. `replicated`: on which of the two."""

    number: int
    at_ns: int
    took_s: float
    replicated: bool


#: The newest number that a reader found, and when it had read it.
Seen = tuple[int, int]


def found_database(path: Path, mode: str, mb: float) -> None:
    """A database of so many MB, in a journal mode."""
    rows = int(mb * 1e6 / (ROW_BYTES * 1.15))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode = {mode}")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("CREATE TABLE newest (id INTEGER PRIMARY KEY, number INTEGER)")
        db.execute("INSERT INTO newest VALUES (1, 0)")
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, value BLOB)")
        db.execute(
            "WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < ?) "
            "INSERT INTO item SELECT id, hex(randomblob(?)) FROM n",
            (rows, ROW_BYTES // 2),
        )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def write(pipe: Connection, replicated: Path, alone: Path) -> None:
    """The process of the program. Told how many seconds, it works for so long, and sends what it committed."""
    with closing(_opened(replicated)) as ours, closing(_opened(alone)) as other:
        number = 0
        pipe.send("ready")
        while (seconds := pipe.recv()) is not None:
            done: list[Committed] = []
            began = time.monotonic()
            while (now := time.monotonic()) < began + seconds:
                number += 1
                # The one that is first would have the colder caches.
                turns: Sequence[tuple[sqlite3.Connection, bool]] = ((ours, True), (other, False))
                for db, is_ours in turns if number % 2 else turns[::-1]:
                    done.append(_transaction(db, number, is_ours))
                time.sleep(max(0.0, now + 1 / RATE - time.monotonic()))
            pipe.send(done)


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=60.0)


def _transaction(db: sqlite3.Connection, number: int, replicated: bool) -> Committed:
    ((rows,),) = db.execute("SELECT max(id) FROM item").fetchall()
    db.execute("BEGIN IMMEDIATE")
    half, any_row = ROW_BYTES // 2, random.randint(1, rows)
    db.execute("UPDATE item SET value = hex(randomblob(?)) WHERE id = ?", (half, any_row))
    db.execute("INSERT INTO item (value) VALUES (hex(randomblob(?)))", (half,))
    db.execute("UPDATE newest SET number = ?", (number,))
    began = time.perf_counter()
    db.execute("COMMIT")
    took_s = time.perf_counter() - began
    return Committed(number, now_ns(), took_s, replicated)


def read_standby(pipe: Connection, path: Path, immutable: bool) -> None:
    """The process of the reader of a standby. Told to begin, it notes what it sees, until it is told to end.

    `immutable`: the file is one that programs do not use, and that nobody locks.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    pipe.send("ready")
    while pipe.recv() is not None:
        pipe.send(_seen_until_told(pipe, uri))


def _seen_until_told(pipe: Connection, uri: str) -> list[Seen]:
    seen: list[Seen] = []
    told_at: float | None = None
    while told_at is None or (len(seen) < 2 and time.monotonic() < told_at + NEWER_WITHIN_S):
        number = _newest(uri)
        if number and (not seen or number > seen[-1][0]):
            seen.append((number, now_ns()))
        if told_at is not None:
            time.sleep(LOOK_S)
        elif pipe.poll(LOOK_S):
            pipe.recv()
            told_at = time.monotonic()
    return seen


def _newest(uri: str) -> int:
    with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True, timeout=10.0)) as db:
        found = db.execute("SELECT number FROM newest").fetchone()
        return int(found[0]) if found else 0
    return 0
