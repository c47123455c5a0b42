"""What became of a write: in the log, not in the log, or nobody knows. Pure: answers in, a fate out.

An answer that was lost says nothing. The writer looks the record up (`find_out`), and if even that cannot tell, so
does the caller of `submit` hear (`OutcomeUnknown`).
"""

from __future__ import annotations

from enum import Enum

from ..format.records import Record
from .group import Code, GroupView, Reply

__all__ = [
    "Lookup",
    "WriteOutcome",
    "find_out",
    "outcome_of_write",
]


class WriteOutcome(Enum):
    """What a writer makes of an answer to its append or part."""

    COMMITTED = "in the log"
    LOOK = "not known: read the log"
    REFUSED = "not in the log, and this node does not hold the term any more"
    UNKNOWN = "cannot be known: another node may have it"
    AGAIN = "the snapshot starts anew"
    REBASE = "the log lost records that this node has"
    LOST = "there is no log any more"
    STRAY = "something that is not a record is in the way"


class Lookup(Enum):
    """What the log says of a record whose first attempt got no answer and whose repeat was refused."""

    THERE = "it is there"
    NOT_THERE = "it is not there, and cannot come any more"
    CANNOT_TELL = "another run of Redis, or the place was trimmed: the log cannot tell"


def find_out(record: Record, there: Record | None, look: GroupView, run: str) -> Lookup:
    """`there`: what the log has at the record's id; `look`: taken after that; `run`: in which the term was taken.

    A record that another run does not have may have been read from this one before it was lost.
    """
    if there is not None and there.chain == record.chain:
        return Lookup.THERE
    trimmed = look.head is None or look.head.previous_snapshot_at >= record.id
    return Lookup.CANNOT_TELL if trimmed or look.run != run else Lookup.NOT_THERE


def outcome_of_write(reply: Reply, *, uncertain: bool, found: Lookup | None = None) -> WriteOutcome:
    """`uncertain`: an earlier attempt at the same record got no answer. `found`: what the log says, if it was asked.

    Compare-and-append makes repeating harmless: the same record lands once, whichever attempt it was. A refusal of a
    repeat does not say what became of the first attempt; the log does, as long as it is the same Redis.
    """
    if reply.code in (Code.OK, Code.DUPLICATE):
        return WriteOutcome.COMMITTED
    if reply.code is Code.RESTART:
        return WriteOutcome.AGAIN
    if not uncertain:
        return _PLAIN_FATE.get(reply.code, WriteOutcome.REFUSED)
    if found is None:
        return WriteOutcome.LOOK
    if found is Lookup.THERE:
        return WriteOutcome.COMMITTED
    return WriteOutcome.REFUSED if found is Lookup.NOT_THERE and reply.code is Code.FENCED else WriteOutcome.UNKNOWN


_PLAIN_FATE = {Code.BEHIND: WriteOutcome.REBASE, Code.LOST: WriteOutcome.LOST, Code.STRAY: WriteOutcome.STRAY}
