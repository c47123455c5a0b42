"""What a node that stalled at a change does once the group goes on without it (`protocol/skip.py`).

It looks on in the log, a few records at a time, and keeps none of them. What it had in memory is not to be trusted: its
`apply` raised somewhere in the middle. So if it is the one that leads, it makes its state anew from its disk, up to the
change, which it passes over from then on; a node that had nothing on its disk yet begins with what it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..errors import ReplicatorError, Stalled
from ..format.codec import SnapshotDecoder, SnapshotEncoder
from ..format.ids import ZERO_ID, RecordId
from ..format.records import Record, TermRecord
from ..protocol.fold import Verdict, View
from ..protocol.skip import Found, LookAhead
from ..runtime.event_log import EventLogger
from ..storage.checkpoint import Step
from .applied_state import AppliedState
from .node_state_cell import NodeStateCell
from .save_queue import SaveQueue

__all__ = ["Beginning", "Skipping"]

logger = EventLogger(__name__)

#: Beside what is saved: a node that is started again before its state is in the log says it then.
_REASON = "skipped_because"


class Skipping:
    """Of one node. `load`: make the state that of this view, from the disk; the view that came of it."""

    def __init__(
        self, known: NodeStateCell, applied: AppliedState, saved: SaveQueue, load: Callable[[View], View]
    ) -> None:
        self._known = known
        self._applied = applied
        self._saved = saved
        self._load = load
        self._ahead = LookAhead(ZERO_ID)
        self._read_upto = ZERO_ID

    @property
    def cursor(self) -> RecordId:
        """How far it has looked, if it stalled at a change; otherwise, how far it has read."""
        at = self._applied.stalled_at
        if at == ZERO_ID:
            return self._known.node_state.view.cursor.id
        if at != self._ahead.stalled_at:
            self._ahead, self._read_upto = LookAhead(at), at
        return self._read_upto

    @property
    def reason(self) -> str:
        """Why the group goes on without the change that this node has skipped last."""
        return self._saved.checkpoint.noted(_REASON)

    def give_way(self) -> str:
        """The group went on without the change: its own terms of before then are over. Why its state is given up."""
        self._known.knows_over(self._ahead.term - 1)
        return f"the group went on without {self._ahead.stalled_at}, at which it stalled"

    def look_at(self, records: Iterable[Record]) -> Found:
        """See whether these records, which come after the change, mean anything to it. The caller has the write lock.

        Raises `Stalled` or `CheckpointError`.
        """
        me = self._known.node_state.me
        if self._applied.stalled_at == ZERO_ID:
            return Found.NOTHING  # it stalled for another reason
        for record in records:
            if record.id <= self.cursor:
                continue
            found, self._ahead = self._ahead.sees(record, me)
            if found is Found.LEADS and not self._goes_on(record):
                found = Found.NOTHING
            if found is not Found.NOTHING:
                return found
            self._read_upto = record.id
        return Found.NOTHING

    def _goes_on(self, record: Record) -> bool:
        """This is the record of its own term: it leads from before the change, once its state is in the log."""
        verdict, after = self._known.to_fold().fold(record)
        if verdict is not Verdict.LEAD_AFTER_REBASE:
            return False
        at = self._applied.stalled_at
        assert isinstance(record, TermRecord)
        self._saved.checkpoint.note(_REASON, record.reason)
        self._saved.save([Step(record, verdict, after.view)])
        with self._applied.lock:
            self._applied.stalled, self._applied.stalled_at = "", ZERO_ID
            try:
                self._load(after.view)
            except ReplicatorError as problem:
                self._applied.stalled = f"{problem}; it is to lead without {at}: start it again"
            self._known.adopt(after)
            self._applied.version = after.view.version
        if self._applied.stalled:
            raise Stalled(self._applied.stalled)
        logger.warning("change.skipped", "going on without %s, as record %s says", at, record.id)
        return True


class Beginning:
    """The state that a node began with, for as long as its disk has no snapshot. `version`: the one to draw it in."""

    def __init__(self, applied: AppliedState, version: int, *, most: int) -> None:
        self.version = version
        self._most = most
        self._codec = self._digest = ""
        self._bodies: list[bytes] | None = None
        encoder = SnapshotEncoder(most=most)
        try:
            with applied.lock:
                bodies = [encoder.feed(piece) for piece in applied.application.at(version).snapshot()]
            self._bodies = [*bodies, encoder.finish()]
            self._codec, self._digest = encoder.codec, encoder.digest
        except ReplicatorError as problem:
            # Without it this node has to be started again where it would be needed, and nothing else is amiss.
            logger.debug("state.beginning_not_kept", "the state that this node begins with is not kept: %s", problem)

    def pieces(self) -> Iterable[object]:
        """Raises `Stalled` if it could not be drawn."""
        if self._bodies is None:
            raise Stalled("the state that this node began with could not be drawn")
        return SnapshotDecoder(self._codec, self._digest, id_="beginning", most=self._most).pieces(self._bodies)
