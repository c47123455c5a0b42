"""Each thing that can be wrong with a state is found in one that has just that wrong, and told in words."""

from __future__ import annotations

import datetime
import enum
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from replicator import ChangeRejected, Commands, ConfigError, DictState, change, delete, put
from replicator.registry.state import Registry
from replicator.state.file import FileState
from replicator.testing import CheckFailed, check_state
from tests.support.flags import FlagState
from tests.support.kv import KV
from tests.support.kv import put as kv_put

CHANGES = [{"add": ["x", 1]}, {"add": ["x", 2]}, {"reject": "no"}, {"add": ["y", 3]}, {"drop": "x"}]


class Good:
    """Lists by key. Nothing is wrong with it, and each class below does one thing otherwise."""

    def __init__(self) -> None:
        self.lists: dict[str, list[int]] = {}

    def apply(self, change: Any) -> Any:
        if "reject" in change:
            raise ChangeRejected(change["reject"])
        if "drop" in change:
            return self.lists.pop(change["drop"], None)
        key, number = change["add"]
        self.lists[key] = [*self.lists.get(key, []), number]
        return len(self.lists[key])

    def snapshot(self) -> Iterator[Any]:
        return iter([["entry", key, value] for key, value in self.lists.items()])

    def restore(self, pieces: Iterable[Any]) -> None:
        self.lists = {key: value for _, key, value in pieces}


def refused(state: Callable[[], Any], changes: Iterable[Any] = CHANGES, **options: Any) -> str:
    with pytest.raises(CheckFailed) as caught:
        check_state(state, changes, **options)
    return str(caught.value)


def test_a_good_one_passes_with_a_list_and_with_a_strategy() -> None:
    check_state(Good, CHANGES)
    check_state(Good, iter(CHANGES))
    check_state(Good, [])
    check_state(Good, CHANGES * 20)
    check_state(Good, st.sampled_from(CHANGES), examples=20)


# --- determinism -----------------------------------------------------------------------------------------------------


def test_what_differs_from_one_state_to_the_next() -> None:
    numbers = itertools.count()

    class Clocked(Good):
        def apply(self, change: Any) -> Any:
            if "add" in change:
                self.lists["at"] = [next(numbers)]
            return super().apply(change)

    told = refused(Clocked)
    assert told.startswith("Clocked, change 1 of 5, {'add': ['x', 1]}: two states that were given the same changes")
    assert "at snapshot[0][2][0], one has 0, and the other has 1. apply() must go by the state and the change" in told


def test_results_that_differ() -> None:
    numbers = itertools.count()

    class Answers(Good):
        def apply(self, change: Any) -> Any:
            super().apply(change)
            return next(numbers)

    told = refused(Answers)
    assert "two states, given the same changes, do not do the same: one gives 0, the other gives 1" in told


def test_one_that_rejects_what_another_one_takes() -> None:
    numbers = itertools.count()

    class Moody(Good):
        def apply(self, change: Any) -> Any:
            if next(numbers) % 2:
                raise ChangeRejected("not today")
            return super().apply(change)

    assert "one gives 1, the other rejects it: not today" in refused(Moody)


def test_new_ones_that_differ() -> None:
    numbers = itertools.count()

    class Born(Good):
        def __init__(self) -> None:
            self.lists = {"born": [next(numbers)]}

    assert refused(Born).startswith("Born, before any change: two new states differ: at snapshot[0][2][0], one has")


def test_what_is_shared_by_all_of_a_class() -> None:
    class Shared(Good):
        total: list[int] = []  # noqa: RUF012  # that is what is wrong with it

        def apply(self, change: Any) -> Any:
            self.total.append(1)
            return super().apply(change), len(self.total)

    assert "do not do the same: one gives (1, 1), the other gives (1, 2)" in refused(Shared)


# --- rejections ------------------------------------------------------------------------------------------------------


def test_a_rejection_that_moved_something() -> None:
    class Moves(Good):
        def apply(self, change: Any) -> Any:
            if "reject" in change:
                self.lists["tried"] = [1]
            return super().apply(change)

    told = refused(Moves)
    assert told.startswith("Moves, change 3 of 5, {'reject': 'no'}: apply() raised ChangeRejected, and the state is an")
    assert "at snapshot[1], after it has ['entry', 'tried', [1]], and before it has no more" in told


def test_any_other_exception() -> None:
    class Raises(Good):
        def apply(self, change: Any) -> Any:
            if "drop" in change:
                raise KeyError("x")
            return super().apply(change)

    told = refused(Raises)
    assert "Raises, change 5 of 5, {'drop': 'x'}: apply() raised KeyError('x'), and every node stalls at it" in told


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_records_that_are_mutated_under_a_snapshot() -> None:
    class Mutates(Good):
        def apply(self, change: Any) -> Any:
            if "add" in change and change["add"][0] in self.lists:
                self.lists[change["add"][0]].append(change["add"][1])
                return len(self.lists[change["add"][0]])
            return super().apply(change)

    told = refused(Mutates)
    assert told.startswith("Mutates, change 2 of 5, {'add': ['x', 2]}: a snapshot that was taken before it and drawn")
    assert "the snapshot has 2, and the state has no more" in told
    assert "Replace records, never mutate them" in told


def test_pieces_that_are_drawn_from_what_changes() -> None:
    class Lazy(Good):
        def snapshot(self) -> Iterator[Any]:
            for key, value in self.lists.items():
                yield ["entry", key, value]

    assert "the state has no more" in refused(Lazy) or "drawing a snapshot raised RuntimeError" in refused(Lazy)


def test_what_a_snapshot_forgets() -> None:
    class Forgets(Good):
        def restore(self, pieces: Iterable[Any]) -> None:
            self.lists = {key: value for _, key, value in pieces if key != "y"}

    told = refused(Forgets)
    assert "a state that was restored from a snapshot gives another one" in told
    assert "at snapshot[1], the first has ['entry', 'y', [3]], and the restored one has no more" in told


def test_what_is_in_no_snapshot_and_matters_later() -> None:
    class Counts(Good):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def apply(self, change: Any) -> Any:
            result = super().apply(change)
            self.count += 1
            return result, self.count

    told = refused(Counts, CHANGES[:2])
    assert "a state and the state as it was after change 1, restored from its snapshot, do not do the same" in told
    assert "one gives (2, 2), the other gives (2, 1)" in told


def test_what_is_in_no_snapshot_and_shows_later() -> None:
    class Limits(Good):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[str] = set()

        def apply(self, change: Any) -> Any:
            if "add" not in change:
                return None
            key, number = change["add"]
            self.lists[key] = [*self.lists.get(key, []), number if key in self.seen else -number]
            self.seen.add(key)
            return None

    told = refused(Limits, CHANGES[:2])
    assert "change 2 of 2" in told
    assert "the first has 2, and the restored one has -2. Something that apply() goes by is not in the snapshot" in told


def test_a_restore_that_leaves_what_was_there() -> None:
    class Merges(Good):
        def restore(self, pieces: Iterable[Any]) -> None:
            self.lists = {**self.lists, **{key: value for _, key, value in pieces}}

    told = refused(Merges)
    assert "a state that was another one before, and was restored from a snapshot, gives another one" in told
    assert "restore() must leave nothing of what was there" in told


def test_a_restore_that_raises() -> None:
    class Stumbles(Good):
        def restore(self, pieces: Iterable[Any]) -> None:
            raise ValueError("no such piece")

    assert "restore() of what snapshot() gave then raised ValueError('no such piece'): every node st" in refused(
        Stumbles
    )


def test_a_restore_that_shows_before_its_end() -> None:
    class Early(Good):
        def restore(self, pieces: Iterable[Any]) -> None:
            before, self.lists = self.lists, {}
            try:
                for _, key, value in pieces:
                    self.lists[key] = value
            except BaseException:
                self.lists = before
                raise

    told = refused(Early)
    assert "after piece 1 of a restore the state shows something of it" in told
    assert "Draw all pieces first, build aside, then assign" in told


def test_a_restore_that_is_not_undone_when_it_breaks_off() -> None:
    class Clears(Good):
        def restore(self, pieces: Iterable[Any]) -> None:
            drawn = []
            try:
                drawn.extend(pieces)
            finally:
                self.lists = {key: value for _, key, value in drawn}

    told = refused(Clears)
    assert "a state (new) was restored from 1 pieces, which broke off after 1" in told


def test_a_restore_that_takes_a_broken_snapshot_for_a_whole_one() -> None:
    class Swallows(Good):
        def restore(self, pieces: Iterable[Any]) -> None:
            drawn = list[Any]()
            try:
                drawn.extend(pieces)
            except Exception:
                return
            self.lists = {key: value for _, key, value in drawn}

    assert "which broke off after 0: restore() returned, and must let pass what the pieces raise" in refused(Swallows)


def test_a_restore_that_tells_another_error() -> None:
    class Translates(Good):
        def restore(self, pieces: Iterable[Any]) -> None:
            try:
                self.lists = {key: value for _, key, value in pieces}
            except Exception:
                raise ValueError("a bad snapshot") from None

    assert "restore() raised ValueError('a bad snapshot'), and must let pass" in refused(Translates)


def test_a_piece_that_is_not_json() -> None:
    class Dates(Good):
        def snapshot(self) -> Iterator[Any]:
            return iter([{1, 2}])

    assert "a piece of the snapshot after it cannot be sent: a piece of the snapshot is not JSON" in refused(Dates)


# --- what goes through the log ---------------------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("passed", "told"),
    [
        (("x", 1), "at ['add'], ('x', 1) was passed, and apply() gets ['x', 1]. Pass what JSON has"),
        (
            ["x", datetime.date(2027, 1, 2)],
            "at ['add'][1], datetime.date(2027, 1, 2) was passed, and apply() gets '2027",
        ),
        (["x", Point(1)], "Point(x=1) was passed, and apply() gets {'x': 1}"),
        ([Colour.RED, 1], "<Colour.RED: 'red'> was passed, and apply() gets 'red'"),
        (["x", {1}], "it cannot be written to the log"),
        (["x", {1: 2}], "it cannot be written to the log"),
        (["x", float("nan")], "it cannot be written to the log"),
    ],
)
def test_a_change_that_is_not_what_json_makes_of_it(passed: Any, told: str) -> None:
    found = refused(Good, [{"add": ["x", 1]}, {"add": passed}])
    assert found.startswith("Good, change 2 of 2, {'add': ")
    assert told in found


def test_a_result_that_is_not_json_is_warned_of() -> None:
    class Answers(Good):
        def apply(self, change: Any) -> Any:
            super().apply(change)
            return object()

    with pytest.warns(
        UserWarning, match=r"Answers, change 1 of 1, .* is not JSON: a write with a key does not keep its"
    ):
        check_state(Answers, CHANGES[:1])


# --- what is tried ---------------------------------------------------------------------------------------------------


def test_a_strategy_finds_the_shortest_list_that_fails() -> None:
    class Third(Good):
        def apply(self, change: Any) -> Any:
            result = super().apply(change)
            if result == 3:
                raise KeyError("three of a kind")
            return result

    told = refused(Third, st.sampled_from(CHANGES), examples=300)
    assert told.startswith("Third, change 3 of 3, {'add': ['x', 1]}: apply() raised KeyError('three of a kind')")


def test_what_is_no_state_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no snapshot\(\)"):
        check_state(dict, [])
    with pytest.raises(ConfigError, match="give what makes a state"):
        check_state(Good(), [])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"FileState has no apply\(\): there is nothing to try"):
        check_state(lambda: FileState(tmp_path / "f"), [])
    one = Good()
    with pytest.raises(ConfigError, match="the same object twice"):
        check_state(lambda: one, [])
    with pytest.raises(ConfigError, match="examples"):
        check_state(Good, [], examples=0)


# --- the states that are ready ---------------------------------------------------------------------------------------


def test_the_mapping_passes() -> None:
    check_state(DictState, [put("x", [1]), put("y", {"a": None}), delete("x", "z"), put("x", 1.5)])
    check_state(lambda: DictState({"x": 1}), [put("x", 2), {"nothing": 1}, delete("x")])


def test_commands_pass() -> None:
    flags = [
        FlagState.set_flag("x", on=True),
        FlagState.bound(50),
        FlagState.set_flag("y", on=True, percent=70),
        FlagState.own(7, ["x", "y"]),
        FlagState.note("n"),
        FlagState.drop_flag("z"),
        FlagState.drop_flag("x"),
    ]
    check_state(FlagState, flags)


def test_the_registry_passes() -> None:
    key = "A" * 43 + "="
    changes = [
        {"op": "register", "hostname": "db1", "public_key": key, "at": 1},
        {"op": "register", "hostname": "db1"},
        {"op": "register", "hostname": "db2"},
        {"op": "deregister", "id": 1},
        {"op": "nothing"},
    ]
    check_state(Registry, changes)


def test_a_state_of_bytes_passes() -> None:
    class Raw(Good):
        def snapshot(self) -> Iterator[Any]:
            return iter([f"{key}={value}".encode() for key, value in self.lists.items()])

        def restore(self, pieces: Iterable[Any]) -> None:
            drawn = [bytes(piece).decode().partition("=") for piece in pieces]
            self.lists = {key: [int(each) for each in value[1:-1].split(",")] for key, _, value in drawn}

    check_state(Raw, CHANGES)


def test_our_own_test_state_passes() -> None:
    check_state(KV, [kv_put("x", 1), {"push": 2}, {"reject": "no"}, kv_put("x", [1, 2]), {"push": 3}])


@dataclass(frozen=True)
class Coupon:
    until: datetime.date | None = None


@dataclass
class Coupons(Commands):
    coupons: dict[str, Coupon] = field(default_factory=dict)

    @change
    def add(self, code: str) -> Coupon:
        coupon = self.coupons[code] = Coupon()
        return coupon


def test_results_are_kept_as_the_state_says(recwarn: pytest.WarningsRecorder) -> None:
    check_state(Coupons, [Coupons.add("a"), Coupons.add("b")])
    assert not recwarn.list
