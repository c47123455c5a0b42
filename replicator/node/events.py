"""What becomes of a node, as events: what is different between one look at it and the next. Pure, but for the queue.

A listener has a queue of its own, which is bounded: one that is slow loses what it has not taken, is told how much that
was, and hears how things are now. So a slow listener costs nobody anything, and is never behind for long.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

__all__ = ["EventQueue", "NodeEvent", "Outlook", "What", "events_between", "now"]

#: Events that wait for a listener.
EVENTS_MAX = 64

What = Literal[
    "now",
    "term",
    "role",
    "in_sync",
    "out_of_sync",
    "lease_gained",
    "lease_lost",
    "problem",
    "solved",
    "missed",
]


class Outlook(NamedTuple):
    """How a node stands. `problems`: what is in its way, in words, by the part that found it."""

    role: str
    leads: bool
    term: int
    primary: str | None
    in_sync: bool
    problems: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeEvent:
    """`what` happened to a node, and how it stands since then.

    `"now"`: nothing, listening begins. `"term"`: it knows of a newer term. `"role"`: it became the primary, or a
    standby. `"lease_gained"`, `"lease_lost"`: it leads, and can take writes, or does not any more. `"in_sync"`,
    `"out_of_sync"`: its state lacks nothing of the log, or does. `"problem"`, `"solved"`: something is in its way, or
    not any more. `"missed"`: the listener was too slow for `missed` events.

    `role`: `"primary"` or `"standby"`. `leads`: whether it can take writes. `term`: the newest that it knows.
    `primary`: the name of the holder of that term, as far as it knows. `in_sync`: as `Node.in_sync`. `problem`: the one
    that began or ended, in words.
    """

    what: What
    role: str
    leads: bool
    term: int
    primary: str | None
    in_sync: bool
    problem: str = ""
    missed: int = 0


def now(outlook: Outlook, what: What = "now", *, problem: str = "") -> NodeEvent:
    """The event that says so."""
    role, leads, term, primary, in_sync, _ = outlook
    return NodeEvent(what=what, role=role, leads=leads, term=term, primary=primary, in_sync=in_sync, problem=problem)


def events_between(before: Outlook, after: Outlook) -> Iterator[NodeEvent]:
    """What is different, in the order in which it comes about. A problem that only says it in other words is none."""
    if after.term != before.term:
        yield now(after, "term")
    if after.role != before.role:
        yield now(after, "role")
    if after.in_sync != before.in_sync:
        yield now(after, "in_sync" if after.in_sync else "out_of_sync")
    if after.leads != before.leads:
        yield now(after, "lease_gained" if after.leads else "lease_lost")
    for name, problem in after.problems.items():
        if name not in before.problems:
            yield now(after, "problem", problem=problem)
    for name, problem in before.problems.items():
        if name not in after.problems:
            yield now(after, "solved", problem=problem)


class EventQueue:
    """The queue of one listener, a task of the running loop. Any thread may `put`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._events: deque[NodeEvent] = deque()
        self._missed = 0
        self._ended = False
        self._came = asyncio.Event()

    def put(self, event: NodeEvent | None) -> None:
        """None: it was the last one."""
        with self._lock:
            if event is None:
                self._ended = True
            elif len(self._events) >= EVENTS_MAX:
                self._missed += len(self._events)
                self._events = deque([event])
            else:
                self._events.append(event)
        with suppress(RuntimeError):  # the loop was closed under its listener
            self._loop.call_soon_threadsafe(self._came.set)

    async def get(self) -> NodeEvent | None:
        """The next one; None: there is none any more."""
        while True:
            with self._lock:
                if self._events or self._ended:
                    return self._next()
                self._came.clear()
            await self._came.wait()

    def _next(self) -> NodeEvent | None:
        """The caller has the lock."""
        if not self._missed:
            return self._events.popleft() if self._events else None
        newest, missed = self._events[-1], self._missed + len(self._events)
        self._events.clear()
        self._missed = 0
        return replace(newest, what="missed", missed=missed, problem="")
