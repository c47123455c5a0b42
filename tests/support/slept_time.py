"""A clock that goes while somebody sleeps, and not otherwise: in place of the module `time` in a module of ours."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["SleptTime"]


class SleptTime:
    """`meanwhile` happens each time somebody sleeps, with how often that was before. It begins now."""

    def __init__(self, meanwhile: Callable[[int], object] = lambda before: None) -> None:
        self._began = time.time()
        self._meanwhile = meanwhile
        self._sleeps = 0
        self.slept_s = 0.0

    def time(self) -> float:
        return self._began + self.slept_s

    def monotonic(self) -> float:
        return self.slept_s

    def sleep(self, seconds: float) -> None:
        self._meanwhile(self._sleeps)
        self._sleeps += 1
        self.slept_s += seconds
