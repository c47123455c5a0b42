"""What a node may forget when it is killed: what it can read again, and what nobody was told is on its disk. Pure.

A node that reads such a record applies it first and saves it a moment later. So its readers are not kept waiting for a
disk, and a kill takes it back by that moment, to the border of an older record; it reads the rest from the log.
Everything else is on its disk first:

- **Terms**, and what a node does with the first record of one: a term that was seen is never seen to go back (G2, G3).
  A node that takes the term itself has, with its term record, all that it applied on its disk before it leads.
- **What is passed by or ignored**: it says that this node is out of sync, or where it reads on.
- **Restores**: the state that they replace may be of a history that lost, and goes into a fork before (G9).
- **What somebody waits for** (`applied:N`): not for safety, as only what is on the disk is vouched for, but because the
  answer is awaited.
"""

from __future__ import annotations

from ..format.records import ChangeRecord, Record
from .fold import APPLY, Verdict, View

__all__ = ["may_be_forgotten"]


def may_be_forgotten(record: Record, verdict: Verdict, before: View, after: View) -> bool:
    """Whether a node that is killed may come back as if it had not read this record, which made `after` of `before`.

    If not, the disk has to have it, and all before it, when the node goes by it.
    """
    if before.term != after.term:
        return False
    if verdict is APPLY:
        assert isinstance(record, ChangeRecord)
        return not record.wants_acks
    return verdict is Verdict.SKIP
