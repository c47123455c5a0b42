"""One node's copy of the group's state: what it knows, what it has, and what of that is on its disk, moved together.

Three locks, and what each one means:

 1. `write_lock`   who may move the view. A standby holds it while it folds what it read; the primary from before it
 sends a
             record until it has folded it. So nothing is ever folded twice, or by a node that just lost its term.
 2. `_disk`  who writes the checkpoint. Saves happen in the order of the folds.
 3. `lock`   the state: `apply` runs under it, and so do readers. What folding moves of the member moves under it too,
             so a reader finds state and position together. A restore builds without it, and takes it for the swap.

The turn is always taken first; `moved`, for the member alone and for a moment, last.

A standby saves before it applies: the term of a record is on disk before anything of that term is applied. The primary
applies what is in the log and saves a little later (`flush`), except for its term, which is saved before it leads.

A save is with the system at once, so no kill undoes it. Changes and parts are synced to the disk a moment later (by
`flush`, too) unless somebody waits for that, everything else at once: a power cut may cost a node its last moment, and
no term.

A snapshot that this node needs is decoded while its parts still arrive (`restore.py`). What is built so far is dropped
when the snapshot breaks off. A node in sync decodes none, but for one that replaces the history.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from types import CoroutineType
from typing import Any, NamedTuple

from ..errors import ChangeRejected, CorruptRecord, NoThread, ReplicatorError, Stalled, StateError
from ..format.codec import SnapshotDecoder, decode_changes
from ..format.ids import ZERO_ID, Position, RecordId, Writer
from ..format.records import ChangeRecord, PartRecord, Record, TermRecord
from ..format.snapshot_parts import Progress
from ..format.weight import SNAPSHOT_BYTES_MAX
from ..protocol.fold import Verdict, View
from ..protocol.group import Reply
from ..protocol.node_state import NodeState
from ..runtime.gc_pause import HOLD_COLLECTOR_FROM_BYTES, HeldCollector
from ..runtime.reentrancy import READING, Inside
from ..runtime.telling import Telling
from ..state import ReplicatedState, State
from ..state.callbacks import Application, asked_to_end, said
from ..storage.checkpoint import Checkpoint, Step
from .restore import Dropped, Ending, Failed, Restoring, never, run

__all__ = ["Replica", "Work", "WriteLock", "raising"]

logger = logging.getLogger(__name__)


class Work(NamedTuple):
    """A fold that is to be carried out, with the decoded changes of its record."""

    step: Step
    changes: list[Any]


class _Foreseen(NamedTuple):
    """What folding a record comes to for a member."""

    record: Record
    before: NodeState
    verdict: Verdict
    after: NodeState


class WriteLock:
    """A lock whose holder sees that others wait for it.

    Who commits for many takes it again and again. A lock that was just given back goes to who asks first, and that is
    who is awake: those who sleep on it could wait for as long as there is something to commit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[int] = set()

    @property
    def is_wanted(self) -> bool:
        return bool(self._waiting)

    def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it; whether that was possible, at once or within `timeout` seconds."""
        if self._lock.acquire(blocking=False):
            return True
        if not blocking:
            return False
        me = threading.get_ident()
        self._waiting.add(me)
        try:
            return self._lock.acquire(timeout=timeout)
        finally:
            self._waiting.discard(me)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Replica:
    """A state, the member that says what it contains, and the checkpoint that keeps both.

    `me` has a boot that was drawn for this start. The state is rebuilt from the checkpoint here and now.
    `snapshot_bytes_max`: what a snapshot may weigh when it is unpacked (`format/weight.py`).
    """

    def __init__(
        self,
        state: State | ReplicatedState,
        checkpoint: Checkpoint,
        me: Writer,
        *,
        snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    ) -> None:
        self.state = state
        #: Who must not wait for this node, and the callbacks of the application.
        self.inside = Inside(me.node)
        self.application = Application(state, self.inside)
        self.write_lock = WriteLock()
        self.lock = threading.Lock()
        #: Held while the member moves, notified once it has.
        self.moved = threading.Condition()
        #: Why this node applies nothing any more, if it does not: a bug in the application.
        self.stalled = ""
        #: Why the state is not yet what was published, if it is not: something in its surroundings, which may pass.
        self.unwritten: StateError | None = None
        #: The writer's clock (unix ms) of the newest record in the state; 0: not known.
        self.applied_at = 0
        #: Stale records that were ignored since the start.
        self.rejected = 0
        #: What was wrong with the newest record that this node needed and passed by; None: it has all there is.
        self.passed_by: CorruptRecord | None = None
        self.snapshot_bytes_max = snapshot_bytes_max
        #: The newest marker in the state, if its digest is still to be reported, and the pieces of the state there.
        self.markers: deque[tuple[RecordId, Iterable[Any]]] = deque(maxlen=1)
        self._telling = Telling(logger)
        self._boot = me.boot
        self._disk = threading.Lock()
        self._unsaved: deque[Step] = deque()
        # Bytes of changes, since the start: two counters, because each is moved under a lock of its own.
        self._committed_bytes = self._saved_bytes = 0
        #: What is built of the snapshot that passes by, if this node needs it, or the newest that was dropped.
        self._restoring: Restoring | None = None
        self._restores: Progress | None = None
        self._closed = False
        self._expected: _Foreseen | None = None
        self._checkpoint = checkpoint
        self.node_state = self._load(me)

    # --- start -------------------------------------------------------------------------------------------------------

    def _load(self, me: Writer) -> NodeState:
        """The member as of the last save, and the state with it."""
        loaded = self._checkpoint.load()
        if loaded is None:
            return NodeState(me=me, view=View())
        return NodeState(me=me, view=self._load_state(loaded.view, me), previous_boot=loaded.boot)

    def _load_state(self, view: View, me: Writer) -> View:
        """Make the state what it was as of this view, of the newest snapshot and the changes since; its own view."""
        pieces = self._checkpoint.payload(snapshot_bytes_max=self.snapshot_bytes_max)
        if pieces is not None:
            self._restore_own(pieces, view)
        for record in self._checkpoint.changes():
            try:
                self._apply(record, _changes_of(record))
            except Stalled:
                # It keeps its place, which is before this record, and says so. Before a change of a term there is
                # another record of that term, at the least the one that opens it.
                place = Position(RecordId(record.id.term, record.id.n - 1), record.prev)
                return view._replace(position=place, cursor=place)
        return view

    def _restore_own(self, pieces: Iterable[Any], view: View) -> None:
        with HeldCollector() as collector:
            if self._checkpoint.payload_bytes >= HOLD_COLLECTOR_FROM_BYTES:
                collector.hold()
            try:
                run(self.application, pieces, nullcontext)  # it is saved, and nobody reads yet
            except Failed as failed:
                if isinstance(failed.__cause__, StateError):
                    raise failed.__cause__ from None
                raise Stalled(id=view.position.id, problem=failed) from failed.__cause__

    # --- readers -----------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The state, between two records. While it is held, nothing is applied. Raises `WouldDeadlock`."""
        self.inside.check("reading()")
        with self.lock, self.inside.of(READING):
            yield self.state

    # --- what a node reads -------------------------------------------------------------------------------------------

    def take(self, records: Sequence[Record]) -> list[Verdict]:
        """Fold what was read from the log, save it, apply it. The caller has the turn, and does not hold the term.

        Stops after a record that makes this node the holder, or that has it read on from elsewhere. Records that were
        folded already are passed over. Raises `CorruptRecord`, `CheckpointError` or `Stalled`; what came before the
        record at fault is done by then, and the node keeps its place.
        """
        if self.stalled:
            raise Stalled(self.stalled)
        work: list[Work] = []
        verdicts: list[Verdict] = []
        node_state = self.node_state
        try:
            for record in records:
                if record.id <= node_state.view.cursor.id:
                    continue
                if not node_state.takes(record):
                    raise CorruptRecord.beyond(record.id, node_state.view.cursor.id)
                verdict, after = node_state.fold(record)
                step = Step(record, verdict, after.view)
                if self._restores is not None:
                    self._drop_unless(after.view.snapshot)
                self._tell(step, node_state.view)
                verdicts.append(verdict)
                alone = self._alone(step)
                if alone is not None:
                    self._carry_out(work, node_state)
                    work = []
                    alone(step, node_state.view, after)
                    node_state = self.node_state
                    if verdict is Verdict.RESTORE or node_state.holds_term or self._closed:
                        break
                    continue
                changes = _changes_of(record) if verdict is Verdict.APPLY else []
                work.append(Work(step, changes))
                node_state = after
                if node_state.holds_term:
                    break
        except CorruptRecord:
            self._carry_out(work, node_state)
            raise
        self._carry_out(work, node_state)
        return verdicts

    def _alone(self, step: Step) -> Callable[[Step, View, NodeState], None] | None:
        """What takes a record that is not saved and applied together with others, given the view before it."""
        return self._restore if step.verdict is Verdict.RESTORE else None

    def _carry_out(self, work: list[Work], node_state: NodeState) -> None:
        if not work:
            return
        before = self.node_state.view
        moves = node_state.view.term == before.term and all(_only_moves(done.step) for done in work)
        self._save([done.step for done in work], synced=not moves)
        with self.lock:
            for step, changes in work:
                if step.verdict is Verdict.APPLY:
                    try:
                        self._apply(step.record, changes)
                    except Stalled:
                        self._adopt(node_state._replace(view=before))
                        raise
                before = step.view
            self._adopt(node_state)
        self._build(work)

    # --- snapshots that it needs -------------------------------------------------------------------------------------

    def _build(self, saved: Sequence[Work]) -> None:
        """Decode what was saved of a snapshot that this node needs, or that replaces what it has, on another thread."""
        progress = saved[-1].step.view.snapshot
        if progress is None or progress.complete:
            return
        key = _without_place(progress)
        for (record, verdict, view), _ in saved:
            if not isinstance(record, PartRecord) or view.snapshot is None or _without_place(view.snapshot) != key:
                continue
            if verdict is Verdict.NEED_SNAPSHOT or (verdict is Verdict.SKIP and record.replaces):
                try:
                    if self._restores is None:
                        self._begin(record, key)
                except NoThread as problem:
                    # With the next part, perhaps; with the last one it is restored here, from what is saved.
                    logger.warning("the snapshot is not decoded while it arrives: %s", problem)
                    return
                assert self._restoring is not None
                self._restoring.feed(record)

    def _begin(self, part: PartRecord, key: Progress) -> None:
        self._restoring = Restoring(
            self.application,
            part,
            read=self._checkpoint.staged_part,
            spoilt=partial(self._spoilt, part.id),
            after=self._restoring,
            snapshot_bytes_max=self.snapshot_bytes_max,
        )
        self._restores = key
        if self._closed:
            self._restoring.drop()

    def _drop_unless(self, progress: Progress | None) -> None:
        """Drop what is built, unless it is of the snapshot that the view follows."""
        if progress is not None and self._restores == _without_place(progress):
            return
        self._restores = None
        if self._restoring is not None:
            self._restoring.drop()

    def close(self) -> None:
        """The node stops: a restore that is under way is given up, and done at the next start.

        On whichever thread it is: one that is decoded as its parts come in has its own, a snapshot whose last part is
        the first that this boot reads is restored by who reads it.
        """
        self._closed = True
        restoring = self._restoring
        if restoring is not None:
            restoring.drop()

    def _restore(self, step: Step, before: View, after: NodeState) -> None:
        """Put the snapshot that this last part completes in the place of the state."""
        last = step.record
        assert isinstance(last, PartRecord)
        self.flush()  # what this node wrote last, while it led, belongs into a fork as well
        parted_at = after.view.left_behind(before.changed)
        if parted_at is not None and before.changed != ZERO_ID:
            fork = self._checkpoint.write_fork(f"replaced by the snapshot {last.id} of {last.node}", parted_at)
            logger.warning(
                "this node had changes behind %s that the group's history has not: kept as a fork in %s",
                parted_at,
                fork,
            )
        try:
            self._rebuild(last, ending=partial(self._saved_and_swapped, step, after), given_up=self._is_closed)
        except Dropped:
            logger.info("stopping before the snapshot of %s that ends at %s was restored", last.node, last.id)
            return
        except CorruptRecord as problem:
            self._pass_by(last, before, after, problem)
            return
        self._telling.over("snapshot")
        logger.info("rebuilt the state from the snapshot of %s that ends at %s", last.node, last.id)

    def _is_closed(self) -> bool:
        return self._closed

    def _pass_by(self, record: Record, before: View, after: NodeState, problem: CorruptRecord) -> None:
        # The state is what it was. Out of sync behind the record, this node will get a snapshot.
        text = f"{problem}; waiting for another snapshot"
        self._telling.tell("snapshot", logging.ERROR, text, kind="passed by")
        view = before._replace(cursor=record.position, snapshot=None, in_sync=False)
        self._save([Step(record, Verdict.NEED_SNAPSHOT, view)])
        with self.lock:
            self._adopt(after._replace(view=view))
        self.passed_by = problem

    def _rebuild(
        self,
        last: PartRecord,
        *,
        ending: Ending,
        bodies: Iterable[bytes] | None = None,
        given_up: Callable[[], bool] = never,
    ) -> None:
        """Restore the state from `bodies`, or else from the parts that the checkpoint has, and this last one.

        Raises `CorruptRecord` or `CheckpointError` (it is what it was), `Dropped`, or `Stalled` if the application
        fails.
        """
        every = self._bodies_up_to(last) if bodies is None else bodies
        restoring, under_way = self._restoring, self._restores is not None
        self._restores = None
        try:
            if restoring is not None and under_way:
                restoring.complete(last, ending)
                return
            if restoring is not None:
                restoring.join()
            decoder = SnapshotDecoder(last.codec, last.digest, id_=str(last.id), most=self.snapshot_bytes_max)
            with HeldCollector() as collector:
                run(self.application, decoder.pieces(collector.watching(every)), ending, given_up=given_up)
        except Failed as failed:
            raise self._fail(last.id, failed) from failed.__cause__
        finally:
            self._restoring = None  # not before: `close` looks for it

    def _bodies_up_to(self, last: PartRecord) -> Iterable[bytes]:
        return chain(self._checkpoint.staged(), [last.body])

    @contextmanager
    def _saved_and_swapped(self, step: Step, after: NodeState) -> Iterator[None]:
        # When the pieces proved right, and before the state swaps them in: a disk that refuses leaves it as it was.
        self._save([step])
        with self.lock:
            yield
            self._adopt(after)
            self.applied_at = step.record.at

    @contextmanager
    def _swapped(self, step: Step, after: NodeState) -> Iterator[None]:
        # What this node wrote itself is in the log, and on its disk a little later.
        with self.lock:
            yield
            self._unsaved.append(step)
            self._adopt(after)
            self.applied_at = step.record.at

    def _spoilt(self, id_: RecordId, failed: Failed) -> None:
        self._fail(id_, failed)

    def _fail(self, id_: RecordId, failed: Failed) -> Stalled:
        logger.error("restore() failed at %s", id_, exc_info=failed.__cause__ or failed)
        return self._stall(id_, failed)

    def _tell(self, step: Step, before: View) -> None:
        record, verdict = step.record, step.verdict
        if verdict is Verdict.REJECT_STALE:
            self.rejected += 1
            over = f"term {record.id.term} is over, the term is {before.term}"
            self._telling.tell("record", logging.WARNING, f"ignored {record}: {over}", kind=f"stale {record.kind}")
        elif verdict is Verdict.CONFLICT:
            what = f"{record} was not written by the holder of its term, {before.holder.node}"
            self._telling.tell("record", logging.ERROR, what, kind=f"conflict {record.kind}")
        else:
            self._telling.over("record")
        if isinstance(record, TermRecord) and verdict not in (Verdict.REJECT_STALE, Verdict.CONFLICT):
            logger.warning("term %d: %s leads (%s, asked by %s)", record.id.term, record.node, record.reason, record.by)
        if before.in_sync and not step.view.in_sync:
            logger.warning("out of sync behind %s, at %s; waiting for a snapshot", before.position.id, record)

    # --- what a node wrote -------------------------------------------------------------------------------------------

    def commit(self, record: Record, *, changes: list[Any] | None = None, bodies: Sequence[bytes] = ()) -> list[Any]:
        """Fold this node's own record, which is in the log; the results of its changes. The caller has the turn.

        A change that was rejected has its `ChangeRejected` as its result. `changes`: what others decode from the
        record, where this node did that already. `bodies`: those of the whole snapshot, if the record is the last part
        of one that replaces the state; without, the checkpoint is asked for those before it.
        """
        expected, self._expected = self._expected, None
        if expected is None or expected.record is not record or expected.before.view is not self.node_state.view:
            expected = self._foreseen(record)
        step = Step(record, expected.verdict, expected.after.view)
        return self._commit(step, expected.before, expected.after, changes, bodies)

    def _commit(
        self, step: Step, before: NodeState, after: NodeState, changes: list[Any] | None, bodies: Sequence[bytes]
    ) -> list[Any]:
        record, verdict, _ = step
        if verdict is Verdict.RESTORE:
            assert isinstance(record, PartRecord)
            if not bodies:
                self.flush()
            self._drop_unless(None)
            self._rebuild(record, ending=partial(self._swapped, step, after), bodies=bodies or None)
            return []
        if verdict is Verdict.APPLY and changes is None:
            changes = _changes_of(record)
        results: list[Any] = []
        with self.lock:
            if verdict is Verdict.APPLY:
                results = self._apply(record, changes or [])
            self._unsaved.append(step)
            self._committed_bytes += _change_bytes(record)
            self._adopt(after, before)
        return results

    def expect(self, record: Record) -> None:
        """Work out what `commit` of this record will do, while it is on its way into the log: nothing is moved."""
        self._expected = self._foreseen(record)

    def _foreseen(self, record: Record) -> _Foreseen:
        before = self.node_state
        return _Foreseen(record, before, *before.fold(record))

    def pieces(self) -> Iterable[Any]:
        """The state as of the position. The caller holds the lock. Raises `SnapshotFailed`, also with a piece."""
        return self.application.snapshot()

    def follow(self) -> None:
        """Give up what the state of a node that does not lead has besides what the group has: here, nothing."""

    def write_state(self) -> None:
        """Make the state what was published, if it could not become that yet: here it could."""

    def flush(self) -> None:
        """Save what was committed and is not on disk yet, and sync what was saved."""
        self._save([])
        self._checkpoint.sync()

    def tidy(self) -> bool:
        """Delete a slice of what is not needed any more on the disk; whether there is more."""
        return self._checkpoint.tidy()

    @property
    def is_tidy(self) -> bool:
        """Whether `tidy` has nothing to do."""
        return self._checkpoint.is_tidy

    @property
    def is_flushed(self) -> bool:
        """Whether `flush` has nothing to do."""
        return not self._unsaved and self._checkpoint.is_synced

    @property
    def synced_upto(self) -> RecordId:
        """The newest record that is in the state, and on this node's disk, whatever happens to its machine."""
        return min(self._checkpoint.synced_upto, self.node_state.view.position.id)

    @property
    def snapshot_bytes(self) -> int:
        """The compressed bytes of the newest snapshot; 0: there is none."""
        return self._checkpoint.payload_bytes

    @property
    def changes_bytes(self) -> int:
        """The bytes of the changes since, as they weigh in the log: headers and bodies."""
        return self._checkpoint.changes_bytes + max(0, self._committed_bytes - self._saved_bytes)

    @property
    def kept_bytes(self) -> int:
        """The same of all changes that the log has, as far as this node knows."""
        return self._checkpoint.kept_bytes + max(0, self._committed_bytes - self._saved_bytes)

    # --- what else happens to its member -----------------------------------------------------------------------------

    def talks_to(self, run: str, *, log_lost: bool = False) -> None:
        """Redis is in this run, and has the log or not."""
        with self.moved:
            self._become(self.node_state.talks_to(run, log_lost=log_lost))

    def beaten(self) -> None:
        """A heartbeat was sent."""
        with self.moved:
            self._become(self.node_state.beaten())

    def refused(self, reply: Reply) -> None:
        """A write or a renewal was refused."""
        with self.moved:
            self._become(self.node_state.refused(reply))

    def _become(self, node_state: NodeState) -> None:
        if node_state is not self.node_state:
            self.node_state = node_state
            if node_state.view.in_sync:
                self.passed_by = None
            self.moved.notify_all()

    def _adopt(self, after: NodeState, before: NodeState | None = None) -> None:
        with self.moved:
            if self.node_state is before:
                self._become(after)
            else:
                # Only what folding moves: the rest moved in another thread since `after` was made.
                self._become(self.node_state._replace(view=after.view, snapshot_end=after.snapshot_end))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _save(self, steps: Sequence[Step], *, synced: bool = True) -> None:
        with self._disk:
            every = [self._unsaved.popleft() for _ in range(len(self._unsaved))]
            every.extend(steps)
            if not every:
                return
            try:
                self._checkpoint.save(every[-1].view, every, boot=self._boot, synced=synced)
            except BaseException:
                # What a standby read it will read again; what was committed here is nowhere else on this node.
                self._unsaved.extendleft(reversed(every[: len(every) - len(steps)]))
                raise
            self._saved_bytes += sum(_change_bytes(step.record) for step in every[: len(every) - len(steps)])

    def _apply(self, record: Record, changes: Sequence[Any]) -> list[Any]:
        """Apply the changes of one record. Raises `Stalled`, from then on, if the application fails at one."""
        results: list[Any] = []
        with self.inside.of("apply()"):
            for change in changes:
                try:
                    result = self.state.apply(change)  # type: ignore[union-attr]
                    if type(result) is CoroutineType:  # of a function that only returns one: it was not seen before
                        result.close()
                        raise TypeError("apply() gave a coroutine, and did nothing")
                    results.append(result)
                except ChangeRejected as rejected:
                    results.append(rejected)
                except BaseException as error:
                    logger.exception("apply() failed at %s, at the change %.200r", record.id, change)
                    stalled = self._stall(record.id, error)
                    if asked_to_end(error):
                        raise  # what it left of the state nobody knows
                    raise stalled from error
        if not changes:
            self.markers.append((record.id, self._marked()))
        self.applied_at = record.at
        return results

    def _marked(self) -> Iterable[Any]:
        """The state at a marker. What is wrong with it is for whoever digests it: the record is not to blame."""
        try:
            return self.application.snapshot()
        except ReplicatorError as error:
            return raising(error)

    def _stall(self, id_: RecordId, error: BaseException) -> Stalled:
        stalled = Stalled(id=id_, problem=error if isinstance(error, Failed) else said(error))
        self.stalled = str(stalled)
        return stalled


def raising(error: ReplicatorError) -> Iterator[Any]:
    """Pieces that cannot be drawn, for whoever tries."""
    raise error
    yield


def _change_bytes(record: Record) -> int:
    return len(record.header) + len(record.body) if isinstance(record, ChangeRecord) else 0


def _only_moves(step: Step) -> bool:
    """Whether the record may be read again after a power cut, as if it had not been read."""
    if step.verdict is Verdict.APPLY:
        assert isinstance(step.record, ChangeRecord)
        return not step.record.wants_acks
    return step.verdict is Verdict.SKIP


def _without_place(progress: Progress) -> Progress:
    """Which snapshot it is, and not how far it has passed by."""
    return progress._replace(next_part=0, complete=False)


def _changes_of(record: Record) -> list[Any]:
    if not isinstance(record, ChangeRecord):
        return []
    return decode_changes(record.codec, record.body, record.digest, record.count, id_=str(record.id))
