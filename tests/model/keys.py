"""The same world, in which all changes are attempts at one: two clients send one key to any node that leads (G10).

A client asks a node, and its change waits there for its turn (`node/commit_queue.py`): so something may happen between
that and the record. An attempt whose client hears nothing, or of which a node was killed, is followed by another one.
Whether the change is applied is decided where it is applied, by the real `Ledger`, of which a state shows the letter of
the attempt that was the first.
"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.format.ids import ZERO_ID, RecordId
from replicator.format.keyed import Keyed
from replicator.protocol.node_state import NodeState
from replicator.replica.ledger import Ledger
from replicator.testing import MemoryState

from .parts import LETTERS, Breach, Budget, Node, Option
from .world import Machine

__all__ = ["KeyedMachine"]

#: All attempts are of one change.
KEY, DIGEST = "k", "0" * 32


class KeyedMachine(Machine):
    """See `Machine`."""

    #: A node answers what it finds in its table at once, and writes nothing.
    looks_first = False

    def outcome(self, state: str, letter: str) -> tuple[str, str]:
        if letter not in LETTERS:
            return super().outcome(state, letter)
        applied = state

        def apply(change: str) -> str:
            nonlocal applied
            applied += change
            return change

        result: str = _ledger_of(state).once(Keyed(KEY, letter, DIGEST), ZERO_ID, 0, apply)
        return applied, result

    def _writes(self, node: Node, node_state: NodeState, state: MemoryState, left: Budget) -> Iterator[Option]:
        if node_state.is_primary and left.changes:
            yield self._asked(node, LETTERS[self.bounds.changes - left.changes], left)
        yield from super()._writes(node, node_state, state, left)

    def _asked(self, node: Node, letter: str, left: Budget) -> Option:
        """A client sends its change to this node."""
        spent = self.budgets(left._replace(changes=left.changes - 1))
        known = next((each for each in node.state if each in LETTERS), None)
        if self.looks_first and known is not None:
            at = node.live.view.position.id
            text = f"{node.name} tells a client {known!r} without a record"
            return Option(text, self.nodes(node), budget=spent, event=("acknowledged", known, at))
        asked = node._replace(queued=node.queued + letter)
        return Option(f"a client sends {letter!r} to {node.name}", self.nodes(asked), budget=spent)

    def _changes(self, node: Node, runs: list[str], left: Budget) -> Iterator[Option]:
        if node.queued:
            for run in runs:
                yield self._submitted(node._replace(queued=node.queued[1:]), node.queued[0], run, -1)

    def observe(self, ghost: int, server: int, i: int, event: tuple[str, str, RecordId]) -> int:
        what, letter, id_ = event
        if what != "acknowledged" or letter not in LETTERS:
            return super().observe(ghost, server, i, event)
        for other in self.ghosts[ghost].answers - {letter}:
            raise Breach(f"G10: one client is told {letter!r}, another one {other!r}")
        known = self.ghosts[super().observe(ghost, server, i, event)]
        # Who told it may have read it. Who wrote it may not know yet that it is in the log, and was a primary before.
        acks = tuple(
            ack and ack._replace(since=max(ack.since, id_)) if each == letter else ack
            for each, ack in zip(LETTERS, known.acks, strict=False)
        )
        return self.ghosts(known._replace(acks=acks, answers=frozenset({letter})))

    def check_states(self, node: int) -> None:
        """G10: of all attempts, one is in a state at the most."""
        super().check_states(node)
        value = self.nodes[node]
        for state in (value.state, value.disk.state):
            if sum(each in LETTERS for each in state) > 1:
                raise Breach(f"G10: {value.name} has applied {state!r}, which are attempts at one change")


def _ledger_of(state: str) -> Ledger:
    """What the library keeps beside that state."""
    ledger = Ledger()
    for letter in state:
        if letter in LETTERS:
            ledger.once(Keyed(KEY, letter, DIGEST), ZERO_ID, 0, lambda change: change)
    return ledger
