"""Tables from the pieces of a snapshot, or from a whole document: all that is in them is checked here, once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from operator import itemgetter
from typing import Any

from ..runtime.gil import Turns
from ..state.release import let_go
from .document import (
    DOCUMENT_MEMBERS,
    INTEGER_MAX,
    NETWORK_LISTS,
    NETWORK_MEMBERS,
    NODE_LISTS,
    NODE_MEMBERS,
    PIECES,
    TYPE_NAMES,
    VERSION,
    Check,
    InvalidDocument,
    Record,
    any_texts,
    integer,
    term_of,
)
from .tables import NETWORKS_PER_PIECE, NODES_PER_PIECE, PAIRS_PER_PIECE, Network, Tables, cut

__all__ = ["Loader", "give_up", "pieces_of"]

#: The members of a document that have as many entries as they like, and how many of these are looked at in one step.
KINDS: dict[str, type] = {"nodes": dict, "networks": dict, "trust_pairs": list}
AT_ONCE = {"nodes": NODES_PER_PIECE, "networks": NETWORKS_PER_PIECE, "trust_pairs": PAIRS_PER_PIECE}


class Loader:
    """Builds tables from pieces. A piece may have any of the document's members, so a whole document is one too."""

    def __init__(self) -> None:
        self.tables = Tables()
        # The highest ids named anywhere (I1).
        self.node_max = 0
        self.net_max = -1
        #: Trust pairs of the pieces so far: the place that is told of one that is wrong is the one in the document.
        self.pairs = 0

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
        if keys is None or hostnames is None:
            return False
        if min(ids) <= self.node_max and any(node in tables.nodes for node in ids):
            return False
        if not tables.by_key.keys().isdisjoint(keys) or not tables.by_hostname.keys().isdisjoint(hostnames):
            return False
        tables.by_key.update(keys)
        tables.by_hostname.update(hostnames)
        tables.nodes.add(ids, records)
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
        for place, pair in enumerate(pairs, self.pairs):
            one, _, other = pair.partition(":")
            a, b = _number(one), _number(other)
            if a is None or b is None or a == b:
                raise InvalidDocument(f"trust_pairs[{place}]", 'must be the ids of two different nodes, like "1:2"')
            self.tables.add_trust(a, b)
            self.node_max = max(self.node_max, a, b)
        self.pairs += len(pairs)

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


def pieces_of(document: Any) -> Iterator[Record]:
    """Snapshot pieces of a parsed document, validated in full before this returns. Raises InvalidDocument."""
    tables = Loader().load(Turns().over(_taken_apart(document)))
    pieces = tables.pieces()
    tables.let_go()
    return pieces


def _taken_apart(document: Any) -> Iterator[Any]:
    """A document as pieces, so that no step over one takes long. A member of another type is left where it is."""
    if type(document) is not dict:
        yield document
        return
    large: Record = {name: value for name, value in document.items() if type(value) is KINDS.get(name)}
    yield {name: value for name, value in document.items() if name not in large}
    for name in (one for one in PIECES if one in large):
        kind, value = KINDS[name], large[name]
        entries = value.items() if kind is dict else value
        yield from ({name: kind(some)} for some in cut(entries, AT_ONCE[name]))


def give_up(document: Any, then: Callable[[], object]) -> None:
    """Nobody needs this parsed document any more: it is freed in slices, and holds nobody up. `then` is called when
    it is gone.
    """
    members = document if type(document) is dict else {}
    let_go(*(value for name, value in members.items() if type(value) in (dict, list) and name in KINDS), then=then)
