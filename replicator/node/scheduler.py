"""Who does what is to be done for a node, again and again: threads of its own, or those of a host (`host.py`).

A node's *duties* are functions. Each does its work once, never raises, and gives the seconds until it wants to be
called again; how that comes about is the scheduler's business. No duty of a node is done twice at the same time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import ReplicatorError
from ..log.interface import Batch, Log, ReadRequest
from ..runtime.threads import started
from .speaker import Shared

__all__ = ["NodeWork", "OwnThreads", "Scheduler"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeWork:
    """What is to be done for one node, which follows `log`. `ended`: nothing any more.

    `hold` keeps the node's lease, which nothing else may be in the way of. `is_saved`: `save` has nothing to do.
    `works_aside`: what a duty began goes on, on a thread of its own.

    `read` waits in Redis for something to read, and takes it in. A scheduler that reads for many nodes asks `wants`
    what each one wants (None: nothing now), and gives what came of it, or why nothing did, to `received`.
    """

    name: str
    log: Log
    hold: Callable[[], float]
    keep: Callable[[], float]
    save: Callable[[], float]
    is_saved: Callable[[], bool]
    works_aside: Callable[[], bool]
    read: Callable[[], float]
    wants: Callable[[], ReadRequest | None]
    received: Callable[[Batch | ReplicatorError], float]
    ended: Callable[[], bool]


class Scheduler(Protocol):
    """Looks after a node from `start` to `stop`."""

    def start(self, node_work: NodeWork) -> None:
        """Raises `NoThread`. Then some of them may be done until `stop`."""
        ...

    def wake(self, node_work: NodeWork) -> None:
        """Have `keep` called soon."""
        ...

    def stop(self, node_work: NodeWork) -> None:
        """None of its duties is being done any more when this returns, or soon after. It has `ended`."""
        ...

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds, by which leases, heartbeats and looks of its nodes are timed: `time.monotonic`, but in tests."""
        ...

    @property
    def soon(self) -> Callable[[Callable[[], None]], None] | None:
        """Has something done soon, for asyncio tasks that write. None: a node has a thread of its own for that."""
        ...

    @property
    def shared(self) -> Shared | None:
        """What its nodes say together in the log. None: each speaks for itself."""
        ...


class OwnThreads:
    """Four threads for one node."""

    def __init__(self) -> None:
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, node_work: NodeWork) -> None:
        loops = {"reader": self._read, "holder": self._hold, "ha-loop": self._keep, "saver": self._save}
        for name, loop in loops.items():
            self._threads.append(started(loop, node_work, name=f"{node_work.name}-{name}"))

    def wake(self, node_work: NodeWork) -> None:
        self._woken.set()

    def stop(self, node_work: NodeWork) -> None:
        self._stopped.set()
        self._woken.set()
        for thread in self._threads:
            thread.join(timeout=10)

    @property
    def clock(self) -> Callable[[], float]:
        return time.monotonic

    @property
    def soon(self) -> None:
        return None

    @property
    def shared(self) -> None:
        return None

    def _read(self, node_work: NodeWork) -> None:
        while not node_work.ended():
            if pause_s := node_work.read():  # it mostly is none, and even no wait has its price
                self._stopped.wait(pause_s)

    def _hold(self, node_work: NodeWork) -> None:
        while not node_work.ended():
            self._stopped.wait(node_work.hold())

    def _keep(self, node_work: NodeWork) -> None:
        while not node_work.ended():
            self._woken.clear()
            self._woken.wait(node_work.keep())

    def _save(self, node_work: NodeWork) -> None:
        while not node_work.ended():
            self._stopped.wait(node_work.save())
