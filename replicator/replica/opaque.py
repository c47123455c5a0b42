"""A node's copy of a state that is replicated whole, because it has no `apply`: a file, a database.

Its program moves such a state, and not the log. So there are two things here: the state, and what was *published* of it
(`storage/payload.py`), which is what position and log speak of. On the primary the state may be ahead of that. On
everybody else it is made what was published, by patches and snapshots; what its program did with it besides is given
up.

**What is in the way of the state is not in the way of the log.** A disk may be full for a while, a program may read
the database and not stop. The record is taken all the same: it is on this node's disk, and the payload is what was
published. Only the state is behind that (`unwritten`), and is made that later (`write_state`), while what comes
meanwhile goes into the payload alone. Nobody reads it until then, and this node does not lead: its own term record
is taken once the state is what was published. What it could not lead with it acknowledges to nobody who waits for its
disk: it would not be counted among those that have it when the next primary is chosen.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ..errors import CheckpointError, CorruptRecord, StateError, StateInUse
from ..format.ids import ZERO_ID, RecordId, Writer
from ..format.patch import PatchHead
from ..format.records import ChangeRecord, PartRecord, Record
from ..format.weight import SNAPSHOT_BYTES_MAX
from ..protocol.fold import Verdict, View
from ..protocol.node_state import NodeState
from ..state import ReplicatedState, SharedState
from ..state.callbacks import Application
from ..storage.checkpoint import Checkpoint, Step
from ..storage.payload import Whole
from .replica import Replica, Work, raising
from .restore import Dropped, Ending, Failed, never, run

__all__ = ["WholeReplica"]

logger = logging.getLogger(__name__)

#: How long the end of the node waits for whoever writes the state: he stops at the next piece.
CLOSE_WITHIN_S = 5.0


class WholeReplica(Replica):
    """See `Replica`. `whole`: what was published."""

    def __init__(
        self,
        state: ReplicatedState,
        checkpoint: Checkpoint,
        me: Writer,
        *,
        snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    ) -> None:
        self.whole = Whole(checkpoint.data_dir, snapshot_bytes_max=snapshot_bytes_max)
        #: Who writes the state. What of it moves when a record is taken moves under `lock`.
        self._writing = threading.Lock()
        #: Up to where the state was what was published, before it was `unwritten`.
        self._written_upto = ZERO_ID
        super().__init__(state, checkpoint, me, snapshot_bytes_max=snapshot_bytes_max)

    # --- start -------------------------------------------------------------------------------------------------------

    def _load_state(self, view: View, me: Writer) -> View:
        """What was published, as of the last save. The state is made that, unless it may be ahead of it."""
        whole = self.whole
        try:
            whole.load(self._checkpoint.snapshot, self._checkpoint.bodies, self._checkpoint.changes)
        except CorruptRecord as problem:
            hint = "move the file away, and the node rebuilds itself from the log"
            problem_here = f"what it has of the state does not fit ({problem}); {hint}"
            raise CheckpointError(path=self._checkpoint.path, problem=problem_here) from None
        # Its program may have gone on while this process was away: that is to be published, if the node leads again.
        led = view.holder.node == me.node
        whole.is_ahead = led and self.application.survived()
        if whole.is_published and not whole.is_ahead:
            try:
                self._restore_own(whole.pieces(), view)
            except StateError as error:
                self.unwritten = error
        return view

    # --- what a node reads -------------------------------------------------------------------------------------------

    def _alone(self, step: Step) -> Callable[[Step, View, NodeState], None] | None:
        if step.verdict is Verdict.APPLY and _carries(step.record):
            return self._patch
        if step.verdict in (Verdict.LEAD, Verdict.LEAD_AFTER_REBASE) and self.unwritten is not None:
            return self._lead
        return super()._alone(step)

    def _lead(self, step: Step, before: View, after: NodeState) -> None:
        """Take this node's own term record: what its program finds then is what was published.

        Raises `StateError`: the record is read again. Meanwhile the lease runs out, and another one may take over.
        """
        self.write_state(insisting=True)
        if (behind := self.unwritten) is not None:  # the node stops
            raise behind
        self._carry_out([Work(step, [])], after)

    def _patch(self, step: Step, before: View, after: NodeState) -> None:
        """Take a record that carries a patch, or some of one. What is not of the payload that is here is passed by."""
        record = step.record
        assert isinstance(record, ChangeRecord)
        try:
            patch = self.whole.gatherer.add(record)
            if patch is None:
                self._save([step])
                with self.lock:
                    self._adopt(after)
                return
            pieces = self.whole.rebuilt(patch, id_=str(record.id))
            ending = partial(self._saved_and_swapped, step, after)
            self._restore_to(record, pieces, ending, taken=True, given_up=self._is_closed)
        except Dropped:
            logger.info("stopping before the patch that ends at %s was taken in", record.id)
        except CorruptRecord as problem:
            self.whole.gatherer.forget()
            self._pass_by(record, before, after, problem)

    def _build(self, saved: Sequence[Any]) -> None:
        # Nothing yet: the parts are decoded when all are here, from the checkpoint into the file.
        pass

    def _rebuild(
        self,
        last: PartRecord,
        *,
        ending: Ending,
        bodies: Iterable[bytes] | None = None,
        given_up: Callable[[], bool] = never,
    ) -> None:
        every = self._bodies_up_to(last) if bodies is None else bodies
        pieces = self.whole.received(last.codec, last.digest, every, id_=str(last.id))
        self._restore_to(last, pieces, ending, taken=bodies is None, given_up=given_up)

    def _restore_to(
        self,
        record: Record,
        pieces: Iterator[Any],
        ending: Ending,
        *,
        taken: bool,
        given_up: Callable[[], bool] = never,
    ) -> None:
        """Restore the state: what is drawn is what is published then. `taken`: from the log, and not from this node.

        Raises what `_rebuild` raises. A `StateError` of the state is in nobody's way: it is `unwritten` then.
        """
        # What a boot before this one published and had not saved: the state is where it came from, or went on since.
        mine = taken and self.whole.is_ahead and record.node == self.node_state.me.node
        if not mine:
            self._give_up()
        behind = self.unwritten

        @contextmanager
        def publishing() -> Iterator[None]:
            nonlocal behind
            with ending():
                try:
                    yield
                except Failed as failed:
                    # It is saved, and not to be read again: the state alone did not come along.
                    if not isinstance(failed.__cause__, StateError):
                        raise
                    behind = failed.__cause__
                self.whole.adopt()
                self.whole.is_ahead = mine
                self._is_behind(behind)

        if mine or behind is not None:
            _draw(pieces, given_up)
            with publishing():
                return
        with self._writing:
            try:
                run(self.application, pieces, publishing, given_up=given_up)
            except Failed as failed:
                # Its pieces were right, and were drawn to their end.
                if not isinstance(failed.__cause__, StateError):
                    raise self._fail(record.id, failed) from failed.__cause__
                behind = failed.__cause__
                with publishing():
                    pass

    # --- a state that is not what was published ----------------------------------------------------------------------

    def follow(self) -> None:
        """Make the state of a node that does not lead any more what the group has. The caller has the turn.

        What its program did with it since the last publication was never in the log; a state that is kept in a file
        puts it aside. If that cannot be done now it is `unwritten`. Raises `Stalled`.
        """
        if self.node_state.view.holder.node != self.node_state.me.node and not self.stalled:
            self._give_up()

    def _give_up(self) -> None:
        """Make a state that may be ahead of what was published that. So nothing is put aside that was published."""
        if not self.whole.is_ahead:
            return
        if self.whole.is_published:
            with self._writing, suppress(StateError):
                self._write_once(insisting=False)
        self.whole.is_ahead = False

    def write_state(self, *, insisting: bool = False) -> None:
        """Make the state what was published, if it could not become that yet. With the turn or without.

        `insisting`: also if programs go on using what was there (`SharedState`). Raises `StateError`, or `Stalled`.
        """
        with self._writing:
            while self.unwritten is not None and not self._closed:
                self._write_once(insisting=insisting)

    def _write_once(self, *, insisting: bool) -> None:
        try:
            run(self._target(insisting=insisting), self._pieces_to_write(), self._written)
        except Dropped:
            return
        except Failed as failed:
            if not isinstance(failed.__cause__, StateError):
                raise self._fail(self.node_state.view.position.id, failed) from failed.__cause__
            self._is_behind(failed.__cause__)
            raise failed.__cause__ from None

    def _is_behind(self, problem: StateError | None) -> None:
        if self.unwritten is None:
            self._written_upto = self.node_state.view.position.id
        self.unwritten = problem

    @property
    def synced_upto(self) -> RecordId:
        upto = super().synced_upto
        # One that is in use can be replaced, so this node can lead.
        may_lead = self.unwritten is None or isinstance(self.unwritten, StateInUse)
        return upto if may_lead else min(upto, self._written_upto)

    def _target(self, *, insisting: bool) -> Application:
        if insisting and isinstance(self.state, SharedState):
            return Application(_Insisting(self.state), self.inside)
        return self.application

    def _pieces_to_write(self) -> Iterator[Any]:
        self._written_digest = self.whole.digest
        for piece in self.whole.pieces():
            if self._closed:
                raise Dropped
            yield piece

    @contextmanager
    def _written(self) -> Iterator[None]:
        with self.lock:
            yield
            # Otherwise something else was published meanwhile.
            if self.whole.digest == self._written_digest:
                self.unwritten = None

    @contextmanager
    def reading(self) -> Iterator[Any]:
        with super().reading() as state:
            if (behind := self.unwritten) is not None:
                raise type(behind)(**behind.fields)
            yield state

    def close(self) -> None:
        super().close()
        if self._writing.acquire(timeout=CLOSE_WITHIN_S):
            self._writing.release()

    # --- what a node wrote -------------------------------------------------------------------------------------------

    def _commit(
        self, step: Step, before: NodeState, after: NodeState, changes: list[Any] | None, bodies: Sequence[bytes]
    ) -> list[Any]:
        """The state moved before its record did: it is what was published, or further already. It is left alone."""
        record = step.record
        if step.verdict is not Verdict.RESTORE and not _carries(record):
            return super()._commit(step, before, after, changes, bodies)
        assert isinstance(record, ChangeRecord | PartRecord)
        with self.lock:
            if self._is_made(record):
                self.applied_at = record.at
                self._unsaved.append(step)
                self._adopt(after)
                return []
        # By `replace`, and not from the state.
        assert isinstance(record, PartRecord)
        if not bodies:
            self.flush()
            bodies = [*self._checkpoint.staged(), record.body]
        self._rebuild(record, ending=partial(self._swapped, step, after), bodies=bodies)
        return []

    def _is_made(self, record: ChangeRecord | PartRecord) -> bool:
        """Whether the record, or the last one of a patch, says what was made of the state: that is published then."""
        whole = self.whole
        if isinstance(record, PartRecord):
            return whole.adopts_made(record.digest)
        patch = whole.gatherer.add(record)
        if patch is not None and not whole.adopts_made(PatchHead.of(patch, id_=str(record.id)).new_digest):
            for _ in whole.rebuilt(patch, id_=str(record.id)):
                pass
            whole.adopt()
        return True

    def pieces(self) -> Iterable[Any]:
        return self.whole.pieces()

    def _become(self, node_state: NodeState) -> None:
        if node_state is not self.node_state and node_state.is_primary:
            self.whole.is_ahead = True
        super()._become(node_state)

    def _marked(self) -> Iterable[Any]:
        """The state at a marker. The program of a primary may be ahead of what was published."""
        if self.node_state.holds_term:
            return self.pieces()
        if self.unwritten is not None:
            return raising(self.unwritten)
        return super()._marked()


class _Insisting:
    """A shared state whose `restore` does not wait for those who use it."""

    def __init__(self, state: SharedState) -> None:
        self.snapshot = state.snapshot
        self.restore = state.restore_in_use


def _draw(pieces: Iterable[Any], given_up: Callable[[], bool]) -> None:
    for _ in pieces:
        if given_up():
            raise Dropped


def _carries(record: Record) -> bool:
    return isinstance(record, ChangeRecord) and record.count > 0
