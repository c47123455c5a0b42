"""Has a group go on without its last change, at which every node stalls: `replicator skip` (`protocol/skip.py`)."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import SkipRefused
from ..format.ids import RecordId
from ..format.records import ChangeRecord, Record
from ..log.interface import Log
from ..node.promotion import not_promoted
from ..protocol.group import Claim, Code, GroupView
from ..protocol.skip import applied_by, expected_head, obstacle
from ..runtime import checks
from .common import GRACE_S, LEASE_MS, check_call, check_is_known
from .log_history import records
from .promotion import RestartedMeanwhile, claim_of, wait_until_it_leads

__all__ = ["Skip", "SkipPreview", "preview_skip", "skip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """What a skip did. `skipped_id`: the record; `change_count`: the changes in it; `primary`: the node that leads;
    `first_id`: the record that opens its term. `took_ms`: from the request until the node said that it leads."""

    skipped_id: str
    change_count: int
    primary: str
    term: int
    first_id: str
    took_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipPreview:
    """What a skip would do. `refusal`: why it is refused. `change_count`: the changes that would be left out; None: the
    log does not have them. `applied_nodes`: the nodes that have applied them, and would be rebuilt without."""

    skipped_id: str
    node: str
    refusal: str | None
    change_count: int | None
    applied_nodes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def preview_skip(log: Log, change: RecordId, node: str, *, force: bool = False) -> SkipPreview:
    """What `skip` would do, as the group is now. Changes nothing."""
    checks.name("node", node)
    look, after = log.look(), _records_from(log, change)
    return SkipPreview(
        skipped_id=str(change),
        node=node,
        refusal=obstacle(change, node, look, after, force=force) or None,
        change_count=_count(after),
        applied_nodes=applied_by(change, look),
    )


def skip(
    log: Log,
    change: RecordId,
    node: str,
    *,
    by: str,
    reason: str,
    force: bool = False,
    lease_ms: int = LEASE_MS,
    timeout_s: float = 30.0,
) -> Skip:
    """Give the next term to `node`, which goes on without this change, and wait until it leads.

    `force`: even if a node has applied the change. Raises `SkipRefused` (`protocol.skip.obstacle`), `LogLost`,
    `LogUnavailable`, `TimeoutError` (it has the term, and does not lead yet).
    """
    check_call(by=by, reason=reason, node=node, lease_ms=lease_ms, timeout_s=timeout_s)
    checks.flag("force", force)
    started = time.monotonic()
    until = started + timeout_s
    log = log.within(until + GRACE_S)
    while True:
        look = log.look()
        check_is_known(log, look)
        after = _records_from(log, change)
        if why := obstacle(change, node, look, after, force=force):
            raise SkipRefused(change=change, node=node, reason=why)
        reply = log.promote(_claim(look, change, node, by=by, reason=reason, lease_ms=lease_ms))
        if reply.code in (Code.NEW_RUN, Code.CONFLICT) and time.monotonic() < until:
            continue
        if reply.code is not Code.OK:
            raise not_promoted(node, reply, log)
        try:
            wait_until_it_leads(log, node, look.heartbeats[node].boot, reply.term, until)
        except RestartedMeanwhile:
            continue  # the boot that got the term is gone; if its successor does not go on with it, it stalls again
        took_ms = round((time.monotonic() - started) * 1000, 1)
        return Skip(
            skipped_id=str(change),
            change_count=_count(after) or 0,
            primary=node,
            term=reply.term,
            first_id=str(reply.id),
            took_ms=took_ms,
        )


def _claim(look: GroupView, change: RecordId, node: str, *, by: str, reason: str, lease_ms: int) -> Claim:
    claim = claim_of(look.heartbeats[node], look, lease_ms=lease_ms, by=by, reason=reason)
    return replace(claim, expect_head=expected_head(look), skip=change, what="skip")


def _records_from(log: Log, change: RecordId) -> list[Record]:
    """What the log has from this change on. None of it is a change, or the skip is refused: so these are few."""
    found = []
    for record in records(log, after=RecordId(change.term, max(0, change.n - 1))):
        found.append(record)
        if isinstance(record, ChangeRecord) and record.id > change:
            break
    return found


def _count(after: list[Record]) -> int | None:
    first = after[0] if after else None
    return first.count if isinstance(first, ChangeRecord) else None
