"""What one node counts: `Counters`, whole numbers and seconds, and `Timings`, histograms of what its work takes.

A number is moved by whoever does that work, under a lock that it has for the work itself (the write lock, that of the
queue of saves), so counting takes no lock of its own. Whoever reads may see one a moment before another.

Times are taken only once somebody has asked for them (`watch`): a histogram begins with the first scrape, as all rates
do. A thread that writes only notes what its clock said; buckets are for the thread that saves, or that scrapes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from ..errors import name_of
from .histogram import BATCH_BOUNDS, Histogram

__all__ = ["STAGES", "Counters", "Timings", "phase"]

#: In the order in which a change goes through them.
STAGES = ("queue", "append", "apply", "standby", "save", "sync")


#: So many writes are noted at the most: what a fast primary does in half a second.
NOTED_MAX = 4096

#: Of one record: since when its callers have waited (empty: nobody did), how many changes it has, when it was sent,
#: when Redis had answered, and when it was applied (`time.monotonic`).
Write: TypeAlias = tuple[Sequence[float], int, float, float, float]


class Timings:
    """What the stages of a change take, in seconds, and how many changes a record has.

    `queue`: from the call until its record is sent; of those that share a record, each call on a thread, and once all
    that the tasks of a loop submitted together. `append`: until Redis has answered. `apply`: of a record, on every
    node. `standby`: from the writer's stamp of a change until a standby has applied it, by the clocks of two machines.
    `save`: a transaction of the checkpoint that is not synced; `sync`: one that is, or an fsync.
    """

    __slots__ = ("_adding", "_writes", "batch", "by_stage")

    def __init__(self) -> None:
        self.by_stage = {stage: Histogram() for stage in STAGES}
        self.batch = Histogram(BATCH_BOUNDS)
        self._adding = threading.Lock()
        self._writes: deque[Write] = deque()

    def wrote(self, write: Write) -> None:
        """A primary had changes appended, and applied them. The caller has the write lock."""
        self._writes.append(write)
        if len(self._writes) >= NOTED_MAX:  # the disk hangs, so nobody saves, and nobody scrapes
            self.settle()

    def settle(self) -> None:
        """Put what was noted into buckets."""
        queue, append, apply = (self.by_stage[stage].add for stage in ("queue", "append", "apply"))
        with self._adding:
            for _ in range(len(self._writes)):
                since, changes, began, there, done = self._writes.popleft()
                for each in since:
                    queue(began - each)
                if since:
                    self.batch.add(changes)
                append(there - began)
                apply(done - there)

    def followed(self, records: int, took_s: float, written_ms: Iterable[int]) -> None:
        """A standby applied records in that time; `written_ms`: the stamps of the changes among them (unix)."""
        now_ms, add = time.time() * 1000, self.by_stage["standby"].add
        with self._adding:
            self.by_stage["apply"].add(took_s / records, records)
            for at in written_ms:
                add(max(0.0, now_ms - at) / 1000)

    def saved(self, took_s: float, *, synced: bool) -> None:
        with self._adding:
            self.by_stage["sync" if synced else "save"].add(took_s)


class Forks(NamedTuple):
    """How many are kept; of the newest, when it was written (unix s), and its last record. 0 and 0-0: there is none."""

    kept: int
    newest_at: float
    newest_id: str


class Counters:
    """Since the node was made. `timings`: None as long as nobody has asked for them."""

    def __init__(self) -> None:
        self.timings: Timings | None = None
        #: Records of changes that this node appended and applied: how many, with how many changes, of how many bytes.
        #: `RecordWriter` counts them, with the write lock.
        self.appends = self.changes = self.append_bytes = 0
        #: Parts of snapshots that it appended, and their bytes.
        self.parts = self.part_bytes = 0
        #: What was refused because a term, or the lease, was over; by where that was found.
        self.fenced: Counter[str] = Counter()
        #: Calls that ended in an error, by its code.
        self.errors: Counter[str] = Counter()
        #: Those that give up have no lock.
        self._failing = threading.Lock()
        #: Snapshots sent, those that failed, and the seconds of their phases.
        self.snapshots = self.snapshot_failures = 0
        self.snapshot_s: defaultdict[str, float] = defaultdict(float)
        #: Snapshots restored, those passed by, and the seconds of their phases.
        self.restores = self.restores_passed_by = 0
        self.restore_s: defaultdict[str, float] = defaultdict(float)
        #: How long it took at the start to rebuild the state from the disk.
        self.load_s = 0.0
        #: Of the checkpoint on the disk, as it was when it was synced last.
        self.checkpoint_bytes = 0
        #: Forks on the disk, as of the start, and of the newest one since.
        self.forks = Forks(0, 0.0, "0-0")

    def watch(self) -> None:
        """Take times from now on, and have in their buckets what was noted."""
        if self.timings is None:
            self.timings = Timings()
        self.timings.settle()

    def failed(self, error: Exception, calls: int) -> None:
        """So many calls were told this."""
        with self._failing:
            self.errors[name_of(error)] += calls

    def forked(self, id: str) -> None:
        """A fork was kept, of a history up to this record."""
        self.forks = Forks(self.forks.kept + 1, time.time(), id)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """A state is restored: what is not saving or swapping is building."""
        seconds = self.restore_s
        began, others_s = time.monotonic(), seconds["save"] + seconds["swap"]
        try:
            yield
        finally:
            others_s = seconds["save"] + seconds["swap"] - others_s
            seconds["build"] += max(0.0, time.monotonic() - began - others_s)


@contextmanager
def phase(seconds: defaultdict[str, float], name: str) -> Iterator[None]:
    """Add the time of what is done inside to a phase."""
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[name] += time.monotonic() - began
