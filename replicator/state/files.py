"""A state that is replicated file by file: what a node needs of it besides the pieces of snapshots.

A publication names the files that are others (`format/file_changes.py`). So a primary asks for a cut, of which it reads
what is new, and a standby says what differs, and has every content at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from replicator.format.file_changes import FileChange, Listing
from replicator.format.manifest import Content
from replicator.storage.published_files import Cut

from . import ReplicatedState

__all__ = ["Files", "FilesState"]


class Files(Protocol):
    """What was published."""

    @property
    def listing(self) -> Listing:
        """What there is."""

    def content(self, content: Content) -> Iterator[bytes]:
        """The pieces of a content that is in it."""


@runtime_checkable
class FilesState(ReplicatedState, Protocol):
    """See above. Its `snapshot` and `restore` do the same for all of it, in pieces."""

    def cut(self) -> AbstractContextManager[Cut]:
        """It as it is at one moment. Raises `StateError`."""
        ...

    def restore_files(
        self, files: Files, end: Iterable[Any], *, change: FileChange | None = None, insisting: bool = False
    ) -> None:
        """Become `files`. `change`: what led to these; if the state is what that starts from, no more has to be done.

        `end` is drawn when everything was prepared and nothing shows: the rest is the swap, as of a `restore`.
        `insisting`: as `SharedState.restore_in_use`. Raises `StateError`; it is called again then.
        """
        ...
