"""What a node reads: records, which it folds, applies and saves, and requests of others.

A reader says what it wants next and takes what came of it, so it does not matter who fetches it: the node's own thread
(`read`), or one that reads for many groups at once (`host.py`). It takes in what concerns the copy of the state, and
gives back the rest, as it comes to it: who has asked for what, and that this node leads. The HA loop acts on that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum

from ..errors import LogUnavailable, Stalled
from ..format.records import ChangeRecord, Record
from ..log.interface import Ack, Batch, GroupRequest, ReadRequest
from ..protocol.fold import APPLY, LEADING, RESTORE, Verdict
from ..protocol.skip import Found
from .components import Components
from .identity import check_log_is_mine, with_misnamed_head

__all__ = ["BLOCK_MS", "Learnt", "Reader"]

#: How long a read waits in Redis for the next record. A record, a request, or the end of the node ends it early.
BLOCK_MS = 1000

#: Records of one read.
RECORDS_AT_ONCE = 32

#: The same while parts of a snapshot pass by. Redis does nothing else while it copies an answer: 8 MB take it 10 ms.
PARTS_AT_ONCE = 8

#: Changes that come faster than a standby takes them in one by one are read so long after those before them: more come
#: with one read, and what a read, a save and a wake-up cost is shared by them.
GATHER_S = 0.0005


class Learnt(Enum):
    """What the records that were just taken in mean to the node."""

    #: It holds the term since now.
    LEADS = "leads"
    #: The others are to hear of it soon, or this node of them.
    NEWS = "news"


class Reader:
    """The reader of one node. `stopping`: the node ends."""

    def __init__(self, parts: Components, *, stopping: threading.Event) -> None:
        self._log = parts.log
        self._replica = parts.replica
        self._known = parts.replica.known
        self._acks = parts.acks
        self._problems = parts.problems
        self._app = parts.release.app
        self._stopping = stopping
        self._requests_after = ""
        self._acks_after = "0-0"
        #: How long the next read is left for, after the one that came last.
        self.pause_s = 0.0

    def read(self) -> Iterator[GroupRequest | Learnt]:
        """Wait for something to read, and take it in: see `received`."""
        self.pause_s = 0.0
        wants = self.wants()
        batch = self._log.read(
            wants.after,
            requests_after=wants.requests_after,
            acks_after=wants.acks_after,
            count=wants.most,
            block_ms=BLOCK_MS,
        )
        yield from self.received(batch)
        if _is_a_stream(batch.records, wants.most):
            self.pause_s = GATHER_S

    def wants(self) -> ReadRequest:
        """What comes next."""
        node_state = self._known.node_state
        if not self._requests_after:
            self._requests_after = self._log.newest_request()
        if node_state.holds_term:
            return ReadRequest(None, self._requests_after, self._acks_after, RECORDS_AT_ONCE)
        most = PARTS_AT_ONCE if node_state.view.follows_snapshot else RECORDS_AT_ONCE
        return ReadRequest(self._replica.skipping.cursor, self._requests_after, most=most)

    def received(self, batch: Batch) -> Iterator[GroupRequest | Learnt]:
        """Take in what came of it, and give what is to be acted on before the rest is taken in.

        Raises what `Replica.take` raises, and `CorruptRecord` for what is no record.
        """
        self._acks_after = batch.acks_after or self._acks_after
        if batch.acks or not batch.records:
            self._acks.hear(batch.acks)
        for request in batch.requests:
            self._requests_after = request.id
            yield request
        if batch.records:
            yield from self._take(batch.records)
            self._acks.hear()
        elif (stalled := self._replica.applied.stalled) and not self._known.node_state.holds_term:
            raise Stalled(stalled)  # it reads on, and that it finds nothing does not mend it
        if batch.corrupt is not None and not self._known.node_state.holds_term:
            raise batch.corrupt

    def _take(self, records: list[Record]) -> Iterator[Learnt]:
        # Not under the lock of writes: a disk that hangs is not to be in the way of the end of the node.
        self._replica.saved.make_room()
        term, applied = self._known.node_state.view.term, self._replica.applied
        if records[-1].id.term > term:  # of all of them, if of any: their ids ascend
            # Records do not say whose they are, and the HA loop may not have looked yet since the connection was made.
            view = self._known.node_state.view
            look = with_misnamed_head(self._log, view, self._log.look())
            check_log_is_mine(self._log, view, look, self._app)
        found: Found | None = None
        verdicts: list[Verdict] = []
        with self._replica.write_lock:
            if self._known.node_state.holds_term or self._stopping.is_set():
                return
            if applied.stalled:
                found = self._replica.skipping.look_at(records)
            else:
                verdicts = self._replica.take(records)
                try:
                    self._replica.follow()
                except Stalled as error:
                    self._problems.report("state", error)
        turns = [verdict for verdict in verdicts if verdict is not APPLY]  # nearly always none
        if found and found is Found.GIVES_UP:
            self._replica.give_up_state(self._replica.skipping.give_way())
        elif applied.stalled:
            raise Stalled(applied.stalled)
        if found and found is Found.LEADS:
            yield Learnt.LEADS
        if turns:
            yield from _learnt(turns)
        if applied.markers:
            yield Learnt.NEWS
        if RESTORE in turns or _are_awaited(records):
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Somebody waits until standbys have a change on their disks: this one has."""
        node_state = self._known.node_state
        if node_state.view.in_sync:
            with suppress(LogUnavailable):  # the next heartbeat says it, too
                self._log.ack(Ack(node_state.me.node, self._replica.synced_upto))


def _learnt(verdicts: Sequence[Verdict]) -> Iterator[Learnt]:
    if any(verdict in LEADING for verdict in verdicts):
        yield Learnt.LEADS
    elif Verdict.FOLLOW in verdicts or Verdict.STEP_DOWN in verdicts:
        yield Learnt.NEWS  # to learn where the new primary is reached, and to report


def _is_a_stream(records: Sequence[Record], most: int) -> bool:
    """Whether more changes came while those before them were taken in, and nobody waits for one of these.

    After one alone the next read begins at once: its writer may wait until it is applied. So it does where as many came
    as a read takes: there is more.
    """
    if not 1 < len(records) < most:
        return False
    return all(isinstance(record, ChangeRecord) for record in records) and not _are_awaited(records)


def _are_awaited(records: Sequence[Record]) -> bool:
    """Whether somebody waits until one of these changes is on the disks of standbys."""
    return any(isinstance(record, ChangeRecord) and record.wants_acks for record in records)
