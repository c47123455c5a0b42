"""Whoever follows a job is told each of its lines once, and each step."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.jobs.told import Told
from replicator.ops import Step


def test_each_line_is_told_once() -> None:
    told = Told()
    assert list(told.new({"lines": ["a"], "line_count": 1})) == ["a"]
    assert list(told.new({"lines": ["a"], "line_count": 1})) == []
    assert list(told.new({"lines": ["a", "b", "c"], "line_count": 3})) == ["b", "c"]


def test_of_many_lines_between_two_looks_the_newest_are_told() -> None:
    told = Told()
    assert list(told.new({"lines": ["y", "z"], "line_count": 50})) == ["y", "z"]


def test_a_job_that_runs_anew_is_told_anew() -> None:
    told = Told()
    list(told.new({"lines": ["a", "b"], "line_count": 2}))
    assert list(told.new({"lines": ["c"], "line_count": 1})) == ["c"]


def test_a_step_moves_the_bar() -> None:
    told = Told()
    (step,) = told.new({"step": ["2 of 3", 2, 3]})
    assert isinstance(step, Step)
    assert (step, step.done, step.total) == ("2 of 3", 2, 3)
    assert list(told.new({"step": ["2 of 3", 2, 3]})) == []


@pytest.mark.parametrize(
    "meta",
    [
        {"lines": 7, "line_count": 1},
        {"lines": ["a"], "line_count": "1"},
        {"lines": ["a"]},
        {"step": ["x", 3, 2]},
        {"step": ["x", "1", 2]},
        {"step": [1]},
        {"step": {}},
        {},
    ],
)
def test_what_is_not_as_it_should_be_is_not_told(meta: dict[str, Any]) -> None:
    assert list(Told().new(meta)) == []
