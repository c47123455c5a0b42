"""A node's copy of a state that is replicated whole, because it has no `apply`: a file, a database.

Its program moves such a state, and not the log. So there are two things here: the state, and what was *published* of it
(`patches.py`), which is what position and log speak of. On the primary the state may be ahead of that. On everybody
else it is made what was published, by patches and snapshots; what its program did with it besides is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from .checkpoint import Checkpoint, Step
from .core.fold import Verdict, View
from .core.ids import RecordId, Writer
from .core.member import Member
from .core.patch import PatchHead
from .core.records import ChangeRecord, PartRecord, Record
from .errors import CheckpointError, CorruptRecord, StateError
from .patches import Whole
from .replica import Replica
from .restore import Ending, Failed, run
from .state import ReplicatedState

__all__ = ["WholeReplica"]


class WholeReplica(Replica):
    """See `Replica`. `whole`: what was published."""

    def __init__(self, state: ReplicatedState, checkpoint: Checkpoint, me: Writer) -> None:
        self.whole = Whole(checkpoint.data_dir)
        super().__init__(state, checkpoint, me)

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
            self._restore_own(whole.pieces(), view)
        return view

    # --- what a node reads -------------------------------------------------------------------------------------------

    def _alone(self, step: Step) -> Callable[[Step, View, Member], None] | None:
        if step.verdict is Verdict.APPLY and _carries(step.record):
            return self._patch
        return super()._alone(step)

    def _patch(self, step: Step, before: View, after: Member) -> None:
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
            self._restore_to(record, pieces, partial(self._saved_and_swapped, step, after), taken=True)
        except CorruptRecord as problem:
            self.whole.gatherer.forget()
            self._pass_by(record, before, after, problem)

    def _build(self, saved: Sequence[Any]) -> None:
        # Nothing yet: the parts are decoded when all are here, from the checkpoint into the file.
        pass

    def _rebuild(self, last: PartRecord, *, ending: Ending, bodies: Iterable[bytes] | None = None) -> None:
        every = self._bodies_up_to(last) if bodies is None else bodies
        pieces = self.whole.received(last.codec, last.digest, every, id_=str(last.id))
        self._restore_to(last, pieces, ending, taken=bodies is None)

    def _restore_to(self, record: Record, pieces: Iterator[Any], ending: Ending, *, taken: bool) -> None:
        """Restore the state: what is drawn is what is published then. `taken`: from the log, and not from this node.

        Raises what `_rebuild` raises, and `StateError` where nothing was saved: the record is read again then.
        """
        # What a boot before this one published and had not saved: the state is where it came from, or went on since.
        mine = taken and self.whole.is_ahead and record.node == self.member.me.node
        begun = False

        @contextmanager
        def publishing() -> Iterator[None]:
            nonlocal begun
            with ending():
                begun = True
                yield
                self.whole.adopt()
                self.whole.is_ahead = mine

        try:
            if mine:
                for _ in pieces:
                    pass
                with publishing():
                    return
            self._give_up(record.id)
            run(self.application, pieces, publishing)
        except Failed as failed:
            if isinstance(failed.__cause__, StateError) and not begun:
                raise failed.__cause__ from None
            raise self._fail(record.id, failed) from failed.__cause__

    def follow(self) -> None:
        """Make the state of a node that does not lead any more what the group has. The caller has the turn.

        What its program did with it since the last publication was never in the log; a state that is kept in a file
        puts it aside. Raises `StateError` if that cannot be done now, `Stalled`.
        """
        view = self.member.view
        if view.holder.node != self.member.me.node and not self.stalled:
            self._give_up(view.position.id)

    def _give_up(self, id_: RecordId) -> None:
        """Make a state that may be ahead of what was published that. Raises `StateError`, or `Stalled`."""
        if not self.whole.is_ahead:
            return
        try:
            if self.whole.is_published:
                run(self.application, self.whole.pieces(), self._locked)
            self.whole.is_ahead = False
        except Failed as failed:
            if isinstance(failed.__cause__, StateError):
                raise failed.__cause__ from None
            raise self._fail(id_, failed) from failed.__cause__

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.lock:
            yield

    # --- what a node wrote -------------------------------------------------------------------------------------------

    def _commit(
        self, step: Step, before: Member, after: Member, changes: list[Any] | None, bodies: Sequence[bytes]
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

    def _become(self, member: Member) -> None:
        if member is not self.member and member.leads:
            self.whole.is_ahead = True
        super()._become(member)

    def _marked(self) -> Iterable[Any]:
        """The state at a marker. The program of a primary may be ahead of what was published."""
        return self.pieces() if self.member.holds_term else super()._marked()


def _carries(record: Record) -> bool:
    return isinstance(record, ChangeRecord) and record.count > 0
