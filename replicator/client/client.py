"""The client for threads. All decisions are in `exchange.py`; here they are carried out."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Self, Unpack

import httpx

from ..errors import ConfigError, ReplicatorError
from .answers import raise_for_error
from .exchange import Done, Exchange, Fail, Find, Pause
from .exchange import Send as Sending
from .setup import CHANGES, NOT_SENT, ClientOptions, ClientSetup, Outgoing, RequestOptions, changed, told

__all__ = ["Client"]


class Client:
    """A client of a service that replicator keeps: it finds the primary, and survives its failover.

        with Client("redis://localhost:6379/0", "registry") as client:
            client.post("/v1/nodes", json={"hostname": "db1"})
            client.get("/v1/nodes").json()      # from a standby, and the write is in it

    Any number of threads may share one. `redis_url`, `group`: whose heartbeats tell where the nodes are; Redis is asked
    for nothing else. Or `urls`: of the nodes themselves, some of them at least.

    `keyed`: every write gets a key, and is sent again until it is answered: for services that hand the
    `Idempotency-Key` on to `submit(key=...)`, as the registry does. With others a write could land twice:
    `keyed=False`, and a write is repeated only if it was certainly not received.

    `timeout_s`: of a request, with all of its attempts. `attempt_timeout_s`: how long one node is waited for, where
    another one may be asked. `http`: arguments of `httpx.Client` for the connections: `headers`, `auth`, `verify` ...

    `token`, or `token_file` that has it: sent to every node that somebody named here, in `urls` or `token_to`, and with
    `ca_file` (PEM, the CA of the nodes' own certificates) to all that have one of it. Not to others, which are named by
    Redis or a redirect alone: `ConfigError`. So it is with `auth`, and with headers that are secrets by their name.

    Raises `ConfigError`. In a forked child, every call raises `WrongProcess`: make one there.
    """

    def __init__(self, redis_url: str = "", group: str = "", **options: Unpack[ClientOptions]) -> None:
        self._setup = ClientSetup(redis_url, group, **options)
        self._pools: dict[str, httpx.Client] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    # --- requests ---

    def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        """The answer of the application, whatever its status; 404 and 422 are answers, too.

        A write goes to the primary. With a key (the given one, or one that is drawn) it is repeated through failovers
        until it is answered, and lands once. A read (GET, HEAD, OPTIONS) goes to a standby, and shows at least all that
        this client has read or written before; with `fresh`, all that was committed when it was sent.

        Raises, once `timeout_s` is over: `OutcomeUnknown` if a write may have landed (its `fields["key"]` is its key),
        else what was in the way last: `NotPrimary`, `LogUnavailable`, `UnknownGroup`, `TimeoutError` and so on; then
        nothing was written. And at once: `PositionLost` if what this client has seen was lost in a failover (the next
        read shows what there is), `NotAcknowledged`, `Stalled`, `ConfigError`, `NotJSON`.
        """
        self._setup.check()
        return self._carried_out(*self._setup.begin(method, path, **options))

    def get(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Unpack[RequestOptions]) -> httpx.Response:
        return self.request("DELETE", path, **options)

    def submit(
        self, change: Any, *, key: str | None = None, path: str = CHANGES, timeout_s: float | None = None
    ) -> Any:
        """Have a change committed, by a service that takes them as they are, as the registry does: `POST /v1/changes`.

        What `apply` returned. Raises what `request` raises, and what the answer stands for: `ChangeRejected`, say. An
        answer of 5xx that is none of a node's is `OutcomeUnknown`; any other that has no result, `ConfigError`.
        """
        self._setup.check()
        outgoing, exchange = self._setup.begin("POST", path, json=change, key=key, timeout_s=timeout_s)
        response = self._carried_out(outgoing, exchange)
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

    def close(self) -> None:
        """Close the connections. Requests that are under way end with an error. Safe to call twice."""
        if not self._setup.is_here:
            return
        self._setup.closed = True
        self._closing.set()
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()
        self._setup.directory.close()

    def __enter__(self) -> Self:
        self._setup.check()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- carrying out ---

    def _carried_out(self, outgoing: Outgoing, exchange: Exchange) -> httpx.Response:
        response: httpx.Response | None = None
        while True:
            step = exchange.next(time.monotonic())
            if isinstance(step, Sending):
                response = self._send(outgoing, exchange, step)
            elif isinstance(step, Find):
                self._find(exchange)
            elif isinstance(step, Pause):
                self._closing.wait(step.seconds)
                self._setup.check()
            elif isinstance(step, Fail):
                raise step.error
            elif isinstance(step, Done):
                assert response is not None
                return response

    def _find(self, exchange: Exchange) -> None:
        try:
            nodes = self._setup.directory.look(exchange.until)
        except ReplicatorError as error:
            exchange.not_found(error, time.monotonic())
        else:
            exchange.found(nodes, time.monotonic())

    def _send(self, outgoing: Outgoing, exchange: Exchange, send: Sending) -> httpx.Response | None:
        try:
            authorization = self._setup.authorization(send.url, send.headers)
        except ConfigError as error:
            exchange.withheld(error)
            return None
        try:
            response = self._answer(outgoing, send, authorization)
        except NOT_SENT as error:
            exchange.broke(told(error), sent=False)
        except httpx.HTTPError as error:
            exchange.broke(told(error), sent=True)
        else:
            exchange.answered(self._setup.read(response))
            return response
        return None

    def _answer(self, outgoing: Outgoing, send: Sending, authorization: Mapping[str, str]) -> httpx.Response:
        """The answer, whole. Its parts may trickle in for no longer than `send` allows."""
        pool = self._pool(send.url)
        request = outgoing.built(pool, send, authorization)
        until = time.monotonic() + send.timeout_s
        streamed = pool.send(request, stream=True)
        if streamed.is_stream_consumed:  # of a transport that holds its answers in memory
            return streamed
        try:
            self._setup.note(streamed)
            parts = []
            for part in streamed.iter_raw():
                parts.append(part)
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer did not end in time", request=request)
        finally:
            streamed.close()
        return httpx.Response(streamed.status_code, headers=streamed.headers, content=b"".join(parts), request=request)

    def _pool(self, url: str) -> httpx.Client:
        with self._lock:
            self._setup.check()
            pool = self._pools.get(url)
            if pool is None:
                pool = self._pools[url] = httpx.Client(follow_redirects=False, **self._setup.http_options)
            return pool
