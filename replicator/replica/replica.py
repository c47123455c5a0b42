"""One node's copy of the group's state: what it knows, what it has, and what of that is on its disk, moved together.

What it knows is a `NodeStateCell`, what it has an `AppliedState`, what is on its disk a `SaveQueue`. How records move
the state depends on its kind (`StateUpdater`). Three locks, and what each one means:

 1. `write_lock`     the right to move the view. A standby holds it while it folds what it read; the primary from before
                     it sends a record until it has folded it. So nothing is ever folded twice, or by a node that just
                     lost its term.
 2. of the queue     saves: they happen in the order of the folds, and under it alone.
 3. `applied.lock`   the state: `apply` runs under it, and so do readers. What folding moves of the node state moves
                     under it too, so a reader finds state and position together. A restore builds without it, and takes
                     it for the swap.

The write lock is always taken first; `known.moved`, for the node state alone and for a moment, last.

A node that reads applies first what it may forget, and saves it a moment later (`flush`): changes and parts that
follow. What it must not forget is on its disk before it goes by it: a term, a restore, a change that somebody waits
for. `protocol/saving.py` says which is which, and why. A state that outlives the process is never ahead of the disk,
but for what its program does. The primary applies its own records first, all of them: they are in the log, and it
vouches for none before its disk has it.

A save is with the system at once, so no kill undoes it, and `flush` has it synced as well. So a kill and a power cut
cost a node the same: its last moment, at the border of a record, and no term.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from .. import tracing
from ..errors import CorruptRecord, Stalled, StateError, UpgradeNeeded
from ..format.ids import RecordId, Writer, new_tuple
from ..format.records import ChangeRecord, PartRecord, Record, TermRecord
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..metrics.counters import Counters
from ..protocol.fold import APPLY, LEADING, RESTORE, Verdict, View
from ..protocol.node_state import NodeState
from ..protocol.saving import may_be_forgotten
from ..protocol.versions import in_an_older_one
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from ..state import ReplicatedState, State
from ..storage.checkpoint import Checkpoint, Step
from ..storage.payload import Whole
from .applied_state import AppliedState, changes_of
from .change_updater import ChangeUpdater
from .divergence import Divergence
from .node_state_cell import NodeStateCell
from .rebuild import Rebuild
from .save_queue import SaveQueue
from .skipping import Skipping
from .state_updater import StateUpdater, Work
from .write_lock import WriteLock

__all__ = ["Prepared", "Replica"]

logger = EventLogger(__name__)

_STALE = Lasting("record.stale", "record.current", "records of the present term are read again")
_CONFLICT = Lasting("record.conflict", "record.agrees", "records of the term's holder are read again", logging.ERROR)
_OUT_OF_SYNC = Lasting("sync.lost", "sync.back", "in sync again")


class Prepared(NamedTuple):
    """What folding a record comes to for a node that is at `before`."""

    before: NodeState
    step: Step
    after: NodeState


class Replica:
    """A state, the node state that says what it contains, and the checkpoint that keeps both.

    `me` has a boot that was drawn for this start. The state is rebuilt from the checkpoint here and now.
    `snapshot_bytes_max`: what a snapshot may weigh when it is unpacked (`format/unpacked_size.py`). `updater`:
    what keeps the state up with the log. `reads`: the versions of the group that the application reads.
    `rejects_errors`: see `AppliedState`. Raises `UpgradeNeeded` if the checkpoint begins at another version.
    """

    def __init__(
        self,
        state: State | ReplicatedState,
        checkpoint: Checkpoint,
        me: Writer,
        *,
        snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
        updater: Callable[[Rebuild], StateUpdater] = ChangeUpdater,
        reads: range = range(1, 2),
        rejects_errors: bool = False,
    ) -> None:
        self.write_lock = WriteLock()
        self.counters = Counters()
        self.known = NodeStateCell(NodeState(me=me, view=View()))
        self.applied = AppliedState(
            state, me.node, reads=reads, rejects_errors=rejects_errors, is_private=checkpoint.is_private
        )
        self.saved = SaveQueue(checkpoint, boot=me.boot, counters=self.counters)
        #: Stale records that were ignored since the start.
        self.rejected = 0
        self._log_once = LogOnce(logger)
        self.divergence = Divergence(checkpoint)
        self._rebuild = Rebuild(
            self.known, self.applied, self.saved, self.divergence, self.counters, snapshot_bytes_max=snapshot_bytes_max
        )
        self._updater = updater(self._rebuild)
        #: What was published of the state, if it is replicated whole.
        self.whole: Whole | None = self._updater.whole
        #: What it does after it stalled at a change.
        self.skipping = Skipping(self.known, self.applied, self.saved, partial(self._updater.load, again=True))
        loaded = checkpoint.load()
        if loaded is not None:
            began = time.monotonic()
            view = self._updater.load(loaded.view)
            self.counters.load_s = time.monotonic() - began
            if self.stalled and self.divergence.given_up and loaded.view.version in reads:
                view = loaded.view  # it waits for a snapshot, as it did before
                self.applied.given_up()
            self.known.node_state = NodeState(me=me, view=view, previous_boot=loaded.boot)
            self.applied.version = view.version

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def node_state(self) -> NodeState:
        """This node as the protocol sees it."""
        return self.known.node_state

    @property
    def group(self) -> str:
        """Whose state it is."""
        return self.saved.checkpoint.group

    @property
    def snapshot_bytes_max(self) -> int:
        """What a snapshot may weigh when it is unpacked."""
        return self._rebuild.snapshot_bytes_max

    @property
    def stalled(self) -> str:
        """Why this node applies nothing any more, if it does not: a bug in the application."""
        return self.applied.stalled

    @property
    def unwritten(self) -> StateError | None:
        """Why the state is not yet what was published, if it is not: something in its surroundings, which may pass."""
        return self.applied.unwritten

    @property
    def synced_upto(self) -> RecordId:
        """The newest record that is in the state, and on this node's disk, whatever happens to its machine."""
        return self._updater.counts_upto(min(self.saved.checkpoint.synced_upto, self.node_state.view.position.id))

    # --- what a node reads -------------------------------------------------------------------------------------------

    def take(self, records: Sequence[Record]) -> list[Verdict]:
        """Fold what was read from the log, and apply it. The caller has the write lock, and not the term.

        What may be forgotten is saved a moment later, everything else before it is applied. Stops after a record that
        makes this node the holder, or that has it read on from elsewhere. Records that were folded already are passed
        over. Raises `CorruptRecord`, `CheckpointError` or `Stalled`; what came before the record at fault is done by
        then, and the node keeps its place.
        """
        if stalled := self.applied.stalled:
            raise Stalled(stalled)
        work: list[Work] = []
        verdicts: list[Verdict] = []
        node_state = self.known.to_fold()
        first, last = self.applied.reads[0], self.applied.reads[-1]
        try:
            for record in records:
                if record.id <= node_state.view.cursor.id:
                    continue
                if not node_state.takes(record):
                    raise CorruptRecord.beyond(record.id, node_state.view.cursor.id)
                verdict, after = node_state.fold(record)
                view = after.view
                if view.version < first:
                    verdict, view = in_an_older_one(verdict, node_state.view, view)
                    after = after._replace(view=view)
                step = new_tuple(Step, (record, verdict, view))
                is_plain = type(record) is ChangeRecord and first <= view.version <= last  # nearly every record is
                if not is_plain and not self._reads(step):
                    raise self.applied.unreadable(record.id, self._meets(step))
                self._updater.follow_snapshot(view.snapshot)
                if verdict is not APPLY or not self._log_once.is_silent:
                    self._tell(step, node_state.view)
                leads = verdict in LEADING and view.term > after.over
                if self.applied.unfit and leads:
                    self._carry_out(work, node_state)
                    raise self.applied.not_to_lead(record.id)
                verdicts.append(verdict)
                alone = self._restore if verdict is RESTORE else self._updater.alone(step)
                if alone is not None:
                    self._carry_out(work, node_state)
                    work = []
                    alone(step, node_state.view, after)
                    node_state = self.known.to_fold()
                    if verdict is RESTORE or node_state.holds_term or self._rebuild.closed:
                        break
                    continue
                changes = changes_of(record) if verdict is APPLY else []
                work.append(new_tuple(Work, (step, changes)))
                node_state = after
                if verdict is not APPLY and node_state.holds_term:  # a change makes nobody the holder
                    break
        except (CorruptRecord, UpgradeNeeded):
            self._carry_out(work, node_state)
            raise
        self._carry_out(work, node_state)
        if not self._log_once.is_silent and self.node_state.in_sync:
            self._log_once.over("sync")
        return verdicts

    def _reads(self, step: Step) -> bool:
        """Whether the application reads what this record leads to. One that it is too new for is followed by a snapshot
        of a newer version, unless this node itself is to lead: then there is none to wait for.
        """
        first, last, version = self.applied.reads[0], self.applied.reads[-1], self._meets(step)
        return version <= last and (version >= first or step.verdict not in LEADING)

    def _meets(self, step: Step) -> int:
        """The version that this node has to read to go by this record: that of its state, or of one that may follow."""
        record = step.record
        if isinstance(record, PartRecord) and step.verdict not in (Verdict.REJECT_STALE, Verdict.CONFLICT):
            return max(record.version, step.view.version)
        return step.view.version

    def _restore(self, step: Step, before: View, after: NodeState) -> None:
        self._rebuild.take(step, before, after, self._updater.rebuild)

    def _carry_out(self, work: list[Work], node_state: NodeState) -> None:
        if not work:
            return
        before, steps = self.known.node_state.view, [done.step for done in work]
        forgets, saves_first = True, False
        for step in steps:
            record, verdict, view = step
            forgets = forgets and may_be_forgotten(record, verdict, before, view)
            saves_first = saves_first or not forgets or self._updater.saves_first(step)
        if saves_first:
            self.saved.save(steps, synced=not forgets)
        timings = self.counters.timings
        began = time.monotonic() if timings is not None else 0.0
        traced = tracing.active
        began_ns = time.time_ns() if traced is not None else 0
        with self.applied.lock:
            for step, changes in work:
                record, verdict, view = step
                if verdict is APPLY:
                    try:
                        self.applied.apply(record, changes, view.version)
                    except BaseException as error:
                        self.applied.interrupted(record.id, error)
                        self.known.adopt(node_state._replace(view=before))
                        raise
                if not saves_first:
                    self.saved.add(step)
                before = view
            self.known.adopt(node_state)
            self.applied.version = node_state.view.version
        if timings is not None and (written := _stamps(steps)):
            timings.followed(len(steps), time.monotonic() - began, written)
        if traced is not None:
            self._trace(traced, steps, began_ns)
        self._updater.build(work)

    def _tell(self, step: Step, before: View) -> None:
        record, verdict = step.record, step.verdict
        if verdict is Verdict.REJECT_STALE:
            self.rejected += 1
            over = f"term {record.id.term} is over, the term is {before.term}"
            self._log_once.tell("record", _STALE, f"ignored {record}: {over}", kind=f"stale {record.kind}")
        elif verdict is Verdict.CONFLICT:
            what = f"{record} was not written by the holder of its term, {before.holder.node}"
            self._log_once.tell("record", _CONFLICT, what, kind=f"conflict {record.kind}")
        else:
            self._log_once.over("record")
        if isinstance(record, TermRecord) and verdict not in (Verdict.REJECT_STALE, Verdict.CONFLICT):
            self._tell_term(record)
        if before.in_sync and not step.view.in_sync:
            what = f"out of sync after {before.position.id}, at {record}; waiting for a snapshot"
            self._log_once.tell("sync", _OUT_OF_SYNC, what)

    def _tell_term(self, record: TermRecord) -> None:
        # An election is the ordinary course of things, and so is the first term, which somebody has to ask for.
        # Somebody who intervenes later is not.
        by_itself = record.by == record.node
        level = logging.INFO if by_itself or record.id.term == 1 else logging.WARNING
        text = "term %d: %s leads (%s%s)"
        told = record.id.term, record.node, record.reason, "" if by_itself else f", asked by {record.by}"
        logger.at(level, "term.began", text, *told, term=record.id.term, holder=record.node, by=record.by)

    def _trace(self, traced: tracing.Tracing, steps: Sequence[Step], began_ns: int) -> None:
        for record, verdict, _ in steps:
            if isinstance(record, ChangeRecord) and record.trace and verdict is APPLY:
                node = self.node_state.me.node
                traced.applied(record.trace, group=self.group, node=node, position=record.id, began_ns=began_ns)

    # --- what a node wrote -------------------------------------------------------------------------------------------

    def prepare(self, record: Record) -> Prepared:
        """Work out what `commit` of this record will do, while the log has it: nothing is moved."""
        before = self.known.to_fold()
        verdict, after = before.fold(record)
        step = new_tuple(Step, (record, verdict, after.view))
        return new_tuple(Prepared, (before, step, after))

    def commit(
        self,
        record: Record,
        *,
        prepared: Prepared | None = None,
        changes: list[Any] | None = None,
        bodies: Sequence[bytes] = (),
    ) -> list[Any]:
        """Fold this node's own record, which is in the log; the results of its changes. The caller has the write lock.

        A change that was rejected has its `ChangeRejected` as its result. `prepared`: what `prepare` gave for it, which
        counts if the node has not moved since. `changes`: what others decode from the record, where this node did that
        already. `bodies`: those of the whole snapshot, if the record is the last part of one that replaces the state;
        without, the checkpoint is asked for those before it.
        """
        if prepared is None or prepared.before is not self.known.node_state or prepared.step.record is not record:
            prepared = self.prepare(record)
        _, step, after = prepared
        _, verdict, view = step
        if self._updater.commit(step, after, bodies):
            return []
        if verdict is APPLY and changes is None:
            changes = changes_of(record)
        results: list[Any] = []
        traced = tracing.active
        began_ns = time.time_ns() if traced is not None else 0
        with self.applied.lock:
            try:
                if verdict is APPLY:
                    results = self.applied.apply(record, changes or [], view.version)
                self.saved.add(step)
                self.known.adopt(after)
                self.applied.version = view.version
            except BaseException as interrupt:
                # Folded once more, it would be in the state twice. So this node applies nothing any more.
                if verdict is APPLY and self.node_state.view.position != view.position:
                    self.applied.interrupted(record.id, interrupt)
                raise
        if traced is not None:
            self._trace(traced, [step], began_ns)
        return results

    # --- its state ---------------------------------------------------------------------------------------------------

    def pieces(self) -> Iterable[Any]:
        """The state as of the position. The caller holds its lock. Raises `SnapshotFailed`, also with a piece."""
        return self._updater.pieces()

    def follow(self) -> None:
        """Give up what the state of a node that does not lead has besides what the group has.

        The caller has the write lock. If that cannot be done now the state is `unwritten`. Raises `Stalled`.
        """
        self._updater.follow()

    def write_state(self) -> None:
        """Make the state what was published, if it could not become that yet. With the write lock or without.

        Raises `StateError`, or `Stalled`.
        """
        self._updater.write_state()

    def give_up_state(self, why: str) -> bool:
        """Have the next snapshot take the place of the state, which is kept as a fork then; whether it is given up.

        One that holds the term has the state that counts. A node that stalled applies again from that snapshot on, and
        does not lead before, whoever asks: its view is that of its disk, which may have more than the state. Raises
        `CheckpointError`: nothing has changed then.
        """
        with self.write_lock:
            node_state = self.known.to_fold()
            if node_state.holds_term:
                return False
            after = self._as_saved(node_state).without_state()
            self.divergence.gives_up(why)
            self.saved.save_view(after.view)
            with self.applied.lock:
                self.applied.given_up()
                self.known.adopt(after)
        logger.warning(
            "state.given_up", "waiting for a snapshot in the place of the state at %s: %s", after.view.position.id, why
        )
        return True

    def _as_saved(self, node_state: NodeState) -> NodeState:
        """Where the disk is, if the state stalled before what was saved first: what that has must not come again."""
        loaded = self.saved.checkpoint.load() if self.stalled else None
        if loaded is None or loaded.view.position.id <= node_state.view.position.id:
            return node_state
        return node_state._replace(view=loaded.view)

    def flush(self) -> None:
        """Save what was applied and is not on disk yet, and sync what was saved. Raises `CheckpointError`."""
        self.saved.flush()

    def close(self) -> None:
        """The node stops: a restore that is under way is given up, and done at the next start."""
        self._rebuild.closed = True
        self._updater.close()


def _stamps(steps: Sequence[Step]) -> list[int]:
    """When the changes that were applied had been written (unix ms)."""
    return [step.record.at for step in steps if step.verdict is APPLY and isinstance(step.record, ChangeRecord)]
