"""A node's copy of a state that is replicated file by file (`state/files.py`): a directory.

As in `whole_updater.py` there are the state and what was published of it. Here a record says which files are others
(`storage/published_files.py`), so the state is not given all pieces: it is told what differs, and reads the contents
that it lacks of what was published, once all of that is there and was checked.

On a standby the state looks at what changes, and at all of it every so often. So somebody may have written there by the
time at which the node is to lead: all of it is looked at once more, before it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import CheckpointError, StateError
from ..format.file_changes import FileChange, Listing
from ..format.manifest import Content
from ..format.patch import EMPTY_DIGEST
from ..format.records import Record
from ..protocol.fold import Verdict, View
from ..protocol.node_state import NodeState
from ..state.callbacks import Application
from ..state.files import FilesState
from ..storage import published_files
from ..storage.checkpoint import Step
from ..storage.published_files import PublishedFiles
from .rebuild import Rebuild
from .restore import Dropped, Ending, never
from .whole_updater import WholeUpdater, draw

__all__ = ["FilesUpdater"]


class FilesUpdater(WholeUpdater):
    """See `StateUpdater`. `state`: the one that is kept up."""

    def __init__(self, rebuild: Rebuild, *, state: FilesState) -> None:
        super().__init__(rebuild)
        checkpoint = rebuild.saved.checkpoint
        self.whole = self._files = PublishedFiles(
            checkpoint.data_dir, snapshot_bytes_max=rebuild.snapshot_bytes_max, is_private=checkpoint.is_private
        )
        self._files.source = state
        self._state = state
        self._given_up: Callable[[], bool] = never
        #: What was written last was only what a change said.
        self._follows_changes = False

    def alone(self, step: Step) -> Callable[[Step, View, NodeState], None] | None:
        if step.verdict in (Verdict.LEAD, Verdict.LEAD_AFTER_REBASE) and self._follows_changes:
            return self._lead
        return super().alone(step)

    def _lead(self, step: Step, before: View, after: NodeState) -> None:
        if self._follows_changes and self._applied.unwritten is None and not self.whole.is_ahead:
            with self._writing:
                self._write_once(insisting=True)
            if self._rebuild.closed:
                return
        super()._lead(step, before, after)

    def _restore_to(
        self,
        record: Record,
        pieces: Iterator[Any],
        ending: Ending,
        *,
        taken: bool,
        given_up: Callable[[], bool] = never,
    ) -> None:
        draw(pieces, given_up)
        self._given_up = given_up
        super()._restore_to(record, _end(given_up), ending, taken=taken, given_up=given_up)

    def _becoming(self, version: int, *, to_come: bool = False, insisting: bool = False) -> Application:
        view = self._files.coming if to_come else self._files.now
        change = self._files.change if to_come else None
        given_up = self._given_up if to_come else self._rebuild.is_closed
        if not to_come:
            # By then something else may be published.
            self._written_digest = view.listing.digest if view is not None else EMPTY_DIGEST
        self._follows_changes = change is not None
        return Application(_ByFile(self._state, view, change, given_up, insisting=insisting), self._applied.inside)

    def _published_pieces(self) -> Iterator[Any]:
        return _end(self._rebuild.is_closed)

    def _pieces_to_write(self) -> Iterator[Any]:
        return self._published_pieces()


def _end(given_up: Callable[[], bool]) -> Iterator[Any]:
    """No pieces."""
    if given_up():
        raise Dropped
    yield from ()


class _ByFile:
    """A state whose `restore` makes it these files. None: nothing was ever published."""

    def __init__(
        self,
        state: FilesState,
        view: published_files.View | None,
        change: FileChange | None,
        given_up: Callable[[], bool],
        *,
        insisting: bool,
    ) -> None:
        self.snapshot = state.snapshot
        self._state = state
        self._view = view
        self._change = change
        self._given_up = given_up
        self._insisting = insisting

    def restore(self, pieces: Iterable[Any]) -> None:
        if self._view is None:
            self._state.restore(pieces)
            return
        files = _Files(self._view, self._given_up)
        self._state.restore_files(files, pieces, change=self._change, insisting=self._insisting)


class _Files:
    """What was published, as long as somebody wants it. (`_end` says so to whoever called.)"""

    def __init__(self, view: published_files.View, given_up: Callable[[], bool]) -> None:
        self.listing: Listing = view.listing
        self._view = view
        self._given_up = given_up

    def content(self, content: Content) -> Iterator[bytes]:
        try:
            for piece in self._view.content(content):
                if self._given_up():
                    raise Dropped
                yield piece
        except CheckpointError as error:  # the state is no less right for it: it is to be written again
            raise StateError(path=self._view.pack.path, problem=f"it does not give its contents ({error})") from error
