"""A node's copy of a database that is replicated by pages (`state/sqlite_pages.py`).

As in `whole_updater.py` there are the state and what was published of it. Here what was published is a database, too,
the shadow, and a record changes some pages of that. The state is not made that each time, which would be a copy of the
whole: on a standby it *lags*, on purpose, and is written once the node is to lead, before it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..format.records import Record
from ..protocol.fold import Verdict, View
from ..protocol.node_state import NodeState
from ..runtime.event_log import EventLogger
from ..state.sqlite_pages import SQLitePages
from ..storage.checkpoint import Step
from ..storage.published_pages import PublishedPages
from .rebuild import Rebuild
from .restore import Dropped, Ending, never
from .whole_updater import WholeUpdater

__all__ = ["PagesUpdater"]

logger = EventLogger(__name__)


class PagesUpdater(WholeUpdater):
    """See `StateUpdater`. `state`: the one that is kept up."""

    def __init__(self, rebuild: Rebuild, *, state: SQLitePages) -> None:
        super().__init__(rebuild)
        checkpoint = rebuild.saved.checkpoint
        self.whole = PublishedPages(
            checkpoint.data_dir, snapshot_bytes_max=rebuild.snapshot_bytes_max, is_private=checkpoint.is_private
        )
        self.whole.source = state
        state.published_pieces = self.whole.pieces
        self._state = state
        #: The state is what was published at some time before.
        self._lags = False

    def alone(self, step: Step) -> Callable[[Step, View, NodeState], None] | None:
        if step.verdict in (Verdict.LEAD, Verdict.LEAD_AFTER_REBASE) and self._lags:
            return self._lead
        return super().alone(step)

    def _lead(self, step: Step, before: View, after: NodeState) -> None:
        if self._lags and self._applied.unwritten is None:
            with self._writing:
                self._write_once(insisting=True)
            if self._lags:  # the node stops
                return
        super()._lead(step, before, after)

    @contextmanager
    def _written(self) -> Iterator[None]:
        with super()._written():
            yield
            if self.whole.digest == self._written_digest:
                self._lags = False

    def _restore_to(
        self,
        record: Record,
        pieces: Iterator[Any],
        ending: Ending,
        *,
        taken: bool,
        given_up: Callable[[], bool] = never,
    ) -> None:
        if not taken:  # `replace`, on the primary: its program is to find that
            super()._restore_to(record, pieces, ending, taken=taken, given_up=given_up)
            return
        mine = self.whole.is_ahead and record.node == self._known.node_state.me.node
        if not mine:
            self._give_up()
        for _ in pieces:
            if given_up():
                raise Dropped
        with ending():
            self.whole.adopt()
            self.whole.is_ahead = mine
            self._lags = self._lags or not mine

    def follow(self) -> None:
        super().follow()
        if not self.whole.is_ahead:
            self._state.close_reader()

    def _marked(self) -> Any:
        """At a marker all nodes have the same shadow."""
        return self.pieces()

    def close(self) -> None:
        super().close()
        self._state.close_reader()
