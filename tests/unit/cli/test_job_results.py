"""What a job found is shown as lines, and what others wrote makes no other ones."""

from __future__ import annotations

import pytest

from replicator.cli.job_results import show_result


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
