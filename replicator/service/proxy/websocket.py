"""WebSockets, over ASGI: to the program of the primary, whatever reads do, because nobody knows what a message writes.

Opening one is a GET, and waits and is repeated like one until the program has accepted it. After that there is nothing
to repeat: it ends with either side (or with the node's leadership, by code 1012, "service restart"), and the client
opens another one. What a program writes because of a message is published as ever, and no message waits for that.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.typing import Origin, Subprotocol

from ...web.error_codes import PRIMARY_UNREACHABLE
from ...web.failures import Refusal, answer_of, failure_of, problem
from ...web.forward import CONNECT_TIMEOUT_S, Header
from ...web.guard.token_bearer import Nodes
from ...web.server import WS_MESSAGE_BYTES_MAX
from .headers import REFUSED, answered, passed_on, trusts
from .options import ProxyOptions
from .passing import Again, Passing
from .place import Place
from .routing import Follow, Local, Remote
from .visit import Receive, Scope, Send, Visit

__all__ = ["WebSocketProxy"]

#: Messages of the program that wait here to be sent.
WAITING_MAX = 4

#: RFC 6455, 7.4.1, and the registry of IANA.
SERVICE_RESTART = 1012
NO_CODE, ABNORMAL, TLS_FAILED = 1005, 1006, 1015
INTERNAL_ERROR = 1011

MOVED = (SERVICE_RESTART, "the program runs on another node")

#: How often it is looked whether the node still leads.
LOOK_EVERY_S = 0.2

#: The client library has its own of these, for the connection that it opens.
OF_THE_HANDSHAKE = frozenset(
    b"host origin sec-websocket-key sec-websocket-version sec-websocket-extensions sec-websocket-protocol".split()
)


class _Connect(connect):
    """Goes to the place that it was told, and to no other one."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WebSocketProxy:
    """An ASGI application for WebSockets."""

    def __init__(self, place: Place, passing: Passing, options: ProxyOptions) -> None:
        self._place = place
        self._passing = passing
        self._options = options
        self._named = Nodes(options.to) if options.to else None
        self._trusted = options.trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            visit = Visit(scope, receive)
            there, holds = await self._opened(scope, visit)
        except InvalidStatus as denied:
            response = denied.response
            given = [(name.lower().encode(), value.encode()) for name, value in response.headers.raw_items()]
            headers, body = answered(given, by_program=True), bytes(response.body or b"")
            await _deny(scope, send, response.status_code, headers, body)
            return
        except (Refusal, WebSocketException, OSError, ValueError) as error:
            await _refuse(scope, send, error)
            return
        with self._passing.measures.websocket():
            async with there:
                await _Tunnel(there, receive, send, holds).run()

    async def _opened(self, scope: Scope, visit: Visit) -> tuple[ClientConnection, Callable[[], bool]]:
        try:
            asked = replace(visit.asked, needs_primary=True)  # whatever reads do
            return await self._passing.until_taken(asked, lambda where: self._attempt(scope, visit, where))
        except InvalidStatus:  # a program answered, and counts
            raise
        except Exception as error:
            self._passing.measures.not_taken(error)
            raise

    async def _attempt(
        self, scope: Scope, visit: Visit, where: Local | Follow | Remote
    ) -> tuple[ClientConnection, Callable[[], bool]]:
        """A connection that is open, and whether it may go on. Raises `Again`, and `InvalidStatus`: it is denied."""
        try:
            return await self._to(where, scope, visit)
        except InvalidStatus:
            self._passing.measures.taken(where)
            raise

    async def _to(
        self, where: Local | Follow | Remote, scope: Scope, visit: Visit
    ) -> tuple[ClientConnection, Callable[[], bool]]:
        assert not isinstance(where, Follow)
        if isinstance(where, Remote):
            self._check_named(visit, where.url)
            return await self._connected(scope, visit, where.url, to_program=False), lambda: True
        term = where.term
        there = await self._connected(scope, visit, self._options.target_url, to_program=True)
        return there, lambda: self._place.beside.program_term == term

    def _check_named(self, visit: Visit, url: str) -> None:
        if (self._named is None and visit.has_token) or (self._named is not None and not self._named.has(url)):
            raise Refusal(503, "primary_unnamed", f"the primary's proxy is at {url}, and --proxy-to does not name it")

    async def _connected(self, scope: Scope, visit: Visit, url: str, *, to_program: bool) -> ClientConnection:
        try:
            return await _Connect(**self._call(scope, visit, url, to_program=to_program))
        except (OSError, TimeoutError) as error:
            raise Again(PRIMARY_UNREACHABLE, f"the server at {url} takes no connection ({error})") from None
        except InvalidStatus as denied:
            if not to_program and (code := denied.response.headers.get(REFUSED)):
                raise Again(code, f"the proxy at {url} passed it to no program") from None
            raise
        except InvalidHandshake as error:  # it broke off: nothing has begun
            raise Again(PRIMARY_UNREACHABLE, f"the server at {url} did not open it ({error})") from None

    def _call(self, scope: Scope, visit: Visit, url: str, *, to_program: bool) -> dict[str, Any]:
        onward = passed_on(
            visit.headers,
            client=visit.client,
            scheme={"ws": "http", "wss": "https"}.get(visit.scheme, visit.scheme),
            is_trusted=trusts(self._trusted, visit.client),
            by=self._place.node.name,
            to_program=to_program,
        )
        there = urlsplit(url)
        is_tls = there.scheme == "https"
        kept = [header for header in onward.headers if header[0] not in OF_THE_HANDSHAKE]
        call: dict[str, Any] = {
            # The Host of the client goes along; the connection goes to the place that is named beside it.
            "uri": f"{'wss' if is_tls else 'ws'}://{_host_of(visit) or there.netloc}{visit.target.decode('latin-1')}",
            "host": there.hostname,
            "port": there.port or (443 if is_tls else 80),
            "origin": _origin_of(visit.headers),
            "subprotocols": [Subprotocol(each) for each in scope.get("subprotocols", ())] or None,
            "additional_headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept],
            "user_agent_header": None,
            "compression": None,
            "proxy": None,
            "open_timeout": CONNECT_TIMEOUT_S + (0.0 if to_program else 2 * self._options.wait_s),
            "max_size": WS_MESSAGE_BYTES_MAX,
            "max_queue": WAITING_MAX,
        }
        if is_tls:
            call |= {"ssl": ssl.create_default_context(), "server_hostname": there.hostname}
        return call


def _host_of(visit: Visit) -> str:
    return next((value.decode("latin-1") for name, value in visit.headers if name == b"host"), "")


def _origin_of(headers: list[Header]) -> Origin | None:
    return next((Origin(value.decode("latin-1")) for name, value in headers if name == b"origin"), None)


class _Tunnel:
    """Two ends of a WebSocket, of which one is the program's. `holds`: whether it may go on."""

    def __init__(self, there: ClientConnection, receive: Receive, send: Send, holds: Callable[[], bool]) -> None:
        self._there = there
        self._receive = receive
        self._send = send
        self._holds = holds
        self._client_left = False

    async def run(self) -> None:
        """Until either side ends it, or it may not go on."""
        await self._send({"type": "websocket.accept", "subprotocol": self._there.subprotocol})
        ways = [asyncio.ensure_future(way()) for way in (self._to_program, self._to_client, self._watched)]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            ended = await asyncio.gather(*ways, return_exceptions=True)
        code, reason = next((end for end in ended if isinstance(end, tuple)), (INTERNAL_ERROR, ""))
        if not self._client_left:
            with suppress(OSError):  # it does at this moment
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        await self._there.close(code, reason)

    async def _to_program(self) -> tuple[int, str]:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._client_left = True
                return _code_of(message.get("code")), message.get("reason") or ""
            if not self._holds():  # nobody knows what it would write
                return MOVED
            text = message.get("text")
            try:
                await self._there.send(text if text is not None else message["bytes"])
            except ConnectionClosed as closed:
                return _end_of(closed)

    async def _to_client(self) -> tuple[int, str]:
        try:
            while True:
                message = await self._there.recv()
                key = "text" if isinstance(message, str) else "bytes"
                await self._send({"type": "websocket.send", key: message})
        except ConnectionClosed as closed:
            return _end_of(closed)

    async def _watched(self) -> tuple[int, str]:
        while self._holds():
            await asyncio.sleep(LOOK_EVERY_S)
        return MOVED


def _end_of(closed: ConnectionClosed) -> tuple[int, str]:
    end = closed.rcvd
    return (_code_of(end.code), end.reason) if end is not None else (SERVICE_RESTART, "")


def _code_of(code: int | None) -> int:
    """One that may be sent: some only say that none came."""
    return 1000 if code in (None, NO_CODE) else SERVICE_RESTART if code in (ABNORMAL, TLS_FAILED) else int(code or 1000)


async def _refuse(scope: Scope, send: Send, error: Exception) -> None:
    failure = failure_of(error if isinstance(error, Refusal) else Refusal(502, "no_answer", str(error)))
    assert failure is not None
    answer = answer_of(failure, problem)
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    if failure.status == 503:
        headers.append((REFUSED.encode(), failure.code.encode()))
    await _deny(scope, send, answer.status, headers, answer.body)


async def _deny(scope: Scope, send: Send, status: int, headers: list[Header], body: bytes) -> None:
    """An answer instead of a WebSocket."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
