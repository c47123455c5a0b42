"""What a job found is shown as lines, and what others wrote makes no other ones."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest

from replicator.cli.job_results import show_result
from replicator.jobs.errors import JobFailed
from replicator.ops.certify import NodeFacts
from replicator.ops.log_check import LogFacts
from replicator.sandbox.drill.report import FaultReport, Report


def test_what_others_wrote_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    done = {
        "primary": "b\x1b[2J",
        "previous_primary": "a\nb leads",
        "term": 2,
        "first_id": "2-7",
        "follows": True,
        "gap_ms": 4.0,
    }
    show_result("switchover", done, "table")
    assert capsys.readouterr().out.splitlines() == [
        r"b\x1b[2J leads in term 2, from 2-7 on; a\nb leads follows",
        "nobody could write for at most 4 ms; nothing is lost",
    ]


def test_a_switchover_does_not_say_that_a_program_which_has_yet_to_start_takes_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = {"primary": "b", "previous_primary": "a", "term": 2, "first_id": "2-7", "follows": True, "gap_ms": 4.0}
    show_result("switchover", done | {"handed_over": True}, "table")
    assert capsys.readouterr().out.splitlines() == [
        "b leads in term 2, from 2-7 on; a follows",
        "nothing is lost; a program that b runs (--run) starts next",
    ]


SWITCHED = {"primary": "b", "previous_primary": "a", "term": 2, "first_id": "2-7", "follows": True, "gap_ms": 4.0}
VERIFIED = {"position": "2-7", "digests": {"a": "x"}, "late_nodes": [], "silent_nodes": [], "equal": True}


def some(kind: type) -> dict[str, Any]:
    """Each field of it, with a value of its kind."""
    return {name: [] if name.endswith("tags") else 1 for name in signature(kind).parameters}


CERTIFIED = {"log": some(LogFacts), "nodes": [some(NodeFacts)], "equal_nodes": ["a"], "violation": None, "live": None}
DRILLED = some(Report) | {"faults": [some(FaultReport) | {"problem": None}], "problems": [], "equal": True}
DRILLED |= {"digests": {"a": "x"}, "stale_accepted_count": 0}


@pytest.mark.parametrize(
    ("name", "result"),
    [("switchover", SWITCHED), ("verify", VERIFIED), ("certify", CERTIFIED), ("drill", DRILLED)],
)
def test_what_a_worker_of_a_later_version_tells_besides_is_left_out(
    name: str, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def later(value: Any) -> Any:
        if isinstance(value, dict):
            told = {name: later(each) for name, each in value.items()}
            return told if value is result.get("digests") else {**told, "told_later": 1}
        return [later(each) for each in value] if isinstance(value, list) else value

    shown = []
    for told in (result, later(result)):
        show_result(name, told, "table")
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != ""
    # and what lacks is no result
    with pytest.raises(JobFailed, match="no result of such a job"):
        show_result(name, {"told_later": 1}, "table")
