"""What became of a write: in the log, not in the log, or nobody knows. Pure: answers in, the next step out.

`PendingWrite` is one record on its way into the log. The writer does what `next` says (`Next.SEND`, `Next.LOOK`), tells
it what came of that, and so on, until the record is to be folded (`Next.FOLD`) or its submitter to be told
(`Next.RAISE`). How long it goes on is up to the writer: it has the clock.

Compare-and-append makes repeating harmless: the same record lands once, whichever attempt it was. A refusal of a repeat
does not say what became of the first attempt. The log does (`find_out`), as long as it is the same Redis. If even that
cannot tell, the submitter hears so (`OutcomeUnknown`).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..format.records import Record
from .group import Code, GroupView, Reply

__all__ = [
    "Lookup",
    "Next",
    "PendingWrite",
    "WriteOutcome",
    "find_out",
]


class WriteOutcome(Enum):
    """What became of a write, as far as its writer can know."""

    COMMITTED = "in the log"
    NOT_SENT = "not in the log: it was never sent"
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


class Next(Enum):
    """What a writer does next for a record."""

    SEND = "send it, to the letter as before"
    LOOK = "ask the log for it"
    FOLD = "fold it: it is in the log"
    RAISE = "tell its submitter"


class PendingWrite(NamedTuple):
    """A record on its way into the log. Every method takes what happened, and gives the write that it becomes."""

    record: Record
    #: The run of Redis in which its term was taken.
    run: str
    #: It may have been sent before, and no answer came.
    uncertain: bool = False
    #: The newest answer.
    reply: Reply | None = None
    #: None: not known yet.
    outcome: WriteOutcome | None = None

    @property
    def next(self) -> Next:
        if self.outcome is None:
            return Next.SEND if self.reply is None else Next.LOOK
        return Next.FOLD if self.outcome is WriteOutcome.COMMITTED else Next.RAISE

    def answered(self, reply: Reply) -> PendingWrite:
        """It was sent, and the log answered."""
        return self._replace(reply=reply, outcome=_outcome_of(reply, uncertain=self.uncertain))

    def unanswered(self) -> PendingWrite:
        """It was sent, and no answer came: from here on nothing but the log knows."""
        return PendingWrite(self.record, self.run, uncertain=True)

    def unsent(self) -> PendingWrite:
        """What was to be sent, it or the question for it, never was."""
        again = PendingWrite(self.record, self.run, uncertain=self.uncertain)
        return again if self.uncertain else again._replace(outcome=WriteOutcome.NOT_SENT)

    def looked(self, there: Record | None, look: GroupView) -> PendingWrite:
        """`there`: what the log has at the record's id; `look`: taken after that."""
        assert self.reply is not None
        found = find_out(self.record, there, look, self.run)
        return self._replace(outcome=_outcome_of_found(found, self.reply))


def find_out(record: Record, there: Record | None, look: GroupView, run: str) -> Lookup:
    """`there`: what the log has at the record's id; `look`: taken after that; `run`: in which the term was taken.

    A record that another run does not have may have been read from this one before it was lost.
    """
    if there is not None and there.chain == record.chain:
        return Lookup.THERE
    trimmed = look.head is None or look.head.previous_snapshot_at >= record.id
    return Lookup.CANNOT_TELL if trimmed or look.run != run else Lookup.NOT_THERE


def _outcome_of(reply: Reply, *, uncertain: bool) -> WriteOutcome | None:
    if reply.code in (Code.OK, Code.DUPLICATE):
        return WriteOutcome.COMMITTED
    if reply.code is Code.RESTART:
        return WriteOutcome.AGAIN
    return None if uncertain else _OUTCOMES_OF_REFUSALS.get(reply.code, WriteOutcome.REFUSED)


def _outcome_of_found(found: Lookup, reply: Reply) -> WriteOutcome:
    if found is Lookup.THERE:
        return WriteOutcome.COMMITTED
    return WriteOutcome.REFUSED if found is Lookup.NOT_THERE and reply.code is Code.FENCED else WriteOutcome.UNKNOWN


_OUTCOMES_OF_REFUSALS = {Code.BEHIND: WriteOutcome.REBASE, Code.LOST: WriteOutcome.LOST, Code.STRAY: WriteOutcome.STRAY}
