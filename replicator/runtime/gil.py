"""Yielding the GIL: giving the interpreter to a thread that waits for it, or for a lock that was just released.

A thread that has work keeps the interpreter for 5 ms before it gives it to one that waits. `sleep(0)` does not help: it
is over before the other one is awake. So whoever works for long in small steps sleeps between some of them, for long
enough that another thread wakes up and takes its turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["YIELD_EVERY_S", "YIELD_FOR_S", "Turns", "let_others_run"]

T = TypeVar("T")

#: A thread that waits for the interpreter is awake by then.
YIELD_FOR_S = 0.0001

#: How long one that works in turns keeps the interpreter from others. A request needs it several times.
YIELD_EVERY_S = 0.002


def let_others_run(for_s: float = YIELD_FOR_S) -> None:
    """Stay away so long. Locks that the caller holds stay held."""
    time.sleep(for_s)


class Turns:
    """Long work in small steps, with a pause between some of them. For one thread."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def pause(self) -> None:
        """Between two steps: let others run, if they have waited for long enough."""
        if time.monotonic() - self._since >= YIELD_EVERY_S:
            let_others_run()
            self._since = time.monotonic()

    def over(self, steps: Iterable[T]) -> Iterator[T]:
        """These steps, with a pause after each."""
        for step in steps:
            yield step
            self.pause()
