"""A proxy over a real connection, beside a node that is what a test says, and a program that does what a test says."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from replicator.sandbox.free_ports import free_port
from replicator.service.proxy.http import HttpProxy
from replicator.service.proxy.options import ProxyOptions
from replicator.service.proxy.passing import Passing
from replicator.service.proxy.place import Place
from replicator.service.requests_under_way import RequestsUnderWay
from replicator.service.sidecar import Publication
from replicator.web.certificate import Certificate
from replicator.web.server import WebServer
from tests.support.kv import PATIENCE_S


class FakeNode:
    """A node and what is beside it."""

    name = "a"

    def __init__(self) -> None:
        self.role, self.leads, self.term, self.program_term = "primary", True, 5, 5
        self.state_problem: str | None = None
        self.primary_proxy: str | None = None
        self.proven: set[str] = set()
        self.heard: list[str] = []
        self.requests = RequestsUnderWay()
        self.publish: Callable[[], Publication] = lambda: Publication("5-7", "")
        self.waited: Callable[[str, float], None] = lambda position, timeout_s: None

    def follows(self, primary: str, *, is_proven: bool = True) -> None:
        self.role, self.leads, self.program_term = "standby", False, 0
        self.primary_proxy = primary
        self.proven = {primary} if is_proven else set()

    def has_proven_proxy(self, url: str) -> bool:
        return url in self.proven

    def hear(self, nonce: str) -> None:
        self.heard.append(nonce)

    def wait(self, *, position: str, timeout_s: float) -> None:
        self.waited(position, timeout_s)

    def publish_now(self) -> Publication:
        return self.publish()


LARGE = b"x" * 300_000

#: Gets a request, as it came, and gives an answer, as it goes; None: it breaks the connection.
Doing = Callable[[bytes], bytes | None]


def ok(body: bytes = b"ok", status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def _more(connection: socket.socket) -> bytes:
    """Whoever breaks off is not read from for ever: that would take a processor from all tests that follow."""
    if data := connection.recv(65536):
        return data
    raise EOFError


class Target:
    """A program that takes one request per connection."""

    def __init__(self, port: int, does: Doing) -> None:
        self.port = port
        self.asked: list[bytes] = []
        self.does = does
        self._door = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._door.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(EOFError):
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += _more(connection)
            head, _, body = asked.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            while len(body) < int(fields.get(b"content-length", 0)):
                body += _more(connection)
            self.asked.append(head + b"\r\n\r\n" + body)
            if answer := self.does(self.asked[-1]):
                connection.sendall(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))

    def close(self) -> None:
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()


class Site:
    """A proxy, its node, and a program."""

    def __init__(self) -> None:
        self.node = FakeNode()
        self.target_port = free_port()
        self._servers: list[WebServer] = []
        self.start()

    def start(self, does: Doing = lambda asked: ok()) -> None:
        self.target = Target(self.target_port, does)

    def proxy(
        self, node: FakeNode | None = None, app: Any = HttpProxy, certificate: Certificate | None = None, **options: Any
    ) -> str:
        """Its URL. `measures`: what the newest one counts."""
        given = {"wait_s": PATIENCE_S, **options}
        told = ProxyOptions(listen="127.0.0.1:0", target=f"127.0.0.1:{self.target_port}", **given)
        node = node or self.node
        place = Place(node, node)
        self.place = place
        passing = Passing(place, wait_s=told.wait_s, reads=told.reads)
        self.measures = passing.measures
        server = WebServer(app(place, passing, told), certificate=certificate, for_proxy=True)
        server.start()
        self._servers.append(server)
        return server.url

    def close(self) -> None:
        for server in self._servers:
            server.stop()
        self.target.close()


class Program:
    """One that answers bit by bit, when it is told to."""

    def __init__(self, port: int) -> None:
        self.goes_on = threading.Event()
        self.pieces: list[int] = []
        self.opened: list[dict[str, Any]] = []
        self.ended: list[int] = []
        self.cut_off = False
        routes = [
            Route("/stream", self._stream, methods=["GET", "POST"]),
            Route("/port", self._port, methods=["GET", "POST"]),
            Route("/sent", self._sent, methods=["POST"]),
            WebSocketRoute("/socket", self._socket),
            WebSocketRoute("/denied", self._denied),
        ]
        self.server = WebServer(Starlette(routes=routes), port=port, for_proxy=True)

    async def _stream(self, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            try:
                yield b"data: 1\n\n"
                while not self.goes_on.is_set():
                    await asyncio.sleep(0.01)
                if request.url.query == "breaks":
                    raise ZeroDivisionError
                yield b"data: 2\n\n"
            finally:
                self.ended.append(1)

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _port(self, request: Request) -> Response:
        assert request.client is not None
        return Response(str(request.client.port))

    async def _sent(self, request: Request) -> Response:
        try:
            async for piece in request.stream():
                self.pieces.append(len(piece))
        except ClientDisconnect:
            self.cut_off = True
        return Response(str(sum(self.pieces)))

    async def _socket(self, socket: WebSocket) -> None:
        self.opened.append({"headers": dict(socket.headers), "query": socket.url.query})
        await socket.accept("notes" if "notes" in socket.scope["subprotocols"] else None)
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code", 0))
                if message.get("text") == "end":
                    await socket.close(4001, "enough")
                    return
                await (
                    socket.send_bytes(message["bytes"]) if message.get("bytes") else socket.send_text(message["text"])
                )
        except WebSocketDisconnect as gone:
            self.ended.append(gone.code)

    async def _denied(self, socket: WebSocket) -> None:
        await socket.send_denial_response(Response("nobody", 401, {"X-Why": "no session"}))


def ask(url: str, method: str = "GET", path: str = "/", **more: Any) -> httpx.Response:
    with httpx.Client(timeout=6 * PATIENCE_S, trust_env=False) as client:
        return client.request(method, url + path, **more)


def lines(asked: bytes) -> list[bytes]:
    return asked.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()
