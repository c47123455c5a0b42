"""The lock of a node's writes: whoever has it may move what the node knows of the log."""

from __future__ import annotations

import threading

__all__ = ["WriteLock"]


class WriteLock:
    """A lock whose holder sees that others wait for it.

    A thread that commits for many takes it again and again. A lock that was just given back goes to the first that
    asks, and that is one that is awake: those that sleep on it could wait for as long as there is something to commit.

    A Ctrl-C may come after any call, so also when it was taken and nobody knows yet. Then it is given back: of a
    reentrant lock one can ask who has it. It is not reentrant for that.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: Give it back. Python calls no function of its own for it, before which a Ctrl-C could come.
        self.release = self._lock.release
        self._waiting: set[int] = set()

    @property
    def is_wanted(self) -> bool:
        return bool(self._waiting)

    def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it; whether that was possible, at once or within `timeout` seconds."""
        if self._lock._is_owned():  # type: ignore[attr-defined]  # `is_mine`, for every change that comes
            if not blocking:
                return False
            raise RuntimeError("this thread has the write lock already")
        try:
            if self._lock.acquire(blocking=False):
                return True
            return self._wait(timeout) if blocking else False
        except BaseException:
            if self.is_mine:
                self._lock.release()
            raise

    @property
    def is_mine(self) -> bool:
        """Whether this thread has it."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]  # as `threading.Condition` does

    def _wait(self, timeout: float) -> bool:
        me = threading.get_ident()
        self._waiting.add(me)
        try:
            return self._lock.acquire(timeout=timeout)
        finally:
            self._waiting.discard(me)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
