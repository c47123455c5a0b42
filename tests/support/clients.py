"""Both clients behind one face, so that every test of one is a test of the other; and a service that is a table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from replicator.client import AsyncClient, Client

__all__ = ["AsyncTwin", "Service", "Twin"]


class AsyncTwin:
    """An `AsyncClient` on a loop of its own, called as a `Client` is. One thread at a time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncClient(*args, **options)
        self._setup = self.client._setup

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if name in ("position", "saw"):
            return found
        return lambda *args, **options: self.runner.run(found(*args, **options))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


Twin = Client | AsyncTwin


class Service:
    """What nodes answer, by their URLs: a function of the request, or an error of the connection."""

    def __init__(self) -> None:
        self.nodes: dict[str, Callable[[httpx.Request], httpx.Response]] = {}
        self.requests: list[httpx.Request] = []

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.nodes[f"{request.url.scheme}://{request.url.netloc.decode()}"](request)

    @property
    def asked(self) -> list[str]:
        """The hosts that were asked, in turn."""
        return [request.url.host for request in self.requests]


def node(
    role: str = "primary", *, at: str = "5-10", status: int = 200, body: Any = None, **headers: str
) -> Callable[[httpx.Request], httpx.Response]:
    stamps = {"Replicator-Position": at, "Replicator-Role": role, "Replicator-Term": "5"}
    return lambda request: httpx.Response(status, json=body or {}, headers={**stamps, **headers})


def refuses(
    code: str, status: int = 503, role: str = "primary", **headers: str
) -> Callable[[httpx.Request], httpx.Response]:
    return node(role, status=status, body={"error": code, "message": f"because of {code}"}, **headers)


def breaks(error: type[httpx.TransportError]) -> Callable[[httpx.Request], httpx.Response]:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error("as told", request=request)

    return fail


def in_turn(*answers: Callable[[httpx.Request], httpx.Response]) -> Callable[[httpx.Request], httpx.Response]:
    """The last one again and again."""

    def following() -> Iterator[Callable[[httpx.Request], httpx.Response]]:
        yield from answers
        while True:
            yield answers[-1]

    them = following()
    return lambda request: next(them)(request)
