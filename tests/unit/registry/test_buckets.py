"""Buckets of records: a dict in which a snapshot costs a list of buckets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.registry.buckets import IDS_PER_BUCKET, Buckets

#: Of a few buckets, some of them near the edges.
ids = st.integers(min_value=0, max_value=4 * IDS_PER_BUCKET) | st.sampled_from([IDS_PER_BUCKET - 1, IDS_PER_BUCKET])

steps = st.lists(st.tuples(st.sampled_from(["set", "pop", "snapshot", "popitem"]), ids), max_size=60)


def played(history: list[tuple[str, int]]) -> tuple[Buckets, dict[int, Any], list[tuple[Any, dict[int, Any]]]]:
    """Buckets, a dict to which the same was done, and each snapshot with what the dict had then."""
    buckets, model, snapshots = Buckets(), dict[int, Any](), list[tuple[Any, dict[int, Any]]]()
    for number, (what, id) in enumerate(history):
        if what == "set":
            buckets[id] = model[id] = {"at": number}
        elif what == "snapshot":
            snapshots.append((buckets.items(), dict(model)))
        elif what == "popitem" and model:
            id, record = buckets.popitem()
            assert model.pop(id) is record
        elif what == "pop" and id in model:
            assert buckets.pop(id) is model.pop(id)
    return buckets, model, snapshots


@given(history=steps)
def test_they_have_what_a_dict_has(history: list[tuple[str, int]]) -> None:
    buckets, model, _ = played(history)
    assert len(buckets) == len(model)
    assert dict(buckets.items()) == model
    for id in range(4 * IDS_PER_BUCKET + 1):
        assert (id in buckets) == (id in model)
        assert buckets.get(id) is model.get(id)
        if id in model:
            assert buckets[id] is model[id]


@given(history=steps, after=st.integers(-1, 4 * IDS_PER_BUCKET), limit=st.integers(0, 5))
def test_a_page_has_the_next_ids_in_ascending_order(history: list[tuple[str, int]], after: int, limit: int) -> None:
    buckets, model, _ = played(history)
    page = buckets.page(after, limit)
    assert list(page) == sorted(id for id in model if id > after)[:limit]
    assert all(record is model[id] for id, record in page.items())


def test_a_page_costs_what_is_in_it_however_many_ids_are_gone() -> None:
    # given
    buckets, count = Buckets(), 300 * IDS_PER_BUCKET
    buckets.add(range(count), [{} for _ in range(count)])
    for id in range(1, count - 1):
        buckets.pop(id)
    # then
    assert list(buckets.page(-1, 2)) == [0, count - 1]
    assert buckets._numbers == list(buckets._parts) == [0, 299]
    assert buckets.page(count - 1, 2) == {}


@given(history=steps)
def test_a_snapshot_has_what_there_was_whatever_comes_after_it(history: list[tuple[str, int]]) -> None:
    _, _, snapshots = played(history)
    for drawn, there_was in snapshots:
        assert dict(drawn) == there_was


@given(history=steps, rest=steps)
def test_what_is_built_of_a_snapshot_has_its_order_and_keeps_it_through_what_follows(
    history: list[tuple[str, int]], rest: list[tuple[str, int]]
) -> None:
    buckets, _, _ = played(history)
    other = Buckets()
    drawn = list(buckets.items())
    other.add([id for id, _ in drawn], [record for _, record in drawn])
    for what, id in rest:
        for each in (buckets, other):
            if what == "set":
                each[id] = {}
            elif what == "pop" and id in each:
                each.pop(id)
    assert [id for id, _ in buckets.items()] == [id for id, _ in other.items()]


def test_a_change_after_a_snapshot_copies_its_page_and_no_other() -> None:
    buckets = Buckets()
    buckets.add(range(3 * IDS_PER_BUCKET), [{} for _ in range(3 * IDS_PER_BUCKET)])
    buckets.items()
    before = dict(buckets._parts)
    buckets[IDS_PER_BUCKET] = {"new": True}
    buckets[IDS_PER_BUCKET + 1] = {"new": True}
    assert [bucket is buckets._parts[number] for number, bucket in before.items()] == [True, False, True]
    own = buckets._parts[1]
    buckets[IDS_PER_BUCKET + 2] = {"new": True}
    assert buckets._parts[1] is own


def test_what_is_not_there_is_a_key_error_and_changes_nothing() -> None:
    buckets = Buckets()
    buckets[1] = {}
    for id in (2, IDS_PER_BUCKET):
        with pytest.raises(KeyError):
            buckets.pop(id)
        with pytest.raises(KeyError):
            buckets[id]
    assert list(buckets.items()) == [(1, {})]
    assert buckets.popitem() == (1, {})
    buckets.clear()
    assert (len(buckets), list(buckets.items())) == (0, [])
