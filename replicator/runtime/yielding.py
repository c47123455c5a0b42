"""Yielding the GIL: giving the interpreter to a thread that waits for it, or for a lock that was just released.

A thread that has work keeps the interpreter for 5 ms before it gives it to one that waits. `sleep(0)` does not help: it
is over before the other one is awake. So whoever works for long in small steps sleeps between some of them, for long
enough that another thread wakes up and takes its turn.
"""

from __future__ import annotations

import time

__all__ = ["YIELD_FOR_S", "let_others_run"]

#: A thread that waits for the interpreter is awake by then.
YIELD_FOR_S = 0.0001


def let_others_run(for_s: float = YIELD_FOR_S) -> None:
    """Stay away so long. Locks that the caller holds stay held."""
    time.sleep(for_s)
