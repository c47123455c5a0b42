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

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ..errors import CheckpointError, CorruptRecord, StateError, StateInUse
from ..format.ids import ZERO_ID, RecordId
from ..format.patch import PatchHead
from ..format.records import ACT, ChangeRecord, PartRecord, Record
from ..format.snapshot_parts import Progress
from ..protocol.fold import RESTORE, Verdict, View
from ..protocol.node_state import NodeState
from ..runtime.event_log import EventLogger
from ..state import SharedState
from ..state.callbacks import Application
from ..storage.checkpoint import Step
from ..storage.payload import Whole
from .applied_state import raising
from .rebuild import Rebuild
from .restore import Dropped, Ending, Failed, never, run
from .state_updater import Work

__all__ = ["WholeUpdater", "draw"]

logger = EventLogger(__name__)

#: How long the end of the node waits for whoever writes the state: he stops at the next piece.
CLOSE_WITHIN_S = 5.0


class WholeUpdater:
    """See `StateUpdater`. `whole`: what was published."""

    def __init__(self, rebuild: Rebuild) -> None:
        self._rebuild = rebuild
        self._known = rebuild.known
        self._applied = rebuild.applied
        self._saved = rebuild.saved
        self._checkpoint = rebuild.saved.checkpoint
        self.whole = Whole(
            self._checkpoint.data_dir,
            snapshot_bytes_max=rebuild.snapshot_bytes_max,
            is_private=self._checkpoint.is_private,
        )
        #: Held while the state is written. What of it moves when a record is taken moves under its lock.
        self._writing = threading.Lock()
        #: Up to where the state was what was published, before it was `unwritten`.
        self._written_upto = ZERO_ID
        self._applied.marked = self._marked
        self._known.before_it_leads = self._go_ahead

    def _go_ahead(self) -> None:
        self.whole.is_ahead = True

    # --- start -------------------------------------------------------------------------------------------------------

    def load(self, view: View, *, again: bool = False) -> View:
        """What was published, as of the last save. The state is made that, unless it may be ahead of it."""
        whole, version = self.whole, self._applied.checked(view.version, view)
        try:
            whole.load(self._checkpoint.snapshot, self._checkpoint.bodies, self._checkpoint.changes)
        except CorruptRecord as problem:
            hint = "move the file away, and the node rebuilds itself from the log"
            problem_here = f"what it has of the state does not fit ({problem}); {hint}"
            raise CheckpointError(path=self._checkpoint.path, problem=problem_here) from None
        # Its program may have gone on while this process was away: that is to be published, if the node leads again.
        led = view.holder.node == self._known.node_state.me.node
        whole.is_ahead = led and self._applied.application.survived()
        if whole.is_published and not whole.is_ahead:
            try:
                self._rebuild.restore_own(self._becoming(version), self._published_pieces(), view)
            except StateError as error:
                self._applied.unwritten = error
        return view

    # --- what a node reads -------------------------------------------------------------------------------------------

    def alone(self, step: Step) -> Callable[[Step, View, NodeState], None] | None:
        if step.verdict is Verdict.APPLY and _carries(step.record):
            return self._patch
        if step.verdict in (Verdict.LEAD, Verdict.LEAD_AFTER_REBASE) and self._applied.unwritten is not None:
            return self._lead
        return None

    def _lead(self, step: Step, before: View, after: NodeState) -> None:
        """Take this node's own term record: what its program finds then is what was published.

        Raises `StateError`: the record is read again. Meanwhile the lease runs out, and another one may take over.
        """
        self.write_state(insisting=True)
        if (behind := self._applied.unwritten) is not None:  # the node stops
            raise behind
        self._rebuild.save_and_adopt(step, after)

    def _patch(self, step: Step, before: View, after: NodeState) -> None:
        """Take a record that carries a patch, or some of one. What is not of the payload that is here is passed by."""
        record = step.record
        assert isinstance(record, ChangeRecord)
        try:
            patch = self.whole.gatherer.add(record)
            if patch is None:
                self._rebuild.save_and_adopt(step, after)
                return
            pieces = self.whole.rebuilt(patch, id_=str(record.id))
            ending = partial(self._rebuild.saved_and_swapped, step, after)
            self._restore_to(record, pieces, ending, taken=True, given_up=self._rebuild.is_closed)
        except Dropped:
            logger.info("patch.left", "stopping before the patch that ends at %s was taken in", record.id)
        except CorruptRecord as problem:
            self.whole.gatherer.forget()
            self._rebuild.pass_by(record, before, after, problem)

    def saves_first(self, step: Step) -> bool:
        """The state outlives the process: after a kill it is not to be ahead of the disk."""
        return True

    def build(self, taken: Sequence[Work]) -> None:
        """Nothing yet: the parts are decoded when all are here, from the checkpoint into the file."""

    def follow_snapshot(self, progress: Progress | None) -> None:
        """Nothing is built before all of it is here."""

    def rebuild(self, last: PartRecord, ending: Ending) -> None:
        bodies = self._received(last, self._rebuild.bodies(last))
        self._restore_to(last, bodies, ending, taken=True, given_up=self._rebuild.is_closed)

    def _received(self, last: PartRecord, bodies: Iterable[bytes]) -> Iterator[Any]:
        return self.whole.received(last.codec, last.digest, bodies, id_=str(last.id))

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

        Raises what `rebuild` raises. A `StateError` of the state is in nobody's way: it is `unwritten` then.
        """
        # What a boot before this one published and had not saved: the state is where it came from, or went on since.
        mine = taken and self.whole.is_ahead and record.node == self._known.node_state.me.node
        if not mine:
            self._give_up()
        behind = self._applied.unwritten

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
            draw(pieces, given_up)
            with publishing():
                return
        with self._writing:
            try:
                version = record.version if isinstance(record, PartRecord) else self._known.node_state.view.version
                run(self._becoming(version, to_come=True), pieces, publishing, given_up=given_up)
            except Failed as failed:
                # Its pieces were right, and were drawn to their end.
                if not isinstance(failed.__cause__, StateError):
                    raise self._applied.fail(record.id, failed) from failed.__cause__
                behind = failed.__cause__
                with publishing():
                    pass

    # --- a state that is not what was published ----------------------------------------------------------------------

    def follow(self) -> None:
        """See `StateUpdater`. What its program did with it since the last publication was never in the log.

        A state that is kept in a file puts that aside. If that cannot be done now the state is `unwritten`.
        """
        node_state = self._known.node_state
        if node_state.view.holder.node != node_state.me.node and not self._applied.stalled:
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
        """See `StateUpdater`. `insisting`: also if programs go on using what was there (`SharedState`)."""
        with self._writing:
            while self._applied.unwritten is not None and not self._rebuild.closed:
                self._write_once(insisting=insisting)

    def _write_once(self, *, insisting: bool) -> None:
        try:
            version = self._known.node_state.view.version
            run(self._becoming(version, insisting=insisting), self._pieces_to_write(), self._written)
        except Dropped:
            return
        except Failed as failed:
            if not isinstance(failed.__cause__, StateError):
                raise self._applied.fail(self._known.node_state.view.position.id, failed) from failed.__cause__
            self._is_behind(failed.__cause__)
            raise failed.__cause__ from None

    def _is_behind(self, problem: StateError | None) -> None:
        if self._applied.unwritten is None:
            self._written_upto = self._known.node_state.view.position.id
        self._applied.unwritten = problem

    def counts_upto(self, upto: RecordId) -> RecordId:
        unwritten = self._applied.unwritten
        # One that is in use can be replaced, so this node can lead.
        may_lead = unwritten is None or isinstance(unwritten, StateInUse)
        return upto if may_lead else min(upto, self._written_upto)

    def _becoming(self, version: int, *, to_come: bool = False, insisting: bool = False) -> Application:
        """What is given the pieces of what was published, or `to_come`: of what is about to be."""
        applied = self._applied
        if insisting and isinstance(applied.state, SharedState):
            return Application(_Insisting(applied.state), applied.inside)
        return applied.application.at(version)

    def _published_pieces(self) -> Iterator[Any]:
        """What that is given."""
        return self.whole.pieces()

    def _pieces_to_write(self) -> Iterator[Any]:
        self._written_digest = self.whole.digest
        for piece in self._published_pieces():
            if self._rebuild.closed:
                raise Dropped
            yield piece

    @contextmanager
    def _written(self) -> Iterator[None]:
        with self._applied.lock:
            yield
            # Otherwise something else was published meanwhile.
            if self.whole.digest == self._written_digest:
                self._applied.unwritten = None

    def close(self) -> None:
        if self._writing.acquire(timeout=CLOSE_WITHIN_S):
            self._writing.release()

    # --- what a node wrote -------------------------------------------------------------------------------------------

    def commit(self, step: Step, after: NodeState, bodies: Sequence[bytes]) -> bool:
        """The state moved before its record did: it is what was published, or further already. It is left alone."""
        record = step.record
        if step.verdict is not RESTORE and not _carries(record):
            return False
        assert isinstance(record, ChangeRecord | PartRecord)
        with self._applied.lock:
            if self._is_made(record):
                self._applied.applied_at = record.at
                self._saved.add(step)
                self._known.adopt(after)
                return True
        # By `replace`, and not from the state.
        assert isinstance(record, PartRecord)
        if not bodies:
            self._saved.flush()
            bodies = [*self._rebuild.bodies(record)]
        ending = partial(self._rebuild.swapped, step, after)
        self._restore_to(record, self._received(record, bodies), ending, taken=False)
        return True

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

    def _marked(self) -> Iterable[Any]:
        """The state at a marker. The program of a primary may be ahead of what was published."""
        if self._known.node_state.holds_term:
            return self.pieces()
        if (unwritten := self._applied.unwritten) is not None:
            return raising(unwritten)
        return self._applied.drawn()


class _Insisting:
    """A shared state whose `restore` does not wait for those that use it."""

    def __init__(self, state: SharedState) -> None:
        self.snapshot = state.snapshot
        self.restore = state.restore_in_use


def draw(pieces: Iterable[Any], given_up: Callable[[], bool]) -> None:
    """To the end, for what shows there. Raises `Dropped`."""
    for _ in pieces:
        if given_up():
            raise Dropped


def _carries(record: Record) -> bool:
    return isinstance(record, ChangeRecord) and record.count > 0 and record.codec != ACT
