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
from types import FrameType, TracebackType
from typing import TypeVar

__all__ = ["Interruption", "ending", "on_end", "wait_until"]

T = TypeVar("T")

Handler = Callable[[int, FrameType | None], object] | int | None

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


class Interruption:
    """A context: the first of these signals interrupts what is to meet it (`meets`), and no later one does anything.

    What comes first in it and what cleans up is not interrupted: a signal that comes before `meets` is met there, and
    one that comes after it is not met at all. Also after the context, whoever was asked to end is about to, and further
    signals are ignored: an impatient second Ctrl-C must not make that look like a failure. On the main thread only.

    Whoever starts a process may block these signals in it, so that none comes too early: here they are let through.
    """

    def __init__(self) -> None:
        self._asked = self._met = False
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._interrupt) for number in ending()}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        return self

    def meets(self, work: Callable[[], T]) -> T | None:
        """What `work` gives; None if a signal ended it, which it meets as a KeyboardInterrupt."""
        # Twice `try`: the signal may come while the inner one ends.
        try:
            try:
                self._met = True
                if self._asked:
                    return None
                return work()
            finally:
                self._met = False
        except KeyboardInterrupt:
            return None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        first, self._asked = not self._asked, True
        if first and self._met:
            raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._asked else handler)


def wait_until(ended: threading.Event) -> None:
    """Wait on the main thread for what a handler of a signal sets."""
    while not ended.wait(LOOK_EVERY_S):
        pass
