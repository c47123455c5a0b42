"""An exception of `apply` as a rejection, where all nodes were told to take it for one; and the way out of a stall."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

import pytest

from replicator import ApplyFailed, ChangeRejected, ConfigError, Stalled, ops
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_step, push, pushed, put

REJECT = {"on_apply_error": "reject"}


class Failing(KV):
    """It raises at `{"fail": ...}`, before it moves anything, and in the middle of a push where a test says so."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error: BaseException = error or ZeroDivisionError("division by zero")

    def apply(self, change: Any) -> Any:
        if "fail" in change:
            raise self.error
        return super().apply(change)


def test_it_is_a_rejection_on_every_node_and_all_go_on(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    a, b = group.primary("a", state=Failing(), **REJECT), group.node("b", state=Failing(), **REJECT)
    with caplog.at_level(logging.ERROR), pytest.raises(ApplyFailed, match="ZeroDivisionError") as failed:
        a.submit({"fail": 1})
    assert isinstance(failed.value, ChangeRejected)
    assert str(failed.value.__cause__) == "division by zero", "what it says itself may differ between nodes"
    first, rejected, last = a.submit_many([push("x"), {"fail": 2}, push("y")])
    assert (first, type(rejected), last) == (1, ApplyFailed, 2)
    in_step(a, b)
    assert (pushed(a), pushed(b)) == (["x", "y"], ["x", "y"])
    assert (a.stalled, b.stalled) == (None, None)
    told = [record for record in caplog.records if "apply() failed at 1-2" in record.message]
    assert len(told) == 2, "once on each node"
    assert all(record.exc_info is not None for record in told)
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal


def test_a_restart_comes_to_the_same(group: Group) -> None:
    a = group.primary("a", state=Failing(), **REJECT)
    a.submit(push("x"))
    with pytest.raises(ApplyFailed):
        a.submit({"fail": 1})
    a.submit(push("y"))
    a.stop()
    again = group.node("a", state=Failing(), **REJECT)
    again.wait(role="primary", timeout_s=PATIENCE_S)
    assert pushed(again) == ["x", "y"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError(),
        OSError("no space"),
        SystemExit(1),
        ImportError("not installed here"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_what_befalls_one_node_and_not_all_of_them_stalls_it_all_the_same(group: Group, error: BaseException) -> None:
    a, b = group.primary("a", state=Failing(), **REJECT), group.node("b", state=Failing(error), **REJECT)
    with pytest.raises(ApplyFailed):
        a.submit({"fail": 1})
    assert "1-2" in eventually(lambda: b.stalled, "b stalls")


def test_without_being_told_so_the_node_stalls(group: Group) -> None:
    a = group.primary("a", state=Failing())
    with pytest.raises(Stalled, match="division by zero"):
        a.submit({"fail": 1})
    assert a.stalled
    with pytest.raises(ConfigError, match="on_apply_error"):
        group.new_node("b", on_apply_error="ignore")


def test_a_group_of_which_some_reject_and_others_stall_is_warned(group: Group) -> None:
    group.primary("a", **REJECT)
    b = group.node("b", **REJECT)

    def warned() -> list[str]:
        group.wake()
        return [each for each in ops.status(group.log()).warnings if "on_apply_error" in each]

    eventually(lambda: len(group.server.look().heartbeats) == 2, "both report")
    assert not warned()
    b.stop()
    group.node("b")
    (text,) = eventually(warned, "the warning")
    assert text.startswith("on_apply_error is reject on a, and stall on b: make it the same, or")


# --- a group that stalled, and new code ------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_first", [False, True])
def test_a_group_that_stalled_goes_on_with_new_code(group: Group, saved_first: bool) -> None:
    """Whether the record is on the disk of the nodes already, or only in the log."""
    a, b = group.primary("a", state=Failing()), group.node("b", state=Failing())
    a.submit(put("k", 1), ack="applied:1", timeout_s=PATIENCE_S)
    ack = {"ack": "applied:1"} if saved_first else {}
    with pytest.raises(Stalled):
        a.submit({"fail": "now"}, **ack)
    eventually(lambda: b.stalled, "b stalls, too")
    for node in (a, b):
        node.stop()

    class Mended(KV):
        def apply(self, change: Any) -> Any:
            return super().apply(push(change["fail"]) if "fail" in change else change)

    b, a = group.node("b", state=Mended()), group.node("a", state=Mended())
    a.wait(role="primary", timeout_s=PATIENCE_S)
    a.submit(push("after"), timeout_s=PATIENCE_S)
    in_step(a, b)
    assert (pushed(a), pushed(b)) == (["now", "after"], ["now", "after"])
    assert (a.stalled, b.stalled) == (None, None)


def test_or_with_nodes_that_take_it_for_a_rejection(group: Group) -> None:
    a, b = group.primary("a", state=Failing()), group.node("b", state=Failing())
    with pytest.raises(Stalled):
        a.submit({"fail": "now"})
    eventually(lambda: b.stalled, "b stalls, too")
    for node in (a, b):
        node.stop()
    b, a = group.node("b", state=Failing(), **REJECT), group.node("a", state=Failing(), **REJECT)
    a.wait(role="primary", timeout_s=PATIENCE_S)
    a.submit(push("after"), timeout_s=PATIENCE_S)
    in_step(a, b)
    assert (pushed(a), pushed(b)) == (["after"], ["after"])


def test_a_node_that_starts_again_with_the_same_code_stalls_at_the_same_place(group: Group) -> None:
    a = group.primary("a", state=Failing())
    a.submit(push("x"))
    with pytest.raises(Stalled):
        a.submit({"fail": 1})
    at = a.position
    a.stop()
    again = group.node("a", state=Failing())
    assert "1-3" in eventually(lambda: again.stalled, "it stalls again")
    assert again.position == at
    assert pushed(again) == ["x"]


def test_a_repeat_of_a_change_that_apply_failed_at_is_rejected_as_the_first_time(group: Group) -> None:
    a, b = group.primary("a", state=Failing(), **REJECT), group.node("b", state=Failing(), **REJECT)
    said = []
    for _ in range(2):
        with pytest.raises(ApplyFailed) as failed:
            a.submit({"fail": 1}, key="order-1")
        said.append(str(failed.value))
    assert said[0] == said[1]
    in_step(a, b)
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal
