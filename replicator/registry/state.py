"""The reference application: a registry of nodes, the networks they are in, and who trusts whom.

The state is one JSON document, `{"version": 1, "term": T, "next_node": n, "next_net": n, "nodes": {"1": {...}},
"networks": {"0": {...}}, "trust_pairs": ["1:2"]}`. `term` belongs to the node that holds the state and not to the
state: it is in no snapshot, `document` writes it in (0 is left out), and a document without it is of term 0.

How it is built (`document.py`, `tables.py`, `loading.py`, `operations.py`), and a model for a state of your own:

- **Records are replaced, never mutated.** `snapshot` can therefore take the indexes as they are, return at once, and
  draw its pieces later on another thread while changes go on. What changes one entry at a time (the members of a
  network, the trust pairs) lives in dicts of its own, so a change costs the size of the change and not of the state.
  What a snapshot may still draw, a bucket of nodes (`buckets.py`) or a network, is copied by the first change of it.
- **Pieces are small, and records are checked as they are drawn**, a piece at a time and by columns: nothing holds the
  interpreter for more than a moment, and all that is left for the swap is two counters. What was swapped out, or was
  not finished, is let go of in slices.
- **A change is checked in full before anything moves.** Its shape is data (`operations.py`); then the operation looks
  up every id and every claim; only then it writes. What it refuses, it refuses with the field at fault.
- **Nothing here reads a clock or draws a random number.** Times come in the change, stamped by whoever submits it.
- **Order is part of the state.** Networks, members and pairs keep the order they came in, nodes that of their buckets,
  through a snapshot and back, or equal states would give unequal pieces.
- **What we do not know, we keep**: unknown members of the document, of a node and of a network stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import ChangeRejected
from .document import Record, document_of
from .loading import Loader
from .operations import OPERATIONS
from .tables import NODES_PER_PIECE, Tables

__all__ = ["Registry"]


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
        return self._tables.nodes.page(after, limit)

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
