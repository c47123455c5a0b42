"""Which nodes are missing that may have what Redis lost. Pure: values in, a decision out.

A change that was acknowledged as `applied:N` is on the disks of the primary and of N standbys. If Redis comes back
without it, at least one of these N + 1 nodes has to be there when the next primary is chosen: the others then see that
it has more, and let it go first (`election.py`). So while at most N nodes are missing, no such change is lost. If more
are missing, no node takes over by itself, and an operator has to decide that what only the missing nodes have may be
lost. N is the least that was asked for in this log. With `applied:1`, five nodes need four and three need two.

**Once a primary leads in a run, the log is whole** (`GroupView.is_whole`): it has all that was acknowledged, and a node
that is promoted reads it before it leads. Then it does not matter which nodes are missing. The primary says so with
each heartbeat.

**A node is missing** if it has not reported in the present run; or if it did, had more than the node that is to lead,
and is now gone, or cannot lead with it: it stalled, or its state differs or is given up. Not every node that ever was
in the group counts, only those that were heard of when the log was last whole. Redis loses the newest data: a copy that
has a heartbeat of the primary has all that was acknowledged before it. What the copy lacks was acknowledged later, by
nodes that were there at that time, and their heartbeats in the same copy are from about then. So a heartbeat's age is
measured against that of the primary, not against the clock: however long a partition lasts, a node that it cuts off
stays on the list. A node that said goodbye before that (`Heartbeat.left`) has nothing that the copy lacks.

What a copy cannot tell, the nodes that report may know: which others were there (`Heartbeat.knew`), and what was asked
for.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..format.ids import RecordId
from .group import GroupView
from .heartbeat import Heartbeat

__all__ = ["RECENT_MS", "applied_min", "are_enough", "heard_of", "known_to", "missing", "named", "took_part"]

#: A node whose heartbeat is older than the last one of a primary by more than this was not there any more. Every node
#: sends several heartbeats in that time.
RECENT_MS = 120_000


def applied_min(look: GroupView, *others: int) -> int:
    """The least N of all `applied:N` that were asked for in this log, as far as any node knows; 0: none was."""
    known = (
        look.head.applied_min if look.head else 0,
        *(heartbeat.applied_min for heartbeat in look.heartbeats.values()),
        *others,
    )
    return min((count for count in known if count), default=0)


def missing(changed: RecordId, look: GroupView) -> list[str]:
    """The missing nodes that may have changes which Redis lost and a node with changes up to `changed` lacks."""
    kept = max(changed, look.head.changed) if look.head else changed
    reported = [heartbeat for heartbeat in look.heartbeats.values() if heartbeat.run == look.run]
    # Without a log, the last report of a node may be from before the log was lost.
    gone = [heartbeat for heartbeat in reported if look.head is None or heartbeat.changed > kept]
    away = {each.node for each in gone if not each.left and not (each.alive and each.is_sound)}
    return sorted(away | ((heard_of(look) | known_to(reported, look)) - {heartbeat.node for heartbeat in reported}))


def known_to(heartbeats: Iterable[Heartbeat], look: GroupView) -> set[str]:
    """The nodes that these saw take part, without those that said goodbye after that."""
    known = (entry.rpartition("/") for heartbeat in heartbeats for entry in heartbeat.knew)
    left = {(heartbeat.node, heartbeat.boot) for heartbeat in look.heartbeats.values() if heartbeat.left}
    return {name for name, _, boot in known if (name, boot) not in left}


def heard_of(look: GroupView) -> set[str]:
    """The nodes that reported at about the time when the log was last whole, and did not leave."""
    return {
        heartbeat.node for heartbeat in look.heartbeats.values() if not heartbeat.left and _was_there(heartbeat, look)
    }


def _was_there(heartbeat: Heartbeat, look: GroupView) -> bool:
    if look.head is None:
        return heartbeat.age_ms <= RECENT_MS
    # Both by the clock that stamped them: the Redis that came back may have another one.
    return (heartbeat.beaten_at or look.now_ms - heartbeat.age_ms) >= look.head.whole_at - RECENT_MS


def are_enough(node: Heartbeat, look: GroupView) -> bool:
    """Whether `node` may lead although others are missing: they cannot be the only ones with an acknowledged change."""
    count = applied_min(look, node.applied_min)
    return look.is_whole or not count or len(missing(node.changed, look)) <= count


def took_part(look: GroupView) -> tuple[str, ...]:
    """The nodes to remember, each with its boot: those that are there while the log is whole."""
    there = (
        heartbeat for heartbeat in look.heartbeats.values() if not heartbeat.left and heartbeat.age_ms <= RECENT_MS
    )
    return tuple(sorted(f"{heartbeat.node}/{heartbeat.boot}" for heartbeat in there))


def named(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
