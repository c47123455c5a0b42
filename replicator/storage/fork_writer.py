"""How fork files are written: a whole checkpoint is copied into `forks/`. `forks.py` reads them."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from replicator.format.ids import RecordId
from replicator.storage import disk
from replicator.storage.database_files import create, discard, unused, utc_now

__all__ = ["UNFINISHED", "write_fork"]

#: What a node that was killed while it wrote one may have left.
UNFINISHED = "new.sqlite"


def write_fork(db: sqlite3.Connection, forks: Path, at: RecordId, reason: str, parted_id: RecordId) -> Path:
    """Copy the database, which is at `at`; the file in which the copy is, on the disk when this returns."""
    disk.make_directory(forks)
    draft = forks / UNFINISHED
    discard(draft)  # of a process that was killed here
    create(draft)
    db.execute("VACUUM INTO ?", (str(draft),))
    _write_reason(draft, reason, parted_id)
    path = unused(forks / f"{utc_now()}-{at}.sqlite")
    disk.publish(draft, path)
    return path


def _write_reason(path: Path, reason: str, parted_id: RecordId) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        # A checkpoint that was made of a fork has them already.
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("reason", reason), ("parted_id", str(parted_id))])
