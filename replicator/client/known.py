"""What a client knows: the nodes there are, and the newest position it has seen. Shared by all of its requests.

Nothing here asks anybody. Threads may share it.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from ..format.ids import RecordId

__all__ = ["Known", "Nodes"]

#: Nodes come and go, and nobody tells: what was found is looked up again after so long.
NODES_AGE_S_MAX = 10.0


class Nodes(NamedTuple):
    """The URLs of the nodes, as they were found.

    `primary` None: nobody leads, or nobody knows. `others`: those to read from. `has_roles` False: which of `others`
    leads is not known, they have to be asked.
    """

    primary: str | None
    others: tuple[str, ...]
    has_roles: bool = True


class Known:
    """The nodes, whose turn it is to be read from, and the token."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: Nodes | None = None
        self._found_at = 0.0
        self._turns = 0
        self._token: RecordId | None = None

    # --- the nodes ---

    def found(self, nodes: Nodes, now: float) -> None:
        with self._lock:
            if not nodes.has_roles and self._nodes is not None:
                nodes = nodes._replace(primary=self._nodes.primary)  # what answers said of it
            self._nodes, self._found_at = nodes, now

    def not_found(self, now: float) -> None:
        """They could not be looked up: what was known goes on to be used, and is not old before its time."""
        with self._lock:
            self._found_at = now

    @property
    def nodes(self) -> Nodes | None:
        return self._nodes

    def is_old(self, now: float) -> bool:
        return now - self._found_at > NODES_AGE_S_MAX

    def learn_primary(self, url: str) -> None:
        """A node said that this is the primary."""
        with self._lock:
            self._nodes = (self._nodes or Nodes(None, ()))._replace(primary=url)

    def hear(self, url: str, role: str) -> None:
        """The role that a node has by its own answer. Where the group's log says who leads, that counts more."""
        with self._lock:
            if self._nodes is None or self._nodes.has_roles:
                return
            if role == "primary":
                self._nodes = self._nodes._replace(primary=url)
            elif self._nodes.primary == url:
                self._nodes = self._nodes._replace(primary=None)

    def writers(self) -> list[str]:
        """Where a write may go, the best one first. Without roles: whoever is asked says who leads, or does not."""
        nodes = self._nodes or Nodes(None, ())
        first = [nodes.primary] if nodes.primary else []
        return first if nodes.has_roles else [*first, *(url for url in nodes.others if url != nodes.primary)]

    def readers(self, turn: int) -> list[str]:
        """Where a read may go: the standbys, each first in its turn, then the primary."""
        nodes = self._nodes or Nodes(None, ())
        others = [url for url in nodes.others if url != nodes.primary]
        start = turn % len(others) if others else 0
        return [*others[start:], *others[:start], *([nodes.primary] if nodes.primary else [])]

    def turn(self) -> int:
        with self._lock:
            self._turns += 1
            return self._turns

    # --- the token ---

    @property
    def token(self) -> RecordId | None:
        """The newest position that was seen."""
        return self._token

    def saw(self, position: RecordId | None) -> None:
        if position is None:
            return
        with self._lock:
            if self._token is None or position > self._token:
                self._token = position

    def drop(self, token: RecordId | None) -> None:
        """The group's history does not have this position any more. One that was seen since stays."""
        with self._lock:
            if token is not None and self._token == token:
                self._token = None
