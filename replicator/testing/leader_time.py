"""The work of the leader in a group whose clock the test moves: it is done beside the duties, on threads of its own.

`lockstep.py` asks here when by the clock something of it is due, tells that the clock has moved, and waits until what
follows is done: work has been told to end and has ended, a job that was due has been done. What takes long is not
waited for: it may wait for the test.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..node.leader_work import LeaderWork, running_loop
from ..node.node import Node

__all__ = ["LeaderTime"]

#: In real seconds: a run that takes longer is not waited for. A busy machine has time.
RUN_S = 5.0


class LeaderTime:
    """Of the nodes that `nodes` gives: those that run, whatever befalls them."""

    def __init__(self, nodes: Callable[[], Iterable[Node[Any]]]) -> None:
        self._nodes = nodes

    def due_at(self) -> float | None:
        """When by the clock something of it happens next by itself; None: never."""
        due = [node._roles.looks_at for node in self._nodes() if node._roles.watches]
        due += [work.due_at for work in self._works() if work.due_at is not None]
        return min(due, default=None)

    def moved(self) -> None:
        """The clock has moved."""
        for node in self._nodes():
            node._roles.stir()
            node._setup.watch.stir()

    def rests(self) -> bool:
        """Whether nothing of it is left to be done before the clock moves."""
        nodes = [node for node in self._nodes() if node._roles.watches]
        # A watch is told when a run ends, and may begin the next one then: so it is looked at last, too.
        return _rest(nodes) and not any(map(_is_busy, self._works())) and _rest(nodes)

    def _works(self) -> Iterator[LeaderWork]:
        """Those that this thread does not keep from going on."""
        here, loop = threading.current_thread(), running_loop()
        for node in self._nodes():
            yield from node._roles.works_beside(here, loop)


def _rest(nodes: Iterable[Node[Any]]) -> bool:
    return all(node._roles.rests for node in nodes)


def _is_busy(work: LeaderWork) -> bool:
    return work.is_at_it and time.monotonic() - work.since < RUN_S
