"""Questions that may hang for as long as they like: each is asked on a thread of its own, aside from who needs it.

A name server that is silent, a sentinel that hangs, a host that drops what is sent to it: none of them keeps to a time
that could be given to it. So whoever asks waits for as long as it wants to wait, and not for the question. The same
question is never under way twice: asked again meanwhile, it has the same answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["ASIDE_MAX", "Aside", "Question", "TooMany"]

T = TypeVar("T")

#: Questions that hang at the same time. Each one has a thread.
ASIDE_MAX = 32


class TooMany(OSError):
    """So many questions hang that this one is not asked."""


class Question(Generic[T]):
    """One that was asked. `answer` or `error` is there once it is `done`."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.answer: T | None = None
        self.error: Exception | None = None
        self._done = threading.Event()
        self._settling = threading.Lock()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is done within that time."""
        return self._done.wait(min(max(0.0, timeout_s), threading.TIMEOUT_MAX))

    def settle(self, answer: T | None, error: Exception | None = None) -> None:
        """The first time it is called is what counts, whichever thread comes meanwhile."""
        with self._settling:
            if not self._done.is_set():
                self.answer, self.error = answer, error
                self._done.set()


class Aside(Generic[T]):
    """Asks questions of the same sort. `name`: of its threads."""

    def __init__(self, name: str, *, most: int = ASIDE_MAX) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, Question[T]] = {}

    def ask(self, what: Hashable, question: Callable[[], T]) -> Question[T]:
        """Ask it, unless it is under way; returns at once."""
        with self._lock:
            asked = self._under_way.get(what)
            if asked is not None:
                return asked
            asked = Question()
            if len(self._under_way) >= self._most:
                asked.settle(None, TooMany(f"{self._most} others of its kind hang"))
                return asked
            self._under_way[what] = asked
            thread = threading.Thread(
                target=self._answer, args=(what, asked, question), name=f"{self._name}-aside", daemon=True
            )
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:  # the process may have no more
                del self._under_way[what]
                asked.settle(None, OSError(str(error)))
        return asked

    def give_up(self, error: Exception) -> None:
        """Nobody waits any more for what is under way: whoever does gets this error."""
        with self._lock:
            under_way = list(self._under_way.values())
        for asked in under_way:
            asked.settle(None, error)

    def _answer(self, what: Hashable, asked: Question[T], question: Callable[[], T]) -> None:
        answer, problem = None, None
        try:
            answer = question()
        except Exception as error:
            problem = error
        with self._lock:
            del self._under_way[what]
        asked.settle(answer, problem)
