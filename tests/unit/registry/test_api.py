"""The registry's HTTP API, over a node in memory that applies what it is given at once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import logging
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from starlette.requests import Request

from bench.registry_data import generate
from replicator.errors import (
    ChangeTooLarge,
    ConfigError,
    CorruptRecord,
    Fenced,
    LeaseLost,
    LogLost,
    LogUnavailable,
    NotAcknowledged,
    NotJSON,
    NotPrimary,
    NotRunning,
    OutcomeUnknown,
    Outdated,
    PositionLost,
    ReplicatorError,
    SnapshotFailed,
    Stalled,
    WrongProcess,
)
from replicator.node.health import Unready
from replicator.node.node import Node
from replicator.registry.api import BODY_BYTES_MAX, document_verdict, registry_app
from replicator.registry.state import Registry
from replicator.testing import MemoryLog, MemoryRedis
from replicator.web.pools import Pool
from replicator.web.redirect import on_the_primary
from replicator.web.served import ServedNode
from replicator.web.server import WebServer
from tests.support.kv import PATIENCE_S

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
    seconds: float | None = 0.0


@dataclass
class NodeInMemory:
    """A node that is all of its group: it counts its records and applies them at once."""

    name: str = "a"
    group: str = "registry"
    role: str = "primary"
    term: int = 5
    position: Position = field(default_factory=lambda: Position(5, 1042))
    in_sync: bool = True
    lag: Lag = field(default_factory=Lag)
    held_up: str | None = None
    primary_http: str | None = None
    lease_ms: int | None = 4000
    problem: str = ""
    unready: Unready | None = None
    #: What the next write raises instead.
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.registry = Registry()
        self.submitted: list[dict[str, Any]] = []
        self.waited: list[str] = []
        #: What each write and each read asked for.
        self.acks: list[str | None] = []
        self.fresh: list[bool] = []
        self.threads: set[str] = set()
        #: Called by a replacement before it is the state's turn.
        self.before_replacing: Callable[[], Any] = lambda: None
        #: What a write waits for.
        self.writes_wait: Callable[[], Awaitable[Any]] = functools.partial(asyncio.sleep, 0)
        self._lock = threading.RLock()

    @property
    def leads(self) -> bool:
        return self.role == "primary" and bool(self.lease_ms)

    async def asubmit(
        self, change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> Any:
        await self.writes_wait()
        return self.submit(change, timeout_s=timeout_s, term=term, ack=ack)

    def submit(self, change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None) -> Any:
        self.acks.append(ack)
        with self._lock:
            if self.failure is not None:
                raise self.failure
            self.submitted.append(change)
            self.position = Position(self.term, self.position.n + 1)
            return self.registry.apply(orjson.loads(orjson.dumps(change)))

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

    def wait(self, *, position: str, timeout_s: float) -> None:
        self.threads.add(threading.current_thread().name)
        self.waited.append(position)
        if self.failure is not None:
            raise self.failure
        deadline = time.monotonic() + timeout_s
        while [*map(int, position.split("-"))] > [self.position.term, self.position.n]:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.005)

    @contextlib.contextmanager
    def reading(self, *, fresh: bool = False, timeout_s: float = 5.0) -> Iterator[Registry]:
        self.threads.add(threading.current_thread().name)
        self.fresh.append(fresh)
        with self._lock:
            yield self.registry


@pytest.fixture
def node() -> NodeInMemory:
    return NodeInMemory()


@pytest.fixture
def client(node: NodeInMemory) -> TestClient:
    return client_of(node)


def client_of(node: ServedNode[Registry]) -> TestClient:
    app = registry_app(node, wait_timeout_s=0.1)
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


def node_of(client: TestClient, number: int) -> Any:
    return client.get(f"/v1/nodes/{number}").json()


# --- Nodes ----------------------------------------------------------------------------------------------------------


def test_a_node_is_registered_once_per_key(client: TestClient, node: NodeInMemory) -> None:
    # when
    first = client.post("/v1/nodes", json={"public_key": KEY, "hostname": "web1", "tags": ["x"]})
    second = client.post("/v1/nodes", json={"public_key": KEY, "hostname": "web2"})
    # then
    assert (first.status_code, first.json()) == (201, {"id": 1, "created": True})
    assert (second.status_code, second.json()) == (200, {"id": 1, "created": False})
    assert node_of(client, 1)["hostname"] == "web2"


def test_times_that_the_sender_left_out_are_stamped_here(client: TestClient, node: NodeInMemory) -> None:
    # when
    client.post("/v1/nodes", json={"public_key": KEY})
    client.post("/v1/nodes", json={"last_seen": "2026-01-31T12:00:00Z"})
    client.post("/v1/nodes/1/heartbeat")
    client.patch("/v1/nodes/1", json={"public_key": "AAAA"})
    client.post("/v1/networks", json={"name": "n"})
    # then
    stamped = [set(change) & {"last_seen", "key_created", "created"} for change in node.submitted]
    assert stamped == [{"last_seen", "key_created"}, {"last_seen"}, {"last_seen"}, {"key_created"}, {"created"}]
    assert node.submitted[1]["last_seen"] == "2026-01-31T12:00:00Z"
    assert node_of(client, 1)["key_created"].endswith("Z")


def test_a_node_that_is_not_there_is_not_found(client: TestClient) -> None:
    error_of(client.get("/v1/nodes/9"), 404, "unknown_id", "id")
    error_of(client.get("/v1/nodes/nine"), 404, "unknown_id", "id")
    error_of(client.patch("/v1/nodes/9", json={"tags": []}), 404, "unknown_id", "id")
    error_of(client.delete("/v1/nodes/9"), 404, "unknown_id", "id")
    error_of(client.post("/v1/nodes/9/heartbeat"), 404, "unknown_id", "id")


def test_a_patch_is_one_change_that_is_named_for_what_it_does(client: TestClient, node: NodeInMemory) -> None:
    # given
    client.post("/v1/nodes", json={"hostname": "web1"})
    # when
    answers = [
        client.patch("/v1/nodes/1", json=fields)
        for fields in (
            {"hostname": "web2"},
            {"tags": ["a"]},
            {"public_key": KEY},
            {"hostname": None, "tags": ["b"], "public": True},
        )
    ]
    # then
    assert [answer.json() for answer in answers] == [{"id": 1}] * 4
    assert [change["op"] for change in node.submitted[1:]] == ["set_hostname", "set_tags", "rotate_key", "update"]
    record = node_of(client, 1)
    assert (record["tags"], record["public"], "hostname" in record) == (["b"], True, False)


def test_a_heartbeat_may_say_where_the_node_is(client: TestClient) -> None:
    # given
    client.post("/v1/nodes", json={})
    # when
    answer = client.post("/v1/nodes/1/heartbeat", json={"real_addr": "203.0.113.5:4000"})
    # then
    assert answer.json() == {"id": 1}
    assert node_of(client, 1)["real_addr"] == "203.0.113.5:4000"


def test_a_deregistered_node_is_gone(client: TestClient) -> None:
    # given
    client.post("/v1/nodes", json={})
    # then
    assert client.delete("/v1/nodes/1").json() == {"id": 1}
    error_of(client.get("/v1/nodes/1"), 404, "unknown_id", "id")


def test_nodes_and_networks_are_listed_in_pages(client: TestClient) -> None:
    # given
    for number in range(5):
        client.post("/v1/nodes", json={"hostname": f"web{number}"})
        client.post("/v1/networks", json={"name": f"net{number}"})
    # when
    first = client.get("/v1/nodes?limit=2").json()
    second = client.get(f"/v1/nodes?limit=2&after={first['next']}").json()
    third = client.get(f"/v1/nodes?limit=2&after={second['next']}").json()
    networks = client.get("/v1/networks?limit=3&after=1").json()
    # then
    assert [[one["id"] for one in page["nodes"]] for page in (first, second, third)] == [[1, 2], [3, 4], [5]]
    assert (first["next"], second["next"], third["next"]) == (2, 4, None)
    assert ([one["id"] for one in networks["networks"]], networks["next"]) == ([2, 3, 4], None)
    assert client.get("/v1/networks").json()["networks"][0]["id"] == 0


@pytest.mark.parametrize(
    ("query", "name"),
    [("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("after=-2", "after"), ("after=", "after")],
)
def test_a_page_that_cannot_be_is_refused(client: TestClient, query: str, name: str) -> None:
    error_of(client.get(f"/v1/nodes?{query}"), 400, "invalid_query", name)
    error_of(client.get(f"/v1/networks?{query}"), 400, "invalid_query", name)


# --- Networks and trust ---------------------------------------------------------------------------------------------


def test_a_network_is_created_joined_left_and_deleted(client: TestClient) -> None:
    # given
    client.post("/v1/nodes", json={})
    # then
    assert client.post("/v1/networks", json={"name": "n"}).status_code == 201
    joined = {"network": 0, "node": 1}
    assert client.put("/v1/networks/0/members/1").json() == {**joined, "joined": True}
    assert client.put("/v1/networks/0/members/1", json={"role": "relay"}).json() == {**joined, "joined": False}
    assert client.get("/v1/networks").json()["networks"][0]["member_roles"] == {"1": "relay"}
    assert client.delete("/v1/networks/0/members/1").json() == joined
    error_of(client.delete("/v1/networks/0/members/1"), 404, "unknown_id", "node")
    assert client.delete("/v1/networks/0").json() == {"id": 0}
    error_of(client.delete("/v1/networks/0"), 404, "unknown_id", "id")
    error_of(client.put("/v1/networks/0/members/1"), 404, "unknown_id", "network")
    error_of(client.put("/v1/networks/x/members/1"), 404, "unknown_id", "network")


def test_a_token_is_asked_for_and_not_shown_in_the_list(client: TestClient) -> None:
    # given
    client.post("/v1/nodes", json={})
    client.post("/v1/networks", json={"name": "vault", "join_rule": "token", "token": "s3cret"})
    # then
    error_of(client.put("/v1/networks/0/members/1"), 422, "rejected", "token")
    error_of(client.put("/v1/networks/0/members/1", json={"token": "wrong"}), 422, "rejected", "token")
    assert client.put("/v1/networks/0/members/1", json={"token": "s3cret"}).json()["joined"] is True
    assert "s3cret" not in client.get("/v1/networks").text
    assert "s3cret" in client.get("/v1/state").text


def test_trust_is_given_and_taken(client: TestClient) -> None:
    # given
    client.post("/v1/nodes", json={})
    client.post("/v1/nodes", json={})
    # then
    assert client.put("/v1/trust/1/2").json() == {"a": 1, "b": 2, "created": True}
    assert client.put("/v1/trust/2/1").json() == {"a": 2, "b": 1, "created": False}
    assert client.delete("/v1/trust/1/2").json() == {"a": 1, "b": 2}
    error_of(client.delete("/v1/trust/1/2"), 404, "unknown_id", "b")
    error_of(client.put("/v1/trust/1/9"), 404, "unknown_id", "b")
    error_of(client.put("/v1/trust/1/1"), 422, "rejected", "b")


# --- What is refused ------------------------------------------------------------------------------------------------


def test_a_claim_on_what_belongs_to_another_is_a_conflict(client: TestClient) -> None:
    # given
    client.post("/v1/nodes", json={"hostname": "web1"})
    client.post("/v1/networks", json={"name": "n"})
    # then
    error_of(client.post("/v1/nodes", json={"hostname": "web1"}), 409, "conflict", "hostname")
    error_of(client.post("/v1/networks", json={"name": "n"}), 409, "conflict", "name")


@pytest.mark.parametrize("body", [b"{", b"", b"[1,", b'{"a":NaN}', b"\xff", b"hello"])
def test_what_is_not_json_is_refused(client: TestClient, body: bytes) -> None:
    answers = [client.request(*route, content=body) for route in (("POST", "/v1/nodes"), ("PUT", "/v1/state"))]
    for answer in answers if body else answers[1:]:
        error_of(answer, 400, "invalid_json", "body")


@pytest.mark.parametrize("body", [[], "text", 5, None])
def test_a_body_that_is_no_object_is_refused(client: TestClient, body: Any) -> None:
    error_of(client.post("/v1/nodes", content=orjson.dumps(body)), 422, "rejected")
    error_of(client.put("/v1/state", content=orjson.dumps(body)), 422, "invalid_document")


@pytest.mark.parametrize(
    ("method", "path", "body", "name"),
    [
        ("POST", "/v1/nodes", {"hostname": 5}, "hostname"),
        ("POST", "/v1/nodes", {"colour": "red"}, "colour"),
        ("POST", "/v1/nodes", {"op": "deregister"}, "op"),
        ("POST", "/v1/nodes", {"last_seen": "yesterday"}, "last_seen"),
        ("PATCH", "/v1/nodes/1", {"id": 2}, "id"),
        ("PATCH", "/v1/nodes/1", {"hostname": ""}, "hostname"),
        ("PATCH", "/v1/nodes/1", {"last_seen": "2026-01-31T12:00:00Z"}, "last_seen"),
        ("POST", "/v1/nodes/1/heartbeat", {"hostname": "x"}, "hostname"),
        ("DELETE", "/v1/nodes/1", {"x": 1}, "x"),
        ("POST", "/v1/networks", {}, "name"),
        ("POST", "/v1/networks", {"name": "n", "join_rule": "never"}, "join_rule"),
        ("PUT", "/v1/networks/0/members/1", {"node": 1}, "node"),
        ("PUT", "/v1/trust/1/1", {"why": "x"}, "why"),
    ],
)
def test_a_change_of_the_wrong_shape_is_refused_and_names_the_field(
    client: TestClient, method: str, path: str, body: Any, name: str
) -> None:
    client.post("/v1/nodes", json={})
    error_of(client.request(method, path, json=body), 422, "rejected", name)


def test_a_body_over_the_limit_is_refused_whether_or_not_it_is_announced(
    client: TestClient, node: NodeInMemory
) -> None:
    # given
    body = b'{"hostname":"' + b"x" * BODY_BYTES_MAX + b'"}'

    def unannounced() -> Iterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    # then
    error_of(client.post("/v1/nodes", content=body), 413, "too_large", "body")
    error_of(client.post("/v1/nodes", content=unannounced()), 413, "too_large", "body")
    assert node.submitted == []


def test_an_unknown_route_and_a_wrong_method_are_answered_in_json(client: TestClient) -> None:
    for path in ("/", "/v1", "/v1/nodes/", "/v1/nodes/1/2/3", "/favicon.ico"):
        error_of(client.get(path), 404, "unknown_route")
    wrong = client.put("/v1/nodes", json={})
    error_of(wrong, 405, "wrong_method")
    assert {one.strip() for one in wrong.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}
    error_of(client.request("OPTIONS", "/v1/state"), 405, "wrong_method")


UNAVAILABLE = {"url": "redis://h", "problem": "it is away"}


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (LeaseLost(node="a"), 503, "lease_lost"),
        (NotPrimary(node="a"), 503, "not_primary"),
        (Fenced(5, 6, None), 409, "fenced"),
        (LogUnavailable(**UNAVAILABLE), 503, "log_unavailable"),
        (OutcomeUnknown(problem="it is away"), 504, "outcome_unknown"),
        (NotAcknowledged(id="5-1", problem="0 of 1 standbys"), 504, "not_acknowledged"),
        (TimeoutError(), 504, "outcome_unknown"),
        (LogLost(what="the log is gone"), 503, "log_lost"),
        (CorruptRecord(id="9-9", problem="no header"), 503, "corrupt_record"),
        (ChangeTooLarge(problem="300 KB"), 413, "change_too_large"),
        (NotJSON(what="the change", problem="NaN"), 422, "not_json"),
        (NotRunning("a"), 503, "not_running"),
        (WrongProcess(what="node a", owner=1, here=2), 500, "wrong_process"),
        (SnapshotFailed(problem="KeyError"), 500, "snapshot_failed"),
        (Stalled(id="5-7", problem="KeyError"), 500, "stalled"),
        (ReplicatorError("something else"), 500, "failed"),
    ],
)
def test_each_error_of_the_node_has_its_answer(
    client: TestClient, node: NodeInMemory, failure: Exception, status: int, code: str
) -> None:
    # given
    node.failure = failure
    # when
    answer = client.post("/v1/nodes", json={})
    # then
    error_of(answer, status, code, stamped=not isinstance(failure, WrongProcess))
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_node_that_was_not_started_has_facts_and_serves_nothing(tmp_path: Path) -> None:
    # given
    node = Node(Registry(), group="g", name="a", log=MemoryLog(MemoryRedis()), data_dir=tmp_path / "a")
    client = client_of(node)
    # when, then
    health = client.get("/health").json()
    assert (health["role"], health["term"], health["position"], health["in_sync"]) == ("standby", 0, "0-0", False)
    assert client.get("/ready").status_code == 503
    error_of(client.get("/v1/nodes"), 503, "not_running")
    error_of(client.get("/v1/state"), 503, "not_running")
    assert client.post("/v1/nodes", json={}).status_code == 503


def test_a_bug_is_answered_in_json_and_its_traceback_is_logged(
    client: TestClient, node: NodeInMemory, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    node.failure = ZeroDivisionError("secret detail")
    # when
    answer = client.post("/v1/nodes", json={})
    # then
    assert "secret detail" not in error_of(answer, 500, "internal")["message"]
    assert "ZeroDivisionError: secret detail" in caplog.text
    assert "POST /v1/nodes failed" in caplog.text


# --- Standbys -------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_standby_sends_a_write_to_the_primary(method: str, path: str) -> None:
    # given
    node = NodeInMemory(role="standby", primary_http="http://b:7002/")
    # when
    answer = client_of(node).request(method, f"{path}?x=a%20b&y", content=b"not read")
    # then
    body = error_of(answer, 307, "not_primary")
    assert answer.headers["location"] == body["location"] == f"http://b:7002{path}?x=a%20b&y"
    assert answer.headers["replicator-role"] == "standby"
    assert node.submitted == []


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_standby_without_a_primary_asks_to_come_back(method: str, path: str) -> None:
    answer = client_of(NodeInMemory(role="standby")).request(method, path)
    error_of(answer, 503, "not_primary")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_redirect_keeps_the_path_as_it_was_written() -> None:
    node = NodeInMemory(role="standby", primary_http="http://b:7002")
    assert client_of(node).delete("/v1/nodes/a%20b").headers["location"] == "http://b:7002/v1/nodes/a%20b"


def test_bytes_that_are_not_ascii_are_escaped_on_the_way_to_the_primary() -> None:
    # given a request as a server may pass it on
    node = NodeInMemory(role="standby", primary_http="http://b:7002")
    scope = {"type": "http", "raw_path": b"/v1/nod\xe9s", "query_string": b"after=\xff&x=%20+y", "headers": []}
    # then its place on the primary is a URL
    assert on_the_primary(node, Request(scope)) == "http://b:7002/v1/nod%E9s?after=%FF&x=%20+y"


def test_a_standby_serves_reads(node: NodeInMemory) -> None:
    # given
    client_of(node).post("/v1/nodes", json={"hostname": "web1"})
    node.role, node.primary_http = "standby", "http://b:7002"
    client = client_of(node)
    # then
    for path in ("/v1/nodes", "/v1/nodes/1", "/v1/networks", "/v1/state", "/health", "/ready"):
        assert client.get(path).status_code == 200


def test_a_primary_that_is_deposed_in_the_middle_of_a_write_redirects(client: TestClient, node: NodeInMemory) -> None:
    def depose(change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None) -> Any:
        node.role, node.term, node.primary_http = "standby", 6, "http://b:7002"
        raise Fenced(5, 6, "b")

    # given
    node.submit = depose  # type: ignore[method-assign]
    # when
    answer = client.post("/v1/nodes", json={})
    # then
    error_of(answer, 307, "not_primary")
    assert answer.headers["location"] == "http://b:7002/v1/nodes"
    assert answer.headers["replicator-term"] == "6"


@pytest.mark.parametrize("failure", [NotPrimary(node="a", primary="a"), LeaseLost(), Fenced(5, 6, "b")])
def test_a_node_that_takes_itself_for_the_primary_never_redirects(
    client: TestClient, node: NodeInMemory, failure: Exception
) -> None:
    node.failure, node.primary_http = failure, "http://a:7001"
    assert client.post("/v1/nodes", json={}).status_code in (409, 503)


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_primary_without_a_lease_refuses_a_write_before_it_reads_it(
    client: TestClient, node: NodeInMemory, method: str, path: str
) -> None:
    node.lease_ms, node.primary_http = None, "http://b:7002"
    error_of(client.request(method, path, content=b"not read"), 503, "lease_lost")
    assert node.submitted == []


# --- The term that a sender knows -----------------------------------------------------------------------------------


def test_a_write_with_the_current_term_is_taken(client: TestClient) -> None:
    assert client.post("/v1/nodes", json={}, headers={"Replicator-Term": "5"}).status_code == 201


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_write_with_another_term_than_the_current_is_refused(
    client: TestClient, node: NodeInMemory, method: str, path: str
) -> None:
    older = client.request(method, path, json={}, headers={"Replicator-Term": "4"})
    newer = client.request(method, path, json={}, headers={"Replicator-Term": "6"})
    assert error_of(older, 409, "stale_term", "Replicator-Term")["term"] == 5
    assert error_of(newer, 409, "unknown_term", "Replicator-Term")["term"] == 5
    assert node.submitted == []


def test_a_standby_refuses_an_older_term_and_leaves_a_newer_one_to_the_primary() -> None:
    client = client_of(NodeInMemory(role="standby", primary_http="http://b:7002"))
    older = client.post("/v1/nodes", json={}, headers={"Replicator-Term": "4"})
    newer = client.post("/v1/nodes", json={}, headers={"Replicator-Term": "6"})
    error_of(older, 409, "stale_term", "Replicator-Term")
    error_of(newer, 307, "not_primary")


@pytest.mark.parametrize("term", ["five", "-1", "", "1.0", "9" * 40])
def test_a_term_that_is_no_term_is_refused(client: TestClient, term: str) -> None:
    answer = client.post("/v1/nodes", json={}, headers={"Replicator-Term": term})
    error_of(answer, 400, "invalid_header", "Replicator-Term")


# --- Positions ------------------------------------------------------------------------------------------------------


def test_a_write_answers_with_a_position_at_or_after_it(client: TestClient) -> None:
    answer = client.post("/v1/nodes", json={})
    assert answer.headers["replicator-position"] == "5-1043"
    assert answer.headers["replicator-role"] == "primary"
    assert answer.headers["replicator-term"] == "5"


def test_a_read_answers_with_the_position_of_the_state_that_it_shows(client: TestClient, node: NodeInMemory) -> None:
    # given
    client.post("/v1/nodes", json={"hostname": "before"})
    look = node.registry.node

    def overtaken(number: int) -> Any:
        # A change that lands after the read but before its answer is sent.
        threading.Timer(0.0, node.submit, [{"op": "set_hostname", "id": 1, "hostname": "after"}]).start()
        return look(number)

    node.registry.node = overtaken  # type: ignore[method-assign]
    # when
    answer = client.get("/v1/nodes/1")
    # then
    assert (answer.json()["hostname"], answer.headers["replicator-position"]) == ("before", "5-1043")


def test_a_request_waits_for_the_position_that_it_names(client: TestClient, node: NodeInMemory) -> None:
    # given
    threading.Timer(0.03, node.submit, [{"op": "register", "hostname": "web1"}]).start()
    # when
    answer = client.get("/v1/nodes/1", headers={"Replicator-Wait": "5-1043"})
    # then
    assert answer.json()["hostname"] == "web1"
    assert answer.headers["replicator-position"] == "5-1043"
    assert node.waited == ["5-1043"]


def test_a_position_that_does_not_come_in_time_is_said_so(client: TestClient) -> None:
    error_of(client.get("/v1/nodes", headers={"Replicator-Wait": "5-9999"}), 504, "wait_timeout", "Replicator-Wait")


def test_a_position_that_a_failover_left_behind_is_a_conflict(client: TestClient, node: NodeInMemory) -> None:
    node.failure = PositionLost("5-1043", term=5, term_end="5-1042", next_term=6)
    error_of(client.get("/v1/nodes", headers={"Replicator-Wait": "5-1043"}), 409, "position_lost")


@pytest.mark.parametrize("position", ["", "5", "5-", "-5", "a-b", "5-1-2", " 5-1 x", "5-" + "9" * 30])
def test_a_position_that_is_none_is_refused_and_the_header_named(
    client: TestClient, node: NodeInMemory, position: str
) -> None:
    answer = client.get("/v1/nodes", headers={"Replicator-Wait": position})
    error_of(answer, 400, "invalid_header", "Replicator-Wait")
    assert node.waited == []


READS = ["/v1/nodes", "/v1/nodes/1", "/v1/networks", "/v1/state"]


@pytest.mark.parametrize("path", READS)
def test_a_read_may_ask_for_all_that_is_committed(client: TestClient, node: NodeInMemory, path: str) -> None:
    # given
    client.post("/v1/nodes", json={})
    # when
    for headers in ({"Replicator-Fresh": "1"}, {"Replicator-Fresh": "0"}, {}):
        assert client.get(path, headers=headers).status_code == 200
    # then
    assert node.fresh == [True, False, False]


@pytest.mark.parametrize("text", ["yes", "2", "", "true", "-1"])
def test_a_wish_for_a_fresh_read_that_is_none_is_refused(client: TestClient, node: NodeInMemory, text: str) -> None:
    answer = client.get("/v1/nodes", headers={"Replicator-Fresh": text})
    error_of(answer, 400, "invalid_header", "Replicator-Fresh")
    assert node.fresh == []


def test_a_fresh_read_that_nobody_can_give_in_time_is_said_so(client: TestClient, node: NodeInMemory) -> None:
    patience_s = []

    def nobody_leads(*, fresh: bool, timeout_s: float) -> Any:
        patience_s.append(timeout_s)
        raise TimeoutError("nobody leads the group")

    # given
    node.reading = nobody_leads  # type: ignore[method-assign]
    # when
    answer = client.get("/v1/nodes", headers={"Replicator-Fresh": "1"})
    # then
    assert "nobody leads" in error_of(answer, 504, "wait_timeout", "Replicator-Fresh")["message"]
    assert patience_s == [0.1]


def test_a_fresh_read_without_redis_is_unavailable(client: TestClient, node: NodeInMemory) -> None:
    def away(*, fresh: bool, timeout_s: float) -> Any:
        raise LogUnavailable(**UNAVAILABLE)

    node.reading = away  # type: ignore[method-assign]
    error_of(client.get("/v1/nodes", headers={"Replicator-Fresh": "1"}), 503, "log_unavailable")


# --- How far a write has to come ------------------------------------------------------------------------------------


def test_a_write_says_how_far_it_has_to_have_come(client: TestClient, node: NodeInMemory) -> None:
    client.post("/v1/nodes", json={}, headers={"Replicator-Ack": "applied:1"})
    client.patch("/v1/nodes/1", json={"tags": ["x"]}, headers={"Replicator-Ack": "fsynced"})
    client.post("/v1/changes", json={"op": "register"}, headers={"Replicator-Ack": "replicated:2"})
    client.put("/v1/state?force=1", content=DOCUMENT, headers={"Replicator-Ack": "applied:2"})
    client.delete("/v1/nodes/3")
    client.put("/v1/state?force=1", content=DOCUMENT)
    assert node.acks == ["applied:1", "fsynced", "replicated:2", "applied:2", None, None]


def test_a_document_that_did_not_come_as_far_as_was_asked_is_not_acknowledged(
    client: TestClient, node: NodeInMemory
) -> None:
    node.failure = NotAcknowledged(id="5-1043", problem="0 of 1 standbys say that they have it on their disks")
    answer = client.put("/v1/state", content=DOCUMENT, headers={"Replicator-Ack": "applied:1"})
    assert "0 of 1 standbys" in error_of(answer, 504, "not_acknowledged")["message"]


def test_a_level_that_is_none_is_refused(client: TestClient, node: NodeInMemory) -> None:
    node.failure = ConfigError(setting="ack", problem="'all' is none of appended, fsynced")
    answer = client.post("/v1/nodes", json={}, headers={"Replicator-Ack": "all"})
    assert "'all' is none of" in error_of(answer, 400, "invalid_header")["message"]


@pytest.mark.parametrize("level", ["applied:" + "9" * 5000, "", "applied:-1", "APPLIED:1", "applied:1,fsynced", "é"])
def test_a_level_of_another_form_is_refused_before_the_node_sees_it(
    client: TestClient, node: NodeInMemory, level: str
) -> None:
    headers = [("Replicator-Ack", level.encode())]
    for answer in (
        client.post("/v1/nodes", json={}, headers=headers),
        client.put("/v1/state", content=DOCUMENT, headers=headers),
    ):
        error_of(answer, 400, "invalid_header", "Replicator-Ack")
    assert node.acks == []


# --- Changes as the log has them ------------------------------------------------------------------------------------


def test_a_change_is_submitted_as_it_is(client: TestClient, node: NodeInMemory) -> None:
    # given
    change = {"op": "register", "hostname": "web1", "public_key": KEY}
    # when
    answer = client.post("/v1/changes", json=change)
    # then
    assert (answer.status_code, answer.json()) == (200, {"result": {"id": 1, "created": True}})
    assert answer.headers["replicator-position"] == "5-1043"
    assert node.submitted == [change], "nothing is stamped: it may be of another day"


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"null", b'[{"op":"register"}]'])
def test_a_change_that_is_no_object_is_refused(client: TestClient, node: NodeInMemory, body: bytes) -> None:
    error_of(client.post("/v1/changes", content=body), 422, "rejected")
    assert node.submitted == []


def test_a_change_that_is_not_json_or_too_long_is_refused(client: TestClient, node: NodeInMemory) -> None:
    error_of(client.post("/v1/changes", content=b"{"), 400, "invalid_json", "body")
    error_of(client.post("/v1/changes", content=b" " * BODY_BYTES_MAX + b"{}"), 413, "too_large", "body")
    assert node.submitted == []


def test_a_change_that_the_state_refuses_is_answered_like_any_write(client: TestClient) -> None:
    error_of(client.post("/v1/changes", json={"op": "no such thing"}), 422, "rejected", "op")
    error_of(client.post("/v1/changes", json={"op": "deregister", "id": 9}), 404, "unknown_id", "id")


def test_nothing_that_blocks_runs_on_the_event_loop(client: TestClient, node: NodeInMemory) -> None:
    client.post("/v1/nodes", json={})
    client.get("/v1/state", headers={"Replicator-Wait": "5-1043"})
    client.get("/v1/state", headers={"Replicator-Fresh": "1"})
    assert node.threads
    assert all(name.startswith("AnyIO worker") for name in node.threads)


# --- The whole document ---------------------------------------------------------------------------------------------

DOCUMENT = (
    b'{"version":1,"next_node":12,"next_net":1,'
    b'"nodes":{"10":{"score":1.5,"id":10,"networks":null},"2":{"id":2,"zeta":{"b":[1,null]},"networks":[0]}},'
    b'"networks":{"0":{"mtu":1400,"id":0,"members":[2],"created":"long ago"}},'
    b'"trust_pairs":["2:10"],"handshakes":{"9":[]},"audit":null}'
)


def with_term(document: bytes, term: Any) -> bytes:
    return document.replace(b'"version":1,', b'"version":1,"term":' + orjson.dumps(term) + b",", 1)


@pytest.mark.parametrize("document", [DOCUMENT, with_term(DOCUMENT, 0), with_term(DOCUMENT, 5)])
def test_a_document_comes_out_as_it_went_in_but_for_the_term(client: TestClient, document: bytes) -> None:
    # when
    loaded = client.put("/v1/state", content=document)
    # then
    assert loaded.json() == {"applied": True, "term": 5, "nodes": 2}
    assert loaded.headers["replicator-position"] == "5-1043"
    answer = client.get("/v1/state")
    assert answer.content == with_term(DOCUMENT, 5)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["replicator-position"] == "5-1043"


def test_a_node_without_a_term_gives_a_document_without_one() -> None:
    client = client_of(NodeInMemory(term=0))
    client.put("/v1/state", content=DOCUMENT)
    assert client.get("/v1/state").content == DOCUMENT


def test_a_stale_document_changes_nothing_and_is_logged_and_no_error(
    client: TestClient, node: NodeInMemory, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    before = client.get("/v1/state").content
    # when
    with caplog.at_level(logging.WARNING, logger="replicator.registry.api"):
        answer = client.put("/v1/state", content=with_term(DOCUMENT, 4))
    # then
    assert (answer.status_code, answer.json()) == (200, {"applied": False, "reason": "stale", "term": 5})
    assert answer.headers["replicator-position"] == "5-1042"
    assert client.get("/v1/state").content == before
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "term 4" in record.getMessage()
    assert "term is 5" in record.getMessage()


def test_a_term_that_nobody_issued_is_not_taken_over(client: TestClient, node: NodeInMemory) -> None:
    # given
    before = client.get("/v1/state").content
    # when
    answer = client.put("/v1/state", content=with_term(DOCUMENT, 2**40))
    # then
    assert error_of(answer, 409, "unknown_term", "term")["term"] == 5
    assert client.get("/v1/state").content == before
    assert node.term == 5


@pytest.mark.parametrize("term", [4, 2**40])
def test_any_term_is_loaded_if_asked_for_and_the_term_of_the_node_stays(client: TestClient, term: int) -> None:
    answer = client.put("/v1/state?any_term=1", content=with_term(DOCUMENT, term))
    assert answer.json()["applied"] is True
    assert client.get("/v1/state").json()["term"] == 5
    error_of(client.put("/v1/state?any_term=yes", content=DOCUMENT), 400, "invalid_query", "any_term")


@pytest.mark.parametrize(
    ("term", "current", "verdict"),
    [(0, 0, "load"), (0, 5, "load"), (5, 5, "load"), (4, 5, "stale"), (6, 5, "future"), (1, 0, "future")],
)
def test_the_verdict_on_a_document_follows_from_two_terms(term: int, current: int, verdict: str) -> None:
    assert document_verdict(term, current) == verdict


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (with_term(DOCUMENT, "5"), "term"),
        (with_term(DOCUMENT, -1), "term"),
        (DOCUMENT.replace(b'"networks":[0]', b'"networks":"0"'), "nodes.2.networks"),
        (DOCUMENT.replace(b'"next_node":12', b'"next_node":2'), "next_node"),
        (DOCUMENT.replace(b'"version":1', b'"version":2'), "version"),
    ],
)
def test_a_document_that_is_no_registry_is_refused_with_the_path(
    client: TestClient, node: NodeInMemory, document: bytes, name: str
) -> None:
    before = client.get("/v1/state").content
    error_of(client.put("/v1/state", content=document), 422, "invalid_document", name)
    assert client.get("/v1/state").content == before


@pytest.mark.parametrize(
    ("document", "missing"),
    [
        ({}, ["version", "nodes", "networks", "trust_pairs"]),
        ({"hostname": "db1", "owner": "ops"}, ["version", "nodes", "networks", "trust_pairs"]),
        ({"op": "register", "hostname": "x"}, ["version", "nodes", "networks", "trust_pairs"]),
        ({"version": 1, "term": 5, "nodes": {}, "trust_pairs": []}, ["networks"]),
        ({"version": 1, "Nodes": {}, "networks": {}, "trust_pairs": []}, ["nodes"]),
        ({"nodes": {}, "networks": {}, "trust_pairs": []}, ["version"]),
    ],
)
@pytest.mark.parametrize("query", ["", "?force=1", "?any_term=1"])
def test_what_lacks_a_member_of_a_document_is_none_however_it_is_sent(
    client: TestClient, node: NodeInMemory, document: Any, missing: list[str], query: str
) -> None:
    # given
    client.post("/v1/nodes", json={"hostname": "web1"})
    before = client.get("/v1/state")
    # when
    answer = client.put(f"/v1/state{query}", json=document, headers={"If-Match": before.headers["etag"]})
    # then
    body = error_of(answer, 400, "incomplete_document", missing[0])
    assert f"has no {', '.join(missing)}:" in body["message"]
    assert client.get("/v1/state").content == before.content


def test_a_state_that_is_not_empty_is_replaced_by_who_says_what_it_replaces(client: TestClient) -> None:
    # given
    client.post("/v1/nodes", json={"hostname": "web1"})
    seen = client.get("/v1/state")
    assert seen.headers["etag"] == f'"{seen.headers["replicator-position"]}"'
    # then
    refused = error_of(client.put("/v1/state", content=DOCUMENT), 428, "position_required", "If-Match")
    assert refused["position"] == "5-1043"
    assert client.get("/v1/state").content == seen.content
    answer = client.put("/v1/state", content=DOCUMENT, headers={"If-Match": seen.headers["etag"]})
    assert answer.json()["applied"] is True
    assert client.get("/v1/state").content == with_term(DOCUMENT, 5)


@pytest.mark.parametrize("tag", ['"5-1043"', 'W/"5-1043"', "5-1043", ' "5-1043" '])
def test_a_position_is_taken_as_an_entity_tag_or_as_it_is(client: TestClient, tag: str) -> None:
    client.post("/v1/nodes", json={"hostname": "web1"})
    assert client.put("/v1/state", content=DOCUMENT, headers={"If-Match": tag}).status_code == 200


@pytest.mark.parametrize("tag", ["*", "", '"5-1043', '"5-1043", "5-1044"', '"5"', "now"])
def test_what_is_no_position_is_refused_and_replaces_nothing(client: TestClient, tag: str) -> None:
    client.post("/v1/nodes", json={"hostname": "web1"})
    answer = client.put("/v1/state", content=DOCUMENT, headers={"If-Match": tag})
    error_of(answer, 400, "invalid_header", "If-Match")
    assert client.get("/v1/nodes/1").json()["hostname"] == "web1"


@pytest.mark.parametrize("query", ["", "?force=1"])
def test_a_state_that_moved_since_it_was_seen_is_not_replaced(client: TestClient, query: str) -> None:
    # given
    client.post("/v1/nodes", json={"hostname": "web1"})
    seen = client.get("/v1/state").headers["etag"]
    client.post("/v1/nodes", json={"hostname": "web2"})
    # when
    answer = client.put(f"/v1/state{query}", content=DOCUMENT, headers={"If-Match": seen})
    # then
    assert "5-1044" in error_of(answer, 412, "outdated")["message"]
    assert len(client.get("/v1/nodes").json()["nodes"]) == 2


def test_whatever_is_there_is_replaced_by_who_says_so(client: TestClient) -> None:
    client.post("/v1/nodes", json={"hostname": "web1"})
    assert client.put("/v1/state?force=1", content=DOCUMENT).json()["applied"] is True
    assert client.get("/v1/state").content == with_term(DOCUMENT, 5)
    error_of(client.put("/v1/state?force=yes", content=DOCUMENT), 400, "invalid_query", "force")


def test_what_comes_in_between_a_look_at_an_empty_state_and_its_replacement_is_kept(
    client: TestClient, node: NodeInMemory
) -> None:
    # given
    node.before_replacing = lambda: node.submit({"op": "register", "hostname": "web1"})
    # then
    error_of(client.put("/v1/state", content=DOCUMENT), 428, "position_required", "If-Match")
    assert client.get("/v1/nodes/1").json()["hostname"] == "web1"


def test_a_document_may_be_larger_than_other_bodies(client: TestClient) -> None:
    # given
    document = orjson.dumps(generate(3000, seed=1))
    assert len(document) > 2 * BODY_BYTES_MAX
    # then
    assert client.put("/v1/state", content=document).json()["nodes"] == 3000
    assert client.get("/v1/state").content == with_term(document, 5)


def test_a_load_that_fails_in_the_log_is_answered_like_any_write(client: TestClient, node: NodeInMemory) -> None:
    node.failure = OutcomeUnknown(problem="it is away")
    error_of(client.put("/v1/state", content=DOCUMENT), 504, "outcome_unknown")


# --- Health ---------------------------------------------------------------------------------------------------------


def test_health_says_where_the_node_is_and_is_200_whatever_it_says(client: TestClient, node: NodeInMemory) -> None:
    # given
    node.role, node.in_sync, node.lag, node.held_up, node.lease_ms = "standby", False, Lag(None, None), "a bug", None
    node.unready = Unready("stalled", "a bug")
    # when
    answer = client.get("/health")
    # then
    assert answer.status_code == 200
    assert answer.json() == {
        "name": "a",
        "group": "registry",
        "role": "standby",
        "leads": False,
        "term": 5,
        "position": "5-1042",
        "in_sync": False,
        "lag_records": None,
        "lag_seconds": None,
        "lease_ms": None,
        "stalled": "a bug",
        "ready": False,
        "problem": "a bug",
        "primary_http": None,
    }


def test_health_has_what_is_in_the_way_also_of_a_node_that_is_ready(client: TestClient, node: NodeInMemory) -> None:
    assert (client.get("/health").json()["ready"], client.get("/health").json()["problem"]) == (True, None)
    node.problem = "the disk is full"
    assert (client.get("/health").json()["ready"], client.get("/health").json()["problem"]) == (True, node.problem)


def test_a_node_that_cannot_do_its_work_is_not_ready_and_says_why(client: TestClient, node: NodeInMemory) -> None:
    for node.role in ("primary", "standby"):
        node.unready = None
        assert client.get("/ready").json() == {"ready": True, "role": node.role}
        node.unready = Unready("behind", "400 records behind")
        answer = client.get("/ready")
        assert error_of(answer, 503, "behind")["message"] == "400 records behind"
        assert "retry-after" in answer.headers


# --- Many at once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many places the pools of applications made from now on have; empty: what they have anyway."""
    places: dict[str, int] = {}
    made = Pool.__init__

    def smaller(self: Pool, what: str, *, places: int, threads: int) -> None:
        made(self, what, places=sizes.get(what, places), threads=threads)

    sizes = places
    monkeypatch.setattr(Pool, "__init__", smaller)
    return places


class Crowd:
    """Clients of one application, all of them on one event loop, as on a server."""

    def __init__(self, node: NodeInMemory) -> None:
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(registry_app(node, wait_timeout_s=60)), base_url="http://a:7001", timeout=None
        )

    def asks(self, method: str, path: str, **options: Any) -> asyncio.Task[httpx.Response]:
        return asyncio.ensure_future(self.client.request(method, path, **options))

    async def answer(self, *requests: asyncio.Task[httpx.Response]) -> list[httpx.Response]:
        return list(await asyncio.wait_for(asyncio.gather(*requests), PATIENCE_S))


async def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_writers_that_wait_keep_out_no_reader_and_no_other_writer_and_are_no_threads(node: NodeInMemory) -> None:
    async def crowd() -> None:
        acknowledged, waiting = asyncio.Event(), []

        async def wait() -> None:
            waiting.append(1)
            await acknowledged.wait()

        crowd, before = Crowd(node), threading.active_count()
        node.writes_wait = wait
        writers = [crowd.asks("POST", "/v1/nodes", json={}) for _ in range(600)]
        await until(lambda: len(waiting) == 600)
        assert threading.active_count() == before
        assert [one.status_code for one in await crowd.answer(crowd.asks("GET", "/v1/nodes"))] == [200]
        node.writes_wait = functools.partial(asyncio.sleep, 0)
        assert [one.status_code for one in await crowd.answer(crowd.asks("POST", "/v1/nodes", json={}))] == [201]
        acknowledged.set()
        assert {one.status_code for one in await crowd.answer(*writers)} == {201}

    asyncio.run(crowd())


def test_a_pool_that_is_full_says_so_at_once_and_the_others_go_on(node: NodeInMemory, pools: dict[str, int]) -> None:
    async def crowd() -> None:
        pools.update({"writes": 2, "requests that wait for a position": 3, "replacements of the state": 1})
        crowd, go_on, let_in = Crowd(node), asyncio.Event(), threading.Event()
        node.writes_wait = go_on.wait
        node.before_replacing = lambda: let_in.wait(PATIENCE_S)
        later = {"Replicator-Wait": "5-1043"}
        under_way = [
            *(crowd.asks("POST", "/v1/nodes", json={}) for _ in range(2)),
            *(crowd.asks("GET", "/v1/nodes", headers=later) for _ in range(3)),
            crowd.asks("PUT", "/v1/state?force=1", content=DOCUMENT),
        ]
        await until(lambda: len(node.waited) == 3)
        await until(lambda: node.acks == [None])  # the replacement
        refused = await crowd.answer(
            crowd.asks("PATCH", "/v1/nodes/1", json={}),
            crowd.asks("POST", "/v1/changes", content=b"x" * 100_000),
            crowd.asks("GET", "/v1/nodes", headers=later),
            crowd.asks("GET", "/v1/nodes", headers={"Replicator-Fresh": "1"}),
            crowd.asks("PUT", "/v1/state?force=1", content=DOCUMENT),
        )
        for answer in refused:
            assert "try again" in error_of(answer, 503, "busy")["message"]
            assert int(answer.headers["retry-after"]) >= 1
        others = await crowd.answer(*(crowd.asks("GET", path) for path in ("/v1/nodes", "/v1/state", "/ready")))
        assert [answer.status_code for answer in others] == [200, 200, 200]
        go_on.set()
        let_in.set()
        assert [answer.status_code for answer in await crowd.answer(*under_way)] == [201, 201, 200, 200, 200, 200]
        again = crowd.asks("POST", "/v1/nodes", json={}), crowd.asks("GET", "/v1/nodes", headers=later)
        assert [answer.status_code for answer in await crowd.answer(*again)] == [201, 200]

    asyncio.run(crowd())


# --- On a real socket -----------------------------------------------------------------------------------------------


def test_large_bodies_get_their_answers_over_a_real_connection(node: NodeInMemory) -> None:
    # given
    document = orjson.dumps(generate(3000, seed=1))
    with WebServer(registry_app(node)) as server, httpx.Client(base_url=server.url) as client:
        # then
        answer = client.put("/v1/state", content=document)
        assert answer.json()["applied"] is True
        assert client.get("/v1/state").content == with_term(document, 5)
        error_of(client.post("/v1/nodes", content=b"x" * (5 * BODY_BYTES_MAX)), 413, "too_large", "body")
        node.role, node.primary_http = "standby", "http://127.0.0.1:1"
        error_of(client.put("/v1/state", content=document), 307, "not_primary")
        assert client.get("/health").json()["role"] == "standby"


def test_a_request_that_waits_does_not_hold_up_the_end_of_the_server(node: NodeInMemory) -> None:
    # given
    server = WebServer(registry_app(node, wait_timeout_s=30))
    server.start()

    def patient() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{server.url}/v1/nodes", headers={"Replicator-Wait": "9-9999"}, timeout=60)

    reader = threading.Thread(target=patient, daemon=True)
    reader.start()
    time.sleep(0.2)
    # when
    began = time.monotonic()
    server.stop()
    # then
    assert time.monotonic() - began < 5
    node.position = Position(9, 9999)
