"""A Ctrl-C, or what else a signal handler raises, between two steps: nothing is doubled, and no lock stays taken."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from replicator import Stalled
from replicator.replica.applied_state import AppliedState
from replicator.replica.write_lock import WriteLock
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_step, in_thread, push, pushed


def _interrupted_once(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = getattr(owner, name)

    def interrupted(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, whole)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize("step", ["add", "adopt"])
def test_a_change_is_not_applied_twice(group: Group, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    # given a primary that is interrupted when a change is in the log and in its state
    a = group.primary("a")
    a.submit(push("one"))
    replica = a._running.replica
    _interrupted_once(replica.saved if step == "add" else replica.known, step, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        a.submit(push("two"))
    # then it applies nothing any more, and says so
    with pytest.raises(Stalled):
        a.submit(push("three"))
    assert pushed(a) == ["one", "two"]
    a.stop()
    # and its next boot has each change once
    again = group.node("a", data_dir=a.data_dir)
    again.wait(role="primary", timeout_s=PATIENCE_S)
    again.submit(push("three"))
    assert pushed(again) == ["one", "two", "three"]


def test_a_standby_that_is_ended_in_a_batch_is_where_its_state_is(group: Group) -> None:
    state = KV()
    a, log = group.primary("a"), group.faulty_log()
    b = group.node("b", state=state, log=log)
    in_step(a, b)
    log.deaf = True
    for at in range(3):
        a.submit(push(at))

    def ends(change: Any) -> None:
        if change == push(2):
            raise SystemExit(3)

    state.in_apply = ends
    log.deaf = False
    eventually(lambda: b.stalled)
    assert pushed(b)[:2] == [0, 1]
    assert str(b.position.id) == "1-3"


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
