"""The states that are ready keep the contract of a state (`replicator.state`), whatever changes they are given."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator import ChangeRejected, DictState, State, delete, put, put_many
from replicator.state import slices
from replicator.state.contract import check_state
from tests.support.flags import FlagState
from tests.support.kv import PATIENCE_S, Group, eventually, in_step, in_thread

KEYS = st.sampled_from([f"key-{number}" for number in range(12)])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip

DICT_CHANGES = st.one_of(
    st.builds(put, KEYS, VALUES),
    st.builds(put_many, st.dictionaries(KEYS, VALUES, max_size=4)),
    st.lists(KEYS, max_size=3).map(lambda keys: delete(*keys)),
    st.sampled_from([{}, {"put": 1}, {"delete": [1]}, {"clear": {}}, [], None]),
)

FLAG_CHANGES = st.one_of(
    st.builds(FlagState.set_flag, KEYS, st.booleans(), st.integers(0, 100)),
    st.builds(FlagState.drop_flag, KEYS),
    st.builds(FlagState.own, st.integers(-3, 3), st.lists(KEYS, max_size=3)),
    st.builds(FlagState.note, KEYS),
    st.builds(FlagState.bound, st.integers(50, 100)),
    st.sampled_from([{}, {"set_flag": 1}, {"set_flag": {"name": "x"}}, {"note": {"text": "x", "by": "y"}}, [], None]),
)

CASES = [pytest.param(DictState, DICT_CHANGES, id="DictState"), pytest.param(FlagState, FLAG_CHANGES, id="Commands")]

#: However slow the machine is.
unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

every_state = pytest.mark.parametrize(("new", "changes"), CASES)

New = Callable[[], Any]
Changes = st.SearchStrategy[Any]


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """A few entries a piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "PIECE_BYTES", 60)
        yield


def applied(state: Any, change: Any) -> Any:
    try:
        return state.apply(change)
    except ChangeRejected as rejected:
        return str(rejected)


def after(new: New, changes: list[Any]) -> Any:
    state = new()
    for change in changes:
        applied(state, change)
    return state


def drawn(state: Any) -> list[bytes]:
    """The pieces as they are sent."""
    return [orjson.dumps(piece) for piece in state.snapshot()]


def sent(pieces: list[bytes]) -> Iterator[Any]:
    return map(orjson.loads, pieces)


@every_state
def test_it_is_a_state(new: New, changes: Changes) -> None:
    assert isinstance(new(), State)
    check_state(new())


@every_state
@unhurried
@given(data=st.data())
def test_equal_changes_give_equal_results_and_equal_pieces(new: New, changes: Changes, data: st.DataObject) -> None:
    one, other = new(), new()
    for change in data.draw(st.lists(changes)):
        assert applied(one, change) == applied(other, orjson.loads(orjson.dumps(change)))
    assert drawn(one) == drawn(other)


@every_state
@unhurried
@given(data=st.data())
def test_what_is_restored_is_the_same_and_goes_on_alike(new: New, changes: Changes, data: st.DataObject) -> None:
    # given
    state = after(new, data.draw(st.lists(changes)))
    other = after(new, data.draw(st.lists(changes)))
    # when
    other.restore(sent(drawn(state)))
    # then
    assert other == state
    assert drawn(other) == drawn(state)
    for change in data.draw(st.lists(changes)):
        assert applied(other, change) == applied(state, change)
    assert drawn(other) == drawn(state)


@every_state
@unhurried
@given(data=st.data())
def test_a_snapshot_shows_the_state_of_its_call_however_late_it_is_drawn(
    new: New, changes: Changes, data: st.DataObject
) -> None:
    # given
    state = after(new, data.draw(st.lists(changes)))
    before = drawn(state)
    # when it is drawn a piece at a time, between changes
    late = []
    for piece in state.snapshot():
        late.append(orjson.dumps(piece))
        for change in data.draw(st.lists(changes, max_size=3)):
            applied(state, change)
    # then
    assert late == before


@every_state
@unhurried
@given(data=st.data())
def test_a_change_that_is_rejected_moves_nothing(new: New, changes: Changes, data: st.DataObject) -> None:
    state = after(new, data.draw(st.lists(changes)))
    before = drawn(state)
    for change in data.draw(st.lists(changes)):
        try:
            state.apply(change)
        except ChangeRejected:
            assert drawn(state) == before
        before = drawn(state)


@every_state
@unhurried
@given(data=st.data())
def test_a_restore_shows_nothing_before_the_last_piece(new: New, changes: Changes, data: st.DataObject) -> None:
    # given
    state = after(new, data.draw(st.lists(changes)))
    pieces = drawn(after(new, data.draw(st.lists(changes))))
    before = drawn(state)

    def watched() -> Iterator[Any]:
        for piece in sent(pieces):
            assert drawn(state) == before
            yield piece
        assert drawn(state) == before

    # when
    state.restore(watched())
    # then
    assert drawn(state) == pieces


@every_state
@unhurried
@given(data=st.data())
def test_a_restore_that_breaks_off_leaves_the_state_as_it_was(new: New, changes: Changes, data: st.DataObject) -> None:
    # given
    state = after(new, data.draw(st.lists(changes)))
    pieces = drawn(after(new, data.draw(st.lists(changes))))
    place = data.draw(st.integers(0, len(pieces)))
    before = drawn(state)

    def broken() -> Iterator[Any]:
        yield from sent(pieces[:place])
        raise RuntimeError("the log went away")

    # when
    with pytest.raises(RuntimeError):
        state.restore(broken())
    # then
    assert drawn(state) == before


@every_state
def test_pieces_that_are_none_of_its_own_are_refused(new: New, changes: Changes) -> None:
    state = new()
    before = drawn(state)
    with pytest.raises(ChangeRejected, match="must be an object"):
        state.restore(iter([["no object"]]))
    assert drawn(state) == before


@every_state
def test_a_snapshot_is_drawn_slowly_while_another_thread_applies_changes(new: New, changes: Changes) -> None:
    # given a state with many entries, and a thread that changes all of them, again and again
    state = new()
    make = put if new is DictState else lambda key, number: FlagState.set_flag(key, on=True, percent=number)
    for number in range(200):
        state.apply(make(f"key-{number}", number % 50))
    before = drawn(state)
    enough, began = threading.Event(), threading.Event()

    def change_all() -> int:
        for turn in itertools.count():
            for number in range(250):
                state.apply(make(f"key-{number}", turn % 50))
                state.apply(delete("key-0") if new is DictState else FlagState.note("a note"))
            began.set()
            if enough.is_set():
                return turn
        raise AssertionError

    # when the snapshot is taken, and drawn while that goes on
    snapshot = state.snapshot()
    changer = in_thread(change_all)
    late = []
    for piece in snapshot:
        late.append(orjson.dumps(piece))
        if not began.is_set():
            assert began.wait(PATIENCE_S)
    enough.set()
    changer()
    # then
    assert late == before
    assert drawn(state) != before


@every_state
def test_snapshots_of_a_primary_that_writes_make_equal_standbys(new: New, changes: Changes, group: Group) -> None:
    # given
    a = group.primary(state=new())
    make = put if new is DictState else lambda key, number: FlagState.set_flag(key, on=True, percent=number)
    enough = threading.Event()

    def write() -> None:
        for number in itertools.count():
            a.submit_many([make(f"key-{number * 7 % 400 + n}", number % 100) for n in range(20)])
            if enough.is_set():
                return

    writer = in_thread(write)
    # when nodes come late, to snapshots that are sent between changes
    late = []
    for name in "bc":
        eventually(lambda: a.position.id.n > 20)
        a.publish()
        late.append(group.node(name, state=new()))
        eventually(lambda: late[-1].in_sync, f"{name} in sync")
    enough.set()
    writer()
    # then
    in_step(a, *late)
    with a.reading() as state:
        ours = drawn(state)
    for node in late:
        with node.reading() as state:
            assert drawn(state) == ours
