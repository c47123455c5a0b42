"""What an application gives replicator: its state, behind three methods, or behind two.

`State` is the contract of a state that moves by changes which go through the log. `replicator.state.registry` is the
reference application and a model for an author's own.

`ReplicatedState` is that of a state which somebody else moves: on the primary its program does, and `Node.publish`
sends what became of it. `replicator.state.file` and `replicator.state.sqlite` are such states.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

__all__ = ["ReplicatedState", "State", "survived"]


@runtime_checkable
class ReplicatedState(Protocol):
    """A state that is replicated whole: it can be written out and rebuilt, and nothing else.

    On the primary its program changes it, and `Node.publish` sends a patch from what was published last. Everywhere
    else it becomes what was published, with each publication, and when the node stops leading: what was not published
    by then is gone, unless the state puts it aside.

    A state that outlives the process, in a file for example, has a method `survived` besides, without arguments:
    whether it is still there. At the start of a node that led when it ended, such a state is left as it is, since its
    program may have gone on; any other one is restored.
    """

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


def survived(state: ReplicatedState) -> bool:
    """Whether the state outlived the process before this one."""
    asked = getattr(state, "survived", None)
    return asked is not None and bool(asked())
