"""Waiting until a change is as safe as its submitter asked for.

    appended       in the memory of Redis; nothing to wait for
    fsynced        on the disk of Redis (WAITAOF)
    replicated:N   in the memory of N replicas of Redis (WAIT)
    applied:N      on the disks of N standbys, and on the primary's own

Redis confirms the first three (`confirmations.py`), the standbys the last: a change that is on their disks survives
anything that happens to Redis. The change is in the log before a submitter waits here, so one that waits in vain gets
`NotAcknowledged`: the change may still reach all of them.

Anybody who can write to Redis can write an ack. So those count that are of a node which lives, by heartbeats that were
seen to change, and of a place that the log has (docs/trust.md).

Submitters that wait for standbys are in a table (`waiters.py`), which the reader and the HA loop resolve as news comes.
So a wait costs no thread, and however many wait for something that does not come, the others are told no later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from ..errors import CheckpointError, NotAcknowledged, NoThread
from ..format.ids import ZERO_ID, RecordId
from ..log.interface import Ack, Log
from ..replica.replica import Replica
from ..runtime.backoff import Backoff
from ..runtime.counted import counted
from ..runtime.threads import started
from .confirmations import Confirmations
from .lease import Lease
from .waiters import Level, Sleeper, Task, Waiter, Waiters, tell

__all__ = ["Acks", "Level"]


#: How soon the node's own disk is synced again if it does not have everything yet: the first pause, and the longest.
SYNC_AGAIN_S, SYNC_AGAIN_S_MAX = 0.01, 0.5

#: A standby may have a record before its writer has the answer of Redis, and a writer sends one at a time.
UNDER_WAY = 1

#: The problem if nothing of the term is acknowledged any more.
ENDED = "the term, or this run of Redis, ended meanwhile"


class Acks:
    """Tracks what Redis and the other nodes have of what this node wrote, for those that wait for it.

    `is_live`: whether a node of that name lives.
    """

    def __init__(self, log: Log, replica: Replica, lease: Lease) -> None:
        self.is_live: Callable[[str], bool] = _nobody
        self._replica = replica
        self._redis = Confirmations(log, lease, lambda: replica.node_state)
        self._lock = threading.Lock()
        self._places: dict[str, RecordId] = {}
        #: The waiters for standbys, by the number of standbys.
        self._waiting: dict[int, Waiters] = {}
        #: Syncs this node's own disk, while anything that is waited for is not there yet.
        self._syncer: threading.Thread | None = None

    # --- news --------------------------------------------------------------------------------------------------------

    def hear(self, acks: Iterable[Ack] = ()) -> None:
        """Take acks of other nodes, and tell those whose wait is over. Without acks: the term may have changed."""
        with self._lock:
            for ack in filter(self._counts, acks):
                self._places[ack.node] = max(ack.at, self._places.get(ack.node, ack.at))
            if not self._waiting:  # as nearly always on a standby
                return
            over = [waiter for waiters in self._waiting.values() for waiter in waiters.take_while(self._is_over)]
            for others in [others for others, waiters in self._waiting.items() if not len(waiters)]:
                del self._waiting[others]
        tell(over)

    def _counts(self, ack: Ack) -> bool:
        """Whether the ack can be one of a standby that has what it says."""
        newest = self._replica.node_state.view.position.id
        is_beyond = ack.at.term > newest.term or (ack.at.term == newest.term and ack.at.n > newest.n + UNDER_WAY)
        return not is_beyond and self.is_live(ack.node)

    def _is_over(self, waiter: Waiter) -> bool:
        """Whether its wait is over; if so, it is settled. The caller has the lock."""
        if self._replica.node_state.view.term != waiter.id.term:
            waiter.settle(NotAcknowledged(id=waiter.id, problem=ENDED))
        elif self._nodes_with(waiter.id) >= waiter.level.others and self._replica.synced_upto >= waiter.id:
            # Checked last: once this node has reported in another run, others may lead there without this change.
            vouches = self._replica.node_state.vouches(waiter.id.term)
            waiter.settle(None if vouches else NotAcknowledged(id=waiter.id, problem=ENDED))
        return waiter.done

    def _nodes_with(self, id: RecordId) -> int:
        # Only acks in the same term count: the history of a later term may lack the change.
        me = self._replica.node_state.me.node
        return sum(node != me and at.term == id.term and at.n >= id.n for node, at in self._places.items())

    # --- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, level: Level, id: RecordId, timeout_s: float) -> None:
        """Return once the record `id`, which this node wrote in its present term, has reached `level`.

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
        """`wait`, for a task: it does not block the event loop."""
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
        """Add the waiter; return whether it has to wait."""
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

    # --- this node's own disk, which has to have the change, too -----------------------------------------------------

    def _sync_aside(self) -> None:
        """Sync it in a thread, while the standbys sync theirs. If the disk hangs, waits still end in time."""
        with self._lock:
            if self._syncer is None:
                with suppress(NoThread):  # the next regular save does it, a moment later
                    self._syncer = started(self._sync_for_all, name="own-disk")

    def _sync_for_all(self) -> None:
        """Flush until the disk has the newest record that is waited for; then the thread ends."""
        backoff = Backoff(SYNC_AGAIN_S, SYNC_AGAIN_S_MAX)
        while (newest := self._still_to_sync()) is not None:
            try:
                self._replica.flush()
            except CheckpointError as error:
                self._refuse_unsynced(f"it is not on the primary's own disk: {error}")
            self.hear()
            if self._replica.synced_upto < newest:  # for the moment out of sync, because of a rebase
                time.sleep(backoff.failed())
        # A regular save may have synced it before this thread came to that, and after the standbys had said so.
        self.hear()

    def _still_to_sync(self) -> RecordId | None:
        """The newest record that is waited for; None: the disk has it, and the thread is over."""
        with self._lock:
            newest = max((each.newest for each in self._waiting.values() if len(each)), default=ZERO_ID)
            if newest > self._replica.synced_upto:
                return newest
            self._syncer = None
            return None

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
        others = waiter.level.others
        say = "says that it has it on its disk" if others == 1 else "say that they have it on their disks"
        problem = f"{have} of {counted(others, 'standby')} {say}"
        if self._is_unsynced(waiter):
            problem += ", and the primary's own disk does not have it yet"
        return NotAcknowledged(id=waiter.id, problem=problem)

    def _conclude(self, waiter: Waiter) -> None:
        if waiter.error is not None:
            raise waiter.error


def _nobody(node: str) -> bool:
    return False
