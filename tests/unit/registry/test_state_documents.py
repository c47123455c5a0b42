"""Documents of the registry: there and back, what is none, and those that bench/ generates."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import orjson
import pytest

from bench.registry_data import generate
from replicator.errors import ChangeRejected
from replicator.registry.document import InvalidDocument, document_of, term_of
from replicator.registry.loading import AT_ONCE, pieces_of
from replicator.registry.state import Registry
from replicator.registry.tables import NODES_PER_PIECE
from replicator.runtime import gil
from tests.support.kv import PATIENCE_S
from tests.support.registry import STORE_FILE, document, encoded, key, loaded

# --- Documents --------------------------------------------------------------------------------------------------------


def test_members_that_are_not_known_survive_byte_for_byte_in_their_order() -> None:
    # given
    registry = loaded(orjson.loads(STORE_FILE))
    # then
    assert b"".join(registry.document(7)) == STORE_FILE
    assert b"".join(document_of(registry.snapshot(), 7)) == STORE_FILE


def test_members_that_are_not_known_survive_changes() -> None:
    # given
    registry = loaded(orjson.loads(STORE_FILE))
    # when
    registry.apply({"op": "set_tags", "id": 2, "tags": ["x"]})
    registry.apply({"op": "leave", "network": 3, "node": 10})
    # then
    whole = document(registry)
    assert whole["nodes"]["2"] == {"zeta": {"b": [1, None, {}], "a": "é"}, "id": 2, "tags": ["x"], "networks": [3, 0]}
    assert whole["networks"]["3"]["colour"] == "red"
    assert whole["networks"]["3"]["members"] == [2, 11]
    assert whole["handshakes"] == {"9": []}


def test_a_whole_document_is_a_piece_too() -> None:
    # given
    registry = Registry()
    # when
    registry.restore([orjson.loads(STORE_FILE)])
    # then
    assert b"".join(registry.document(7)) == STORE_FILE


def test_a_term_is_written_unless_it_is_zero_and_absent_means_zero(registry: Registry) -> None:
    assert document(registry, 5)["term"] == 5
    assert "term" not in document(registry, 0)
    assert "term" not in next(registry.snapshot())
    assert [term_of(one) for one in ({}, {"term": None}, {"term": 0}, {"term": 9})] == [0, 0, 0, 9]
    with pytest.raises(InvalidDocument):
        term_of({"term": "9"})


def test_a_document_without_counters_gets_counters_above_every_id_that_it_names() -> None:
    # given
    registry = loaded(
        {
            "nodes": {"1": {"networks": [7]}},
            "networks": {"2": {"members": [4], "member_roles": {"6": "owner"}}},
            "trust_pairs": ["5:1"],
        }
    )
    # then
    whole = document(registry)
    assert (whole["next_node"], whole["next_net"]) == (7, 8)
    assert whole["trust_pairs"] == ["1:5"]


def test_a_node_that_a_network_names_but_that_is_not_there_can_leave_and_the_network_can_go() -> None:
    # given
    registry = loaded({"networks": {"0": {"members": [4, 5]}}})
    # when
    registry.apply({"op": "leave", "network": 0, "node": 4})
    registry.apply({"op": "delete_network", "id": 0})
    # then
    assert document(registry)["networks"] == {}


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ([], None),
        ("text", None),
        (None, None),
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"term": -1}, "term"),
        ({"term": "1"}, "term"),
        ({"next_node": "1"}, "next_node"),
        ({"next_node": 1, "nodes": {"1": {}}}, "next_node"),
        ({"next_node": 2, "trust_pairs": ["1:2"]}, "next_node"),
        ({"next_net": 0, "networks": {"0": {}}}, "next_net"),
        ({"nodes": {str(2**53 - 1): {}}}, "next_node"),
        ({"trust_pairs": [f"1:{2**53 - 1}"]}, "next_node"),
        ({"networks": {str(2**53 - 1): {}}}, "next_net"),
        ({"nodes": []}, "nodes"),
        ({"nodes": {"x": {}}}, "nodes.x"),
        ({"nodes": {"01": {}}}, "nodes.01"),
        ({"nodes": {"1": []}}, "nodes.1"),
        ({"nodes": {"1": {"id": 2}}}, "nodes.1.id"),
        ({"nodes": {"1": {"hostname": 5}}}, "nodes.1.hostname"),
        ({"nodes": {"1": {"tags": ["a", 1]}}}, "nodes.1.tags"),
        ({"nodes": {"1": {"networks": ["0"]}}}, "nodes.1.networks"),
        ({"nodes": {"1": {"networks": [-1]}}}, "nodes.1.networks"),
        ({"nodes": {"1": {"public": "yes"}}}, "nodes.1.public"),
        ({"nodes": {"1": {"hostname": "h"}, "2": {"hostname": "h"}}}, "nodes.2.hostname"),
        ({"nodes": {"1": {"public_key": "AA=="}, "2": {"public_key": "AA=="}}}, "nodes.2.public_key"),
        ({"networks": {"0": {"members": [True]}}}, "networks.0.members"),
        ({"networks": {"0": {"members": [1, 1]}}}, "networks.0.members"),
        ({"networks": {"0": {"member_roles": {"1": 1}}}}, "networks.0.member_roles"),
        ({"networks": {"0": {"member_roles": {"x": "y"}}}}, "networks.0.member_roles.x"),
        ({"networks": {"0": {"name": "n"}, "1": {"name": "n"}}}, "networks.1.name"),
        ({"trust_pairs": {}}, "trust_pairs"),
        ({"trust_pairs": ["1:2", "3"]}, "trust_pairs[1]"),
        ({"trust_pairs": ["1:1"]}, "trust_pairs[0]"),
        ({"trust_pairs": [f"1:{n}" for n in range(2, 2500)] + ["1:1"]}, "trust_pairs[2498]"),
        ({"trust_pairs": ["1:02"]}, "trust_pairs[0]"),
    ],
)
def test_a_document_that_is_not_a_registry_is_refused_with_the_path_of_what_is_wrong(
    registry: Registry, source: Any, path: str | None
) -> None:
    # given
    before = encoded(registry)
    # when
    with pytest.raises(InvalidDocument) as from_pieces_of:
        pieces_of(source)
    with pytest.raises(InvalidDocument) as from_restore:
        registry.restore([source])
    # then
    assert from_pieces_of.value.field == from_restore.value.field == path
    assert encoded(registry) == before


def test_a_document_is_looked_at_in_small_steps_and_others_run_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(gil, "YIELD_EVERY_S", 0.0)
    monkeypatch.setattr(gil, "let_others_run", lambda: pauses.append(1))
    whole = generate(5000, seed=1)
    pieces = list(pieces_of(whole))
    steps = [math.ceil(len(whole[name]) / size) for name, size in AT_ONCE.items()]
    assert min(steps) > 1
    assert len(pauses) == 1 + sum(steps)
    # It comes to the same as in one step.
    assert pieces == list(loaded(whole).snapshot())


@pytest.mark.parametrize("piece", [{}, [], {"version": 1}, {"nodes": {}, "networks": {}}])
def test_a_later_piece_holds_entries_of_one_kind(registry: Registry, piece: Any) -> None:
    with pytest.raises(InvalidDocument, match="one of nodes, networks, trust_pairs"):
        registry.restore([{}, piece])


@pytest.mark.parametrize("kind", ["nodes", "networks"])
def test_nothing_is_in_two_pieces(registry: Registry, kind: str) -> None:
    with pytest.raises(InvalidDocument, match="is there twice") as twice:
        registry.restore([{}, {kind: {"1": {}}}, {kind: {"1": {}}}])
    assert twice.value.field == f"{kind}.1"


def usual(node: int, **members: Any) -> dict[str, Any]:
    """A record as the check by columns takes it."""
    record = {"id": node, "public_key": key(node % 256), "hostname": f"h{node}", "networks": [0], "tags": ["a"]}
    return {**record, "lan_addrs": ["b"], **members}


@pytest.mark.parametrize(
    ("key_", "record", "path"),
    [
        ("2", usual(2, owner=5), "nodes.2.owner"),
        ("2", usual(2, hostname=["h"]), "nodes.2.hostname"),
        ("2", usual(2, public=1), "nodes.2.public"),
        ("2", usual(2, id=True), "nodes.2.id"),
        ("2", usual(2, tags={"a": 1}), "nodes.2.tags"),
        ("2", usual(2, tags=[1]), "nodes.2.tags"),
        ("2", usual(2, lan_addrs=["a", None]), "nodes.2.lan_addrs"),
        ("2", usual(2, networks=["0"]), "nodes.2.networks"),
        ("2", usual(2, networks=[True]), "nodes.2.networks"),
        ("2", usual(2, networks=[0, -1]), "nodes.2.networks"),
        ("2", usual(2, networks=[2**53]), "nodes.2.networks"),
        ("2", usual(3), "nodes.2.id"),
        ("02", usual(2), "nodes.02"),
        ("-2", usual(-2), "nodes.-2"),
        ("x", usual(2), "nodes.x"),
        (str(2**53), usual(2, id=2**53), f"nodes.{2**53}"),
        ("2", [], "nodes.2"),
        ("2", usual(2, public_key=key(1)), "nodes.2.public_key"),
        ("2", usual(2, hostname="h1"), "nodes.2.hostname"),
        ("2", usual(2, public_key=key(9)), "nodes.2.public_key"),
        ("2", usual(2, hostname="h9"), "nodes.2.hostname"),
    ],
)
def test_one_wrong_record_among_usual_ones_is_found(registry: Registry, key_: str, record: Any, path: str) -> None:
    # given a piece that was right, and one with the wrong record in its middle
    before = encoded(registry)
    piece = {"1": usual(1), key_: record, "5": usual(5)}
    # then it is named, and nothing else is
    with pytest.raises(InvalidDocument) as wrong:
        registry.restore([{}, {"nodes": {"9": usual(9)}}, {"nodes": piece}])
    assert wrong.value.field == path
    assert encoded(registry) == before


def test_records_are_taken_one_by_one_where_they_are_not_as_usual_and_nothing_is_lost() -> None:
    # given records that the check by columns passes on: nothing in them is wrong, but an id or a list is not there
    nodes: dict[str, Any] = {"7": {"hostname": "a"}, "3": {"id": 3, "tags": None, "public_key": "", "networks": [4]}}
    # when
    registry = loaded({"nodes": nodes, "networks": {}})
    # then
    assert {str(node): record for node, record in registry.nodes().items()} == nodes
    assert registry.node_by_hostname("a") == nodes["7"]
    assert next(registry.snapshot())["next_net"] == 5


def test_a_large_state_that_is_replaced_is_let_go_of_and_what_was_drawn_of_it_stays() -> None:
    # given
    registry = Registry()
    for _ in range(10 * NODES_PER_PIECE):
        registry.apply({"op": "register"})
    before = encoded(registry)
    snapshot = registry.snapshot()
    old = registry._tables
    # when
    registry.restore([{}])
    # then
    deadline = time.monotonic() + PATIENCE_S
    while old.nodes:
        assert time.monotonic() < deadline, "the old nodes are still there"
        time.sleep(0.005)
    assert [orjson.dumps(piece) for piece in snapshot] == before
    assert len(registry) == 0


# --- The generator of bench/ ------------------------------------------------------------------------------------------


def test_a_generated_registry_is_always_the_same() -> None:
    assert orjson.dumps(generate(300, seed=5)) == orjson.dumps(generate(300, seed=5))
    assert orjson.dumps(generate(300, seed=5)) != orjson.dumps(generate(300, seed=6))


@pytest.mark.parametrize("nodes", [0, 1, 2, 49, 1000])
def test_a_generated_registry_is_a_registry_and_comes_out_as_it_went_in(nodes: int) -> None:
    # given
    source = generate(nodes, seed=1)
    # then
    assert len(source["nodes"]) == nodes
    assert b"".join(document_of(pieces_of(source), 0)) == orjson.dumps(source)


def test_a_generated_registry_is_of_the_size_that_is_claimed() -> None:
    size = len(orjson.dumps(generate(5000, seed=1)))
    assert 740 <= size / 5000 <= 772


def test_a_generated_registry_takes_changes() -> None:
    # given
    registry = loaded(generate(200, seed=2))
    node = next(iter(registry.nodes()))
    open_network = next(number for number, one in registry.networks().items() if one["join_rule"] == "open")
    # then
    assert registry.apply({"op": "join", "network": open_network, "node": node})["node"] == node
    assert list(itertools.islice(registry.snapshot(), 1))


@pytest.mark.parametrize(
    ("counter", "change"), [("next_node", {"op": "register"}), ("next_net", {"op": "create_network", "name": "n"})]
)
def test_the_last_id_is_not_given_out_for_no_counter_could_follow_it(
    registry: Registry, counter: str, change: dict[str, Any]
) -> None:
    # given one id more, and then none
    registry.restore([{counter: 2**53 - 2}])
    assert registry.apply(change)["id"] == 2**53 - 2
    before = document(registry)
    # when another is asked for, then it is refused, and what is there can be loaded elsewhere
    with pytest.raises(ChangeRejected, match="no ids left"):
        registry.apply(change | ({"name": "m"} if "name" in change else {}))
    assert document(registry) == before
    Registry().restore([before])
