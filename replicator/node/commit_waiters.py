"""The entries of the commit queue: changes that wait to be committed, each with the caller that waits for it.

`commit_queue.py` has the queue. A submitter that finds the write lock taken appends its entry, and the thread that
holds the lock commits many entries in one record (*group commit*). An entry carries the changes into the record, and
the results, or the error, back.

How a caller waits is its own affair, so entries are of two kinds: a `Sleeper` is a thread, asleep on a lock of its own;
a batch of asyncio tasks (`async_writer.py`) is told through its event loop. The queue knows only `Waiting`: `finish` is
called when the outcome is known, and `wake` on the first entry in the queue when the write lock is free, so that its
submitter commits for all.

An entry is all or nothing: its changes go into one record, but for those that the application refused before it was
written (`change_check.py`), which are *withheld* and have their results already. Each has a deadline of its own. An
entry that is given up while it is still in the queue is removed, so nothing is written; if its record is under way,
nobody knows, and the caller is told so.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..errors import ChangeRejected, CheckFailed, ReplicatorError
from ..format.codec import Encoded
from ..format.ids import ZERO_ID, RecordId
from ..format.keyed import members

__all__ = ["Sleeper", "Waiting", "finish"]


class Waiting:
    """Changes in the queue that go into one record, and what became of them."""

    __slots__ = (
        "changes",
        "deadline",
        "done",
        "error",
        "id",
        "json",
        "keyed",
        "results",
        "since",
        "term",
        "traced",
        "wants_acks",
        "withheld",
    )  # fmt: skip

    def __init__(
        self, encoded: Encoded, term: int | None, *, wants_acks: int, deadline: float = math.inf, since: float = 0.0
    ) -> None:
        self.json, self.changes, self.keyed = encoded
        #: When they were submitted (`time.monotonic`).
        self.since = since
        #: In which spans they were (`tracing.Tracing.carried`).
        self.traced: tuple[Any, ...] = ()
        #: When their submitter wants to be told (`time.monotonic`), whatever became of them.
        self.deadline = deadline
        #: For so many standbys they wait.
        self.wants_acks = wants_acks
        #: Of their record, once it is in the log.
        self.id = ZERO_ID
        #: The term that their submitter knows, if it said so.
        self.term = term
        self.done = False
        self.results: list[Any] = []
        self.error: ReplicatorError | None = None
        #: What is not written, by its place among the changes, and why.
        self.withheld: dict[int, ChangeRejected | CheckFailed] = {}

    @property
    def calls(self) -> Sequence[tuple[int, int]]:
        """Where the changes of each call begin, and how many they are."""
        return ((0, len(self.changes)),)

    @property
    def count(self) -> int:
        """How many changes are written."""
        return len(self.changes) - len(self.withheld)

    @property
    def to_write(self) -> Encoded:
        """What goes into the record."""
        if not self.withheld:
            return Encoded(self.json, self.changes, self.keyed)
        left = [index for index in range(len(self.changes)) if index not in self.withheld]
        jsons = list(members(self.json))
        return Encoded(b",".join(jsons[index] for index in left), [self.changes[index] for index in left], self.keyed)

    def with_withheld(self, results: list[Any]) -> list[Any]:
        """A result for every change, given those of what was written."""
        if not self.withheld:
            return results
        written = iter(results)
        return [self.withheld[index] if index in self.withheld else next(written) for index in range(len(self.changes))]

    def wake(self) -> None:
        """It is the first in the queue, and nobody has the write lock."""
        raise NotImplementedError

    def finish(self) -> None:
        """There are results, or an error."""
        raise NotImplementedError

    @property
    def outcome(self) -> tuple[RecordId, list[Any]]:
        if self.error is not None:
            raise self.error
        return self.id, self.results


class Sleeper(Waiting):
    """Its submitter is a thread, which sleeps on a lock that the others release."""

    __slots__ = ("_asleep", "has_lock")

    def __init__(
        self, encoded: Encoded, term: int | None, *, wants_acks: int, deadline: float, since: float = 0.0
    ) -> None:
        super().__init__(encoded, term, wants_acks=wants_acks, deadline=deadline, since=since)
        #: It commits for all, and is awake.
        self.has_lock = False
        #: None: it does not sleep.
        self._asleep: threading.Lock | None = None

    def may_sleep(self) -> None:
        """Before it is queued: it can be woken from now on."""
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self, timeout_s: float) -> None:
        assert self._asleep is not None
        self._asleep.acquire(timeout=timeout_s)

    def wake(self) -> None:
        if self._asleep is not None and self._asleep.locked():
            with suppress(RuntimeError):  # another one was faster
                self._asleep.release()

    def finish(self) -> None:
        self.done = True
        if not self.has_lock:
            self.wake()


def finish(batch: Sequence[Waiting], id_: RecordId, results: list[Any], error: ReplicatorError | None) -> None:
    """Tell all whose changes went into one record: its id, and each its own of the results, or the error.

    Of whom nothing was to be written, the error says nothing: that is answered.
    """
    start = 0
    for waiting in batch:
        end = start + (count := len(waiting.changes) - len(waiting.withheld))
        answered = bool(waiting.withheld) and not count
        waiting.id, waiting.error = id_, None if answered else error
        own = results[start:end] if waiting.error is None else []
        waiting.results = waiting.with_withheld(own) if waiting.withheld and waiting.error is None else own
        waiting.finish()
        start = end
