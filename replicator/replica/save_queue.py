"""What a node saved, and what it folded and has not saved yet."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from ..format.records import ChangeRecord, Record
from ..storage.checkpoint import Checkpoint, Step

__all__ = ["SaveQueue"]


class SaveQueue:
    """A checkpoint, and the steps that wait for it. Saves happen in the order of the folds, under a lock of their own.

    `boot`: whose the checkpoint is from now on.
    """

    def __init__(self, checkpoint: Checkpoint, *, boot: str) -> None:
        self.checkpoint = checkpoint
        self._boot = boot
        self._disk = threading.Lock()
        self._unsaved: deque[Step] = deque()
        # Bytes of changes, since the start: two counters, because each is moved under a lock of its own.
        self._committed_bytes = self._saved_bytes = 0

    def add(self, step: Step) -> None:
        """To be saved a little later. The caller holds the lock of the state."""
        self._unsaved.append(step)
        self._committed_bytes += _change_bytes(step.record)

    def save(self, steps: Sequence[Step], *, synced: bool = True) -> None:
        """Save what waits, and these after it."""
        with self._disk:
            every = [self._unsaved.popleft() for _ in range(len(self._unsaved))]
            every.extend(steps)
            if not every:
                return
            try:
                self.checkpoint.save(every[-1].view, every, boot=self._boot, synced=synced)
            except BaseException:
                # What a standby read it will read again; what was committed here is nowhere else on this node.
                self._unsaved.extendleft(reversed(every[: len(every) - len(steps)]))
                raise
            self._saved_bytes += sum(_change_bytes(step.record) for step in every[: len(every) - len(steps)])

    def flush(self) -> None:
        """Save what was committed and is not on disk yet, and sync what was saved."""
        self.save([])
        self.checkpoint.sync()

    @property
    def is_flushed(self) -> bool:
        """Whether `flush` has nothing to do."""
        return not self._unsaved and self.checkpoint.is_synced

    def tidy(self) -> bool:
        """Delete a slice of what is not needed any more on the disk; whether there is more."""
        return self.checkpoint.tidy()

    @property
    def is_tidy(self) -> bool:
        """Whether `tidy` has nothing to do."""
        return self.checkpoint.is_tidy

    @property
    def snapshot_bytes(self) -> int:
        """The compressed bytes of the newest snapshot; 0: there is none."""
        return self.checkpoint.payload_bytes

    @property
    def changes_bytes(self) -> int:
        """The bytes of the changes since, as they weigh in the log: headers and bodies."""
        return self.checkpoint.changes_bytes + self._unsaved_bytes

    @property
    def kept_bytes(self) -> int:
        """The same of all changes that the log has, as far as this node knows."""
        return self.checkpoint.kept_bytes + self._unsaved_bytes

    @property
    def _unsaved_bytes(self) -> int:
        return max(0, self._committed_bytes - self._saved_bytes)


def _change_bytes(record: Record) -> int:
    return len(record.header) + len(record.body) if isinstance(record, ChangeRecord) else 0
