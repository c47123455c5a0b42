"""The changes that a group leaves out of its history, as far as this node knows: it passes them by.

They are in the group's head, and in a note beside what this node saved: it must not apply one at a start at which Redis
does not answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConfigError
from ..format.ids import Position, RecordId
from ..format.records import ChangeRecord
from ..protocol.fold import View
from ..storage.checkpoint import Checkpoint

__all__ = ["SKIPPED", "Skips", "before", "is_last", "noted_in"]

#: The name of the note.
SKIPPED = "skipped"


class Skips:
    """Of one node."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._ids = noted_in(checkpoint.noted(SKIPPED))

    def learn(self, ids: Iterable[RecordId]) -> None:
        """The group leaves these out. Raises `CheckpointError`."""
        known = self._ids | frozenset(ids)
        if known != self._ids:
            self._checkpoint.note(SKIPPED, " ".join(map(str, sorted(known))))
            self._ids = known

    def __contains__(self, id_: RecordId) -> bool:
        return id_ in self._ids

    def leaves_out(self, record: ChangeRecord, view: View) -> bool:
        """Whether a change on this node's disk is not to be applied at its start, at which it knew `view`.

        Not one that the history in its state goes on from: whether that is the group's, the log will tell.
        """
        return record.id in self and (view.left_behind(record.id) is not None or is_last(record, view))


def is_last(record: ChangeRecord, view: View) -> bool:
    """Whether the node was right after this record."""
    return view.position == record.position


def before(record: ChangeRecord, view: View) -> View:
    """A node that is right after this record, as one that has met it and does not have it."""
    place = Position(RecordId(record.id.term, record.id.n - 1), record.prev)
    return view._replace(position=place, in_sync=False)


def noted_in(text: str) -> frozenset[RecordId]:
    """The ids in such a note."""
    return frozenset(_parsed(text))


def _parsed(text: str) -> Iterable[RecordId]:
    for word in text.split():
        try:
            yield RecordId.parse(word)
        except ConfigError:
            continue
