"""Asks a group for a snapshot (`replicator snapshot`), and compares the states of its nodes (`replicator verify`).

Both put a request into the group's stream, which the primary carries out, and then watch for the result: the head tells
of a new complete snapshot, the heartbeats tell the digests.

States can be compared only at one position. So the primary appends a *marker*, an empty change, and each node reports
the digest of its state there. The report is careful with what it does not know: a node that is late, does not report,
or could not draw its state makes it neither "equal" nor "different" (G6 speaks of nodes at equal positions only).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from ..format.ids import ZERO_ID
from ..log.interface import Log
from ..protocol.group import NO_DIGEST
from ..runtime.counted import counted
from .common import GRACE_S, Progress, Step, check_call, led_head, looks, silent

__all__ = [
    "DigestReport",
    "snapshot",
    "verify",
]


def snapshot(log: Log, *, by: str, timeout_s: float = 120.0, progress: Progress = silent) -> str:
    """Ask the primary for a snapshot, and wait until it is complete. Return the id of the record whose state it is.

    Raises `NotPrimary` if no node leads, `TimeoutError`.
    """
    check_call(by=by, timeout_s=timeout_s)
    deadline = time.monotonic() + timeout_s
    log = log.within(deadline + GRACE_S)
    head = led_head(log)
    log.request("snapshot", by=by)
    progress(f"asked {head.node} for a snapshot")
    parts = -1
    for look in looks(log, deadline):
        now = led_head(log, look)
        if now.snapshot_at >= head.position.id:
            progress(f"the snapshot of {now.snapshot_at} is complete")
            return str(now.snapshot_at)
        if now.part_next > parts:
            parts = now.part_next
            progress(f"{counted(parts, 'part is', 'parts are')} in the log")
    raise TimeoutError(f"{head.node} has not completed a snapshot after {timeout_s} s")


@dataclass(frozen=True, kw_only=True, slots=True)
class DigestReport:
    """The digests of the nodes' states at one position.

    `late_nodes`: live ones that did not report in time; `silent_nodes`: others of the group, which do not report.
    """

    position: str
    digests: dict[str, str]
    late_nodes: list[str]
    silent_nodes: list[str]

    @property
    def differ(self) -> bool:
        """Whether the nodes that reported a digest have different states."""
        return len(set(self.digests.values()) - {NO_DIGEST}) > 1

    @property
    def undrawn(self) -> list[str]:
        """The nodes whose state could not be drawn: `replicator status` says why."""
        return [node for node, digest in self.digests.items() if digest == NO_DIGEST]

    @property
    def equal(self) -> bool:
        """Whether all nodes of the group were found to have the same state."""
        return not (self.late_nodes or self.silent_nodes or self.undrawn or self.differ)

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.differ:
            told = ", ".join(f"{node} {digest}" for node, digest in self.digests.items())
            return f"the states at {self.position} differ: {told}"
        if self.equal:
            return "all equal"
        late = [f"{node} did not report in time" for node in self.late_nodes]
        dead = [f"{node} does not report" for node in self.silent_nodes]
        failed = [f"the state of {node} could not be drawn" for node in self.undrawn]
        alike = [node for node in self.digests if node not in self.undrawn]
        told = f"{', '.join(alike) or 'nobody'} {'have equal states' if len(alike) > 1 else 'told its state'}"
        return f"not all nodes could be compared: {', '.join(late + dead + failed)}; {told} at {self.position}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"equal": self.equal}


def verify(log: Log, *, by: str, timeout_s: float = 60.0, progress: Progress = silent) -> DigestReport:
    """Have all nodes digest their state at one position of the log, and compare the digests (G6).

    Known nodes that do not report are named, but not waited for.
    Raises `NotPrimary` if no node leads, `TimeoutError` if the primary itself does not report.
    """
    check_call(by=by, timeout_s=timeout_s)
    deadline = time.monotonic() + timeout_s
    log = log.within(deadline + GRACE_S)
    head = led_head(log)
    log.request("digest", by=by)
    progress(f"asked {head.node} for a marker")
    told = -1
    report: DigestReport | None = None
    for look in looks(log, deadline):
        report = None
        live = {name: heartbeat for name, heartbeat in look.heartbeats.items() if heartbeat.alive}
        marked = live.get(head.node)
        at = marked.digest_at if marked else ZERO_ID
        if at > head.position.id:
            digests = {name: heartbeat.digest for name, heartbeat in sorted(live.items()) if heartbeat.digest_at == at}
            late = sorted(set(live) - set(digests))
            if len(digests) > told:
                told = len(digests)
                progress(Step(f"{told} of {counted(len(live), 'node')} reported at {at}", told, len(live)))
            known = {name for name, heartbeat in look.heartbeats.items() if not heartbeat.left}
            silent = sorted(known - set(live) - set(digests))
            report = DigestReport(position=str(at), digests=digests, late_nodes=late, silent_nodes=silent)
            if not late:
                break
    if report is None:
        raise TimeoutError(f"{head.node} has not reported a digest after {timeout_s} s")
    return report
