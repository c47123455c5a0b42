"""One read for all groups of a host: XREAD takes many streams, and what comes back is handed to each node.

Such a read costs Redis and this process some microseconds a group, so it is not repeated at once when much comes in:
what comes meanwhile comes with the next one. A node that has to catch up, or whose last read failed, is read *aside*
from the others, a few at a time, until it is with them again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ..errors import LogUnavailable, ReplicatorError
from ..log.interface import Batch, ReadRequest
from ..log.multiplex import Alarm, read_together
from ..log.redis_log import Connections
from ..runtime.backoff import Backoff
from .hosted_node import HostedNode
from .worker_pool import RETRY_S, RETRY_S_MAX

__all__ = ["GroupReader"]

#: How long the reader waits for something of the groups that it reads together.
BLOCK_S = 1.0


#: One read of all groups takes Redis 3 us a group, and this process 5 us, whether much comes of it or not. So often, at
#: the most, does it begin: a change may be so much later on a standby.
READ_EVERY_S_PER_NODE = 20e-6

#: Records of one read of all groups, so that its answer stays small; but so many of each group in any case.
RECORDS_TOGETHER = 1024
RECORDS_OF_EACH_MIN = 4

#: Nodes that are read aside in one read: a record has up to 256 KiB, and Redis does nothing else while it copies.
ASIDE_AT_ONCE = 8


class GroupReader:
    """Reads the groups of these nodes. `tended`: the host's own, which it changes under `lock`."""

    def __init__(self, connections: Connections, tended: Mapping[int, HostedNode], lock: threading.Lock) -> None:
        self._connections = connections
        self._alarm = Alarm(connections)
        self._tended = tended
        self._lock = lock
        self._joined = threading.Condition(lock)
        self._closed = False
        #: What was read and not taken in yet.
        self._batches: deque[tuple[HostedNode, Batch | ReplicatorError, bool]] = deque()
        #: Nodes that are not read together with the others.
        self._aside: deque[HostedNode] = deque()
        self._asides_turn = False
        #: When all may be read again, and whether a read waits now.
        self._read_again_at = 0.0
        self._waits = False
        self._reading = threading.Lock()
        self._backoff = Backoff(RETRY_S, RETRY_S_MAX)

    def add(self, tended: HostedNode) -> None:
        """Read a node that joins, aside at first. Under the lock; `interrupt` has to follow, without it."""
        self._aside.append(tended)
        self._joined.notify_all()

    def end_alarm(self) -> None:
        """Take out of Redis what interrupts a read that waits."""
        self._alarm.end()

    def close(self) -> None:
        """Under the lock."""
        self._closed = True
        self._joined.notify_all()

    def next_batch(self) -> Callable[[], None] | None:
        """Read until something came; None: the host was closed."""
        with self._reading:
            while not self._closed:
                while self._batches:
                    tended, batch, full = self._batches.popleft()
                    with self._lock:
                        begun = tended.begin("read")
                    if begun:
                        return partial(self._hand, tended, batch, full)
                self._read()
        return None

    def _read(self) -> None:
        nodes, most, block_s = self._next_read()
        try:
            if nodes:
                self._fetch(nodes, most=most, block_s=block_s)
        finally:
            self._waits = False

    def _next_read(self) -> tuple[list[HostedNode], int, float]:
        """Whom to read, how much of each, and how long to wait for it: those aside and all others in turns."""
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                aside = self._due_aside(now)
                if aside and (self._asides_turn or now < self._read_again_at):
                    self._asides_turn = False
                    return aside, RECORDS_TOGETHER, 0.0
                self._aside.extendleft(reversed(aside))
                block_s = min([BLOCK_S, *(max(0.0, each.reads_again_at - now) for each in self._aside)])
                if now < self._read_again_at:
                    self._joined.wait(self._read_again_at - now)
                elif nodes := [each for each in self._tended.values() if each.together and not each.node_work.ended()]:
                    # A node that goes aside from now on finds a read that waits, and interrupts it.
                    self._asides_turn, self._waits = True, block_s > 0
                    self._read_again_at = now + len(nodes) * READ_EVERY_S_PER_NODE
                    return nodes, max(RECORDS_OF_EACH_MIN, RECORDS_TOGETHER // len(nodes)), block_s
                else:
                    self._asides_turn = True
                    self._joined.wait(block_s)
        return [], 0, 0.0

    def _due_aside(self, now: float) -> list[HostedNode]:
        """The first few of those aside whose time it is, taken out. The caller has the lock."""
        due: list[HostedNode] = []
        for _ in range(len(self._aside)):
            tended = self._aside.popleft()
            if tended.gone or tended.node_work.ended():
                continue
            if len(due) < ASIDE_AT_ONCE and tended.reads_again_at <= now:
                due.append(tended)
            else:
                self._aside.append(tended)
        return due

    def _fetch(self, nodes: Sequence[HostedNode], *, most: int, block_s: float) -> None:
        """Read what these want, at most so many records of each, and queue what came of it."""
        reads: list[tuple[HostedNode, ReadRequest]] = []
        for tended in nodes:
            wants = tended.node_work.wants()
            if wants is None:  # it could not find out, and said so
                self._put_aside(tended, tended.backoff.failed())
            else:
                tended.backoff.succeeded()
                reads.append((tended, wants))
                most = min(most, wants.most)
        logs = [(tended.log, wants._replace(most=most)) for tended, wants in reads]
        batches = read_together(self._connections, logs, block_s=block_s, alarm=self._alarm)
        for (tended, _), batch in zip(reads, batches, strict=True):
            self._sort(tended, batch, most)
        if batches and all(isinstance(batch, LogUnavailable) for batch in batches):
            time.sleep(self._backoff.failed())
        else:
            self._backoff.succeeded()

    def _sort(self, tended: HostedNode, batch: Batch | ReplicatorError, most: int) -> None:
        if isinstance(batch, Batch) and batch.is_empty and not tended.troubled:
            tended.together = True
            return
        full = isinstance(batch, Batch) and max(len(batch.records), len(batch.requests), len(batch.acks)) >= most
        tended.together = False  # until it has taken this in
        self._batches.append((tended, batch, full))

    def _hand(self, tended: HostedNode, batch: Batch | ReplicatorError, full: bool) -> None:
        pause_s = RETRY_S_MAX
        try:
            pause_s = tended.node_work.received(batch)
        finally:
            with self._lock:
                tended.end("read")
            self._taken_in(tended, pause_s, full=full)

    def _taken_in(self, tended: HostedNode, pause_s: float, *, full: bool) -> None:
        with self._lock:
            tended.troubled = pause_s > 0
            # If a read waits, another thread reads, and without this node.
            tended.together = not (full or tended.troubled or self._waits)
            self._joined.notify_all()  # who found nobody to read, because all that there are took something in
        if not tended.together:
            self._put_aside(tended, pause_s)

    def _put_aside(self, tended: HostedNode, pause_s: float) -> None:
        tended.together = False
        tended.troubled = pause_s > 0
        tended.reads_again_at = time.monotonic() + pause_s
        with self._lock:
            self._aside.append(tended)
            self._joined.notify_all()
        if not pause_s:
            self.interrupt()

    def interrupt(self) -> None:
        """Somebody is to be read who is not in the read that waits."""
        if self._waits:
            self._alarm.ring()
