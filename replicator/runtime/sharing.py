"""What several threads want at the same time, and how it is shared: in turns, or by one who goes for all.

Both keep the time of each who waits: nobody waits for longer than it said, whatever the one before is waiting for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["FairLock", "Flights"]

T = TypeVar("T")

#: Who shared so many questions with somebody in too much of a hurry to wait for the answer asks for itself.
SHARED_MAX = 2


class FairLock:
    """A lock that those who wait get in the order in which they came.

    A plain lock that was just given back goes to the thread that asks first, and that is one that is awake: a thread
    that uses a connection again and again would keep it from one that sleeps on it.
    """

    def __init__(self) -> None:
        self._held = threading.Lock()
        #: Those who wait, each asleep on a lock of its own. The one that is woken has it: it is held all the while.
        self._waiting: deque[threading.Lock] = deque()
        self._mutex = threading.Lock()

    def acquire(self, timeout_s: float = 0.0) -> bool:
        """Take it; whether that was possible at once, or within `timeout_s`."""
        if not self._waiting and self._held.acquire(blocking=False):
            return True
        if timeout_s <= 0:
            return False
        me = threading.Lock()
        me.acquire()
        with self._mutex:
            self._waiting.append(me)
        self._hand_over()  # it may have been given back before anybody was seen to wait
        try:
            got = me.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX))
        except BaseException:  # a Ctrl-C while it waited
            if self._withdrawn(me):
                self.release()
            raise
        return got or self._withdrawn(me)

    def release(self) -> None:
        self._held.release()
        if self._waiting:
            self._hand_over()

    def _hand_over(self) -> None:
        with self._mutex:
            if self._waiting and self._held.acquire(blocking=False):
                self._waiting.popleft().release()

    def _withdrawn(self, me: threading.Lock) -> bool:
        """Wait no longer; whether the lock came all the same, in the last moment."""
        with self._mutex:
            try:
                self._waiting.remove(me)
            except ValueError:
                return True
            return False


class _Flight(Generic[T]):
    """One question, for all who ask it before it leaves."""

    def __init__(self) -> None:
        self.landed = False
        #: Who asked it had less time than it may take, and it failed: that says nothing to the others.
        self.cut_short = False
        self.error: Exception | None = None
        self.answers: list[T] = []


class Flights(Generic[T]):
    """Many ask the same thing at the same time, and one question in flight answers all of them.

    Everybody gets the answer to a question that was asked *after* it came: who comes while one is under way shares the
    next. `go` asks; it gets the time (`time.monotonic`) at which its caller wants to be told, whatever comes, and
    raises whatever it likes. `late` makes the error for one whose time is over while others ask.
    """

    def __init__(self, go: Callable[[float], T], *, late: Callable[[], Exception]) -> None:
        self._go = go
        self._late = late
        self._changed = threading.Condition()
        self._under_way: _Flight[T] | None = None
        self._next: _Flight[T] | None = None

    def ask(self, until: float, *, takes_s: float) -> T:
        """The answer. `takes_s`: how long a question may take that nobody cuts short."""
        for _ in range(SHARED_MAX):
            flight, leads = self._board(until)
            if leads:
                self._fly(flight, until, takes_s)
            if flight.answers:
                return flight.answers[0]
            if leads or not flight.cut_short:
                assert flight.error is not None
                raise flight.error
        return self._go(until)

    def _board(self, until: float) -> tuple[_Flight[T], bool]:
        """Wait until a flight that begins from now on has landed, or is this one's to fly."""
        with self._changed:
            flight = self._next = self._next or _Flight()
            while not flight.landed:
                if self._under_way is None and self._next is flight:
                    self._under_way, self._next = flight, None
                    return flight, True
                left = until - time.monotonic()
                if left <= 0:
                    raise self._late()
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            return flight, False

    def _fly(self, flight: _Flight[T], until: float, takes_s: float) -> None:
        hurries = until - time.monotonic() < takes_s
        try:
            flight.answers.append(self._go(until))
        except Exception as error:
            flight.error, flight.cut_short = error, hurries
        except BaseException:
            flight.error, flight.cut_short = self._late(), True
            raise
        finally:
            with self._changed:
                flight.landed = True
                self._under_way = None
                self._changed.notify_all()
