"""Those who want to hear of the role of a node: one after the other, in order, on a thread that nothing waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

from ..errors import NoThread
from ..runtime.event_log import EventLogger, Speaker, in_this_context
from ..runtime.threads import started

__all__ = ["RoleCallbacks", "RoleEvent"]

logger = EventLogger(__name__)


class RoleEvent(NamedTuple):
    """What a node is from now on: `role` is `"primary"` or `"standby"`, `term` the newest term that it knows, `leads`
    whether it can take writes.
    """

    role: str
    term: int
    leads: bool


RoleCallback = Callable[[RoleEvent], object]


class RoleCallbacks:
    """Of one node. `name`: of the thread, which is there once there is something to tell."""

    def __init__(self, name: str, speaker: Speaker | None = None) -> None:
        self._speaker = speaker
        self._name = name
        self._lock = threading.Lock()
        self._all: dict[object, RoleCallback] = {}
        #: The newest event; None: the node was not started.
        self._event: RoleEvent | None = None
        self._due: SimpleQueue[tuple[object, RoleEvent] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, key: object, callback: RoleCallback) -> None:
        """From now on it hears of each event, and first of the present one, if the node was started."""
        with self._lock:
            self._all[key] = callback
            if self._event is not None:
                self._begin()
                self._due.put((key, self._event))

    def remove(self, key: object) -> None:
        """It hears of nothing any more, once a call that is under way has returned."""
        with self._lock:
            self._all.pop(key, None)

    def tell(self, event: RoleEvent) -> None:
        """Tell it to all, if it is news."""
        with self._lock:
            if event == self._event:
                return
            self._event = event
            if self._all:
                with suppress(NoThread):  # with the next event there may be one: nothing is lost
                    self._begin()
            for key in self._all:
                self._due.put((key, event))

    def close(self, timeout_s: float) -> None:
        """Tell what is due, and no more. Waits for that, unless a callback calls this."""
        with self._lock:
            self._due.put(None)
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = started(in_this_context(self._call_all, speaker=self._speaker), name=self._name)

    def _call_all(self) -> None:
        while (due := self._due.get()) is not None:
            key, event = due
            callback = self._all.get(key)
            if callback is not None:
                try:
                    callback(event)
                except BaseException:  # no less than all: the others want to hear of it
                    logger.exception("callback.failed", "a callback of on_role failed at %s", event)
