"""The reference application: a registry of nodes, the networks they are in, and who trusts whom.

The state is one JSON document, `{"version": 1, "term": T, "next_node": n, "next_net": n, "nodes": {"1": {...}},
"networks": {"0": {...}}, "trust_pairs": ["1:2"]}`. `term` belongs to the node that holds the state and not to the
state: it is in no snapshot, `document` writes it in (0 is left out), and a document without it is of term 0.

How it is built, and a model for a state of your own:

- **Records are replaced, never mutated.** `snapshot` can therefore copy the indexes, return at once, and draw its
  pieces later on another thread while changes go on. What changes one entry at a time (the members of a network, the
  trust pairs) lives in dicts of its own, so a change costs the size of the change and not of the state. A network whose
  dicts a snapshot may still draw is copied by the first change after it.
- **Pieces are small, and records are checked as they are drawn**, a piece at a time and by columns: nothing holds the
  interpreter for more than a moment, and all that is left for the swap is two counters. What was swapped out, or was
  not finished, is let go of in slices.
- **A change is checked in full before anything moves.** Its shape is data (`OPERATIONS`); then the operation looks up
  every id and every claim; only then it writes. What it refuses, it refuses with the field at fault.
- **Nothing here reads a clock or draws a random number.** Times come in the change, stamped by whoever submits it.
- **Order is part of the state.** Nodes, members and pairs keep the order they came in, through a snapshot and back, or
  equal states would give unequal pieces.
- **What we do not know, we keep**: unknown members of the document, of a node and of a network stay as they are.

Invariants of `Tables`, checked once, when pieces are loaded, and kept by every operation:

I1. ids only grow: `next_node` and `next_net` are above every id in use or named anywhere, so an id that was given up
    never comes to mean another node.
I2. a public key and a hostname belong to one node at most, a network's name to one network.
I3. a network's `members` says who is in it. A node's `networks` mirrors that; where a loaded document disagrees with
    itself neither side is mended, and `members` counts.
I4. where members (roles) are held, the network's record has a list (an object) of that name as their place.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from operator import itemgetter
from typing import Any

import orjson

from replicator.errors import ChangeRejected
from replicator.registry.release import let_go

__all__ = [
    "NETWORKS_PER_PIECE",
    "NODES_PER_PIECE",
    "OPERATIONS",
    "PAIRS_PER_PIECE",
    "Conflict",
    "IncompleteDocument",
    "InvalidDocument",
    "Record",
    "Registry",
    "UnknownId",
    "check_complete",
    "document_of",
    "pieces_of",
    "term_of",
]

#: A decoded JSON object.
Record = dict[str, Any]

#: About 75 KB of JSON a piece: small enough that encoding one never holds the interpreter for a millisecond.
NODES_PER_PIECE = 100

#: A network has as many members as it likes; the usual one makes a piece of about 40 KB with its like.
NETWORKS_PER_PIECE = 50

#: Short texts, but each is taken apart and put into three indexes: about a millisecond a piece.
PAIRS_PER_PIECE = 1000

#: The version of the document that this module reads and writes.
VERSION = 1

#: Ids and terms stay exact in every JSON reader.
INTEGER_MAX = 2**53 - 1

#: A hostname, an address, an owner: what is longer is a mistake.
TEXT_LENGTH_MAX = 1024

#: Tags or addresses of one node.
LIST_LENGTH_MAX = 256


# --- What is refused ----------------------------------------------------------------------------------------------


class UnknownId(ChangeRejected):
    """The change names something that the registry does not have."""


class Conflict(ChangeRejected):
    """The change claims what belongs to another."""


class InvalidDocument(ChangeRejected):
    """A document, or a piece of one, that is not a registry. `field` is the path of what is wrong in it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'the document'} {problem}", field=path or None)


class IncompleteDocument(InvalidDocument):
    """What may be a part of a registry, or no registry at all. To take it for one would empty what it leaves out."""

    def __init__(self, missing: Sequence[str]) -> None:
        message = f"the document has no {', '.join(missing)}: a whole one is what GET /v1/state gives"
        ChangeRejected.__init__(self, message, field=missing[0])


# --- Checks: each gives the problem of a value, or None -----------------------------------------------------------

Check = Callable[[Any], str | None]

HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
# Expressions of our own and no library's parser, whose opinion may differ between versions, and so between nodes.
RFC_3339 = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
JOIN_RULES = ("open", "token", "invite")


def integer(value: Any) -> str | None:
    return None if type(value) is int and 0 <= value <= INTEGER_MAX else "must be an integer from 0 to 2^53-1"


def integers(value: Any) -> str | None:
    if type(value) is list and set(map(type, value)) <= {int} and not any(map(integer, value)):
        return None
    return "must be a list of integers from 0 to 2^53-1"


def flag(value: Any) -> str | None:
    return None if type(value) is bool else "must be true or false"


def any_texts(value: Any) -> str | None:
    if type(value) is list and set(map(type, value)) <= {str}:
        return None
    return "must be a list of strings"


def roles(value: Any) -> str | None:
    if type(value) is dict and set(map(type, value.values())) <= {str}:
        return None
    return "must be an object of node id to role"


def text(value: Any) -> str | None:
    if type(value) is str and 0 < len(value) <= TEXT_LENGTH_MAX:
        return None
    return f"must be a string of 1 to {TEXT_LENGTH_MAX} characters"


def texts(value: Any) -> str | None:
    if type(value) is list and len(value) <= LIST_LENGTH_MAX and not any(text(one) for one in value):
        return None
    return f"must be a list of at most {LIST_LENGTH_MAX} strings of 1 to {TEXT_LENGTH_MAX} characters"


def hostname(value: Any) -> str | None:
    if type(value) is str and HOSTNAME.fullmatch(value):
        return None
    return "must be a hostname: letters, digits, '.', '-' and '_', at most 253, a letter or digit at both ends"


def hostname_or_null(value: Any) -> str | None:
    problem = None if value is None else hostname(value)
    return problem and f"{problem}; or null, to give it up"


def timestamp(value: Any) -> str | None:
    if type(value) is str and RFC_3339.fullmatch(value):
        return None
    return "must be an RFC 3339 time, like 2026-01-31T12:00:00Z"


def public_key(value: Any) -> str | None:
    if type(value) is str and 0 < len(value) <= TEXT_LENGTH_MAX and BASE64.fullmatch(value):
        return None
    return "must be a key in base64"


def join_rule(value: Any) -> str | None:
    return None if value in JOIN_RULES else f"must be one of {', '.join(JOIN_RULES)}"


# --- The members that we know, in the order they are written; in a document each may be null as well ---------------

#: Types first and what is in the lists second, because a large registry has more than a million members to check.
NODE_MEMBERS: dict[str, type] = {
    "id": int,
    "owner": str,
    "public_key": str,
    "real_addr": str,
    "networks": list,
    "public": bool,
    "last_seen": str,
    "hostname": str,
    "tags": list,
    "lan_addrs": list,
    "version": str,
    "key_created": str,
}
NODE_LISTS: dict[str, Check] = {"networks": integers, "tags": any_texts, "lan_addrs": any_texts}

NETWORK_MEMBERS: dict[str, type] = {
    "id": int,
    "name": str,
    "join_rule": str,
    "token": str,
    "members": list,
    "member_roles": dict,
    "created": str,
}
NETWORK_LISTS: dict[str, Check] = {"members": integers, "member_roles": roles}

TYPE_NAMES = {int: "an integer", str: "a string", bool: "true or false", list: "a list", dict: "an object"}

#: Members of the document that are not simply kept.
DOCUMENT_MEMBERS = ("version", "term", "next_node", "next_net", "nodes", "networks", "trust_pairs")

#: Without these it is no document. A term belongs to a node, and the counters follow from the ids.
REQUIRED_MEMBERS = ("version", "nodes", "networks", "trust_pairs")


# --- The tables ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Network:
    """A network: its record, with an empty list and object in the place of its members and their roles (I4)."""

    record: Record
    members: dict[int, None] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    #: As many snapshots as `Tables.snapshots` counted when its dicts were made. Those that came later may draw them.
    made_at: int = 0

    def copy(self, made_at: int) -> Network:
        return Network(self.record, self.members.copy(), self.roles.copy(), made_at)

    def drawn(self) -> Record:
        """The whole record, as a document has it. A null stays a null."""
        whole = dict(self.record)
        if whole.get("members") is not None:
            whole["members"] = list(self.members)
        if whole.get("member_roles") is not None:
            whole["member_roles"] = dict(self.roles)
        return whole

    def add(self, node: int, role: str | None) -> None:
        if self.record.get("members") is None:
            self.record = {**self.record, "members": []}
        self.members[node] = None
        if role is None:
            return
        if self.record.get("member_roles") is None:
            self.record = {**self.record, "member_roles": {}}
        self.roles[str(node)] = role

    def drop(self, node: int) -> None:
        self.members.pop(node, None)
        self.roles.pop(str(node), None)


@dataclass(slots=True)
class Tables:
    """The state and its indexes. An operation finds here whatever it needs in constant time."""

    next_node: int = 1
    next_net: int = 0
    nodes: dict[int, Record] = field(default_factory=dict)
    networks: dict[int, Network] = field(default_factory=dict)
    trust: dict[tuple[int, int], None] = field(default_factory=dict)
    #: Members of the document that we do not know.
    kept: Record = field(default_factory=dict)
    #: How many were begun. See `Network.made_at`.
    snapshots: int = 0

    by_key: dict[str, int] = field(default_factory=dict)
    by_hostname: dict[str, int] = field(default_factory=dict)
    by_name: dict[str, int] = field(default_factory=dict)
    #: Node -> the networks whose `members` name it. A tuple: most are of one, and there are as many as nodes.
    memberships: dict[int, tuple[int, ...]] = field(default_factory=dict)
    #: Node -> whom it is paired with.
    trusted: dict[int, set[int]] = field(default_factory=dict)
    #: Every node's id in ascending order, and some that are gone: for paging.
    ascending: list[int] = field(default_factory=list)

    # Looking up, for changes: what is not there is refused.

    def node(self, node: int, name: str) -> Record:
        record = self.nodes.get(node)
        if record is None:
            raise UnknownId(f"there is no node {node}; register it first", field=name)
        return record

    def network(self, network: int, name: str) -> Network:
        found = self.networks.get(network)
        if found is None:
            raise UnknownId(f"there is no network {network}; create it first", field=name)
        return found

    # Writing. Nothing from here on refuses: operations have checked everything before they call.

    def put_node(self, node: int, record: Record) -> None:
        before = self.nodes.get(node)
        if before is None:
            self.ascending.append(node)
        _reindex(self.by_key, "public_key", node, before, record)
        _reindex(self.by_hostname, "hostname", node, before, record)
        self.nodes[node] = record

    def remove_node(self, node: int) -> None:
        record = self.nodes.pop(node)
        _reindex(self.by_key, "public_key", node, record, None)
        _reindex(self.by_hostname, "hostname", node, record, None)
        for network in self.memberships.pop(node, ()):
            self._own(network).drop(node)
        for peer in list(self.trusted.get(node, ())):
            self.remove_trust(node, peer)
        # Ids that are gone stay in the list until they are the half of it, so removing costs no search.
        if len(self.ascending) > 2 * len(self.nodes) + NODES_PER_PIECE:
            self.ascending = [one for one in self.ascending if one in self.nodes]

    def add_member(self, network: int, node: int, role: str | None) -> None:
        self._own(network).add(node, role)
        held = self.memberships.get(node, ())
        if network not in held:
            self.memberships[node] = (*held, network)
        record = self.nodes[node]
        listed = record.get("networks") or []
        if network not in listed:
            self.nodes[node] = {**record, "networks": [*listed, network]}

    def remove_member(self, network: int, node: int) -> None:
        self._own(network).drop(node)
        left = tuple(one for one in self.memberships[node] if one != network)
        if left:
            self.memberships[node] = left
        else:
            del self.memberships[node]
        record = self.nodes.get(node)
        if record is not None and network in (record.get("networks") or ()):
            self.nodes[node] = {**record, "networks": [one for one in record["networks"] if one != network]}

    def remove_network(self, network: int) -> None:
        for node in list(self.networks[network].members):
            self.remove_member(network, node)
        gone = self.networks.pop(network)
        _reindex(self.by_name, "name", network, gone.record, None)

    def _own(self, network: int) -> Network:
        """The network, for a change of its dicts: a copy, if a snapshot may still draw what was there."""
        found = self.networks[network]
        if found.made_at != self.snapshots:
            found = self.networks[network] = found.copy(self.snapshots)
        return found

    def add_trust(self, a: int, b: int) -> None:
        self.trust[_pair(a, b)] = None
        self.trusted.setdefault(a, set()).add(b)
        self.trusted.setdefault(b, set()).add(a)

    def remove_trust(self, a: int, b: int) -> None:
        del self.trust[_pair(a, b)]
        for one, other in ((a, b), (b, a)):
            self.trusted[one].discard(other)
            if not self.trusted[one]:
                del self.trusted[one]

    # Writing out.

    def pieces(self) -> Iterator[Record]:
        """The pieces of the state as it is now, drawn later. The copies are shallow, and all that happens now."""
        self.snapshots += 1
        head = {"version": VERSION, "next_node": self.next_node, "next_net": self.next_net, **self.kept}
        return _drawn(head, self.nodes.copy(), self.networks.copy(), self.trust.copy())

    def let_go(self) -> None:
        """Nobody has these tables any more: give up what is in them, without holding anybody up."""
        self.ascending = []
        indexes = (self.by_key, self.by_hostname, self.by_name, self.memberships, self.trusted)
        let_go(self.nodes, self.networks, self.trust, *indexes)


def _drawn(
    head: Record, nodes: dict[int, Record], networks: dict[int, Network], trust: dict[tuple[int, int], None]
) -> Iterator[Record]:
    """First what there is one of, then nodes, networks and trust pairs, as many at a time as a piece holds."""
    yield head
    for chunk in _cut(nodes.items(), NODES_PER_PIECE):
        yield {"nodes": {str(node): record for node, record in chunk}}
    for chunk in _cut(networks.items(), NETWORKS_PER_PIECE):
        yield {"networks": {str(network): found.drawn() for network, found in chunk}}
    for chunk in _cut(trust, PAIRS_PER_PIECE):
        yield {"trust_pairs": [f"{a}:{b}" for a, b in chunk]}


def _cut(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _reindex(index: dict[str, int], name: str, owner: int, before: Record | None, after: Record | None) -> None:
    """Move the entry of `owner` from the value that it had to the one that it has. Empty and null are not indexed."""
    old = before.get(name) if before is not None else None
    new = after.get(name) if after is not None else None
    if old == new:
        return
    if old:
        del index[old]
    if new:
        index[new] = owner


def _pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


# --- Reading in ---------------------------------------------------------------------------------------------------


#: What a piece after the first one holds: one of these, and nothing else.
PIECES = ("nodes", "networks", "trust_pairs")


class Loader:
    """Builds tables from pieces. A piece may have any of the document's members, so a whole document is one too."""

    def __init__(self) -> None:
        self.tables = Tables()
        # The highest ids named anywhere (I1).
        self.node_max = 0
        self.net_max = -1

    def load(self, pieces: Iterable[Any]) -> Tables:
        """The tables that these pieces make. What was built of pieces that turn out to be none is let go of."""
        try:
            self._load(iter(pieces))
        except BaseException:
            self.tables.let_go()
            raise
        return self.tables

    def _load(self, drawn: Iterator[Any]) -> None:
        head = next(drawn, None)
        if type(head) is not dict:
            raise InvalidDocument("", "must be a JSON object")
        self._versions(head)
        counters = {name: head.get(name) for name in ("next_node", "next_net")}
        self.tables.kept = {name: value for name, value in head.items() if name not in DOCUMENT_MEMBERS}
        for piece in chain([{name: head.get(name)} for name in PIECES], drawn):
            if type(piece) is not dict or len(piece) != 1 or not piece.keys() <= set(PIECES):
                raise InvalidDocument("", f"must have one of {', '.join(PIECES)}, and no more, in each later piece")
            self._nodes(_object(piece, "nodes"))
            self._networks(_object(piece, "networks"))
            self._trust(piece.get("trust_pairs"))
        self._counters(counters)
        self.tables.ascending.sort()  # it is, as a rule, and then this takes a millisecond for many nodes

    def _versions(self, head: Record) -> None:
        version = head.get("version", VERSION)
        if type(version) is not int or version != VERSION:
            raise InvalidDocument("version", f"must be {VERSION}, the only version that is known here")
        term_of(head)

    def _nodes(self, nodes: Record) -> None:
        if not self._all_at_once(nodes):
            self._one_by_one(nodes)

    def _all_at_once(self, nodes: Record) -> bool:
        """Take in what is right in every way, by columns: half of the time that the records take one by one.

        False: something is not, or is not usual. Nothing has moved then, and `_one_by_one` has to say what it is.
        """
        records, tables = nodes.values(), self.tables
        if not records or set(map(type, records)) - {dict}:
            return False
        columns = _columns(records)
        if not all({kind, _NULL}.issuperset(map(type, columns[name])) for name, kind in NODE_MEMBERS.items()):
            return False
        ids = columns["id"]
        if None in ids or list(map(str, ids)) != list(nodes) or integer(min(ids)) or integer(max(ids)):
            return False
        networks = _within(columns["networks"])
        if set(map(type, networks)) - {int} or integer(max(networks, default=0)) or integer(min(networks, default=0)):
            return False
        if any(set(map(type, _within(columns[name]))) - {str} for name in ("tags", "lan_addrs")):
            return False
        keys, hostnames = _owners(columns["public_key"], ids), _owners(columns["hostname"], ids)
        if keys is None or hostnames is None or not tables.nodes.keys().isdisjoint(ids):
            return False
        if not tables.by_key.keys().isdisjoint(keys) or not tables.by_hostname.keys().isdisjoint(hostnames):
            return False
        tables.by_key.update(keys)
        tables.by_hostname.update(hostnames)
        tables.nodes.update(zip(ids, records, strict=True))
        tables.ascending.extend(ids)
        self.node_max = max(self.node_max, *ids)
        self.net_max = max(self.net_max, *networks) if networks else self.net_max
        return True

    def _one_by_one(self, nodes: Record) -> None:
        tables = self.tables
        for key, record in nodes.items():
            node = _checked("nodes", key, record, NODE_MEMBERS, NODE_LISTS)
            if node in tables.nodes:
                raise InvalidDocument(f"nodes.{key}", "is there twice")
            _claim(tables.by_key, "nodes", node, record, "public_key")
            _claim(tables.by_hostname, "nodes", node, record, "hostname")
            for network in record.get("networks") or ():
                self.net_max = max(self.net_max, network)
            tables.nodes[node] = record
            tables.ascending.append(node)
            self.node_max = max(self.node_max, node)

    def _networks(self, networks: Record) -> None:
        for key, record in networks.items():
            network = _checked("networks", key, record, NETWORK_MEMBERS, NETWORK_LISTS)
            if network in self.tables.networks:
                raise InvalidDocument(f"networks.{key}", "is there twice")
            _claim(self.tables.by_name, "networks", network, record, "name")
            self.tables.networks[network] = self._network(key, record)
            self.net_max = max(self.net_max, network)
            for node in self.tables.networks[network].members:
                self.tables.memberships[node] = (*self.tables.memberships.get(node, ()), network)

    def _network(self, key: str, record: Record) -> Network:
        members: list[int] = record.get("members") or []
        member_roles: dict[str, str] = record.get("member_roles") or {}
        for node in member_roles:
            self.node_max = max(self.node_max, _id(f"networks.{key}.member_roles", node))
        self.node_max = max(self.node_max, max(members, default=0))
        places = {name: type(record[name])() for name in ("members", "member_roles") if record.get(name) is not None}
        network = Network({**record, **places}, dict.fromkeys(members), dict(member_roles))
        if len(network.members) != len(members):
            raise InvalidDocument(f"networks.{key}.members", "must name a node once")
        return network

    def _trust(self, pairs: Any) -> None:
        if pairs is None:
            return
        if problem := any_texts(pairs):
            raise InvalidDocument("trust_pairs", problem)
        for place, pair in enumerate(pairs):
            one, _, other = pair.partition(":")
            a, b = _number(one), _number(other)
            if a is None or b is None or a == b:
                raise InvalidDocument(f"trust_pairs[{place}]", 'must be the ids of two different nodes, like "1:2"')
            self.tables.add_trust(a, b)
            self.node_max = max(self.node_max, a, b)

    def _counters(self, head: Record) -> None:
        self.tables.next_node = _counter(head, "next_node", self.node_max + 1)
        self.tables.next_net = _counter(head, "next_net", self.net_max + 1)


def _object(piece: Record, name: str) -> Record:
    value = piece.get(name)
    if value is None:
        return {}
    if type(value) is not dict:
        raise InvalidDocument(name, "must be an object")
    return value


_NULL = type(None)


_all_members = itemgetter(*NODE_MEMBERS)


def _columns(records: Collection[Record]) -> dict[str, Sequence[Any]]:
    """The members that we know, of all records; None where one is missing."""
    try:
        return dict(zip(NODE_MEMBERS, zip(*map(_all_members, records), strict=True), strict=True))
    except KeyError:  # half as fast
        return {name: tuple(map(dict.get, records, repeat(name))) for name in NODE_MEMBERS}


def _within(lists: Sequence[list[Any] | None]) -> list[Any]:
    """What is in these lists, one after the other."""
    return list(chain.from_iterable(filter(None, lists)))


def _owners(values: Sequence[str | None], ids: Sequence[int]) -> dict[str, int] | None:
    """An index of these values; None if two claim the same."""
    claims = values if all(values) else [value for value in values if value]
    index = {value: node for value, node in zip(values, ids, strict=True) if value}
    return index if len(index) == len(claims) else None


def _id(path: str, key: str) -> int:
    number = _number(key)
    if number is None:
        raise InvalidDocument(f"{path}.{key}", "must have an id as its name: digits, without leading zeros")
    return number


def _number(digits: str) -> int | None:
    """An id in its one canonical spelling, or None."""
    try:
        number = int(digits)
    except ValueError:
        return None
    return number if 0 <= number <= INTEGER_MAX and str(number) == digits else None


def _checked(path: str, key: str, record: Any, members: Mapping[str, type], lists: Mapping[str, Check]) -> int:
    """The id of a record whose known members are of the right types."""
    number = _id(path, key)
    if type(record) is not dict:
        raise InvalidDocument(f"{path}.{key}", "must be an object")
    for name, value in record.items():
        kind = members.get(name)
        if kind is not None and type(value) is not kind and value is not None:
            raise InvalidDocument(f"{path}.{key}.{name}", f"must be {TYPE_NAMES[kind]}")
    for name, check in lists.items():
        value = record.get(name)
        if value and (problem := check(value)):
            raise InvalidDocument(f"{path}.{key}.{name}", problem)
    if record.get("id") not in (None, number):
        raise InvalidDocument(f"{path}.{key}.id", f"must be {number}, as its place says")
    return number


def _claim(index: dict[str, int], path: str, owner: int, record: Record, name: str) -> None:
    value = record.get(name)
    if value and index.setdefault(value, owner) != owner:
        raise InvalidDocument(f"{path}.{owner}.{name}", f"belongs to {index[value]} already")


def _counter(head: Record, name: str, least: int) -> int:
    if least > INTEGER_MAX:
        raise InvalidDocument(name, "cannot be above every id that the document names: one of them is 2^53-1")
    value = head.get(name)
    if value is None:
        return least
    if problem := integer(value):
        raise InvalidDocument(name, problem)
    if value < least:
        raise InvalidDocument(name, f"must be at least {least}, above every id that the document names")
    return int(value)


def term_of(document: Any) -> int:
    """The term that a parsed document carries; 0 if it carries none. Raises InvalidDocument if it is no term."""
    term = document.get("term") if type(document) is dict else None
    if term is None:
        return 0
    if problem := integer(term):
        raise InvalidDocument("term", problem)
    return int(term)


# --- The operations -----------------------------------------------------------------------------------------------
#
# Each takes the tables and a change whose shape is right, refuses what the tables do not allow, and then writes.

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
    removed = [name for name, value in values.items() if value is None]
    tables.put_node(node, {name: value for name, value in {**record, **values}.items() if name not in removed})
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
    created = _pair(a, b) not in tables.trust
    tables.add_trust(a, b)
    return {"a": a, "b": b, "created": created}


def _untrust(tables: Tables, change: Change) -> Record:
    a, b = change["a"], change["b"]
    if _pair(a, b) not in tables.trust:
        raise UnknownId(f"nodes {a} and {b} do not trust each other", field="b")
    tables.remove_trust(a, b)
    return {"a": a, "b": b}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a change of one kind looks like, and what carries it out."""

    carry_out: Callable[[Tables, Change], Record]
    required: Mapping[str, Check] = field(default_factory=dict)
    optional: Mapping[str, Check] = field(default_factory=dict)

    def refuse_malformed(self, change: Change) -> None:
        for name, value in change.items():
            check = self.required.get(name) or self.optional.get(name)
            if check is None and name != "op":
                known = ", ".join([*self.required, *self.optional])
                raise ChangeRejected(f"{name} is not a field of {change['op']}, whose fields are {known}", field=name)
            if check is not None and (problem := check(value)):
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


# --- The state ----------------------------------------------------------------------------------------------------


class Registry:
    """The registry as a `State`. An instance is used under its node's lock; what it hands out may outlive the lock.

    The records that it hands out are the state's own: they are never changed by the registry, and must not be by you.
    """

    def __init__(self) -> None:
        self._tables = Tables()

    def snapshot(self) -> Iterator[Record]:
        """See `State`: first what there is one of, then the nodes, the networks and the trust pairs, some at a time."""
        return self._tables.pieces()

    def restore(self, pieces: Iterable[Any]) -> None:
        """See `State`. A whole document is a piece too. Raises InvalidDocument with the path of what is wrong."""
        tables = Loader().load(pieces)
        self._tables, old = tables, self._tables
        old.let_go()

    def apply(self, change: Any) -> Record:
        """Carry out `{"op": …, …}` (`OPERATIONS`) and return its result. Raises ChangeRejected, with the field."""
        operation = OPERATIONS.get(_name_of(change))
        if operation is None:
            raise ChangeRejected(f"op must be one of {', '.join(OPERATIONS)}", field="op")
        operation.refuse_malformed(change)
        return operation.carry_out(self._tables, change)

    @property
    def is_pristine(self) -> bool:
        """Whether there is nothing in it, and never was: not even an id that was given up."""
        tables = self._tables
        return (tables.next_node, tables.next_net) == (1, 0) and not tables.kept

    def __len__(self) -> int:
        """How many nodes are registered."""
        return len(self._tables.nodes)

    def node(self, node: int) -> Record | None:
        """The record of a node."""
        return self._tables.nodes.get(node)

    def node_by_hostname(self, name: str) -> Record | None:
        """The record of the node that a hostname belongs to."""
        node = self._tables.by_hostname.get(name)
        return None if node is None else self._tables.nodes[node]

    def network(self, network: int) -> Record | None:
        """The record of a network, its members with it."""
        found = self._tables.networks.get(network)
        return None if found is None else found.drawn()

    def nodes(self, *, after: int = -1, limit: int = NODES_PER_PIECE) -> dict[int, Record]:
        """At most `limit` nodes whose ids are above `after`, in ascending order of their ids."""
        ascending, nodes = self._tables.ascending, self._tables.nodes
        above = (ascending[place] for place in range(bisect_right(ascending, after), len(ascending)))
        return {node: nodes[node] for node in islice((one for one in above if one in nodes), limit)}

    def networks(self, *, after: int = -1, limit: int = NODES_PER_PIECE) -> dict[int, Record]:
        """At most `limit` networks whose ids are above `after`, in ascending order of their ids."""
        networks = self._tables.networks
        above = sorted(network for network in networks if network > after)
        return {network: networks[network].drawn() for network in above[:limit]}

    def document(self, term: int) -> Iterator[bytes]:
        """The whole document as it is now, as JSON of `term`, in chunks to be drawn later."""
        return document_of(self.snapshot(), term)


def _name_of(change: Any) -> str:
    if type(change) is not dict:
        raise ChangeRejected('a change must be an object, like {"op": "register", "hostname": "db1"}')
    name = change.get("op")
    return name if type(name) is str else ""


def check_complete(document: Any) -> None:
    """Raise `IncompleteDocument` if a parsed document lacks members, `InvalidDocument` if it is not even an object.

    A piece of a snapshot may lack them; what is sent to replace the whole state may not.
    """
    if type(document) is not dict:
        raise InvalidDocument("", "must be a JSON object")
    if missing := [name for name in REQUIRED_MEMBERS if name not in document]:
        raise IncompleteDocument(missing)


def pieces_of(document: Any) -> Iterator[Record]:
    """Snapshot pieces of a parsed document, validated in full before this returns. Raises InvalidDocument."""
    return Loader().load([document]).pieces()


def document_of(pieces: Iterable[Any], term: int) -> Iterator[bytes]:
    """The JSON document that snapshot pieces make, in chunks: never all of it in memory at once."""
    drawn = iter(pieces)
    head = next(drawn)
    stamp = {"version": VERSION, "term": term} if term else {"version": VERSION}
    counters = {name: head[name] for name in ("next_node", "next_net")}
    yield orjson.dumps({**stamp, **counters})[:-1]
    piece: Record = next(drawn, {})
    for name in PIECES:
        begin, end = (b"[", b"]") if name == "trust_pairs" else (b"{", b"}")
        yield b',"%b":%b' % (name.encode(), begin)
        comma = b""
        while name in piece:
            yield comma + orjson.dumps(piece[name])[1:-1]
            comma = b","
            piece = next(drawn, {})
        yield end
    kept = {name: value for name, value in head.items() if name not in DOCUMENT_MEMBERS}
    yield (b"," if kept else b"") + orjson.dumps(kept)[1:]
