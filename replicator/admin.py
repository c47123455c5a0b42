"""What an operator does to a group, as plain functions over its log. The command line and the jobs call these.

None of them needs a node of its own, and none waits in Redis: they look, ask, and look again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from .core import life
from .core.ids import ZERO_ID, RecordId, Writer
from .core.records import ChangeRecord, PartRecord, Record, TermRecord
from .core.replies import Code, Head, Log, Look, Peer
from .errors import CorruptRecord, LogLost, NotPrimary, PromotionRefused, ReplicatorError

__all__ = [
    "NOBODY",
    "DigestReport",
    "NodeStatus",
    "Promotion",
    "Status",
    "Term",
    "demote",
    "history",
    "promote",
    "records",
    "snapshot",
    "status",
    "verify",
]

#: Who holds the term after a demotion. No node has this name: it is no name for a boot.
NOBODY = Writer("nobody", "nobody")

POLL_EVERY_S = 0.02

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


# --- status ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStatus:
    """One node, as it last reported. `lag_records` and `lag_seconds` are None where nobody can know them."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A group. `holder` is the node that holds the term in the present run of Redis, None if nobody does."""

    group: str
    log_id: str | None
    run: str
    term: int
    holder: str | None
    head: str | None
    lease_ms: int | None
    nodes: list[NodeStatus]
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. The names are a contract."""
        return asdict(self)


def status(log: Log) -> Status:
    """The group as Redis and the heartbeats show it. Raises `LogUnavailable`."""
    look = log.look()
    head = look.head
    return Status(
        group=log.group,
        log_id=head.log_id if head else None,
        run=look.run,
        term=look.term,
        holder=_holder(look),
        head=str(head.position.id) if head else None,
        lease_ms=look.lease_ms,
        nodes=[_node_status(peer, look) for _, peer in sorted(look.peers.items())],
        problem=_problem(look),
    )


def _holder(look: Look) -> str | None:
    head = look.head
    if head is None or head.run != look.run or head.term != look.term or head.writer == NOBODY:
        return None
    return head.node


def _node_status(peer: Peer, look: Look) -> NodeStatus:
    head = look.head
    ahead = head is not None and peer.position.id > head.position.id
    records = None if head is None or ahead or not peer.alive else max(0, head.position.id.n - peer.position.id.n)
    role = peer.role if peer.alive and (peer.node, peer.boot) == (_holder(look), head and head.boot) else "standby"
    return NodeStatus(
        name=peer.node,
        boot=peer.boot,
        role=role,
        term=peer.term,
        position=str(peer.position.id),
        lag_records=records,
        lag_seconds=_lag_seconds(peer, records, look),
        in_sync=peer.in_sync,
        alive=peer.alive,
        http=peer.http or None,
        problem=peer.stalled or ("ahead of the log" if ahead and peer.alive else None),
    )


def _lag_seconds(peer: Peer, records: int | None, look: Look) -> float | None:
    if records == 0:
        return 0.0
    if records is None or not peer.applied_at:
        return None
    return round(max(0, look.now_ms - peer.applied_at) / 1000, 3)


def _problem(look: Look) -> str | None:
    head = look.head
    if head is None:
        return None if look.term == 0 else "there is a term, but no log: Redis lost data"
    if look.last_id != head.position.id:
        return f"something that is not a record is in the log, at {look.last_id}"
    if head.run != look.run:
        return "Redis came back as another run: nobody leads until somebody takes a term in it"
    if _holder(look) is None:
        return "nobody holds the term: `replicator promote NODE`"
    return None


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
    lease_ms: int = 5000,
    timeout_s: float = 10.0,
) -> Promotion:
    """Give the next term to `node`, and wait until it leads.

    Raises `PromotionRefused` (see `life.refusal`; `force` goes past it, but not past a node that has never reported),
    `LogLost`, `LogUnavailable`, `TimeoutError` (it has the term, and does not lead yet).
    """
    started = time.monotonic()
    while True:
        look = log.look()
        if expect not in (None, look.term):
            raise _not_promoted(node, Code.CONFLICT, look.term, look.head.node if look.head else "", ZERO_ID, log)
        refusal = life.refusal(node, look)
        if refusal is not None and (not force or node not in look.peers):
            raise PromotionRefused(node, refusal.reason, better=refusal.better)
        peer = look.peers[node]
        reply = log.promote(
            Writer(node, peer.boot),
            floor=life.newest_term(look),
            lease_ms=lease_ms,
            by=by,
            reason=reason,
            expect=look.term,
            run=look.run,
            expect_head=life.expected_head(peer, look) if not force else None,
            new_log_id=secrets.token_hex(16) if life.may_found(look) else "",
        )
        if reply.code in (Code.NEW_RUN, Code.CONFLICT):
            # Redis restarted, or somebody took a term, between look and promotion: look again.
            if time.monotonic() > started + timeout_s:
                raise TimeoutError(f"the group changed whenever {node} was to be promoted; nothing was done")
            continue
        if reply.code is not Code.OK:
            raise _not_promoted(node, reply.code, reply.term, reply.node, reply.id, log)
        try:
            _wait_until_it_leads(log, node, peer.boot, reply.term, started + timeout_s)
        except _RestartedMeanwhile:
            continue  # the boot that got the term is gone; its successor gets the next one
        led_ms = (time.monotonic() - started) * 1000
        return Promotion(node=node, term=reply.term, id=str(reply.id), led_ms=round(led_ms, 1))


def demote(log: Log, *, by: str, reason: str = "asked by an operator") -> int:
    """Take the next term for nobody: the primary steps down, and nobody writes until somebody is promoted. The term."""
    look = log.look()
    if _holder(look) is None:
        raise NotPrimary("nobody holds the term; there is nothing to demote")
    reply = log.promote(NOBODY, floor=look.term, lease_ms=1, by=by, reason=reason, expect=look.term, run=look.run)
    if reply.code is not Code.OK:
        raise _not_promoted("nobody", reply.code, reply.term, reply.node, reply.id, log)
    return reply.term


def _not_promoted(node: str, code: Code, term: int, holder: str, id_: RecordId, log: Log) -> ReplicatorError:
    if code is Code.CONFLICT:
        return PromotionRefused(node, f"the term is {term}, held by {holder or 'nobody'}, and not the expected one")
    if code is Code.STRAY:
        return CorruptRecord(id=id_, problem="something that is not replicator wrote into the stream")
    if code is Code.LOST:
        return LogLost(what=f"the log of group {log.group} is gone from {log.url}")
    return PromotionRefused(node, code.value)


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
        time.sleep(POLL_EVERY_S)


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
    head = _led_head(log)
    log.ask("snapshot", by=by)
    progress(f"asked {head.node} for a snapshot")
    parts = -1
    deadline = time.monotonic() + timeout_s
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
    if look.head is None or _holder(look) is None:
        raise NotPrimary("nobody leads the group, so nobody can do it: `replicator promote NODE`")
    return look.head


@dataclass(frozen=True, kw_only=True, slots=True)
class DigestReport:
    """The digests of the nodes' states at one position. `missing`: live nodes that did not report in time."""

    position: str
    digests: dict[str, str]
    missing: list[str]

    @property
    def equal(self) -> bool:
        return not self.missing and len(set(self.digests.values())) == 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"equal": self.equal}


def verify(log: Log, *, by: str, timeout_s: float = 60.0, progress: Progress = _silent) -> DigestReport:
    """Have all live nodes digest their state at one position of the log, and compare (G6).

    The primary puts a marker, an empty change, into the log; each node reports the digest of its state there.
    Raises `NotPrimary` if nobody leads, `TimeoutError` if the primary itself does not report.
    """
    head = _led_head(log)
    log.ask("digest", by=by)
    progress(f"asked {head.node} for a marker")
    deadline = time.monotonic() + timeout_s
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
                return DigestReport(position=str(at), digests=digests, missing=missing)
        elif time.monotonic() > deadline:
            raise TimeoutError(f"{head.node} has not reported a digest after {timeout_s} s")
        time.sleep(POLL_EVERY_S)
