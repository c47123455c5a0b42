"""The whole registry over HTTP: as a document that goes out, and one that is loaded."""

from __future__ import annotations

import gc
import logging
import threading
from typing import Any

import orjson
import pytest

from bench.registry_data import generate
from replicator.errors import OutcomeUnknown
from replicator.format.large_json import SLICE_BYTES
from replicator.registry import api
from replicator.registry.api import BODY_BYTES_MAX, document_verdict
from replicator.registry.loading import give_up
from replicator.registry.tables import NODES_PER_PIECE
from replicator.runtime import gil
from replicator.runtime.gc_pause import HOLD_COLLECTOR_FROM_BYTES, HeldCollector
from replicator.state.release import SLICE
from tests.support.kv import eventually
from tests.support.registry_api import DOCUMENT, NodeInMemory, TestClient, client_of, error_of, with_term


@pytest.mark.parametrize("document", [DOCUMENT, with_term(DOCUMENT, 0), with_term(DOCUMENT, 5)])
def test_a_document_comes_out_as_it_went_in_but_for_the_term(client: TestClient, document: bytes) -> None:
    # when
    loaded = client.put("/v1/state", content=document)
    # then
    assert loaded.json() == {"applied": True, "term": 5, "node_count": 2}
    assert loaded.headers["replicator-position"] == "5-1043"
    answer = client.get("/v1/state")
    assert answer.content == with_term(DOCUMENT, 5)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["replicator-position"] == "5-1043"


def test_others_run_while_a_large_document_is_taken_apart(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    document, pauses = orjson.dumps(generate(2000, seed=1)), []
    monkeypatch.setattr(gil, "YIELD_EVERY_S", 0.0)
    monkeypatch.setattr(gil, "let_others_run", lambda *_: pauses.append(threading.current_thread().name))
    # when
    loaded = client.put("/v1/state", content=document)
    # then
    assert loaded.json()["node_count"] == 2000
    assert client.get("/v1/state").content == with_term(document, 5)
    slices, pieces = len(document) / 2 / SLICE_BYTES, 2000 / NODES_PER_PIECE
    assert len(pauses) > slices + pieces
    assert all(name.startswith("AnyIO worker") for name in pauses)


def test_the_collector_is_held_until_a_large_document_is_drawn_and_freezes_nothing(
    client: TestClient, node: NodeInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(api, "HOLD_COLLECTOR_FROM_BYTES", 1000)
    on: list[bool] = []
    node.before_replacing = node.after_replacing = lambda: on.append(gc.isenabled())
    frozen = gc.get_freeze_count()
    # when
    client.put("/v1/state?force=1", content=orjson.dumps(generate(20, seed=1)))
    client.put("/v1/state?force=1", content=DOCUMENT)
    # then
    assert on == [False, True, len(DOCUMENT) < 1000, True]
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen  # of what is frozen some may be let go


@pytest.mark.parametrize("is_json", [True, False])
def test_a_large_document_that_is_refused_freezes_nothing_and_the_collector_is_back_when_it_is_freed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, is_json: bool
) -> None:
    # given
    document = generate(1000, seed=1)
    document["nodes"]["7"]["tags"] = "none"
    held, holds = [], HeldCollector.hold
    monkeypatch.setattr(HeldCollector, "hold", lambda it: (held.append(it), holds(it)))
    frozen = gc.get_freeze_count()
    body = with_term(orjson.dumps(document), 5) + bytes(HOLD_COLLECTOR_FROM_BYTES).replace(b"\0", b" ")
    # when
    answer = client.put("/v1/state?force=1", content=body if is_json else body + b"]")
    # then
    assert answer.status_code == (422 if is_json else 400)
    eventually(gc.isenabled, "the collector")
    assert gc.get_freeze_count() <= frozen  # of what is frozen some may be let go
    assert len(held) == 1
    assert not HeldCollector._holders


def test_trust_pairs_are_given_up_in_slices_too() -> None:
    # given
    pairs = [f"{number}:{number + 1}" for number in range(5 * SLICE)]
    done: list[int] = []
    # when
    give_up({"trust_pairs": pairs, "nodes": {}}, lambda: done.append(threading.get_ident()))
    # then
    eventually(lambda: done, "the end of them")
    assert pairs == []
    assert done != [threading.get_ident()]
    give_up([], lambda: done.append(0))
    assert done[1:] == [0]


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
    told = answer.json()
    assert "term 4 is over" in told.pop("message")
    assert (answer.status_code, told) == (200, {"applied": False, "term": 5})
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
    assert client.put("/v1/state", content=document).json()["node_count"] == 3000
    assert client.get("/v1/state").content == with_term(document, 5)


def test_a_load_that_fails_in_the_log_is_answered_like_any_write(client: TestClient, node: NodeInMemory) -> None:
    node.failure = OutcomeUnknown(problem="it is away")
    error_of(client.put("/v1/state", content=DOCUMENT), 504, "outcome_unknown")
