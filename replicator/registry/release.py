"""Giving up a large state without holding anybody up.

When the last reference to a large structure goes, Python frees all of it in one go, and every other thread of the
process waits for the interpreter meanwhile. A state that was swapped out is therefore emptied in slices, on a thread of
its own that sleeps between them.
"""

from __future__ import annotations

import _thread
from collections.abc import Iterable
from typing import Protocol

from ..runtime.yielding import let_others_run

__all__ = ["let_go"]

#: Entries that are freed in one go: a fraction of a millisecond for records of a kilobyte.
SLICE = 100

#: What passes between two slices. 100,000 records are gone after about a second.
PAUSE_S = 0.0005


class Dict(Protocol):
    """What can be emptied entry by entry."""

    def __len__(self) -> int: ...
    def popitem(self) -> object: ...
    def clear(self) -> None: ...


def let_go(*dicts: Dict) -> None:
    """Empty these dicts, soon. Nobody else may have them: what has been handed out of them stays as it is."""
    if sum(map(len, dicts)) <= SLICE:
        for one in dicts:
            one.clear()
        return
    # Not `threading.Thread`, whose `start` waits until the thread runs: the caller may hold the node's lock.
    try:
        _thread.start_new_thread(_empty, (dicts,))
    except RuntimeError:  # there are no more threads: in one go, then
        for one in dicts:
            one.clear()


def _empty(dicts: Iterable[Dict]) -> None:
    for one in dicts:
        while len(one):
            for _ in range(min(SLICE, len(one))):
                one.popitem()
            let_others_run(PAUSE_S)
