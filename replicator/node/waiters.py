"""Waiters for an acknowledgement: threads, which sleep, and asyncio tasks, whose event loops are told.

A wait costs no thread of ours. Each waits until a number of other nodes have a record. `Waiters` keeps them in the
order of their records, so that news have to be compared only with the first ones, not with all. A thread that brings
news takes out those whose wait is over, and tells them (`tell`) once it holds no lock any more: with one call per
thread, and one for all tasks of an event loop.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count
from typing import NamedTuple

from ..errors import ConfigError, ReplicatorError
from ..format.ids import RecordId

__all__ = ["Level", "Sleeper", "Task", "Waiter", "Waiters", "tell"]


#: The shortest sleep, also if the time is over or was 0: the node's own disk may have to be synced first.
GRACE_S = 0.05

_LEVEL = re.compile("(appended|fsynced)|(replicated|applied):([1-9][0-9]{0,2})")


class Level(NamedTuple):
    """A level of acknowledgement: `appended`, `fsynced`, `replicated` or `applied`, and by how many others."""

    kind: str
    others: int = 0

    @classmethod
    def parse(cls, text: str) -> Level:
        """`"applied:2"` -> `Level("applied", 2)`. Raises `ConfigError`."""
        match = _LEVEL.fullmatch(text) if isinstance(text, str) else None
        if match is not None:
            return cls(match[1] or match[2], int(match[3] or 0))
        problem = f"{ascii(text)[:80]} is none of appended, fsynced, replicated:N, applied:N"
        raise ConfigError(setting="ack", problem=problem)

    @property
    def standbys(self) -> int:
        """How many standbys have to have a record on their disks."""
        return self.others if self.kind == "applied" else 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.others}" if self.others else self.kind


_numbers = count()


class Waiter:
    """Waits until the record `id` has reached `level`, at most until `deadline` (`time.monotonic`)."""

    def __init__(self, level: Level, id: RecordId, deadline: float) -> None:
        self.level = level
        self.id = id
        self.deadline = deadline
        #: Its place among the waiters: by record, and for the same record in order of arrival.
        self.place = (id, next(_numbers))
        #: Whether the outcome is known.
        self.done = False
        #: The outcome; None: it was acknowledged.
        self.error: ReplicatorError | None = None
        #: What was in the way at the last look.
        self.problem = ""

    @property
    def left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def settle(self, error: ReplicatorError | None = None) -> None:
        """Set the outcome. The waiter has to be told (`tell`)."""
        self.error = error
        self.done = True


class Sleeper(Waiter):
    """A waiting thread."""

    def __init__(self, level: Level, id: RecordId, deadline: float) -> None:
        super().__init__(level, id, deadline)
        self._woken = threading.Event()

    def wait(self) -> None:
        """Sleep until it is told, or its time is over; for a moment at least."""
        self._woken.wait(max(self.left_s, GRACE_S))

    def wake(self) -> None:
        self._woken.set()


class Task(Waiter):
    """A waiting task of the running event loop."""

    def __init__(self, level: Level, id: RecordId, deadline: float) -> None:
        super().__init__(level, id, deadline)
        self.loop = asyncio.get_running_loop()
        self._told: asyncio.Future[None] = self.loop.create_future()

    async def wait(self) -> None:
        """Wait until it is told, or its time is over."""
        await asyncio.wait([self._told], timeout=self.left_s)

    def wake(self) -> None:
        """End the wait. Only on the thread of its loop."""
        if not self._told.done():
            self._told.set_result(None)


class Waiters:
    """Waiters in the order of their records. Not thread-safe: the caller has a lock."""

    def __init__(self) -> None:
        self._places: list[tuple[RecordId, int]] = []
        self._waiters: dict[tuple[RecordId, int], Waiter] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Waiter]:
        return map(self._waiters.__getitem__, self._places)

    @property
    def newest(self) -> RecordId:
        """The newest record that is waited for. Only if there is a waiter."""
        return self._places[-1][0]

    def add(self, waiter: Waiter) -> None:
        insort(self._places, waiter.place)
        self._waiters[waiter.place] = waiter

    def drop(self, waiter: Waiter) -> None:
        """Remove a waiter, if it was not taken out already."""
        if self._waiters.pop(waiter.place, None) is not None:
            del self._places[bisect_left(self._places, waiter.place)]

    def take_while(self, is_over: Callable[[Waiter], bool]) -> list[Waiter]:
        """Take out waiters from the front, up to the first whose wait is not over."""
        taken: list[Waiter] = []
        for waiter in self:
            if not is_over(waiter):
                break
            taken.append(waiter)
        for waiter in taken:
            del self._waiters[waiter.place]
        del self._places[: len(taken)]
        return taken

    def take_all(self, is_over: Callable[[Waiter], bool]) -> list[Waiter]:
        """Take out all waiters whose wait is over."""
        taken = [waiter for waiter in self if is_over(waiter)]
        for waiter in taken:
            self.drop(waiter)
        return taken


def tell(waiters: Iterable[Waiter]) -> None:
    """Tell waiters that their wait is over. The caller must hold no lock."""
    tasks: dict[asyncio.AbstractEventLoop, list[Task]] = {}
    for waiter in waiters:
        if isinstance(waiter, Sleeper):
            waiter.wake()
        elif isinstance(waiter, Task):
            tasks.setdefault(waiter.loop, []).append(waiter)
    for loop, its in tasks.items():
        with suppress(RuntimeError):  # the loop was closed under its tasks
            loop.call_soon_threadsafe(_wake, its)


def _wake(tasks: list[Task]) -> None:
    for task in tasks:
        task.wake()
