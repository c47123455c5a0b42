"""Giving up a large state without holding anybody up.

When the last reference to a large structure goes, Python frees all of it in one go, and every other thread of the
process waits for the interpreter meanwhile. A state that was swapped out is therefore emptied in slices, on a thread of
its own that sleeps between them.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..runtime.gil import let_others_run

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


Container = Dict | list[Any]


def let_go(*containers: Container, then: Callable[[], object] = lambda: None) -> None:
    """Empty these dicts and lists, soon. Nobody else may have them: what has been handed out of them stays as it is.

    `then` is called when they are empty, on whatever thread that is.
    """
    if sum(map(len, containers)) <= SLICE:
        _empty_at_once(containers, then)
        return
    # Not `threading.Thread`, whose `start` waits until the thread runs: the caller may hold the node's lock.
    try:
        _thread.start_new_thread(_empty, (containers, then))
    except RuntimeError:  # there are no more threads
        _empty_at_once(containers, then)


def _empty_at_once(containers: Iterable[Container], then: Callable[[], object]) -> None:
    for one in containers:
        one.clear()
    then()


def _empty(containers: Iterable[Container], then: Callable[[], object]) -> None:
    for one in containers:
        while len(one):
            _drop_some(one)
            let_others_run(PAUSE_S)
    then()


def _drop_some(one: Container) -> None:
    if isinstance(one, list):
        del one[-SLICE:]
    else:
        for _ in range(min(SLICE, len(one))):
            one.popitem()
