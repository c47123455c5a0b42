"""A node as the web sees it, and the facts about it that every answer carries. `Node` is one, whatever its state is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..metrics.node_metrics import NodeMetrics

__all__ = [
    "FACTS",
    "Facts",
    "ServedHistory",
    "ServedLag",
    "ServedMembers",
    "ServedNode",
    "ServedPosition",
    "ServedRelease",
    "ServedUnready",
]


StateT = TypeVar("StateT", covariant=True)

#: Where in a scope a handler that read under the lock leaves the facts that belong to what it read.
FACTS = "replicator.facts"


class ServedPosition(Protocol):
    @property
    def id(self) -> object: ...


class ServedLag(Protocol):
    @property
    def records(self) -> int | None: ...
    @property
    def ms(self) -> int | None: ...


class ServedUnready(Protocol):
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...


class ServedRelease(Protocol):
    """`version`: that of the code. `reads`: the versions of the group that it reads."""

    @property
    def app(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def reads(self) -> range: ...


class ServedMembers(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class ServedHistory(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class ServedNode(Protocol[StateT]):
    """What the web needs of a node. The properties answer at once; the methods may block and are called on threads,
    unless they are told not to; `asubmit` is awaited.
    """

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def role(self) -> str:
        """ "primary" or "standby"."""
        ...

    @property
    def leads(self) -> bool:
        """Whether it can take writes now."""
        ...

    @property
    def term(self) -> int: ...
    @property
    def position(self) -> ServedPosition:
        """`str(position.id)` is like "5-1042"."""
        ...

    @property
    def in_sync(self) -> bool: ...
    @property
    def lag(self) -> ServedLag: ...
    @property
    def stale_s(self) -> float | None:
        """For how long, at most, the state may lack what was committed; None: not known."""
        ...

    @property
    def heartbeat_age_ms(self) -> int | None: ...
    @property
    def release(self) -> ServedRelease: ...
    @property
    def version(self) -> int:
        """That of the group, at this position."""
        ...

    @property
    def members(self) -> ServedMembers: ...
    @property
    def state_problem(self) -> str | None:
        """Why the state does not become what it should be, if so."""
        ...

    @property
    def problem(self) -> str:
        """What is in its way now, in words, or nothing."""
        ...

    @property
    def unready(self) -> ServedUnready | None:
        """Why it cannot do its role's work now, if so."""
        ...

    @property
    def primary_http(self) -> str | None:
        """The URL of the current primary."""
        ...

    @property
    def lease_ms(self) -> int | None: ...

    def has_proven(self, url: str) -> bool:
        """Whether this is a URL below `primary_http`, and the server there has proved that it is the primary; if not,
        it is asked. At once."""
        ...

    def hear(self, nonce: str) -> None:
        """Somebody asks over HTTP whether this is the node of that URL: tell so in Redis. At once."""
        ...

    def history(self) -> ServedHistory:
        """What was done to the group, as far as it knows, at once."""
        ...

    def metrics(self) -> Sequence[NodeMetrics]:
        """What it tells Prometheus, at once."""
        ...

    async def asubmit(
        self,
        change: Any,
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> Any:
        """Have a change appended and applied; what apply returned. With `term`: in that one, or not at all.

        `ack`: how far it has to have come, `applied:1` for example. `key`: by which a repeat is told.
        """
        ...

    def replace(
        self, pieces: Iterable[Any], *, term: int | None = None, ack: str | None = None, expect: str | None = None
    ) -> None:
        """Make these pieces the whole state, on all nodes, at one record. `term`, `ack`: as for `asubmit`.

        `expect`: a position; only if the state is still what it was there (`Outdated`).
        """
        ...

    def wait(self, *, position: str, timeout_s: float) -> None:
        """Return once that position is applied. Raises TimeoutError. With `timeout_s=0` it only looks."""
        ...

    def reading(
        self, *, fresh: bool = False, timeout_s: float = 5.0, blocks: bool = True
    ) -> AbstractContextManager[StateT]:
        """Give the state; nothing is applied meanwhile, so hold it shortly. `fresh`: all that is committed is in it.

        `blocks=False`: at once, or not at all (`BlockingIOError`); not with `fresh`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Where a node is. Stamped on every answer."""

    position: str
    role: str
    term: int

    @classmethod
    def of(cls, node: ServedNode[Any]) -> Facts:
        return cls(position=str(node.position.id), role=node.role, term=node.term)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"replicator-position", self.position.encode()),
            (b"replicator-role", self.role.encode()),
            (b"replicator-term", str(self.term).encode()),
        ]
