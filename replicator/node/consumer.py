"""What a node reads: records, which it folds, saves and applies, and asks of others.

A reader says what it wants next and takes what came of it, so it does not matter who fetches it: the node's own thread
(`read`), or one that reads for many groups at once (`host.py`).
"""

from __future__ import annotations

import threading
from contextlib import suppress

from ..errors import LogLost, LogUnavailable
from ..format.records import ChangeRecord, Record
from ..log.interface import Ack, Batch, GroupRequest, Log, ReadRequest
from ..protocol.fold import Verdict
from ..replica.replica import Replica
from .acks import Acks
from .ha_loop import HaLoop
from .primary import Primary

__all__ = ["BLOCK_MS", "Reader"]

#: How long a read waits in Redis for the next record. What ends it early is a record, an ask, or the end of the node.
BLOCK_MS = 1000

#: Records of one read.
RECORDS_AT_ONCE = 32

#: The same while parts of a snapshot pass by. Redis does nothing else while it copies an answer: 8 MB take it 10 ms.
PARTS_AT_ONCE = 8


class Reader:
    """The reader of one node. `stopping`: the node ends."""

    def __init__(
        self,
        log: Log,
        replica: Replica,
        primary: Primary,
        acks: Acks,
        ha_loop: HaLoop,
        *,
        stopping: threading.Event,
    ) -> None:
        self._log = log
        self._replica = replica
        self._primary = primary
        self._acks = acks
        self._ha_loop = ha_loop
        self._stopping = stopping
        self._asks_after = ""
        self._acks_after = "0-0"

    def read(self) -> None:
        """Wait for something to read, and take it in."""
        wants = self.wants()
        self.received(
            self._log.read(
                wants.after,
                asks_after=wants.asks_after,
                acks_after=wants.acks_after,
                count=wants.most,
                block_ms=BLOCK_MS,
            )
        )

    def wants(self) -> ReadRequest:
        """What comes next."""
        node_state = self._replica.node_state
        if not self._asks_after:
            self._asks_after = self._log.newest_ask()
        if node_state.holds_term:
            return ReadRequest(None, self._asks_after, self._acks_after, RECORDS_AT_ONCE)
        most = PARTS_AT_ONCE if node_state.view.follows_snapshot else RECORDS_AT_ONCE
        return ReadRequest(node_state.view.cursor.id, self._asks_after, most=most)

    def received(self, batch: Batch) -> None:
        """Take in what came of it. Raises what `Replica.take` raises, and `CorruptRecord` for what is no record."""
        self._acks_after = batch.acks_after or self._acks_after
        self._acks.hear(batch.acks)
        for ask in batch.asks:
            self._asks_after = ask.id
            self._hear(ask)
        if batch.records:
            self._take(batch.records)
            self._acks.hear()
        if batch.corrupt is not None and not self._replica.node_state.holds_term:
            raise batch.corrupt

    def _take(self, records: list[Record]) -> None:
        if any(record.id.term > self._replica.node_state.view.term for record in records):
            # Records do not say whose they are, and the keeper may not have looked yet since the connection was made.
            self._ha_loop.check_log_is_mine(self._log.look())
        with self._replica.write_lock:
            if self._replica.node_state.holds_term or self._stopping.is_set():
                return
            verdicts = self._replica.take(records)
            self._ha_loop.follow()
        if Verdict.LEAD in verdicts or Verdict.LEAD_AFTER_REBASE in verdicts:
            self._lead()
        elif Verdict.FOLLOW in verdicts or Verdict.STEP_DOWN in verdicts:
            self._ha_loop.wake()  # to learn where the new primary is reached, and to report
        if self._replica.applied.markers:
            self._ha_loop.wake()
        if Verdict.RESTORE in verdicts or any(isinstance(r, ChangeRecord) and r.wants_acks for r in records):
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Somebody waits until standbys have a change on their disks: this one has."""
        node_state = self._replica.node_state
        if node_state.view.in_sync:
            with suppress(LogUnavailable):  # the next heartbeat says it, too
                self._log.ack(Ack(node_state.me.node, self._replica.synced_upto))

    def _lead(self) -> None:
        """This node holds the term since now. It writes once it has its lease from Redis; until then it is refused."""
        self._ha_loop.renew()
        self._ha_loop.wake()

    def _hear(self, ask: GroupRequest) -> None:
        if ask.what == "vacant":
            self._ha_loop.heard_vacant(ask.node)
        elif ask.what in ("paused", "report"):
            self._ha_loop.wake()
        elif ask.what == "term":
            # Somebody took a term. If it ends ours, the renewal is refused, and the log tells the rest.
            self._ha_loop.renew()
        elif ask.what == "forget":
            self._ha_loop.forget(ask.node)
        elif ask.what == "snapshot" and self._replica.node_state.holds_term:
            # Not here: one that is under way may be older than what is asked for, then another one follows it.
            self._ha_loop.snapshot_asked_by = ask.by
            self._ha_loop.wake()
        elif ask.what == "prepare" and ask.node == self._replica.node_state.me.node:
            self._ha_loop.handover.ask(ask.id)
        elif ask.what == "digest" and self._replica.node_state.leads:
            with suppress(LogLost):  # the keeper reports it
                self._primary.commits.mark()
            self._ha_loop.wake()
