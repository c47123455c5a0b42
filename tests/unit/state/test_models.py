"""Models of msgspec and pydantic as arguments and in fields. Those of a library that is not installed are left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from replicator import Commands, InvalidChange, change
from replicator.state.conversion import converter_of

msgspec = pytest.importorskip("msgspec")
pydantic = pytest.importorskip("pydantic")


class Struct(msgspec.Struct, frozen=True):  # type: ignore[misc, name-defined]
    on: bool
    since: datetime | None = None


class Model(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    model_config = pydantic.ConfigDict(frozen=True, strict=True)

    on: bool
    since: datetime | None = None
    percent: int = pydantic.Field(100, ge=0, le=100)


class Keyed(msgspec.Struct, frozen=True):  # type: ignore[misc, name-defined]
    by_id: dict[int, str]


class KeyedModel(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    by_id: dict[int, str]


class Stumbling(msgspec.Struct, frozen=True):  # type: ignore[misc, name-defined]
    on: bool

    def __post_init__(self) -> None:
        raise KeyError("stumbled")


class StumblingModel(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    on: bool

    def model_post_init(self, context: Any) -> None:
        raise KeyError("stumbled")


class Thawed(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    on: bool


@dataclass
class Flags(Commands):
    structs: dict[str, Struct] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)

    @change
    def set_struct(self, name: str, flag: Struct) -> Struct:
        self.structs[name] = flag
        return flag

    @change
    def set_model(self, name: str, flag: Model) -> Model:
        self.models[name] = flag
        return flag


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_they_are_plain_json_in_the_log_and_models_in_the_state() -> None:
    # given
    state = Flags()
    # when
    changes = [Flags.set_struct("x", Struct(True, NOON)), Flags.set_model("y", Model(on=True, since=NOON))]
    for each in changes:
        state.apply(each)
    # then
    assert changes[0] == {"set_struct": {"name": "x", "flag": {"on": True, "since": "2026-01-31T12:00:00Z"}}}
    assert changes[1] == {
        "set_model": {"name": "y", "flag": {"on": True, "since": "2026-01-31T12:00:00Z", "percent": 100}}
    }
    assert state == Flags({"x": Struct(True, NOON)}, {"y": Model(on=True, since=NOON)})
    other = Flags()
    other.restore(state.snapshot())
    assert other == state


@pytest.mark.parametrize("kind", [Struct, Model])
@pytest.mark.parametrize("written", [None, [], {}, {"on": 7}, {"on": True, "since": "noon"}])
def test_what_a_model_refuses_is_rejected(kind: Any, written: Any) -> None:
    name = "set_struct" if kind is Struct else "set_model"
    state = Flags()
    with pytest.raises(InvalidChange, match=r"^flag"):
        state.apply({name: {"name": "x", "flag": written}})
    assert state == Flags()


def test_a_model_that_was_made_in_python_and_is_none_is_refused() -> None:
    with pytest.raises(InvalidChange, match="flag is refused"):
        Flags.set_struct("x", Struct("yes"))
    with pytest.raises(InvalidChange, match=r"flag\.percent is refused: Input should be less than"):
        Flags.set_model("x", Model.model_construct(on=True, since=None, percent=101))
    with pytest.raises(InvalidChange, match="flag must be a Model"):
        Flags.set_model("x", Struct(True))


def test_one_that_is_not_frozen_can_be_an_argument_and_not_in_a_state() -> None:
    assert converter_of(Model).mutable is converter_of(Struct).mutable is None
    assert converter_of(Thawed).mutable == "Thawed, which is not frozen"


@pytest.mark.parametrize("kind", [Keyed, KeyedModel])
def test_integers_as_keys_are_their_digits(kind: Any) -> None:
    converter, value = converter_of(kind), kind(by_id={7: "x"})
    written = converter.encode(value, "it")
    assert written == {"by_id": {"7": "x"}}
    assert converter.decode(written, "it") == value


@pytest.mark.parametrize("kind", [Stumbling, StumblingModel])
def test_whatever_a_model_raises_when_it_is_made_is_a_rejection(kind: Any) -> None:
    with pytest.raises(InvalidChange, match="it is refused: KeyError: 'stumbled'"):
        converter_of(kind).decode({"on": True}, "it")
