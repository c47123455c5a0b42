"""Leaves the last change of a log out, because `apply` fails at it on every node: `replicator skip`.

Nothing is taken out of the log. The head says which change is left out and what the last one before it is, and the
group goes on from there: nodes pass the record by, one of them takes the term and sends its state, which does not have
the change, as a snapshot. From then on the change is not in the group's history, as one that a failover lost: a node
that had applied it all the same keeps its history as a fork and is rebuilt, and a token from there is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from ..errors import SkipRefused
from ..format.ids import ZERO_ID, RecordId
from ..format.records import ChangeRecord, PartRecord, Record
from ..log.interface import Log
from ..protocol.group import SKIPPED_KEPT, Code, GroupView, Head, Skip
from .common import check_call, check_is_known, switched
from .log_history import records

__all__ = ["change_before", "skip"]


def skip(log: Log, id: RecordId, *, by: str, reason: str) -> Skip:
    """Leave this change out: the last one of the log. Nodes that stalled at it go on once they are started again.

    Raises `SkipRefused`: it is no change, or not the last one; a node leads; a live node has applied it. `LogLost`.
    """
    check_call(by=by, reason=reason)
    look = log.look()
    check_is_known(log, look)
    head = _checked(id, look)
    skipped = Skip(id, by, reason, look.now_ms)
    skips = (*(each for each in head.skipped if each.id != id), skipped)[-SKIPPED_KEPT:]
    before = change_before(id, records(log), left_out={each.id for each in head.skipped})
    if before is None:
        raise SkipRefused(id=id, reason="no change has that id in the log; `replicator log` lists its records")
    reply = log.skip(skips, newest=head.position.id, changed=before)
    switched(log, reply)
    if reply.code is not Code.OK:
        raise SkipRefused(id=id, reason="something was written meanwhile: look at the group again")
    return skipped


def _checked(id: RecordId, look: GroupView) -> Head:
    head = look.head
    if head is None:
        raise SkipRefused(id=id, reason="there is no log")
    if head.changed != id and id not in {each.id for each in head.skipped}:
        raise SkipRefused(id=id, reason=f"the last change of the log is {head.changed}, and only that can be left out")
    for name, heartbeat in sorted(look.heartbeats.items()):
        if heartbeat.alive and heartbeat.changed >= id:
            hint = f"{name} has applied it: promote that one, and upgrade the others, or `replicator reinit` them"
            raise SkipRefused(id=id, reason=hint)
    holder = look.heartbeats.get(head.node)
    if look.lease_ms is not None and holder is not None and holder.alive and not holder.stalled:
        raise SkipRefused(id=id, reason=f"{head.node} leads, so the group gets on by itself")
    return head


def change_before(id: RecordId, log: Iterable[Record], *, left_out: AbstractSet[RecordId]) -> RecordId | None:
    """The last change in a log's history before that one; None: there is no change of that id."""
    last = ZERO_ID
    for record in log:
        if record.id == id:
            return last if isinstance(record, ChangeRecord) and record.count else None
        if isinstance(record, ChangeRecord) and record.count and record.id not in left_out:
            last = record.id
        elif isinstance(record, PartRecord):
            last = max(last, record.id if record.replaces and record.is_last else record.changed)
    return None
