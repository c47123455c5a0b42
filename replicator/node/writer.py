"""Writing to the log, record by record, and what to do when no answer comes.

Append first, apply after: the state of a primary that was fenced never moves. When an answer is lost the primary does
not guess. The record stays `unresolved`, and is sent again, to the letter, before anything else is: compare-and-append
lets it land once, whichever attempt it was. Only the caller who cannot wait for that is told `OutcomeUnknown`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
    ReplicatorError,
    Stalled,
)
from ..format.ids import RecordId, new_tuple
from ..format.records import ChangeRecord, Closed, PartRecord, Record
from ..format.seals import UNSEALED
from ..log.interface import Log
from ..protocol.election import NOBODY
from ..protocol.group import Code, Reply
from ..protocol.node_state import NodeState
from ..protocol.write_outcome import Next, PendingWrite, WriteOutcome
from ..replica.ledger import LedgerImage
from ..replica.rejections import with_rejections
from ..replica.replica import Prepared, Replica
from ..replica.write_lock import WriteLock
from ..runtime.backoff import Backoff
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from .commit_waiters import Waiting, finish
from .lease import Lease

__all__ = ["RESEND_S", "RESEND_S_MAX", "RecordWriter", "Sent", "SnapshotBroken", "now_ms"]

logger = EventLogger(__name__)

_REFUSED = Lasting("write.refused", "write.accepted", "writes are accepted again")

#: How soon an append whose answer was lost is sent again: at first, and at the most. The same for a snapshot of which
#: the parts did not follow each other.
RESEND_S, RESEND_S_MAX = 0.05, 1.0

#: What comes next for a record of which it is not known yet what becomes of it.
_UNDER_WAY = (Next.SEND, Next.LOOK)

#: The answer that nearly every record gets.
_OK = Code.OK

#: How long others may have Redis between two slices of a sweep, each of which takes it about as long.
SWEEP_PAUSE_S = 0.001


class Sent(NamedTuple):
    """A record that is sent. `batch`: those whose changes it has, if they wait on while its answer is looked for."""

    record: ChangeRecord | PartRecord
    rebase: bool
    batch: Sequence[Waiting] = ()


class RecordWriter:
    """Sends one record after another while this node holds the term, and folds what is in the log.

    `patience_s`: how long a lost answer is waited for.
    """

    def __init__(self, log: Log, replica: Replica, lease: Lease, *, patience_s: float) -> None:
        self.counters = replica.counters
        self._log = log
        self._replica = replica
        self._lease = lease
        #: Its `sealer` seals what is written.
        self.sealing = UNSEALED if log.sealing is None or isinstance(log.sealing, Closed) else log.sealing
        self._patience_s = patience_s
        #: A record that may be in the log: it is sent again before anything else is.
        self.unresolved: Sent | None = None
        self._log_once = LogOnce(logger)

    @property
    def write_lock(self) -> WriteLock:
        """Only the thread that holds it writes."""
        return self._replica.write_lock

    @property
    def node_state(self) -> NodeState:
        """This node as the protocol sees it."""
        return self._replica.known.node_state

    @property
    def url(self) -> str:
        """Of the log."""
        return self._log.url

    def rejecting(self, ledger: LedgerImage, skipped: RecordId) -> LedgerImage:
        """That ledger, in which the keys of a change are rejected that the group goes on without."""
        change, reason = self._log.find(skipped), self._replica.skipping.reason
        return with_rejections(ledger, change, reason) if isinstance(change, ChangeRecord) else ledger

    @property
    def group(self) -> str:
        """Whose node this is."""
        return self._replica.group

    def sweep(self, until: float) -> None:
        """Have the log delete what a snapshot cut, a slice at a time.

        What fails, or is not done by `until`, is done with the next snapshot.
        """
        with suppress(LogUnavailable):
            while time.monotonic() < until and self._log.sweep():
                time.sleep(SWEEP_PAUSE_S)

    # --- may it? -----------------------------------------------------------------------------------------------------

    def check_may_write(self, until: float = math.inf) -> NodeState:
        """The node state, which leads, and whose lease is not over. The caller has the write lock, as for all below.

        What is written is sealed by this very one. The thread that holds the lease may hear in the meantime that its
        term is over, and then the log refuses the record.
        """
        node_state = self.check_holds(until)
        if not node_state.view.in_sync:  # it holds the term, so this is all that it may lack to be the primary
            raise NotPrimary("{node} holds the term, but the log does not have its state yet; try again soon",
                             node=node_state.me.node)  # fmt: skip
        if not self._lease.held:
            self.counters.fenced["lease"] += 1
            raise LeaseLost(node=node_state.me.node)
        return node_state

    def check_holds(self, until: float, term: int | None = None) -> NodeState:
        """The node state, which holds the term, and `term` if one is meant. Raises `NotPrimary` or `Stalled`."""
        if self.unresolved is not None:
            self._resolve(until)
        node_state = self._replica.known.node_state
        if stalled := self._replica.applied.stalled:
            raise Stalled(stalled)
        if not node_state.holds_term or (term is not None and term != node_state.view.term):
            raise _not_primary(node_state)
        return node_state

    def other_term(self, meant: int | None) -> Fenced:
        """For what was meant for another term than the present one."""
        node_state = self._replica.node_state
        self.counters.fenced["submit"] += 1
        return Fenced(meant or 0, node_state.view.term, node_state.me.node)

    @contextmanager
    def held(self, lock: threading.Lock | WriteLock, until: float) -> Iterator[None]:
        """Have a lock, which others give back when they are done. Raises `LogUnavailable` if they are not in time."""
        if not lock.acquire(timeout=_left_s(until)):
            problem = "what is written before this has not come to an end; nothing was written"
            raise LogUnavailable(url=self._log.url, problem=problem)
        try:
            yield
        finally:
            lock.release()

    def _resolve(self, until: float = math.inf) -> None:
        """Settle a write whose answer was lost, before anything else is written."""
        sent, self.unresolved = self.unresolved, None
        if sent is None:
            return
        try:
            self._resolve_sent(sent, until)
        except BaseException as error:
            self._interrupted(sent, error)
            raise

    def _resolve_sent(self, sent: Sent, until: float) -> None:
        node_state = self._replica.node_state
        if not node_state.holds_term or sent.record.prev != node_state.view.position.chain:
            # As a standby it finds out from the log.
            self._finish(sent, [], OutcomeUnknown(url=self._log.url, problem="the term ended meanwhile"))
            return
        try:
            prepared = self._send(sent, uncertain=True, until=until)
            results = self._fold(sent, prepared)
        except OutcomeUnknown as unknown:
            if self.unresolved is None:  # nobody will ever know
                self._finish(sent, [], unknown)
            problem = f"an earlier write has no answer yet ({unknown.fields['problem']}); nothing was written"
            raise LogUnavailable(url=self._log.url, problem=problem) from None
        except SnapshotBroken:
            return
        except ReplicatorError as error:
            self._finish(sent, [], error)
            raise
        self._finish(sent, results, None)

    def _finish(self, sent: Sent, results: list[Any], error: ReplicatorError | None) -> None:
        finish(sent.batch, self.node_state.view.position.id, results, error)

    def settle(self) -> None:
        """Settle it although nothing else is written: the others may have applied it. Not while somebody writes.

        Raises what `submit` raises, but for a refusal: whoever wrote it was told already that nobody knows.
        """
        if self.unresolved is not None and self._replica.write_lock.acquire(blocking=False):
            try:
                with suppress(Fenced, NotPrimary):
                    self._resolve()
            finally:
                self._replica.write_lock.release()

    # --- one record --------------------------------------------------------------------------------------------------

    def write(
        self,
        record: ChangeRecord | PartRecord,
        *,
        until: float = math.inf,
        rebase: bool = False,
        changes: list[Any] | None = None,
        bodies: Sequence[bytes] = (),
        since: Sequence[float] = (),
    ) -> list[Any]:
        """Send a record, and fold it once it is in the log. `changes`, `bodies`: see `Replica.commit`. `since`: when
        those whose changes it has had submitted them.
        """
        sent = new_tuple(Sent, (record, rebase, ()))
        try:
            if (timings := self.counters.timings) is None:
                prepared = self._send(sent, uncertain=False, until=until)
                return self._fold(sent, prepared, changes=changes, bodies=bodies)
            began = time.monotonic()
            prepared = self._send(sent, uncertain=False, until=until)
            there = time.monotonic()
            results = self._fold(sent, prepared, changes=changes, bodies=bodies)
            if isinstance(record, ChangeRecord):
                timings.wrote((since, record.count, began, there, time.monotonic()))
            return results
        except BaseException as error:
            self._interrupted(sent, error)
            raise

    def _interrupted(self, sent: Sent, error: BaseException) -> None:
        """A Ctrl-C, after whichever call: the record may be in the log, or in the log and not here yet. So it comes
        before anything else that is written, unless the state stalls.
        """
        if not isinstance(error, Exception) and not self._replica.stalled:
            self.unresolved = sent

    def _fold(
        self,
        sent: Sent,
        prepared: Prepared | None = None,
        *,
        changes: list[Any] | None = None,
        bodies: Sequence[bytes] = (),
    ) -> list[Any]:
        record = sent.record
        try:
            results = self._replica.commit(record, prepared=prepared, changes=changes, bodies=bodies)
            counters, size = self.counters, len(record.header) + len(record.body)
            if type(record) is ChangeRecord:  # counted here: a call would cost more than all that it does
                counters.appends += 1
                counters.changes += record.count
                counters.append_bytes += size
            else:
                counters.parts += 1
                counters.part_bytes += size
            return results
        except CheckpointError:
            # It is in the log, and not here yet: that comes before anything else that is written.
            self.unresolved = sent
            raise

    def _send(self, sent: Sent, *, uncertain: bool, until: float) -> Prepared | None:
        """Get a record into the log, or raise: then it is not there, unless it is `OutcomeUnknown`.

        `uncertain`: it was sent before, and the answer was lost. Gives what folding the record comes to, if that was
        worked out in the meantime.
        """
        began = time.monotonic()
        log = self._log if until - began > self._log.takes_s else self._log.within(until)
        answer: Reply | LogUnavailable
        prepared: Prepared | None = None
        try:
            answer, prepared = self._ask(log, sent)
            if answer.code is _OK:  # as nearly always: there is nothing to settle
                self._log_once.over("write")
                return prepared
        except LogUnavailable as problem:
            answer = problem
        except Exception:  # a bug: whether it was sent is not known
            self.unresolved = sent
            raise
        self._settle(self._pursued(sent, answer, log, uncertain=uncertain, began=began, until=until))
        return prepared

    def _pursued(
        self, sent: Sent, first: Reply | LogUnavailable | None, log: Log, *, uncertain: bool, began: float, until: float
    ) -> PendingWrite:
        """What became of a record in the end. `first`: what came of sending it, which was not a plain OK.

        Raises `LogUnavailable` if it was never sent, and `OutcomeUnknown` if there is no time left to find out.
        """
        backoff = Backoff(RESEND_S, RESEND_S_MAX)
        write = PendingWrite(sent.record, self._replica.known.node_state.view.holder.run, uncertain=uncertain)
        while (step := write.next) in _UNDER_WAY:
            try:
                if step is Next.LOOK:
                    write = write.looked(log.find(write.record.id), log.look())
                    continue
                answer, first = first if first is not None else self._ask(log, sent)[0], None
                if isinstance(answer, LogUnavailable):
                    raise answer
                write = write.answered(answer)
                continue
            except OutcomeUnknown as unknown:
                write, problem = write.unanswered(), unknown.fields["problem"]
            except LogUnavailable as unavailable:
                write, problem = write.unsent(), unavailable.fields["problem"]
                if write.next is Next.RAISE:
                    raise
            except Exception:  # a bug: whether it was sent is not known
                self.unresolved = sent
                raise
            self._pause(sent, backoff.failed(), deadline=min(began + self._patience_s, until), problem=problem)
            log = self._log.within(until)
        return write

    def _ask(self, log: Log, sent: Sent) -> tuple[Reply, Prepared | None]:
        """Send it once. What follows from a change is worked out while the log has it, and counts if that takes it."""
        if isinstance(sent.record, PartRecord):
            return log.part(sent.record, rebase=sent.rebase), None
        with log.appending(sent.record) as appending:
            prepared = self._replica.prepare(sent.record)
            return appending.receive(), prepared

    def _pause(self, sent: Sent, seconds: float, *, deadline: float, problem: str) -> None:
        """Wait before it is sent again. Raises `OutcomeUnknown` if there is no time for that."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            self.unresolved = sent
            raise OutcomeUnknown(url=self._log.url, problem=problem)
        time.sleep(min(seconds, left_s))

    def _settle(self, write: PendingWrite) -> None:
        """After an answer that was not a plain OK: note what it says, and raise unless the record is in the log."""
        reply, outcome = write.reply, write.outcome
        assert reply is not None
        assert outcome is not None
        self._replica.known.refused(reply)
        if reply.code is Code.FENCED:
            self.counters.fenced["append"] += 1
        if write.next is Next.FOLD:
            self._log_once.over("write")
            return
        kind = f"{outcome.value} ({reply.code.value})"
        self._log_once.tell("write", _REFUSED, f"{write.record}: {kind}", kind=kind)
        raise self._error(outcome, reply, write.record)

    def _error(self, outcome: WriteOutcome, reply: Reply, record: Record) -> Exception:
        if outcome is WriteOutcome.AGAIN:
            return SnapshotBroken()
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


def _left_s(until: float) -> float:
    """For a lock: it may be waited for until then; -1 is for ever."""
    return -1 if until == math.inf else max(0.0, until - time.monotonic())


class SnapshotBroken(Exception):
    """The parts of a snapshot do not follow each other in the log: begin it anew."""


def now_ms() -> int:
    """Of this machine (unix)."""
    return int(time.time() * 1000)


def _not_primary(node_state: NodeState) -> NotPrimary:
    """End users may see it while a failover is under way, so it names a command only where one is needed."""
    node, view = node_state.me.node, node_state.view
    if view.term == 0 and not node_state.in_sync:  # nor does it know that there is no log
        return NotPrimary(node=node, hint="it has read nothing of the log yet, so it knows no primary: try again soon")
    if view.term == 0 or view.holder.node == NOBODY.node:
        return NotPrimary(node=node, hint="nobody leads the group: `replicator promote NODE` makes a primary")
    return NotPrimary(node=node, primary=view.holder.node if view.holder.node != node else None)
