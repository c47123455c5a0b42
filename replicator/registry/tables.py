"""The tables of the registry: nodes, networks and trust, with the indexes in which an operation finds what it needs.

Invariants of `Tables`, checked once, when pieces are loaded, and kept by every operation:

I1. ids only grow: `next_node` and `next_net` are above every id in use or named anywhere, so an id that was given up
    never comes to mean another node.
I2. a public key and a hostname belong to one node at most, a network's name to one network.
I3. a network's `members` says who is in it. A node's `networks` mirrors that; where a loaded document disagrees with
    itself neither side is mended, and `members` counts.
I4. where members (roles) are held, the network's record has a list (an object) of that name as their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..state.release import let_go
from .buckets import Buckets
from .document import VERSION, Record, UnknownId

__all__ = ["NETWORKS_PER_PIECE", "NODES_PER_PIECE", "PAIRS_PER_PIECE", "Network", "Tables", "cut", "pair"]

#: About 75 KB of JSON a piece: small enough that encoding one never holds the interpreter for a millisecond.
NODES_PER_PIECE = 100

#: A network has as many members as it likes; the usual one makes a piece of about 40 KB with its like.
NETWORKS_PER_PIECE = 50

#: Short texts, but each is taken apart and put into three indexes: about a millisecond a piece.
PAIRS_PER_PIECE = 1000


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
    nodes: Buckets = field(default_factory=Buckets)
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
        self.trust[pair(a, b)] = None
        self.trusted.setdefault(a, set()).add(b)
        self.trusted.setdefault(b, set()).add(a)

    def remove_trust(self, a: int, b: int) -> None:
        del self.trust[pair(a, b)]
        for one, other in ((a, b), (b, a)):
            self.trusted[one].discard(other)
            if not self.trusted[one]:
                del self.trusted[one]

    # Writing out.

    def pieces(self) -> Iterator[Record]:
        """The pieces of the state as it is now, drawn later. The copies are shallow, and all that happens now."""
        self.snapshots += 1
        head = {"version": VERSION, "next_node": self.next_node, "next_net": self.next_net, **self.kept}
        return _drawn(head, self.nodes.items(), self.networks.copy(), self.trust.copy())

    def let_go(self) -> None:
        """Nobody has these tables any more: give up what is in them, without holding anybody up."""
        indexes = (self.by_key, self.by_hostname, self.by_name, self.memberships, self.trusted)
        let_go(self.nodes, self.networks, self.trust, *indexes)


def _drawn(
    head: Record,
    nodes: Iterator[tuple[int, Record]],
    networks: dict[int, Network],
    trust: dict[tuple[int, int], None],
) -> Iterator[Record]:
    """First what there is one of, then nodes, networks and trust pairs, as many at a time as a piece holds."""
    yield head
    for chunk in cut(nodes, NODES_PER_PIECE):
        yield {"nodes": {str(node): record for node, record in chunk}}
    for chunk in cut(networks.items(), NETWORKS_PER_PIECE):
        yield {"networks": {str(network): found.drawn() for network, found in chunk}}
    for chunk in cut(trust, PAIRS_PER_PIECE):
        yield {"trust_pairs": [f"{a}:{b}" for a, b in chunk]}


def cut(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """So many of them at a time."""
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


def pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)
