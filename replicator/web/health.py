"""How a node is, whatever its state is: `/health` says all of it, `/ready` is 200 or 503. `probes.py` has the rest."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

from .failures import Failure
from .served_node import ServedNode

__all__ = ["health_of", "readiness_of"]


def health_of(node: ServedNode[Any]) -> dict[str, Any]:
    unready, release, stale_s = node.unready, node.release, node.stale_s
    return {
        "node": node.name,
        "group": node.group,
        "role": node.role,
        "leads": node.leads,
        "term": node.term,
        "position": str(node.position.id),
        "in_sync": node.in_sync,
        "lag_records": node.lag.records,
        "lag_ms": node.lag.ms,
        "stale_ms": None if stale_s is None else round(stale_s * 1000),
        "lease_ms": node.lease_ms,
        "state_problem": node.state_problem,
        "ready": unready is None,
        "problem": node.problem or (unready.message if unready else None),
        "primary_http": node.primary_http,
        "heartbeat_age_ms": node.heartbeat_age_ms,
        "app": release.app,
        "version": release.version,
        "reads_min": release.reads[0],
        "reads_max": release.reads[-1],
        "group_version": node.version,
        "library_version": _library_version(),
    }


def readiness_of(node: ServedNode[Any]) -> dict[str, Any] | Failure:
    unready = node.unready
    if unready is not None:
        return Failure(status=503, code=unready.code, message=unready.message)
    return {"ready": True, "role": node.role}


@functools.cache
def _library_version() -> str | None:
    """Read once, and not for each answer: it is in a file."""
    try:
        return metadata.version("replicator")
    except metadata.PackageNotFoundError:  # run from sources that nobody installed
        return None
