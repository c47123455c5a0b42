"""`Idempotency-Key`: a write that is sent again changes nothing, and gets the answer of the first (G10)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import replicator.registry.api
from replicator.errors import ResultNotKept
from tests.support.registry_api import KEY, NodeInMemory, TestClient, client_of, error_of

HOST = {"public_key": KEY, "hostname": "web1"}


def sent(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_a_repeat_has_the_answer_of_the_first_and_changes_nothing(
    client: TestClient, node: NodeInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given that each attempt is stamped with another time
    times = itertools.count()
    monkeypatch.setattr(replicator.registry.api, "now", lambda: f"2026-01-01T00:00:{next(times):02}Z")
    first = client.post("/v1/nodes", json=HOST, headers=sent('"k"'))
    assert (first.status_code, first.json()["created"]) == (201, True)
    for _ in range(3):
        again = client.post("/v1/nodes", json=HOST, headers=sent('"k"'))
        assert (again.status_code, again.json()) == (first.status_code, first.json())
    # without the key it is there already
    assert client.post("/v1/nodes", json=HOST).status_code == 200
    assert len(node.registry.nodes(after=-1, limit=10)) == 1


def test_a_repeat_of_a_write_that_was_refused_is_refused_in_the_same_way(client: TestClient) -> None:
    for _ in range(2):
        answer = client.patch("/v1/nodes/9", json={"hostname": "x"}, headers=sent('"k"'))
        error_of(answer, 404, "unknown_id", "id")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/nodes", {**HOST, "hostname": "web2"}),
        ("POST", "/v1/nodes?a=1", HOST),
        ("POST", "/v1/networks", HOST),
        ("PATCH", "/v1/nodes/1", HOST),
    ],
)
def test_another_request_with_that_key_is_refused(client: TestClient, method: str, path: str, body: Any) -> None:
    client.post("/v1/nodes", json=HOST, headers=sent('"k"'))
    error_of(client.request(method, path, json=body, headers=sent('"k"')), 422, "key_reused")


@pytest.mark.parametrize(
    "key",
    ["k", "", '""', "'k'", '"k', 'k"', '"k"x', '"k";a=1', '"a","b"', '"é"', '"a\\b"', '"' + "k" * 257 + '"', ":a2V5:"],
)
def test_what_is_no_string_is_refused_before_anything_is_written(
    client: TestClient, node: NodeInMemory, key: str
) -> None:
    answer = client.post("/v1/nodes", json=HOST, headers={"Idempotency-Key": key.encode()})
    error_of(answer, 400, "invalid_header", "Idempotency-Key")
    assert node.submitted == []


def test_two_keys_are_none(client: TestClient) -> None:
    headers = [("Idempotency-Key", '"a"'), ("Idempotency-Key", '"b"')]
    error_of(client.post("/v1/nodes", json=HOST, headers=headers), 400, "invalid_header", "Idempotency-Key")


@pytest.mark.parametrize(
    "key", ['"k"', ' "k" ', '"8e03978e-40d5-43e8-bc93-6894a57f9324"', r'"a \"b\" \\ c"', '"' + "k" * 256 + '"']
)
def test_a_string_is_a_key(client: TestClient, node: NodeInMemory, key: str) -> None:
    for _ in range(2):
        assert client.post("/v1/changes", json={"op": "register"}, headers=sent(key)).status_code == 200
    assert len(node.ledger) == 1
    assert len(node.registry.nodes(after=-1, limit=10)) == 1


def test_a_result_that_was_not_kept_is_said(node: NodeInMemory) -> None:
    node.failure = ResultNotKept(key="k", id="5-1042")
    answer = client_of(node).post("/v1/nodes", json=HOST, headers=sent('"k"'))
    assert "was committed at 5-1042" in error_of(answer, 409, "result_not_kept")["message"]


@pytest.mark.parametrize("more", [{}, {"If-Match": '"5-1042"'}])
def test_a_whole_state_takes_no_key_and_is_not_written(
    client: TestClient, node: NodeInMemory, more: dict[str, str]
) -> None:
    document, before = client.get("/v1/state").json(), node.position
    answer = client.put("/v1/state?force=1", json=document, headers={**sent('"k"'), **more})
    assert "without a key" in error_of(answer, 400, "invalid_header", "Idempotency-Key")["message"]
    assert node.position == before


def test_a_read_takes_no_notice_of_a_key(client: TestClient) -> None:
    assert client.get("/v1/nodes", headers=sent("k")).status_code == 200
