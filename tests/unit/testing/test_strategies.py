"""Strategies give changes that fit, of all kinds, and the states that are ready pass with them."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from replicator import ChangeRejected, Commands, ConfigError, DictState, change
from replicator.testing import check_state, strategies
from replicator.testing.state_check import EXAMPLE_CHANGES_MAX
from tests.support.flags import FlagState

Name = NewType("Name", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Size:
    width: int
    unit: Literal["cm", "m"] = "cm"


@dataclass
class Everything(Commands):
    told: list[str] = field(default_factory=list)

    @change
    def tell(
        self,
        name: Name,
        colour: Colour,
        size: Size,
        when: datetime.datetime,
        day: datetime.date,
        id: uuid.UUID,
        price: decimal.Decimal,
        pair: tuple[int, str],
        many: tuple[float, ...],
        by: dict[int, list[Size | None]],
        any: Any,
        maybe: int | str | None = None,
    ) -> int:
        self.told.append(repr((name, colour, size, when, day, id, price, pair, many, by, any, maybe)))
        return len(self.told)

    @change
    def clear(self) -> None:
        self.told = []


def test_a_mapping_passes() -> None:
    check_state(DictState, strategies.dict_changes(), examples=50)


def test_commands_pass() -> None:
    check_state(FlagState, strategies.commands(FlagState), examples=50)


@given(strategies.commands(Everything))
def test_arguments_of_every_type_fit_and_are_applied(drawn: Any) -> None:
    Everything().apply(drawn)
    assert Everything.checked(drawn) == drawn


@pytest.mark.parametrize("name", ["set_flag", "drop_flag", "own", "note", "bound"])
def test_every_method_is_drawn(name: str) -> None:
    assert find(strategies.commands(FlagState), lambda drawn: name in drawn)


@pytest.mark.parametrize(
    "holds",
    [
        lambda drawn: drawn.get("put") == {},
        lambda drawn: len(drawn.get("put", ())) > 1,
        lambda drawn: drawn.get("delete") == [],
        lambda drawn: len(drawn.get("delete", ())) > 1,
    ],
)
def test_every_change_of_a_mapping_is_drawn(holds: Callable[[Any], bool]) -> None:
    assert find(strategies.dict_changes(), holds) is not None


class Met(Exception):
    """A flag was dropped that had been set."""


def test_changes_meet() -> None:
    """A flag that is dropped was often set before, or what a drop does would never be tried."""

    # it ends with the first one, which is looked for no further: that takes longer than to find it
    @settings(max_examples=2_000, phases=[Phase.generate], database=None)
    @given(st.lists(strategies.commands(FlagState), max_size=EXAMPLE_CHANGES_MAX))
    def play(changes: list[dict[str, Any]]) -> None:
        state = FlagState()
        for drawn in changes:
            if drawn.get("drop_flag", {}).get("name") in state.flags:
                raise Met
            with contextlib.suppress(ChangeRejected):
                state.apply(drawn)

    with pytest.raises(Met):
        play()


@given(strategies.commands(FlagState, name=st.just("only"), percent=st.integers(0, 5)))
def test_arguments_can_be_drawn_from_what_the_test_says(drawn: Any) -> None:
    if "set_flag" in drawn:
        assert drawn["set_flag"]["name"] == "only"
        assert drawn["set_flag"]["percent"] in (*range(6), 100)


def test_an_argument_that_no_change_has_and_a_class_without_changes() -> None:
    with pytest.raises(ConfigError, match="no change of FlagState has an argument of that name"):
        strategies.commands(FlagState, nmae=st.just("x"))

    @dataclass
    class Empty(Commands):
        x: int = 0

    with pytest.raises(ConfigError, match="it has no method that is a @change"):
        strategies.commands(Empty)
