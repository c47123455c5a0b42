"""An application in the middleware, asked in memory: the same small one over ASGI and over WSGI, and a node that says
what a test tells it to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from replicator.errors import NotRunning, PositionLost
from replicator.metrics import NodeMetrics
from replicator.node.health import Unready
from replicator.web import asgi, wsgi
from tests.support.registry_api import Known, Lag, Position

#: What the application does with a request: method, path and body. Its answer's status and body, or it raises.
Handler = Callable[[str, str, bytes], tuple[int, bytes]]


@dataclass
class FakeNode(Known):
    """A node at a position, in a role."""

    name: str = "a"
    group: str = "g"
    role: str = "primary"
    leads: bool = True
    term: int = 5
    position: Position = field(default_factory=lambda: Position(5, 1042))
    in_sync: bool = True
    lag: Lag = field(default_factory=Lag)
    state_problem: str | None = None
    problem: str = ""
    unready: Unready | None = None
    primary_http: str | None = None
    lease_ms: int | None = 4000
    http: str = "http://a:7001"
    boot: str = ""
    #: A position that a failover lost, and what `start` raises.
    lost: str | None = None
    refuses_to_start: Exception | None = None
    #: What happened to it, in order.
    life: list[str] = field(default_factory=list)
    #: What it was asked to wait for, and for how long.
    waited: list[tuple[str, float]] = field(default_factory=list)
    #: What happens while it waits.
    meanwhile: Callable[[], object] = lambda: None

    #: What it tells Prometheus.
    found: list[NodeMetrics] = field(default_factory=list)

    def metrics(self) -> list[NodeMetrics]:
        return self.found

    def start(self) -> None:
        if self.refuses_to_start is not None:
            raise self.refuses_to_start
        self.boot = "boot"
        self.life.append("start")

    def stop(self) -> None:
        self.life.append("stop")

    async def __aenter__(self) -> FakeNode:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def wait(self, *, position: str, timeout_s: float) -> None:
        if self.life[-1:] == ["stop"]:
            raise NotRunning(self.name, stopped=True)
        if position == self.lost:
            raise PositionLost(position, term=5, term_end="5-1", next_term=6)
        if timeout_s > 0:
            self.waited.append((position, timeout_s))
            self.meanwhile()
        term, n = map(int, position.split("-"))
        if (term, n) > (self.position.term, self.position.n):
            time.sleep(min(timeout_s, 0.01))
            raise TimeoutError

    def moves_to(self, term: int, n: int) -> None:
        self.term, self.position = term, Position(term, n)


def standby(primary_http: str | None = "http://b:7002", **more: Any) -> FakeNode:
    return FakeNode(role="standby", leads=False, lease_ms=None, primary_http=primary_http, **more)


class AsgiSite:
    """Asked on an event loop of its own, which turns while a request is under way."""

    def __init__(self, node: Any, handler: Handler, **options: Any) -> None:
        self._handler = handler
        self.app = asgi.Replicated(self._application, node=node, start=False, **options)
        self._runner = asyncio.Runner()

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, answer = self._handler(scope["method"], scope["path"], body)
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": answer})

    def ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://site") as client:
                return await client.request(method, url, **more)

        return self._runner.run(asked())

    def close(self) -> None:
        self._runner.close()


class WsgiSite:
    """Asked on the thread of the test."""

    def __init__(self, node: Any, handler: Handler, **options: Any) -> None:
        self._handler = handler
        self.app = wsgi.Replicated(self._application, node=node, start=False, **options)

    def _application(self, environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        status, answer = self._handler(environ["REQUEST_METHOD"], environ["PATH_INFO"], body)
        start_response(f"{status} OK", [("Content-Type", "text/plain")])
        return [answer]

    def ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        with httpx.Client(transport=httpx.WSGITransport(self.app), base_url="http://site") as client:
            return client.request(method, url, **more)

    def close(self) -> None:
        self.app.close()


Site = AsgiSite | WsgiSite

SITES: list[type[Site]] = [AsgiSite, WsgiSite]


class Sites:
    """Makes sites of one kind, and closes them."""

    def __init__(self, kind: type[Site]) -> None:
        self._kind = kind
        self._made: list[Site] = []
        #: What the application was given.
        self.served: list[tuple[str, str, bytes]] = []

    def of(self, node: Any, handler: Handler | None = None, **options: Any) -> Site:
        """`handler`: what the application does; without one it says "here"."""

        def handled(method: str, path: str, body: bytes) -> tuple[int, bytes]:
            self.served.append((method, path, body))
            return (200, b"here") if handler is None else handler(method, path, body)

        self._made.append(self._kind(node, handled, **options))
        return self._made[-1]

    def close(self) -> None:
        for site in self._made:
            site.close()


def sites_of(kind: type[Site]) -> Iterator[Sites]:
    """For a fixture."""
    sites = Sites(kind)
    yield sites
    sites.close()


def raising(error: Exception) -> Handler:
    def handler(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        raise error

    return handler
