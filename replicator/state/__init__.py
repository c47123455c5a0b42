"""What an application gives replicator: its state, behind three methods, or behind two.

`State` is the contract of a state that moves by changes which go through the log. `replicator.registry.state` is the
reference application and a model for an author's own.

`ReplicatedState` is that of a state which somebody else moves: on the primary its program does, and `Node.publish`
sends what became of it. `replicator.state.file` and `replicator.state.sqlite` are such states.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

__all__ = ["CheckedState", "CheckingState", "KeptState", "ReplicatedState", "SharedState", "State", "TypedResults"]


@runtime_checkable
class ReplicatedState(Protocol):
    """A state that is replicated whole: it can be written out and rebuilt, and nothing else.

    On the primary its program changes it, and `Node.publish` sends a patch from what was published last. Everywhere
    else it becomes what was published, with each publication, and when the node stops leading: what was not published
    by then is gone, unless the state puts it aside.
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
        """Become the state that `pieces` (as `snapshot` gave them) describe: draw them all, build aside, then swap.

            def restore(self, pieces):
                flags = {}                      # aside, and without the node's lock: readers go on with the old state
                for piece in pieces:            # the loop ends when all of it proved right and is on disk
                    flags.update(piece)
                self.flags = flags              # under the node's lock: be quick

        Called by one thread at a time, which may be one of the node's own, WITHOUT the node's lock, and possibly while
        the pieces still arrive: drawing one may take seconds, and `apply` may be called meanwhile. The end of the
        pieces comes once their digest was right and the node's disk has them, and it takes the node's lock, which is
        given back when this method returns. So only what follows the last piece may touch the state; and if `pieces`
        raise (the snapshot was damaged or broke off, the disk refused, the node stops), let that pass. The state must
        then still be what it was, and so it must if this method raises.

        A state without `apply` may raise `StateError` at pieces that are right: its surroundings refuse (a disk is
        full, a program holds the file). The node goes on, says so, and calls this method again until it succeeds.

        The node stalls if this method raises anything else at pieces that are right, if it returns before their end, or
        if it returns although they raised. Freeing a large old state in one go holds up every thread: see
        `replicator.state.release.let_go`.
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


@runtime_checkable
class CheckingState(State, Protocol):
    """A state that can say no before a change is written."""

    def check(self, change: Any) -> None:
        """Raise `ChangeRejected` at a change (decoded JSON, as `apply` will get it) that is not to be written at all.

            def check(self, change):
                if change["amount"] > self.balance:
                    raise ChangeRejected("not enough is left", field="amount")

        Called on the primary alone, just before the append, under the node's lock: it sees the state with all changes
        that were committed earlier, and must not move it. Changes that share a record, whoever submitted them, are all
        checked against the state *before* that record. So `apply` stays the judge, and checks what must hold: this is
        for what need not be in the log, and it may use what `apply` must not (a clock, a quota, a table outside).
        Be quick: nothing is read, applied or written meanwhile.

        Any other exception goes to the caller as `CheckFailed`. Nothing was written then, either, and no node stalls.
        """
        ...


@runtime_checkable
class CheckedState(ReplicatedState, Protocol):
    """A state that can tell whether pieces are one, before a node sends them to all."""

    def check_pieces(self, pieces: Iterable[Any]) -> None:
        """Raise what `restore` would raise at these pieces, and change nothing.

        `Node.replace` calls it on the primary, before anything is sent and without the node's lock, with the pieces as
        every node will decode them: those that do not fit would stall them all. What it raises, `replace` raises.
        """
        ...


@runtime_checkable
class TypedResults(Protocol):
    """A state that has the results of its `apply` in JSON, and back: so they can be kept for a repeat with a key.

    Without, results that are plain JSON are kept (docs/api.md, *Keys*). What either method raises is as if there were
    no result to be kept.
    """

    def result_to_json(self, change: Any, result: Any) -> Any:
        """Plain JSON for what `apply` returned for this change. Deterministic, and called as `apply` is."""
        ...

    def result_from_json(self, change: Any, value: Any) -> Any:
        """The result, of what `result_to_json` gave, for somebody who sends the change again."""
        ...


@runtime_checkable
class KeptState(ReplicatedState, Protocol):
    """A state without `apply` that outlives the process: in a file, for example."""

    def survived(self) -> bool:
        """Whether it is there already, at the start of a node.

        On a node that led when it ended it is left alone then, since its program may have gone on; otherwise it is
        restored.
        """
        ...

    def published(self) -> None:
        """What the last `snapshot` gave is what is published now: whatever replaces it, nothing of it is lost.

        What `restore` replaces and was not published is for the state to put aside.
        """
        ...


@runtime_checkable
class SharedState(KeptState, Protocol):
    """A kept state that programs can hold up by using it: a database in which one of them reads."""

    def restore_in_use(self, pieces: Iterable[Any]) -> None:
        """`restore` for a node that is to lead and cannot wait: programs may go on using what was there.

        Raises `StateError` if not even that can be done.
        """
        ...
