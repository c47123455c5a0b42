"""Rebuilds one standby from a snapshot of the primary, whatever it has: `replicator reinit`.

The node keeps what it has as a fork and waits for a snapshot like any node that lacks something, so the primary sends
one. It is not promoted meanwhile. Also for a standby that stalled: what comes after the snapshot it applies again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..errors import NotPrimary, ReinitRefused
from ..log.interface import Log
from ..protocol.group import GroupView
from .common import GRACE_S, Progress, check_call, check_is_known, looks, silent
from .diagnosis import term_holder

__all__ = ["Reinit", "reinit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reinit:
    """What a rebuild did. `position`: where the node is now; `took_ms`: from the request until it said so."""

    node: str
    primary: str
    position: str
    took_ms: float


def reinit(log: Log, node: str, *, by: str, timeout_s: float = 120.0, progress: Progress = silent) -> Reinit:
    """Have that standby replace its state by a snapshot, and wait until it has.

    Raises `ReinitRefused` (the primary; a node that does not report), `NotPrimary` if no node leads, since nobody could
    send a snapshot, `TimeoutError`.
    """
    check_call(by=by, node=node, timeout_s=timeout_s)
    began = time.monotonic()
    deadline = began + timeout_s
    log = log.within(deadline + GRACE_S)
    look = log.look()
    check_is_known(log, look)
    primary = _check(node, look)
    id_ = log.reinit(node, by=by)
    progress(f"asked {node} to give its state up")
    told = False
    for look in looks(log, deadline):
        heartbeat = look.heartbeats.get(node)
        if heartbeat is not None and heartbeat.reinitialised == id_ and heartbeat.in_sync:
            took_ms = round((time.monotonic() - began) * 1000, 1)
            return Reinit(node=node, primary=primary, position=str(heartbeat.position.id), took_ms=took_ms)
        if heartbeat is not None and heartbeat.given_up and not told:
            told = True
            progress(f"{node} waits for a snapshot of {primary}")
    raise TimeoutError(f"{node} has not been rebuilt after {timeout_s} s; `replicator status` says where it is")


def _check(node: str, look: GroupView) -> str:
    """The primary."""
    heartbeat = look.heartbeats.get(node)
    if heartbeat is None:
        raise ReinitRefused(node=node, reason="no node of that name has reported; `replicator status` lists them")
    if not heartbeat.alive:
        raise ReinitRefused(node=node, reason="it does not report: start it first")
    if term_holder(look) == node:
        reason = "it is the primary, whose state counts: `replicator switchover` to another node first"
        raise ReinitRefused(node=node, reason=reason)
    primary = look.heartbeats.get(term_holder(look) or "")
    if primary is None or not primary.alive or primary.stalled:
        raise NotPrimary("nobody leads the group, so nobody can send a snapshot: `replicator status` says what to do")
    return primary.node
