"""How a node is, whatever its state is: `/health` says all of it, `/ready` is 200 or 503 for a load balancer."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .answers import error_answer, json_answer
from .envelope import WAIT_TIMEOUT_S, application
from .served_node import ServedNode
from .thread_pools import Pools

__all__ = ["health_app", "health_routes"]


class _Health:
    def __init__(self, node: ServedNode[Any]) -> None:
        self._node = node

    async def health(self, request: Request) -> Response:
        node, unready = self._node, self._node.unready
        return json_answer(
            {
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
        )

    async def ready(self, request: Request) -> Response:
        unready = self._node.unready
        if unready is not None:
            return error_answer(503, unready.code, unready.message)
        return json_answer({"ready": True, "role": self._node.role})


def health_routes(node: ServedNode[Any]) -> list[Route]:
    served = _Health(node)
    return [Route("/health", served.health, methods=["GET"]), Route("/ready", served.ready, methods=["GET"])]


def health_app(node: ServedNode[Any], *, wait_timeout_s: float = WAIT_TIMEOUT_S) -> Starlette:
    """The application of a node of which only this is served, and nothing of its state."""
    return application(node, health_routes(node), pools=Pools(), wait_timeout_s=wait_timeout_s)
