"""A log that was lost or broken, founded anew from what a node has: `replicator recover`."""

from __future__ import annotations

import time
from dataclasses import replace

from ..errors import (
    PromotionRefused,
)
from ..log.interface import Log
from ..node.promotion import not_promoted
from ..protocol import election, missing_nodes
from ..protocol.group import Code, GroupView
from ..protocol.heartbeat import Heartbeat
from .common import GRACE_S, LEASE_MS, Progress, check_call, check_is_known, looked, silent
from .diagnosis import term_holder
from .promotion import Promotion, claim_of, wait_until_it_leads

__all__ = [
    "recover",
]


def recover(
    log: Log,
    node: str | None = None,
    *,
    by: str,
    reason: str = "the log was lost",
    force: bool = False,
    lease_ms: int = LEASE_MS,
    timeout_s: float = 30.0,
    progress: Progress = silent,
) -> Promotion:
    """Found a broken log anew from the most advanced live node (or from `node`), in one step; it leads then.

    Broken: Redis lost it, or half of it, or something is in it, in its head or its term key that no script of ours can
    have written. The nodes report what they have for two heartbeats before one is chosen. What others have and the
    chosen one has not becomes forks. Where only the term key is wrong, or the head says that it is another log than the
    nodes have, the log goes on, and that is set right.

    Raises `PromotionRefused` (the log is whole; no node to found it from; nodes are missing that may have what was
    acknowledged as `applied:N`, unless `force`), `TimeoutError`.
    """
    check_call(by=by, reason=reason, node=node, lease_ms=lease_ms, timeout_s=timeout_s)
    started = time.monotonic()
    look = looked(log.within(started + timeout_s + GRACE_S))
    _check_is_broken(look)
    reporting_s = election.time_to_report_ms(look.heartbeats.values()) / 1000
    log = log.within(started + reporting_s + timeout_s + GRACE_S)
    progress(f"the nodes report for {reporting_s:.0f} s")
    time.sleep(reporting_s)
    look = looked(log)
    check_is_known(log, look)  # not before: a Redis that lost everything knows of the nodes once they have reported
    _check_is_broken(look)
    heartbeat = _to_recover_from(look, node)
    if heartbeat.follows_only:
        raise PromotionRefused(heartbeat.node, f"it may not lead: {heartbeat.follows_only}")
    for name, other in sorted(look.heartbeats.items()):
        progress(f"{name} has changes up to {other.changed}" + ("" if other.alive else " (dead)"))
    if not force and not missing_nodes.are_enough(heartbeat, look):
        raise PromotionRefused(heartbeat.node, election.missed(heartbeat, look))
    claim = claim_of(heartbeat, look, lease_ms=lease_ms, by=by, reason=reason, guarded=_goes_on(look))
    claim = replace(claim, floor=election.floor_of(heartbeat, look), new_log_id=heartbeat.log_id)
    claim = replace(claim, what="recover", forced=force)
    misnamed = look.head.log_id if look.head is not None and election.misnamed(look) == heartbeat.log_id else ""
    reply = log.promote(replace(claim, anew=True, unfollowed=election.unfollowed(look), misnamed=misnamed))
    if reply.code is not Code.OK:
        raise not_promoted(heartbeat.node, reply, log)
    if _goes_on(look):
        key = "the head" if misnamed else "the term key"
        progress(f"{key} is set right, and {heartbeat.node} takes term {reply.term}")
    else:
        progress(f"founded anew from {heartbeat.node}, in term {reply.term}; its state goes into the log")
    wait_until_it_leads(log, heartbeat.node, heartbeat.boot, reply.term, started + reporting_s + timeout_s)
    took_ms = (time.monotonic() - started) * 1000
    return Promotion(primary=heartbeat.node, term=reply.term, first_id=str(reply.id), took_ms=round(took_ms, 1))


def _check_is_broken(look: GroupView) -> None:
    if election.broken(look) or election.misnamed(look):
        return
    holder = look.heartbeats.get(term_holder(look) or "")
    if look.lease_ms is not None and not (holder is not None and holder.problem):
        raise PromotionRefused("", "the log is whole, there is nothing to recover")
    why = f" ({holder.node}: {holder.problem})" if holder is not None and holder.problem else ""
    do = "`replicator promote NODE`" if why else "`replicator status` says what to do"
    reason = f"there is nothing to recover in the log, but nobody leads{why}: {do}"
    raise PromotionRefused("", reason)


def _goes_on(look: GroupView) -> bool:
    """Whether nothing is wrong but the term key, or of which log the head says that it is."""
    whole = look.head is not None and look.last_id == look.head.position.id
    return whole and election.unfollowed(look) is None


def _to_recover_from(look: GroupView, node: str | None) -> Heartbeat:
    logs = {heartbeat.log_id for heartbeat in look.heartbeats.values() if heartbeat.alive and heartbeat.log_id}
    if node is None and len(logs) > 1:
        raise PromotionRefused("", "the live nodes have different logs; name the one to go on from with --from")
    holder = look.heartbeats.get(term_holder(look) or "")
    if node is None and _goes_on(look) and holder is not None and holder.alive:
        node = holder.node
    if node is None:
        node = election.most_advanced_holder(look.heartbeats.values(), *logs) if logs else None
    if node is None:
        raise PromotionRefused("", "no live node has the log, so nobody can found it; start one on its data first")
    heartbeat = look.heartbeats.get(node)
    if heartbeat is None or not heartbeat.alive or not heartbeat.log_id:
        raise PromotionRefused(node, "no live node of that name has the log; start one on its data first")
    return heartbeat
