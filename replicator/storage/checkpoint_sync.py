"""When the checkpoint is synced: which saves outlive a power cut, and what can be said after an fsync that failed.

No kill undoes a save: it is with the system when it returns. A save that must outlive a power cut is *synced*:
synchronous=FULL makes that one fsync, which takes longer than all else that happens to a change. Other saves are on the
disk after the next synced one, or after `sync_wal`. A power cut takes the newest of them, in order, and never a part of
one: the node comes back a moment earlier, and reads the rest from the log. What must not be forgotten (a term, what was
vouched for) is synced; which records say such things is told in `protocol/saving.py`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from replicator.errors import CheckpointError
from replicator.runtime.process import keep_for_ever
from replicator.storage import disk
from replicator.storage.database_files import connect
from replicator.storage.disk_errors import lost_writes, translated

__all__ = ["SyncedDatabase"]


class SyncedDatabase:
    """A connection whose transactions are synced or not. Under its owner's `mutex`, but for `sync_wal`."""

    def __init__(self, path: Path, mutex: AbstractContextManager[object]) -> None:
        self._path = path
        self.wal = Path(f"{path}-wal")
        self._mutex = mutex
        self._db: sqlite3.Connection | None = None
        self._syncs = True
        #: Why nothing that is synced from now on can be vouched for.
        self._lost = ""

    def open(self) -> None:
        self._db = connect(self._path)
        # Of a process that was killed: its last saves are with the system, and perhaps not on the disk yet.
        with contextlib.suppress(FileNotFoundError):
            disk.sync(self.wal)

    @property
    def connection(self) -> sqlite3.Connection:
        """Raises `CheckpointError` unless it is open."""
        if self._db is None:
            raise CheckpointError(path=self._path, problem="it was closed")
        return self._db

    @contextlib.contextmanager
    def transaction(self, *, synced: bool) -> Iterator[sqlite3.Connection]:
        if synced:
            self.check_trusted()
        with translated(self._path):
            db = self.connection
            if synced is not self._syncs:
                db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                self._syncs = synced
            db.execute("BEGIN")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                self._distrust(error)
                if db.in_transaction:  # SQLite rolls back by itself after some errors
                    db.execute("ROLLBACK")
                raise

    def sync_wal(self) -> bool:
        """Have all that was written so far on the disk. Whether it is still open: closing it moves all out of the WAL.

        Others save meanwhile: a standby would wait for the disk here, and whoever waits for the standby with it. What
        SQLite has moved out of the WAL by now, it has synced itself.
        """
        with translated(self._path):
            try:
                disk.sync(self.wal)
            except OSError as error:
                with self._mutex:
                    if self._db is None:  # it was closed meanwhile: that deletes the WAL
                        return False
                    self._distrust(error)
                raise
        return True

    def check_trusted(self) -> None:
        """Raises `CheckpointError` once nothing can be vouched for any more."""
        if self._lost:
            raise CheckpointError(path=self._path, problem=self._lost)

    def _distrust(self, error: BaseException) -> None:
        """Vouch for nothing more if what failed was an fsync.

        The system then drops what it could not write, and calls the next fsync a success.
        """
        if lost_writes(error):
            hint = "give this node an empty data directory on another disk: it rebuilds itself from the log"
            self._lost = f"what was written before may be lost ({error}); {hint}"

    def close(self) -> None:
        try:
            if self._db is not None:
                self._db.close()
        finally:
            self._db = None

    def let_go(self) -> None:
        """In a forked child: never free the connection (`checkpoint.py`)."""
        if self._db is not None:
            keep_for_ever(self._db)
