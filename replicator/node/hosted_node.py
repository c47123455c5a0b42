"""A node of a host, and when it is due for what."""

from __future__ import annotations

import heapq
import threading
from itertools import count

from ..log.redis_log import RedisLog
from ..runtime.backoff import Backoff
from .scheduler import NodeWork
from .worker_pool import RETRY_S, RETRY_S_MAX

__all__ = ["HostedNode", "Plan"]


class HostedNode:
    """A node of the host."""

    def __init__(self, node_work: NodeWork, done: threading.Condition) -> None:
        self.node_work = node_work
        assert isinstance(node_work.log, RedisLog)
        self.log = node_work.log
        #: Told when one of its duties was done and it was stopped. Its lock is the host's.
        self._done = done
        #: Its duties that are being done, and whether it was stopped.
        self.busy: set[str] = set()
        self.gone = False
        #: Whether it was woken while it was looked after.
        self.woken = False
        #: Whether it is read together with the others.
        self.together = False
        #: What to read next could not be found out.
        self.backoff = Backoff(RETRY_S, RETRY_S_MAX)
        #: What it read last ended in an error, and until when it is left alone.
        self.troubled = False
        self.reads_again_at = 0.0

    def begin(self, what: str) -> bool:
        """Whether this duty is to be done now: none is done twice at the same time. Under the host's lock, as `end`."""
        if self.gone or what in self.busy or self.node_work.ended():
            return False
        self.busy.add(what)
        return True

    def end(self, what: str) -> None:
        self.busy.discard(what)
        if self.gone:
            self._done.notify_all()


class Plan:
    """When which node is due for one of its duties. Used under the host's lock, as `changed` is."""

    def __init__(self, duty: str, lock: threading.Lock) -> None:
        self.duty = duty
        self.changed = threading.Condition(lock)
        #: The time, the number of the entry, the node.
        self._due: list[tuple[float, int, HostedNode]] = []
        self._numbers = count()
        #: The newest entry of each node: older ones do not count.
        self._newest: dict[HostedNode, tuple[float, int]] = {}

    def put(self, tended: HostedNode, at: float) -> None:
        number = next(self._numbers)
        self._newest[tended] = at, number
        heapq.heappush(self._due, (at, number, tended))
        self.changed.notify()

    def due_at(self, tended: HostedNode) -> float:
        return self._newest[tended][0]

    def forget(self, tended: HostedNode) -> None:
        self._newest.pop(tended, None)

    def take(self, now: float) -> tuple[HostedNode | None, float | None]:
        """The node that is due first, if one is; else how long until one is (None: there is none)."""
        while self._due:
            at, number, tended = self._due[0]
            if self._newest.get(tended) == (at, number) and at > now:
                return None, at - now
            heapq.heappop(self._due)
            if self._newest.get(tended) == (at, number):
                return tended, None
        return None, None
