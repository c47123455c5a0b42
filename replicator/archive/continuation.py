"""Whether the next record of the log goes on where an archive ends, and what begins if it does not. Pure.

A gap is never bridged: what does not follow the newest record that the archive has begins another timeline. That one
continues an earlier history if its first record says of which position it is the next; whether the archive has that
position is for the caller to find out.
"""

from __future__ import annotations

from typing import NamedTuple

from ..format.ids import Position
from ..format.records import PartRecord, Record, TermRecord

__all__ = ["Break", "Tail", "break_before", "rebases"]


class Tail(NamedTuple):
    """Where an archive ends. No `position`: any record is the first. Empty `run`, `log_id`: not known."""

    position: Position | None = None
    run: str = ""
    log_id: str = ""


class Break(NamedTuple):
    """Another timeline begins. `parent`: the position that its first record follows; None: it does not say."""

    reason: str
    parent: Position | None = None


def rebases(record: Record) -> bool:
    """Whether it is the first part of a rebase: of a state that its writer had before it took its term."""
    if not isinstance(record, PartRecord) or record.part:
        return False
    return record.as_of.chain == record.prev and record.as_of.id.term < record.id.term


def break_before(record: Record, tail: Tail) -> Break | None:
    """What breaks the timeline before this record; None: it goes on."""
    if isinstance(record, TermRecord) and tail.log_id and record.log_id != tail.log_id:
        return Break(f"another log, {record.log_id}, was there instead of {tail.log_id}")
    if tail.position is None:
        return None
    if record.prev == tail.position.chain:
        if isinstance(record, TermRecord) and tail.run and record.run != tail.run:
            return Break(f"Redis was in another run when term {record.id.term} was taken", tail.position)
        return None
    end = tail.position.id
    if rebases(record):
        assert isinstance(record, PartRecord)
        why = "Redis had lost that, or a change after it was skipped"
        return Break(f"{record.node} went on from {record.as_of.id} (a rebase: {why})", record.as_of)
    if isinstance(record, TermRecord) and record.ends:
        came_from = Position(record.ends[-1], record.prev)
        return Break(f"Redis lost what came after {came_from.id}: the archive has it up to {end}", came_from)
    return Break(f"a gap: what came after {end} was no longer in the log when it was read")
