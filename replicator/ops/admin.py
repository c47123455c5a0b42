"""What an operator does to a group, as plain functions over its log. The command line and the jobs call these.

None of them needs a node of its own, and none but `records`, if it is to follow, waits in Redis: they look, ask, and
look again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from ..errors import (
    ConfigError,
    CorruptRecord,
    LogLost,
    LogUnavailable,
    NotPrimary,
    PromotionRefused,
    ReplicatorError,
    UnknownGroup,
)
from ..format.ids import ZERO_ID, RecordId, Writer, era_of
from ..format.records import ChangeRecord, PartRecord, Record, TermRecord
from ..log.interface import Log, LogSize
from ..node.health import lag_as_reported
from ..protocol import election, missing_nodes
from ..protocol.election import NOBODY
from ..protocol.group import NO_DIGEST, Claim, Code, Head, Look, Reply
from ..protocol.heartbeat import Peer
from ..runtime import checks
from .diagnosis import PROBLEM, WARNING, checks_of_group, checks_of_nodes, is_known, pause_of, term_holder

__all__ = [
    "Budget",
    "DigestReport",
    "NodeStatus",
    "Promotion",
    "Status",
    "Switchover",
    "Term",
    "budget",
    "check_is_known",
    "demote",
    "forget",
    "history",
    "looked",
    "pause",
    "promote",
    "records",
    "recover",
    "resume",
    "size_of",
    "snapshot",
    "status",
    "status_of",
    "switchover",
    "verify",
]

POLL_EVERY_S = 0.02

#: For a command that stops a program, which may take a minute, and the publication after it.
PREPARE_TIMEOUT_S = 80.0

#: Nobody writes meanwhile, so this is looked at more often.
POLL_IN_THE_GAP_S = 0.002

#: The first lease of who is promoted, which is that node's own from its next beat on.
LEASE_MS = 5000
#: Who waits for something says what it waits for when its time is over; Redis may hang so much longer.
GRACE_S = 0.05

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def _check(
    *, by: str, reason: str = "", node: str | None = None, lease_ms: int = LEASE_MS, timeout_s: float = 0.0
) -> None:
    checks.line("by", by)
    checks.line("reason", reason)
    checks.seconds("timeout_s", timeout_s)
    checks.whole("lease_ms", lease_ms, least=1, most=int(checks.SECONDS_MAX * 1000))
    if node is not None:
        checks.name("node", node)


# --- status ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStatus:
    """One node, as it last reported, `age_seconds` ago. `lag_records` and `lag_seconds`: None where nobody can know."""

    name: str
    boot: str
    role: str
    term: int
    position: str
    lag_records: int | None
    lag_seconds: float | None
    in_sync: bool
    alive: bool
    http: str | None
    problem: str | None
    age_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A group. `holder` is the node that holds the term in the present run of Redis, None if nobody does.

    `log_records` and `log_bytes`: the log in Redis. `snapshot_bytes`: of the newest snapshot, as it was sent;
    `changes_bytes`: of the changes since; `kept_bytes`: of all changes that the log has. None: nobody can say.
    `problem`: what keeps the group from being well, in one line, or None; `warnings`: what is worth a look.
    """

    group: str
    log_id: str | None
    run: str
    term: int
    holder: str | None
    head: str | None
    lease_ms: int | None
    log_records: int | None
    log_bytes: int | None
    snapshot_bytes: int | None
    changes_bytes: int | None
    kept_bytes: int | None
    nodes: list[NodeStatus]
    problem: str | None
    warnings: list[str]

    @property
    def well(self) -> bool:
        """Whether neither the group nor a node that reports has a problem."""
        return self.problem is None and not any(node.problem for node in self.nodes if node.alive)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. The names are a contract."""
        return asdict(self)


def status(log: Log) -> Status:
    """The group as Redis and the heartbeats show it. Raises `LogUnavailable`."""
    look = looked(log)
    return status_of(log.group, look, size_of(log, look))


def size_of(log: Log, look: Look) -> LogSize:
    """How large the log is, if there is one."""
    return log.size() if look.head else LogSize(None, None)


def looked(log: Log) -> Look:
    """The group as Redis shows it, also where a key of it holds what cannot be. Raises `LogUnavailable`."""
    try:
        return log.look()
    except LogUnavailable as unavailable:
        if unavailable.look is None:
            raise
        return cast(Look, unavailable.look)


def status_of(group: str, look: Look, size: LogSize) -> Status:
    """The same, of what was looked at."""
    head = look.head
    found, paused = checks_of_group(look) if is_known(look) else [], pause_of(look)
    of_nodes = [f"{check.check}: {check.text}" for check in checks_of_nodes(look) if check.level == WARNING]
    primary = look.peers.get(term_holder(look) or "")
    primary = primary if primary is not None and primary.alive else None
    return Status(
        group=group,
        log_id=head.log_id if head else None,
        run=look.run,
        term=look.term,
        holder=term_holder(look),
        head=str(head.position.id) if head else None,
        lease_ms=look.lease_ms,
        log_records=size.records,
        log_bytes=size.bytes,
        snapshot_bytes=primary.snapshot_bytes if primary else None,
        changes_bytes=primary.changes_bytes if primary else None,
        kept_bytes=_kept_bytes(primary, size) if primary else None,
        nodes=[_node_status(peer, look) for _, peer in sorted(look.peers.items())],
        problem="; ".join(check.text for check in found if check.level == PROBLEM or check == paused) or None,
        warnings=[check.text for check in found if check.level == WARNING and check != paused] + of_nodes,
    )


def check_is_known(log: Log, look: Look) -> None:
    """Raises `UnknownGroup` with the groups that there are: most likely the name is misspelt, or the Redis another."""
    if not is_known(look):
        raise _unknown(log)


def _unknown(log: Log) -> UnknownGroup:
    return UnknownGroup(log.group, log.url, log.groups())


def _kept_bytes(primary: Peer, size: LogSize) -> int:
    # After a restart a primary says what there may be. It is no more than there is.
    return primary.kept_bytes if size.bytes is None else min(primary.kept_bytes, size.bytes)


def _node_status(peer: Peer, look: Look) -> NodeStatus:
    head = look.head
    ahead = head is not None and peer.position.id > head.position.id
    holds = head is not None and (peer.node, peer.boot) == (term_holder(look), head.boot)
    lag = lag_as_reported(peer, look)
    return NodeStatus(
        name=peer.node,
        boot=peer.boot,
        role=peer.role if peer.alive and holds else "standby",
        term=peer.term,
        position=str(peer.position.id),
        lag_records=lag.records,
        lag_seconds=lag.seconds,
        in_sync=peer.in_sync,
        alive=peer.alive,
        http=peer.http or None,
        problem=peer.stalled or peer.problem or ("ahead of the log" if ahead and peer.alive else None),
        age_seconds=peer.age_ms / 1000,
    )


# --- promotion -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What a promotion did. `led_ms`: from the request until the node said that it leads."""

    node: str
    term: int
    id: str
    led_ms: float


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
) -> Promotion:
    """Give the next term to `node`, and wait until it leads.

    Raises `PromotionRefused` (see `life.refusal`; `force` goes past it, but not past a node that has never reported),
    `LogLost`, `LogUnavailable`, `TimeoutError` (it has the term, and does not lead yet).
    """
    _check(by=by, reason=reason, node=node, lease_ms=lease_ms, timeout_s=timeout_s)
    checks.flag("force", force)
    started = time.monotonic()
    log = log.within(started + timeout_s + GRACE_S)
    while True:
        look = log.look()
        if expect not in (None, look.term):
            conflict = Reply(Code.CONFLICT, term=look.term, node=look.head.node if look.head else "")
            raise _not_promoted(node, conflict, log)
        refusal = election.refusal(node, look)
        if refusal is not None and (not force or node not in look.peers):
            raise PromotionRefused(node, refusal.reason, better=refusal.better)
        peer = look.peers[node]
        reply = log.promote(_claim(peer, look, lease_ms=lease_ms, by=by, reason=reason, guarded=not force))
        if reply.code in (Code.NEW_RUN, Code.CONFLICT):
            # Redis restarted, or somebody took a term, between look and promotion: look again.
            if time.monotonic() > started + timeout_s:
                raise TimeoutError(f"the group changed whenever {node} was to be promoted; nothing was done")
            continue
        if reply.code is not Code.OK:
            raise _not_promoted(node, reply, log)
        try:
            _wait_until_it_leads(log, node, peer.boot, reply.term, started + timeout_s)
        except _RestartedMeanwhile:
            continue  # the boot that got the term is gone; its successor gets the next one
        led_ms = (time.monotonic() - started) * 1000
        return Promotion(node=node, term=reply.term, id=str(reply.id), led_ms=round(led_ms, 1))


def _claim(peer: Peer, look: Look, *, lease_ms: int, by: str, reason: str, guarded: bool = True) -> Claim:
    """The next term for that boot, if nothing of what was looked at has changed."""
    return Claim(
        writer=Writer(peer.node, peer.boot),
        floor=election.newest_term(look),
        lease_ms=lease_ms,
        by=by,
        reason=reason,
        expect=look.term,
        run=look.run,
        expect_head=election.expected_head(peer, look) if guarded else None,
        new_log_id=secrets.token_hex(16) if election.may_found(look) else "",
        applied_min=missing_nodes.applied_min(look),
    )


def demote(log: Log, *, by: str, reason: str = "asked by an operator") -> int:
    """Take the next term for nobody: the primary steps down, and nobody writes until somebody is promoted. The term."""
    _check(by=by, reason=reason)
    look = log.look()
    if term_holder(look) is None:
        raise NotPrimary("nobody holds the term; there is nothing to demote")
    claim = Claim(writer=NOBODY, floor=look.term, lease_ms=1, by=by, reason=reason, expect=look.term, run=look.run)
    reply = log.promote(claim)
    if reply.code is not Code.OK:
        raise _not_promoted("nobody", reply, log)
    return reply.term


def _not_promoted(node: str, reply: Reply, log: Log) -> ReplicatorError:
    if reply.code is Code.CONFLICT:
        holder = reply.node or "nobody"
        return PromotionRefused(node, f"the term is {reply.term}, held by {holder}, and not the expected one")
    if reply.code is Code.STRAY:
        return CorruptRecord.stray(reply.id)
    if reply.code is Code.LOST:
        return LogLost(what=f"the log of group {log.group} is gone from {log.url}")
    if reply.code is Code.WHOLE:
        return PromotionRefused(node, "the log is whole, there is nothing to recover; `replicator promote` is for this")
    return PromotionRefused(node, reply.code.value)


class _RestartedMeanwhile(Exception):
    pass


def _wait_until_it_leads(log: Log, node: str, boot: str, term: int, deadline: float) -> None:
    while True:
        look = log.look()
        peer = look.peers.get(node)
        if peer is not None and peer.boot != boot:
            raise _RestartedMeanwhile
        if look.term > term:
            raise PromotionRefused(
                node, f"{look.head.node if look.head else 'another'} took term {look.term} meanwhile"
            )
        if peer is not None and peer.term == term and peer.role == "primary":
            return
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{node} has term {term}, and does not lead yet; `replicator status` shows how far it is"
            )
        time.sleep(POLL_IN_THE_GAP_S)


# --- what a promotion would lose -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a promotion of `node` would lose. `lag_records`: what it reads before it leads; None: not known.

    `refused`: why the tools refuse it. `lost`: what others have and would be left with, as forks. `unknown`: what
    nobody can say now.
    """

    node: str
    refused: str | None
    better: str | None
    lag_records: int | None
    lost: list[str]
    unknown: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def budget(log: Log, node: str) -> Budget:
    """What a promotion of `node` would lose, as the group is now. Changes nothing."""
    checks.name("node", node)
    look = log.look()
    refusal = election.refusal(node, look)
    candidate = look.peers.get(node)
    return Budget(
        node=node,
        refused=refusal.reason if refusal else None,
        better=refusal.better if refusal else None,
        lag_records=_node_status(candidate, look).lag_records if candidate else None,
        lost=_lost_with(candidate, look) if candidate else [],
        unknown=_unknown_with(node, look),
    )


def _lost_with(candidate: Peer, look: Look) -> list[str]:
    in_log = look.head.changed if look.head else ZERO_ID
    kept = max(candidate.changed, in_log)
    return [
        f"{peer.node} has changes up to {peer.changed}, the log and {candidate.node} only up to {kept}"
        for _, peer in sorted(look.peers.items())
        if peer.alive and peer.changed > kept
    ]


def _unknown_with(node: str, look: Look) -> list[str]:
    head = look.head
    unknown = [] if node in look.peers else [f"{node} has never reported"]
    known = missing_nodes.known_to(look.peers.values(), look) - set(look.peers)
    if not look.is_whole:
        unknown += [f"{name} has not reported since Redis came back: what it has" for name in sorted(known - {node})]
    for name, peer in sorted(look.peers.items()):
        met = head is not None and look.same_run and era_of(peer.term) >= era_of(head.term)
        if peer.alive and peer.run != look.run:
            unknown.append(f"{name} has not reported since Redis came back")
        elif not peer.alive and not met:
            seconds = peer.age_ms / 1000
            unknown.append(f"{name} has not reported for {seconds:.1f} s: what it has behind {peer.changed}")
    return unknown


# --- switchover ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Switchover:
    """What a switchover did. `gap_ms`: from the last moment in which the old primary could write to the first in which
    the new one was seen to lead, so the gap in the writes was no longer. `follows`: the old primary said that it does.
    """

    node: str
    before: str
    term: int
    id: str
    gap_ms: float
    follows: bool


def switchover(
    log: Log,
    node: str,
    *,
    by: str,
    reason: str = "switchover",
    lease_ms: int = LEASE_MS,
    timeout_s: float = 10.0,
    progress: Progress = _silent,
) -> Switchover:
    """Move the primary to `node`, a standby that keeps up, without losing anything.

    What stops the old primary is the promotion itself: it is one step in Redis, behind which nothing of the old term
    is accepted, and `node` reads all before it. What is refused then is refused for certain, and can be sent to `node`.
    So that the gap is short, `node` has to have read what the log had a moment ago. Where the old primary has a program
    beside it, that is stopped, and what it wrote last is published, before the promotion (`node/handover.py`).

    Raises `NotPrimary` (nobody leads), `PromotionRefused`, `TimeoutError` (it does not keep up, or the old primary did
    not say that its program has stopped; nothing was done).
    """
    _check(by=by, reason=reason, node=node, lease_ms=lease_ms, timeout_s=timeout_s)
    deadline = time.monotonic() + timeout_s
    unlimited, log = log, log.within(deadline + GRACE_S)
    before = _led_head(log)
    if before.node == node:
        raise PromotionRefused(node, "it leads already")
    _wait_until_it_keeps_up(log, node, before.position.id, deadline, progress)
    started = time.monotonic()
    if _prepare(unlimited, node, before, by, progress):
        deadline = time.monotonic() + timeout_s
        log = unlimited.within(deadline + GRACE_S)
        _wait_until_it_keeps_up(log, node, _led_head(log).position.id, deadline, progress)
    left_s = max(0.0, deadline - time.monotonic())
    done = promote(log, node, by=by, reason=reason, expect=before.term, lease_ms=lease_ms, timeout_s=left_s)
    gap_ms = (time.monotonic() - started) * 1000
    follows = _follows(log, before, done.term, deadline)
    return Switchover(
        node=node, before=before.node, term=done.term, id=done.id, gap_ms=round(gap_ms, 1), follows=follows
    )


def _prepare(log: Log, node: str, before: Head, by: str, progress: Progress) -> bool:
    """Have the old primary stop its program and publish what it wrote last; whether there was any of that to do."""
    peer = log.look().peers.get(before.node)
    if peer is None or not peer.alive or not peer.prepares:
        return False
    ask = log.ask("prepare", by=by, node=before.node)
    progress(f"{before.node} stops its program, and publishes what that wrote last")
    deadline = time.monotonic() + PREPARE_TIMEOUT_S
    while peer.prepared != ask:
        if peer.prepared.startswith(f"{ask}: "):
            reason = peer.prepared.removeprefix(f"{ask}: ")
            raise PromotionRefused(node, f"{before.node} cannot hand over ({reason}); `promote` does not ask it to")
        if not peer.alive or time.monotonic() > deadline:
            hint = f"nothing was done; `replicator promote {node}` does not wait for it"
            raise TimeoutError(f"{before.node} has not said that its program has stopped; {hint}")
        time.sleep(POLL_EVERY_S)
        peer = log.look().peers.get(before.node, peer)
    return True


def _wait_until_it_keeps_up(log: Log, node: str, target: RecordId, deadline: float, progress: Progress) -> None:
    while True:
        log.ask("report", by="switchover", node=node)
        look = log.look()
        refusal = election.refusal(node, look)
        if refusal is not None:
            raise PromotionRefused(node, refusal.reason, better=refusal.better)
        peer = look.peers[node]
        if peer.in_sync and peer.position.id >= target:
            return
        behind = target.n - peer.position.id.n
        progress(f"{node} is {behind} records behind")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{node} does not keep up: it is {behind} records behind; nothing was done")
        time.sleep(POLL_EVERY_S)


def _follows(log: Log, before: Head, term: int, deadline: float) -> bool:
    while True:
        peer = log.look().peers.get(before.node)
        if peer is not None and peer.term >= term and peer.role == "standby":
            return True
        if peer is None or not peer.alive or time.monotonic() > deadline:
            return False
        time.sleep(POLL_EVERY_S)


# --- automatic failover, on and off ----------------------------------------------------------------------------------


def pause(log: Log, *, by: str, reason: str = "") -> None:
    """Switch automatic failover off: no node takes over by itself until `resume`. Promotions by hand go on."""
    _check(by=by, reason=reason)
    _switched(log, log.pause(f"by {by}: {reason}" if reason else f"by {by}"))


def resume(log: Log) -> None:
    """Switch automatic failover on again, on the nodes that have it."""
    _switched(log, log.pause(""))


def _switched(log: Log, reply: Reply) -> None:
    if reply.code is Code.LOST:
        raise LogLost(what=f"there is no log of group {log.group} at {log.url}")


# --- who belongs to the group ----------------------------------------------------------------------------------------


def forget(log: Log, node: str, *, by: str) -> None:
    """Say that a node will not come back: nobody waits for it any more, nor for what only it may have.

    Raises `ConfigError` for one that nobody knows, or that reports.
    """
    look = looked(log)
    peer = look.peers.get(node)
    if peer is None and node not in missing_nodes.known_to(look.peers.values(), look):
        raise ConfigError(setting="node", problem=f"no node {node} has reported; `replicator status` lists them")
    if peer is not None and peer.alive:
        raise ConfigError(setting="node", problem=f"{node} reports; stop it first, if it is not to come back")
    log.forget(node, by=by)


# --- recovery --------------------------------------------------------------------------------------------------------


def recover(
    log: Log,
    node: str | None = None,
    *,
    by: str,
    reason: str = "the log was lost",
    force: bool = False,
    lease_ms: int = LEASE_MS,
    timeout_s: float = 30.0,
    progress: Progress = _silent,
) -> Promotion:
    """Found a broken log anew from the most advanced live node (or from `node`), in one step; it leads then.

    Broken: Redis lost it, or half of it, or something is in it, in its head or its term key that no script of ours can
    have written. The nodes report what they have for two heartbeats before one is chosen. What others have and the
    chosen one has not becomes forks. Where only the term key is wrong, the log goes on, and the key is set right.

    Raises `PromotionRefused` (the log is whole; no node to found it from; nodes are missing that may have what was
    acknowledged as `applied:N`, unless `force`), `TimeoutError`.
    """
    _check(by=by, reason=reason, node=node, lease_ms=lease_ms, timeout_s=timeout_s)
    started = time.monotonic()
    look = looked(log.within(started + timeout_s + GRACE_S))
    _check_is_broken(look)
    reporting_s = election.time_to_report_ms(look.peers.values()) / 1000
    log = log.within(started + reporting_s + timeout_s + GRACE_S)
    progress(f"the nodes report for {reporting_s:.0f} s")
    time.sleep(reporting_s)
    look = looked(log)
    _check_is_broken(look)
    peer = _to_recover_from(look, node)
    for name, other in sorted(look.peers.items()):
        progress(f"{name} has changes up to {other.changed}" + ("" if other.alive else " (dead)"))
    if not force and not missing_nodes.are_enough(peer, look):
        raise PromotionRefused(peer.node, election.missed(peer, look))
    claim = _claim(peer, look, lease_ms=lease_ms, by=by, reason=reason, guarded=_goes_on(look))
    claim = replace(claim, floor=election.floor_of(peer, look), new_log_id=peer.log_id)
    reply = log.promote(replace(claim, anew=True, unfollowed=election.unfollowed(look)))
    if reply.code is not Code.OK:
        raise _not_promoted(peer.node, reply, log)
    if _goes_on(look):
        progress(f"the term key is set right, and {peer.node} takes term {reply.term}")
    else:
        progress(f"founded anew from {peer.node}, in term {reply.term}; its state goes into the log")
    _wait_until_it_leads(log, peer.node, peer.boot, reply.term, started + reporting_s + timeout_s)
    led_ms = (time.monotonic() - started) * 1000
    return Promotion(node=peer.node, term=reply.term, id=str(reply.id), led_ms=round(led_ms, 1))


def _check_is_broken(look: Look) -> None:
    if election.broken(look):
        return
    holder = look.peers.get(term_holder(look) or "")
    if look.lease_ms is not None and not (holder is not None and holder.problem):
        raise PromotionRefused("no node", "the log is whole, there is nothing to recover")
    why = f" ({holder.node}: {holder.problem})" if holder is not None and holder.problem else ""
    reason = f"there is nothing to recover in the log, but nobody leads{why}: `replicator promote NODE`"
    raise PromotionRefused("no node", reason)


def _goes_on(look: Look) -> bool:
    """Whether nothing is wrong but the term key."""
    whole = look.head is not None and look.last_id == look.head.position.id
    return whole and election.unfollowed(look) is None


def _to_recover_from(look: Look, node: str | None) -> Peer:
    logs = {peer.log_id for peer in look.peers.values() if peer.alive and peer.log_id}
    if node is None and len(logs) > 1:
        raise PromotionRefused("no node", "the live nodes have different logs; name the one to go on from with --from")
    holder = look.peers.get(term_holder(look) or "")
    if node is None and _goes_on(look) and holder is not None and holder.alive:
        node = holder.node
    if node is None:
        node = election.most_advanced_holder(look.peers.values(), *logs) if logs else None
    peer = look.peers.get(node or "")
    if peer is None or not peer.alive or not peer.log_id:
        raise PromotionRefused(node or "no node", "no live node of that name has the log; start one on its data first")
    return peer


# --- the log ---------------------------------------------------------------------------------------------------------


def records(log: Log, *, after: RecordId = ZERO_ID, follow: bool = False) -> Iterator[Record]:
    """The records of the log from `after` on; with `follow`, also those to come. Raises `CorruptRecord`."""
    while True:
        batch = log.read(after, block_ms=500 if follow else None)
        yield from batch.records
        if batch.corrupt is not None:
            raise batch.corrupt
        if batch.records:
            after = batch.records[-1].id
        elif not follow:
            return


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One term, as its record and those after it tell. `last` is the id of its newest record."""

    term: int
    node: str
    boot: str
    run: str
    by: str
    reason: str
    at: int
    first: str
    last: str
    changes: int
    snapshots: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def history(log: Log) -> list[Term]:
    """The terms that the log still tells of, oldest first. What is older than the oldest kept snapshot is trimmed away:
    of a term whose own record is gone, `run`, `by` and `reason` are empty."""
    terms: list[Term] = []
    for record in records(log):
        if not terms or terms[-1].term != record.id.term:
            terms.append(_opened(record))
        terms[-1] = _with(terms[-1], record)
    return terms


def _opened(record: Record) -> Term:
    opens = record if isinstance(record, TermRecord) else None
    return Term(
        term=record.id.term,
        node=record.node,
        boot=record.boot,
        run=opens.run if opens else "",
        by=opens.by if opens else "",
        reason=opens.reason if opens else "",
        at=record.at,
        first=str(record.id),
        last=str(record.id),
        changes=0,
        snapshots=0,
    )


def _with(term: Term, record: Record) -> Term:
    changes = record.count if isinstance(record, ChangeRecord) else 0
    ends = isinstance(record, PartRecord) and record.is_last
    return replace(
        term, last=str(record.id), changes=term.changes + changes, snapshots=term.snapshots + (1 if ends else 0)
    )


# --- asks ------------------------------------------------------------------------------------------------------------


def snapshot(log: Log, *, by: str, timeout_s: float = 120.0, progress: Progress = _silent) -> str:
    """Ask the primary for a snapshot, and wait until it is complete; the id whose state it is.

    Raises `NotPrimary` if nobody leads, `TimeoutError`.
    """
    _check(by=by, timeout_s=timeout_s)
    deadline = time.monotonic() + timeout_s
    log = log.within(deadline + GRACE_S)
    head = _led_head(log)
    log.ask("snapshot", by=by)
    progress(f"asked {head.node} for a snapshot")
    parts = -1
    while time.monotonic() < deadline:
        now = _led_head(log)
        if now.snapshot_at >= head.position.id:
            progress(f"the snapshot of {now.snapshot_at} is complete")
            return str(now.snapshot_at)
        if now.part_next > parts:
            parts = now.part_next
            progress(f"{parts} parts are in the log")
        time.sleep(POLL_EVERY_S)
    raise TimeoutError(f"{head.node} has not completed a snapshot after {timeout_s} s")


def _led_head(log: Log) -> Head:
    look = log.look()
    if look.head is None or term_holder(look) is None:
        why = "`replicator status` says what to do" if is_known(look) else str(_unknown(log))
        raise NotPrimary(f"nobody leads the group, so nobody can do it: {why}")
    return look.head


@dataclass(frozen=True, kw_only=True, slots=True)
class DigestReport:
    """The digests of the nodes' states at one position. `missing`: live nodes that did not report in time; `silent`:
    other nodes of the group, which do not report at all."""

    position: str
    digests: dict[str, str]
    missing: list[str]
    silent: list[str]

    @property
    def differ(self) -> bool:
        """Whether those that told have different states."""
        return len(set(self.digests.values()) - {NO_DIGEST}) > 1

    @property
    def undrawn(self) -> list[str]:
        """Those whose state could not be drawn: `replicator status` says why."""
        return [node for node, digest in self.digests.items() if digest == NO_DIGEST]

    @property
    def equal(self) -> bool:
        """Whether all nodes of the group are shown to have the same state."""
        return not (self.missing or self.silent or self.undrawn or self.differ)

    @property
    def verdict(self) -> str:
        """What it comes to, in words."""
        if self.differ:
            told = ", ".join(f"{node} {digest}" for node, digest in self.digests.items())
            return f"the states at {self.position} differ: {told}"
        if self.equal:
            return "all equal"
        late = [f"{node} did not report in time" for node in self.missing]
        dead = [f"{node} does not report" for node in self.silent]
        failed = [f"the state of {node} could not be drawn" for node in self.undrawn]
        alike = [node for node in self.digests if node not in self.undrawn]
        told = f"{', '.join(alike) or 'nobody'} {'have equal states' if len(alike) > 1 else 'told its state'}"
        return f"not all nodes could be compared: {', '.join(late + dead + failed)}; {told} at {self.position}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"equal": self.equal}


def verify(log: Log, *, by: str, timeout_s: float = 60.0, progress: Progress = _silent) -> DigestReport:
    """Have all nodes digest their state at one position of the log, and compare (G6).

    The primary puts a marker, an empty change, into the log; each node reports the digest of its state there. Nodes
    that are known and do not report are not waited for, and named.
    Raises `NotPrimary` if nobody leads, `TimeoutError` if the primary itself does not report.
    """
    _check(by=by, timeout_s=timeout_s)
    deadline = time.monotonic() + timeout_s
    log = log.within(deadline + GRACE_S)
    head = _led_head(log)
    log.ask("digest", by=by)
    progress(f"asked {head.node} for a marker")
    told = -1
    while True:
        look = log.look()
        live = {name: peer for name, peer in look.peers.items() if peer.alive}
        marked = live.get(head.node)
        at = marked.digest_at if marked else ZERO_ID
        if at > head.position.id:
            digests = {name: peer.digest for name, peer in sorted(live.items()) if peer.digest_at == at}
            missing = sorted(set(live) - set(digests))
            if len(digests) > told:
                told = len(digests)
                progress(f"{told} of {len(live)} nodes reported at {at}")
            if not missing or time.monotonic() > deadline:
                known = {name for name, peer in look.peers.items() if not peer.left}
                silent = sorted(known - set(live) - set(digests))
                return DigestReport(position=str(at), digests=digests, missing=missing, silent=silent)
        elif time.monotonic() > deadline:
            raise TimeoutError(f"{head.node} has not reported a digest after {timeout_s} s")
        time.sleep(POLL_EVERY_S)
