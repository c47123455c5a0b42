"""A dict in segments: it does what a dict does, and a snapshot of it stays what it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from replicator.state import segments
from replicator.state.segments import KEYS_PER_SEGMENT, Segments
from tests.support.kv import eventually

KEYS = st.integers(0, 30).map(str)


class Model(RuleBasedStateMachine):
    """Segments beside a dict, and snapshots of both that are drawn little by little."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(segments, "KEYS_PER_SEGMENT", 4)
        self.patch.setattr(segments, "_SHRINKS_AT", {2})
        self.held = Segments()
        self.model: dict[str, Any] = {}
        self.snapshots: list[tuple[Iterator[Any], Iterator[Any]]] = []

    def teardown(self) -> None:
        for snapshot, model in self.snapshots:
            assert list(snapshot) == list(model)
        self.patch.undo()

    @rule(keys=st.lists(KEYS, max_size=8), value=st.integers())
    def update(self, keys: list[str], value: int) -> None:
        self.held.update(dict.fromkeys(keys, value))
        self.model.update(dict.fromkeys(keys, value))

    @rule(key=KEYS)
    def discard(self, key: str) -> None:
        assert self.held.discard(key) == (key in self.model)
        self.model.pop(key, None)

    @rule()
    def snapshot(self) -> None:
        self.snapshots.append((self.held.shared(), iter(dict(self.model).items())))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), count=st.integers(1, 6))
    def draw(self, data: st.DataObject, count: int) -> None:
        snapshot, model = data.draw(st.sampled_from(self.snapshots))
        for _ in range(count):
            assert next(snapshot, None) == next(model, None)

    @invariant()
    def they_are_the_same(self) -> None:
        assert list(self.held) == list(self.model)
        assert len(self.held) == len(self.model)
        assert {key: self.held[key] for key in self.held} == self.model
        # No more segments than keys, and the one that takes new keys.
        assert len(self.held._parts) <= len(self.model) + 1


TestSegments = Model.TestCase
TestSegments.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_change_after_a_snapshot_copies_one_segment_once() -> None:
    # given
    held = Segments()
    held.update({str(number): number for number in range(5 * KEYS_PER_SEGMENT)})
    before = dict(held._parts)
    snapshot = held.shared()
    # when
    for value in (1, 2):
        held.update({str(KEYS_PER_SEGMENT): value})
    # then
    copied = [number for number, segment in held._parts.items() if segment is not before[number]]
    assert copied == [1]
    assert dict(snapshot)[str(KEYS_PER_SEGMENT)] == KEYS_PER_SEGMENT


def test_a_few_keys_that_are_left_of_many_take_little_memory() -> None:
    # given
    held = Segments()
    held.update({str(number): number for number in range(KEYS_PER_SEGMENT)})
    full = sys.getsizeof(held._parts[0])
    # when
    for number in range(1, KEYS_PER_SEGMENT):
        held.discard(str(number))
    # then
    assert list(held.shared()) == [("0", 0)]
    assert sys.getsizeof(held._parts[0]) < full / 20


def test_what_is_given_up_is_emptied_but_for_what_a_snapshot_has() -> None:
    # given
    held = Segments()
    held.update({str(number): number for number in range(3 * KEYS_PER_SEGMENT)})
    snapshot = held.shared()
    held.update({"0": "new"})
    own = held._parts[0]
    # when
    held.give_up()
    # then
    eventually(lambda: not own and not held._where)
    assert list(snapshot) == [(str(number), number) for number in range(3 * KEYS_PER_SEGMENT)]


def test_all_of_it_is_given_up_entry_by_entry_after_a_snapshot_as_well() -> None:
    # given
    held = Segments()
    held.update({str(number): number for number in range(3 * KEYS_PER_SEGMENT)})
    assert len(list(held.shared())) == 3 * KEYS_PER_SEGMENT
    # when
    held.give_up()
    # then
    eventually(lambda: not held._where and not any(held._parts.values()))


def test_what_is_taken_away_from_the_end_stays_in_a_snapshot() -> None:
    # given
    held = Segments()
    held.update({str(number): number for number in range(KEYS_PER_SEGMENT + 1)})
    snapshot = held.shared()
    # when
    popped = [held.popitem() for _ in range(KEYS_PER_SEGMENT + 1)]
    # then
    assert popped[::-1] == list(snapshot)
    assert (len(held), list(held.shared())) == (0, [])
    held.update({"new": 1})
    held.clear()
    held.update({"x": 1})
    assert list(held.shared()) == [("x", 1)]
