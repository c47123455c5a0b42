"""What a node knows of its own state: that it differs from the primary's, and that it is given up for a snapshot.

It is kept beside what is saved, since it has to outlive the process: a state that differs still does after a restart,
unless it is loaded from a snapshot that came after the place where that was found.
"""

from __future__ import annotations

import time

from ..errors import ConfigError
from ..format.ids import ZERO_ID, RecordId
from ..runtime.event_log import EventLogger
from ..runtime.log_once import duration
from ..storage.checkpoint import Checkpoint

__all__ = ["REBUILD_EVERY_S", "Divergence"]

logger = EventLogger(__name__)

#: A node whose state differs again within this time is not rebuilt by itself: it would differ once more.
REBUILD_EVERY_S = 3600.0

_AT, _WHY, _REBUILT = "diverged", "state_given_up", "rebuilt_at"


class Divergence:
    """Of one node. Raises `CheckpointError` where the disk refuses a note."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        #: The marker at which the state was found to differ; 0-0: it was not.
        self.at = _id_of(checkpoint.noted(_AT))
        #: Why the state is to be replaced by a snapshot, if it is.
        self.given_up = checkpoint.noted(_WHY)
        #: When that was found; a start counts, too.
        self._found_at = time.monotonic()
        payload = checkpoint.snapshot
        if self.at != ZERO_ID and payload is not None and payload.as_of.id >= self.at:
            self.over()

    @property
    def is_sound(self) -> bool:
        """Whether nothing speaks against the state."""
        return self.at == ZERO_ID and not self.given_up

    def found(self, at: RecordId, primary: str) -> None:
        """The state differs from that of `primary` at this marker."""
        if at == self.at:
            return
        logger.error(
            "state.differs", "the state of this node differs from that of %s at %s", primary, at, marker=str(at)
        )
        self._checkpoint.note(_AT, str(at))
        self.at, self._found_at = at, time.monotonic()

    def over(self) -> None:
        """It does not, or it is the one that counts, or there is another one."""
        if self.given_up:
            self._checkpoint.note(_WHY, "")
            self.given_up = ""
        if self.at != ZERO_ID:
            text = "the state of this node no longer differs from the primary's as it did at %s, after %s"
            logger.info("state.agrees", text, self.at, duration(time.monotonic() - self._found_at))
            self._checkpoint.note(_AT, "")
            self.at = ZERO_ID

    def gives_up(self, why: str) -> None:
        """The state is to be replaced by the next snapshot."""
        self._checkpoint.note(_WHY, why)
        self.given_up = why

    # --- once per log and hour ---

    def may_rebuild(self, log_id: str) -> bool:
        """Whether it has not been rebuilt for that reason lately, in this log. By the clock of this machine."""
        known, _, at = self._checkpoint.noted(_REBUILT).rpartition(" ")
        if known != log_id or not at.isdigit():
            return True
        return abs(time.time() - int(at) / 1000) >= REBUILD_EVERY_S

    def rebuilds(self, log_id: str) -> None:
        """It is rebuilt now, because it was found to differ."""
        self._checkpoint.note(_REBUILT, f"{log_id} {int(time.time() * 1000)}")


def _id_of(text: str) -> RecordId:
    try:
        return RecordId.parse(text) if text else ZERO_ID
    except ConfigError:
        return ZERO_ID
