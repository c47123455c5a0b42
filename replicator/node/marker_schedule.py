"""When a primary marks the log by itself, so that nodes whose states differ are found without anybody asking.

At a marker every node digests its state, which costs it some time: so it is done once in a while, and only if something
was written since the last time.
"""

from __future__ import annotations

import time
from contextlib import suppress

from ..errors import ReplicatorError
from ..format.ids import ZERO_ID, RecordId
from ..protocol.node_state import NodeState
from .background_task import Aside
from .commit_queue import CommitQueue
from .problems import Problems

__all__ = ["MarkerSchedule"]


class MarkerSchedule:
    """Of one node. `every_s`: how often; 0: never. Only its HA loop calls `keep`."""

    def __init__(self, commits: CommitQueue, problems: Problems, *, every_s: float, name: str) -> None:
        self._commits = commits
        self._every_s = every_s
        self._aside = Aside(problems, name=f"{name}-marker")
        #: The term in which it leads, since when it counts, and the newest change then.
        self._term, self._since, self._changed = 0, 0.0, ZERO_ID

    def keep(self, node_state: NodeState) -> None:
        """Mark the log if it is time, aside: a lost answer may take a while."""
        if not self._every_s or not node_state.is_primary:
            self._term = 0
            return
        view, now = node_state.view, time.monotonic()
        if self._term != view.term:
            # What it has written in this term before this beat is to be marked as well.
            before = view.changed if view.changed.term != view.term else ZERO_ID
            self._term, self._since, self._changed = view.term, now, before
        elif self._is_due(view.changed, now) and self._aside.begin(self._mark):
            self._since, self._changed = now, view.changed

    def _is_due(self, changed: RecordId, now: float) -> bool:
        return changed != self._changed and now - self._since >= self._every_s and not self._aside.runs

    def _mark(self) -> None:
        with suppress(ReplicatorError):  # whatever is in the way of writing is told by those who write
            self._commits.mark()
