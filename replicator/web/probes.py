"""What load balancers, orchestrators and operators ask a node for: one place has the rules, for every server.

    /primary     200 only while it may write, by its lease, on its own clock
    /standby     200 on a standby that is in sync; ?lag=N&lag_s=S: and within that
    /read-only   200 on either of these; the limits hold for a standby, a node that leads has everything
    /live        200: the process answers
    /ready       200: it can do its role's work now
    /health      200, with all that it knows of itself
    /cluster     all members, as it knows them
    /history     what was done to the group: who led when, by whom and why

Everything is derived when it is asked for, from what is in the node's memory: nobody asks Redis, waits, or takes a lock
that somebody holds for long. Whatever is no 200 is 503 and says why; a query that cannot be meant is 400. OPTIONS, with
which some load balancers probe, has the status of a GET and no body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from ..runtime.counted import counted
from .failures import Failure
from .health import health_of, readiness_of
from .served_node import ServedNode

__all__ = ["METHODS", "PROBES", "PROBLEM_DETAILS", "Found", "Probe"]

METHODS = ("GET", "HEAD", "OPTIONS")

#: What is answered with 200; or why it is something else.
Found: TypeAlias = dict[str, Any] | Failure

#: Gets the node, and the query as it was sent.
Probe: TypeAlias = Callable[[ServedNode[Any], bytes], Found]

LAG = re.compile(r"[0-9]{1,15}")
LAG_S = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")

#: What keeps a standby from being asked at all: its state may be wrong, or is nobody's any more. What only keeps it
#: from following the log (Redis is away, a full disk) makes it stale, and for that there are the limits.
UNFIT = frozenset(("not_running", "stopping", "failed", "stalled", "diverged", "out_of_sync", "unhealthy"))


def primary(node: ServedNode[Any], _: bytes = b"") -> Found:
    unready = node.unready
    if unready is not None and unready.code in ("not_running", "stopping"):
        return _unavailable(unready.code, unready.message)
    if node.leads:
        return _said(node)
    if node.role != "primary":
        return _unavailable("not_primary", f"{node.name} is a standby")
    if unready is not None:
        return _unavailable(unready.code, unready.message)
    return _unavailable("lease_lost", f"{node.name} holds the term, and has no lease that runs")


def standby(node: ServedNode[Any], query: bytes = b"") -> Found:
    limits = _limits(query)
    if isinstance(limits, Failure):
        return limits
    if node.role == "primary":
        return _unavailable("not_standby", f"{node.name} is the primary")
    unready = node.unready
    if unready is not None and unready.code in UNFIT:
        return _unavailable(unready.code, unready.message)
    if not node.in_sync:
        return _unavailable("out_of_sync", f"{node.name} lacks something of the log")
    return _too_late(node, *limits) or _said(node)


def read_only(node: ServedNode[Any], query: bytes = b"") -> Found:
    limits = _limits(query)
    if isinstance(limits, Failure):
        return limits
    return primary(node) if node.role == "primary" else standby(node, query)


def live(node: ServedNode[Any], _: bytes = b"") -> Found:
    return {"alive": True}


def cluster(node: ServedNode[Any], _: bytes = b"") -> Found:
    return {"group": node.group, **node.members.to_dict()}


def history(node: ServedNode[Any], _: bytes = b"") -> Found:
    return {"group": node.group, "seen_by": node.name, **node.history().to_dict()}


def ready(node: ServedNode[Any], _: bytes = b"") -> Found:
    return readiness_of(node)


def health(node: ServedNode[Any], _: bytes = b"") -> Found:
    return health_of(node)


#: By what is asked for.
PROBES: Mapping[str, Probe] = {
    "primary": primary,
    "standby": standby,
    "read-only": read_only,
    "live": live,
    "ready": ready,
    "health": health,
    "cluster": cluster,
    "history": history,
}

#: Those whose errors are problem details on every server. The older two have the errors of their server.
PROBLEM_DETAILS = frozenset(PROBES) - {"ready", "health"}


def _said(node: ServedNode[Any]) -> dict[str, Any]:
    return {
        "node": node.name,
        "role": node.role,
        "term": node.term,
        "position": str(node.position.id),
        "lag_records": node.lag.records,
        "stale_ms": _stale_ms(node),
        "lease_ms": node.lease_ms,
    }


def _stale_ms(node: ServedNode[Any]) -> int | None:
    return None if node.stale_s is None else round(node.stale_s * 1000)


def _too_late(node: ServedNode[Any], lag: int | None, lag_s: float | None) -> Failure | None:
    """Why a standby is not within these limits. What is not known is not within any."""
    if lag is not None:
        records = node.lag.records
        if records is None:
            return _unavailable("lag_unknown", "how many records it lacks is not known: nobody leads, or Redis is away")
        if records > lag:
            lacks = counted(records, "record")
            return _unavailable("behind", f"it lacks {lacks}, and {counted(lag, 'was', 'were')} allowed")
    if lag_s is not None:
        stale_s = node.stale_s
        if stale_s is None:
            return _unavailable("lag_unknown", "it has not been known to have everything yet")
        if stale_s > lag_s:
            what = f"it may lack what came in the last {stale_s:.1f} s, and {lag_s:g} s were allowed"
            return _unavailable("behind", what)
    return None


def _limits(query: bytes) -> tuple[int | None, float | None] | Failure:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in ("lag", "lag_s"):
            return _wrong(name, f"{name!a:.80} is no limit here: there are lag (records) and lag_s (seconds)")
        if name in found:
            return _wrong(name, f"{name} is given twice")
        found[name] = value
    lag, lag_s = found.get("lag"), found.get("lag_s")
    if lag is not None and not LAG.fullmatch(lag):
        return _wrong("lag", f"{lag!a:.80} is no number of records: give 0 or more, like 100")
    if lag_s is not None and not LAG_S.fullmatch(lag_s):
        return _wrong("lag_s", f"{lag_s!a:.80} is no number of seconds: give 0 or more, like 5 or 2.5")
    return None if lag is None else int(lag), None if lag_s is None else float(lag_s)


def _wrong(name: str, message: str) -> Failure:
    return Failure(status=400, code="invalid_query", message=message, field=f"{name:.80}")


def _unavailable(code: str, message: str) -> Failure:
    return Failure(status=503, code=code, message=message)
