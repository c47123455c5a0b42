"""Which version a group is at, which one it could be raised to, and what stands in the way: by what its nodes report.

The group's version is a fact of the log (`View.version`); a node reports the one at its position. A node that reads a
version can apply the changes of it, and take its snapshots. What is decided here only informs, as all heartbeats do: a
node that meets a version that it does not read stops before it, whatever was decided (`replica/replica.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..format.ids import ORIGIN
from .fold import Verdict, View
from .group import GroupView
from .heartbeat import Heartbeat

__all__ = [
    "FINALIZE",
    "REPORTED_WITHIN_MS",
    "begins_at",
    "in_an_older_one",
    "in_words",
    "next_version",
    "reporting",
    "too_old_for",
    "unreading",
    "version_of",
    "why_not",
]

#: The request to raise the version; the version comes after it.
FINALIZE = "finalize "

#: A node that reported within the last hour is one of the group, also if it is away now: it may be restarting.
REPORTED_WITHIN_MS = 3_600_000


def version_of(look: GroupView) -> int | None:
    """The version that the group is at, as its holder reported it, or else its most advanced node; None: not known."""
    known = [heartbeat for heartbeat in look.heartbeats.values() if heartbeat.position != ORIGIN]
    holder = look.heartbeats.get(look.head.node) if look.head is not None else None
    best = holder if holder in known else max(known, key=lambda heartbeat: heartbeat.position.id, default=None)
    return best.group_version if best is not None else None


def reporting(look: GroupView) -> list[Heartbeat]:
    """The nodes that reported within the last hour, by name."""
    return [heartbeat for _, heartbeat in sorted(look.heartbeats.items()) if heartbeat.age_ms <= REPORTED_WITHIN_MS]


def unreading(version: int, heartbeats: Iterable[Heartbeat]) -> list[Heartbeat]:
    """Those that do not read this version."""
    return [heartbeat for heartbeat in heartbeats if not heartbeat.reads_min <= version <= heartbeat.reads_max]


def why_not(version: int, current: int, heartbeats: Iterable[Heartbeat]) -> str | None:
    """Why the group is not to be raised from `current` to `version`; None: it is, or it is there already."""
    if version < current:
        return f"it cannot go back to {version}: its log has what only nodes that read {current} can apply"
    others = unreading(version, heartbeats)
    if not others:
        return None
    told = ", ".join(f"{each.node} ({in_words(each.reads_min, each.reads_max)})" for each in others)
    what = "does not read" if len(others) == 1 else "do not read"
    hint = "upgrade it" if len(others) == 1 else "upgrade them"
    return f"{told} {what} version {version}: {hint}, or `replicator forget` what is gone for good"


def next_version(current: int, heartbeats: Iterable[Heartbeat]) -> int:
    """The version that the newest code among these writes; `current`, if none is newer."""
    return max([current, *(heartbeat.version for heartbeat in heartbeats)])


def begins_at(heartbeat: Heartbeat) -> int:
    """The version of a log that this node founds: that of what it has, or if it has nothing, that of its code."""
    return heartbeat.version if heartbeat.position == ORIGIN else heartbeat.group_version


def in_an_older_one(verdict: Verdict, before: View, after: View) -> tuple[Verdict, View]:
    """What a record comes to for a node that follows it, and reads no version as old as that of `after`.

    It passes the record by, and waits for a snapshot of a version that it reads: nothing of an older one is in its
    state, not even that there was nothing yet. So it is one of those that lack something when a primary is chosen.
    """
    if verdict not in _FOLLOWING or not after.in_sync:
        return verdict, after
    place = before._replace(cursor=after.cursor, in_sync=False)
    told = place._replace(log_id=after.log_id, term=after.term, holder=after.holder, snapshot=after.snapshot)
    return _PASSED_BY.get(verdict, verdict), told


#: The verdicts with which a node that does not lead goes on from its position.
_FOLLOWING = (Verdict.APPLY, Verdict.SKIP, Verdict.FOLLOW, Verdict.STEP_DOWN)

#: What they come to for what is passed by. Terms count all the same.
_PASSED_BY = {Verdict.APPLY: Verdict.NEED_SNAPSHOT, Verdict.SKIP: Verdict.NEED_SNAPSHOT}


def too_old_for(node: Heartbeat, look: GroupView) -> int | None:
    """The version of the group, if this node reads none as old as that, and so cannot lead it; None: it may.

    One that has a state of a version that it reads may, by force, take the group to that.
    """
    if look.head is None:
        return None
    current = node.group_version if node.position != ORIGIN else version_of(look)
    return current if current is not None and current < node.reads_min else None


def in_words(first: int, last: int) -> str:
    """The versions from `first` to `last`."""
    return str(first) if first == last else f"{first} to {last}"
