"""What an application gives replicator: its state, behind three methods.

`State` is the contract. `replicator.state.registry` is the reference application and a model for an author's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

__all__ = ["ReplicatedState", "State"]


@runtime_checkable
class ReplicatedState(Protocol):
    """A state that is replicated whole: it can be written out and rebuilt, and nothing else."""

    def snapshot(self) -> Iterable[Any]:
        """Give the state as pieces, each JSON-serialisable or each `bytes` (one kind per snapshot, 64 KiB or so each).

        Called under the node's lock; must return at once. The pieces are drawn later, by another thread, without the
        lock, and must show the state as it was at the call: replace records and never mutate them, and hand out an
        iterator over a shallow copy of the index. Equal states must give equal pieces in equal order, or digests of
        equal nodes differ (G6).
        """
        ...

    def restore(self, pieces: Iterable[Any]) -> None:
        """Become the state that `pieces` (as `snapshot` gave them) describe. Build it aside, then swap it in.

        If `pieces` or this method raises, the state must still be what it was. Called under the node's lock.
        """
        ...


@runtime_checkable
class State(ReplicatedState, Protocol):
    """A state that is replicated change by change."""

    def apply(self, change: Any) -> Any:
        """Carry out one change (decoded JSON, the very same on every node) and return its result.

        Must be deterministic: no clock, no random, no set order. `ChangeRejected` is an outcome like any other and
        must leave the state as it was; every other exception is a bug, and stalls the node. Called under the node's
        lock, on the primary after the change is in the log, on a standby after it is on disk.
        """
        ...
