"""Looks at a node for those who want to hear what becomes of it: with one thread, while there is a listener."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..runtime.event_log import EventLogger, Speaker, in_this_context
from ..runtime.threads import started
from .events import NodeEvent, Outlook, events_between, now

__all__ = ["Listener", "Watch"]

logger = EventLogger(__name__)

#: It is stirred when something changes; what nobody tells it is looked at this often. A lease is gained that way.
LOOK_EVERY_S = 1.0
LOOK_EVERY_S_UNSETTLED = 0.05

#: A lease is over when its last millisecond is.
ROUNDING_S = 0.001

#: Takes an event, or None: the node has stopped, and there are no more. It returns at once.
Listener = Callable[[NodeEvent | None], None]


class Watch:
    """Of one node. `look`: how it stands now. `lease_ms`: what is left of its lease."""

    def __init__(
        self,
        name: str,
        look: Callable[[], Outlook],
        lease_ms: Callable[[], int | None],
        speaker: Speaker | None = None,
    ) -> None:
        self._speaker = speaker
        self._name = name
        self._look = look
        self._lease_ms = lease_ms
        self._stirred = threading.Event()
        #: Reentrant: a listener may end its own listening.
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._seen: Outlook | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def stir(self) -> None:
        """Something may be different. Takes no time, and no lock that anybody holds for long."""
        self._stirred.set()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have it hear how the node stands, and all that comes; call what this gives to end that. Raises `NoThread`."""
        with self._lock:
            if self._listeners:
                self._tell_what_is_new()
            else:
                self._seen = self._look()
            assert self._seen is not None
            if not self._closed and self._thread is None:
                self._thread = started(in_this_context(self._run, speaker=self._speaker), name=f"{self._name}-watch")
            listener(now(self._seen))
            if self._closed:
                listener(None)
            else:
                self._listeners.append(listener)
        return lambda: self._forget(listener)

    def close(self) -> None:
        """The node has stopped: tell what is still to be told, and that it was all."""
        with self._lock:
            self._tell_what_is_new()
            self._closed = True
            listeners, self._listeners = self._listeners, []
            for listener in listeners:
                self._tell(listener, None)
            # As it stands now it stays; and what has this watch does not keep the node.
            last = self._look()
            self._look = lambda: last
        self.stir()

    def _forget(self, listener: Listener) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
        self.stir()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._listeners:
                    self._thread = self._seen = None
                    return
                self._tell_what_is_new()
                pause_s = self._pause_s()
            self._stirred.wait(pause_s)
            self._stirred.clear()

    def _pause_s(self) -> float:
        """Until something may be different of which nobody tells: a lease runs out, or the first one comes."""
        assert self._seen is not None
        if self._seen.role == "primary" and not self._seen.leads:
            return LOOK_EVERY_S_UNSETTLED
        lease_ms = self._lease_ms()
        return LOOK_EVERY_S if lease_ms is None else min(LOOK_EVERY_S, lease_ms / 1000 + ROUNDING_S)

    def _tell_what_is_new(self) -> None:
        """The caller has the lock."""
        if self._seen is None or not self._listeners:
            return
        before, self._seen = self._seen, self._look()
        for event in events_between(before, self._seen):
            for listener in self._listeners.copy():
                self._tell(listener, event)

    def _tell(self, listener: Listener, event: NodeEvent | None) -> None:
        try:
            listener(event)
        except Exception:
            logger.exception("callback.failed", "a listener failed at %s", event)
