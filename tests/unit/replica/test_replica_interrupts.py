"""A Ctrl-C, or what else a signal handler raises, between two steps: nothing is doubled."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from replicator import Stalled
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_step, push, pushed


def _interrupted_once(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes where this thread calls it: those of the node get none."""
    whole, main = getattr(owner, name), threading.get_ident()

    def interrupted(*args: Any, **options: Any) -> Any:
        if threading.get_ident() != main:
            return whole(*args, **options)
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
