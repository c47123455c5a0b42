"""An application of our own, in the middleware (`asgi.py`), as the registry's API and the health of a node are.

Its handlers decide where a write goes (`access.py`); whatever they raise is answered, in plain JSON; no cookie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .answers import ANSWERS, Answers, no_route
from .asgi import Replicated
from .failures import plain
from .options import WAIT_TIMEOUT_S
from .served_node import FACTS, ServedNode
from .thread_pools import Pools

__all__ = ["FACTS", "WAIT_TIMEOUT_S", "application", "health_app"]


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody is there to see it."""
    return Response(status_code=400)


def application(
    node: ServedNode[Any],
    routes: Sequence[Route],
    *,
    pools: Pools,
    wait_timeout_s: float = WAIT_TIMEOUT_S,
    answers: Answers = ANSWERS,
) -> Starlette:
    """These routes, and `/health` and `/ready`. `answers`: what errors come to. Others start and stop the node."""
    envelope = Middleware(
        Replicated,
        node=node,
        start=False,
        waits=pools.waits,
        writes="local",
        cookie=None,
        wait_timeout_s=wait_timeout_s,
        answers=answers,
        errors=plain,
    )
    app = Starlette(
        routes=routes,
        middleware=[envelope],
        exception_handlers={HTTPException: no_route, ClientDisconnect: _gone},
    )
    # A slash too many is an unknown route like any other, not a redirect without a body.
    app.router.redirect_slashes = False
    return app


def health_app(
    node: ServedNode[Any], *, wait_timeout_s: float = WAIT_TIMEOUT_S, routes: Sequence[Route] = ()
) -> Starlette:
    """The application of a node of which only health is served, and nothing of its state. `routes`: what else is."""
    return application(node, routes, pools=Pools(), wait_timeout_s=wait_timeout_s)
