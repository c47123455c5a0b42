"""A state that is kept up with the log change by change.

A snapshot that this node needs is decoded while its parts still arrive (`restore.py`). What is built so far is dropped
when the snapshot breaks off. A node in sync decodes none, but for one that replaces the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..errors import CheckpointError, NoThread, SnapshotRefused, Stalled
from ..format.codec import SnapshotDecoder
from ..format.ids import ZERO_ID, Position, RecordId
from ..format.records import PartRecord, last_change_after
from ..format.snapshot_parts import Progress
from ..protocol.fold import RESTORE, Verdict, View
from ..protocol.node_state import NodeState
from ..runtime.event_log import EventLogger
from ..runtime.gc_pause import HeldCollector
from ..runtime.log_once import Lasting, LogOnce
from ..storage.checkpoint import Step
from .applied_state import changes_of
from .ledger import Ledger
from .rebuild import Rebuild
from .restore import Ending, Failed, Restoring, never, run
from .skipping import Beginning
from .state_updater import Work

__all__ = ["ChangeUpdater"]

logger = EventLogger(__name__)

_LATE = Lasting("snapshot.decoded_late", "snapshot.decoded_early", "snapshots are decoded while they arrive again")


class ChangeUpdater:
    """See `StateUpdater`."""

    whole = None

    def __init__(self, rebuild: Rebuild) -> None:
        self._rebuild = rebuild
        self._applied = rebuild.applied
        self._saved = rebuild.saved
        self._checkpoint = rebuild.saved.checkpoint
        self._log_once = LogOnce(logger)
        #: What is built of the snapshot that passes by, if this node needs it, or the newest that was dropped.
        self._restoring: Restoring | None = None
        self._restores: Progress | None = None
        #: What `load` begins with if the state is not that any more.
        self._beginning: Beginning | None = None
        if self._checkpoint.snapshot is None:
            most = rebuild.snapshot_bytes_max
            self._beginning = Beginning(self._applied, self._applied.reads[-1], most=most)

    def load(self, view: View, *, again: bool = False) -> View:
        """Of the newest snapshot and the changes since; without the one that the group went on without, if there is."""
        version = self._applied.checked(self._checkpoint.base_version, view)
        pieces = self._checkpoint.payload(snapshot_bytes_max=self._rebuild.snapshot_bytes_max)
        if pieces is not None:
            self._rebuild.restore_own(self._applied.application.at(version), pieces, view)
            self._applied.ledger = self._ledger_of_snapshot()
        elif again:
            assert self._beginning is not None
            application = self._applied.application.at(self._beginning.version)
            self._rebuild.restore_own(application, self._beginning.pieces(), view)
            self._applied.ledger = Ledger()
        payload = self._checkpoint.snapshot
        changed = payload.last_change if payload is not None else ZERO_ID
        for record in self._checkpoint.changes():
            if record.id == view.skipped:
                continue
            try:
                if record.version and record.version not in self._applied.reads:
                    raise self._applied.unreadable(record.id, record.version)
                self._applied.apply(record, changes_of(record), version)
                version = max(record.version, version)
                changed = last_change_after(record) or changed
            except Stalled:
                # It keeps its place, which is before this record, and says so. Before a change of a term there is
                # another record of that term, at the least the one that opens it.
                place = Position(RecordId(record.id.term, record.id.n - 1), record.prev)
                ends = tuple(end for end in view.ends if end.term < place.id.term)
                return view._replace(position=place, cursor=place, changed=changed, ends=ends, version=version)
        return view

    def _ledger_of_snapshot(self) -> Ledger:
        try:
            return Ledger.of(self._checkpoint.ledger(), id_="checkpoint")
        except SnapshotRefused as problem:
            raise CheckpointError(path=self._checkpoint.path, problem=problem) from None

    def alone(self, step: Step) -> Callable[[Step, View, NodeState], None] | None:
        """Changes and terms go together."""

    def saves_first(self, step: Step) -> bool:
        """What is built of parts is built of those on the disk, if they do not all have room in memory."""
        return isinstance(step.record, PartRecord) and step.record.replaces

    def build(self, taken: Sequence[Work]) -> None:
        """Decode what was saved of a snapshot that this node needs, or that replaces what it has, on another thread."""
        progress = taken[-1].step.view.snapshot
        if progress is None or progress.complete:
            return
        key = _without_place(progress)
        for (record, verdict, view), _ in taken:
            if not isinstance(record, PartRecord) or view.snapshot is None or _without_place(view.snapshot) != key:
                continue
            if record.version < self._applied.reads[0]:
                continue  # it will be passed by
            if verdict is Verdict.NEED_SNAPSHOT or (verdict is Verdict.SKIP and record.replaces):
                try:
                    if self._restores is None:
                        self._begin(record, key)
                        self._log_once.over("decoding")
                except NoThread as problem:
                    # With the next part, perhaps; with the last one it is restored here, from what is saved.
                    what = f"the snapshot is not decoded while it arrives: {problem}"
                    self._log_once.tell("decoding", _LATE, what)
                    return
                assert self._restoring is not None
                self._restoring.feed(record)

    def _begin(self, part: PartRecord, key: Progress) -> None:
        self._restoring = Restoring(
            self._applied.application.at(part.version),
            part,
            read=self._checkpoint.staged_part,
            spoilt=partial(self._spoilt, part.id),
            after=self._restoring,
            snapshot_bytes_max=self._rebuild.snapshot_bytes_max,
        )
        self._restores = key
        if self._rebuild.closed:
            self._restoring.drop()

    def _spoilt(self, id_: RecordId, failed: Failed) -> None:
        self._applied.fail(id_, failed)

    def follow_snapshot(self, progress: Progress | None) -> None:
        if self._restores is not None and (progress is None or self._restores != _without_place(progress)):
            self._drop()

    def _drop(self) -> None:
        self._restores = None
        if self._restoring is not None:
            self._restoring.drop()

    def rebuild(self, last: PartRecord, ending: Ending) -> None:
        self._restore_from(self._rebuild.bodies(last), last, ending, given_up=self._rebuild.is_closed)

    def _restore_from(
        self, bodies: Iterable[bytes], last: PartRecord, ending: Ending, *, given_up: Callable[[], bool] = never
    ) -> None:
        restoring, under_way = self._restoring, self._restores is not None
        self._restores = None
        try:
            if restoring is not None and under_way:
                restoring.complete(last, self._with_ledger(restoring.decoder, last, ending))
                return
            if restoring is not None:
                restoring.join()
            most = self._rebuild.snapshot_bytes_max
            decoder = SnapshotDecoder(last.codec, last.digest, id_=str(last.id), most=most)
            with HeldCollector() as collector:
                both = self._with_ledger(decoder, last, ending)
                application = self._applied.application.at(last.version)
                run(application, decoder.pieces(collector.watching(bodies)), both, given_up=given_up)
        except Failed as failed:
            raise self._applied.fail(last.id, failed) from failed.__cause__
        finally:
            self._restoring = None  # not before: `close` looks for it

    def _with_ledger(self, decoder: SnapshotDecoder, last: PartRecord, ending: Ending) -> Ending:
        """The same ending, in which the ledger of the snapshot comes along with its state."""

        @contextmanager
        def both() -> Iterator[None]:
            ledger = Ledger.of(decoder.ledger, id_=str(last.id))  # before anything is saved
            with ending():
                yield
                self._applied.ledger = ledger

        return both

    def commit(self, step: Step, after: NodeState, bodies: Sequence[bytes]) -> bool:
        last = step.record
        if step.verdict is not RESTORE:
            return False
        assert isinstance(last, PartRecord)
        if not bodies:
            self._saved.flush()
        self._drop()
        every = bodies or self._rebuild.bodies(last)
        self._restore_from(every, last, partial(self._rebuild.swapped, step, after))
        return True

    def pieces(self) -> Iterable[Any]:
        return self._applied.as_now.snapshot()

    def follow(self) -> None:
        """The state has nothing besides what the group has."""

    def write_state(self, *, insisting: bool = False) -> None:
        """The state is what was applied."""

    def counts_upto(self, upto: RecordId) -> RecordId:
        return upto

    def close(self) -> None:
        """On whichever thread a restore is: one that is decoded as its parts come in has its own, a snapshot whose
        last part is the first that this boot reads is restored by its reader."""
        if (restoring := self._restoring) is not None:
            restoring.drop()


def _without_place(progress: Progress) -> Progress:
    """Which snapshot it is, and not how far it has passed by."""
    return progress._replace(next_part=0, complete=False)
