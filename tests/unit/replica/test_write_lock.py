"""The write lock: had once, and not kept by a thread that does not know that it has it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from replicator.replica.write_lock import WriteLock
from tests.support.kv import in_thread


def test_the_write_lock_is_given_back_if_nobody_heard_that_it_was_taken() -> None:
    class Interrupted:
        def __init__(self) -> None:
            self.lock = threading.RLock()
            self._is_owned = self.lock._is_owned  # type: ignore[attr-defined]
            self.release = self.lock.release

        def acquire(self, **how: Any) -> bool:
            self.lock.acquire(**how)
            raise KeyboardInterrupt

    lock, interrupted = WriteLock(), Interrupted()
    whole = lock._lock
    for take in (lock.acquire, lock.__enter__, lambda: lock.acquire(blocking=False)):
        lock._lock = interrupted  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            take()
        lock._lock = whole
        assert in_thread(lambda: interrupted.lock.acquire(blocking=False) and not interrupted.lock.release())()


def test_the_write_lock_is_had_once() -> None:
    lock = WriteLock()
    with lock:
        assert lock.acquire(blocking=False) is False
        with pytest.raises(RuntimeError, match="already"):
            lock.acquire()
    assert not lock.is_mine
