"""Changes that wait to be committed, many in one record.

A submitter that finds the write lock free takes it and commits; one that does not queues its change, and sleeps. The
thread that holds the lock commits all that is queued, in one record, and wakes those whose changes it carried; then the
first of those that came meanwhile takes the lock. Alone, a submitter waits for nobody; many share one round trip.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import suppress
from typing import Any

from .. import tracing
from ..errors import LogUnavailable, OutcomeUnknown, ReplicatorError
from ..format.acts import encode_version
from ..format.codec import CHANGE_BYTES_MAX, Encoded, encode_changes, jsons_of
from ..format.ids import RecordId
from ..format.keyed import ENTRY_BYTES
from ..protocol.node_state import NodeState
from ..replica.applied_state import AppliedState
from ..runtime.event_log import SPEAKER, EventLogger, Speaker
from ..runtime.gil import let_others_run
from .change_check import ChangeCheck
from .commit_waiters import Sleeper, Waiting, finish
from .writer import RecordWriter, now_ms

__all__ = ["BATCH_CHANGES_MAX", "CommitQueue"]

logger = EventLogger(__name__)

#: One record carries at most this many changes, so that no standby works on one for long.
BATCH_CHANGES_MAX = 1000

#: A thread that takes the write lock for something else than changes does not wake the queue: it looks again by itself.
LOOK_AGAIN_S = 0.01

#: How long a thread that sends a snapshot leaves the lock to changes that wait for it, and one that commits changes to
#: another thread: long enough for that to wake up and take it. If the lock were just released, the other thread would
#: wait for another part, or record, and yet another.
YIELD_FOR_S = 0.0002

#: A submitter with no time left may still send a record, for so long, and is told at the latest when that is over, too.
GRACE_S = 0.03

#: An error that comes so shortly before the time is over came because it is.
NEARLY_S = 0.02


class CommitQueue:
    """The changes that wait, and the rule that says which thread commits them next."""

    def __init__(self, writer: RecordWriter, applied: AppliedState, speaker: Speaker | None) -> None:
        self._speaker = speaker
        self._writer = writer
        self._check = ChangeCheck(writer, applied)
        self._write_lock = writer.write_lock
        self._counters = writer.counters
        self._queue: deque[Waiting] = deque()

    def submit(
        self, encoded: Encoded, *, timeout_s: float, term: int | None, wants_acks: int
    ) -> tuple[RecordId, list[Any]]:
        """Commit changes in one record; its id, and what `apply` returned for each, or its `ChangeRejected`.

        See `Node.submit` for what it raises.
        """
        now = time.monotonic()
        deadline = now + timeout_s
        waiting = Sleeper(encoded, term, wants_acks=wants_acks, deadline=deadline, since=now)
        if tracing.active is not None:
            waiting.traced = tracing.active.carried()
        if self._takes_lock(waiting, is_queued=False):  # nobody else writes, so it never sleeps
            return waiting.outcome
        waiting.may_sleep()
        self._queue.append(waiting)
        while not waiting.done and not self._takes_lock(waiting, is_queued=True):
            if time.monotonic() > deadline:
                raise self.give_up(waiting)
            waiting.wait(LOOK_AGAIN_S)
        return waiting.outcome

    def _takes_lock(self, waiting: Sleeper, *, is_queued: bool) -> bool:
        """Take the write lock if it is free, and commit what is queued until this is done; whether it was free."""
        write_lock = self._write_lock
        if not write_lock.acquire(blocking=False):
            return False
        waiting.has_lock = True
        try:
            deadline = waiting.deadline
            if is_queued or self._queue:
                if not is_queued:
                    self._queue.append(waiting)
                self._commit_queued(deadline + GRACE_S)
            else:
                self._commit([waiting], deadline + GRACE_S)
            while not waiting.done and time.monotonic() < deadline:
                self._commit_queued(deadline + GRACE_S)
        finally:
            waiting.has_lock = False
            write_lock.release()
        if self._queue or self._writer.unresolved is not None:
            self._pass_on()
        if not waiting.done:
            raise self.give_up(waiting)
        return True

    def enqueue(self, waiting: Waiting) -> None:
        """Queue it for the thread that takes the write lock, which the caller sees to (`commit_all`)."""
        self._queue.append(waiting)

    @property
    def has_queued(self) -> bool:
        """Whether a submitter waits that has time to."""
        return bool(self._queue) or self._first_unresolved is not None

    @property
    def _first_unresolved(self) -> Waiting | None:
        """The first of those that have time to wait for what becomes of a record whose answer is missing."""
        sent = self._writer.unresolved
        if sent is None or not sent.batch:
            return None
        now = time.monotonic()
        return next((each for each in sent.batch if not each.done and each.deadline > now), None)

    def commit_all(self) -> None:
        """Commit what is queued. Others get the lock between two records: there may be more for ever."""
        write_lock = self._write_lock
        while self.has_queued:
            with write_lock:
                self._commit_queued()
            if self._queue and write_lock.is_wanted:
                let_others_run(YIELD_FOR_S)
        self._pass_on()

    def _pass_on(self) -> None:
        """Wake the first of those that queued up meanwhile: it takes the lock next."""
        if (first := self._first_unresolved) is not None:
            first.wake()
        elif self._queue:
            with suppress(IndexError):  # it gave up meanwhile
                self._queue[0].wake()

    def let_in(self) -> None:
        """Between two parts of a snapshot: give the lock to a submitter that sleeps because it was taken."""
        if self._queue:
            self._pass_on()
            let_others_run(YIELD_FOR_S)

    def mark(self) -> None:
        """Commit an empty change: a place in the log at which every node reports the digest of its state."""
        with self._write_lock:
            self._commit_batch(self._writer.check_may_write(), [], math.inf)

    def raise_version(self, version: int, *, by: str) -> None:
        """Commit an act that raises the group to this version, if it is not there yet (`format/acts.py`).

        Raises what `submit` raises.
        """
        with self._write_lock:
            node_state = self._writer.check_may_write()
            before = node_state.view.version
            if before >= version:
                return
            codec, body, digest = encode_version(version, before=before, by=by)
            record = node_state.change(
                codec=codec,
                body=body,
                digest=digest,
                count=1,
                at=now_ms(),
                version=version,
                sealer=self._writer.sealing.sealer,
            )
            self._writer.write(record, changes=[])

    def give_up(self, waiting: Waiting) -> ReplicatorError:
        """Take it out of the queue; what to tell its submitter, which cannot wait any longer."""
        error: ReplicatorError
        try:
            self._queue.remove(waiting)
            problem = "earlier writes are still waiting; nothing was written"
            error = LogUnavailable(url=self._writer.url, problem=problem)
        except ValueError:
            # It is on its way, or done: whoever has it will say.
            error = OutcomeUnknown(url=self._writer.url, problem="the answer to an earlier write is still due")
        self._counters.failed(error, 1)
        return error

    def _commit_queued(self, until: float = math.inf) -> None:
        """Commit what goes into one record. The caller holds the write lock, and has no longer than `until`."""
        self._commit(self._next_batch(), until)

    def _commit(self, batch: list[Waiting], until: float) -> None:
        results: list[Any] = []
        error: ReplicatorError | None = None
        token = SPEAKER.set(self._speaker)
        try:
            node_state = self._writer.check_may_write(until)
            if len(batch) != 1 or batch[0].term is not None:
                batch = self._of_this_term(batch, node_state.view.term)
            writes = self._checked(batch, until) if self._check.is_asked else batch
            results = self._commit_batch(node_state, writes, until) if writes else []
        except LogUnavailable as problem:
            error = problem
            if time.monotonic() > until - NEARLY_S:
                batch = self._without_those_who_wait_on(batch, problem)
        except ReplicatorError as problem:
            error = problem
        except Exception as bug:
            # Whoever waits for one of these would wait for ever.
            logger.exception("bug", "a bug in replicator")
            error = ReplicatorError(f"a bug in replicator: {bug!r}")
        except BaseException:
            # A Ctrl-C in the thread that writes for all of them. Nobody else will tell the others.
            unknown = OutcomeUnknown(url=self._writer.url, problem="the writing thread was interrupted")
            self._finish(batch, [], unknown)
            raise
        finally:
            SPEAKER.reset(token)
        self._finish(batch, results, error)

    def _checked(self, batch: list[Waiting], until: float) -> list[Waiting]:
        """Those of which something is left to be written once the application was asked."""
        self._check.look_through(batch, until)
        return [waiting for waiting in batch if waiting.count]

    def _without_those_who_wait_on(self, batch: list[Waiting], problem: LogUnavailable) -> list[Waiting]:
        """The time of whoever committed is over; those that have more of it are not told yet.

        The next one that takes the lock goes on for them, with the same record if that may be in the log.
        """
        now = time.monotonic()
        others = [waiting for waiting in batch if waiting.deadline > now]
        if not isinstance(problem, OutcomeUnknown):
            self._queue.extendleft(reversed(others))
        elif (sent := self._writer.unresolved) is not None:
            self._writer.unresolved = sent._replace(batch=tuple(batch))
        else:
            return batch  # nobody will ever know
        return [waiting for waiting in batch if waiting.deadline <= now]

    def _finish(self, batch: list[Waiting], results: list[Any], error: ReplicatorError | None) -> None:
        if error is not None and batch:
            self._counters.failed(error, len(batch))
        finish(batch, self._writer.node_state.view.position.id, results, error)

    def _of_this_term(self, batch: list[Waiting], term: int) -> list[Waiting]:
        """Refuse what was meant for another term: the lock keeps this one until the record is in the log."""
        refused = False
        for waiting in batch:
            if waiting.term is not None and waiting.term != term:
                refused = True
                waiting.error = self._writer.other_term(waiting.term)
                waiting.finish()
        return [waiting for waiting in batch if not waiting.done] if refused else batch

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size, count = 2, 0
        # As entries, changes without keys take more: a record in which any has a key has entries for all.
        more, keyed = 0, False
        queue = self._queue
        while queue:
            try:
                waiting = queue.popleft()
            except IndexError:  # its submitter gave up meanwhile
                break
            size += len(waiting.json) + 1
            count += len(waiting.changes)
            keyed = keyed or waiting.keyed
            more += 0 if waiting.keyed else ENTRY_BYTES * len(waiting.changes)
            if batch and (size + (more if keyed else 0) > CHANGE_BYTES_MAX or count > BATCH_CHANGES_MAX):
                queue.appendleft(waiting)
                break
            batch.append(waiting)
        return batch

    def _commit_batch(self, node_state: NodeState, batch: list[Waiting], until: float) -> list[Any]:
        if len(batch) == 1 and not batch[0].withheld:  # the same as below, for one that is alone
            (one,) = batch
            changes, jsons, wants_acks, keyed = one.changes, [one.json], one.wants_acks, one.keyed
        else:
            written = [waiting.to_write for waiting in batch]
            keyed = any(waiting.keyed for waiting in batch)
            wants_acks = min((waiting.wants_acks for waiting in batch if waiting.wants_acks), default=0)
            changes = [each for some in written for each in some.changes]
            jsons = jsons_of(written, keyed=keyed)
        codec, body, digest = encode_changes(jsons, "keyed") if keyed else encode_changes(jsons)
        append = self._traced(batch, len(changes)) if tracing.active is not None else None
        record = node_state.change(
            codec=codec,
            body=body,
            digest=digest,
            count=len(changes),
            at=now_ms(),
            wants_acks=wants_acks,
            trace="" if append is None else append.header,
            sealer=self._writer.sealing.sealer,
        )
        since = [waiting.since for waiting in batch] if self._counters.timings is not None else ()
        if append is None:
            return self._writer.write(record, until=until, changes=changes, since=since)
        with append.of(record.id):
            return self._writer.write(record, until=until, changes=changes, since=since)

    def _traced(self, batch: list[Waiting], changes: int) -> tracing.Append | None:
        """The span of a record with the changes of this batch, if any of its callers is traced."""
        callers, active = [each for waiting in batch for each in waiting.traced], tracing.active
        if active is None or not callers:
            return None
        node_state = self._writer.node_state
        return active.append(callers, group=self._writer.group, node=node_state.me.node, changes=changes)
