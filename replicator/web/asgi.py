"""The middleware for ASGI: Starlette, FastAPI, Quart, Django, and whatever else is one.

    app.add_middleware(Replicated, node=node)                            # Starlette, FastAPI
    app.asgi_app = Replicated(app.asgi_app, node=node)                   # Quart
    application = Replicated(get_asgi_application(), node=node)          # Django

It enters the node before the application's own startup, as `async with node` does, and leaves it after its shutdown.
What it does with requests stands in `middleware.py`; `Options` (`options.py`) are keywords here. It needs no Starlette.

What a lifespan is good for depends on the server and the application. An application that knows none (Django) is served
all the same. A server that sends none starts nothing: then start the node yourself, and stop it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, Unpack, cast

import anyio

from ..runtime.event_log import EventLogger
from .content import Content
from .cookie import Cookie
from .failures import Answer, Refusal
from .forward import AsyncForwarder
from .head import FORWARDED, NONCE, Head, below, raw_below
from .life import Life, LivingNode
from .middleware import CURRENT, Forward, Middleware, Pause, Step, Visit, answer
from .options import Keywords, Options
from .served_node import FACTS, ServedNode
from .thread_pools import Pool

__all__ = ["Cookie", "Replicated", "answer"]

log = EventLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[Any]]

FORWARDED_BYTES = FORWARDED.encode()
KEY_BYTES = b"idempotency-key"
NONCE_BYTES = NONCE.encode()

#: How much of a body that nobody wants is read and dropped, so that its sender gets to see the answer.
DROPPED_BYTES_MAX = 1024 * 1024 * 1024

#: Each of them looks for a primary twenty times a second.
HELD_BACK_MAX = 256


class Replicated:
    """An ASGI application around another one. `start`: whether it starts and stops the node. `waits`: threads for
    requests that wait for a position. Raises `ConfigError`.
    """

    def __init__(
        self,
        app: App,
        *,
        node: ServedNode[Any],
        start: bool = True,
        waits: Pool | None = None,
        **keywords: Unpack[Keywords],
    ) -> None:
        options = Options(**keywords)
        self._app = app
        self._node = node
        self._middleware = Middleware(node, options)
        self._forwarder = AsyncForwarder(node, options) if options.writes == "forward" else None
        self._waits = waits or Pool("requests that wait for a position", places=256, threads=256)
        # Places of their own: whoever names positions that never come is not to keep writes from waiting.
        self._held_back = Pool("writes that wait for a primary", places=HELD_BACK_MAX, threads=1)
        self._receive_timeout_s = options.forward_timeout_s
        is_sent_writes = options.writes != "local"
        self._life = Life(cast(LivingNode, node), is_sent_writes=is_sent_writes) if start else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan" and self._life is not None:
            await _Lifespan(self._app, self._life, self._forwarder).run(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        middleware = self._middleware
        visit = Visit(_head_of(scope), middleware)
        has_begun = is_in_application = False
        body = _Body(receive, self._receive_timeout_s)

        async def passed(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                stamps = middleware.stamps(visit, scope.get(FACTS))
                message = {**message, "headers": [*message.get("headers", ()), *stamps]}
            await passed(message)

        try:
            what = await self._before(visit)
            if what is None:
                is_in_application = True
                current = CURRENT.set(visit)
                try:
                    await self._app(scope, _heard(scope, receive, visit), stamped)
                finally:
                    CURRENT.reset(current)
                return
            if isinstance(what, Forward):
                assert self._forwarder is not None
                await self._forwarder.forward(what.url, scope, body.receive, passed)
                return
        except Exception as error:
            what = None if has_begun else middleware.answer(error, visit)
            if what is None:
                raise
        if not is_in_application:
            await _drop(body, scope)
        await _answer(what, visit, middleware.stamps_of_ours(visit, scope.get(FACTS)), passed)

    async def _before(self, visit: Visit) -> Answer | Forward | None:
        steps = self._middleware.before(visit)
        try:
            step = next(steps)
            while True:
                try:
                    await self._carry_out(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(None)
        except StopIteration as end:
            what: Answer | Forward | None = end.value
            return what

    async def _carry_out(self, step: Step) -> None:
        if isinstance(step, Pause):
            with self._held_back.place():
                await anyio.sleep(step.seconds)
        else:
            with self._waits.place():
                wait = partial(self._node.wait, position=step.position, timeout_s=step.timeout_s)
                await self._waits.on_thread(wait)


def _head_of(scope: Scope) -> Head:
    wait: str | None = None
    nonce: str | None = None
    cookies = ""
    authorization: tuple[str, ...] = ()
    is_forwarded = False
    for name, value in scope["headers"]:
        if name == b"cookie":
            cookies = f"{cookies};{value.decode('latin-1')}" if cookies else value.decode("latin-1")
        elif name == b"replicator-wait":
            wait = value.decode("latin-1") if wait is None else wait
        elif name == FORWARDED_BYTES:
            is_forwarded = True
        elif name == NONCE_BYTES:
            nonce = value.decode("latin-1")
        elif name == b"authorization":
            authorization = (*authorization, value.decode("latin-1"))
    raw_path, path, query = scope.get("raw_path") or b"", scope["path"], scope["query_string"]
    if root := scope.get("root_path", ""):
        path, raw_path = below(root, path), raw_below(root, raw_path)
    return Head(scope["method"], path, raw_path, query, wait, cookies, is_forwarded, nonce, authorization)


def _heard(scope: Scope, receive: Receive, visit: Visit) -> Receive:
    """`receive` for the application, which notes what a key goes by, if one was sent."""
    if not any(name == KEY_BYTES for name, _ in scope["headers"]):
        return receive
    content = visit.content = Content(visit.head)

    async def heard() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            content.takes(message.get("body", b""), is_last=not message.get("more_body", False))
        return message

    return heard


class _Body:
    """The body of a request, of which a part may have been read: after its end there is nothing to wait for."""

    __slots__ = ("_receive", "_timeout_s", "has_ended")

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self.has_ended = False

    async def receive(self) -> Message:
        """The next part. Raises `Refusal` if it does not come: it has a way to the primary, which others need."""
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._receive()
        except TimeoutError:
            self.has_ended = True
            problem = f"the next part of the body did not come within {self._timeout_s:g} s"
            raise Refusal(408, "body_timeout", problem) from None
        self.has_ended = not message.get("more_body", False)
        return message


async def _drop(body: _Body, scope: Scope) -> None:
    """Read the body and drop it: a sender that is not done sending would see a broken connection and no answer.

    One that asked first (`Expect: 100-continue`) has not begun, and waits for the answer.
    """
    if any(name == b"expect" for name, _ in scope["headers"]):
        return
    dropped = 0
    with suppress(Refusal):
        while not body.has_ended and dropped <= DROPPED_BYTES_MAX:
            dropped += len((await body.receive()).get("body", b""))


async def _answer(answer: Answer, visit: Visit, stamps: list[tuple[bytes, bytes]], send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, *stamps]})
    body = b"" if visit.head.method == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})


class _Lifespan:
    """The lifespan of an application, with the node's within it: it runs while the application does."""

    def __init__(self, app: App, life: Life, forwarder: AsyncForwarder | None) -> None:
        self._app = app
        self._life = life
        self._forwarder = forwarder
        #: What the application was told, and what it said.
        self._told: list[str] = []
        self._said: list[str] = []

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        startup = await receive()
        try:
            await self._life.enter()
        except Exception as error:
            log.error("node.start_failed", "the node was not started: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        pending = [startup]

        async def told() -> Message:
            message = pending.pop() if pending else await receive()
            self._told.append(message["type"])
            return message

        async def said(message: Message) -> None:
            self._said.append(message["type"])
            if message["type"] == "lifespan.shutdown.complete":
                message = await self._ended()
            elif message["type"] != "lifespan.startup.complete":
                await self._stop()
            await send(message)

        try:
            await self._app(scope, told, said)
        except Exception as error:
            if self._said or "lifespan.shutdown" in self._told:
                await self._stop()
                raise
            # It knows no lifespan. Whatever it raised, a server would take it for that, too.
            log.info("http.no_lifespan", "the application takes part in no lifespan: %s", error)
            await self._alone(receive, send)
        except BaseException:
            await self._stop()
            raise
        else:
            if not self._said:
                await self._alone(receive, send)
            await self._stop()

    async def _alone(self, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            message = await self._ended()
        await send(message)

    async def _ended(self) -> Message:
        """Stop the node; what the server is told."""
        try:
            await self._stop()
        except Exception as error:
            log.exception("node.stop_failed", "the node did not stop in order")
            return {"type": "lifespan.shutdown.failed", "message": str(error)}
        return {"type": "lifespan.shutdown.complete"}

    async def _stop(self) -> None:
        try:
            if self._forwarder is not None:
                await self._forwarder.close()
        finally:
            await self._life.leave()
