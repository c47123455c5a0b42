"""The registry: what its changes do, what they refuse, and that equal states give equal pieces (G6)."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.registry_data import generate
from replicator.errors import ChangeRejected
from replicator.registry.document import Conflict, InvalidDocument, UnknownId
from replicator.registry.operations import OPERATIONS
from replicator.registry.state import Registry
from replicator.registry.tables import NETWORKS_PER_PIECE, NODES_PER_PIECE, PAIRS_PER_PIECE
from replicator.state import State
from tests.support.registry import LATER, NOON, STORE_FILE, document, encoded, key, loaded, refused

# --- The contract -----------------------------------------------------------------------------------------------------


def test_a_registry_is_a_state() -> None:
    assert isinstance(Registry(), State)


def test_an_empty_registry_is_one_piece_and_a_document_without_a_term() -> None:
    # given
    registry = Registry()
    # when
    pieces = list(registry.snapshot())
    # then
    assert len(pieces) == 1
    assert b"".join(registry.document(0)) == (
        b'{"version":1,"next_node":1,"next_net":0,"nodes":{},"networks":{},"trust_pairs":[]}'
    )


def test_a_snapshot_shows_the_state_as_it_was_when_it_was_taken(registry: Registry) -> None:
    # given
    before = encoded(registry)
    # when
    snapshot = registry.snapshot()
    registry.apply({"op": "set_hostname", "id": 1, "hostname": "web9"})
    registry.apply({"op": "join", "network": 0, "node": 2})
    registry.apply({"op": "join", "network": 2, "node": 3, "invited_by": 1, "role": "guest"})
    registry.apply({"op": "trust", "a": 1, "b": 2})
    registry.apply({"op": "deregister", "id": 1})
    registry.apply({"op": "delete_network", "id": 1})
    registry.apply({"op": "register", "hostname": "new"})
    # then
    assert [orjson.dumps(piece) for piece in snapshot] == before
    assert encoded(registry) != before


def test_what_there_is_many_of_is_cut_into_pieces() -> None:
    # given
    registry = Registry()
    for node in range(1, PAIRS_PER_PIECE + 3):
        registry.apply({"op": "register"})
        if node > 1:
            registry.apply({"op": "trust", "a": 1, "b": node})
    for number in range(NETWORKS_PER_PIECE + 1):
        registry.apply({"op": "create_network", "name": f"n{number}", "creator": number + 1})
    # when
    head, *chunks = registry.snapshot()
    # then
    assert set(head) == {"version", "next_node", "next_net"}
    assert [(name, len(chunk[name])) for chunk in chunks for name in chunk] == [
        *[("nodes", NODES_PER_PIECE)] * (PAIRS_PER_PIECE // NODES_PER_PIECE),
        ("nodes", 2),
        ("networks", NETWORKS_PER_PIECE),
        ("networks", 1),
        ("trust_pairs", PAIRS_PER_PIECE),
        ("trust_pairs", 1),
    ]
    other = Registry()
    other.restore([head, *chunks])
    assert encoded(other) == encoded(registry)
    assert b"".join(other.document(0)) == b"".join(registry.document(0))


def test_networks_that_change_while_a_snapshot_is_drawn_are_in_it_as_they_were(registry: Registry) -> None:
    # given a snapshot that was begun, and another one after a first change
    before = encoded(registry)
    first = registry.snapshot()
    registry.apply({"op": "join", "network": 0, "node": 3})
    between = encoded(registry)
    second = registry.snapshot()
    # when everything that is in a network's dicts moves
    registry.apply({"op": "leave", "network": 0, "node": 3})
    registry.apply({"op": "join", "network": 0, "node": 3, "role": "late"})
    registry.apply({"op": "deregister", "id": 1})
    # then
    assert [orjson.dumps(piece) for piece in first] == before
    assert [orjson.dumps(piece) for piece in second] == between
    assert encoded(registry) != between != before


def test_a_restore_that_fails_leaves_the_state_as_it_was(registry: Registry) -> None:
    # given
    before = encoded(registry)

    def broken() -> Any:
        yield {"version": 1}
        yield {"nodes": {"1": {}}}
        raise RuntimeError("the log went away")

    # when
    with pytest.raises(RuntimeError):
        registry.restore(broken())
    with pytest.raises(InvalidDocument):
        registry.restore([])
    # then
    assert encoded(registry) == before


def test_a_result_and_a_document_do_not_share_lists_with_the_change_that_was_submitted() -> None:
    # given
    registry = Registry()
    change = {"op": "register", "tags": ["a"]}
    registry.apply(change)
    # when
    change["tags"].append("b")  # type: ignore[attr-defined]
    # then
    assert document(registry)["nodes"]["1"]["tags"] == ["a"]


# --- Changes of nodes -------------------------------------------------------------------------------------------------


def test_registering_gives_ids_that_grow(registry: Registry) -> None:
    assert registry.apply({"op": "register", "public_key": key(4)}) == {"id": 4, "created": True}
    assert registry.apply({"op": "register"}) == {"id": 5, "created": True}
    assert len(registry) == 5


def test_a_new_node_has_what_it_was_registered_with_and_nothing_else(registry: Registry) -> None:
    assert registry.node(1) == {
        "id": 1,
        "networks": [2],
        "public_key": key(1),
        "last_seen": NOON,
        "hostname": "web1",
        "key_created": NOON,
    }


def test_registering_the_same_key_again_is_the_same_node(registry: Registry) -> None:
    # when
    result = registry.apply(
        {"op": "register", "public_key": key(1), "hostname": "web2", "last_seen": LATER, "key_created": LATER}
    )
    # then
    node = registry.node(1)
    assert result == {"id": 1, "created": False}
    assert node is not None
    assert (node["hostname"], node["last_seen"], node["key_created"]) == ("web2", LATER, NOON)
    assert registry.node_by_hostname("web1") is None


def test_a_hostname_belongs_to_one_node(registry: Registry) -> None:
    for change in (
        {"op": "register", "public_key": key(9), "hostname": "web1"},
        {"op": "register", "public_key": key(2), "hostname": "web1"},
        {"op": "set_hostname", "id": 2, "hostname": "web1"},
        {"op": "update", "id": 3, "tags": [], "hostname": "web1"},
    ):
        error = refused(registry, change)
        assert isinstance(error, Conflict)
        assert error.field == "hostname"
        assert "node 1" in str(error)


def test_a_hostname_that_was_given_up_can_be_taken(registry: Registry) -> None:
    # when
    registry.apply({"op": "set_hostname", "id": 1, "hostname": None})
    registry.apply({"op": "set_hostname", "id": 2, "hostname": "web1"})
    # then
    node = registry.node(1)
    assert node is not None
    assert "hostname" not in node
    assert registry.node_by_hostname("web1") == registry.node(2)
    assert registry.node_by_hostname("db1") is None


def test_a_node_that_left_and_came_back_has_a_new_id_and_nothing_of_the_old(registry: Registry) -> None:
    # given
    registry.apply({"op": "join", "network": 1, "node": 1, "token": "s3cret", "role": "admin"})
    registry.apply({"op": "trust", "a": 2, "b": 1})
    registry.apply({"op": "trust", "a": 2, "b": 3})
    # when
    result = registry.apply({"op": "deregister", "id": 1})
    again = registry.apply({"op": "register", "public_key": key(1), "hostname": "web1"})
    # then
    whole = document(registry)
    assert result == {"id": 1}
    assert again == {"id": 4, "created": True}
    assert list(whole["nodes"]) == ["2", "3", "4"]
    assert whole["nodes"]["4"]["networks"] == []
    assert [whole["networks"][one]["members"] for one in "012"] == [[], [], []]
    assert [whole["networks"][one]["member_roles"] for one in "012"] == [{}, {}, {}]
    assert whole["trust_pairs"] == ["2:3"]


def test_a_heartbeat_is_stamped_by_whoever_sends_it(registry: Registry) -> None:
    # when
    result = registry.apply(
        {
            "op": "heartbeat",
            "id": 2,
            "last_seen": LATER,
            "real_addr": "203.0.113.5:4000",
            "lan_addrs": ["10.0.0.5:4000"],
        }
    )
    # then
    node = registry.node(2)
    assert result == {"id": 2}
    assert node is not None
    assert node["last_seen"] == LATER
    assert node["real_addr"] == "203.0.113.5:4000"
    assert refused(registry, {"op": "heartbeat", "id": 2}).field == "last_seen"


def test_tags_are_replaced(registry: Registry) -> None:
    registry.apply({"op": "set_tags", "id": 1, "tags": ["a", "b"]})
    registry.apply({"op": "set_tags", "id": 1, "tags": ["c"]})
    assert (registry.node(1) or {})["tags"] == ["c"]


def test_a_rotated_key_replaces_the_old_one(registry: Registry) -> None:
    # when
    registry.apply({"op": "rotate_key", "id": 1, "public_key": key(9), "key_created": LATER})
    # then
    assert registry.apply({"op": "register", "public_key": key(9)}) == {"id": 1, "created": False}
    assert registry.apply({"op": "register", "public_key": key(1)}) == {"id": 4, "created": True}
    taken = refused(registry, {"op": "rotate_key", "id": 2, "public_key": key(9), "key_created": NOON})
    assert isinstance(taken, Conflict)
    assert taken.field == "public_key"


def test_an_update_does_all_of_it_or_nothing(registry: Registry) -> None:
    # when
    registry.apply({"op": "update", "id": 3, "hostname": "mail", "tags": ["x"], "public": True, "owner": "ops"})
    # then
    assert (registry.node(3) or {})["owner"] == "ops"
    assert refused(registry, {"op": "update", "id": 3, "tags": ["y"], "hostname": "db1"}).field == "hostname"
    assert refused(registry, {"op": "update", "id": 3, "public_key": key(7)}).field == "key_created"


# --- Changes of networks and trust ------------------------------------------------------------------------------------


def test_anybody_joins_an_open_network_and_joining_twice_changes_nothing(registry: Registry) -> None:
    # when
    first = registry.apply({"op": "join", "network": 0, "node": 2, "role": "relay"})
    once = encoded(registry)
    second = registry.apply({"op": "join", "network": 0, "node": 2})
    # then
    assert first == {"network": 0, "node": 2, "joined": True}
    assert second == {"network": 0, "node": 2, "joined": False}
    assert encoded(registry) == once
    assert (registry.network(0) or {})["members"] == [2]
    assert (registry.network(0) or {})["member_roles"] == {"2": "relay"}
    assert (registry.node(2) or {})["networks"] == [0]


def test_a_token_network_needs_the_right_token(registry: Registry) -> None:
    assert refused(registry, {"op": "join", "network": 1, "node": 2}).field == "token"
    assert refused(registry, {"op": "join", "network": 1, "node": 2, "token": "wrong"}).field == "token"
    assert registry.apply({"op": "join", "network": 1, "node": 2, "token": "s3cret"})["joined"] is True


def test_an_invite_network_needs_a_member_that_invites(registry: Registry) -> None:
    assert refused(registry, {"op": "join", "network": 2, "node": 2}).field == "invited_by"
    assert refused(registry, {"op": "join", "network": 2, "node": 2, "invited_by": 3}).field == "invited_by"
    assert registry.apply({"op": "join", "network": 2, "node": 2, "invited_by": 1})["joined"] is True
    assert registry.apply({"op": "join", "network": 2, "node": 3, "invited_by": 2})["joined"] is True


@pytest.mark.parametrize(
    "network", [{"join_rule": "by-moonlight"}, {"join_rule": "token"}, {"join_rule": "token", "token": ""}]
)
def test_a_network_with_a_rule_that_is_unknown_or_without_its_token_lets_nobody_in(network: dict[str, Any]) -> None:
    # given
    registry = loaded({"version": 1, "nodes": {"1": {}}, "networks": {"0": network}})
    # then
    refused(registry, {"op": "join", "network": 0, "node": 1})
    refused(registry, {"op": "join", "network": 0, "node": 1, "token": "x"})


def test_leaving_takes_the_role_along(registry: Registry) -> None:
    # given
    registry.apply({"op": "join", "network": 0, "node": 1, "role": "relay"})
    # when
    result = registry.apply({"op": "leave", "network": 0, "node": 1})
    # then
    assert result == {"network": 0, "node": 1}
    assert (registry.network(0) or {})["member_roles"] == {}
    assert (registry.node(1) or {})["networks"] == [2]
    assert isinstance(refused(registry, {"op": "leave", "network": 0, "node": 1}), UnknownId)


def test_a_deleted_network_is_gone_from_its_members_and_its_id_is_not_used_again(registry: Registry) -> None:
    # when
    registry.apply({"op": "delete_network", "id": 2})
    # then
    assert registry.network(2) is None
    assert (registry.node(1) or {})["networks"] == []
    assert registry.apply({"op": "create_network", "name": "club"}) == {"id": 3, "created": True}


def test_a_network_is_created_with_what_its_rule_needs(registry: Registry) -> None:
    assert refused(registry, {"op": "create_network", "name": "n", "join_rule": "token"}).field == "token"
    assert refused(registry, {"op": "create_network", "name": "n", "token": "t"}).field == "token"
    assert refused(registry, {"op": "create_network", "name": "n", "join_rule": "invite"}).field == "creator"
    assert refused(registry, {"op": "create_network", "name": "n", "creator": 99}).field == "creator"
    taken = refused(registry, {"op": "create_network", "name": "vault"})
    assert isinstance(taken, Conflict)
    assert taken.field == "name"


def test_trust_is_mutual_and_said_once(registry: Registry) -> None:
    # when
    first = registry.apply({"op": "trust", "a": 2, "b": 1})
    second = registry.apply({"op": "trust", "a": 1, "b": 2})
    # then
    assert first == {"a": 2, "b": 1, "created": True}
    assert second == {"a": 1, "b": 2, "created": False}
    assert document(registry)["trust_pairs"] == ["1:2"]
    assert registry.apply({"op": "untrust", "a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert document(registry)["trust_pairs"] == []
    assert isinstance(refused(registry, {"op": "untrust", "a": 1, "b": 2}), UnknownId)
    assert refused(registry, {"op": "trust", "a": 1, "b": 1}).field == "b"


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (None, None),
        ([], None),
        ("register", None),
        ({}, "op"),
        ({"op": "explode"}, "op"),
        ({"op": 7}, "op"),
        ({"op": ["register"]}, "op"),
        ({"op": "register", "colour": "red"}, "colour"),
        ({"op": "register", "public_key": "not base64!"}, "public_key"),
        ({"op": "register", "public_key": ""}, "public_key"),
        ({"op": "register", "public_key": 7}, "public_key"),
        ({"op": "register", "hostname": ""}, "hostname"),
        ({"op": "register", "hostname": "-x"}, "hostname"),
        ({"op": "register", "hostname": "a" * 254}, "hostname"),
        ({"op": "register", "hostname": None}, "hostname"),
        ({"op": "register", "tags": "a"}, "tags"),
        ({"op": "register", "tags": [1]}, "tags"),
        ({"op": "register", "tags": ["a"] * 257}, "tags"),
        ({"op": "register", "public": 1}, "public"),
        ({"op": "register", "owner": "x" * 1025}, "owner"),
        ({"op": "register", "last_seen": "yesterday"}, "last_seen"),
        ({"op": "register", "last_seen": "2026-13-01T00:00:00Z"}, "last_seen"),
        ({"op": "register", "last_seen": "2026-01-01T00:00:00"}, "last_seen"),
        ({"op": "deregister"}, "id"),
        ({"op": "deregister", "id": "1"}, "id"),
        ({"op": "deregister", "id": True}, "id"),
        ({"op": "deregister", "id": -1}, "id"),
        ({"op": "deregister", "id": 1.0}, "id"),
        ({"op": "deregister", "id": 2**53}, "id"),
        ({"op": "set_tags", "id": 1}, "tags"),
        ({"op": "set_hostname", "id": 1, "hostname": 5}, "hostname"),
        ({"op": "create_network"}, "name"),
        ({"op": "create_network", "name": "n", "join_rule": "sometimes"}, "join_rule"),
        ({"op": "join", "network": 0}, "node"),
        ({"op": "join", "network": 0, "node": 1, "role": 5}, "role"),
        ({"op": "trust", "a": 1}, "b"),
    ],
)
def test_a_change_of_the_wrong_shape_is_refused_and_names_the_field(
    registry: Registry, change: Any, field: str | None
) -> None:
    error = refused(registry, change)
    assert error.field == field
    assert not isinstance(error, UnknownId | Conflict)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"op": "deregister", "id": 99}, "id"),
        ({"op": "heartbeat", "id": 99, "last_seen": NOON}, "id"),
        ({"op": "set_hostname", "id": 99, "hostname": "web1"}, "id"),
        ({"op": "set_tags", "id": 99, "tags": []}, "id"),
        ({"op": "rotate_key", "id": 99, "public_key": key(9), "key_created": NOON}, "id"),
        ({"op": "update", "id": 99}, "id"),
        ({"op": "delete_network", "id": 99}, "id"),
        ({"op": "join", "network": 99, "node": 1}, "network"),
        ({"op": "join", "network": 0, "node": 99}, "node"),
        ({"op": "leave", "network": 99, "node": 1}, "network"),
        ({"op": "leave", "network": 0, "node": 99}, "node"),
        ({"op": "trust", "a": 99, "b": 1}, "a"),
        ({"op": "trust", "a": 1, "b": 99}, "b"),
    ],
)
def test_an_id_that_nobody_has_is_refused_and_named(registry: Registry, change: Any, field: str) -> None:
    error = refused(registry, change)
    assert isinstance(error, UnknownId)
    assert error.field == field


def test_every_operation_refuses_a_field_it_does_not_have(registry: Registry) -> None:
    for name in OPERATIONS:
        assert refused(registry, {"op": name, "no_such_field": 1}).field == "no_such_field"


# --- Pages ------------------------------------------------------------------------------------------------------------


def test_pages_are_in_ascending_order_of_ids_whatever_came_and_went() -> None:
    # given
    registry = loaded({"nodes": {str(node): {} for node in (10, 9, 300, 1)}, "networks": {"5": {}, "1": {}}})
    for _ in range(300):
        registry.apply({"op": "register"})
    for node in (9, *range(305, 590)):
        registry.apply({"op": "deregister", "id": node})
    # then
    assert list(registry.nodes(limit=3)) == [1, 10, 300]
    assert list(registry.nodes(after=300, limit=100)) == [301, 302, 303, 304, *range(590, 601)]
    assert list(registry.nodes(after=600)) == []
    assert list(registry.networks()) == [1, 5]
    assert list(registry.networks(after=1, limit=1)) == [5]


# --- Equal states, equal pieces ---------------------------------------------------------------------------------------


ids = st.integers(min_value=0, max_value=6)
names = st.sampled_from(["a", "b", "c", "d"])
times = st.sampled_from([NOON, LATER])
keys = st.integers(min_value=1, max_value=5).map(key)
tag_lists = st.lists(names, max_size=2)


def an(op: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"op": st.just(op), **required}, optional=optional or {})


changes = st.one_of(
    an("register", {}, {"public_key": keys, "hostname": names, "last_seen": times, "tags": tag_lists}),
    an("register", {"public_key": keys}, {"hostname": names, "key_created": times}),
    an("deregister", {"id": ids}),
    an("heartbeat", {"id": ids, "last_seen": times}, {"real_addr": names, "lan_addrs": tag_lists}),
    an("set_hostname", {"id": ids, "hostname": st.none() | names}),
    an("set_tags", {"id": ids, "tags": tag_lists}),
    an("rotate_key", {"id": ids, "public_key": keys, "key_created": times}),
    an("update", {"id": ids}, {"hostname": st.none() | names, "tags": tag_lists, "public": st.booleans()}),
    an("create_network", {"name": names}, {"creator": ids, "created": times}),
    an("create_network", {"name": names, "join_rule": st.just("token"), "token": names}),
    an("create_network", {"name": names, "join_rule": st.just("invite"), "creator": ids}),
    an("delete_network", {"id": ids}),
    an("join", {"network": ids, "node": ids}, {"token": names, "invited_by": ids, "role": names}),
    an("leave", {"network": ids, "node": ids}),
    an("trust", {"a": ids, "b": ids}),
    an("untrust", {"a": ids, "b": ids}),
    an("register", {"hostname": st.integers()}),
)
#: States to start from: none, a store file with nulls and members that disagree, a generated one.
origins = st.sampled_from(
    [
        {},
        orjson.loads(STORE_FILE),
        {
            "nodes": {"1": {"networks": None}, "3": {}},
            "networks": {"0": {"members": None, "member_roles": None}, "2": {}},
        },
        {"networks": {"1": {"member_roles": {"3": "ghost"}, "members": [2, 4]}}, "nodes": {"2": {"networks": [5]}}},
        generate(8, seed=3),
    ]
)


def outcome(registry: Registry, change: dict[str, Any]) -> Any:
    try:
        return registry.apply(change)
    except ChangeRejected as error:
        return (type(error), error.field, str(error))


@settings(deadline=None, max_examples=300)
@given(origin=origins, history=st.lists(changes, max_size=40), at=st.integers(min_value=0, max_value=40))
def test_equal_states_give_equal_pieces_however_a_node_got_there(
    origin: dict[str, Any], history: list[dict[str, Any]], at: int
) -> None:
    # given
    one, other = loaded(copy.deepcopy(origin)), Registry()
    first = [outcome(one, change) for change in history[:at]]
    # when
    other.restore(orjson.loads(piece) for piece in encoded(one))
    rest_of_one = [outcome(one, change) for change in history[at:]]
    rest_of_other = [outcome(other, change) for change in history[at:]]
    # then
    assert len(first) + len(rest_of_one) == len(history)
    assert rest_of_one == rest_of_other
    assert encoded(one) == encoded(other)


@settings(deadline=None, max_examples=200)
@given(origin=origins, history=st.lists(changes, max_size=40))
def test_the_indexes_after_any_history_are_those_that_a_fresh_load_builds(
    origin: dict[str, Any], history: list[dict[str, Any]]
) -> None:
    # given
    registry = loaded(copy.deepcopy(origin))
    # when
    for change in history:
        outcome(registry, change)
    fresh = loaded(document(registry))
    # then
    for name in ("by_key", "by_hostname", "by_name", "trusted", "next_node", "next_net"):
        assert getattr(registry._tables, name) == getattr(fresh._tables, name)
    for tables in (registry._tables, fresh._tables):
        of_members = {(node, network) for network, found in tables.networks.items() for node in found.members}
        of_index = {(node, network) for node, networks in tables.memberships.items() for network in networks}
        assert of_members == of_index
    assert list(registry.nodes(limit=10**6)) == sorted(map(int, document(registry)["nodes"]))


@settings(deadline=None, max_examples=100)
@given(history=st.lists(changes, max_size=30), taken=st.integers(min_value=0, max_value=30))
def test_no_later_change_shows_in_a_snapshot_taken_earlier(history: list[dict[str, Any]], taken: int) -> None:
    # given
    registry = Registry()
    for change in history[:taken]:
        outcome(registry, change)
    before = encoded(registry)
    # when
    snapshot = registry.snapshot()
    for change in history[taken:]:
        outcome(registry, change)
    # then
    assert [orjson.dumps(piece) for piece in snapshot] == before
