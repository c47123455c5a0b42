"""The snapshot that follows from the fields of a dataclass: its form, and what cannot be in one."""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict
from dataclasses import InitVar, dataclass, field
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from replicator import Commands, ConfigError, InvalidChange
from replicator.state.slices import PIECE_BYTES
from tests.support.flags import Flag, FlagState


def test_the_first_piece_has_all_fields_and_the_rest_follows_in_slices() -> None:
    state = FlagState({"x": Flag(True)}, {7: ("x", "y")}, ["a", "b"], most=50)
    assert list(state.snapshot()) == [
        {"flags": {}, "owners": {}, "notes": [], "most": 50},
        {"flags": {"x": {"on": True, "percent": 100}}},
        {"owners": {"7": ["x", "y"]}},
        {"notes": ["a", "b"]},
    ]


def test_a_large_field_is_cut_into_small_pieces() -> None:
    # given
    state = FlagState({f"flag-{n}": Flag(True, n % 100) for n in range(5000)}, notes=["x" * 100] * 3000)
    # when
    pieces = list(state.snapshot())
    # then
    assert max(len(orjson.dumps(piece)) for piece in pieces) <= PIECE_BYTES + 20_000  # quotes, commas, and the field
    assert len(pieces) > 6
    other = FlagState()
    other.restore(iter(pieces))
    assert other == state
    assert list(other.flags) == list(state.flags)


def test_a_whole_state_may_be_one_piece_and_a_field_that_is_not_there_gets_its_default() -> None:
    state = FlagState({"old": Flag(False)}, notes=["old"], most=7)
    state.restore(iter([{"flags": {"x": {"on": True}}}]))
    assert state == FlagState({"x": Flag(True)})


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ({"colour": 1}, "colour is no field of FlagState"),
        ({"flags": {"x": {"on": True, "by": "me"}}}, "flags.x.by is not known here"),
        ({"flags": {"x": {}}}, "flags.x.on is missing"),
        ({"flags": {"x": None}}, "flags.x must be an object"),
        ({"owners": {"01": []}}, "owners must have integers as keys, and not '01'"),
        ({"notes": ["a", 2]}, r"notes\[1\] must be a text"),
        ({"most": "7"}, "most must be an integer"),
        ([], "must be an object"),
    ],
)
def test_a_piece_that_does_not_fit_is_refused_and_the_state_stays_as_it_was(piece: Any, said: str) -> None:
    state = FlagState({"old": Flag(False)}, most=7)
    with pytest.raises(InvalidChange, match=said):
        state.restore(iter([{"flags": {"new": {"on": True}}}, piece]))
    assert state == FlagState({"old": Flag(False)}, most=7)


def test_a_value_that_is_not_of_its_type_is_named_when_the_snapshot_is_drawn() -> None:
    state = FlagState(owners={7: ["x"]})  # type: ignore[dict-item]
    with pytest.raises(InvalidChange, match=r"owners\.7 must be a tuple"):
        list(state.snapshot())


@dataclass
class Indexed(Commands):
    """With what is made of the fields, and is not in the snapshot."""

    flags: dict[str, Flag] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        self.names_on = [name for name, flag in self.flags.items() if flag.on and self.version > 1]

    @functools.cached_property
    def count(self) -> int:
        return len(self.flags)


@dataclass
class Renamed(Commands):
    flags: dict[str, Flag] = field(default_factory=dict)

    def restore(self, pieces: Any) -> None:
        super().restore({{"flagz": "flags"}.get(name, name): part for name, part in each.items()} for each in pieces)


def test_what_is_made_of_the_fields_is_made_again() -> None:
    # given
    state, other = Indexed({"x": Flag(True), "y": Flag(False)}, version=2), Indexed({"z": Flag(True)})
    assert (state.count, other.count) == (2, 1)
    # when
    other.restore(state.snapshot())
    # then
    assert other == state
    assert (other.names_on, other.version, other.count) == (["x"], 2, 2)


def test_a_field_can_be_renamed() -> None:
    state = Renamed()
    state.restore(iter([{"flagz": {}}, {"flagz": {"x": {"on": True}}}]))
    assert state == Renamed({"x": Flag(True)})


# --- What cannot be in a snapshot -------------------------------------------------------------------------------------


@dataclass
class Thawed:
    on: bool


@dataclass(frozen=True)
class HalfFrozen:
    tags: list[str]


@dataclass
class OfThawed(Commands):
    flags: dict[str, Thawed] = field(default_factory=dict)


@dataclass
class OfHalfFrozen(Commands):
    flags: dict[str, HalfFrozen] = field(default_factory=dict)


@dataclass
class OfLists(Commands):
    lists: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class OfDicts(Commands):
    dicts: list[dict[str, str]] = field(default_factory=list)


@dataclass
class OfAnything(Commands):
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class OfOneThawed(Commands):
    one: Thawed = field(default_factory=lambda: Thawed(True))


@dataclass
class Perhaps(Commands):
    perhaps: dict[str, str] | None = None


@dataclass
class WithoutDefault(Commands):
    limit: int


@dataclass(frozen=True)
class Frozen(Commands):
    limit: int = 1


@dataclass
class NotMadeWith(Commands):
    flags: dict[str, Flag] = field(default_factory=dict, init=False)


@dataclass
class MadeWithMore(Commands):
    flags: dict[str, Flag] = field(default_factory=dict)
    path: InitVar[str] = ""


@dataclass
class MadeOtherwise(Commands):
    limit: int = 1

    def __init__(self) -> None:
        self.limit = 2


@dataclass
class MadeOfAnything(Commands):
    limit: int = 1

    def __init__(self, **given: Any) -> None:
        self.limit = 2


@dataclass
class Defaulting(Commands):
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass
class OneOrdered(Commands):
    counts: dict[str, int] = field(default_factory=OrderedDict)


@dataclass
class NoInteger(Commands):
    limit: int = None  # type: ignore[assignment]


@dataclass
class NewEachTime(Commands):
    id: UUID = field(default_factory=uuid4)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (OfThawed, "OfThawed.flags: it holds Thawed, which is not frozen: a snapshot is drawn while changes go on"),
        (OfHalfFrozen, "OfHalfFrozen.flags: it holds a list"),
        (OfLists, "OfLists.lists: it holds a list"),
        (OfDicts, "OfDicts.dicts: it holds a dict"),
        (OfAnything, "OfAnything.values: it holds Any"),
        (OfOneThawed, "OfOneThawed.one: it holds Thawed"),
        (Perhaps, "Perhaps.perhaps: it holds a dict"),
        (WithoutDefault, "WithoutDefault.limit: give it a default"),
        (Frozen, "Frozen: it is a state, and frozen"),
        (NotMadeWith, "NotMadeWith: its constructor has to take its fields, and nothing else"),
        (MadeWithMore, "MadeWithMore: its constructor has to take its fields"),
        (MadeOtherwise, "MadeOtherwise: its constructor has to take its fields"),
        (MadeOfAnything, "MadeOfAnything: its constructor has to take its fields"),
        (Defaulting, "Defaulting.counts: a default is not of its type: counts must be a dict"),
        (OneOrdered, "OneOrdered.counts: a default is not of its type: counts must be a dict"),
        (NoInteger, "NoInteger.limit: a default is not of its type: limit must be an integer"),
        (NewEachTime, "NewEachTime.id: its default is another one each time"),
    ],
)
def test_what_cannot_be_in_a_snapshot_or_come_out_of_one_is_refused_when_a_state_is_made(kind: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(1) if kind is WithoutDefault else kind()
