"""A switchover that was asked for some time ago is done only if the group is as it was."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.format.ids import ORIGIN, ZERO_ID
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.planned_switchover import LATE_MS_MAX, not_as_planned


def look(*, term: int = 5, paused: str = "", **b: Any) -> GroupView:
    """The group at `term`, which a holds, and a standby b."""
    head = Head("log", "run", term, "a", "boot-a", ORIGIN, paused=paused)
    heartbeats = {"a": Heartbeat("a", "boot-a"), "b": Heartbeat("b", "boot-b")._replace(**b)}
    return GroupView("run", term, head, ZERO_ID, 3000, heartbeats)


def test_it_is_done_in_the_term_in_which_it_was_asked_for() -> None:
    assert not_as_planned("b", 5, look()) == ""
    assert not_as_planned("b", 5, look(), at=1000, now_ms=1000 + LATE_MS_MAX) == ""


@pytest.mark.parametrize(
    ("to", "view", "problem"),
    [
        ("b", look(term=6), "it was asked for in term 5, and a leads now, in term 6"),
        ("b", look(paused="by joe: disks"), "the group is paused (by joe: disks)"),
        ("c", look(), "c does not report"),
        ("b", look(age_ms=60_000), "b does not report"),
        ("b", look(left=True), "b does not report"),
        ("b", look(in_sync=False), "b is not in sync"),
        ("b", GroupView("run", 6, None, ZERO_ID, None, {}), "it was asked for in term 5, and nobody leads"),
    ],
)
def test_it_is_not_done_if_the_group_is_not_as_it_was(to: str, view: GroupView, problem: str) -> None:
    assert not_as_planned(to, 5, view) == problem


def test_it_is_not_done_late() -> None:
    problem = not_as_planned("b", 5, look(), at=1000, now_ms=1001 + LATE_MS_MAX)
    assert problem.startswith("it is 300 s late")
