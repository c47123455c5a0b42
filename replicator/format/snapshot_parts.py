"""Snapshots in parts: cutting a stream of bytes into bodies, and following whether the parts in a log make one whole.

`Cutter` is the writer's side. `Progress` is the reader's: a small value that goes with the view, so that following a
snapshot survives a restart. It holds no bytes: those go to the checkpoint as they come.
"""

from __future__ import annotations

from typing import NamedTuple

from .ids import Position, RecordId, Writer
from .records import PartRecord

__all__ = ["PART_BYTES", "Cutter", "Progress", "follow"]

#: The body of a part: half of what a record takes. Changes wait while one is sealed, sent and answered; smaller ones
#: cost more round trips, and nobody waits less.
PART_BYTES = 128 * 1024


class Cutter:
    """Collects bytes and gives them out as bodies of one size; the remainder comes at the end."""

    def __init__(self, size: int = PART_BYTES) -> None:
        self._size = size
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that are full now."""
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
    """How much of a snapshot has passed by without a gap.

    `before` is where its first part followed: the id of the entry before it in the log, and the chain it continues.
    """

    writer: Writer
    as_of: Position
    before: Position
    next_part: int
    complete: bool

    @property
    def resume(self) -> Position:
        """Where reading goes on once a state was restored from this snapshot: behind what the snapshot contains.

        Usually that is `as_of`: changes that were interleaved with the parts are then folded like any others. Where
        nothing lies between `as_of` and the first part, it is the place before the first part: after a rebase the log
        has records of an abandoned history behind `as_of`, and reading those again would lead nowhere. But never before
        `as_of`: where the log was cut, the entry that was read before the first part is an older one, and a Redis that
        fails over may have again what was cut.
        """
        return max(self.before, self.as_of) if self.before.chain == self.as_of.chain else self.as_of


def follow(progress: Progress | None, record: PartRecord, before: RecordId) -> Progress | None:
    """The progress after `record`, read right after the entry `before`; None if it does not continue from a part 0.

    Pass None as `progress` whenever the reader cannot vouch that it saw everything since the last part.
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
