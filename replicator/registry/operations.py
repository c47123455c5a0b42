"""What a change can be (`OPERATIONS`), and what carries it out.

Each operation takes the tables and a change whose shape is right, refuses what the tables do not allow, and then
writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ChangeRejected
from .document import (
    INTEGER_MAX,
    NETWORK_MEMBERS,
    NODE_MEMBERS,
    Check,
    Conflict,
    Record,
    UnknownId,
    flag,
    hostname,
    hostname_or_null,
    integer,
    join_rule,
    public_key,
    text,
    texts,
    timestamp,
)
from .tables import Network, Tables, pair

__all__ = ["OPERATIONS", "Change", "Operation"]

Change = dict[str, Any]


def _values(change: Change, *without: str) -> Record:
    """The fields of a change as members of a record. Lists are copied: the change belongs to whoever submitted it."""
    left = ("op", "id", *without)
    return {name: list(one) if type(one) is list else one for name, one in change.items() if name not in left}


def _refuse_taken(tables: Tables, node: int | None, values: Record) -> None:
    for name, index in (("hostname", tables.by_hostname), ("public_key", tables.by_key)):
        value = values.get(name)
        owner = index.get(value) if value else None
        if owner is not None and owner != node:
            raise Conflict(f"{name} {value} belongs to node {owner}; choose another, or deregister that", field=name)


def _amend(tables: Tables, node: int, values: Record) -> Record:
    """Give a node's record these members; null removes one. The core of every change of a node."""
    record = tables.node(node, "id")
    _refuse_taken(tables, node, values)
    changed = {**record, **values}
    if None in values.values():
        changed = {name: value for name, value in changed.items() if value is not None or name not in values}
    tables.put_node(node, changed)
    return {"id": node}


def _refuse_the_last(counter: int) -> None:
    # The counter is written down too, and stays above every id (I1): it could not say what comes after this one.
    if counter >= INTEGER_MAX:
        raise ChangeRejected("there are no ids left: next_node or next_net is at 2^53-1")


def _register(tables: Tables, change: Change) -> Record:
    key = change.get("public_key")
    known = tables.by_key.get(key) if key is not None else None
    if known is not None:
        # The same key again is the same node: what it says is taken over, but its key has not become younger.
        return {**_amend(tables, known, _values(change, "key_created")), "created": False}
    values = _values(change)
    _refuse_taken(tables, None, values)
    _refuse_the_last(tables.next_node)
    node = tables.next_node
    tables.next_node += 1
    ordered = {name: values[name] for name in NODE_MEMBERS if name in values}
    tables.put_node(node, {"id": node, "networks": [], **ordered})
    return {"id": node, "created": True}


def _change_node(tables: Tables, change: Change) -> Record:
    return _amend(tables, change["id"], _values(change))


def _update(tables: Tables, change: Change) -> Record:
    if "public_key" in change and "key_created" not in change:
        raise ChangeRejected("key_created is missing: a new key needs the time it was made", field="key_created")
    return _change_node(tables, change)


def _deregister(tables: Tables, change: Change) -> Record:
    tables.node(change["id"], "id")
    tables.remove_node(change["id"])
    return {"id": change["id"]}


def _create_network(tables: Tables, change: Change) -> Record:
    rule, creator = change.get("join_rule", "open"), change.get("creator")
    if (rule == "token") != ("token" in change):
        raise ChangeRejected("a network of join_rule token needs a token, and no other has one", field="token")
    if rule == "invite" and creator is None:
        raise ChangeRejected("only members can invite: name the first one as creator", field="creator")
    if creator is not None:
        tables.node(creator, "creator")
    if change["name"] in tables.by_name:
        owner = tables.by_name[change["name"]]
        raise Conflict(f"{change['name']} is the name of network {owner}; choose another", field="name")
    return _new_network(tables, {"join_rule": rule, **_values(change, "creator")}, creator)


def _new_network(tables: Tables, values: Record, creator: int | None) -> Record:
    _refuse_the_last(tables.next_net)
    network = tables.next_net
    tables.next_net += 1
    whole = {**values, "members": [], "member_roles": {}}
    ordered = {name: whole[name] for name in NETWORK_MEMBERS if name in whole}
    tables.networks[network] = Network({"id": network, **ordered})
    tables.by_name[values["name"]] = network
    if creator is not None:
        tables.add_member(network, creator, "owner")
    return {"id": network, "created": True}


def _delete_network(tables: Tables, change: Change) -> Record:
    tables.network(change["id"], "id")
    tables.remove_network(change["id"])
    return {"id": change["id"]}


def _refuse_entry(network: Network, change: Change) -> None:
    """Raise unless the network's rule lets the node in. A rule that we do not know lets nobody in."""
    rule = network.record.get("join_rule") or "open"
    if rule == "token":
        token = network.record.get("token") or ""
        if not token or token != change.get("token"):
            raise ChangeRejected("this network needs its token to join; ask its owner for it", field="token")
    elif rule == "invite":
        if change.get("invited_by") not in network.members:
            raise ChangeRejected("this network needs an invitation: name a member as invited_by", field="invited_by")
    elif rule != "open":
        raise ChangeRejected(f"networks of join_rule {rule} cannot be joined", field="network")


def _join(tables: Tables, change: Change) -> Record:
    number, node = change["network"], change["node"]
    network = tables.network(number, "network")
    tables.node(node, "node")
    joined = node not in network.members
    if joined:
        _refuse_entry(network, change)
    tables.add_member(number, node, change.get("role"))
    return {"network": number, "node": node, "joined": joined}


def _leave(tables: Tables, change: Change) -> Record:
    number, node = change["network"], change["node"]
    if node not in tables.network(number, "network").members:
        raise UnknownId(f"node {node} is not in network {number}", field="node")
    tables.remove_member(number, node)
    return {"network": number, "node": node}


def _trust(tables: Tables, change: Change) -> Record:
    a, b = change["a"], change["b"]
    tables.node(a, "a")
    tables.node(b, "b")
    if a == b:
        raise ChangeRejected("a node trusts itself already: name two different ones", field="b")
    created = pair(a, b) not in tables.trust
    tables.add_trust(a, b)
    return {"a": a, "b": b, "created": created}


def _untrust(tables: Tables, change: Change) -> Record:
    a, b = change["a"], change["b"]
    if pair(a, b) not in tables.trust:
        raise UnknownId(f"nodes {a} and {b} do not trust each other", field="b")
    tables.remove_trust(a, b)
    return {"a": a, "b": b}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a change of one kind looks like, and what carries it out."""

    carry_out: Callable[[Tables, Change], Record]
    required: Mapping[str, Check] = field(default_factory=dict)
    optional: Mapping[str, Check] = field(default_factory=dict)
    #: Of every field. Made once: each change of a large registry is looked up in it, on every node.
    _checks: Mapping[str, Check] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_checks", {**self.required, **self.optional})

    def refuse_malformed(self, change: Change) -> None:
        checks = self._checks
        for name, value in change.items():
            if name == "op":
                continue
            check = checks.get(name)
            if check is None:
                known = ", ".join(checks)
                raise ChangeRejected(f"{name} is not a field of {change['op']}, whose fields are {known}", field=name)
            if problem := check(value):
                raise ChangeRejected(f"{name} {problem}", field=name)
        for name in self.required:
            if name not in change:
                raise ChangeRejected(f"{name} is missing; {change['op']} needs it", field=name)


_ID: dict[str, Check] = {"id": integer}
_ADDRESSES: dict[str, Check] = {"real_addr": text, "lan_addrs": texts, "version": text}
_DESCRIPTION: dict[str, Check] = {"owner": text, "public": flag, "tags": texts}
_MEMBERSHIP: dict[str, Check] = {"network": integer, "node": integer}
_PAIR: dict[str, Check] = {"a": integer, "b": integer}
_KEY: dict[str, Check] = {"public_key": public_key, "key_created": timestamp}

#: `update` is several of the set_… and rotate_key in one step: all of it, or nothing.
OPERATIONS: dict[str, Operation] = {
    "register": Operation(
        carry_out=_register,
        optional={**_KEY, "hostname": hostname, "last_seen": timestamp, **_DESCRIPTION, **_ADDRESSES},
    ),
    "deregister": Operation(carry_out=_deregister, required=_ID),
    "heartbeat": Operation(carry_out=_change_node, required={**_ID, "last_seen": timestamp}, optional=_ADDRESSES),
    "set_hostname": Operation(carry_out=_change_node, required={**_ID, "hostname": hostname_or_null}),
    "set_tags": Operation(carry_out=_change_node, required={**_ID, "tags": texts}),
    "rotate_key": Operation(carry_out=_change_node, required={**_ID, **_KEY}),
    "update": Operation(
        carry_out=_update, required=_ID, optional={"hostname": hostname_or_null, **_DESCRIPTION, **_ADDRESSES, **_KEY}
    ),
    "create_network": Operation(
        carry_out=_create_network,
        required={"name": text},
        optional={"join_rule": join_rule, "token": text, "creator": integer, "created": timestamp},
    ),
    "delete_network": Operation(carry_out=_delete_network, required=_ID),
    "join": Operation(
        carry_out=_join, required=_MEMBERSHIP, optional={"token": text, "invited_by": integer, "role": text}
    ),
    "leave": Operation(carry_out=_leave, required=_MEMBERSHIP),
    "trust": Operation(carry_out=_trust, required=_PAIR),
    "untrust": Operation(carry_out=_untrust, required=_PAIR),
}
