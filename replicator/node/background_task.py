"""What takes long is done aside, on a thread of its own: the beat goes on, and the lease does not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import NoThread
from ..runtime.event_log import in_this_context
from ..runtime.threads import started
from .problems import THREADS, Problems

__all__ = ["Aside"]


class Aside:
    """Work of one kind, once at a time, on a thread called `name`. One thread calls `begin`."""

    def __init__(self, problems: Problems, *, name: str) -> None:
        self._problems = problems
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def begin(self, work: Callable[[], None]) -> bool:
        """Whether it was begun. If there is no thread for it, what is due then is still due with the next beat."""
        try:
            self._thread = started(in_this_context(work), name=self._name)
        except NoThread as problem:
            self._thread = None
            self._problems.report(THREADS, problem)
            return False
        self._problems.solved(THREADS)
        return True
