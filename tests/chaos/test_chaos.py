"""Short runs with fixed seeds. The long ones are a command: `python -m tests.chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .report import as_text
from .runs import World, run, worlds

#: Seed and number of faults for the oldest server with one way of writing its AOF, the newest with the other, and
#: Sentinel: about ten seconds each, in which the primary is killed, paused and replaced, and Redis loses something.
SHORT = {"redis-6.2*:everysec": (4, 8), "valkey-9*:always": (11, 8), "sentinel:redis-8*": (4, 3)}


def _chosen(pattern: str) -> World:
    for world in worlds():
        if Path(world.name).match(pattern):
            return world
    pytest.skip(f"no server like {pattern} is at hand")


@pytest.mark.parametrize("pattern", SHORT)
def test_whatever_happens_every_promise_is_kept(pattern: str, tmp_path: Path) -> None:
    # given a group under load; when faults come one after the other, and are over
    seed, faults = SHORT[pattern]
    outcome = run(_chosen(pattern), seed=seed, faults=faults, directory=tmp_path / "run", say=print)
    # then every promise was kept, and clients did get through
    assert not outcome.verdict.violations, (
        f"{as_text(outcome)}\nIts notes: {outcome.directory}\nAgain: {outcome.replay}"
    )
    assert outcome.verdict.counts["ok appended"] > 0
    assert outcome.verdict.counts["reads"] > 0
