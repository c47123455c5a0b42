"""The members of a group as one node knows them: by its newest look at Redis, and itself as it is now.

A look is as old as the last beat that Redis answered. So the ages of the heartbeats in it are counted on from then, and
who would have had to report meanwhile counts as silent: a node that is cut off does not go on calling others alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..protocol.group import GroupView
from ..protocol.heartbeat import Heartbeat
from .health import lag_as_reported

__all__ = ["GroupAsSeen", "Member", "members_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A node. `age_ms`: how long ago it reported, by the clock of the node that tells this. None: not known."""

    node: str
    role: str
    alive: bool
    term: int
    position: str
    in_sync: bool
    lag_records: int | None
    lag_ms: int | None
    http: str | None
    problem: str | None
    version: int
    age_ms: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupAsSeen:
    """A group, as `seen_by` knows it. `seen_ms`: how long ago it looked; None: it has not seen it yet.

    `holder`: who holds the newest term in this run of Redis. `pause_reason`: why no node takes over by itself; None:
    those do that are told to.
    """

    seen_by: str
    seen_ms: int | None
    term: int
    holder: str | None
    pause_reason: str | None
    nodes: Sequence[Member]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return asdict(self)


def members_of(me: Member, look: GroupView | None, *, term: int, seen_ms: int | None) -> GroupAsSeen:
    """All members, by name. `look`: None if there was none; `me`: the node that tells, as it is now."""
    nodes = {me.node: me}
    head = look.head if look is not None else None
    if look is not None:
        for heartbeat in look.heartbeats.values():
            older = heartbeat._replace(age_ms=heartbeat.age_ms + (seen_ms or 0))
            nodes.setdefault(heartbeat.node, _member(older, look))
    return GroupAsSeen(
        seen_by=me.node,
        seen_ms=seen_ms,
        term=max(term, look.term if look is not None else 0),
        holder=(head.node or None) if head is not None and look is not None and look.same_run else None,
        pause_reason=(head.paused or None) if head is not None else None,
        nodes=[nodes[name] for name in sorted(nodes)],
    )


def _member(heartbeat: Heartbeat, look: GroupView) -> Member:
    head = look.head
    # A stale heartbeat may claim more than it has.
    holds = head is not None and look.same_run and (heartbeat.node, heartbeat.boot) == (head.node, head.boot)
    lag = lag_as_reported(heartbeat, look)
    return Member(
        node=heartbeat.node,
        role=heartbeat.role if heartbeat.alive and holds else "standby",
        alive=heartbeat.alive,
        term=heartbeat.term,
        position=str(heartbeat.position.id),
        in_sync=heartbeat.in_sync,
        lag_records=lag.records,
        lag_ms=lag.ms,
        http=heartbeat.http or None,
        problem=heartbeat.stalled or heartbeat.problem or None,
        version=heartbeat.version,
        age_ms=heartbeat.age_ms,
    )
