"""How far a change has to have come before its submitter is told that it is committed, and waiting until it has.

    appended       in the memory of Redis; nothing to wait for
    fsynced        on the disk of Redis (WAITAOF)
    replicated:N   in the memory of N replicas of Redis (WAIT)
    applied:N      on the disks of N standbys, and on the primary's own

The first three are what Redis says (`confirmations.py`), the last is what the standbys say: a change that is on their
disks outlives anything that happens to Redis. The change is in the log before anybody waits here, so who waits in vain
gets `NotAcknowledged`: it may still come to all of them.

Who waits for standbys is in a table (`waiters.py`) that the news of the reader and the HA loop resolve. So it costs no
thread, and however many wait for what does not come, nobody else hears later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from ..errors import CheckpointError, NotAcknowledged, NoThread
from ..format.ids import ZERO_ID, RecordId
from ..log.interface import Ack, Log
from ..replica.replica import Replica
from ..runtime.backoff import Backoff
from ..runtime.threads import started
from .confirmations import Confirmations
from .lease import Lease
from .waiters import Level, Sleeper, Task, Waiter, Waiters, tell

__all__ = ["Acks", "Level"]


#: How soon the own disk is asked again when it does not have all yet: at first, and at the most.
SYNC_AGAIN_S, SYNC_AGAIN_S_MAX = 0.01, 0.5

#: What became of a term in which nothing is acknowledged any more.
ENDED = "the term, or this life of Redis, ended meanwhile"


class Acks:
    """What Redis and the others have of what this node wrote."""

    def __init__(self, log: Log, replica: Replica, lease: Lease) -> None:
        self._replica = replica
        self._redis = Confirmations(log, lease, lambda: replica.node_state)
        self._lock = threading.Lock()
        self._places: dict[str, RecordId] = {}
        #: Who waits for standbys, by how many of them.
        self._waiting: dict[int, Waiters] = {}
        #: Has what is waited for on this node's own disk, while there is any.
        self._syncer: threading.Thread | None = None

    # --- news --------------------------------------------------------------------------------------------------------

    def hear(self, acks: Iterable[Ack] = ()) -> None:
        """Others say what they have on their disks. Without any: the term of this node may be another one."""
        with self._lock:
            for ack in acks:
                self._places[ack.node] = max(ack.at, self._places.get(ack.node, ack.at))
            over = [waiter for waiters in self._waiting.values() for waiter in waiters.take_while(self._is_over)]
            for others in [others for others, waiters in self._waiting.items() if not len(waiters)]:
                del self._waiting[others]
        tell(over)

    def _is_over(self, waiter: Waiter) -> bool:
        """Whether its wait is; then it is settled. The caller has the lock."""
        if self._replica.node_state.view.term != waiter.id.term:
            waiter.settle(self._not_acknowledged(waiter))
        elif self._nodes_with(waiter.id) >= waiter.level.others and self._replica.synced_upto >= waiter.id:
            # Last of all: once it has reported in another run, others may lead there without this change.
            vouches = self._replica.node_state.vouches(waiter.id.term)
            waiter.settle(None if vouches else NotAcknowledged(id=waiter.id, problem=ENDED))
        return waiter.done

    def _nodes_with(self, id: RecordId) -> int:
        # Of the same term only: the history of a later one may have gone on without it.
        me = self._replica.node_state.me.node
        return sum(node != me and at.term == id.term and at.n >= id.n for node, at in self._places.items())

    # --- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, level: Level, id: RecordId, timeout_s: float) -> None:
        """Return once the record `id`, which this node wrote in its present term, has come that far.

        Raises `NotAcknowledged`.
        """
        deadline = time.monotonic() + min(timeout_s, threading.TIMEOUT_MAX)
        if level.kind == "applied":
            waiter = Sleeper(level, id, deadline)
            try:
                if self._enter(waiter):
                    self._sync_aside()
                    waiter.wait()
            finally:
                self._leave(waiter)
            self._conclude(waiter)
        elif level.kind != "appended":
            self._redis.wait(level, id, deadline)

    async def awaited(self, level: Level, id: RecordId, timeout_s: float) -> None:
        """`wait`, for a task: its event loop goes on."""
        deadline = time.monotonic() + min(timeout_s, threading.TIMEOUT_MAX)
        if level.kind == "applied":
            waiter = Task(level, id, deadline)
            try:
                if self._enter(waiter):
                    self._sync_aside()
                    await waiter.wait()
            finally:
                self._leave(waiter)
            self._conclude(waiter)
        elif level.kind != "appended":
            await self._redis.awaited(level, id, deadline)

    def _enter(self, waiter: Waiter) -> bool:
        """Whether it has to wait."""
        with self._lock:
            if self._is_over(waiter):
                return False
            self._waiting.setdefault(waiter.level.others, Waiters()).add(waiter)
            return True

    def _leave(self, waiter: Waiter) -> None:
        with self._lock:
            if waiter.level.others in self._waiting:
                self._waiting[waiter.level.others].drop(waiter)
            if not waiter.done:
                waiter.settle(self._not_acknowledged(waiter))

    # --- this node's own disk, which counts as one of those that have it ---------------------------------------------

    def _sync_aside(self) -> None:
        """Have it there, while the standbys sync theirs. A disk that hangs keeps nobody who waits past its time."""
        with self._lock:
            if self._syncer is None:
                with suppress(NoThread):  # the saver does it a moment later
                    self._syncer = started(self._sync_for_all, name="own-disk")

    def _sync_for_all(self) -> None:
        backoff = Backoff(SYNC_AGAIN_S, SYNC_AGAIN_S_MAX)
        while True:
            with self._lock:
                newest = max((each.newest for each in self._waiting.values() if len(each)), default=ZERO_ID)
                if newest <= self._replica.synced_upto:
                    self._syncer = None
                    return
            try:
                self._replica.flush()
            except CheckpointError as error:
                self._refuse_unsynced(f"it is not on the primary's own disk: {error}")
            self.hear()
            if self._replica.synced_upto < newest:  # out of sync for the moment, by a rebase
                time.sleep(backoff.failed())

    def _refuse_unsynced(self, problem: str) -> None:
        with self._lock:
            over = [each for waiters in self._waiting.values() for each in waiters.take_all(self._is_unsynced)]
            for waiter in over:
                waiter.settle(NotAcknowledged(id=waiter.id, problem=problem))
        tell(over)

    def _is_unsynced(self, waiter: Waiter) -> bool:
        return waiter.id > self._replica.synced_upto

    def _not_acknowledged(self, waiter: Waiter) -> NotAcknowledged:
        have = self._nodes_with(waiter.id)
        problem = f"{have} of {waiter.level.others} standbys say that they have it on their disks"
        if self._is_unsynced(waiter):
            problem += ", and the primary's own disk does not have it yet"
        return NotAcknowledged(id=waiter.id, problem=problem)

    def _conclude(self, waiter: Waiter) -> None:
        if waiter.error is not None:
            raise waiter.error
