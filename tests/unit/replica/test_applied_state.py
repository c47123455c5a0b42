"""The state and its lock, whatever interrupts a reader."""

from __future__ import annotations

import threading

from replicator.format.ids import ORIGIN
from replicator.replica.applied_state import AppliedState, changes_of
from tests.support.history import A, act
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


def test_an_act_is_nothing_to_the_application_and_no_marker() -> None:
    applied = AppliedState(KV(), "a")
    record = act(A, 1, ORIGIN, 2)
    assert applied.apply(record, changes_of(record), 2) == []
    assert (applied.version, applied.applied_at, list(applied.markers)) == (2, record.at, [])
