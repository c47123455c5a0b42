"""When a primary marks the log by itself: beat by beat, over a queue that only counts."""

from __future__ import annotations

import threading
from typing import Any, cast

from replicator.errors import NotPrimary
from replicator.format.ids import RecordId, Writer
from replicator.node.commit_queue import CommitQueue
from replicator.node.marker_schedule import MarkerSchedule
from replicator.node.problems import Problems
from replicator.protocol.fold import Holder, View
from replicator.protocol.node_state import NodeState
from tests.support.kv import eventually


class Marks:
    """A queue of which somebody wants a marker."""

    def __init__(self) -> None:
        self.count = 0

    def mark(self) -> None:
        self.count += 1
        raise NotPrimary  # whatever becomes of it


def leads(term: int, changed: RecordId) -> NodeState:
    holder = Holder("a", "a1", "run")
    return NodeState(me=Writer("a", "a1"), view=View(term=term, holder=holder, changed=changed), run="run")


def schedule(marks: Marks, every_s: float = 1e-9) -> MarkerSchedule:
    return MarkerSchedule(cast(CommitQueue, marks), Problems(), every_s=every_s, name="a")


def beat(marker_schedule: MarkerSchedule, node_state: NodeState) -> None:
    """And all that it began is over."""
    marker_schedule.keep(node_state)
    eventually(lambda: not marker_schedule._aside.runs)


def test_what_came_before_its_term_is_not_marked_and_each_change_after_that_is_once() -> None:
    marks = Marks()
    marker_schedule = schedule(marks)
    for _ in range(3):
        beat(marker_schedule, leads(2, RecordId(1, 7)))
    assert marks.count == 0
    for _ in range(3):
        beat(marker_schedule, leads(2, RecordId(2, 9)))
    assert marks.count == 1


def test_a_change_that_was_written_before_the_first_beat_of_the_term_is_marked() -> None:
    marks = Marks()
    marker_schedule = schedule(marks)
    for _ in range(3):
        beat(marker_schedule, leads(2, RecordId(2, 9)))
    assert marks.count == 1


def test_what_found_no_thread_is_marked_with_the_next_beat(monkeypatch: Any) -> None:
    marks = Marks()
    marker_schedule = schedule(marks)
    beat(marker_schedule, leads(2, RecordId(1, 7)))
    with monkeypatch.context() as full:

        def refuses(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        full.setattr(threading.Thread, "start", refuses)
        beat(marker_schedule, leads(2, RecordId(2, 9)))
    assert marks.count == 0
    beat(marker_schedule, leads(2, RecordId(2, 9)))
    assert marks.count == 1
