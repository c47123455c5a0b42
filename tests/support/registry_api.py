"""The registry's HTTP API over a node in memory that applies what it is given at once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from replicator.errors import Outdated, ReplicatorError
from replicator.format.codec import encoded_keyed
from replicator.format.ids import RecordId
from replicator.metrics import NodeMetrics
from replicator.node.health import Unready
from replicator.node.members import GroupAsSeen, Member, members_of
from replicator.node.release import Release
from replicator.protocol.history import History, HistoryEntry
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.replica.ledger import Ledger
from replicator.web.served_node import ServedNode

with warnings.catch_warnings():
    # Newer versions of Starlette would rather have httpx2.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

KEY = base64.b64encode(b"k" * 32).decode()


@dataclass
class Position:
    term: int
    n: int

    @property
    def id(self) -> str:
        return f"{self.term}-{self.n}"


@dataclass
class Lag:
    records: int | None = 0
    ms: int | None = 0


@dataclass
class Known:
    """What a node in memory, which knows of no other one, tells of itself and of its group."""

    stale_s: float | None = 0.0
    heartbeat_age_ms: int | None = 10
    release: Release = field(default_factory=lambda: Release(app="kv", version=2, reads=range(1, 3)))
    version: int = 1
    #: Whether the primary has not proved yet that it is where its heartbeat says.
    unproven: bool = False
    #: The nonces that it was sent.
    heard: list[str] = field(default_factory=list)

    def has_proven(self, url: str) -> bool:
        return not self.unproven

    def hear(self, nonce: str) -> None:
        self.heard.append(nonce)

    @property
    def members(self) -> GroupAsSeen:
        me = Member(
            node="a", role="primary", alive=True, term=5, position="5-1042", in_sync=True, lag_records=0, lag_ms=0,
            http=None, problem=None, version=2, age_ms=10,
        )  # fmt: skip
        return members_of(me, None, term=5, seen_ms=None)

    def history(self) -> History:
        found = HistoryEntry(what="found", term=5, number=1, at=1_700_000_000_000, node="a", by="ann", id="5-1")
        return History.of([found], count=1, term=5)


@dataclass
class NodeInMemory(Known):
    """A node that is all of its group: it counts its records and applies them at once."""

    name: str = "a"
    group: str = "registry"
    role: str = "primary"
    term: int = 5
    position: Position = field(default_factory=lambda: Position(5, 1042))
    in_sync: bool = True
    lag: Lag = field(default_factory=Lag)
    state_problem: str | None = None
    primary_http: str | None = None
    lease_ms: int | None = 4000
    problem: str = ""
    unready: Unready | None = None
    #: What the next write raises instead.
    failure: Exception | None = None

    def metrics(self) -> list[NodeMetrics]:
        return []

    def __post_init__(self) -> None:
        self.registry = Registry()
        self.ledger = Ledger()
        self.submitted: list[dict[str, Any]] = []
        self.waited: list[str] = []
        #: What each write and each read asked for.
        self.acks: list[str | None] = []
        self.fresh: list[bool] = []
        self.threads: set[str] = set()
        #: Called by a replacement before it is the state's turn.
        self.before_replacing: Callable[[], Any] = lambda: None
        #: Called by a replacement when the state is what it was given: it would wait for acknowledgements.
        self.after_replacing: Callable[[], Any] = lambda: None
        #: What a write waits for.
        self.writes_wait: Callable[[], Awaitable[Any]] = functools.partial(asyncio.sleep, 0)
        self._lock = threading.RLock()

    @property
    def leads(self) -> bool:
        return self.role == "primary" and bool(self.lease_ms)

    async def asubmit(
        self,
        change: Any,
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> Any:
        await self.writes_wait()
        return self.submit(change, ack=ack, key=key)

    def submit(self, change: Any, *, ack: str | None = None, key: str | None = None) -> Any:
        self.acks.append(ack)
        entry = encoded_keyed([change], [key]).changes[0] if key else orjson.loads(orjson.dumps(change))
        with self._lock:
            if self.failure is not None:
                raise self.failure
            self.submitted.append(change)
            self.position = Position(self.term, self.position.n + 1)
            result = self.ledger.applied(entry, RecordId(self.term, self.position.n), 0, self.registry.apply)
            if isinstance(result, ReplicatorError):
                raise result
            return result

    def replace(
        self, pieces: Iterable[Any], *, term: int | None = None, ack: str | None = None, expect: str | None = None
    ) -> None:
        self.acks.append(ack)
        self.before_replacing()
        with self._lock:
            if self.failure is not None:
                raise self.failure
            if expect not in (None, self.position.id):
                raise Outdated(expect=expect, position=self.position.id)
            self.registry.restore(orjson.loads(orjson.dumps(piece)) for piece in pieces)
            self.position = Position(self.term, self.position.n + 1)
        self.after_replacing()

    def wait(self, *, position: str, timeout_s: float) -> None:
        if self.failure is not None:
            raise self.failure
        if timeout_s == 0:
            if not self._has(position):
                raise TimeoutError
            return
        self.threads.add(threading.current_thread().name)
        self.waited.append(position)
        deadline = time.monotonic() + timeout_s
        while not self._has(position):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.005)

    def _has(self, position: str) -> bool:
        return [*map(int, position.split("-"))] <= [self.position.term, self.position.n]

    @contextlib.contextmanager
    def reading(self, *, fresh: bool = False, timeout_s: float = 5.0, blocks: bool = True) -> Iterator[Registry]:
        if blocks:
            self.threads.add(threading.current_thread().name)
        if not self._lock.acquire(blocking=blocks):
            raise BlockingIOError
        self.fresh.append(fresh)
        try:
            yield self.registry
        finally:
            self._lock.release()


def client_of(node: ServedNode[Registry], *, wait_timeout_s: float = 0.1) -> TestClient:
    app = registry_app(node, wait_timeout_s=wait_timeout_s)
    return TestClient(app, follow_redirects=False, base_url="http://a:7001")


def error_of(
    answer: httpx.Response, status: int, code: str, name: str | None = None, *, stamped: bool = True
) -> dict[str, Any]:
    """Check an error: its status and code, the field it names, and that it is whole."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert (body["error"], body["field"]) == (code, name)
    assert body["message"]
    assert answer.headers["content-type"] == "application/json"
    # A node of another process has no facts to tell.
    assert not stamped or {"replicator-position", "replicator-role", "replicator-term"} <= set(answer.headers)
    return body


UNAVAILABLE = {"url": "redis://h", "problem": "it is away"}


WRITES = [
    ("POST", "/v1/nodes"),
    ("PATCH", "/v1/nodes/1"),
    ("DELETE", "/v1/nodes/1"),
    ("POST", "/v1/nodes/1/heartbeat"),
    ("POST", "/v1/networks"),
    ("DELETE", "/v1/networks/0"),
    ("PUT", "/v1/networks/0/members/1"),
    ("DELETE", "/v1/networks/0/members/1"),
    ("PUT", "/v1/trust/1/2"),
    ("DELETE", "/v1/trust/1/2"),
    ("PUT", "/v1/state"),
    ("POST", "/v1/changes"),
]


DOCUMENT = (
    b'{"version":1,"next_node":12,"next_net":1,'
    b'"nodes":{"10":{"score":1.5,"id":10,"networks":null},"2":{"id":2,"zeta":{"b":[1,null]},"networks":[0]}},'
    b'"networks":{"0":{"mtu":1400,"id":0,"members":[2],"created":"long ago"}},'
    b'"trust_pairs":["2:10"],"handshakes":{"9":[]},"audit":null}'
)


def with_term(document: bytes, term: Any) -> bytes:
    return document.replace(b'"version":1,', b'"version":1,"term":' + orjson.dumps(term) + b",", 1)
