"""What requests and answers say of positions, terms and levels, on the primary and on standbys."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from replicator.errors import ConfigError, Fenced, LeaseLost, LogUnavailable, NotAcknowledged, NotPrimary, PositionLost
from replicator.web.head import Head
from replicator.web.redirect import on_the_primary
from tests.support.kv import PATIENCE_S, eventually
from tests.support.registry_api import DOCUMENT, UNAVAILABLE, WRITES, NodeInMemory, TestClient, client_of, error_of

# --- Standbys ---------------------------------------------------------------------------------------------------------


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
    head = Head("GET", "/v1/nod?s", b"/v1/nod\xe9s", b"after=\xff&x=%20+y", None, "", False)
    # then its place on the primary is a URL
    assert on_the_primary(node, head) == "http://b:7002/v1/nod%E9s?after=%FF&x=%20+y"


def test_a_standby_serves_reads(node: NodeInMemory) -> None:
    # given
    client_of(node).post("/v1/nodes", json={"hostname": "web1"})
    node.role, node.primary_http = "standby", "http://b:7002"
    client = client_of(node)
    # then
    for path in ("/v1/nodes", "/v1/nodes/1", "/v1/networks", "/v1/state", "/health", "/ready"):
        assert client.get(path).status_code == 200


def test_a_primary_that_is_deposed_in_the_middle_of_a_write_redirects(client: TestClient, node: NodeInMemory) -> None:
    def depose(change: Any, **options: Any) -> Any:
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


# --- The term that a sender knows -------------------------------------------------------------------------------------


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


# --- Positions --------------------------------------------------------------------------------------------------------


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


def test_a_request_waits_for_the_position_that_it_names(node: NodeInMemory) -> None:
    # given
    client = client_of(node, wait_timeout_s=PATIENCE_S)

    def write_once_it_waits() -> None:
        eventually(lambda: node.waited)
        node.submit({"op": "register", "hostname": "web1"})

    threading.Thread(target=write_once_it_waits).start()
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

    def nobody_leads(*, fresh: bool, timeout_s: float, blocks: bool) -> Any:
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
    def away(*, fresh: bool, timeout_s: float, blocks: bool) -> Any:
        raise LogUnavailable(**UNAVAILABLE)

    node.reading = away  # type: ignore[method-assign]
    error_of(client.get("/v1/nodes", headers={"Replicator-Fresh": "1"}), 503, "log_unavailable")


# --- How far a write has to come --------------------------------------------------------------------------------------


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
    node.failure = NotAcknowledged(id="5-1043", problem="0 of 1 standby says that it has it on its disk")
    answer = client.put("/v1/state", content=DOCUMENT, headers={"Replicator-Ack": "applied:1"})
    assert "0 of 1 standby" in error_of(answer, 504, "not_acknowledged")["message"]


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
