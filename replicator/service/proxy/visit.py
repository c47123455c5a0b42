"""One request on its way through the proxy: what of it is looked at, in the form in which ASGI has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from ...format.ids import RecordId
from ...protocol.heartbeat import is_nonce
from ...web.cookie import Cookie
from ...web.failures import Refusal
from ...web.forward import Header
from ...web.head import FORWARDED, NONCE, POSITION
from .body import Body
from .headers import is_ambiguous
from .routing import Asked, is_safe

__all__ = ["Receive", "Scope", "Send", "Visit"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

COOKIE_NAME = "replicator_position"


class Visit:
    """Raises `Refusal` if it is no request that is passed on."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        #: For a WebSocket there is none: it begins with a GET.
        self.method: str = scope.get("method", "GET")
        self.headers: list[Header] = list(scope["headers"])
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        self.scheme: str = scope.get("scheme", "http")
        self.target = _target(scope)
        if is_ambiguous(self.headers):
            raise Refusal(400, "invalid_header", "it has both a Content-Length and a Transfer-Encoding")
        names = {name for name, _ in self.headers}
        self.asked = Asked(is_safe=is_safe(self.method), is_forwarded=FORWARDED.encode() in names)
        self.has_token = b"authorization" in names
        self._receive = receive
        self.body = Body(receive, exists=bool({b"content-length", b"transfer-encoding"} & names))
        #: Set once the client has been told something else than what the program said.
        self.more: list[Header] = []

    @property
    def nonce(self) -> str | None:
        """By which somebody finds out whose URL this is; None: it is an ordinary request."""
        nonce = self._first(NONCE.encode())
        return nonce if nonce is not None and is_nonce(nonce) else None

    @property
    def cookie(self) -> Cookie:
        return Cookie(name=COOKIE_NAME, secure=self.scheme in ("https", "wss"))

    @property
    def position(self) -> str | None:
        """The one that its reader has to find, by its `Replicator-Wait` or its cookie."""
        wait = self._first(b"replicator-wait")
        if wait is not None and POSITION.fullmatch(wait):
            return wait
        cookies = ";".join(value.decode("latin-1") for name, value in self.headers if name == b"cookie")
        carried: RecordId | None = self.cookie.read(cookies)
        return str(carried) if carried is not None else None

    def _first(self, wanted: bytes) -> str | None:
        return next((value.decode("latin-1") for name, value in self.headers if name == wanted), None)

    async def is_gone(self) -> None:
        """Return once the client has left, or its request is over for another reason."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _target(scope: Scope) -> bytes:
    """The path and the query, byte for byte as they came. Raises `Refusal` for what is no path: `*`, or a URL."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if not raw.startswith(b"/"):
        raise Refusal(400, "invalid_target", "the target of a request must be a path that begins with /")
    query: bytes = scope.get("query_string", b"")
    return raw + b"?" + query if query else raw
