"""The state and its lock, whatever interrupts a reader."""

from __future__ import annotations

import threading

from replicator.replica.applied_state import AppliedState
from tests.support.kv import KV


def test_a_read_takes_the_lock_in_one_step() -> None:
    class Interrupted:
        """The signal comes right after `acquire`, as it may after any call; `with` leaves no room for it."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.__enter__ = self.lock.__enter__

        def acquire(self, blocking: bool = True) -> bool:
            self.lock.acquire()
            raise KeyboardInterrupt

        def __enter__(self) -> bool:
            return self.lock.__enter__()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    applied = AppliedState(KV(), "a")
    applied.lock = Interrupted()  # type: ignore[assignment]
    with applied.reading() as state:
        assert state is applied.state
    assert not applied.lock.lock.locked()  # type: ignore[attr-defined]
