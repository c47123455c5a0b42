"""How a node is, whatever its state is: `/health` says all of it, `/ready` is 200 or 503 for a load balancer."""

from __future__ import annotations

from typing import Any

from .failures import Failure
from .served_node import ServedNode

__all__ = ["health_of", "readiness_of"]


def health_of(node: ServedNode[Any]) -> dict[str, Any]:
    unready = node.unready
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
        "lease_ms": node.lease_ms,
        "state_problem": node.state_problem,
        "ready": unready is None,
        "problem": node.problem or (unready.message if unready else None),
        "primary_http": node.primary_http,
    }


def readiness_of(node: ServedNode[Any]) -> dict[str, Any] | Failure:
    unready = node.unready
    if unready is not None:
        return Failure(status=503, code=unready.code, message=unready.message)
    return {"ready": True, "role": node.role}
