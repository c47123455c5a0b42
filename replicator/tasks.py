"""Writing from asyncio tasks: as many submitters as there are tasks, on one thread.

An event loop must not wait for Redis. So the tasks queue their changes, and a thread of their own, the *committer*,
takes the turn for them and commits all that is queued in one record. What comes of it goes back to the loop in one call
for all, and while the loop runs its tasks on to their next change, the committer sleeps: nothing is handed from thread
to thread for each change, which is what makes this several times faster than as many threads.

Nodes that share threads (`host.py`) have no committer each. Theirs go round: whoever is free commits for a node.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .core.codec import Encoded
from .core.ids import RecordId
from .primary import Primary, Waiting

__all__ = ["Tasks"]

#: Where the changes are, and what `apply` returned for each.
Done = tuple[RecordId, list[Any]]

#: How often the tasks of a loop are looked through for those that have waited too long.
LOOK_EVERY_S = 0.1


class Tasks:
    """The tasks that write through a primary, of any number of event loops.

    `soon`: has something done by a thread that commits for others as well, if it is not to be one of its own.
    """

    def __init__(
        self, primary: Primary, *, name: str, soon: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        self._primary = primary
        self._name = name
        self._soon = soon
        #: One of those threads commits, or will.
        self._is_due = False
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()
        #: The loop that was here last: hardly any process has a second one.
        self._recent: _Loop | None = None
        self._committer: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False
        #: Free while there is something to commit.
        self._idle = threading.Lock()
        self._idle.acquire()

    def submit(self, encoded: Encoded, *, timeout_s: float, term: int | None, wants_acks: bool) -> asyncio.Future[Done]:
        """As `Primary.submit`, but what comes of it comes in a future of the running loop.

        Who cancels it leaves the changes where they are: they may be committed.
        """
        if self._committer is None and self._soon is None:
            self._start()
        loop = asyncio.get_running_loop()
        tasks = self._recent
        if tasks is None or tasks.loop is not loop:
            tasks = self._recent = self._of(loop)
        waiting = _Task(encoded, term, tasks, time.monotonic() + timeout_s, wants_acks=wants_acks)
        tasks.add(waiting)
        self._primary.enqueue(waiting)
        self.wake()
        return waiting.told

    def _of(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        tasks = self._loops.get(loop)
        if tasks is None:
            tasks = self._loops[loop] = _Loop(loop, self)
        return tasks

    def wake(self) -> None:
        """There is something to commit."""
        if self._soon is not None:
            if not self._is_due:  # two that see this at once do no harm: there is one turn
                self._is_due = True
                self._soon(self._commit_soon)
        elif self._idle.locked():
            with suppress(RuntimeError):  # another one was faster
                self._idle.release()

    def give_up(self, waiting: _Task) -> None:
        """It has waited too long."""
        waiting.error = self._primary.give_up(waiting)

    def close(self) -> None:
        """End the committer."""
        self._closed = True
        self.wake()
        if self._committer is not None:
            self._committer.join(timeout=10)

    def _start(self) -> None:
        with self._starting:
            if self._committer is None:
                self._committer = threading.Thread(target=self._commit, name=f"{self._name}-committer", daemon=True)
                self._committer.start()

    def _commit(self) -> None:
        while not self._closed:
            self._idle.acquire()
            self._primary.commit_all()  # at the end, too: what is queued then is refused at once

    def _commit_soon(self) -> None:
        try:
            self._primary.commit_all()
        finally:
            self._is_due = False
            # Who queued a change before this line relied on what was due.
            if self._primary.has_queued:
                self.wake()


class _Loop:
    """The tasks of one event loop that wait. Its methods run on the loop's thread, but for `finished`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tasks: Tasks) -> None:
        self.loop = loop
        self.tasks = tasks
        self._waiting: set[_Task] = set()
        self._finished: deque[_Task] = deque()
        self._told = False
        self._looks = False

    def add(self, waiting: _Task) -> None:
        self._waiting.add(waiting)
        if not self._looks:
            self._looks = True
            self.loop.call_later(LOOK_EVERY_S, self._look)

    def finished(self, waiting: _Task) -> None:
        """Tell its task, together with all others that finish now."""
        self._finished.append(waiting)
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop was closed under its tasks
                self.loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False
        while self._finished:
            self._end(self._finished.popleft())

    def _end(self, waiting: _Task) -> None:
        self._waiting.discard(waiting)
        told = waiting.told
        if told.done():  # it was cancelled
            return
        if waiting.error is not None:
            told.set_exception(waiting.error)
        else:
            told.set_result((waiting.id, waiting.results))

    def _look(self) -> None:
        now = time.monotonic()
        for waiting in [each for each in self._waiting if each.deadline < now and not each.done]:
            self.tasks.give_up(waiting)
            self._end(waiting)
        self._looks = bool(self._waiting)
        if self._looks:
            self.loop.call_later(LOOK_EVERY_S, self._look)


class _Task(Waiting):
    """Its submitter is a task, which waits for `told`."""

    __slots__ = ("_loop", "deadline", "told")

    def __init__(self, encoded: Encoded, term: int | None, loop: _Loop, deadline: float, *, wants_acks: bool) -> None:
        super().__init__(encoded, term, wants_acks=wants_acks)
        self._loop = loop
        self.deadline = deadline
        self.told: asyncio.Future[Done] = loop.loop.create_future()

    def wake(self) -> None:
        self._loop.tasks.wake()

    def finish(self) -> None:
        self.done = True
        self._loop.finished(self)
