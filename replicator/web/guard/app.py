"""The rules (`rules.py`) around an ASGI application: what is refused does not reach it.

The body of what is refused is not read: the server drops it, as far as it comes soon. So nobody without a token has the
node read a gigabyte. No token is in what is answered or logged.

Events go on until somebody ends them, so they are asked about again at each one: they end with the token that opened
them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from ..failures import Failure, answer_of, problem
from .rules import EVENTS, Request, Rules

__all__ = ["Guarded", "challenge"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[Any]]


class Guarded:
    """An ASGI application that is reached only by requests that the rules let through."""

    def __init__(self, app: App, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            target = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
            request = Request.of(scope["method"], scope["path"], target, scope["headers"])
            refused = self._rules.refusal(request)
            if refused is not None:
                await _refuse(refused, scope, send)
                return
            if request.path == EVENTS:
                send = self._as_long_as_it_may(request, send)
        elif scope["type"] != "lifespan":
            return  # there are no others here, and no rules for them
        await self._app(scope, receive, send)

    def _as_long_as_it_may(self, request: Request, send: Send) -> Send:
        """It, until the request would be refused: there the answer ends, and the server tells the application so."""
        is_over = False

        async def sent(message: Message) -> None:
            nonlocal is_over
            if is_over:
                return
            if message.get("more_body") and self._rules.refusal(request) is not None:
                is_over, message = True, {"type": "http.response.body"}
            await send(message)

        return sent


async def _refuse(failure: Failure, scope: Scope, send: Send) -> None:
    answer = answer_of(failure, problem)
    named = [*answer.headers, *challenge(failure), ("Cache-Control", "no-store")]
    headers = [(name.lower().encode(), value.encode()) for name, value in named]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})


def challenge(failure: Failure) -> list[tuple[str, str]]:
    """How to ask for it (RFC 6750, 3)."""
    if failure.code == "no_token":
        return [("WWW-Authenticate", 'Bearer realm="replicator"')]
    if failure.code == "wrong_token":
        return [("WWW-Authenticate", 'Bearer realm="replicator", error="invalid_token"')]
    if failure.code == "right_missing":
        scope = failure.more["needs"]
        return [("WWW-Authenticate", f'Bearer realm="replicator", error="insufficient_scope", scope="{scope}"')]
    return []
