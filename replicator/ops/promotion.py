"""Who leads, changed by hand: promote, switchover, demote, pause, resume and forget."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import (
    ConfigError,
    NotPrimary,
    PromotionRefused,
)
from ..format.ids import ZERO_ID, RecordId, Writer, era_of
from ..log.interface import Log
from ..node.promotion import not_promoted, replaced, take_term
from ..protocol import election, missing_nodes, promotion, versions
from ..protocol.election import NOBODY
from ..protocol.group import Claim, Code, GroupView, Head, Reply
from ..protocol.heartbeat import Heartbeat
from ..protocol.reasons import Facts
from ..runtime import checks
from ..runtime.counted import counted
from .common import GRACE_S, LEASE_MS, POLL_EVERY_S, Progress, check_call, led_head, looked, looks, silent, switched
from .diagnosis import term_holder
from .group_status import node_status

__all__ = [
    "POLL_IN_THE_GAP_S",
    "PREPARE_TIMEOUT_S",
    "Promotion",
    "PromotionPreview",
    "Switchover",
    "demote",
    "forget",
    "pause",
    "preview",
    "promote",
    "resume",
    "switchover",
]

#: For a command that stops a program, which may take a minute, and the publication after it.
PREPARE_TIMEOUT_S = 80.0


#: Nobody writes meanwhile, so this is looked at more often.
POLL_IN_THE_GAP_S = 0.002


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What a promotion did. `primary`: the node that leads; `first_id`: the record that opens its term.

    `took_ms`: from the request until the node said that it leads.
    """

    primary: str
    term: int
    first_id: str
    took_ms: float


def promote(
    log: Log,
    node: str,
    *,
    by: str,
    reason: str = "asked by an operator",
    expect: int | None = None,
    force: bool = False,
    lease_ms: int = LEASE_MS,
    timeout_s: float = 10.0,
    what: str = "",
) -> Promotion:
    """Give the next term to `node`, and wait until it leads.

    `what`: what the history calls it, if no promotion. Raises `PromotionRefused` (see `election.refusal`; `force` goes
    past it, but not past a node that has never reported), `LogLost`, `LogUnavailable`, `TimeoutError` (it has the
    term, and does not lead yet).
    """
    check_call(by=by, reason=reason, node=node, lease_ms=lease_ms, timeout_s=timeout_s)
    checks.flag("force", force)
    started = time.monotonic()
    log = log.within(started + timeout_s + GRACE_S)
    until = started + timeout_s

    def claimed(look: GroupView) -> Reply:
        claim = claim_of(look.heartbeats[node], look, lease_ms=lease_ms, by=by, reason=reason, guarded=not force)
        return log.promote(replace(claim, what=what))

    while True:
        look, reply = take_term(log, node, log.look, claimed, until=until, force=force, expect=expect)
        try:
            wait_until_it_leads(log, node, look.heartbeats[node].boot, reply.term, until)
        except RestartedMeanwhile:
            continue  # the boot that got the term is gone; its successor gets the next one
        took_ms = (time.monotonic() - started) * 1000
        return Promotion(primary=node, term=reply.term, first_id=str(reply.id), took_ms=round(took_ms, 1))


def claim_of(
    heartbeat: Heartbeat, look: GroupView, *, lease_ms: int, by: str, reason: str, guarded: bool = True
) -> Claim:
    """The next term for that boot, if nothing of what was looked at has changed."""
    return promotion.next_claim(
        Writer(heartbeat.node, heartbeat.boot),
        heartbeat,
        look,
        by=by,
        reason=reason,
        lease_ms=lease_ms,
        applied_min=missing_nodes.applied_min(look),
        fresh_log_id=secrets.token_hex(16),
        app=heartbeat.app,
        version=versions.begins_at(heartbeat),
        guarded=guarded,
    )


def demote(log: Log, *, by: str, reason: str = "asked by an operator") -> int:
    """Take the next term for nobody: the primary steps down, and nobody writes until somebody is promoted. The term."""
    check_call(by=by, reason=reason)
    look = log.look()
    if term_holder(look) is None:
        raise NotPrimary("nobody holds the term; there is nothing to demote")
    claim = Claim(
        writer=NOBODY,
        floor=look.term,
        lease_ms=1,
        by=by,
        reason=reason,
        expect=look.term,
        run=look.run,
        what="demote",
    )
    reply = log.promote(claim)
    if reply.code is not Code.OK:
        raise not_promoted("nobody", reply, log)
    return reply.term


class RestartedMeanwhile(Exception):
    pass


def wait_until_it_leads(log: Log, node: str, boot: str, term: int, deadline: float) -> None:
    for look in looks(log, deadline, every_s=POLL_IN_THE_GAP_S):
        heartbeat = look.heartbeats.get(node)
        if heartbeat is not None and heartbeat.boot != boot:
            raise RestartedMeanwhile
        if look.term > term:
            raise replaced(node, by=look.head.node if look.head else "", term=look.term)
        if heartbeat is not None and heartbeat.term == term and heartbeat.role == "primary":
            return
    raise TimeoutError(f"{node} has term {term}, and does not lead yet; `replicator status` shows how far it is")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionPreview:
    """What a promotion of `node` would lose. `lag_records`: what it reads before it leads; None: not known.

    `refusal`: why the tools refuse it, and `code` and `facts`, the same for programs (docs/reasons.md); `better_node`:
    the one to promote instead. `losses`: what others have and would be left with, as forks. `unknowns`: what nobody can
    say now.
    """

    node: str
    refusal: str | None
    code: str | None
    facts: Facts
    better_node: str | None
    lag_records: int | None
    losses: list[str]
    unknowns: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def preview(log: Log, node: str) -> PromotionPreview:
    """What a promotion of `node` would lose, as the group is now. Changes nothing."""
    checks.name("node", node)
    look = log.look()
    refusal = election.refusal(node, look)
    candidate = look.heartbeats.get(node)
    return PromotionPreview(
        node=node,
        refusal=refusal.reason if refusal else None,
        code=refusal.code.value if refusal else None,
        facts=refusal.facts if refusal else {},
        better_node=refusal.better if refusal else None,
        lag_records=node_status(candidate, look).lag_records if candidate else None,
        losses=_lost_with(candidate, look) if candidate else [],
        unknowns=_unknown_with(node, look),
    )


def _lost_with(candidate: Heartbeat, look: GroupView) -> list[str]:
    in_log = look.head.changed if look.head else ZERO_ID
    kept = max(candidate.changed, in_log)
    return [
        f"{heartbeat.node} has changes up to {heartbeat.changed}, the log and {candidate.node} only up to {kept}"
        for _, heartbeat in sorted(look.heartbeats.items())
        if heartbeat.alive and heartbeat.changed > kept
    ]


def _unknown_with(node: str, look: GroupView) -> list[str]:
    head = look.head
    unknown = [] if node in look.heartbeats else [f"{node} has never reported"]
    known = missing_nodes.known_to(look.heartbeats.values(), look) - set(look.heartbeats)
    if not look.is_whole:
        unknown += [f"{name} has not reported since Redis came back: what it has" for name in sorted(known - {node})]
    for name, heartbeat in sorted(look.heartbeats.items()):
        met = head is not None and look.same_run and era_of(heartbeat.term) >= era_of(head.term)
        if heartbeat.alive and heartbeat.run != look.run:
            unknown.append(f"{name} has not reported since Redis came back")
        elif not heartbeat.alive and not met:
            seconds = heartbeat.age_ms / 1000
            unknown.append(f"{name} has not reported for {seconds:.1f} s: what it has behind {heartbeat.changed}")
    return unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Switchover:
    """What a switchover did. `first_id`: the record that opens the new term; `follows`: the old primary said that it
    does.

    `gap_ms`: from the last moment in which the old primary could write to the first in which the new one was seen to
    lead, so the gap in the writes was no longer. `handed_over`: the old primary had a program stopped first, and one
    that `primary` runs (`--run`) starts then, or a lease later than it leads if the old one did not run its own.
    """

    primary: str
    previous_primary: str
    term: int
    first_id: str
    gap_ms: float
    follows: bool
    handed_over: bool = False  # a worker of a version before does not say so


def switchover(
    log: Log,
    node: str,
    *,
    by: str,
    reason: str = "switchover",
    expect: int | None = None,
    lease_ms: int = LEASE_MS,
    timeout_s: float = 10.0,
    progress: Progress = silent,
) -> Switchover:
    """Move the primary to `node`, a standby that keeps up, without losing anything. `expect`: only in this term.

    What stops the old primary is the promotion itself: it is one step in Redis, behind which nothing of the old term
    is accepted, and `node` reads all before it. What is refused then is refused for certain, and can be sent to `node`.
    So that the gap is short, `node` has to have read what the log had a moment ago. Where the old primary has a program
    beside it, that is stopped, and what it wrote last is published, before the promotion (`node/handover.py`).

    Raises `NotPrimary` (nobody leads), `PromotionRefused`, `TimeoutError` (it does not keep up, or the old primary did
    not say that its program has stopped; nothing was done).
    """
    check_call(by=by, reason=reason, node=node, lease_ms=lease_ms, timeout_s=timeout_s)
    deadline = time.monotonic() + timeout_s
    unlimited, log = log, log.within(deadline + GRACE_S)
    before = led_head(log)
    if before.node == node:
        raise PromotionRefused(node, "it leads already")
    if expect is not None and before.term != expect:
        raise PromotionRefused("", f"term {expect} was expected, and the group is at term {before.term}")
    _wait_until_it_keeps_up(log, node, before.position.id, deadline, progress)
    started = time.monotonic()
    handed_over = _prepare(unlimited, node, before, by, progress)
    if handed_over:
        deadline = time.monotonic() + timeout_s
        log = unlimited.within(deadline + GRACE_S)
        _wait_until_it_keeps_up(log, node, led_head(log).position.id, deadline, progress)
    left_s = max(0.0, deadline - time.monotonic())
    done = promote(
        log,
        node,
        by=by,
        reason=reason,
        expect=before.term,
        lease_ms=lease_ms,
        timeout_s=left_s,
        what="switchover",
    )
    gap_ms = (time.monotonic() - started) * 1000
    follows = _follows(log, before, done.term, deadline)
    return Switchover(
        primary=node,
        previous_primary=before.node,
        term=done.term,
        first_id=done.first_id,
        gap_ms=round(gap_ms, 1),
        follows=follows,
        handed_over=handed_over,
    )


def _prepare(log: Log, node: str, before: Head, by: str, progress: Progress) -> bool:
    """Have the old primary stop its program and publish what it wrote last; whether there was any of that to do."""
    heartbeat = log.look().heartbeats.get(before.node)
    if heartbeat is None or not heartbeat.alive or not heartbeat.prepares:
        return False
    request = log.request("prepare", by=by, node=before.node)
    progress(f"{before.node} stops its program, and publishes what that wrote last")
    deadline = time.monotonic() + PREPARE_TIMEOUT_S
    while heartbeat.prepared != request:
        if heartbeat.prepared.startswith(f"{request}: "):
            reason = heartbeat.prepared.removeprefix(f"{request}: ")
            raise PromotionRefused(node, f"{before.node} cannot hand over ({reason}); `promote` does not ask it to")
        if not heartbeat.alive or time.monotonic() > deadline:
            hint = f"nothing was done; `replicator promote {node}` does not wait for it"
            raise TimeoutError(f"{before.node} has not said that its program has stopped; {hint}")
        time.sleep(POLL_EVERY_S)
        heartbeat = log.look().heartbeats.get(before.node, heartbeat)
    return True


def _wait_until_it_keeps_up(log: Log, node: str, target: RecordId, deadline: float, progress: Progress) -> None:
    how_far = "it has not said how far it is"
    for look in looks(log, deadline, ask=lambda: log.request("report", by="switchover", node=node)):
        promotion.check(node, look)
        heartbeat = look.heartbeats[node]
        if heartbeat.in_sync and heartbeat.position.id >= target:
            return
        behind = counted(target.n - heartbeat.position.id.n, "record")
        progress(f"waiting for {node}, which is {behind} behind")
        how_far = f"it is {behind} behind"
    raise TimeoutError(f"{node} does not keep up: {how_far}; nothing was done")


def _follows(log: Log, before: Head, term: int, deadline: float) -> bool:
    for look in looks(log, deadline):
        heartbeat = look.heartbeats.get(before.node)
        if heartbeat is not None and heartbeat.term >= term and heartbeat.role == "standby":
            return True
        if heartbeat is None or not heartbeat.alive:
            break
    return False


def pause(log: Log, *, by: str, reason: str = "") -> None:
    """Switch automatic failover off: no node takes over by itself until `resume`. Promotions by hand go on."""
    check_call(by=by, reason=reason)
    switched(log, log.pause(f"by {by}: {reason}" if reason else f"by {by}", by=by, reason=reason))


def resume(log: Log, *, by: str = "", reason: str = "") -> None:
    """Switch automatic failover on again, on the nodes that have it. `by`, `reason`: for the history."""
    check_call(by=by, reason=reason)
    switched(log, log.pause("", by=by, reason=reason))


def forget(log: Log, node: str, *, by: str, reason: str = "") -> None:
    """Say that a node will not come back: nobody waits for it any more, nor for what only it may have.

    Raises `ConfigError` for one that nobody knows, or that reports.
    """
    check_call(by=by, reason=reason)
    look = looked(log)
    heartbeat = look.heartbeats.get(node)
    if heartbeat is None and node not in missing_nodes.known_to(look.heartbeats.values(), look):
        raise ConfigError(setting="node", problem=f"no node {node} has reported; `replicator status` lists them")
    if heartbeat is not None and heartbeat.alive:
        raise ConfigError(setting="node", problem=f"{node} reports; stop it first, if it is not to come back")
    log.forget(node, by=by, reason=reason)
