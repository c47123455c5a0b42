"""What the proxy asks the node that it is beside, and that node's program."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from ..sidecar import Publication
from .routing import Standing

__all__ = ["Beside", "Place", "ProxiedNode"]


class ProxiedNode(Protocol):
    """As far as a `Node` is asked. All but `wait` answer at once."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def leads(self) -> bool: ...
    @property
    def term(self) -> int: ...
    @property
    def state_problem(self) -> str | None: ...
    @property
    def primary_proxy(self) -> str | None: ...
    def has_proven_proxy(self, url: str) -> bool: ...
    def hear(self, nonce: str) -> None: ...
    def wait(self, *, position: str, timeout_s: float) -> None: ...


class UnderWay(Protocol):
    def one(self) -> AbstractContextManager[None]: ...


class Beside(Protocol):
    """As far as a `Sidecar` is asked."""

    @property
    def requests(self) -> UnderWay: ...
    @property
    def program_term(self) -> int: ...
    def publish_now(self) -> Publication: ...


class Place:
    """A node and what is beside it."""

    def __init__(self, node: ProxiedNode, beside: Beside) -> None:
        self.node = node
        self.beside = beside
        #: The node is about to stop: nothing waits here any more.
        self.is_closing = False

    def standing(self) -> Standing:
        node = self.node
        term = self.beside.program_term
        primary = "" if term else node.primary_proxy or ""
        return Standing(
            program_term=term,
            is_primary=node.role == "primary",
            primary=primary,
            is_proven=bool(primary) and node.has_proven_proxy(primary),
        )

    def leads_in(self, term: int) -> bool:
        """Whether it leads, in that very term: what was read and written before was the group's state."""
        return self.node.leads and self.node.term == term
