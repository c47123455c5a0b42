"""Threads of ours, on which what blocks is done for asyncio tasks.

Not on the event loop, and not in the loop's default executor: that one is the application's, may be full of what the
application waits for, and may be closed. The threads are daemons: one that hangs keeps no process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ..errors import NoThread
from .threads import started

__all__ = ["TaskThreads", "begun", "waited_out"]

T = TypeVar("T")

#: A thread that had nothing to do for so long ends.
IDLE_S = 5.0


class TaskThreads:
    """At most `most` threads called `name`, begun as they are needed; what finds none free waits for one."""

    def __init__(self, name: str, *, most: int) -> None:
        self._name = name
        self._most = most
        self._changed = threading.Condition()
        self._jobs: deque[_Job[Any]] = deque()
        self._threads = 0
        self._idle = 0
        self._idle_s = IDLE_S

    def close(self) -> None:
        """A thread that has nothing to do ends at once from now on; there may still be something to do."""
        with self._changed:
            self._idle_s = 0.0
            self._changed.notify_all()

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives, or raises, on one of the threads, in the context of this task.

        If the task is cancelled, work that has not begun is not begun any more; other work goes on, and nobody gets
        what it gives. Raises `NoThread`.
        """
        job = _Job(work)
        with self._changed:
            self._jobs.append(job)
            if len(self._jobs) > self._idle and self._threads < self._most:
                self._add(job)
            self._changed.notify()
        return await job.future

    def _add(self, job: _Job[Any]) -> None:
        try:
            started(self._work, name=self._name)
            self._threads += 1
        except NoThread:
            if not self._threads:
                self._jobs.remove(job)
                raise

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.do()
            del job  # it has the caller's objects

    def _next(self) -> _Job[Any] | None:
        """Wait for something to do; None: there was nothing for long."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._jobs or not self._idle_s, timeout=self._idle_s)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            return None


class _Job(Generic[T]):
    """Work of a task of the running loop, with a future for what comes of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self.future: asyncio.Future[T] = self._loop.create_future()

    def do(self) -> None:
        if self.future.cancelled():
            return
        result: Any = None
        error: BaseException | None = None
        try:
            result = self._context.run(self._work)
        except StopIteration as stopped:  # no future takes it, and a coroutine makes the same of it
            error = RuntimeError(f"it raised {stopped!r}")
            error.__cause__ = stopped
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop was closed under its task
            self._loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: T, error: BaseException | None) -> None:
        if self.future.done():  # its task was cancelled
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


def begun(work: Callable[[], T], *, name: str) -> asyncio.Future[T]:
    """Do it on a thread of its own: what it gives, or raises. Raises `NoThread`."""
    job = _Job(work)
    started(job.do, name=name)
    return job.future


async def waited_out(future: asyncio.Future[T]) -> T:
    """Wait until it is done, however often this task is cancelled meanwhile. A cancellation is raised then.

    For what has to be over before the task goes on. If it failed, that is raised instead.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    result = future.result()
    if cancelled is not None:
        raise cancelled
    return result
