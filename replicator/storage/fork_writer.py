"""How fork files are written: a whole checkpoint is copied into `forks/`. `forks.py` reads them.

The state of a node that differs from the others' though its history is theirs is not what its checkpoint comes to: that
would be the same changes once more. So a fork may have the state itself, as a snapshot at the node's position.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from replicator.format.codec import SnapshotEncoder
from replicator.format.ids import ZERO_CHAIN, ZERO_ID, RecordId
from replicator.format.records import Closed, Opens
from replicator.format.unpacked_size import SNAPSHOT_BYTES_MAX
from replicator.storage import disk
from replicator.storage.checkpoint_file import GIVEN_UP, Payload, Run, Saved, Staged
from replicator.storage.database_files import create, discard, unused, utc_now
from replicator.storage.kept_parts import bodies_of, sealed_parts

__all__ = ["UNFINISHED", "StateInFork", "copy_database", "finish_fork", "forks_in", "id_in"]

#: What a node that was killed while it wrote one may have left.
UNFINISHED = "new.sqlite"

#: When it was written, and up to where its history goes, in the name of a fork: 20261130T181213Z-5-1042.sqlite.
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-([0-9]{1,20}-[0-9]{1,20})(?:-[0-9]+)?")


class StateInFork(NamedTuple):
    """A state, and what the library keeps beside it, both of one moment.

    `pieces`: as a snapshot has them where the group is at `version`. `snapshot_bytes_max`: what they may weigh.
    """

    pieces: Iterable[Any]
    ledger: bytes = b""
    version: int = 1
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX


def copy_database(db: sqlite3.Connection, forks: Path) -> Path:
    """Begin a fork: copy the database. There is one at a time."""
    disk.make_directory(forks)
    draft = forks / UNFINISHED
    discard(draft)  # of a process that was killed here
    create(draft)
    db.execute("VACUUM INTO ?", (str(draft),))
    return draft


def forks_in(data_dir: Path) -> tuple[int, float, str]:
    """How many forks a node has on its disk; of the newest, when it was written (unix s), and up to where it goes.

    0 and 0-0: there is none.
    """
    with contextlib.suppress(OSError):  # it is for people: no start fails for that
        found = [path for path in (data_dir / "forks").glob("*.sqlite") if path.name != UNFINISHED]
        written = {path: path.stat().st_mtime for path in found}
        if written:
            newest = max(written, key=lambda path: written[path])
            return len(written), written[newest], id_in(newest)
    return 0, 0.0, "0-0"


def id_in(path: Path) -> str:
    """The last record of the history in a fork, as `finish_fork` named it; 0-0: somebody gave it another name."""
    found = _NAME.fullmatch(path.stem)
    return found[1] if found else "0-0"


def finish_fork(
    draft: Path,
    saved: Saved,
    reason: str,
    parted_id: RecordId,
    of_state: StateInFork | None = None,
    *,
    opens: Opens = None,
) -> Path:
    """Make a fork of the copy of what is `saved`; the file in which it is, on the disk when this returns.

    `opens`: what seals the state, if the group has a key.
    """
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        if of_state is not None:
            _write_state(copy, saved, of_state, opens)
        _write_reason(copy, reason, parted_id)
    at = saved.view.position.id if saved.view else ZERO_ID
    path = unused(draft.with_name(f"{utc_now()}-{at}.sqlite"))
    disk.publish(draft, path)
    return path


def _write_reason(db: sqlite3.Connection, reason: str, parted_id: RecordId) -> None:
    # A checkpoint that was made of a fork has them already.
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("reason", reason), ("parted_id", str(parted_id))])


def _write_state(db: sqlite3.Connection, saved: Saved, of_state: StateInFork, opens: Opens) -> None:
    """Put the state in the place of the snapshot and the changes that the copy has."""
    assert saved.view is not None
    encoder = SnapshotEncoder(most=of_state.snapshot_bytes_max, ledger=of_state.ledger)
    number, run = saved.staged.number + 1, Run()
    db.execute("BEGIN")
    db.execute("DELETE FROM change")
    db.execute("DELETE FROM part")
    db.execute("DELETE FROM meta WHERE key = ?", (GIVEN_UP,))
    view = saved.view._replace(snapshot=None, version=of_state.version)
    sealer = None if opens is None or isinstance(opens, Closed) else opens.sealer
    bodies = bodies_of(encoder, of_state.pieces)
    for index, row in enumerate(bodies if sealer is None else sealed_parts(sealer, encoder, bodies, view)):
        db.execute("INSERT INTO part VALUES (?, ?, ?)", (number, index, row))
        run = run.with_row(str(index), b"", row)
    payload = Payload(
        number,
        run,
        view.position,
        view.changed,
        encoder.codec,
        encoder.digest,
        replaces=False,
        version=view.version,
        is_sealed=sealer is not None,
    )
    after = saved._replace(
        save=saved.save + 1,
        view=view,
        base=ZERO_CHAIN,
        changes=Run(),
        staged=Staged(number + 1),
        payload=payload,
    )
    db.execute("UPDATE meta SET value = ? WHERE key = 'saved'", (after.to_bytes(),))
    db.execute("COMMIT")
