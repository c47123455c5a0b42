"""Writing to the log: group commit of changes, snapshots in parts, and what to do when no answer comes.

Whoever submits a change queues it, and takes the turn if that is free. Who has the turn commits all that is queued, in
one record, and wakes those whose changes it carried; then the first of those who came meanwhile takes the turn. Alone,
a submitter waits for nobody; many share one round trip.

Append first, apply after: the state of a primary that was fenced never moves. When an answer is lost the primary does
not guess. The record stays `_unresolved`, and is sent again, to the letter, before anything else is: compare-and-append
lets it land once, whichever attempt it was. Only the caller who cannot wait for that is told `OutcomeUnknown`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from ..errors import (
    CheckpointError,
    CorruptRecord,
    Fenced,
    LeaseLost,
    LogLost,
    LogUnavailable,
    NotPrimary,
    OutcomeUnknown,
    Outdated,
    ReplicatorError,
    Stalled,
)
from ..format.codec import CHANGE_BYTES_MAX, Encoded, SnapshotEncoder, digest_of, encode_changes
from ..format.ids import RecordId
from ..format.patch import CODEC, cut
from ..format.records import ChangeRecord, PartRecord, Record
from ..format.snapshot_parts import Cutter
from ..log.interface import Log
from ..protocol.election import NOBODY
from ..protocol.group import Code, Reply
from ..protocol.node_state import NodeState, Snapshot
from ..protocol.snapshot_policy import NEVER, snapshot_is_due
from ..protocol.write_outcome import Next, PendingWrite, WriteOutcome
from ..replica.gc_pause import HOLD_COLLECTOR_FROM_BYTES, HeldCollector
from ..replica.replica import Replica
from ..replica.write_lock import WriteLock
from ..runtime.backoff import Backoff
from ..runtime.telling import Telling
from ..storage.payload import Made, Published, Whole
from .commit_queue import Sleeper, Waiting
from .lease import Lease

__all__ = [
    "Primary",
]

logger = logging.getLogger(__name__)

#: One record carries at most this many changes, so that no standby works on one for long.
BATCH_CHANGES_MAX = 1000

#: Who takes the turn for something else than changes does not wake the queue: it looks again by itself.
LOOK_AGAIN_S = 0.01

#: Who sends a snapshot stays away so long when changes wait for its turn, and who commits changes when somebody else
#: does: long enough for the other thread to wake up and take it. Just giving the turn back is not, and the other one
#: would wait for another part, or record, and yet another.
YIELD_FOR_S = 0.0002

#: A snapshot that takes longer has the collector look at it after all: the process may need it for something else.
HOLD_COLLECTOR_FOR_S = 5.0

#: How soon an append whose answer was lost is sent again: at first, and at the most. The same for a snapshot of which
#: the parts did not follow each other.
RESEND_S, RESEND_S_MAX = 0.05, 1.0

#: Who has so little time left may still send a record, and hear at the latest when that is over, too.
GRACE_S = 0.03

#: An error that comes so shortly before the time is over came because it is.
NEARLY_S = 0.02


class _Sent(NamedTuple):
    """A record that is sent. `batch`: those whose changes it has, if they wait on while its answer is looked for."""

    record: ChangeRecord | PartRecord
    rebase: bool
    batch: Sequence[Waiting] = ()


class Primary:
    """What this node writes while it holds the term. `patience_s`: how long a lost answer is waited for."""

    def __init__(self, log: Log, replica: Replica, lease: Lease, *, patience_s: float) -> None:
        self._log = log
        self._replica = replica
        self._lease = lease
        self._patience_s = patience_s
        self._queue: deque[Waiting] = deque()
        self._unresolved: _Sent | None = None
        self._publishing = threading.Lock()
        self._telling = Telling(logger)
        #: The newest snapshot that this boot published: how long that took, and when it was over (`time.monotonic`).
        self._published_in_s = 0.0
        self._published_at = -NEVER

    # --- changes -----------------------------------------------------------------------------------------------------

    def submit(
        self, encoded: Encoded, *, timeout_s: float, term: int | None, wants_acks: int
    ) -> tuple[RecordId, list[Any]]:
        """Commit changes in one record; its id, and what `apply` returned for each, or its `ChangeRejected`.

        See `Node.submit` for what it raises.
        """
        deadline = time.monotonic() + timeout_s
        waiting = Sleeper(encoded, term, wants_acks=wants_acks, deadline=deadline)
        self._queue.append(waiting)
        write_lock = self._replica.write_lock
        while not waiting.done:
            if write_lock.acquire(blocking=False):
                waiting.has_turn = True
                try:
                    self._commit_queued(deadline + GRACE_S)
                    while not waiting.done and time.monotonic() < deadline:
                        self._commit_queued(deadline + GRACE_S)
                finally:
                    waiting.has_turn = False
                    write_lock.release()
                self._pass_on()
                if not waiting.done:
                    raise self.give_up(waiting)
            elif time.monotonic() > deadline:
                raise self.give_up(waiting)
            else:
                waiting.wait(LOOK_AGAIN_S)
        return waiting.outcome

    def enqueue(self, waiting: Waiting) -> None:
        """Queue it for whoever takes the turn, which the caller sees to (`commit_all`)."""
        self._queue.append(waiting)

    @property
    def has_queued(self) -> bool:
        return bool(self._queue) or self._first_unresolved is not None

    @property
    def _first_unresolved(self) -> Waiting | None:
        """The first of those who have time to wait for what becomes of a record whose answer is missing."""
        sent = self._unresolved
        if sent is None or not sent.batch:
            return None
        now = time.monotonic()
        return next((each for each in sent.batch if not each.done and each.deadline > now), None)

    def commit_all(self) -> None:
        """Commit what is queued. Others get the turn between two records: there may be more for ever."""
        write_lock = self._replica.write_lock
        while self.has_queued:
            with write_lock:
                self._commit_queued()
            if self._queue and write_lock.is_wanted:
                time.sleep(YIELD_FOR_S)
        self._pass_on()

    def _pass_on(self) -> None:
        """Wake the first of those who queued up meanwhile: it takes the turn next."""
        if (first := self._first_unresolved) is not None:
            first.wake()
        elif self._queue:
            with suppress(IndexError):  # it gave up meanwhile
                self._queue[0].wake()

    def mark(self) -> None:
        """Commit an empty change: a place in the log at which every node reports the digest of its state."""
        with self._replica.write_lock:
            self._commit_batch(self._check_may_write(), [], math.inf)

    def give_up(self, waiting: Waiting) -> ReplicatorError:
        """Take it out of the queue; what to tell its submitter, who cannot wait any longer."""
        try:
            self._queue.remove(waiting)
        except ValueError:
            # It is on its way, or done: whoever has it will say.
            return OutcomeUnknown(url=self._log.url, problem="the answer to an earlier write is still due")
        return LogUnavailable(url=self._log.url, problem="earlier writes are still waiting; nothing was written")

    def _commit_queued(self, until: float = math.inf) -> None:
        """Commit what goes into one record. Whoever has the turn does it, and has no longer than `until`."""
        batch = self._next_batch()
        results: list[Any] = []
        error: ReplicatorError | None = None
        try:
            node_state = self._check_may_write(until)
            batch = self._of_this_term(batch)
            results = self._commit_batch(node_state, batch, until) if batch else []
        except LogUnavailable as problem:
            error = problem
            if time.monotonic() > until - NEARLY_S:
                batch = self._without_those_who_wait_on(batch, problem)
        except ReplicatorError as problem:
            error = problem
        except Exception as bug:
            # Whoever waits for one of these would wait for ever.
            logger.exception("a bug in replicator")
            error = ReplicatorError(f"a bug in replicator: {bug!r}")
        except BaseException:
            # A Ctrl-C in the thread that writes for all of them. Nobody else will tell the others.
            unknown = OutcomeUnknown(url=self._log.url, problem="the writing thread was interrupted")
            self._finish(batch, [], unknown)
            raise
        self._finish(batch, results, error)

    def _without_those_who_wait_on(self, batch: list[Waiting], problem: LogUnavailable) -> list[Waiting]:
        """The time of whoever committed is over, and not that of those who have more: they are not told yet.

        The next one who takes the turn goes on for them, with the same record if that may be in the log.
        """
        now = time.monotonic()
        others = [waiting for waiting in batch if waiting.deadline > now]
        if not isinstance(problem, OutcomeUnknown):
            self._queue.extendleft(reversed(others))
        elif self._unresolved is not None:
            self._unresolved = self._unresolved._replace(batch=tuple(batch))
        else:
            return batch  # nobody will ever know
        return [waiting for waiting in batch if waiting.deadline <= now]

    def _finish(self, batch: Sequence[Waiting], results: list[Any], error: ReplicatorError | None) -> None:
        id = self._replica.node_state.view.position.id
        start = 0
        for waiting in batch:
            end = start + len(waiting.changes)
            waiting.id, waiting.results, waiting.error = id, results[start:end], error
            waiting.finish()
            start = end

    def _of_this_term(self, batch: list[Waiting]) -> list[Waiting]:
        """Refuse what was meant for another term: the turn keeps this one until the record is in the log."""
        term = self._replica.node_state.view.term
        others = [waiting for waiting in batch if waiting.term not in (None, term)]
        for waiting in others:
            waiting.error = self._other_term(waiting.term)
            waiting.finish()
        return [waiting for waiting in batch if not waiting.done] if others else batch

    def _other_term(self, meant: int | None) -> Fenced:
        node_state = self._replica.node_state
        return Fenced(meant or 0, node_state.view.term, node_state.me.node)

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size, count = 2, 0
        queue = self._queue
        while queue:
            try:
                waiting = queue.popleft()
            except IndexError:  # its submitter gave up meanwhile
                break
            size += len(waiting.json) + 1
            count += len(waiting.changes)
            if batch and (size > CHANGE_BYTES_MAX or count > BATCH_CHANGES_MAX):
                queue.appendleft(waiting)
                break
            batch.append(waiting)
        return batch

    def _commit_batch(self, node_state: NodeState, batch: list[Waiting], until: float) -> list[Any]:
        changes = batch[0].changes if len(batch) == 1 else [each for waiting in batch for each in waiting.changes]
        codec, body, digest = encode_changes(waiting.json for waiting in batch)
        record = node_state.change(
            codec=codec,
            body=body,
            digest=digest,
            count=len(changes),
            at=_now_ms(),
            wants_acks=min((waiting.wants_acks for waiting in batch if waiting.wants_acks), default=0),
        )
        return self._write(record, until=until, changes=changes)

    @property
    def publishes(self) -> bool:
        """Whether a snapshot is under way."""
        return self._publishing.locked()

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def publish(self, *, until: float = math.inf) -> None:
        """Send a snapshot of the state as it is now. After a rebase, this is what makes the node the primary.

        What is not sent by `until` is given up (`LogUnavailable`): a snapshot without its last part means nothing.
        """
        with self._held(self._publishing, until):
            began = time.monotonic()
            with HeldCollector(freezes=False) as collector:
                replica = self._replica
                if max(replica.saved.snapshot_bytes, replica.saved.changes_bytes) >= HOLD_COLLECTOR_FROM_BYTES:
                    collector.hold()
                backoff = Backoff(RESEND_S, RESEND_S_MAX)
                while not self._publish_once(collector, until):
                    self._telling.tell("snapshot", logging.WARNING, "the snapshot was interrupted; it begins anew")
                    time.sleep(max(0.0, min(backoff.failed(), until - time.monotonic())))
                self._telling.over("snapshot")
            self._published_at = time.monotonic()
            self._published_in_s = self._published_at - began

    def rehearse(self) -> None:
        """Draw a snapshot and send nothing. Raises what drawing it raises.

        Parts of one that breaks off stay in the log until another one is complete.
        """
        with self._replica.applied.lock:
            pieces = self._replica.pieces()
        for _ in _Parts(pieces, self._replica.snapshot_bytes_max):
            pass

    @property
    def snapshot_is_due(self) -> bool:
        """Whether the log needs another one (`protocol/snapshot_policy.py`), by what is on this node's disk."""
        replica = self._replica
        return snapshot_is_due(
            replica.saved.changes_bytes,
            replica.saved.snapshot_bytes,
            took_s=self._published_in_s,
            ago_s=time.monotonic() - self._published_at,
        )

    def _publish_once(self, collector: HeldCollector, until: float) -> bool:
        replica, began = self._replica, time.monotonic()
        with self._held(replica.write_lock, until):
            node_state = self._check_holds(until)
            with self._held(replica.applied.lock, until):
                snapshot = node_state.begin_snapshot()
                pieces = replica.pieces()
        parts = _Parts(pieces, replica.snapshot_bytes_max)
        for index, body in enumerate(parts):
            with self._held(replica.write_lock, until):
                node_state = self._check_holds(until, snapshot.term)
                try:
                    part = self._part(node_state, snapshot, parts, index, body)
                    self._write(part, until=until, rebase=snapshot.rebase)
                except _SnapshotBroken:
                    return False
            self._let_changes_in()
            if time.monotonic() - began > HOLD_COLLECTOR_FOR_S:
                collector.release()
        logger.info("published the state as of %s in %d parts", snapshot.as_of.id, parts.count)
        return True

    def _let_changes_in(self) -> None:
        """Between two parts. Who found the turn taken sleeps."""
        if self._queue:
            self._pass_on()
            time.sleep(YIELD_FOR_S)

    @contextmanager
    def _held(self, lock: threading.Lock | WriteLock, until: float) -> Iterator[None]:
        """Have a lock, which others give back when they are done. Raises `LogUnavailable` if they are not in time."""
        if not lock.acquire(timeout=_left_s(until)):
            problem = "what is written before this has not come to an end; nothing was written"
            raise LogUnavailable(url=self._log.url, problem=problem)
        try:
            yield
        finally:
            lock.release()

    def replace(
        self,
        pieces: Iterable[Any],
        *,
        term: int | None,
        expect: RecordId | None = None,
        wants_acks: int = 0,
        until: float = math.inf,
    ) -> RecordId:
        """Make these pieces the state, on every node, at one record: its id. Everything else waits meanwhile.

        `expect`: only if the state is what it was there (`Outdated`).
        """
        parts = _Parts(pieces, self._replica.snapshot_bytes_max)
        bodies = list(parts)  # all of it, compressed: what cannot be encoded must not be half sent
        with self._held(self._publishing, until):
            return self._replace(parts, bodies, term, expect, wants_acks, until)

    def _replace(
        self,
        parts: _Parts,
        bodies: list[bytes],
        term: int | None,
        expect: RecordId | None,
        wants_acks: int,
        until: float,
    ) -> RecordId:
        with self._held(self._replica.write_lock, until):
            node_state = self._check_may_write(until)
            if term not in (None, node_state.view.term):
                raise self._other_term(term)
            # The turn keeps it so until the last part is in the log.
            if expect is not None and not node_state.view.is_unchanged_since(expect):
                raise Outdated(expect=expect, position=node_state.view.position.id)
            snapshot = node_state.begin_snapshot(replaces=True)
            for index, body in enumerate(bodies):
                node_state = self._check_holds(until, snapshot.term)
                self._write(
                    self._part(node_state, snapshot, parts, index, body, wants_acks), until=until, bodies=bodies
                )
            return self._replica.node_state.view.position.id

    # --- a state without apply ---------------------------------------------------------------------------------------

    def publish_state(self, whole: Whole, *, wants_acks: int, until: float = math.inf) -> Published:
        """Send what became of the state since it was published last: a patch where that is smaller than all of it."""
        replica = self._replica
        with self._held(self._publishing, until):
            with self._held(replica.write_lock, until):
                term = self._check_may_write(until).view.term
            made = whole.make(partial(self._snapshot_of_now, until))
            if made is None:
                done = Published("nothing", replica.node_state.view.position.id)
            else:
                done = self._send_made(made, term, wants_acks=wants_acks, until=until)
            replica.applied.application.published()
            return done

    def _send_made(self, made: Made, term: int, *, wants_acks: int, until: float) -> Published:
        # An estimate first, to save making a snapshot of 80 MB only to see that a patch of some kB is smaller.
        if made.patch is not None and len(made.patch) <= self._replica.saved.snapshot_bytes // 2:
            return self._send_patch(cut(made.patch), term, wants_acks=wants_acks, until=until)
        parts = _Parts(made.pieces(), self._replica.snapshot_bytes_max)
        bodies = list(parts)
        size = sum(map(len, bodies))
        if made.patch is not None and len(made.patch) < size:
            return self._send_patch(cut(made.patch), term, wants_acks=wants_acks, until=until)
        self._replace(parts, bodies, term, None, wants_acks, until)
        return Published("whole", self._replica.node_state.view.position.id, size)

    def _snapshot_of_now(self, until: float) -> Iterable[Any]:
        with self._held(self._replica.applied.lock, until):
            return self._replica.applied.application.snapshot()

    def _send_patch(self, bodies: list[bytes], term: int, *, wants_acks: int, until: float) -> Published:
        for body in bodies:
            with self._held(self._replica.write_lock, until):
                node_state = self._check_may_write(until)
                if node_state.view.term != term:
                    raise self._other_term(term)
                record = node_state.change(
                    codec=CODEC,
                    body=body,
                    digest=digest_of(body),
                    count=1,
                    at=_now_ms(),
                    wants_acks=wants_acks if body is bodies[-1] else 0,
                )
                self._write(record, until=until)
        return Published("patch", record.id, sum(map(len, bodies)))

    def _part(
        self, node_state: NodeState, snapshot: Snapshot, parts: _Parts, index: int, body: bytes, wants_acks: int = 0
    ) -> PartRecord:
        # Which part is the last one is known only when it has been drawn.
        count = parts.count if index + 1 == parts.count else 0
        return node_state.part(
            snapshot,
            part=index,
            parts=count,
            codec=parts.codec,
            digest=parts.digest,
            body=body,
            at=_now_ms(),
            wants_acks=wants_acks if count else 0,
        )

    # --- may it? -----------------------------------------------------------------------------------------------------

    def _check_may_write(self, until: float = math.inf) -> NodeState:
        """The member, which leads, and whose lease is not over. The caller has the turn, as for everything below.

        What is written is sealed by this very member. The keeper may hear in the meantime that its term is over, and
        then the log refuses the record.
        """
        node_state = self._check_holds(until)
        if not node_state.leads:
            raise NotPrimary("{node} holds the term, but the log does not have its state yet; try again soon",
                             node=node_state.me.node)  # fmt: skip
        if not self._lease.held:
            raise LeaseLost(node=node_state.me.node)
        return node_state

    def _check_holds(self, until: float, term: int | None = None) -> NodeState:
        self._resolve(until)
        node_state = self._replica.node_state
        if self._replica.stalled:
            raise Stalled(self._replica.stalled)
        if not node_state.holds_term or term not in (None, node_state.view.term):
            raise _not_primary(node_state)
        return node_state

    def _resolve(self, until: float = math.inf) -> None:
        """Settle a write whose answer was lost, before anything else is written."""
        sent, self._unresolved = self._unresolved, None
        if sent is None:
            return
        node_state = self._replica.node_state
        if not node_state.holds_term or sent.record.prev != node_state.view.position.chain:
            # As a standby it finds out from the log.
            self._finish(sent.batch, [], OutcomeUnknown(url=self._log.url, problem="the term ended meanwhile"))
            return
        try:
            self._send(sent, uncertain=True, until=until)
            results = self._fold(sent)
        except OutcomeUnknown as unknown:
            if self._unresolved is None:  # nobody will ever know
                self._finish(sent.batch, [], unknown)
            problem = f"an earlier write has no answer yet ({unknown.fields['problem']}); nothing was written"
            raise LogUnavailable(url=self._log.url, problem=problem) from None
        except _SnapshotBroken:
            return
        except ReplicatorError as error:
            self._finish(sent.batch, [], error)
            raise
        self._finish(sent.batch, results, None)

    def settle(self) -> None:
        """Settle it although nothing else is written: the others may have applied it. Not while somebody writes.

        Raises what `submit` raises, but for a refusal: whoever wrote it was told already that nobody knows.
        """
        if self._unresolved is not None and self._replica.write_lock.acquire(blocking=False):
            try:
                with suppress(Fenced, NotPrimary):
                    self._resolve()
            finally:
                self._replica.write_lock.release()

    # --- one record --------------------------------------------------------------------------------------------------

    def _write(
        self,
        record: ChangeRecord | PartRecord,
        *,
        until: float = math.inf,
        rebase: bool = False,
        changes: list[Any] | None = None,
        bodies: Sequence[bytes] = (),
    ) -> list[Any]:
        """Send a record, and fold it once it is in the log. `changes`, `bodies`: see `Replica.commit`."""
        sent = _Sent(record, rebase)
        # What follows from the record is worked out while Redis is.
        self._send(sent, uncertain=False, until=until, meanwhile=partial(self._replica.expect, record))
        return self._fold(sent, changes=changes, bodies=bodies)

    def _fold(self, sent: _Sent, *, changes: list[Any] | None = None, bodies: Sequence[bytes] = ()) -> list[Any]:
        try:
            return self._replica.commit(sent.record, changes=changes, bodies=bodies)
        except CheckpointError:
            # It is in the log, and not here yet: that comes before anything else that is written.
            self._unresolved = sent
            raise

    def _send(self, sent: _Sent, *, uncertain: bool, until: float, meanwhile: Callable[[], None] | None = None) -> None:
        """Get a record into the log, or raise: then it is not there, unless it is `OutcomeUnknown`.

        `uncertain`: it was sent before, and the answer was lost.
        """
        began = time.monotonic()
        deadline = min(began + self._patience_s, until)
        log = self._log if until - began > self._log.takes_s else self._log.within(until)
        backoff = Backoff(RESEND_S, RESEND_S_MAX)
        write = PendingWrite(sent.record, self._replica.node_state.view.holder.run, uncertain=uncertain)
        while write.next in (Next.SEND, Next.LOOK):
            try:
                write = self._go_on(log, sent, write, meanwhile)
                continue
            except OutcomeUnknown as unknown:
                write, problem = write.unanswered(), unknown.fields["problem"]
            except LogUnavailable as unavailable:
                write, problem = write.unsent(), unavailable.fields["problem"]
                if write.next is Next.RAISE:
                    raise
            except BaseException:
                self._unresolved = sent
                raise
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                self._unresolved = sent
                raise OutcomeUnknown(url=self._log.url, problem=problem)
            time.sleep(min(backoff.failed(), left_s))
            log = self._log.within(until)
        self._settle(write)

    def _go_on(self, log: Log, sent: _Sent, write: PendingWrite, meanwhile: Callable[[], None] | None) -> PendingWrite:
        if write.next is Next.SEND:
            return write.answered(_ask(log, sent, meanwhile))
        there = log.find(write.record.id)
        return write.looked(there, log.look())

    def _settle(self, write: PendingWrite) -> None:
        reply, outcome = write.reply, write.outcome
        assert reply is not None
        assert outcome is not None
        if reply.code is Code.OK:
            self._telling.over("write")
            return
        self._replica.known.refused(reply)
        if write.next is Next.FOLD:
            return
        kind = f"{outcome.value} ({reply.code.value})"
        self._telling.tell("write", logging.WARNING, f"{write.record}: {kind}", kind=kind)
        raise self._error(outcome, reply, write.record)

    def _error(self, outcome: WriteOutcome, reply: Reply, record: Record) -> Exception:
        if outcome is WriteOutcome.AGAIN:
            return _SnapshotBroken()
        if outcome is WriteOutcome.UNKNOWN:
            return OutcomeUnknown(url=self._log.url, problem=f"{reply.code.value} after an answer was lost")
        if outcome is WriteOutcome.LOST:
            return LogLost(what=f"the log of group {self._log.group} is gone from {self._log.url}")
        if outcome is WriteOutcome.STRAY:
            return CorruptRecord.stray(reply.id)
        if outcome is WriteOutcome.REFUSED and reply.code is Code.FENCED:
            return Fenced(record.id.term, reply.term, reply.node)
        what = "Redis came back as another run" if reply.code is Code.NEW_RUN else "the log lost records"
        return NotPrimary("{node} has to lead anew: " + what + "; nothing was written", node=record.node)


def _ask(log: Log, sent: _Sent, meanwhile: Callable[[], None] | None) -> Reply:
    if isinstance(sent.record, PartRecord):
        return log.part(sent.record, rebase=sent.rebase)
    return log.append(sent.record, meanwhile=meanwhile)


def _left_s(until: float) -> float:
    """For a lock: it may be waited for until then; -1 is for ever."""
    return -1 if until == math.inf else max(0.0, until - time.monotonic())


class _SnapshotBroken(Exception):
    """The parts of a snapshot do not follow each other in the log: begin it anew."""


class _Parts:
    """Draws pieces and gives bodies. `count` and `digest` are known once the last body was given."""

    def __init__(self, pieces: Iterable[Any], snapshot_bytes_max: int) -> None:
        self._pieces = pieces
        self._encoder = SnapshotEncoder(most=snapshot_bytes_max)
        self.count = 0

    @property
    def codec(self) -> str:
        return self._encoder.codec

    @property
    def digest(self) -> str:
        return self._encoder.digest

    def __iter__(self) -> Iterator[bytes]:
        cutter = Cutter()
        given = 0
        for packed in self._packed():
            for body in cutter.feed(packed):
                given += 1
                yield body
        self.count = given + 1
        yield cutter.finish()

    def _packed(self) -> Iterator[bytes]:
        for piece in self._pieces:
            yield self._encoder.feed(piece)
        yield self._encoder.finish()


def _now_ms() -> int:
    return int(time.time() * 1000)


def _not_primary(node_state: NodeState) -> NotPrimary:
    """End users may see it while a failover is under way, so it names a command only where one is needed."""
    node, view = node_state.me.node, node_state.view
    if view.term == 0 or view.holder.node == NOBODY.node:
        return NotPrimary(node=node, hint="nobody leads the group: `replicator promote NODE` makes a primary")
    return NotPrimary(node=node, primary=view.holder.node if view.holder.node != node else None)
