"""Schedules: what a seed decides."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from .schedule import Step, draw, kinds_for

SINGLE = kinds_for(aof="always")
LOSING = kinds_for(aof="everysec", clock=True, disks=True)
REPLICATED = kinds_for(aof="everysec", replicas=2)
HOSTS = kinds_for(aof="everysec", replicas=2, hosts=True)


def faults(steps: list[Step]) -> list[str]:
    return [fault.kind for step in steps for fault in step.faults]


def test_equal_seeds_give_equal_schedules() -> None:
    assert draw(7, 100, SINGLE) == draw(7, 100, SINGLE)
    assert draw(7, 100, SINGLE) != draw(8, 100, SINGLE)


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_a_schedule_has_as_many_faults_as_were_asked_for(count: int) -> None:
    assert len(faults(draw(1, count, SINGLE))) == count


@pytest.mark.parametrize("kinds", [SINGLE, LOSING, REPLICATED, HOSTS], ids=["single", "losing", "replicated", "hosts"])
def test_a_long_schedule_has_every_kind(kinds: dict[str, object]) -> None:
    assert set(faults(draw(1, 1000, kinds))) == set(kinds)  # type: ignore[arg-type]


def test_some_faults_come_together() -> None:
    together = {len(step.faults) for step in draw(1, 200, SINGLE)}
    assert together == {1, 2, 3}


def test_a_longer_schedule_begins_like_a_shorter_one() -> None:
    # so a run can be cut short to see when it went wrong
    short, long = draw(3, 20, SINGLE), draw(3, 40, SINGLE)
    assert long[: len(short) - 1] == short[:-1]


def test_the_document_names_every_kind_and_no_other() -> None:
    document = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    _, _, table = document.partition("| fault | what is done |\n|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    named = [name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(named) == sorted({**SINGLE, **LOSING, **REPLICATED, **HOSTS})


def test_a_fault_says_who_and_how_long() -> None:
    for step in draw(1, 300, SINGLE):
        for before, after in pairwise((*step.faults, step.faults[0])):
            assert before.seconds <= 2
            assert (before.target != "") == SINGLE[before.kind].on_node
            assert str(before).startswith(before.kind)
            assert after.after <= 0.4


def test_what_can_be_done_depends_on_redis() -> None:
    assert "cut" in SINGLE
    assert "power-cut" not in SINGLE
    assert "power-cut" in LOSING
    assert "cut" not in REPLICATED
    assert "lagging-failover" in REPLICATED
