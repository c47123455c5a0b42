"""One node's copy of the group's state: what it knows, what it has, and what of that is on its disk, moved together.

Three locks, and what each one means:

 1. `turn`   who may move the view. A standby holds it while it folds what it read; the primary from before it sends a
             record until it has folded it. So nothing is ever folded twice, or by a node that just lost its term.
 2. `_disk`  who writes the checkpoint. Saves happen in the order of the folds.
 3. `lock`   the state: `apply` and `restore` run under it, and so do readers. What folding moves of the member moves
             under it too, so a reader finds state and position together.

The turn is always taken first; `moved`, for the member alone and for a moment, last.

A standby saves before it applies: the term of a record is on disk before anything of that term is applied. The primary
applies what is in the log and saves a little later (`flush`), except for its term, which is saved before it leads.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import GEN_CLOSED, getgeneratorstate
from itertools import chain
from typing import Any, NamedTuple

from .checkpoint import Checkpoint, Step
from .core.codec import SnapshotDecoder, decode_changes
from .core.fold import Verdict, View
from .core.ids import ZERO_ID, Position, RecordId, Writer
from .core.member import Member
from .core.patch import PatchHead
from .core.records import ChangeRecord, PartRecord, Record, TermRecord
from .core.replies import Reply
from .errors import ChangeRejected, CheckpointError, CorruptRecord, Stalled, StateError
from .patches import Whole
from .state import KeptState, ReplicatedState, State

__all__ = ["Replica"]

logger = logging.getLogger(__name__)

#: Below this, replaying changes is cheaper than any snapshot.
SNAPSHOT_DUE_BYTES_MIN = 1024 * 1024


class _Work(NamedTuple):
    """A fold that is to be carried out, with the decoded changes of its record."""

    step: Step
    changes: list[Any]


class Replica:
    """A state, the member that says what it contains, and the checkpoint that keeps both.

    `me` has a boot that was drawn for this start. The state is rebuilt from the checkpoint here and now.
    """

    def __init__(self, state: State | ReplicatedState, checkpoint: Checkpoint, me: Writer) -> None:
        self.state = state
        self.turn = threading.Lock()
        self.lock = threading.Lock()
        #: Held while the member moves, notified once it has. A restore does not hold it: the node still reports.
        self.moved = threading.Condition()
        #: Why this node applies nothing any more, if it does not: a bug in the application.
        self.stalled = ""
        #: The writer's clock (unix ms) of the newest record in the state; 0: not known.
        self.applied_at = 0
        #: Stale records that were ignored since the start.
        self.rejected = 0
        #: The newest marker in the state, if its digest is still to be reported, and the pieces of the state there.
        self.markers: deque[tuple[RecordId, Iterable[Any]]] = deque(maxlen=1)
        #: What was published of a state without `apply`.
        self.whole = None if isinstance(state, State) else Whole(checkpoint.data_dir)
        self._boot = me.boot
        self._reader = 0
        self._disk = threading.Lock()
        self._unsaved: deque[Step] = deque()
        self._checkpoint = checkpoint
        self.member = self._load(me)

    # --- start -------------------------------------------------------------------------------------------------------

    def _load(self, me: Writer) -> Member:
        """The member as of the last save, and the state with it: the newest snapshot, and the changes since."""
        loaded = self._checkpoint.load()
        if loaded is None:
            return Member(me=me, view=View())
        if self.whole is not None:
            self._load_whole(self.whole, loaded.view, me)
            return Member(me=me, view=loaded.view, previous_boot=loaded.boot)
        pieces = self._checkpoint.payload()
        if pieces is not None:
            self._restore_own(pieces, loaded.view)
        for record in self._checkpoint.changes():
            try:
                self._apply(record, _changes_of(record))
            except Stalled:
                # It keeps its place, which is before this record, and says so. Before a change of a term there is
                # another record of that term, at the least the one that opens it.
                place = Position(RecordId(record.id.term, record.id.n - 1), record.prev)
                view = replace(loaded.view, position=place, cursor=place)
                return Member(me=me, view=view, previous_boot=loaded.boot)
        return Member(me=me, view=loaded.view, previous_boot=loaded.boot)

    def _load_whole(self, whole: Whole, view: View, me: Writer) -> None:
        """What was published, as of the last save. The state is made that, unless it may be ahead of it."""
        try:
            whole.load(self._checkpoint.snapshot, self._checkpoint.bodies, self._checkpoint.changes)
        except CorruptRecord as problem:
            hint = "move the file away, and the node rebuilds itself from the log"
            problem_here = f"what it has of the state does not fit ({problem}); {hint}"
            raise CheckpointError(path=self._checkpoint.path, problem=problem_here) from None
        # Its program may have gone on while this process was away: that is to be published, if the node leads again.
        led = view.holder.node == me.node
        whole.is_ahead = led and isinstance(self.state, KeptState) and self.state.survived()
        if whole.is_published and not whole.is_ahead:
            self._restore_own(whole.pieces(), view)

    def _restore_own(self, pieces: Iterable[Any], view: View) -> None:
        try:
            self.state.restore(pieces)
        except (CheckpointError, StateError):
            raise
        except Exception as error:
            raise Stalled(id=view.position.id, problem=repr(error)) from error

    # --- readers -----------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The state, between two records. While it is held, nothing is applied."""
        with self.lock:
            self._reader = threading.get_ident()
            try:
                yield self.state
            finally:
                self._reader = 0

    @property
    def read_here(self) -> bool:
        """Whether this very thread is reading now: then it must not write."""
        return self._reader == threading.get_ident()

    # --- what a node reads -------------------------------------------------------------------------------------------

    def take(self, records: Sequence[Record]) -> list[Verdict]:
        """Fold what was read from the log, save it, apply it. The caller has the turn, and does not hold the term.

        Stops after a record that makes this node the holder, or that has it read on from elsewhere. Records that were
        folded already are passed over. Raises `CorruptRecord`, `CheckpointError` or `Stalled`; what came before the
        record at fault is done by then, and the node keeps its place.
        """
        if self.stalled:
            raise Stalled(self.stalled)
        work: list[_Work] = []
        patched: list[Verdict] = []
        member = self.member
        try:
            for record in records:
                if record.id <= member.view.cursor.id:
                    continue
                verdict, after = member.fold(record)
                step = Step(record, verdict, after.view)
                self._tell(step, member.view)
                if verdict is Verdict.RESTORE:
                    self._carry_out(work, member)
                    self._restore(step, member.view, after)
                    return [*patched, *(done.step.verdict for done in work), verdict]
                if self.whole is not None and verdict is Verdict.APPLY and _counts(record):
                    self._carry_out(work, member)
                    patched += [*(done.step.verdict for done in work), verdict]
                    work = []
                    self._patch(self.whole, step, member.view, after)
                    member = self.member
                    continue
                changes = _changes_of(record) if verdict is Verdict.APPLY else []
                work.append(_Work(step, changes))
                member = after
                if member.holds_term:
                    break
        except CorruptRecord:
            self._carry_out(work, member)
            raise
        self._carry_out(work, member)
        return [*patched, *(done.step.verdict for done in work)]

    def _carry_out(self, work: list[_Work], member: Member) -> None:
        if not work:
            return
        self._save([done.step for done in work])
        with self.lock:
            before = self.member.view
            for step, changes in work:
                if step.verdict is Verdict.APPLY:
                    try:
                        self._apply(step.record, changes)
                    except Stalled:
                        self._adopt(replace(member, view=before))
                        raise
                before = step.view
            self._adopt(member)

    def _restore(self, step: Step, before: View, after: Member) -> None:
        """Rebuild the state from the parts that the checkpoint has, and this last one."""
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
            with self.lock:
                self._rebuild(last, chain(self._checkpoint.staged(), [last.body]), save=step)
                self._adopt(after)
        except CorruptRecord as problem:
            self._pass_by(last, before, after, problem)
            return
        logger.info("rebuilt the state from the snapshot of %s that ends at %s", last.node, last.id)

    def _pass_by(self, record: Record, before: View, after: Member, problem: CorruptRecord) -> None:
        # The state is what it was. Out of sync behind the record, this node will get a snapshot.
        logger.error("%s; waiting for another snapshot", problem)
        view = replace(before, cursor=record.position, snapshot=None, in_sync=False)
        self._save([Step(record, Verdict.NEED_SNAPSHOT, view)])
        with self.lock:
            self._adopt(replace(after, view=view))

    def _patch(self, whole: Whole, step: Step, before: View, after: Member) -> None:
        """Take a record that carries a patch, or some of one. What is not of the payload that is here is passed by."""
        record = step.record
        assert isinstance(record, ChangeRecord)
        try:
            patch = whole.gatherer.add(record)
            if patch is None:
                self._save([step])
                with self.lock:
                    self._adopt(after)
                return
            pieces = self._saved_at_their_end(whole.rebuilt(patch, id_=str(record.id)), step)
            with self.lock:
                self._restore_from(record, pieces)
                self._adopt(after)
        except CorruptRecord as problem:
            whole.gatherer.forget()
            self._pass_by(record, before, after, problem)

    def _rebuild(self, last: PartRecord, bodies: Iterable[bytes], *, save: Step | None = None) -> None:
        """Restore the state; with `save`, once that is on disk.

        Raises `CorruptRecord` or `CheckpointError` (it is what it was), or `Stalled` if the application fails.
        """
        pieces: Iterator[Any]
        if self.whole is not None:
            pieces = self.whole.received(last.codec, last.digest, bodies, id_=str(last.id))
        else:
            pieces = SnapshotDecoder(last.codec, last.digest, id_=str(last.id)).pieces(bodies)
        if save is not None:
            pieces = self._saved_at_their_end(pieces, save)
        self._restore_from(last, pieces, saving=save is not None)

    def _restore_from(self, record: Record, pieces: Iterator[Any], *, saving: bool = True) -> None:
        # What a boot before this one published and had not saved: the state is where it came from, or went on since.
        mine = saving and self._is_ahead and record.node == self.member.me.node
        try:
            if not mine:
                self._give_up()
                self.state.restore(pieces)
            for _ in pieces:  # what restore() did not want to see
                pass
        except (CorruptRecord, CheckpointError):
            raise
        except StateError as error:
            if saving and isinstance(pieces, Generator) and getgeneratorstate(pieces) != GEN_CLOSED:
                raise  # before anything was saved: the record is read again
            logger.error("%s", error)
            raise self._stall(record.id, error) from error
        except Exception as error:
            logger.exception("restore() failed at %s", record.id)
            raise self._stall(record.id, error) from error
        if self.whole is not None:
            self.whole.adopt()
            self.whole.is_ahead = mine
        self.applied_at = record.at

    def _saved_at_their_end(self, pieces: Iterable[Any], step: Step) -> Generator[Any, None, None]:
        # When the pieces proved right, and before the state swaps them in: a disk that refuses leaves it as it was.
        yield from pieces
        self._save([step])

    def _tell(self, step: Step, before: View) -> None:
        record, verdict = step.record, step.verdict
        if verdict is Verdict.REJECT_STALE:
            self.rejected += 1
            logger.warning("ignored %s: term %d is over, the term is %d", record, record.id.term, before.term)
        elif verdict is Verdict.CONFLICT:
            logger.error("%s was not written by the holder of its term, %s", record, before.holder.node)
        elif isinstance(record, TermRecord):
            logger.warning("term %d: %s leads (%s, asked by %s)", record.id.term, record.node, record.reason, record.by)
        if before.in_sync and not step.view.in_sync:
            logger.warning("out of sync behind %s, at %s; waiting for a snapshot", before.position.id, record)

    # --- what a node wrote -------------------------------------------------------------------------------------------

    def commit(self, record: Record, bodies: Sequence[bytes] = ()) -> list[Any]:
        """Fold this node's own record, which is in the log; the results of its changes. The caller has the turn.

        A change that was rejected has its `ChangeRejected` as its result. `bodies`: those of the whole snapshot, if the
        record is the last part of one that replaces the state; without, the checkpoint is asked for those before it.
        """
        verdict, after = self.member.fold(record)
        if verdict is Verdict.RESTORE and not bodies:
            self.flush()
            bodies = [*self._checkpoint.staged(), record.body]
        if self.whole is not None and (verdict is Verdict.RESTORE or _counts(record)):
            return self._commit_whole(self.whole, Step(record, verdict, after.view), after, bodies)
        changes = _changes_of(record) if verdict is Verdict.APPLY else []
        results: list[Any] = []
        with self.lock:
            if verdict is Verdict.APPLY:
                results = self._apply(record, changes)
            elif verdict is Verdict.RESTORE:
                assert isinstance(record, PartRecord)
                self._rebuild(record, bodies)
            self._unsaved.append(Step(record, verdict, after.view))
            self._adopt(after)
        return results

    def _commit_whole(self, whole: Whole, step: Step, after: Member, bodies: Sequence[bytes]) -> list[Any]:
        """The state moved before its record did: it is what was published, or further already. It is left alone."""
        record = step.record
        assert isinstance(record, ChangeRecord | PartRecord)
        with self.lock:
            if isinstance(record, PartRecord):
                if not whole.adopts_made(record.digest):  # by `replace`, and not from the state
                    self._rebuild(record, bodies)
            elif (patch := whole.gatherer.add(record)) is not None:
                digest = PatchHead.of(patch, id_=str(record.id)).new_digest
                if not whole.adopts_made(digest):
                    for _ in whole.rebuilt(patch, id_=str(record.id)):
                        pass
                    whole.adopt()
            self.applied_at = record.at
            self._unsaved.append(step)
            self._adopt(after)
        return []

    def follow(self) -> None:
        """Make the state of a node that does not lead any more what the group has. The caller has the turn.

        What its program did with it since the last publication was never in the log; a state that is kept in a file
        puts it aside. Raises `StateError` if that cannot be done now, `Stalled`.
        """
        view = self.member.view
        if self._is_ahead and view.holder.node != self.member.me.node and not self.stalled:
            with self.lock:
                try:
                    self._give_up()
                except StateError:
                    raise
                except Exception as error:
                    logger.exception("restore() failed at %s", view.position.id)
                    raise self._stall(view.position.id, error) from error

    @property
    def _is_ahead(self) -> bool:
        return self.whole is not None and self.whole.is_ahead

    def _give_up(self) -> None:
        """Make a state that may be ahead of what was published that."""
        if self.whole is not None and self.whole.is_ahead:
            if self.whole.is_published:
                self.state.restore(self.whole.pieces())
            self.whole.is_ahead = False

    def pieces(self) -> Iterable[Any]:
        """The state as of the position. The caller holds the lock."""
        return self.state.snapshot() if self.whole is None else self.whole.pieces()

    def flush(self) -> None:
        """Save what was committed and is not on disk yet."""
        self._save([])

    @property
    def snapshot_bytes(self) -> int:
        """What the newest snapshot weighs in the log."""
        return self._checkpoint.payload_bytes

    @property
    def snapshot_is_due(self) -> bool:
        """Whether the changes since the newest snapshot outweigh it."""
        return self._checkpoint.changes_bytes > max(self._checkpoint.payload_bytes, SNAPSHOT_DUE_BYTES_MIN)

    # --- what else happens to its member -----------------------------------------------------------------------------

    def talks_to(self, run: str, *, log_lost: bool = False) -> None:
        """Redis is in this run, and has the log or not."""
        with self.moved:
            self._become(self.member.talks_to(run, log_lost=log_lost))

    def beaten(self) -> None:
        """A heartbeat was sent."""
        with self.moved:
            self._become(self.member.beaten())

    def refused(self, reply: Reply) -> None:
        """A write or a renewal was refused."""
        with self.moved:
            self._become(self.member.refused(reply))

    def _become(self, member: Member) -> None:
        if member is not self.member:
            if self.whole is not None and member.leads:
                self.whole.is_ahead = True
            self.member = member
            self.moved.notify_all()

    def _adopt(self, after: Member) -> None:
        # Only what folding moves: the rest may have moved in another thread since `after` was made.
        with self.moved:
            self._become(replace(self.member, view=after.view, snapshot_end=after.snapshot_end))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _save(self, steps: Sequence[Step]) -> None:
        with self._disk:
            every = [self._unsaved.popleft() for _ in range(len(self._unsaved))]
            every.extend(steps)
            if not every:
                return
            try:
                self._checkpoint.save(every[-1].view, every, boot=self._boot)
            except BaseException:
                # What a standby read it will read again; what was committed here is nowhere else on this node.
                self._unsaved.extendleft(reversed(every[: len(every) - len(steps)]))
                raise

    def _apply(self, record: Record, changes: Sequence[Any]) -> list[Any]:
        """Apply the changes of one record. Raises `Stalled`, from then on, if the application fails at one."""
        results: list[Any] = []
        for change in changes:
            try:
                results.append(self.state.apply(change))  # type: ignore[union-attr]
            except ChangeRejected as rejected:
                results.append(rejected)
            except BaseException as error:
                logger.exception("apply() failed at %s, at the change %.200r", record.id, change)
                stalled = self._stall(record.id, error)
                if not isinstance(error, Exception):
                    raise  # a Ctrl-C; what it left of the state nobody knows
                raise stalled from error
        if not changes:
            self.markers.append((record.id, self._marked()))
        self.applied_at = record.at
        return results

    def _marked(self) -> Iterable[Any]:
        """The state at a marker. The program of a primary may be ahead of what was published."""
        if self.whole is not None and self.member.holds_term:
            return self.pieces()
        try:
            return self.state.snapshot()
        except StateError as error:
            return _raising(error)

    def _stall(self, id_: RecordId, error: BaseException) -> Stalled:
        stalled = Stalled(id=id_, problem=repr(error))
        self.stalled = str(stalled)
        return stalled


def _raising(error: StateError) -> Iterator[Any]:
    # To whoever digests it: the record itself is not to blame for a file that is gone.
    raise error
    yield


def _counts(record: Record) -> bool:
    return isinstance(record, ChangeRecord) and record.count > 0


def _changes_of(record: Record) -> list[Any]:
    if not isinstance(record, ChangeRecord):
        return []
    return decode_changes(record.codec, record.body, record.digest, record.count, id_=str(record.id))
