"""A group goes on without its last change, at which every node stalls: `replicator skip`. Pure.

It is a promotion whose term record says which change (`skip`). That change was never in the state of a node that
leads: whoever wrote it stalled at it, and nothing was written since. So the node that is promoted, which has all before
it, has all that counts. It leads as a node does whose history the log does not continue: after a rebase. It publishes
its state first, as it was before that change, and what keys the change had are rejected from then on. That snapshot
takes the place of the history (`replaces`), so no place in the log means two states: a node that applied the change
after all finds that the snapshot does not follow what it has, keeps its history as a fork, and restores.

Until the snapshot is complete nothing is acknowledged. If the holder dies before, its next boot goes on (its view says
that the change is decided: `View.skipped`), or a node that has applied the change leads with it.

A node that stalled looks on in the log (`LookAhead`). It leads if the term is its own; otherwise it gives its state up
once the snapshot is complete, and restores that one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from ..format.ids import ZERO_ID, RecordId, Writer
from ..format.records import ChangeRecord, PartRecord, Record, TermRecord
from . import election
from .group import GroupView
from .heartbeat import Heartbeat

__all__ = ["Found", "LookAhead", "applied_by", "expected_head", "obstacle", "suggested"]


class Found(Enum):
    """What a record that comes after the place of a stalled node means to it."""

    NOTHING = "nothing"
    #: The node is to lead without the change.
    LEADS = "leads"
    #: The group went on without the change, and the log has its state.
    GIVES_UP = "gives up"


class LookAhead(NamedTuple):
    """What a node that stalled at a change has seen in the log after it. `term`: that in which the group went on."""

    stalled_at: RecordId
    term: int = 0

    def sees(self, record: Record, me: Writer) -> tuple[Found, LookAhead]:
        if isinstance(record, TermRecord) and record.skip == self.stalled_at != ZERO_ID:
            return Found.LEADS if record.writer == me else Found.NOTHING, self._replace(term=record.id.term)
        is_state = isinstance(record, PartRecord) and record.is_last and record.replaces
        if is_state and 0 < self.term <= record.id.term:
            return Found.GIVES_UP, self
        return Found.NOTHING, self


def applied_by(change: RecordId, look: GroupView) -> list[str]:
    """The nodes whose newest heartbeat says that they have applied this change, whether they live or not."""
    beats = sorted(look.heartbeats.items())
    return [name for name, beat in beats if beat.changed >= change and beat.log_id == _log_id(look)]


def obstacle(change: RecordId, node: str, look: GroupView, after: Iterable[Record], *, force: bool = False) -> str:
    """Why the group is not to go on without this change with `node` as its primary; empty: it may.

    `after`: the records of the log from the change on. `force`: even if a node has applied it.

    Claim with `expect=look.term`, `run=look.run` and the newest record: the answer holds for those only.
    """
    records = list(after)
    first = records[0] if records else None
    if look.head is None or not isinstance(first, ChangeRecord) or first.id != change or not first.count:
        return f"{change} is no change that is in the log"
    if look.head.changed != change:
        return f"{change} is not the last change: {look.head.changed} was written by a node that has applied it"
    for record in records[1:]:
        if isinstance(record, ChangeRecord) or (isinstance(record, PartRecord) and record.as_of.id >= change):
            return f"{record.node} has applied {change}: it wrote {record.id} after it"
    if not force and (having := applied_by(change, look)):
        has, it = ("has", "it") if len(having) == 1 else ("have", "one of them")
        return f"{' and '.join(having)} {has} applied {change}, or would lead without it: start or promote {it}"
    if coming := [beat.node for beat in _live(look) if beat.node != node and _comes_to(change, beat)]:
        return f"{' and '.join(sorted(coming))} {'has' if len(coming) == 1 else 'have'} not come to {change} yet"
    candidate = look.heartbeats.get(node)
    if candidate is not None and candidate.alive:
        if candidate.stalled_at != change:
            return f"{node} is not stalled at {change}"
        if candidate.position.chain != first.prev:
            return f"{node} stalled at another {change}, which the log had before: start it again"
    refusal = election.refusal(node, _as_if_it_had(change, node, look))
    return refusal.reason if refusal is not None else ""


def suggested(look: GroupView) -> tuple[RecordId, str] | None:
    """A change that the group could go on without, and the node to lead then, as far as one look tells.

    That is so if every live node stalled at the last change.
    """
    if look.head is None or not look.same_run or not (live := _live(look)):
        return None
    change = look.head.changed
    if change == ZERO_ID or any(beat.stalled_at != change for beat in live) or applied_by(change, look):
        return None
    able = [beat.node for beat in live if not election.refusal(beat.node, _as_if_it_had(change, beat.node, look))]
    return (change, min(able)) if able else None


def expected_head(look: GroupView) -> RecordId | None:
    """The newest record that the promotion has to depend on: a later one may be of a node that has the change."""
    return look.head.position.id if look.head is not None else None


def _live(look: GroupView) -> list[Heartbeat]:
    return [beat for beat in look.heartbeats.values() if beat.alive]


def _comes_to(change: RecordId, beat: Heartbeat) -> bool:
    """Whether this node may yet apply the change."""
    return beat.is_sound and beat.in_sync and beat.changed < change


def _as_if_it_had(change: RecordId, node: str, look: GroupView) -> GroupView:
    """For the other rules: the change is decided, and the node lacks nothing else."""
    candidate = look.heartbeats.get(node)
    if candidate is None:
        return look
    able = candidate._replace(stalled="", stalled_at=ZERO_ID, changed=change, term=max(candidate.term, look.term))
    return look._replace(heartbeats={**look.heartbeats, node: able})


def _log_id(look: GroupView) -> str:
    return look.head.log_id if look.head is not None else ""
