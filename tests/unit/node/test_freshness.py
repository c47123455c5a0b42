"""As of when a node has all that was committed: never more than what a look has shown."""

from __future__ import annotations

from replicator.format.ids import RecordId
from replicator.node.freshness import HEADS_KEPT, Freshness


def at(n: int) -> RecordId:
    return RecordId(1, n)


def test_nothing_is_known_before_a_look_was_reached() -> None:
    freshness = Freshness()
    assert freshness.as_of(at(5)) is None
    freshness.saw(10.0, at(6))
    assert freshness.as_of(at(5)) is None


def test_a_head_that_is_reached_is_as_old_as_its_look() -> None:
    freshness = Freshness()
    freshness.saw(10.0, at(5))
    assert freshness.as_of(at(5)) == 10.0


def test_while_nothing_is_written_each_look_makes_it_fresh_again() -> None:
    freshness = Freshness()
    for moment in (10.0, 11.0, 12.0):
        freshness.saw(moment, at(5))
    assert freshness.as_of(at(5)) == 12.0


def test_without_looks_it_gets_no_fresher() -> None:
    freshness = Freshness()
    freshness.saw(10.0, at(5))
    assert freshness.as_of(at(5)) == freshness.as_of(at(9)) == 10.0


def test_a_node_that_lags_is_as_fresh_as_the_newest_look_that_it_has_reached() -> None:
    freshness = Freshness()
    for moment in range(10, 20):
        freshness.saw(float(moment), at(moment))
    assert freshness.as_of(at(14)) == 14.0
    assert freshness.as_of(at(14)) == 14.0
    assert freshness.as_of(at(25)) == 19.0


def test_a_node_that_lags_for_long_is_taken_for_staler_and_not_for_fresher() -> None:
    freshness = Freshness()
    for moment in range(HEADS_KEPT + 10):
        freshness.saw(float(moment), at(moment + 1))
    assert freshness.as_of(at(5)) is None
    assert freshness.as_of(at(20)) == 19.0
