"""Every order of events in small worlds, and each rule missed once it is taken away.

The guarantees themselves are checked by the explorer, in every world (`world.py`) and at the end of every world
(`ending.py`). What is asserted here is that it finds nothing, that it looked at enough to say so, and that it would
find something. The full bounds take minutes: `python -m tests.model.explore --large`.
"""

from __future__ import annotations

import pytest

from .explore import SMALL, Violation, explore, explore_without
from .parts import Bounds
from .removals import HARMLESS, REMOVALS


@pytest.mark.parametrize(("bounds", "worlds_min"), SMALL, ids=[str(i) for i in range(len(SMALL))])
def test_no_order_of_events_breaks_a_guarantee(bounds: Bounds, worlds_min: int) -> None:
    """G1 to G8, and a good end of every world."""
    explored = explore(bounds)

    assert explored.worlds >= worlds_min
    assert explored.transitions > explored.worlds
    assert explored.depth >= 10


@pytest.mark.parametrize("rule", REMOVALS)
def test_each_rule_is_missed_when_it_is_taken_away(rule: str) -> None:
    with pytest.raises(Violation) as violation:
        explore_without(REMOVALS[rule])

    assert violation.value.path, "a counter-example says how it came to that"
    assert violation.value.breach.startswith(REMOVALS[rule].breaks), str(violation.value)


@pytest.mark.parametrize("rule", HARMLESS)
def test_one_of_two_guards_of_the_same_thing_holds_alone(rule: str) -> None:
    assert explore_without(HARMLESS[rule]).worlds > 1000


def test_a_counter_example_is_printed_step_by_step() -> None:
    with pytest.raises(Violation) as violation:
        explore_without(REMOVALS["boots"])

    lines = str(violation.value).splitlines()
    assert lines[0] == "G1: a2 wrote in term 1 of a1"
    assert lines[1] == "  1. a crashes"
    assert "Redis executes append 1-2 ('!' of a/a2) for run-1: ok" in lines[-1]
