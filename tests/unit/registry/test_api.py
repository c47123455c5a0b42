"""The registry's HTTP API, over a node in memory that applies what it is given at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

import replicator
from bench.registry_data import generate
from replicator.errors import (
    ChangeTooLarge,
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
    ReplicatorError,
    SnapshotFailed,
    Stalled,
    WrongProcess,
)
from replicator.format import large_json
from replicator.node.health import Unready
from replicator.node.node import Node
from replicator.registry.api import BODY_BYTES_MAX, registry_app
from replicator.registry.state import Registry
from replicator.runtime import gil
from replicator.testing import MemoryLog, MemoryRedis
from replicator.web.server import WebServer
from tests.support import plain_http
from tests.support.kv import PATIENCE_S, eventually
from tests.support.registry_api import (
    KEY,
    UNAVAILABLE,
    Lag,
    NodeInMemory,
    Position,
    TestClient,
    client_of,
    error_of,
    with_term,
)


def node_of(client: TestClient, number: int) -> Any:
    return client.get(f"/v1/nodes/{number}").json()


# --- Nodes ------------------------------------------------------------------------------------------------------------


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


# --- Networks and trust -----------------------------------------------------------------------------------------------


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


# --- What is refused --------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (LeaseLost(node="a"), 503, "lease_lost"),
        (NotPrimary(node="a"), 503, "not_primary"),
        (Fenced(5, 6, None), 409, "fenced"),
        (LogUnavailable(**UNAVAILABLE), 503, "log_unavailable"),
        (OutcomeUnknown(problem="it is away"), 504, "outcome_unknown"),
        (NotAcknowledged(id="5-1", problem="0 of 1 standby"), 504, "not_acknowledged"),
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


# --- Changes as the log has them --------------------------------------------------------------------------------------


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


def test_a_change_is_decoded_in_one_go_and_the_event_loop_never_pauses(
    client: TestClient, node: NodeInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(large_json, "loads", None)
    monkeypatch.setattr(gil, "let_others_run", None)
    monkeypatch.setattr(gil, "YIELD_EVERY_S", 0.0)
    members = b",".join(b'"%d":{}' % number for number in range(80_000))
    assert len(members) > large_json.SLICED_FROM_BYTES
    # when, then
    error_of(client.post("/v1/changes", content=b'{"op":"register",%b}' % members), 422, "rejected", "0")
    error_of(client.post("/v1/nodes", content=b"{%b}" % members), 422, "rejected", "0")


def test_a_change_that_the_state_refuses_is_answered_like_any_write(client: TestClient) -> None:
    error_of(client.post("/v1/changes", json={"op": "no such thing"}), 422, "rejected", "op")
    error_of(client.post("/v1/changes", json={"op": "deregister", "id": 9}), 404, "unknown_id", "id")


def test_nothing_that_blocks_runs_on_the_event_loop(client: TestClient, node: NodeInMemory) -> None:
    client.post("/v1/nodes", json={})
    client.get("/v1/state", headers={"Replicator-Wait": "5-1043"})
    client.get("/v1/state", headers={"Replicator-Fresh": "1"})
    assert node.threads
    assert all(name.startswith("AnyIO worker") for name in node.threads)


@pytest.mark.parametrize("path", ["/v1/nodes/1", "/v1/nodes?limit=1"])
def test_a_quick_read_that_waits_for_nobody_needs_no_thread(client: TestClient, node: NodeInMemory, path: str) -> None:
    client.post("/v1/nodes", json={})
    for headers in ({}, {"Replicator-Wait": "5-1043"}):
        assert client.get(path, headers=headers).status_code == 200
    assert node.fresh == [False, False]
    assert not node.threads


# --- Health -----------------------------------------------------------------------------------------------------------


def test_health_says_where_the_node_is_and_is_200_whatever_it_says(client: TestClient, node: NodeInMemory) -> None:
    # given
    node.role, node.in_sync, node.lag, node.state_problem, node.lease_ms = (
        "standby",
        False,
        Lag(None, None),
        "a bug",
        None,
    )
    node.unready = Unready("stalled", "a bug")
    # when
    answer = client.get("/health")
    # then
    assert answer.status_code == 200
    assert answer.json() == {
        "node": "a",
        "group": "registry",
        "role": "standby",
        "leads": False,
        "term": 5,
        "position": "5-1042",
        "in_sync": False,
        "lag_records": None,
        "lag_ms": None,
        "stale_ms": 0,
        "lease_ms": None,
        "state_problem": "a bug",
        "ready": False,
        "problem": "a bug",
        "primary_http": None,
        "heartbeat_age_ms": 10,
        "app": "kv",
        "version": 2,
        "reads_min": 1,
        "reads_max": 2,
        "group_version": 1,
        "library_version": replicator.__version__,
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


# --- On a real socket -------------------------------------------------------------------------------------------------


def test_large_bodies_get_their_answers_over_a_real_connection(node: NodeInMemory) -> None:
    # given
    document = orjson.dumps(generate(3000, seed=1))
    with WebServer(registry_app(node)) as server, plain_http.Client(base_url=server.url, timeout=PATIENCE_S) as client:
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
    server = WebServer(registry_app(node, wait_timeout_s=PATIENCE_S))
    server.start()

    def patient() -> None:
        with contextlib.suppress(httpx.HTTPError):
            plain_http.get(f"{server.url}/v1/nodes", headers={"Replicator-Wait": "9-9999"}, timeout=300)

    reader = threading.Thread(target=patient, daemon=True)
    reader.start()
    eventually(lambda: node.waited, "the request")
    # when
    began = time.monotonic()
    server.stop()
    # then
    assert time.monotonic() - began < PATIENCE_S / 2
    node.position = Position(9, 9999)
