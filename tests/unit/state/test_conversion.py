"""Annotations and JSON: what fits, what does not, and what it is on the other side."""

from __future__ import annotations

import enum
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal, NewType, Optional, Union
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator import ChangeRejected, ConfigError, InvalidChange
from replicator.state.conversion import converter_of

UserId = NewType("UserId", int)


class Colour(enum.Enum):
    RED = "red"
    NONE = None


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.5
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    ends: tuple[Point, Point]
    label: str | None = None


class TypeAliasType:
    """What the `type` statement makes, from Python 3.12 on: its value is looked up when it is asked for."""

    def __init__(self, name: str, value: Callable[[], Any]) -> None:
        self.__name__ = name
        self._value = value

    @property
    def __value__(self) -> Any:
        return self._value()


Numbers = TypeAliasType("Numbers", lambda: list[int])
ONE_ID = UUID("12345678-1234-5678-1234-567812345678")

#: A type, a value of it, and its JSON.
PAIRS = [
    (int, -(2**63), -(2**63)),
    (int, 2**64 - 1, 2**64 - 1),
    (float, 1.5, 1.5),
    (str, "ü", "ü"),
    (bool, False, False),
    (None, None, None),
    (Any, {"a": [1, None]}, {"a": [1, None]}),
    (UserId, 7, 7),
    (list, [1, "a"], [1, "a"]),
    (dict, {"a": 1}, {"a": 1}),
    (typing.List, [1, "a"], [1, "a"]),  # noqa: UP006
    (typing.Dict, {"a": 1}, {"a": 1}),  # noqa: UP006
    (tuple[()], (), []),
    (list[int], [1, 2], [1, 2]),
    (tuple[Numbers, Numbers], ([1], [2]), [[1], [2]]),
    (dict[str, list[int]], {"a": [1]}, {"a": [1]}),
    (dict[int, bool], {-7: True}, {"-7": True}),
    (tuple[int, ...], (1, 2), [1, 2]),
    (tuple[int, str], (1, "a"), [1, "a"]),
    (Optional[int], None, None),  # noqa: UP045
    (Union[int, str], "a", "a"),  # noqa: UP007
    (int | float, 1, 1),
    (float | int, 1, 1),
    (float | int | None, 1.0, 1.0),
    (Literal["a", 1, True], 1, 1),
    (Colour, Colour.RED, "red"),
    (Colour, Colour.NONE, None),
    (Level, Level.HIGH, 2),
    (datetime, datetime(2026, 1, 31, 9, tzinfo=UTC), "2026-01-31T09:00:00+00:00"),
    (date, date(2026, 1, 31), "2026-01-31"),
    (UUID, ONE_ID, str(ONE_ID)),
    (Decimal, Decimal("1.10"), "1.10"),
    (Point, Point(1, 2.0, ("a",)), {"x": 1, "y": 2.0, "tags": ["a"]}),
    (Line | None, Line((Point(1), Point(2))), {
        "ends": [{"x": 1, "y": 0.5, "tags": []}, {"x": 2, "y": 0.5, "tags": []}], "label": None,
    }),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value", "written"), PAIRS)
def test_a_value_is_written_down_and_read_again(hint: Any, value: Any, written: Any) -> None:
    converter = converter_of(hint)
    encoded = converter.encode(value, "it")
    decoded = converter.decode(orjson.loads(orjson.dumps(written)), "it")
    assert (encoded, type(encoded)) == (written, type(written))
    assert (decoded, type(decoded)) == (value, type(value))


#: A type, and JSON that is none of it, with the path at fault.
MISFITS = [
    (int, True, "it"),
    (int, 1.0, "it"),
    (int, "1", "it"),
    (bool, 1, "it"),
    (str, None, "it"),
    (float, True, "it"),
    (float, "1", "it"),
    (None, 0, "it"),
    (list[int], {"a": 1}, "it"),
    (list[int], [1, "a"], "it[1]"),
    (dict[str, int], [1], "it"),
    (dict[str, int], {"a": None}, "it.a"),
    (dict[int, int], {" 1": 1}, "it"),
    (dict[int, int], {"one": 1}, "it"),
    (dict[int, int], {str(2**64): 1}, "it"),
    (dict[int, int], {"9" * 5000: 1}, "it"),
    (tuple[int, ...], [None], "it[0]"),
    (tuple[int, str], [1], "it"),
    (tuple[int, str], [1, 2], "it[1]"),
    (int | None, "a", "it"),
    (Literal["a", 1], True, "it"),
    (Literal["a", 1], ["a"], "it"),
    (Colour, "blue", "it"),
    (Level, 3, "it"),
    (datetime, "noon", "it"),
    (datetime, 1, "it"),
    (UUID, "1", "it"),
    (Decimal, "one", "it"),
    (Point, [1], "it"),
    (Point, {}, "it.x"),
    (Point, {"x": 1, "z": 1}, "it.z"),
    (Line, {"ends": [{"x": 1}, {"x": "1"}]}, "it.ends[1].x"),
]


@pytest.mark.parametrize(("hint", "written", "path"), MISFITS)
def test_json_that_does_not_fit_is_refused_with_its_path(hint: Any, written: Any, path: str) -> None:
    with pytest.raises(InvalidChange) as raised:
        converter_of(hint).decode(written, "it")
    assert raised.value.field == path
    assert str(raised.value).startswith(f"{path} ")


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 2**64),
        (int, Level.LOW),
        (float, math.nan),
        (float, math.inf),
        (float, 10**400),
        (list[int], (1,)),
        (tuple[int, ...], [1]),
        (dict[str, int], {1: 1}),
        (dict[int, int], {"1": 1}),
        (dict[int, int], {True: 1}),
        (dict[int, int], {2**64: 1}),
        (datetime, date(2026, 1, 31)),
        (date, datetime(2026, 1, 31, tzinfo=UTC)),
        (Colour, "red"),
        (Point, {"x": 1}),
        (Point, Line),
        (int | None, "a"),
    ],
)
def test_a_value_of_another_type_is_refused(hint: Any, value: Any) -> None:
    with pytest.raises(InvalidChange):
        converter_of(hint).encode(value, "it")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda each: st.lists(each) | st.dictionaries(
    st.sampled_from(["x", "y", "tags", "ends", "label"]), each)))  # fmt: skip
def test_whatever_json_comes_it_is_a_value_or_refused(written: Any) -> None:
    for hint in (Line, dict[int, Point], int | list[Point] | None, Literal["x", 1]):
        try:
            value = converter_of(hint).decode(written, "it")
        except InvalidChange:
            continue
        assert converter_of(hint).decode(converter_of(hint).encode(value, "it"), "it") == value


@dataclass(frozen=True)
class Checked:
    kind: str

    def __post_init__(self) -> None:
        raise _FAULTS[self.kind]("so it is")


_FAULTS = {"value": ValueError, "type": TypeError, "no": ChangeRejected, "memory": MemoryError}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("value", "it is refused: so it is"),
        ("type", "it is refused: TypeError: so it is"),
        ("other", "it is refused: KeyError: 'other'"),
        ("no", "so it is"),
    ],
)
def test_whatever_a_record_raises_when_it_is_made_is_a_rejection(kind: str, said: str) -> None:
    with pytest.raises(ChangeRejected) as raised:
        converter_of(Checked).decode({"kind": kind}, "it")
    assert str(raised.value) == said


def test_a_node_without_memory_rejects_nothing() -> None:
    with pytest.raises(MemoryError):
        converter_of(Checked).decode({"kind": "memory"}, "it")


@dataclass
class Tree:
    children: list[Tree] = field(default_factory=list)


Json = TypeAliasType("Json", lambda: dict[str, Json] | int)
Itself = TypeAliasType("Itself", lambda: Itself)
Nothing = TypeAliasType("Nothing", lambda: no_such_name)  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Derived:
    x: int
    twice: int = field(init=False, default=0)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (set[str], "is no type that can be written down"),
        (bytes, "bytes is no type that can be written down"),
        (complex | None, "complex is no type"),
        (dict[float, int], "the keys of a dict are text or integers"),
        (Point | Line, "two members of a union are both an object in JSON"),
        (str | datetime, "two members of a union are both a text"),
        (Tree, "Tree holds values of its own type"),
        (Json, "Json holds values of its own type"),
        (list[Json], "Json holds values of its own type"),  # type: ignore[valid-type]
        (Itself, "Itself holds values of its own type"),
        (dict[Itself, int], "Itself holds values of its own type"),  # type: ignore[valid-type]
        (Nothing, r"Nothing cannot be resolved \(name 'no_such_name'"),
        (tuple, "tuple is no type"),
        (typing.Tuple, "tuple is no type"),  # noqa: UP006
        (typing.Union, "is no type"),
        (list[int, str], "is no type"),  # type: ignore[type-arg]
        (list[()], "is no type"),  # type: ignore[type-arg]
        (dict[str], "is no type"),  # type: ignore[type-arg]
        (Derived, "Derived is not made of its fields alone"),
        (Literal[b"a"], "is no text, integer"),
    ],
)
def test_a_type_that_cannot_be_told_from_json_is_refused(hint: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        converter_of(hint, "it")
