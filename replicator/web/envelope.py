"""What is around every request of an application: the wait for a position, the stamps, answers to what is raised.

`Envelope` is the one place where exceptions become answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import WrongProcess
from .answers import ANSWERS, Answers, Refusal, answer_to, no_route
from .redirect import redirect_to_the_primary
from .requests import POSITION
from .served_node import Facts, ServedNode
from .thread_pools import Pool, Pools

__all__ = ["FACTS", "WAIT_TIMEOUT_S", "Envelope", "application"]

#: Shorter than the patience of common clients and proxies (30 s and up), so that ours is the answer they see.
WAIT_TIMEOUT_S = 10.0

#: Where a handler that read under the lock leaves the facts that belong to what it read.
FACTS = "replicator.facts"


class Envelope:
    """Waits for `Replicator-Wait`, stamps what goes out, and turns what is raised into an answer."""

    def __init__(
        self, app: ASGIApp, *, node: ServedNode[Any], wait_timeout_s: float, waits: Pool, answers: Answers
    ) -> None:
        self._app = app
        self._node = node
        self._wait_timeout_s = wait_timeout_s
        self._waits = waits
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                facts = scope.get(FACTS) or Facts.of(self._node)
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *facts.headers]}
            await send(message)

        request = Request(scope)
        try:
            await self._wait(request)
            await self._app(scope, receive, stamped)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            # Where the node is another process' there are no facts to stamp.
            stamps = send if isinstance(error, WrongProcess) else stamped
            redirect = redirect_to_the_primary(error, self._node, request)
            await (redirect or answer_to(error, request, self._answers))(scope, receive, stamps)

    async def _wait(self, request: Request) -> None:
        position = request.headers.get("replicator-wait")
        if position is None:
            return
        if not POSITION.fullmatch(position):
            message = "Replicator-Wait must be a position as Replicator-Position gives it, like 5-1042"
            raise Refusal(400, "invalid_header", message, field="Replicator-Wait")
        with suppress(TimeoutError):
            self._node.wait(position=position, timeout_s=0)
            return  # it was there, as it mostly is: no thread is needed to see that
        try:
            with self._waits.place():
                await self._waits.on_thread(partial(self._node.wait, position=position, timeout_s=self._wait_timeout_s))
        except TimeoutError:
            message = f"{position} was not applied here within {self._wait_timeout_s:g} s; ask again, or another node"
            raise Refusal(504, "wait_timeout", message, field="Replicator-Wait") from None


def application(
    node: ServedNode[Any],
    routes: Sequence[Route],
    *,
    pools: Pools,
    wait_timeout_s: float = WAIT_TIMEOUT_S,
    answers: Answers = ANSWERS,
) -> Starlette:
    """These routes, each request in an envelope. `answers`: what errors come to."""
    envelope = Middleware(Envelope, node=node, wait_timeout_s=wait_timeout_s, waits=pools.waits, answers=answers)
    app = Starlette(
        routes=routes,
        middleware=[envelope],
        exception_handlers={HTTPException: no_route},
    )
    # A slash too many is an unknown route like any other, not a redirect without a body.
    app.router.redirect_slashes = False
    return app
