"""Passes one request to one server, once, with httpx; an error says whether anything of it may have got there.

Connections are kept for what is safe. Anything else gets one of its own: a server may close a kept one at any moment,
and then nobody knows whether it had read what was sent meanwhile.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import httpx

from ...web.forward import CONNECT_TIMEOUT_S, Header
from .answer import Answer

__all__ = ["CONNECTIONS_MAX", "Broken", "NotSent", "Outgoing", "Upstream"]

CONNECTIONS_MAX = 512

#: For how long one that nobody uses is kept. Servers keep theirs for 5 s and more.
KEPT_S = 4.0


class NotSent(Exception):
    """No byte of the request has left. `is_full`: because too many are on their way."""

    is_full = False


class Broken(Exception):
    """It was sent, at least in part, and there is no answer."""

    timed_out = False


class Outgoing(NamedTuple):
    """`target`: the path and query, byte for byte as they came."""

    method: str
    target: bytes
    headers: list[Header]
    content: bytes | AsyncIterator[bytes] | None


class Upstream:
    """For one event loop, which is the one that it is first used on. `timeout_s`: until an answer begins, counted from
    what was last sent of the request."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._kept = self._transport(kept=64)
        self._fresh = self._transport(kept=0)

    @staticmethod
    def _transport(*, kept: int) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=kept, keepalive_expiry=KEPT_S)
        # Of the environment nothing: a proxy for the way out is none for the way to a node.
        # Which certificates are believed the machine says, as everywhere else here: httpx has a list of its own.
        trusted = ssl.create_default_context()
        return httpx.AsyncHTTPTransport(limits=limits, trust_env=False, verify=trusted)

    async def ask(self, base: str, outgoing: Outgoing, *, is_safe: bool, check: Callable[[], None]) -> Answer:
        """The head of the answer is there. Raises `NotSent`, `Broken`, and what the body raises, and `check`: that is
        called once there is a connection, and what it raises is instead of the first byte."""
        transport = self._kept if is_safe else self._fresh
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                response = await transport.handle_async_request(self._request(base, outgoing, limit, check))
        except TimeoutError as error:
            broken = Broken(f"did not answer within {self._timeout_s:g} s")
            broken.timed_out = True
            raise broken from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise NotSent(str(error) or type(error).__name__) from error
        except httpx.PoolTimeout as error:
            full = NotSent("too many requests are on their way there")
            full.is_full = True
            raise full from error
        except httpx.HTTPError as error:
            raise Broken(f"broke the connection ({str(error) or type(error).__name__})") from error
        return Answer(response)

    def _request(
        self, base: str, outgoing: Outgoing, limit: asyncio.Timeout, check: Callable[[], None]
    ) -> httpx.Request:
        content = outgoing.content
        if content is not None and not isinstance(content, bytes):
            content = self._timed(content, limit)
        # Within a stream there is no limit: the client, or the server, ends it.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S).as_dict()
        # What is asked for goes on as it came: httpx would write the path anew.
        more = {"timeout": timeout, "target": outgoing.target, "trace": _before_sending(check)}
        return httpx.Request(outgoing.method, base, headers=outgoing.headers, content=content, extensions=more)

    async def _timed(self, pieces: AsyncIterator[bytes], limit: asyncio.Timeout) -> AsyncIterator[bytes]:
        async for piece in pieces:
            yield piece
            limit.reschedule(asyncio.get_running_loop().time() + self._timeout_s)


def _before_sending(check: Callable[[], None]) -> Callable[[str, Any], Awaitable[None]]:
    """To take a connection may take seconds, and waiting for a free one, too."""

    async def trace(event: str, info: Any) -> None:
        if event.endswith(".send_request_headers.started"):
            check()

    return trace
