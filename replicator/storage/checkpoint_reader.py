"""A checkpoint at rest, which nobody writes any more: a fork, or a copy. It stays as it is."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from replicator.errors import CheckpointError, CorruptRecord
from replicator.format.ids import ZERO_ID, RecordId
from replicator.format.records import CLOSED, ChangeRecord, Opens, is_private
from replicator.format.unpacked_size import SNAPSHOT_BYTES_MAX
from replicator.protocol.fold import View
from replicator.storage.checkpoint_file import (
    Damaged,
    Payload,
    as_damage,
    base_version_of,
    bodies_in,
    changes_in,
    opened,
    with_digest,
)
from replicator.storage.keyring import Keys

__all__ = ["CheckpointReader", "DamagedCheckpoint"]


class DamagedCheckpoint(CheckpointError):
    """{path}: it is damaged: {problem}"""


class CheckpointReader:
    """A checkpoint that nobody writes: a fork, or a copy. Checked as a whole when it is opened, and left as it is.

    `snapshot_bytes_max`: what its snapshot may weigh when it is unpacked (`format/unpacked_size.py`). `keys`: those of
    the group, if it has some. `is_closed`: only what is not sealed is asked for.
    """

    def __init__(
        self,
        path: Path,
        *,
        snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
        keys: Keys | None = None,
        is_closed: bool = False,
    ) -> None:
        """Raises `DamagedCheckpoint`, or `CheckpointError` if it is not ours or cannot be read."""
        self.path = path
        self.snapshot_bytes_max = snapshot_bytes_max
        with self._translated():
            self._db, self._saved, self._left = opened(path)
        group = self._saved.group
        self._opens: Opens = CLOSED if is_closed else keys.of(group) if keys is not None else None
        if not is_closed:
            try:
                self._saved = with_digest(self._saved, self._rows, self._left.changes, path, self._opens)
            except BaseException:
                self._db.close()
                raise

    @property
    def group(self) -> str:
        return self._saved.group

    @property
    def is_private(self) -> bool:
        """Whether the group has a key."""
        return is_private(self._opens)

    @property
    def node(self) -> str:
        return self._saved.node

    @property
    def view(self) -> View:
        """As of its last save; a node that never saved anything knows nothing."""
        return self._saved.view or View()

    @property
    def payload(self) -> Payload | None:
        """What is known of its newest complete snapshot."""
        return self._saved.payload

    def note(self, key: str) -> str | None:
        """A text that was left beside what a node saves: why there is a fork, for example."""
        found = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return found[0][0] if found and isinstance(found[0][0], str) else None

    @property
    def base_version(self) -> int:
        """The version that the group was at at that snapshot; at the beginning of the log, if there is none."""
        payload = self._saved.payload
        return payload.version if payload is not None else base_version_of(self.view, self.changes)

    def pieces(self) -> Iterator[Any]:
        """The pieces of its newest complete snapshot; none if it has no snapshot. Raises `DamagedCheckpoint`."""
        payload = self._saved.payload
        if payload is None:
            return
        try:
            yield from payload.pieces(self.bodies(), snapshot_bytes_max=self.snapshot_bytes_max)
        except CorruptRecord as problem:
            raise DamagedCheckpoint(path=self.path, problem=f"its snapshot cannot be decoded ({problem})") from None

    def ledger(self) -> bytes:
        """What the library keeps beside the state in that snapshot. Raises `DamagedCheckpoint`."""
        try:
            return b"" if self.payload is None else self.payload.ledger(self.bodies())
        except CorruptRecord as problem:
            raise DamagedCheckpoint(path=self.path, problem=f"its snapshot cannot be decoded ({problem})") from None

    def bodies(self) -> Iterator[bytes]:
        """The bodies of the parts of that snapshot."""
        payload = self._saved.payload
        if payload is None:
            return iter(())
        return bodies_in(self._rows, payload.number, payload.run.rows, self.path, opens=self._opens)

    def changes(self, after: RecordId = ZERO_ID) -> Iterator[ChangeRecord]:
        """The changes since that snapshot, in order; only those after `after`. Raises `DamagedCheckpoint`."""
        try:
            yield from changes_in(self._rows, max(after, self._left.changes), opens=self._opens)
        except CorruptRecord as problem:
            # Whoever made it made its hashes as well.
            raise DamagedCheckpoint(path=self.path, problem=problem) from None

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._translated(), as_damage():
            return list(self._db.rows(query, values))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Damaged as problem:
            raise DamagedCheckpoint(path=self.path, problem=problem) from None
        except sqlite3.Error as error:
            raise CheckpointError(path=self.path, problem=error) from error
        except OSError as error:
            raise CheckpointError(path=self.path, problem=error.strerror or error) from error

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
