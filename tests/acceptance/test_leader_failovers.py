"""Failovers of every kind (leader_failovers.py) as a test: the jobs of leaders do not overlap outside of the group."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acceptance.leader_failovers import Line, judge, run

SECOND = 1_000_000_000


def line(term: int, pid: int, at_s: float, what: str = "effect") -> Line:
    return Line(term, pid, 1, int(at_s * SECOND), what)


@pytest.mark.slow
def test_the_terms_of_jobs_never_go_back_and_no_two_overlap(tmp_path: Path) -> None:
    transcript: list[str] = []
    began = time.monotonic()
    judged = run(tmp_path, failovers=20, lease_s=1.0, seed=1, say=transcript.append)
    print(*transcript, f"{time.monotonic() - began:.0f} s", sep="\n")
    for found in judged:
        assert found.broken == []
        assert found.jobs > 20
        assert found.terms > 15
        assert found.ends["lost"] > 0


def test_a_job_that_has_an_effect_after_another_one_is_found() -> None:
    found = judge([line(1, 10, 1), line(2, 20, 2), line(1, 10, 3)])
    assert found.broken == ["a job of term 1 had an effect while one of term 2 ran"]


def test_one_that_overlaps_in_the_same_term_is_found() -> None:
    found = judge([line(1, 10, 1), line(1, 20, 2), line(1, 10, 3), line(1, 20, 4)])
    assert found.broken == ["a job of term 1 had an effect while one of term 1 ran"]


def test_a_term_that_goes_back_is_found() -> None:
    assert judge([line(2, 20, 1), line(1, 10, 2)]).broken == ["a job began in term 1 after one in term 2"]


def test_an_effect_that_was_allowed_in_time_is_late_and_counted() -> None:
    found = judge([line(1, 10, 1), line(2, 20, 3), line(1, 10, 2), line(1, 10, 4, "end:check"), line(2, 20, 5)])
    assert (found.broken, found.late, found.ended_late, found.ends["check"]) == ([], 1, 1, 1)


def test_so_is_a_first_effect_that_was_allowed_in_time() -> None:
    found = judge([line(2, 20, 3), line(1, 10, 2), line(2, 20, 4), line(1, 10, 4)])
    assert (found.late, found.jobs) == (1, 2)
    assert found.broken == ["a job of term 1 had an effect while one of term 2 ran"]


def test_what_ends_in_order_is_neither() -> None:
    found = judge([line(1, 10, 1), line(1, 10, 2, "end:lost"), line(2, 20, 3)])
    assert (found.broken, found.late, found.ended_late, found.jobs, found.terms) == ([], 0, 0, 2, 2)
