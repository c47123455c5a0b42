"""What a node knows: its `NodeState`, for many threads, some of which wait for it to move."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import CorruptRecord
from ..protocol.group import Reply
from ..protocol.node_state import NodeState

__all__ = ["NodeStateCell"]


class NodeStateCell:
    """The newest `NodeState`. It is read without a lock, and moves under `moved` alone, which tells those that wait."""

    def __init__(self, node_state: NodeState) -> None:
        self.node_state = node_state
        self._lock = threading.RLock()
        #: Held while the node state moves, notified once it has. `wait_for` waits for it, and nobody else does.
        self.moved = threading.Condition(self._lock)
        #: How many wait for that.
        self._waiting = 0
        #: What was wrong with the newest record that this node needed and passed by; None: it has all there is.
        self.passed_by: CorruptRecord | None = None
        #: Called under `moved`, before it becomes that of a primary.
        self.before_it_leads: Callable[[], None] | None = None
        #: Called under `moved`, after another term, holder, role or sync. They take no time.
        self.turned: list[Callable[[], None]] = []
        #: How often Redis was found to be in another run, and the one that it was in last.
        self.run_changes = 0
        self._run = node_state.run
        #: Whether a refusal put it out of sync since somebody began to fold.
        self._lost_sync = False
        #: What that somebody folds into.
        self._folded = node_state

    def wait_for(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until it is what `reached` looks for. Whether it is, in time: with 0 nobody is waited for."""
        if reached():
            return True
        if timeout_s <= 0:
            return False
        with self.moved:
            self._waiting += 1
            try:
                return self.moved.wait_for(reached, timeout=min(timeout_s, threading.TIMEOUT_MAX))
            finally:
                self._waiting -= 1

    def talks_to(self, run: str, *, log_lost: bool = False) -> None:
        """Redis is in this run, and has the log or not."""
        with self.moved:
            if run:
                self.run_changes += self._run not in ("", run)
                self._run = run
            self._become(self.node_state.talks_to(run, log_lost=log_lost))

    def beaten(self) -> None:
        """A heartbeat was sent."""
        with self.moved:
            self._become(self.node_state.beaten())

    def knows_over(self, term: int) -> None:
        """This term, and all before it, are over."""
        with self.moved:
            self._become(self.node_state.knows_over(term))

    def refused(self, reply: Reply) -> None:
        """A write or a renewal was refused."""
        with self.moved:
            after = self.node_state.refused(reply)
            self._lost_sync = self._lost_sync or (self.node_state.view.in_sync and not after.view.in_sync)
            self._become(after)

    def to_fold(self) -> NodeState:
        """The node state, for the next records to be folded into; `adopt` what comes of it.

        The caller has the write lock, so nobody else folds until then.
        """
        with self._lock:
            self._lost_sync = False
            self._folded = self.node_state
            return self._folded

    def adopt(self, after: NodeState) -> None:
        """Records were folded, which gave `after`. The caller has the write lock and that of the state."""
        with self._lock:  # that of `moved`, without the detour: a writer comes by with every change
            if self.node_state is self._folded:
                self._become(after)
                return
            view = after.view._replace(in_sync=False) if self._lost_sync else after.view
            # Only what folding moves: the rest may have moved in another thread since `after` was made.
            self._become(self.node_state._replace(view=view, snapshot_end=after.snapshot_end))

    def _become(self, node_state: NodeState) -> None:
        if node_state is self.node_state:
            return
        if self.before_it_leads is not None and node_state.is_primary:
            self.before_it_leads()
        before, self.node_state = self.node_state, node_state
        if node_state.view.in_sync:
            self.passed_by = None
        if self.turned and _differ(before, node_state):
            for turned in self.turned:
                turned()
        if self._waiting:  # mostly nobody does, and records come by the thousand
            self.moved.notify_all()


def _differ(before: NodeState, after: NodeState) -> bool:
    """In what others are told of a node, but for its position."""
    one, other = before.view, after.view
    if one.term != other.term or one.in_sync is not other.in_sync or one.holder != other.holder:
        return True
    return before.run != after.run or before.over != after.over
