"""Writing from asyncio tasks: any number of submitters on one thread.

An event loop must not wait for Redis. So everything that its tasks submit in one pass of the loop becomes one *batch*,
which goes to a thread, the *committer*. The committer takes the write lock and commits the batch in one record. The
results go back to the loop in one call for all, and the committer sleeps while the loop runs its tasks on to their next
change. Per change nothing is queued or handed from thread to thread: that makes this several times faster than as many
threads.

Nodes that share threads (`host.py`) have no committer of their own: any free thread of the host commits for a node.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .. import tracing
from ..format.codec import CHANGE_BYTES_MAX, Encoded, jsons_of
from ..format.ids import RecordId
from ..format.keyed import ENTRY_BYTES
from ..runtime.threads import started
from .commit_queue import BATCH_CHANGES_MAX, CommitQueue
from .commit_waiters import Waiting

__all__ = ["AsyncWriter"]

#: Where the changes are, and what `apply` returned for each.
Done = tuple[RecordId, list[Any]]

#: What a task asks for besides: how long it waits (s), the term that it expects, for how many standbys it waits.
_Asked = tuple[float, int | None, int]


class AsyncWriter:
    """Commits what tasks submit through a primary, for any number of event loops.

    `soon`: hands work to a thread that is shared with other nodes; None: this has a committer thread of its own.
    """

    def __init__(
        self, commits: CommitQueue, *, name: str, soon: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        self._commits = commits
        self._name = name
        self._soon = soon
        #: Whether one of the shared threads commits, or is about to.
        self._is_due = False
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        #: The loop that submitted last: hardly any process has a second one.
        self._recent: _Loop | None = None
        self._committer: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False
        #: The committer waits for this lock. It is released when there is something to commit.
        self._idle = threading.Lock()
        self._idle.acquire()

    def submit(self, encoded: Encoded, *, timeout_s: float, term: int | None, wants_acks: int) -> asyncio.Future[Done]:
        """Like `CommitQueue.submit`, but the result comes in a future of the running loop.

        Cancelling it does not withdraw the changes: they may be committed.
        """
        loop = asyncio.get_running_loop()
        tasks = self._recent
        if tasks is None or tasks.loop is not loop:
            tasks = self._recent = self._of(loop)
        return tasks.submit(encoded, (timeout_s, term, wants_acks))

    def enqueue(self, batch: _Batch) -> None:
        """Close the batch, and queue it to be committed."""
        batch.close()
        self._commits.enqueue(batch)

    def _of(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        """The tasks of this loop. Loops that were closed are forgotten."""
        if self._committer is None and self._soon is None:
            self._start()
        tasks = self._loops.get(loop)
        if tasks is None:
            for closed in [each for each in list(self._loops) if each.is_closed()]:
                self._loops.pop(closed, None)
            tasks = self._loops[loop] = _Loop(loop, self)
        return tasks

    def wake(self) -> None:
        """There is something to commit: have it done."""
        if self._closed:
            self._commits.commit_all()  # no other thread does it any more: what is queued is refused
        else:
            self._rouse()

    def _rouse(self) -> None:
        if self._soon is not None:
            if not self._is_due:  # two threads that see this at once do no harm: only one gets the write lock
                self._is_due = True
                self._soon(self._commit_soon)
        elif self._idle.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._idle.release()

    def give_up(self, batch: _Batch) -> None:
        """The time of the batch is over: end its wait."""
        batch.error = self._commits.give_up(batch)

    def close(self) -> None:
        """End the committer."""
        self._closed = True
        self._rouse()
        if self._committer is not None:
            self._committer.join(timeout=10)

    def _start(self) -> None:
        with self._starting:
            if self._committer is None:
                self._committer = started(self._commit, name=f"{self._name}-committer")

    def _commit(self) -> None:
        is_last = False
        while not is_last:
            self._idle.acquire()
            is_last = self._closed  # read before committing: what is queued after that is refused at once
            self._commits.commit_all()

    def _commit_soon(self) -> None:
        try:
            self._commits.commit_all()
        finally:
            self._is_due = False
            # A change that was queued before this line relied on this call.
            if self._commits.has_queued:
                self.wake()


class _Loop:
    """The waiting tasks of one event loop. All methods but `finished` run on the thread of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, writer: AsyncWriter) -> None:
        self.loop = loop
        self.writer = writer
        self._future = loop.create_future
        #: The batch of the present pass of the loop.
        self._open: _Batch | None = None
        self._waiting: set[_Batch] = set()
        self._finished: deque[_Batch] = deque()
        self._told = False
        #: The timer that ends waits whose time is over.
        self._looks: asyncio.TimerHandle | None = None
        #: When it fires: at the earliest deadline.
        self._looks_at = math.inf

    def submit(self, encoded: Encoded, asked: _Asked) -> asyncio.Future[Done]:
        future: asyncio.Future[Done] = self._future()
        batch = self._open
        if batch is None or batch.asked != asked or not batch.takes(encoded, future):
            batch = self._begin(asked)
            batch.add(encoded, future)
        return future

    def _begin(self, asked: _Asked) -> _Batch:
        """Open a batch; the one before it, which is full or asks for something else, is queued."""
        if self._open is None:
            self.loop.call_soon(self._hand_over)
        else:
            self.writer.enqueue(self._open)
        batch = self._open = _Batch(self, asked)
        self._waiting.add(batch)
        if batch.deadline < self._looks_at:
            self._look_at(batch.deadline)
        return batch

    def _look_at(self, when: float) -> None:
        if self._looks is not None:
            self._looks.cancel()
        self._looks_at = when
        self._looks = self.loop.call_later(max(0.0, when - time.monotonic()), self._look)

    def _hand_over(self) -> None:
        batch, self._open = self._open, None
        assert batch is not None
        self.writer.enqueue(batch)
        self.writer.wake()

    def finished(self, batch: _Batch) -> None:
        """Tell its tasks soon, together with those of all batches that finish meanwhile. Any thread may call this."""
        self._finished.append(batch)
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop was closed under its tasks
                self.loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False
        while self._finished:
            self._end(self._finished.popleft())

    def _end(self, batch: _Batch) -> None:
        self._waiting.discard(batch)
        batch.tell()

    def _look(self) -> None:
        """End the waits whose time is over, and set the timer for the next."""
        now = time.monotonic()
        for batch in [each for each in self._waiting if each.deadline <= now and not each.done]:
            self.writer.give_up(batch)
            self._end(batch)
        self._looks, self._looks_at = None, math.inf
        # Batches that are done are told in a moment, so they need no timer.
        waiting = [batch.deadline for batch in self._waiting if not batch.done]
        if waiting:
            self._look_at(min(waiting))


class _Batch(Waiting):
    """Changes of tasks that ask for the same, with a future for each task. All go into one record, or none does."""

    __slots__ = ("_encoded", "_futures", "_loop", "_more", "_size", "asked")

    def __init__(self, loop: _Loop, asked: _Asked) -> None:
        timeout_s, term, wants_acks = self.asked = asked
        now = time.monotonic()
        super().__init__(Encoded(b"", []), term, wants_acks=wants_acks, deadline=now + timeout_s, since=now)
        self._loop = loop
        self._encoded: list[Encoded] = []
        #: The future of each task, with the number of its changes.
        self._futures: list[tuple[asyncio.Future[Done], int]] = []
        self._size = 2
        #: What those without keys take on top, if one has a key.
        self._more = 0

    def takes(self, encoded: Encoded, future: asyncio.Future[Done]) -> bool:
        """Add it if there is room; whether there was."""
        json, changes, keyed = encoded
        size = self._size + len(json)
        if self.keyed or keyed:
            size += self._more + (0 if keyed else ENTRY_BYTES * len(changes))
        if size >= CHANGE_BYTES_MAX or len(self.changes) + len(changes) > BATCH_CHANGES_MAX:
            return False
        self.add(encoded, future)
        return True

    def add(self, encoded: Encoded, future: asyncio.Future[Done]) -> None:
        json, changes, keyed = encoded
        self._encoded.append(encoded)
        self._size += len(json) + 1
        self.changes += changes
        self._futures.append((future, len(changes)))
        if tracing.active is not None:
            self.traced += tracing.active.carried()
        if keyed:
            self.keyed = True
        else:
            self._more += ENTRY_BYTES * len(changes)

    @property
    def calls(self) -> Sequence[tuple[int, int]]:
        starts = itertools.accumulate((count for _, count in self._futures), initial=0)
        return [(start, count) for start, (_, count) in zip(starts, self._futures, strict=False)]

    def close(self) -> None:
        self.json = b",".join(jsons_of(self._encoded, keyed=self.keyed))

    def wake(self) -> None:
        self._loop.writer.wake()

    def finish(self) -> None:
        self.done = True
        self._loop.finished(self)

    def tell(self) -> None:
        """Set the results of the futures. A task that was cancelled gets none."""
        id_, results, error = self.id, self.results, self.error
        start = 0
        for future, count in self._futures:
            end = start + count
            if not future.done():
                if error is None:
                    future.set_result((id_, results[start:end]))
                else:
                    future.set_exception(error)
            start = end
