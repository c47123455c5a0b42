"""How a node keeps its state up with the log: change by change (`change_updater.py`), or whole (`whole_updater.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from ..format.ids import RecordId
from ..format.records import PartRecord
from ..format.snapshot_parts import Progress
from ..protocol.fold import View
from ..protocol.node_state import NodeState
from ..storage.checkpoint import Step
from ..storage.payload import Whole
from .restore import Ending

__all__ = ["StateUpdater", "Work"]


class Work(NamedTuple):
    """A fold that is to be carried out, with the decoded changes of its record."""

    step: Step
    changes: list[Any]


class StateUpdater(Protocol):
    """What depends on the kind of a state. The caller has the write lock, unless it says otherwise."""

    @property
    def whole(self) -> Whole | None:
        """What was published of the state, if it is replicated whole."""

    def load(self, view: View, *, again: bool = False) -> View:
        """Make the state what it was as of this view, at the start, or `again` at any time; its own view."""

    def alone(self, step: Step) -> Callable[[Step, View, NodeState], None] | None:
        """What takes a record that is not saved and applied together with others, given the view before it.

        Not asked of the last part of a snapshot: that is alone in any case, and `rebuild` is called for it.
        """

    def saves_first(self, step: Step) -> bool:
        """Whether the disk has to have this step before anything is made of it, although it may be forgotten."""

    def build(self, taken: Sequence[Work]) -> None:
        """These steps were taken, and may be parts of a snapshot that this node needs: those are saved."""

    def follow_snapshot(self, progress: Progress | None) -> None:
        """The view follows this snapshot: what is built of another one is dropped."""

    def rebuild(self, last: PartRecord, ending: Ending) -> None:
        """Restore the state from the parts that the checkpoint has, and this last one.

        Raises `CorruptRecord` or `CheckpointError` (it is what it was), `Dropped`, or `Stalled` if the application
        fails.
        """

    def commit(self, step: Step, after: NodeState, bodies: Sequence[bytes]) -> bool:
        """Fold this node's own record, which is in the log; False: it is one like any other, and nothing was done.

        `bodies`: see `Replica.commit`.
        """

    def pieces(self) -> Iterable[Any]:
        """The state as of the position. The caller holds its lock."""

    def follow(self) -> None:
        """Make the state of a node that does not lead any more what the group has."""

    def write_state(self, *, insisting: bool = False) -> None:
        """Make the state what was published, if it could not become that yet. With the write lock or without."""

    def counts_upto(self, upto: RecordId) -> RecordId:
        """Of what is in the state and on the disk up to there, up to where it counts as acknowledged. No lock."""

    def close(self) -> None:
        """The node stops: give up what is under way. Without the write lock."""
