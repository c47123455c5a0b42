"""What a node does while it holds the term: it commits changes, and publishes its state."""

from __future__ import annotations

from ..log.interface import Log
from ..replica.replica import Replica
from ..runtime.event_log import Speaker
from .commit_queue import CommitQueue
from .lease import Lease
from .publisher import Publisher
from .writer import RecordWriter

__all__ = ["Primary"]


class Primary:
    """Its parts, put together. `patience_s`: how long a lost answer is waited for."""

    def __init__(
        self, log: Log, replica: Replica, lease: Lease, *, patience_s: float, speaker: Speaker | None = None
    ) -> None:
        self.writer = RecordWriter(log, replica, lease, patience_s=patience_s)
        self.commits = CommitQueue(self.writer, replica.applied, speaker)
        self.publisher = Publisher(self.writer, replica, self.commits)
