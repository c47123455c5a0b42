"""What comes bit by bit: streams in both directions, WebSockets, and what breaks off."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from replicator.service.proxy import websocket
from replicator.service.proxy.websocket import WebSocketProxy
from replicator.web import connections
from tests.support.kv import PATIENCE_S, eventually

from .conftest import FakeNode, Program, Site

PIECE = b"p" * 50_000


@pytest.fixture
def program(site: Site) -> Iterator[Program]:
    site.target.close()
    program = Program(site.target_port)
    with program.server:
        yield program
        program.goes_on.set()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=6 * PATIENCE_S, trust_env=False) as client:
        yield client


def opened(url: str, path: str = "/socket", **more: Any) -> ClientConnection:
    return connect(url.replace("http", "ws") + path, proxy=None, open_timeout=6 * PATIENCE_S, **more)


def test_bodies_pass_bit_by_bit_in_both_directions(site: Site, program: Program, client: httpx.Client) -> None:
    url = site.proxy()
    standby = FakeNode()
    standby.follows(url)
    for each in (url, site.proxy(standby)):
        program.goes_on.clear()
        # an answer, of which the client has the beginning before there is an end, also after a write
        for method in ("GET", "POST"):
            with client.stream(method, each + "/stream") as answer:
                bits = answer.iter_raw()
                assert next(bits) == b"data: 1\n\n"
                program.goes_on.set()
                assert b"".join(bits) == b"data: 2\n\n"
            program.goes_on.clear()
        # a body that is larger than what is held, of a length that nobody knows
        assert client.post(each + "/sent", content=(PIECE for _ in range(6))).text == "300000"
        program.pieces.clear()


def test_a_connection_is_kept_for_reads_and_every_write_has_its_own(
    site: Site, program: Program, client: httpx.Client
) -> None:
    url = site.proxy()
    ports = [[client.request(method, url + "/port").text for _ in range(3)] for method in ("GET", "POST")]
    assert [len(set(each)) for each in ports] == [1, 3]


def test_what_breaks_off_ends_on_both_sides(site: Site, program: Program, client: httpx.Client) -> None:
    url = site.proxy()
    # the client leaves
    with client.stream("GET", url + "/stream") as answer:
        next(answer.iter_raw())
    eventually(lambda: program.ended)
    # in the middle of what it sends
    where = httpx.URL(url)
    with socket.create_connection((where.host, where.port or 0)) as connection:
        connection.sendall(b"POST /sent HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n" + 2 * PIECE)
        eventually(lambda: sum(program.pieces) == 2 * len(PIECE))
    eventually(lambda: program.cut_off)
    # the program does
    with client.stream("GET", url + "/stream?breaks") as answer:
        bits = answer.iter_raw()
        assert next(bits) == b"data: 1\n\n"
        program.goes_on.set()
        with pytest.raises(httpx.RemoteProtocolError):
            next(bits)


def test_a_program_does_not_get_all_of_a_body_that_outlasts_the_lease(site: Site, program: Program) -> None:
    where = httpx.URL(site.proxy())
    with socket.create_connection((where.host, where.port or 0), timeout=6 * PATIENCE_S) as connection:
        connection.sendall(b"POST /sent HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n" + 2 * PIECE)
        eventually(lambda: sum(program.pieces) == 2 * len(PIECE))
        site.node.program_term, site.node.leads = 0, False
        connection.sendall(6 * PIECE)
        assert connection.recv(65536).startswith(b"HTTP/1.1 502")
    eventually(lambda: program.cut_off)
    assert sum(program.pieces) < 400_000


def test_a_websocket_passes_until_either_side_ends_it(site: Site, program: Program) -> None:
    url = site.proxy(app=WebSocketProxy)
    standby = FakeNode()
    standby.follows(url)
    for each in (url, site.proxy(standby, app=WebSocketProxy)):
        more = {"subprotocols": ["other", "notes"], "additional_headers": {"Cookie": "s=1", "X-Real-IP": "9"}}
        with opened(each, "/socket?a=%20", origin="http://page", **more) as there:  # type: ignore[arg-type]
            assert there.subprotocol == "notes"
            for message in ("text", b"bytes", "x" * 200_000):
                there.send(message)
                assert there.recv() == message
            there.send("end")
            with pytest.raises(ConnectionClosed) as closed:
                there.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
        told = program.opened[-1]
        headers = told["headers"]
        assert (told["query"], headers["cookie"], headers["origin"]) == ("a=%20", "s=1", "http://page")
        assert headers["host"] == each.removeprefix("http://")
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert "x-real-ip" not in headers
        # and the client
        with opened(each) as there:
            there.close(4002)
        eventually(lambda: 4002 in program.ended)
        program.ended.clear()
        # or the program lets nobody in
        with pytest.raises(InvalidStatus) as denied, opened(each, "/denied"):
            pass
        response = denied.value.response
        assert (response.status_code, response.headers["x-why"], response.body) == (401, "no session", b"nobody")


def test_no_message_reaches_a_program_that_may_not_lead_and_the_client_hears_it(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "LOOK_EVERY_S", 600.0)
    with opened(site.proxy(app=WebSocketProxy)) as there:
        there.send("early")
        assert there.recv() == "early"
        site.node.program_term = 0
        there.send("late")
        with pytest.raises(ConnectionClosed) as closed:
            there.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


def test_a_client_hears_that_its_program_is_gone_when_it_sends_something() -> None:
    sent: list[dict[str, Any]] = []

    class Gone:
        subprotocol = None

        async def send(self, message: object) -> None:
            raise ConnectionClosedError(None, None)

        async def recv(self) -> str:
            await asyncio.Event().wait()
            return ""

        async def close(self, code: int, reason: str) -> None:
            sent.append({"closed": code})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.receive", "text": "x"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(websocket._Tunnel(Gone(), receive, send, lambda: True).run())  # type: ignore[arg-type]
    assert [each.get("code") for each in sent] == [None, 1012, None]
    assert sent[-1] == {"closed": 1012}


def test_a_websocket_may_say_nothing_for_as_long_as_it_likes(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = connections.Connections.look

    async def looked(self: connections.Connections) -> None:
        looks.append(len(self))
        await look(self)

    monkeypatch.setattr(connections, "HEAD_S", 0.0)
    monkeypatch.setattr(connections.Connections, "look", looked)
    with opened(site.proxy(app=WebSocketProxy)) as there:
        looks.clear()
        eventually(lambda: len(looks) > 4)  # of the proxy's server, and of the program's
        there.send("still")
        assert there.recv() == "still"


def test_a_websocket_ends_with_the_term_and_waits_for_the_next_one(site: Site, program: Program) -> None:
    url = site.proxy(app=WebSocketProxy, reads="local")
    with opened(url) as there:
        site.node.program_term, site.node.leads = 0, False
        with pytest.raises(ConnectionClosed) as closed:
            there.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    # when nobody leads, and it is not waited for
    hasty = site.proxy(app=WebSocketProxy, wait_s=0)
    with pytest.raises(InvalidStatus) as refused, opened(hasty):
        pass
    response = refused.value.response
    assert (response.status_code, json.loads(bytes(response.body or b""))["error"]) == (503, "not_primary")
    # when it is
    timer = threading.Timer(0.1, lambda: setattr(site.node, "program_term", 6))
    timer.start()
    with opened(url) as there:
        there.send("again")
        assert there.recv() == "again"
    timer.join()
