"""How fork files are written: a whole checkpoint is copied into `forks/`. `forks.py` reads them.

The state of a node that differs from the others' though its history is theirs is not what its checkpoint comes to: that
would be the same changes once more. So a fork may have the state itself, as a snapshot at the node's position.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from replicator.format.codec import SnapshotEncoder
from replicator.format.ids import ZERO_CHAIN, RecordId
from replicator.format.snapshot_parts import Cutter
from replicator.storage import disk
from replicator.storage.checkpoint_file import GIVEN_UP, Payload, Run, Saved, Staged
from replicator.storage.database_files import create, discard, unused, utc_now

__all__ = ["UNFINISHED", "StateInFork", "write_fork"]

#: What a node that was killed while it wrote one may have left.
UNFINISHED = "new.sqlite"


class StateInFork(NamedTuple):
    """The pieces of a state, at the position of what is `saved`."""

    saved: Saved
    pieces: Iterable[Any]


def write_fork(
    db: sqlite3.Connection,
    forks: Path,
    at: RecordId,
    reason: str,
    parted_id: RecordId,
    of_state: StateInFork | None = None,
) -> Path:
    """Copy the database, which is at `at`; the file in which the copy is, on the disk when this returns."""
    disk.make_directory(forks)
    draft = forks / UNFINISHED
    discard(draft)  # of a process that was killed here
    create(draft)
    db.execute("VACUUM INTO ?", (str(draft),))
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        if of_state is not None:
            _write_state(copy, of_state)
        _write_reason(copy, reason, parted_id)
    path = unused(forks / f"{utc_now()}-{at}.sqlite")
    disk.publish(draft, path)
    return path


def _write_reason(db: sqlite3.Connection, reason: str, parted_id: RecordId) -> None:
    # A checkpoint that was made of a fork has them already.
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("reason", reason), ("parted_id", str(parted_id))])


def _write_state(db: sqlite3.Connection, of_state: StateInFork) -> None:
    """Put the pieces in the place of the snapshot and the changes that the copy has."""
    saved = of_state.saved
    assert saved.view is not None
    number, run, encoder = saved.staged.number + 1, Run(), SnapshotEncoder()
    db.execute("BEGIN")
    db.execute("DELETE FROM change")
    db.execute("DELETE FROM part")
    db.execute("DELETE FROM meta WHERE key = ?", (GIVEN_UP,))
    for index, body in enumerate(_bodies(encoder, of_state.pieces)):
        db.execute("INSERT INTO part VALUES (?, ?, ?)", (number, index, body))
        run = run.with_row(str(index), b"", body)
    view = saved.view
    payload = Payload(number, run, view.position, view.changed, encoder.codec, encoder.digest, replaces=False)
    after = saved._replace(
        save=saved.save + 1,
        view=view._replace(snapshot=None),
        base=ZERO_CHAIN,
        changes=Run(),
        staged=Staged(number + 1),
        payload=payload,
    )
    db.execute("UPDATE meta SET value = ? WHERE key = 'saved'", (after.to_bytes(),))
    db.execute("COMMIT")


def _bodies(encoder: SnapshotEncoder, pieces: Iterable[Any]) -> Iterator[bytes]:
    cutter = Cutter()
    for piece in pieces:
        yield from cutter.feed(encoder.feed(piece))
    yield from cutter.feed(encoder.finish())
    yield cutter.finish()
