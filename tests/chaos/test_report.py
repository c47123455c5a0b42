"""Figures of a run, and where they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .checker import SECOND, Event, Run, Sighting, check
from .history import Operation
from .report import BEGIN, END, Outcome, as_markdown, as_text, write_into


def write(number: int, second: float, outcome: str = "ok") -> Operation:
    at, before = int(second * SECOND), int(second * SECOND) - 1000
    fields: dict[str, Any] = {"value": str(number), "ack": "appended", "index": number, "outcome": outcome}
    return Operation(id=str(number), kind="write", node="a", began=before, ended=at, **fields)


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """Ten seconds of faults, with writes at 1, 2, 7 and 9, and a kill of the primary at 4."""
    run = Run(
        operations=[write(0, 1), write(1, 2), write(2, 7), write(3, 9), write(4, 5, outcome="unknown")],
        events=[Event(kind="kill-node", node="a", began=4 * SECOND, ended=5 * SECOND)],
        sightings=[Sighting(at=SECOND, node="a", boot="a1", term=1, role="primary")],
        finals={"a": ("0", "1", "2", "3")},
    )
    return Outcome(
        name="redis-0", seed=1, run=run, verdict=check(run), faults={"kill-node": 1}, began=0, ended=10 * SECOND,
        directory=tmp_path, replay="again",
    )  # fmt: skip


def test_the_longest_time_without_a_writer_is_between_two_acknowledged_writes(outcome: Outcome) -> None:
    assert outcome.gap_s == 5


def test_a_recovery_is_from_a_kill_of_the_primary_to_the_next_acknowledged_write(outcome: Outcome) -> None:
    assert outcome.recovery_s == 3


def test_the_text_has_what_was_done_and_what_came_of_it(outcome: Outcome) -> None:
    text = as_text(outcome)
    assert "kill-node 1" in text
    assert "ok appended 4" in text
    assert "unknown appended 1" in text
    assert "BROKEN" not in text


def test_the_table_has_a_row_per_run(outcome: Outcome) -> None:
    table = as_markdown([outcome, outcome])
    assert table.count("| redis-0 |") == 2
    assert "| kill-node | 2 |" in table


def test_a_document_keeps_what_is_outside_of_the_marks(outcome: Outcome, tmp_path: Path) -> None:
    # given a document with a table of an earlier run
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    # when the figures are written, twice
    write_into(document, [outcome])
    write_into(document, [outcome])
    # then they stand in its place, once
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("| redis-0 |") == 1


def test_a_document_without_marks_is_left_alone(outcome: Outcome, tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text("no marks\n")
    with pytest.raises(ValueError, match="marks"):
        write_into(document, [outcome])
    assert document.read_text() == "no marks\n"
