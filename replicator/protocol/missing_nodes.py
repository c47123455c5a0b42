"""Who may have what Redis lost, and is not here to say so. Pure: values in, a decision out.

A change that was acknowledged as `applied:N` is on the disks of the primary and of N standbys. If Redis comes back
without it, the next primary has to be chosen with one of these N + 1 nodes at hand: then the others see that it has
more, and let it go first (`election.py`). So as long as at most N nodes are missing, nothing of that kind is lost; if
more are, nobody takes over by itself, and an operator has to say that what only they have may go. N is the least that
was asked for in this log. Five nodes and `applied:1` need four, three nodes need two.

**Once somebody leads in a run, the log is whole** (`GroupView.is_whole`): it has all that was acknowledged, and whoever
is promoted reads it before it leads. Then it does not matter who is missing. Whoever leads says so with each heartbeat.

**Missing** is who has not reported in the present run, or did, had more than the one that is to lead, and is gone or
stalled. Not everybody who ever was in the group counts, but those who were heard of when the log was whole last. Redis
loses what came last: a copy that has a heartbeat of the primary has all that was acknowledged before. What it lacks was
acknowledged later, by nodes that were there at that time, and their heartbeats in the same copy are from about then. So
what counts is how old a heartbeat is beside that one, and not beside the clock: however long a partition lasts, whoever
is behind it stays on the list. And a node that said goodbye before that (`Heartbeat.left`) has nothing that the copy
lacks.

What a copy cannot tell, those who report may know: who else was there (`Heartbeat.knew`), and what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..format.ids import RecordId
from .group import GroupView
from .heartbeat import Heartbeat

__all__ = ["RECENT_MS", "applied_min", "are_enough", "heard_of", "known_to", "missing", "named", "took_part"]

#: A node whose heartbeat is older than this, beside the last one of a primary, was not there any more. Every node beats
#: several times in that.
RECENT_MS = 120_000


def applied_min(look: GroupView, *others: int) -> int:
    """The least `applied:N` that was asked for in this log, as far as anybody knows; 0: none was."""
    known = (
        look.head.applied_min if look.head else 0,
        *(heartbeat.applied_min for heartbeat in look.heartbeats.values()),
        *others,
    )
    return min((count for count in known if count), default=0)


def missing(changed: RecordId, look: GroupView) -> list[str]:
    """Who may have changes that Redis lost and that a node with changes up to `changed` lacks, and is not here."""
    kept = max(changed, look.head.changed) if look.head else changed
    reported = [heartbeat for heartbeat in look.heartbeats.values() if heartbeat.run == look.run]
    # Without a log, what a node said last may be from before it was lost.
    gone = [heartbeat for heartbeat in reported if look.head is None or heartbeat.changed > kept]
    away = {heartbeat.node for heartbeat in gone if not heartbeat.left and (heartbeat.stalled or not heartbeat.alive)}
    return sorted(away | ((heard_of(look) | known_to(reported, look)) - {heartbeat.node for heartbeat in reported}))


def known_to(heartbeats: Iterable[Heartbeat], look: GroupView) -> set[str]:
    """Whom these saw take part, but for those who said goodbye after that."""
    known = (entry.rpartition("/") for heartbeat in heartbeats for entry in heartbeat.knew)
    left = {(heartbeat.node, heartbeat.boot) for heartbeat in look.heartbeats.values() if heartbeat.left}
    return {name for name, _, boot in known if (name, boot) not in left}


def heard_of(look: GroupView) -> set[str]:
    """Who reported about when the log was whole last, and did not leave."""
    return {
        heartbeat.node for heartbeat in look.heartbeats.values() if not heartbeat.left and _was_there(heartbeat, look)
    }


def _was_there(heartbeat: Heartbeat, look: GroupView) -> bool:
    if look.head is None:
        return heartbeat.age_ms <= RECENT_MS
    # Both by the clock that stamped them: that of the Redis which came back may be another one.
    return (heartbeat.beaten_at or look.now_ms - heartbeat.age_ms) >= look.head.whole_at - RECENT_MS


def are_enough(node: Heartbeat, look: GroupView) -> bool:
    """Whether `node` may lead although others are missing: they cannot be all that hold an acknowledged change."""
    count = applied_min(look, node.applied_min)
    return look.is_whole or not count or len(missing(node.changed, look)) <= count


def took_part(look: GroupView) -> tuple[str, ...]:
    """Whom to remember, and in which boot: who is there while the log is whole."""
    there = (
        heartbeat for heartbeat in look.heartbeats.values() if not heartbeat.left and heartbeat.age_ms <= RECENT_MS
    )
    return tuple(sorted(f"{heartbeat.node}/{heartbeat.boot}" for heartbeat in there))


def named(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
