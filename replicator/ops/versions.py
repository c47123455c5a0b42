"""Which versions the nodes of a group run and read, and the step to the next one: `replicator versions` and `finalize`.

A rolling upgrade has two halves (docs/versions.md). First every node gets the new code, one after the other; the group
stays at its version, so the way back is open. Then `finalize` raises the version: the primary appends a record that
says so, and what applications write in the new version comes after it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import VersionRefused
from ..log.interface import Log
from ..node.release import VERSION_MAX
from ..protocol import versions as rules
from ..protocol.group import GroupView
from ..runtime import checks
from .common import GRACE_S, Progress, check_call, led_head, looked, looks, silent
from .diagnosis import next_step

__all__ = ["Finalized", "NodeVersions", "Versions", "finalize", "versions", "versions_of"]

#: How often the primary is asked to raise the version until it has.
ASK_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeVersions:
    """What the node `node` runs, as it last reported: its application, the version of its code, and what that reads.

    `app`: None if its program knows of none. `group_version`: the one at its position.
    """

    node: str
    app: str | None
    version: int
    reads_min: int
    reads_max: int
    group_version: int
    alive: bool
    problem: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Versions:
    """The application of a group's log (None: not known), the version that it is at, and its nodes.

    `next_version`: the newest one that a node writes; the same as `version`: there is none to go to. `ready`: all nodes
    that reported within the last hour read that one. `step`: what is next, in words.
    """

    app: str | None
    version: int | None
    next_version: int | None
    ready: bool
    step: str
    nodes: list[NodeVersions]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return asdict(self)


def versions(log: Log) -> Versions:
    """The versions of a group and its nodes. Raises `LogUnavailable`."""
    return versions_of(looked(log))


def versions_of(look: GroupView) -> Versions:
    """The same, from a look at the group."""
    current = rules.version_of(look)
    reporting = rules.reporting(look)
    coming = rules.next_version(current, reporting) if current is not None else None
    nodes = [
        NodeVersions(
            node=name,
            app=heartbeat.app or None,
            version=heartbeat.version,
            reads_min=heartbeat.reads_min,
            reads_max=heartbeat.reads_max,
            group_version=heartbeat.group_version,
            alive=heartbeat.alive,
            problem=heartbeat.stalled or heartbeat.problem or None,
        )
        for name, heartbeat in sorted(look.heartbeats.items())
    ]
    return Versions(
        app=(look.head.app or None) if look.head is not None else None,
        version=current,
        next_version=coming,
        ready=coming is not None and not rules.unreading(coming, reporting),
        step=next_step(look),
        nodes=nodes,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Finalized:
    """What `finalize` did. `previous_version`: the same as `version` if the group was there already."""

    version: int
    previous_version: int
    took_ms: float


def finalize(log: Log, version: int, *, by: str, timeout_s: float = 10.0, progress: Progress = silent) -> Finalized:
    """Raise the group to this version, and wait until its primary is there. There is no way back.

    Nothing happens if the group is there already. Raises `VersionRefused` (a node that reported within the last hour
    does not read it, or it is lower), `NotPrimary` if no node leads, `LogUnavailable`, `TimeoutError`.
    """
    check_call(by=by, timeout_s=timeout_s)
    checks.whole("version", version, least=1, most=VERSION_MAX)
    started = time.monotonic()
    deadline = started + timeout_s
    log = log.within(deadline + GRACE_S)
    led_head(log)
    before: int | None = None
    asked_at = float("-inf")
    for look in looks(log, deadline):
        current = rules.version_of(look)
        if current is not None:
            before = current if before is None else before
            if current == version:
                took_ms = round((time.monotonic() - started) * 1000, 1)
                return Finalized(version=version, previous_version=before, took_ms=took_ms)
            why = rules.why_not(version, current, rules.reporting(look))
            if why is not None:
                raise VersionRefused(current=current, problem=why)
            head = led_head(log, look)
            if time.monotonic() - asked_at > ASK_EVERY_S:  # the one that was asked may have been replaced
                asked_at = time.monotonic()
                log.request(f"{rules.FINALIZE}{version}", by=by)
                progress(f"asked {head.node} to raise the group from version {current} to {version}")
    raise TimeoutError(f"the primary has not raised the group to version {version} after {timeout_s} s")
