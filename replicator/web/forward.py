"""A request that is sent on to the primary, and its answer sent back: what a reverse proxy does, with httpx.

Bodies are streamed in both directions and held nowhere. Headers that are about one connection (RFC 9110, 7.6.1) stay
behind; `Host` stays what it was, because applications check it and make URLs of it. `Replicator-Forwarded` names the
node that sent it on: whoever gets such a request does not send it on once more.

Where the primary is, Redis says, and whoever writes there can name another place. So a token (`Authorization`) is sent
to those nodes alone that the application named (`forward_to`); once it named some, nothing is sent to others.

An error says what became of the request. Nothing was sent: 503, and the client may repeat it. It was sent, and there is
no answer: 504, or 502 if the connection broke, both `outcome_unknown`.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..errors import ConfigError
from .error_codes import BUSY, PRIMARY_UNNAMED, PRIMARY_UNREACHABLE
from .failures import Refusal
from .guard.token_bearer import Nodes
from .head import FORWARDED
from .options import Options
from .served_node import ServedNode

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncForwarder", "Forwarder", "Onward", "onward", "returned"]

Header = tuple[bytes, bytes]

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade expect".split()
)

#: Of an answer: the server that passes it on has its own.
OF_THE_SERVER = frozenset((b"date", b"server"))

#: These are about the message, and no `Connection` takes them away: its body would be lost, or its end.
OF_THE_MESSAGE = frozenset((b"content-length", b"host", b"transfer-encoding"))

#: A node on the same network takes a connection in milliseconds, or is not there.
CONNECT_TIMEOUT_S = 5.0

CONNECTIONS_MAX = 256

CHUNK_BYTES = 64 * 1024


class ClientGone(Exception):
    """The client left in the middle of its body."""


class Onward(NamedTuple):
    """What goes on: the headers, and whether they say that there is a body. HTTP/2 has bodies of which none says so."""

    headers: list[Header]
    has_body: bool


def onward(headers: Iterable[Header], *, by: str, client: str | None, scheme: str) -> Onward:
    """The headers for the primary. `by`: this node. `client`, `scheme`: of the connection that it came by."""
    given = list(headers)
    names = {name for name, _ in given}
    is_chunked = b"transfer-encoding" in names
    left_out = HOP_BY_HOP | _named_by_connection(given) | {b"x-forwarded-for", b"cookie", FORWARDED.encode()}
    if is_chunked:
        left_out |= {b"content-length"}
    kept = [(name, value) for name, value in given if name not in left_out]
    # HTTP/2 may have several, HTTP/1.1 may not (RFC 9113, 8.2.3).
    if cookies := [value for name, value in given if name == b"cookie"]:
        kept.append((b"cookie", b"; ".join(cookies)))
    chain = [value.strip() for name, value in given if name == b"x-forwarded-for"] + (
        [client.encode()] if client else []
    )
    if chain:
        kept.append((b"x-forwarded-for", b", ".join(chain)))
    if not any(name == b"x-forwarded-proto" for name, _ in kept):
        kept.append((b"x-forwarded-proto", scheme.encode()))
    kept.append((FORWARDED.encode(), by.encode()))
    has_body = is_chunked or any(name == b"content-length" and value.strip() != b"0" for name, value in kept)
    return Onward(kept, has_body)


def returned(headers: Iterable[Header]) -> list[Header]:
    """The headers of the primary's answer, for the client."""
    given = [(name.lower(), value) for name, value in headers]
    left_out = HOP_BY_HOP | _named_by_connection(given) | OF_THE_SERVER
    if any(name == b"transfer-encoding" for name, _ in given):  # its length was none (RFC 9112, 6.3)
        left_out |= {b"content-length"}
    return [(name, value) for name, value in given if name not in left_out]


def _named_by_connection(headers: Iterable[Header]) -> frozenset[bytes]:
    values = b",".join(value for name, value in headers if name == b"connection")
    return frozenset(name.strip().lower() for name in values.split(b",") if name.strip()) - {b"close"} - OF_THE_MESSAGE


def _checked_httpx() -> Any:
    try:
        import httpx
    except ImportError:
        problem = '"forward" needs httpx: pip install "replicator[web-forward]", or use "redirect"'
        raise ConfigError(setting="writes", problem=problem) from None
    return httpx


class _Settings:
    """How transports of httpx are made, and what their errors mean. Raises `ConfigError` if there is no httpx.

    Transports, and no clients: those would log a line at INFO for each request, keep cookies, and follow redirects.
    """

    def __init__(self, node: ServedNode[Any], options: Options) -> None:
        self._httpx = _checked_httpx()
        self._node = node
        self._timeout_s = options.forward_timeout_s
        self._named = None if options.forward_to is None else Nodes(options.forward_to)

    def _keywords(self) -> dict[str, Any]:
        limits = self._httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=32)
        # Of the environment nothing: a proxy for the way out is none for the way to a node.
        # Which certificates are believed the machine says, as everywhere else here: httpx has a list of its own.
        return {"limits": limits, "trust_env": False, "verify": ssl.create_default_context()}

    def _request(self, method: str, url: str, headers: list[Header], body: Any) -> httpx.Request:
        connect_s = min(CONNECT_TIMEOUT_S, self._timeout_s)
        timeout = self._httpx.Timeout(self._timeout_s, connect=connect_s, pool=connect_s)
        extensions = {"timeout": timeout.as_dict()}
        request: httpx.Request = self._httpx.Request(method, url, headers=headers, content=body, extensions=extensions)
        return request

    def _check(self, url: str, headers: Iterable[Header]) -> None:
        """Raises `Refusal` if the request is not to be shown to the node there."""
        where = url.partition("?")[0]
        if self._named is None and any(name == b"authorization" for name, _ in headers):
            problem = "a request with a token is forwarded only to nodes that the application names"
        elif self._named is not None and not self._named.has(url):
            problem = "nothing is forwarded to it, for the application does not name it"
        else:
            return
        message = f"the primary is at {where}, and {problem} (forward_to=[...]); nothing was sent"
        raise Refusal(503, PRIMARY_UNNAMED, message)

    def _refusal(self, error: Exception, url: str) -> Refusal:
        httpx, where = self._httpx, f"the primary at {url.partition('?')[0]}"
        if isinstance(error, httpx.PoolTimeout):
            return Refusal(503, BUSY, f"too many requests are on their way to {where}: try again in a moment")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol | httpx.InvalidURL):
            message = f"{where} does not answer ({error}); nothing was sent: try again in a moment"
            return Refusal(503, PRIMARY_UNREACHABLE, message)
        timed_out = isinstance(error, httpx.TimeoutException)
        what = f"did not answer within {self._timeout_s:g} s" if timed_out else f"broke the connection ({error})"
        message = f"{where} {what}: the write may or may not have been carried out; read before you repeat it"
        return Refusal(504 if timed_out else 502, "outcome_unknown", message)


class AsyncForwarder(_Settings):
    """For ASGI. A transport belongs to the event loop that made it: another loop gets another one."""

    _transport: httpx.AsyncHTTPTransport | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    async def forward(
        self,
        url: str,
        scope: MutableMapping[str, Any],
        receive: Receive,
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Send it on, and the answer back. Raises `Refusal`, before the answer has begun."""
        self._check(url, scope["headers"])
        transport, httpx = self._of_this_loop(), self._httpx
        host = scope["client"][0] if scope.get("client") else None
        headers, has_body = onward(
            scope["headers"], by=self._node.name, client=host, scheme=scope.get("scheme", "http")
        )
        try:
            body = _body_of(receive) if has_body else await _unannounced(receive)
            answer = await transport.handle_async_request(self._request(scope["method"], url, headers, body))
        except ClientGone:
            return
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._refusal(error, url) from error
        try:
            start = {"type": "http.response.start", "status": answer.status_code}
            await send({**start, "headers": returned(answer.headers.raw)})
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()

    def _of_this_loop(self) -> httpx.AsyncHTTPTransport:
        loop = asyncio.get_running_loop()
        if self._transport is None or self._loop is not loop:
            self._transport, self._loop = self._httpx.AsyncHTTPTransport(**self._keywords()), loop
        transport = self._transport
        assert transport is not None
        return transport

    async def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None and self._loop is asyncio.get_running_loop():
            await transport.aclose()


async def _unannounced(receive: Receive) -> AsyncIterator[bytes] | bytes | None:
    """The body of a request of which no header says that it has one: what comes first tells."""
    first = await _part_of(receive)
    return _body_of(receive, first) if first.get("more_body") else first.get("body") or None


async def _body_of(receive: Receive, first: MutableMapping[str, Any] | None = None) -> AsyncIterator[bytes]:
    """The parts of a body, of which the first may have been received already."""
    message = first or await _part_of(receive)
    while True:
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return
        message = await _part_of(receive)


async def _part_of(receive: Receive) -> MutableMapping[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


class Forwarder(_Settings):
    """For WSGI: one transport for all threads."""

    _transport: httpx.HTTPTransport | None = None
    _making = threading.Lock()

    def forward(
        self, url: str, method: str, sent: Onward, chunks: Iterator[bytes]
    ) -> tuple[int, str, list[Header], Iterator[bytes]]:
        """Send it on; status, reason, headers and body of the answer. Raises `Refusal`."""
        self._check(url, sent.headers)
        transport, httpx = self._made(), self._httpx
        try:
            body = chunks if sent.has_body else _unannounced_chunks(chunks)
            answer = transport.handle_request(self._request(method, url, sent.headers, body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._refusal(error, url) from error
        return answer.status_code, answer.reason_phrase, returned(answer.headers.raw), _Body(answer)

    def _made(self) -> httpx.HTTPTransport:
        with self._making:
            transport = self._transport = self._transport or self._httpx.HTTPTransport(**self._keywords())
        return transport

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()


def _unannounced_chunks(chunks: Iterator[bytes]) -> Iterator[bytes] | None:
    first = next(chunks, None)
    return itertools.chain((first,), chunks) if first else None


class _Body:
    """The body of an answer. A server closes it, also in its middle."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self._chunks = answer.iter_raw()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        self._answer.close()
