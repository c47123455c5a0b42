"""What a server does not let itself be kept waiting by. Real sockets; the limits are shorter than in earnest."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.server import ServerState

from replicator.web import connections, server
from replicator.web.certificate import Certificate
from replicator.web.server import WebServer
from tests.support import plain_http
from tests.support.certificates import Authority
from tests.support.kv import PATIENCE_S, eventually

HALF = b"GET /hello HTTP/1.1\r\nHost: x\r\nX-"

POST = b"POST /body HTTP/1.1\r\nHost: x\r\n"


class Site:
    """Some routes, and what became of the requests for them."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.bodies: list[int | str] = []
        self.streamed = 0
        self.ended = threading.Event()
        routes = [
            Route("/hello", self.hello),
            Route("/body", self.body, methods=["POST"]),
            Route("/deaf", self.deaf, methods=["POST"]),
            Route("/waits", self.waits),
            Route("/long", self.long),
        ]
        self.app = Starlette(routes=routes)

    async def hello(self, request: Request) -> Response:
        return PlainTextResponse("hello")

    async def body(self, request: Request) -> Response:
        try:
            self.bodies.append(len(await request.body()))
        except ClientDisconnect:
            self.bodies.append("gone")
        return PlainTextResponse("had it")

    async def deaf(self, request: Request) -> Response:
        """It answers without reading."""
        return PlainTextResponse("no", 401)

    async def waits(self, request: Request) -> Response:
        self.begun.set()
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        return PlainTextResponse("waited")

    async def long(self, request: Request) -> Response:
        async def pieces() -> Any:
            try:
                while True:
                    self.streamed += 1
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                self.ended.set()

        return StreamingResponse(pieces())


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    monkeypatch.setattr(connections, "BODY_S", 0.3)
    monkeypatch.setattr(connections, "ANSWER_S", 0.3)
    monkeypatch.setattr(server, "TICKS_PER_S", 1)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 1)


@contextmanager
def served(site: Site, monkeypatch: pytest.MonkeyPatch, most: int = 100, **more: Any) -> Iterator[WebServer]:
    monkeypatch.setattr(server, "connections_max", lambda: most)
    with WebServer(site.app, **more) as web:
        yield web


def connected(web: WebServer, sends: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", web.port), timeout=PATIENCE_S)
    made.sendall(sends)
    return made


def rest_of(connection: socket.socket) -> bytes:
    """All that still comes, up to the end of the connection."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    connection.close()
    return received


def hello(web: WebServer, **more: Any) -> str:
    """What somebody is told who asks, and asks again if this machine was too slow for the limits of a test."""

    def asked() -> str:
        try:
            return plain_http.get(f"{web.url}/hello", timeout=PATIENCE_S, **more).text
        except httpx.HTTPError:
            return ""

    return str(eventually(asked))


def held_by(web: WebServer) -> int:
    assert web._server is not None
    return len(web._server.connections)


def under_way(web: WebServer) -> int:
    """Requests of which the head is there, and the answer is not."""
    assert web._server is not None
    return sum(not connections._is_idle(held) for held in list(web._server.connections._held.values()))


def is_over(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


# --- how many ---


def test_some_descriptors_are_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def most(limit: int) -> int:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
        return connections.connections_max()

    monkeypatch.setattr(connections, "_descriptors", lambda: 20)
    assert most(1024) == 1024 - connections.DESCRIPTORS_KEPT - 20
    assert most(256) == 128 - 20
    assert most(16) == 1
    assert most(1_000_000) == most(resource.RLIM_INFINITY) == connections.CONNECTIONS_MAX


def test_whoever_only_holds_connections_loses_them_to_who_asks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(site, monkeypatch, most=10) as web:
        halves = [connected(web, HALF) for _ in range(40)]
        assert hello(web) == "hello"
        assert held_by(web) <= 10
        assert [hello(web) for _ in range(3)] == ["hello"] * 3
        eventually(lambda: sum(map(is_over, halves)) >= 30)
        for half in halves:
            half.close()


def test_a_request_that_is_under_way_makes_room_for_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(site, monkeypatch, most=1) as web:
        asked = connected(web, b"GET /waits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert site.begun.wait(PATIENCE_S)
        with pytest.raises(httpx.HTTPError):
            plain_http.get(f"{web.url}/hello")
        site.go_on.set()
        assert rest_of(asked).endswith(b"waited")
        assert hello(web) == "hello"


def test_one_that_has_asked_before_stays_longer_than_one_that_never_has(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(site, monkeypatch, most=3) as web:
        kept = connected(web, b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while not received.endswith(b"hello"):
            received += kept.recv(65536)
        halves = [connected(web, HALF) for _ in range(6)]
        eventually(lambda: sum(map(is_over, halves)) >= 4)
        kept.setblocking(True)
        kept.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert rest_of(kept).endswith(b"hello")
        for half in halves:
            half.close()


# --- for how long ---


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("sends", "told"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"G", b"HTTP/1.1 408 ", id="a letter"),
        pytest.param(HALF, b"HTTP/1.1 408 ", id="half a head"),
        pytest.param(POST + b"Content-Length: 9\r\n\r\n1", b"HTTP/1.1 408 ", id="half a body"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n", b"HTTP/1.1 408 ",
            id="half a chunk",
        ),
        pytest.param(
            b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1", b"HTTP/1.1 401 ", id="what nobody reads"
        ),
        pytest.param(
            b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\nGET /hel", b"HTTP/1.1 200 ", id="half a head after a whole one"
        ),
    ],
)  # fmt: skip
def test_what_does_not_come_is_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, sends: bytes, told: bytes
) -> None:
    def is_told() -> bool:
        received = rest_of(connected(web, sends))
        return received.startswith(told) and bool(received) == bool(told)

    with served(site, monkeypatch) as web:
        eventually(is_told)  # a server that stood still meanwhile may have found what did come too late
        assert hello(web) == "hello"


@pytest.mark.usefixtures("short")
def test_one_that_trickles_is_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte a moment keeps no head and no body alive."""
    heads = (
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX-: ",
        POST + b"Content-Length: 9999\r\n\r\n",
    )
    with served(site, monkeypatch) as web:
        for head in heads:
            connection = connected(web, head)
            ended = threading.Event()

            def trickle(connection: socket.socket = connection, ended: threading.Event = ended) -> None:
                while not ended.wait(0.02):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

            thread = threading.Thread(target=trickle, daemon=True)
            thread.start()
            assert rest_of(connection).startswith(b"HTTP/1.1 408 ")
            ended.set()
            thread.join()
    assert site.bodies == ["gone"]


@pytest.mark.usefixtures("short")
def test_a_body_that_comes_fast_enough_may_take_its_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_BYTES_PER_S", 100)
    monkeypatch.setattr(connections, "BODY_S", PATIENCE_S)
    monkeypatch.setattr(connections, "HEAD_S", PATIENCE_S)
    with served(site, monkeypatch) as web:
        connection = connected(web, POST + b"Content-Length: 90000\r\nConnection: close\r\n\r\n")
        eventually(lambda: under_way(web) == 1)
        monkeypatch.setattr(connections, "HEAD_S", 0.5)
        for _ in range(9):  # longer than a head may take
            time.sleep(0.1)
            connection.sendall(b"x" * 10_000)
        assert rest_of(connection).endswith(b"had it")
    assert site.bodies == [90_000]


@pytest.mark.usefixtures("short")
def test_who_waits_for_the_application_is_not_at_fault(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", PATIENCE_S)
    with served(site, monkeypatch) as web:
        connection = connected(web, b"GET /waits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert site.begun.wait(PATIENCE_S)
        monkeypatch.setattr(connections, "HEAD_S", 0.5)
        half = connected(web, HALF)
        rest_of(half)  # so that limit has passed
        site.go_on.set()
        assert rest_of(connection).endswith(b"waited")


def test_a_new_one_is_let_in_at_the_same_cost_however_many_only_hold_theirs() -> None:
    looks = 0

    class Half:
        cycle = None

        def __init__(self, end: socket.socket) -> None:
            self.socket = end
            self.transport = self

        @property
        def is_idle(self) -> bool:
            nonlocal looks
            looks += 1
            return True

        def abort(self) -> None:
            self.socket.close()

    held = connections.Connections(300)
    ends = [socket.socket() for _ in range(400)]
    for end in ends:
        assert held.admit(end)
        held.made(Half(end))  # type: ignore[arg-type]
    # those that came first made room for the last 100, and no others were looked at
    assert [end.fileno() < 0 for end in ends] == [True] * 100 + [False] * 300
    assert looks == 100
    for end in ends:
        end.close()


def test_many_that_are_over_at_once_keep_nobody_else_waiting() -> None:
    """What ends a connection does so between turns of others."""
    turns = 0

    class Over:
        def __init__(self) -> None:
            self.looked_at_in: int | None = None

        def look(self, now: float) -> None:
            self.looked_at_in = turns

    async def main() -> list[int | None]:
        nonlocal turns
        held = connections.Connections(2000)
        ends = [socket.socket() for _ in range(320)]
        all_over = [Over() for _ in ends]
        for end, over in zip(ends, all_over, strict=True):
            assert held.admit(end)
            over.socket = end  # type: ignore[attr-defined]
            held.made(over)  # type: ignore[arg-type]
        looking = asyncio.create_task(held.look())
        while not looking.done():
            turns += 1
            await asyncio.sleep(0)
        for end in ends:
            end.close()
        return [over.looked_at_in for over in all_over]

    in_turn = asyncio.run(main())
    assert None not in in_turn, "all of them"
    assert max(map(in_turn.count, in_turn)) <= connections.LOOKED_AT_A_TIME


@pytest.mark.usefixtures("short")
def test_an_answer_that_nobody_takes_is_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", PATIENCE_S)
    with served(site, monkeypatch) as web:
        connection = connected(web, b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.ended.wait(PATIENCE_S)
        connection.close()


@pytest.mark.usefixtures("short")
def test_a_handshake_that_is_not_ended_is(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.certificate("a", tmp_path / "cert.pem", tmp_path / "key.pem")
    certificate = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    trusted = ssl.create_default_context(cafile=str(authority.path))
    with served(site, monkeypatch, most=10, certificate=certificate) as web:
        halves = [connected(web, b"\x16\x03\x01" if number % 2 else b"") for number in range(30)]
        assert hello(web, verify=trusted) == "hello"
        for half in halves:
            rest_of(half)


# --- what they hold ---


def test_a_node_has_its_descriptors_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(site, monkeypatch) as web:
        halves = [connected(web, HALF) for _ in range(5)]
        eventually(lambda: held_by(web) == 5)
        for half in halves:
            half.close()
        eventually(lambda: held_by(web) == 0)


class OfUvloop(asyncio.Transport):
    """A transport without attributes of its own."""

    __slots__ = ()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return True

    def close(self) -> None: ...


def test_a_connection_of_another_loop_than_that_of_asyncio_ends_in_order() -> None:
    async def main() -> None:
        config = uvicorn.Config(Site().app, lifespan="off", http="h11", log_config=None)
        config.load()
        held = connections.Connections(1)
        protocol = connections.LimitedProtocol(held, config=config, server_state=ServerState(), app_state={})
        protocol.connection_made(OfUvloop())
        protocol.connection_lost(None)

    asyncio.run(main())


def test_what_has_ended_leaves_nothing_for_a_collector(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it looks at a thousand connections that end together in one go, and nobody is answered meanwhile."""
    made: list[weakref.ref[Any]] = []
    connection_made = connections.LimitedProtocol.connection_made

    def noted(protocol: connections.LimitedProtocol, transport: Any) -> None:
        made.extend((weakref.ref(protocol), weakref.ref(transport)))
        connection_made(protocol, transport)

    monkeypatch.setattr(connections.LimitedProtocol, "connection_made", noted)
    with served(site, monkeypatch) as web:
        gc.disable()
        try:
            held = [connected(web, HALF), connected(web), connected(web, POST + b"Content-Length: 9\r\n\r\n1")]
            eventually(lambda: held_by(web) == 3)
            for each in held:
                each.close()
            eventually(lambda: len(made) == 6 and not any(one() for one in made))
        finally:
            gc.enable()
