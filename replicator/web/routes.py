"""Routes whose endpoints stand by path and method, and have a place in a pool while they write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from .failures import Full
from .requests import PLACE, drop_body
from .thread_pools import Pool

__all__ = ["Endpoint", "by_method", "within"]

Endpoint = Callable[[Request], Awaitable[Response]]


def by_method(endpoints: Mapping[str, Endpoint]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return endpoint


def within(pool: Pool, endpoint: Endpoint) -> Endpoint:
    """An endpoint that has a place in the pool for as long as it takes, before it reads the body."""

    async def placed(request: Request) -> Response:
        try:
            with pool.place() as place:
                request.scope[PLACE] = place
                return await endpoint(request)
        except Full:
            await drop_body(request)
            raise

    return placed
