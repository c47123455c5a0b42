"""The client for asyncio: `client.py`, with `await`. All decisions are in `exchange.py`.

Redis is asked on a thread of ours, never on one of the application's default executor; requests that need the nodes at
the same time share one question.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar, Unpack

import httpx

from ..errors import ConfigError, ReplicatorError
from ..runtime.threads import started
from .answers import raise_for_error
from .directory import ANSWER_WITHIN_S
from .exchange import Done, Exchange, Fail, Find, Pause
from .exchange import Send as Sending
from .known import Nodes
from .setup import CHANGES, NOT_SENT, ClientOptions, ClientSetup, Outgoing, RequestOptions, changed, told

__all__ = ["AsyncClient"]

T = TypeVar("T")

#: httpx knows better than a clock whether a connection was there when the time was over. So it is asked first.
GRACE_S = 0.05


class AsyncClient:
    """`Client` for asyncio: the same arguments, the same requests, the same errors.

        async with AsyncClient("redis://localhost:6379/0", "registry") as client:
            await client.post("/v1/nodes", json={"hostname": "db1"})
            (await client.get("/v1/nodes")).json()

    It belongs to the event loop in which it is used first: `ConfigError` in another one. A request that is cancelled
    leaves its write where it is: it may land.
    """

    def __init__(self, redis_url: str = "", group: str = "", **options: Unpack[ClientOptions]) -> None:
        self._setup = ClientSetup(redis_url, group, **options)
        self._pools: dict[str, httpx.AsyncClient] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The question after the nodes that is under way.
        self._looking: asyncio.Task[Nodes] | None = None

    # --- requests ---

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        """As `Client.request`."""
        self._check()
        return await self._carried_out(*self._setup.begin(method, path, **options))

    async def get(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return await self.request("DELETE", path, **options)

    async def submit(
        self, change: Any, *, key: str | None = None, path: str = CHANGES, timeout_s: float | None = None
    ) -> Any:
        """As `Client.submit`."""
        self._check()
        outgoing, exchange = self._setup.begin("POST", path, json=change, key=key, timeout_s=timeout_s)
        response = await self._carried_out(outgoing, exchange)
        raise_for_error(response)
        return changed(response, outgoing.call.key)

    # --- what it knows ---

    @property
    def position(self) -> str | None:
        """The newest position that it has seen, like "5-1042"; None: none yet. Reads show at least that."""
        return self._setup.position

    def saw(self, position: str) -> None:
        """Reads from now on show at least this position, which somebody else has seen."""
        self._setup.saw(position)

    # --- life ---

    async def aclose(self) -> None:
        """Close the connections. Requests that are under way end with an error. Safe to call twice."""
        if not self._setup.is_here:
            return
        self._setup.closed = True
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.aclose()
        self._setup.directory.close()  # ends a question that is under way

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _check(self) -> None:
        self._setup.check()
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise ConfigError(setting="client", problem="it belongs to another event loop: make one in this one")

    # --- carrying out ---

    async def _carried_out(self, outgoing: Outgoing, exchange: Exchange) -> httpx.Response:
        response: httpx.Response | None = None
        while True:
            step = exchange.next(time.monotonic())
            if isinstance(step, Sending):
                response = await self._send(outgoing, exchange, step)
            elif isinstance(step, Find):
                await self._find(exchange)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                self._setup.check()
            elif isinstance(step, Fail):
                raise step.error
            elif isinstance(step, Done):
                assert response is not None
                return response

    async def _find(self, exchange: Exchange) -> None:
        if self._looking is None or self._looking.done():
            until = time.monotonic() + ANSWER_WITHIN_S
            self._looking = asyncio.create_task(_on_thread(lambda: self._setup.directory.look(until)))
            self._looking.add_done_callback(_heard)
        left_s = exchange.until - time.monotonic()
        try:
            # Others wait for it, too.
            nodes = await asyncio.wait_for(asyncio.shield(self._looking), max(0.0, left_s))
        except ReplicatorError as error:
            exchange.not_found(error, time.monotonic())
        except TimeoutError:
            exchange.not_found(TimeoutError("Redis has not said in time which nodes there are"), time.monotonic())
        else:
            exchange.found(nodes, time.monotonic())

    async def _send(self, outgoing: Outgoing, exchange: Exchange, send: Sending) -> httpx.Response | None:
        pool = self._pool(send.url)
        try:
            authorization = self._setup.authorization(send.url, send.headers)
        except ConfigError as error:
            exchange.withheld(error)
            return None
        try:
            async with asyncio.timeout(send.timeout_s + GRACE_S):
                response = await pool.send(outgoing.built(pool, send, authorization))
        except NOT_SENT as error:
            exchange.broke(told(error), sent=False)
        except (httpx.HTTPError, TimeoutError) as error:
            exchange.broke(told(error), sent=True)
        else:
            self._setup.note(response)
            exchange.answered(self._setup.read(response))
            return response
        return None

    def _pool(self, url: str) -> httpx.AsyncClient:
        self._setup.check()
        if url not in self._pools:
            self._pools[url] = httpx.AsyncClient(follow_redirects=False, **self._setup.http_options)
        return self._pools[url]


def _heard(look: asyncio.Task[Nodes]) -> None:
    """Whoever waited for it may be gone, and asyncio would complain of an error that nobody has seen."""
    if not look.cancelled():
        look.exception()


async def _on_thread(work: Callable[[], T]) -> T:
    """What `work` gives, on a thread of its own. It goes on if this is cancelled; nobody hears of it then."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    started(run, name="replicator-client")
    return await outcome
