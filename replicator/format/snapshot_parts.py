"""Snapshots in parts: cutting a stream of bytes into bodies, and telling whether the parts in a log are complete.

`Cutter` is the writer's side. `Progress` is the reader's: a small value, kept in the view, so a node that restarts
amid a snapshot can go on with it. It holds no bytes: those go to the checkpoint as they come.
"""

from __future__ import annotations

from typing import NamedTuple

from .ids import Position, RecordId, Writer
from .records import PartRecord

__all__ = ["PART_BYTES", "Cutter", "Progress", "follow"]

#: The body of a part: half of what a record can hold. Changes wait while a part is sealed, sent and answered; smaller
#: parts cost more round trips without shortening that wait.
PART_BYTES = 128 * 1024


class Cutter:
    """Collects bytes and returns them as bodies of equal size; `finish` returns the remainder."""

    def __init__(self, size: int = PART_BYTES) -> None:
        self._size = size
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add `data`; return the bodies that are full now."""
        self._held += data
        bodies = []
        while len(self._held) > self._size:  # not >=: the last body is never empty
            bodies.append(bytes(self._held[: self._size]))
            del self._held[: self._size]
        return bodies

    def finish(self) -> bytes:
        """The body of the last part."""
        last = bytes(self._held)
        self._held.clear()
        return last


class Progress(NamedTuple):
    """How much of a snapshot a reader has seen without a gap.

    `before` is the place that its first part follows: the id of the entry before it in the log, and the chain that it
    continues.
    """

    writer: Writer
    as_of: Position
    before: Position
    next_part: int
    complete: bool

    @property
    def resume(self) -> Position:
        """Where reading continues once a state was restored from this snapshot: after what the snapshot contains.

        Usually that is `as_of`: changes that were interleaved with the parts are then folded like any others. Where
        nothing of the history lies between `as_of` and the first part, it is the place before the first part: after a
        rebase the log has records of an abandoned history after `as_of`, and reading those again would lead nowhere.
        But it is never before `as_of`: where the log was trimmed, the entry that was read before the first part is an
        older one, and a Redis that fails over may have the trimmed records again.
        """
        return max(self.before, self.as_of) if self.before.chain == self.as_of.chain else self.as_of


def follow(progress: Progress | None, record: PartRecord, before: RecordId) -> Progress | None:
    """The progress after `record`, which was read right after the entry `before`; None if parts are missing before it.

    Pass None as `progress` unless the reader is certain that it saw everything since the last part.
    """
    if record.part == 0:
        return Progress(record.writer, record.as_of, Position(before, record.prev), 1, record.is_last)
    if (
        progress is None
        or progress.complete
        or record.part != progress.next_part
        or record.writer != progress.writer
        or record.as_of != progress.as_of
    ):
        return None
    return progress._replace(next_part=record.part + 1, complete=record.is_last)
