"""The signals that end a process in order, and what they are to do.

A terminal that closes sends SIGHUP, Ctrl-\\ sends SIGQUIT, and so do some supervisors: whoever takes them for nothing
but a reason to die keeps a lease that nobody else can have until it runs out. So they are heeded like SIGTERM and
Ctrl-C. But whoever started the process so that it ignores one of the two (nohup, a job in the background of a shell)
wants it to go on, and it does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["ending", "on_end", "wait_until"]

#: Whoever sends one of these means this process, however it was started.
ALWAYS = (signal.SIGTERM, signal.SIGINT)

#: These come to everything that a terminal has.
UNLESS_IGNORED = (signal.SIGHUP, signal.SIGQUIT)


#: The kernel may give a signal to another thread than the main thread. Python calls the handler on the main thread all
#: the same, and does not wake it for that: in a wait without an end it would never be called.
LOOK_EVERY_S = 0.2


def ending() -> tuple[signal.Signals, ...]:
    """The signals that end this process."""
    heeded = (number for number in UNLESS_IGNORED if signal.getsignal(number) is not signal.SIG_IGN)
    return (*ALWAYS, *heeded)


def on_end(handle: Callable[[int, FrameType | None], object]) -> None:
    """Have `handle` called for each of them, also for the second and third. On the main thread only."""
    for number in ending():
        signal.signal(number, handle)


def wait_until(ended: threading.Event) -> None:
    """Wait on the main thread for what a handler of a signal sets."""
    while not ended.wait(LOOK_EVERY_S):
        pass
