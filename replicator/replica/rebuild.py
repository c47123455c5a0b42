"""Another state in the place of the one that a node has: what is saved, known and applied then moves together.

A restore ends in one of two ways (see `restore.py`): `saved_and_swapped` for what was read from the log, `swapped` for
what this node wrote itself. If it cannot be had, the record is passed by, and the node waits for another snapshot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain, islice
from typing import Any

from ..errors import ChangeTooLarge, CorruptRecord, NotJSON, SnapshotFailed, SnapshotRefused, Stalled, StateError
from ..format.ids import ORIGIN, ZERO_ID, RecordId
from ..format.records import PartRecord, Record
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..metrics.counters import Counters, Forks, phase
from ..protocol.fold import Verdict, View
from ..protocol.node_state import NodeState
from ..runtime.event_log import EventLogger
from ..runtime.gc_pause import HOLD_COLLECTOR_FROM_BYTES, HeldCollector
from ..runtime.log_once import Lasting, LogOnce
from ..state.callbacks import Application
from ..storage.checkpoint import Step
from ..storage.fork_writer import StateInFork, forks_in, id_in
from .applied_state import AppliedState
from .divergence import Divergence
from .node_state_cell import NodeStateCell
from .restore import Dropped, Ending, Failed, run
from .save_queue import SaveQueue

__all__ = ["Rebuild"]

logger = EventLogger(__name__)

_UNUSABLE = Lasting("snapshot.unusable", "snapshot.usable", "a snapshot could be restored", logging.ERROR)


class Rebuild:
    """What every restore of a node's state has in common. The caller has the write lock.

    `snapshot_bytes_max`: what a snapshot may weigh when it is unpacked (`format/unpacked_size.py`).
    """

    def __init__(
        self,
        known: NodeStateCell,
        applied: AppliedState,
        saved: SaveQueue,
        divergence: Divergence,
        counters: Counters,
        *,
        snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    ) -> None:
        self._divergence = divergence
        self._counters = counters
        counters.forks = Forks(*forks_in(saved.checkpoint.data_dir))
        self.known = known
        self.applied = applied
        self.saved = saved
        self.snapshot_bytes_max = snapshot_bytes_max
        #: The node stops: what is under way is given up.
        self.closed = False
        #: Where the state was that was given up and kept last.
        self._kept = ORIGIN
        self._log_once = LogOnce(logger)

    def is_closed(self) -> bool:
        return self.closed

    def restore_own(self, application: Application, pieces: Iterable[Any], view: View) -> None:
        """At the start, from this node's own disk: it is saved, and nobody reads yet.

        `application`: for the version that the group was at where these pieces were drawn.
        """
        with HeldCollector() as collector:
            if self.saved.checkpoint.payload_bytes >= HOLD_COLLECTOR_FROM_BYTES:
                collector.hold()
            try:
                run(application, pieces, nullcontext)
            except Failed as failed:
                if isinstance(failed.__cause__, StateError):
                    raise failed.__cause__ from None
                raise Stalled(id=view.position.id, problem=failed) from failed.__cause__

    def bodies(self, last: PartRecord) -> Iterator[bytes]:
        """Those of the snapshot that this last part completes: all before it are saved.

        If there is none before it, what the disk has staged is of another snapshot, which broke off.
        """
        return chain(islice(self.saved.checkpoint.staged(), last.part), [last.payload])

    def take(self, step: Step, before: View, after: NodeState, rebuild: Callable[[PartRecord, Ending], None]) -> None:
        """Put the snapshot that this last part completes in the place of the state. `rebuild` does it."""
        last = step.record
        assert isinstance(last, PartRecord)
        if last.version < self.applied.reads[0]:
            problem = (
                f"it is of version {last.version} of the group, and this node reads {self.applied.reads[0]} and up"
            )
            self.pass_by(last, before, after, SnapshotRefused(id=last.id, problem=problem))
            return
        self.saved.flush()  # what this node wrote last, while it led, belongs into a fork as well
        with phase(self._counters.restore_s, "fork"):
            self._keep_fork(last, before, after)
        try:
            with self._counters.restoring():
                rebuild(last, partial(self.saved_and_swapped, step, after))
        except Dropped:
            logger.info(
                "snapshot.left", "stopping before the snapshot of %s that ends at %s was restored", last.node, last.id
            )
            return
        except CorruptRecord as problem:
            self.pass_by(last, before, after, problem)
            return
        self._counters.restores += 1
        self._divergence.over()
        self._log_once.over("snapshot")
        logger.info(
            "snapshot.restored", "rebuilt the state from the snapshot of %s that ends at %s", last.node, last.id
        )

    def _keep_fork(self, last: PartRecord, before: View, after: NodeState) -> None:
        given_up = self._divergence.given_up
        if given_up and self._kept == before.position:
            return  # a snapshot that could not be taken is followed by another one
        parted_id = after.view.left_behind(before.changed) if before.changed != ZERO_ID else None
        if parted_id is not None:
            why = f"replaced by the snapshot {last.id} of {last.node}"
            fork = self.saved.checkpoint.write_fork(why, parted_id)
            self._counters.forked(id_in(fork))
            logger.warning(
                "fork.kept",
                "this node had changes after %s that the group's history has not: kept as a fork in %s",
                parted_id,
                fork,
                path=str(fork),
            )
        if given_up:
            self._keep_state(given_up, before.position.id if parted_id is None else parted_id)
            self._kept = before.position

    def _keep_state(self, why: str, parted_id: RecordId) -> None:
        """The state itself is kept: the changes of its history alone would not tell what differs."""
        if self.applied.unfit:
            why = f"{why}; what is here is of before it stalled: {self.applied.unfit}"
        write = partial(self.saved.checkpoint.write_fork, why, parted_id)
        try:
            with self.applied.lock:
                pieces, ledger, version = self.applied.drawn(), self.applied.ledger.image(), self.applied.version
            fork = write(of_state=StateInFork(pieces, ledger.to_bytes(), version, self.snapshot_bytes_max))
        except (StateError, SnapshotFailed, NotJSON, ChangeTooLarge) as problem:
            logger.warning(
                "fork.without_state",
                "the state cannot be drawn (%s); its snapshot and its changes are kept instead",
                problem,
            )
            fork = write()
        self._counters.forked(id_in(fork))
        logger.warning(
            "fork.kept",
            "the state of this node is replaced by a snapshot (%s): kept as a fork in %s",
            why,
            fork,
            path=str(fork),
        )

    def pass_by(self, record: Record, before: View, after: NodeState, problem: CorruptRecord) -> None:
        """Go on without what this record carries: the state is what it was, and no more in sync.

        Out of sync after the record, this node will get a snapshot.
        """
        self._counters.restores_passed_by += 1
        text = f"{problem}; waiting for another snapshot"
        self._log_once.tell("snapshot", _UNUSABLE, text, kind="passed by")
        view = before._replace(cursor=record.position, snapshot=None, in_sync=False)
        self.save_and_adopt(Step(record, Verdict.NEED_SNAPSHOT, view), after._replace(view=view))
        self.known.passed_by = problem

    def save_and_adopt(self, step: Step, after: NodeState) -> None:
        """Take a record that leaves the state as it is."""
        self.saved.save([step])
        with self.applied.lock:
            self.known.adopt(after)
            self.applied.version = after.view.version

    @contextmanager
    def saved_and_swapped(self, step: Step, after: NodeState) -> Iterator[None]:
        """The ending of a restore from the log.

        Saved when the pieces proved right, and before the state swaps them in: a disk that refuses leaves it as it was.
        """
        with phase(self._counters.restore_s, "save"):
            self.saved.save([step])
        with self.applied.lock, phase(self._counters.restore_s, "swap"):
            yield
            if self._divergence.given_up:
                self.applied.was_replaced()
            self.known.adopt(after)
            self.applied.version = after.view.version
            self.applied.applied_at = step.record.at

    @contextmanager
    def swapped(self, step: Step, after: NodeState) -> Iterator[None]:
        """The ending of a restore of what this node wrote: it is in the log, and on its disk a little later."""
        with self.applied.lock:
            yield
            self.saved.add(step)
            self.known.adopt(after)
            self.applied.version = after.view.version
            self.applied.applied_at = step.record.at
