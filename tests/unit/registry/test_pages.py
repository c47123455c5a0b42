"""Pages of records: a dict in which a snapshot costs a list of pages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.registry.pages import IDS_PER_PAGE, Pages

#: Of a few pages, some of them near the edges.
ids = st.integers(min_value=0, max_value=4 * IDS_PER_PAGE) | st.sampled_from([IDS_PER_PAGE - 1, IDS_PER_PAGE])

steps = st.lists(st.tuples(st.sampled_from(["set", "pop", "snapshot", "popitem"]), ids), max_size=60)


def played(history: list[tuple[str, int]]) -> tuple[Pages, dict[int, Any], list[tuple[Any, dict[int, Any]]]]:
    """Pages, a dict to which the same was done, and each snapshot with what the dict had then."""
    pages, model, snapshots = Pages(), dict[int, Any](), list[tuple[Any, dict[int, Any]]]()
    for number, (what, id) in enumerate(history):
        if what == "set":
            pages[id] = model[id] = {"at": number}
        elif what == "snapshot":
            snapshots.append((pages.items(), dict(model)))
        elif what == "popitem" and model:
            id, record = pages.popitem()
            assert model.pop(id) is record
        elif what == "pop" and id in model:
            assert pages.pop(id) is model.pop(id)
    return pages, model, snapshots


@given(history=steps)
def test_they_have_what_a_dict_has(history: list[tuple[str, int]]) -> None:
    pages, model, _ = played(history)
    assert len(pages) == len(model)
    assert dict(pages.items()) == model
    for id in range(4 * IDS_PER_PAGE + 1):
        assert (id in pages) == (id in model)
        assert pages.get(id) is model.get(id)
        if id in model:
            assert pages[id] is model[id]


@given(history=steps)
def test_a_snapshot_has_what_there_was_whatever_comes_after_it(history: list[tuple[str, int]]) -> None:
    _, _, snapshots = played(history)
    for drawn, there_was in snapshots:
        assert dict(drawn) == there_was


@given(history=steps, rest=steps)
def test_what_is_built_of_a_snapshot_has_its_order_and_keeps_it_through_what_follows(
    history: list[tuple[str, int]], rest: list[tuple[str, int]]
) -> None:
    pages, _, _ = played(history)
    other = Pages()
    drawn = list(pages.items())
    other.add([id for id, _ in drawn], [record for _, record in drawn])
    for what, id in rest:
        for each in (pages, other):
            if what == "set":
                each[id] = {}
            elif what == "pop" and id in each:
                each.pop(id)
    assert [id for id, _ in pages.items()] == [id for id, _ in other.items()]


def test_a_change_after_a_snapshot_copies_its_page_and_no_other() -> None:
    pages = Pages()
    pages.add(range(3 * IDS_PER_PAGE), [{} for _ in range(3 * IDS_PER_PAGE)])
    pages.items()
    before = dict(pages._pages)
    pages[IDS_PER_PAGE] = {"new": True}
    pages[IDS_PER_PAGE + 1] = {"new": True}
    assert [page is pages._pages[number] for number, page in before.items()] == [True, False, True]
    own = pages._pages[1]
    pages[IDS_PER_PAGE + 2] = {"new": True}
    assert pages._pages[1] is own


def test_what_is_not_there_is_a_key_error_and_changes_nothing() -> None:
    pages = Pages()
    pages[1] = {}
    for id in (2, IDS_PER_PAGE):
        with pytest.raises(KeyError):
            pages.pop(id)
        with pytest.raises(KeyError):
            pages[id]
    assert list(pages.items()) == [(1, {})]
    assert pages.popitem() == (1, {})
    pages.clear()
    assert (len(pages), list(pages.items())) == (0, [])
