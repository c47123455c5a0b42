"""Ends the process of a node in order, or has it begin anew: `replicator shutdown` and `replicator restart`.

The node is asked through Redis and does it itself (`node/process_asks.py`), so this works from any machine, and needs
no rights on the node's. That it is done shows in the heartbeats: another boot reports, or none does any more. A
supervisor may start a node again that was shut down. So `shutdown` looks for a while whether it comes back, and says
so: only whoever runs the supervisor can have it stay down then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..errors import ReplicatorError
from ..log.interface import Log
from ..node.process_asks import Ask
from ..protocol.group import GroupView
from ..protocol.heartbeat import Heartbeat
from .common import GRACE_S, POLL_EVERY_S, Progress, check_call, check_is_known, silent
from .diagnosis import term_holder

__all__ = ["OWN", "ProcessRefused", "Restart", "Shutdown", "restart", "shutdown"]

#: What runs a process that nobody watches.
OWN = "nobody"

#: How long a supervisor has to start a node again that ended. supervisord and systemd do within a second.
BACK_WITHIN_S = 8.0


class ProcessRefused(ReplicatorError):
    """{node} is not asked to end: {reason}"""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Restart:
    """`boot`: the node's boot now; `previous_boot`: before. `took_ms`: from the request until the new boot reported."""

    node: str
    boot: str
    previous_boot: str
    took_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Shutdown:
    """`stopped_in_order`: it said goodbye, so nobody waits for it. `run_by`: what runs its process (`nobody`: nothing
    that would start it again). `stays_down`: it did not come back. `took_ms`: until it did not report any more.
    """

    node: str
    stopped_in_order: bool
    run_by: str
    stays_down: bool
    took_ms: float


def restart(log: Log, node: str, *, by: str, timeout_s: float = 60.0, progress: Progress = silent) -> Restart:
    """Have the process of that node stop in order and begin anew, and wait until it reports.

    A primary gives its lease back, and takes the next term when it is there again, unless another one was faster.
    Raises `ProcessRefused` (it does not report, or cannot be asked), `UnknownGroup`, `TimeoutError`, `LogUnavailable`.
    """
    began, deadline, asked = _asked("restart", log, node, by, timeout_s, force=True, progress=progress)
    while time.monotonic() < deadline:
        now = log.look().heartbeats.get(node)
        if now is not None and now.alive and now.boot != asked.boot:
            took_ms = round((time.monotonic() - began) * 1000, 1)
            return Restart(node=node, boot=now.boot, previous_boot=asked.boot, took_ms=took_ms)
        time.sleep(POLL_EVERY_S)
    raise TimeoutError(f"{node} is not there again after {timeout_s} s; `replicator why {node}` says what is known")


def shutdown(
    log: Log, node: str, *, by: str, force: bool = False, timeout_s: float = 60.0, progress: Progress = silent
) -> Shutdown:
    """Have the process of that node stop in order, and see whether it stays down. `force`: also if it leads.

    Raises `ProcessRefused` (it does not report, cannot be asked, or leads), `UnknownGroup`, `TimeoutError`,
    `LogUnavailable`.
    """
    began, deadline, asked = _asked("shutdown", log, node, by, timeout_s, force=force, progress=progress)
    while time.monotonic() < deadline:
        now = log.look().heartbeats.get(node)
        if now is None or not now.alive or now.boot != asked.boot:
            took_ms = round((time.monotonic() - began) * 1000, 1)
            left = now is not None and now.left
            return Shutdown(
                node=node,
                stopped_in_order=left,
                run_by=asked.process,
                stays_down=_stays_down(log, asked, progress),
                took_ms=took_ms,
            )
        time.sleep(POLL_EVERY_S)
    raise TimeoutError(f"{node} still reports after {timeout_s} s; `replicator why {node}` says what is known")


def _asked(
    what: str, log: Log, node: str, by: str, timeout_s: float, *, force: bool, progress: Progress
) -> tuple[float, float, Heartbeat]:
    """Ask it. When, until when, and the boot that was asked."""
    check_call(by=by, node=node, timeout_s=timeout_s)
    began = time.monotonic()
    deadline = began + timeout_s
    look = log.within(deadline + GRACE_S).look()
    check_is_known(log, look)
    heartbeat = _checked(node, look, force=force)
    log.request(str(Ask(what, heartbeat.boot, look.now_ms + int(timeout_s * 1000))), by=by, node=node)
    progress(f"asked {node} to {'end and begin anew' if what == 'restart' else 'end'}")
    return began, deadline, heartbeat


def _checked(node: str, look: GroupView, *, force: bool) -> Heartbeat:
    heartbeat = look.heartbeats.get(node)
    if heartbeat is None:
        raise ProcessRefused(node=node, reason="no node of that name has reported; `replicator status` lists them")
    if not heartbeat.alive:
        raise ProcessRefused(node=node, reason="it does not report")
    if not heartbeat.process:
        reason = "it is part of another program, or of an older version: end it where it runs"
        raise ProcessRefused(node=node, reason=reason)
    if term_holder(look) == node and not force:
        reason = "it leads, and nobody may write until another node does: `replicator switchover` first, or use force"
        raise ProcessRefused(node=node, reason=reason)
    return heartbeat


def _stays_down(log: Log, asked: Heartbeat, progress: Progress) -> bool:
    if asked.process == OWN:
        return True
    progress(f"it ended; whether {asked.process} starts it again shows within {BACK_WITHIN_S:.0f} s")
    until = time.monotonic() + BACK_WITHIN_S
    while time.monotonic() < until:
        now = log.look().heartbeats.get(asked.node)
        if now is not None and now.alive and now.boot != asked.boot:
            return False
        time.sleep(POLL_EVERY_S)
    return True
