"""Who waits for an acknowledgement: threads, which sleep, and tasks, whose event loops are told.

A wait costs no thread of ours. What is waited for is a record, and that so many others have it. `Waiters` keeps those
who wait in the order of their records, so news are held against the first ones only, and not against everybody. Whoever
brings news takes those out whose wait is over, and tells them (`tell`) when it holds no lock any more: a call for each
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


#: A wait whose time is over, or was nothing, ends so much later: the own disk may have to be asked.
GRACE_S = 0.05

_LEVEL = re.compile("(appended|fsynced)|(replicated|applied):([1-9][0-9]{0,2})")


class Level(NamedTuple):
    """`appended`, `fsynced`, `replicated` or `applied`, and of how many others."""

    kind: str
    others: int = 0

    @classmethod
    def parse(cls, text: str) -> Level:
        """Raises `ConfigError`."""
        match = _LEVEL.fullmatch(text) if isinstance(text, str) else None
        if match is not None:
            return cls(match[1] or match[2], int(match[3] or 0))
        problem = f"{ascii(text)[:80]} is none of appended, fsynced, replicated:N, applied:N"
        raise ConfigError(setting="ack", problem=problem)

    @property
    def standbys(self) -> int:
        """How many of them are to have it on their disks."""
        return self.others if self.kind == "applied" else 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.others}" if self.others else self.kind


_numbers = count()


class Waiter:
    """Waits until `level` is reached for the record `id`, at the longest until `deadline` (`time.monotonic`)."""

    def __init__(self, level: Level, id: RecordId, deadline: float) -> None:
        self.level = level
        self.id = id
        self.deadline = deadline
        #: Its place among those who wait: by record, and of one record by who came first.
        self.place = (id, next(_numbers))
        #: Somebody says what came of it: `error`, or nothing if it was acknowledged.
        self.done = False
        self.error: ReplicatorError | None = None
        #: What was in the way when it was looked at last.
        self.problem = ""

    @property
    def left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def settle(self, error: ReplicatorError | None = None) -> None:
        """Say what came of it; it is still to be told."""
        self.error = error
        self.done = True


class Sleeper(Waiter):
    """A thread."""

    def __init__(self, level: Level, id: RecordId, deadline: float) -> None:
        super().__init__(level, id, deadline)
        self._woken = threading.Event()

    def wait(self) -> None:
        """Sleep until it is told, or its time is over. What is true already takes a moment to be told."""
        self._woken.wait(max(self.left_s, GRACE_S))

    def wake(self) -> None:
        self._woken.set()


class Task(Waiter):
    """A task of the running event loop."""

    def __init__(self, level: Level, id: RecordId, deadline: float) -> None:
        super().__init__(level, id, deadline)
        self.loop = asyncio.get_running_loop()
        self._told: asyncio.Future[None] = self.loop.create_future()

    async def wait(self) -> None:
        """Wait until it is told, or its time is over."""
        await asyncio.wait([self._told], timeout=self.left_s)

    def wake(self) -> None:
        """On the thread of its loop."""
        if not self._told.done():
            self._told.set_result(None)


class Waiters:
    """Those who wait, in the order of their records. The caller sees to it that one thread at a time is here."""

    def __init__(self) -> None:
        self._places: list[tuple[RecordId, int]] = []
        self._waiters: dict[tuple[RecordId, int], Waiter] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Waiter]:
        return map(self._waiters.__getitem__, self._places)

    @property
    def newest(self) -> RecordId:
        """The newest record that somebody waits for. There is one."""
        return self._places[-1][0]

    def add(self, waiter: Waiter) -> None:
        insort(self._places, waiter.place)
        self._waiters[waiter.place] = waiter

    def drop(self, waiter: Waiter) -> None:
        """It waits no longer. It may have been taken out already."""
        if self._waiters.pop(waiter.place, None) is not None:
            del self._places[bisect_left(self._places, waiter.place)]

    def take_while(self, is_over: Callable[[Waiter], bool]) -> list[Waiter]:
        """Take out the first ones, as long as their wait is over."""
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
        """Take out every one whose wait is over."""
        taken = [waiter for waiter in self if is_over(waiter)]
        for waiter in taken:
            self.drop(waiter)
        return taken


def tell(waiters: Iterable[Waiter]) -> None:
    """Tell those whose wait is over."""
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
