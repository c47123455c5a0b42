"""Asyncio tasks that wait until their node has applied a position: a wait costs no thread, and blocks no event loop.

One thread looks for all of them, while there are any. It looks as the node moves, but not at every record that comes in
a stream: a task is told a millisecond later at most.
"""

from __future__ import annotations

import threading
import time
from functools import partial

from ..errors import NotRunning, PositionLost
from ..format.ids import RecordId
from ..protocol.fold import View
from ..protocol.node_state import NodeState
from ..replica.node_state_cell import NodeStateCell
from ..runtime.threads import started
from .waiters import Level, Task, Waiter, Waiters, tell

__all__ = ["PositionWaits", "has_reached"]

#: The pause between two looks.
GATHER_S = 0.001

#: The thread ends if nobody waited for so long. The next wait is mostly not far.
LINGER_S = 1.0

#: What nobody tells it is looked at this often.
LOOK_EVERY_S = 1.0

POSITION = Level("position")


def has_reached(id: RecordId, view: View) -> bool:
    """Whether a node with this view has applied that position. Raises `PositionLost` if it never will."""
    if not view.in_sync:
        return False
    end = view.left_behind(id)
    if end is not None:
        later = [term.term for term in (*view.ends, view.position.id) if term.term > id.term]
        raise PositionLost(id, term=id.term, term_end=end, next_term=min(later, default=view.term))
    return max(view.position.id, view.cursor.id) >= id


class PositionWaits:
    """Of one node, which knows `known`."""

    def __init__(self, known: NodeStateCell, *, name: str) -> None:
        self._known = known
        self._name = name
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._waiting = Waiters()
        self._watcher: threading.Thread | None = None
        self._closed = False

    async def awaited(self, id: RecordId, deadline: float) -> bool:
        """Whether the node has applied that position by then. Raises `PositionLost`, `NotRunning`, `NoThread`."""
        if self._has(id) or time.monotonic() >= deadline:
            return self._has(id)
        waiter = Task(POSITION, id, deadline)
        self._enter(waiter)
        try:
            if not self._has(id):  # it may have moved since, and the thread have looked before
                await waiter.wait()
        finally:
            with self._lock:
                self._waiting.drop(waiter)
        if waiter.error is not None:
            raise waiter.error
        return waiter.done or self._has(id)

    def close(self) -> None:
        """The node has stopped: whoever waits is told so."""
        with self._came:
            self._closed = True
            self._came.notify_all()
        with self._known.moved:
            self._known.moved.notify_all()

    def _has(self, id: RecordId) -> bool:
        return has_reached(id, self._known.node_state.view)

    def _enter(self, waiter: Task) -> None:
        with self._came:
            if self._closed:
                raise NotRunning(self._name, stopped=True)
            if self._watcher is None:
                self._watcher = started(self._watch, name=f"{self._name}-positions")
            self._waiting.add(waiter)
            self._came.notify_all()

    def _watch(self) -> None:
        seen = None
        while self._is_needed():
            self._known.wait_for(partial(self._has_moved, seen), LOOK_EVERY_S)
            seen = self._known.node_state
            with self._lock:
                over = self._over(seen.view)
            tell(over)
            time.sleep(GATHER_S)

    def _has_moved(self, seen: NodeState | None) -> bool:
        return self._closed or self._known.node_state is not seen

    def _is_needed(self) -> bool:
        """Wait until somebody waits; whether somebody does."""
        with self._came:
            self._came.wait_for(lambda: len(self._waiting) or self._closed, LINGER_S)
            if not len(self._waiting):
                self._watcher = None
            return self._watcher is not None

    def _over(self, view: View) -> list[Waiter]:
        """Those whose wait is over, settled. The caller has the lock."""
        if self._closed:
            return self._waiting.take_all(self._is_stopped)
        if not view.in_sync:
            return []
        # In the order of their records: those that a failover left behind come first.
        return self._waiting.take_while(lambda waiter: _is_over(waiter, view))

    def _is_stopped(self, waiter: Waiter) -> bool:
        waiter.settle(NotRunning(self._name, stopped=True))
        return True


def _is_over(waiter: Waiter, view: View) -> bool:
    try:
        if has_reached(waiter.id, view):
            waiter.settle()
    except PositionLost as lost:
        waiter.settle(lost)
    return waiter.done
