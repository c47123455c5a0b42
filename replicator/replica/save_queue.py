"""What a node saved, and what it applied and has not saved yet.

What a node read and may forget (`protocol/saving.py`), and all that a primary wrote, waits here once it is applied, and
goes to the disk together, in one transaction. What must not be forgotten takes along all that waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice

from ..errors import CheckpointError
from ..format.records import ChangeRecord, PartRecord, Record
from ..metrics.counters import Counters
from ..protocol.fold import View
from ..storage.checkpoint import Checkpoint, Step

__all__ = ["STEP_BYTES", "UNSAVED_BYTES_MAX", "SaveQueue"]

#: A standby that has more than this to save reads no more before that is done. A disk that keeps up has it in a tenth
#: of a second, and reads of the log bring 8 MiB at the most.
UNSAVED_BYTES_MAX = 16 * 1024 * 1024

#: What a step takes in memory besides its record's bytes: the objects of the record, and of the view after it.
STEP_BYTES = 2048

#: How long a standby waits for the disk before it says that it does.
PATIENCE_S = 1.0


class _Weight:
    """Of steps. `changes`: as they weigh in the log; `memory`: of all records, as long as they wait. `snapshots`: how
    many became complete.
    """

    __slots__ = ("changes", "memory", "snapshots")

    def __init__(self) -> None:
        self.changes = self.memory = self.snapshots = 0

    def add(self, record: Record) -> None:
        weighs = len(record.header)
        if isinstance(record, ChangeRecord):
            weighs += len(record.body)
            self.changes += weighs
        elif isinstance(record, PartRecord):
            weighs += len(record.body)
            self.snapshots += record.is_last
        self.memory += weighs + STEP_BYTES


class _Sent:
    """The newest snapshot whose parts waited: its bytes, and those of the changes that had been added before it."""

    __slots__ = ("before", "size")

    def __init__(self, before: int) -> None:
        self.size, self.before = 0, before


class SaveQueue:
    """A checkpoint, and the steps that wait for it. Saves happen in the order of the folds, under a lock of their own.

    `boot`: whose the checkpoint is from now on. `counters`: of the node.
    """

    def __init__(self, checkpoint: Checkpoint, *, boot: str, counters: Counters | None = None) -> None:
        self.checkpoint = checkpoint
        self._counters = counters or Counters()
        self._counters.checkpoint_bytes = checkpoint.file_bytes
        self._boot = boot
        self._disk = threading.Lock()
        self._unsaved: deque[Step] = deque()
        # Of all that ever waited, and of what of that is saved: two, because each is moved under a lock of its own.
        self._added = _Weight()
        self._saved = _Weight()
        # The one that passes by, and the newest that is complete.
        self._passing = self._complete = _Sent(0)

    def add(self, step: Step) -> None:
        """To be saved a little later. The caller holds the lock of the state."""
        if isinstance(step.record, PartRecord):
            self._weigh(step.record)
        self._unsaved.append(step)
        self._added.add(step.record)

    def _weigh(self, part: PartRecord) -> None:
        if part.part == 0:
            self._passing = _Sent(self._added.changes)
        self._passing.size += len(part.body)
        if part.is_last:
            self._complete = self._passing

    def save(self, steps: Sequence[Step], *, synced: bool = True) -> None:
        """Save what waits, and these after it."""
        with self._disk:
            self._save(steps, synced=synced)

    def _save(self, steps: Sequence[Step], *, synced: bool) -> None:
        waiting = list(islice(self._unsaved, len(self._unsaved)))
        every = [*waiting, *steps]
        if not every:
            return
        began = time.monotonic()
        self.checkpoint.save(every[-1].view, every, boot=self._boot, synced=synced)
        if (timings := self._counters.timings) is not None:
            timings.saved(time.monotonic() - began, synced=synced)
        # Not before: what is applied stays here until it is saved, and nothing that comes after it is saved without it.
        for step in waiting:
            self._unsaved.popleft()
            self._saved.add(step.record)

    def save_view(self, view: View) -> None:
        """Save what waits, and that the node knows this now."""
        with self._disk:
            self._save([], synced=False)
            self.checkpoint.save(view, [], boot=self._boot)

    def make_room(self) -> None:
        """To be called before more is read: save what waits, if that is much.

        Raises `CheckpointError` if the disk does not take it, or is still at what came before: nothing is to be read
        then. The caller holds no lock.
        """
        if self._unsaved_memory <= UNSAVED_BYTES_MAX:
            return
        if not self._disk.acquire(timeout=PATIENCE_S):
            mib = self._unsaved_memory / 1024 / 1024
            problem = f"the disk is slow: {mib:.0f} MiB wait to be saved, and nothing is read from the log before"
            raise CheckpointError(path=self.checkpoint.path, problem=problem)
        try:
            self._save([], synced=False)
        finally:
            self._disk.release()

    def flush(self) -> None:
        """Save what was applied and is not on disk yet, and sync what was saved."""
        self.save([], synced=False)
        if self._counters.timings is not None:
            self._counters.timings.settle()
        began, had_all = time.monotonic(), self.checkpoint.is_synced
        self.checkpoint.sync()
        if had_all:
            return
        if (timings := self._counters.timings) is not None:
            timings.saved(time.monotonic() - began, synced=True)
        self._counters.checkpoint_bytes = self.checkpoint.file_bytes

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
        return self._complete.size if self._snapshot_waits else self.checkpoint.payload_bytes

    @property
    def changes_bytes(self) -> int:
        """The bytes of the changes since, as they weigh in the log: headers and bodies."""
        if self._snapshot_waits:
            return self._added.changes - self._complete.before
        return self.checkpoint.changes_bytes + self._unsaved_changes

    @property
    def kept_bytes(self) -> int:
        """The same of all changes that the log has, as far as this node knows."""
        return self.checkpoint.kept_bytes + self._unsaved_changes

    @property
    def _snapshot_waits(self) -> bool:
        """Whether a complete one is not on the disk yet, which weighs the changes by the one before it."""
        return self._added.snapshots != self._saved.snapshots

    @property
    def _unsaved_changes(self) -> int:
        return max(0, self._added.changes - self._saved.changes)

    @property
    def _unsaved_memory(self) -> int:
        return max(0, self._added.memory - self._saved.memory)
