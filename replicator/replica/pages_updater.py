"""A node's copy of a database that is replicated by pages (`state/sqlite_pages.py`).

As in `whole_updater.py` there are the state and what was published of it. Here what was published is a database, too,
the shadow, and a record changes some pages of that. The state is not made that each time, which would be a copy of the
whole: on a standby it *lags*, on purpose, and is written once the node is to lead, before it does. Which pages it lacks
is known, as long as nobody else writes it, so it can be brought up to date in place; a state that is `live` is, all the
time, by a thread. Otherwise it is restored, as any other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CheckpointError, StateError, StateInUse
from ..format.records import PartRecord, Record
from ..protocol.fold import Verdict, View
from ..protocol.node_state import NodeState
from ..runtime.event_log import EventLogger, in_this_context
from ..runtime.threads import started
from ..state.sqlite_pages import SQLitePages
from ..storage.checkpoint import Step
from ..storage.published_pages import PublishedPages
from .rebuild import Rebuild
from .restore import Dropped, Ending, never
from .whole_updater import WholeUpdater

__all__ = ["PagesUpdater"]

logger = EventLogger(__name__)

#: More than so many pages are not written in place: the whole of it is restored, once.
LACKS_MAX = 8192

#: How long programs that hold a live database have it for themselves before it is tried again.
TRY_AGAIN_S = 0.2

#: After a live one had to be restored as a whole, it lags for so many times as long as that took.
RESTORES_PAUSE = 20


class PagesUpdater(WholeUpdater):
    """See `StateUpdater`. `state`: the one that is kept up."""

    def __init__(self, rebuild: Rebuild, *, state: SQLitePages) -> None:
        super().__init__(rebuild)
        checkpoint = rebuild.saved.checkpoint
        self.whole = self._pages = PublishedPages(
            checkpoint.data_dir, snapshot_bytes_max=rebuild.snapshot_bytes_max, is_private=checkpoint.is_private
        )
        self._pages.source = state
        state.shadow_is_broken = lambda: self._pages.is_broken
        state.published_pieces = self._pages.pieces
        state.keep_notes(checkpoint.data_dir / "left")
        self._state = state
        #: The state is what was published at some time before.
        self._lags = False
        #: The pages that it lacks; None: nobody knows. Under the lock of the state.
        self._lacks: set[int] | None = None
        #: The first page of what is being restored.
        self._first: tuple[dict[int, bytes], int] | None = None
        self._restores_from = 0.0
        self._moved = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def _go_ahead(self) -> None:
        super()._go_ahead()
        self._lacks = None
        self._state.forgets()

    # --- what a node reads -------------------------------------------------------------------------------------------

    def load(self, view: View, *, again: bool = False) -> View:
        self._state.recognise()
        loaded = super().load(view, again=again)
        if self._pages.is_published and not self._pages.is_ahead and self._applied.unwritten is None:
            self._is_written()
        return loaded

    def alone(self, step: Step) -> Callable[[Step, View, NodeState], None] | None:
        if step.verdict in (Verdict.LEAD, Verdict.LEAD_AFTER_REBASE) and (self._lags or self._state.was_wal):
            return self._lead
        return super().alone(step)

    def _lead(self, step: Step, before: View, after: NodeState) -> None:
        if self._lags and self._applied.unwritten is None:
            with self._writing:
                if not self._caught_up():
                    self._write_once(insisting=True)
            if self._lags:  # the node stops
                return
        if self._applied.unwritten is not None:
            self.write_state(insisting=True)
        if (behind := self._applied.unwritten) is not None:  # the node stops
            raise behind
        self._state.enters_wal()
        self._rebuild.save_and_adopt(step, after)

    def _restore_to(
        self,
        record: Record,
        pieces: Iterator[Any],
        ending: Ending,
        *,
        taken: bool,
        given_up: Callable[[], bool] = never,
    ) -> None:
        if not taken or isinstance(record, PartRecord):
            # All of it, which is rare: programs find it at once, as of any state.
            super()._restore_to(record, pieces, ending, taken=taken, given_up=given_up)
            with self._applied.lock:
                self._lacks = None
                if taken and not self._pages.is_ahead and self._applied.unwritten is None:
                    self._is_written()
            return
        mine = self._pages.is_ahead and record.node == self._known.node_state.me.node
        if not mine:
            self._give_up()
        for _ in pieces:
            if given_up():
                raise Dropped
        with ending():
            self._pages.adopt()
            self._pages.is_ahead = mine
            self._lags = self._lags or not mine
            self._lacks = self._with_carried(mine=mine)
        if self._lags and self._state.live:
            self._wake()

    def _with_carried(self, *, mine: bool) -> set[int] | None:
        carried, lacks = self._pages.carried, self._lacks
        if mine or carried is None or lacks is None or len(lacks) + len(carried) > LACKS_MAX:
            return None
        return lacks | carried

    def _give_up(self) -> None:
        try:
            super()._give_up()
        except CheckpointError:  # the shadow is broken: the next change does not fit, and a snapshot comes
            self._pages.is_ahead, self._lags, self._lacks = False, True, None

    # --- the state ---------------------------------------------------------------------------------------------------

    def _pieces_to_write(self) -> Iterator[Any]:
        with self._applied.lock:
            self._state.loses_track()
            self._written_digest, self._first = self._pages.digest, self._pages.now(())
            pieces = self._pages.pieces()
            # From here on it is known what the state lacks, if it becomes this.
            self._lacks = set() if self._first is not None else None
        for piece in pieces:
            if self._rebuild.closed:
                raise Dropped
            yield piece

    @contextmanager
    def _written(self) -> Iterator[None]:
        with super()._written():
            yield
            self._lags = self._pages.digest != self._written_digest
            if self._first is not None:
                self._state.is_published(self._first[0][1])

    def _is_written(self) -> None:
        """The state is what was published. The caller has its lock, or nobody else has it yet."""
        self._lags, self._lacks = False, None
        now = self._pages.now(())
        if now is not None:
            self._state.is_published(now[0][1])
            self._lacks = set()

    def _caught_up(self) -> bool:
        """Whether the state could be made what was published in place. The caller has `_writing`."""
        with self._applied.lock:
            lacks, digest = self._lacks, self._pages.digest
            now = self._pages.now(lacks) if lacks is not None else None
            self._lacks = set() if now is not None else None
        if now is None:
            return False
        try:
            done = self._state.catch_up(*now)
        except StateInUse:
            self._lacks_again(lacks)
            return False
        except StateError:  # what is in the way of all of it will be said
            done = False
        with self._applied.lock:
            if not done:
                self._lacks = None
            elif self._pages.digest == digest:
                self._lags = False
        return done

    def _lacks_again(self, before: set[int] | None) -> None:
        with self._applied.lock:
            if before is not None and self._lacks is not None:
                self._lacks |= before

    def follow(self) -> None:
        super().follow()
        if not self._pages.is_ahead:
            self._state.close_reader()

    def _marked(self) -> Any:
        """At a marker all nodes have the same shadow."""
        return self.pieces()

    # --- a live one --------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._moved.set()
        if self._thread is None and not self._closing:
            self._thread = started(in_this_context(self._follow_live), name="live-database")

    def _follow_live(self) -> None:
        while not self._closing:
            self._moved.wait()
            self._moved.clear()
            while self._lags and not self._closing and not self._tried():
                self._moved.wait(TRY_AGAIN_S)

    def _tried(self) -> bool:
        """Whether there is nothing more to be done for now."""
        try:
            with self._writing:
                # Looked at here: meanwhile the node may have come to lead, and its program may write.
                if not self._lags or self._pages.is_ahead or self._known.node_state.holds_term:
                    return True
                if self._caught_up():
                    return True
                return self._lacks is None and self._restored()
        except Exception:
            # Once the node is to lead, it is seen to in another way.
            logger.exception("database.not_followed", "a bug in replicator: %s is not live any more", self._state.path)
            self._closing = True
            return True

    def _restored(self) -> bool:
        """Whether a live one that cannot be brought up to date in place was restored, or is left to `write_state`."""
        began = time.monotonic()
        if began < self._restores_from:
            return False
        try:
            self._write_once(insisting=False)
        except StateError:
            return True  # it is `unwritten` now
        self._restores_from = time.monotonic() + RESTORES_PAUSE * (time.monotonic() - began)
        return not self._lags

    def close(self) -> None:
        self._closing = True
        self._moved.set()
        super().close()
        if self._thread is not None:
            self._thread.join()
        self._state.close_reader()
