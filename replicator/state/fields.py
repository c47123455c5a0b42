"""The snapshot of a dataclass, and how it becomes what one says: what `Commands` does with its fields.

A piece is a JSON object of fields. The first piece has them all: whole, but dicts and lists empty. What is in those
follows in slices of 64 KiB, field by field, in order:

    {"limit": 5, "flags": {}}
    {"flags": {"dark-mode": {"on": true, "percent": 100}, ...}}
    {"flags": {...}}

A whole state in one piece is one as well. It is a contract, as the form of the changes is.

- **A snapshot copies the dicts and lists of the fields**, no deeper, and its pieces are made of that later, while
  changes go on. So methods may change those dicts and lists in place, and must *replace* what is in them. What could be
  changed in place there is refused when a state is made: frozen dataclasses and tuples are taken, a dict of lists is
  not.
- **A restore builds a new object** of all fields aside, and takes over all that it has, under the node's lock; a
  `cached_property` is made anew. `__post_init__` runs then, if there is one: be quick in it. So the constructor takes
  the fields and nothing else, which is checked.
- **A field that is not in the snapshot gets its default**: it is new, and whoever wrote the snapshot did not have it. A
  field or member in it that this code does not know is refused, because it would be lost. To drop or rename one,
  override `restore`, and give `super().restore` the pieces without it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from ..errors import ConfigError, InvalidChange
from .conversion import check_fits, converter_of, default_of, has_default, hints_of
from .converters import Converter, Dict, List, refuse
from .release import let_go
from .slices import slices

__all__ = ["Fields", "fields_of"]


def fields_of(kind: type) -> Fields:
    """The fields of a dataclass. Raises `ConfigError` if one of them cannot be in a snapshot."""
    if kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(setting=kind.__name__, problem="it is a state, and frozen: only what is in it is to be")
    _check_made_of_fields(kind)
    hints = hints_of(kind, kind.__name__)
    converters = {}
    for field in dataclasses.fields(kind):
        setting = f"{kind.__name__}.{field.name}"
        if not has_default(field):
            raise ConfigError(setting=setting, problem="give it a default: every node begins with the same state")
        converters[field.name] = converter_of(hints[field.name], setting)
        _check_default(field, converters[field.name], setting)
        if mutable := _mutable_within(converters[field.name]):
            problem = f"it holds {mutable}: a snapshot is drawn while changes go on, so use frozen dataclasses, tuples"
            raise ConfigError(setting=setting, problem=problem)
    return Fields(kind, converters)


def _check_made_of_fields(kind: type) -> None:
    """A restore makes an object of the values of all fields, and of nothing else: `__post_init__` has them all then."""
    _, *parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
    names = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    if len(names) == len(parameters) and names == {field.name for field in dataclasses.fields(kind)}:
        return
    problem = (
        "its constructor has to take its fields, and nothing else: no field(init=False), InitVar, or other __init__; "
        "what is made of the fields is an attribute, set in __post_init__"
    )
    raise ConfigError(setting=kind.__name__, problem=problem)


def _check_default(field: dataclasses.Field[Any], converter: Converter, setting: str) -> None:
    first, second = (check_fits(default_of(field), converter, setting, field.name) for _ in range(2))
    if first != second:
        problem = "its default is another one each time it is made: every node begins with the same state"
        raise ConfigError(setting=setting, problem=problem)


def _mutable_within(converter: Converter) -> str | None:
    """What of a field can be changed in place, beside the dict or list that it is."""
    if isinstance(converter, Dict):
        return converter.value.mutable
    return converter.element.mutable if isinstance(converter, List) else converter.mutable


class Fields:
    """The fields of one class: its constructor takes them all."""

    def __init__(self, kind: type, converters: Mapping[str, Converter]) -> None:
        self._kind = kind
        self._converters = converters

    def pieces(self, state: object) -> Iterator[dict[str, Any]]:
        """The state as it is now, to be drawn later. A piece raises `InvalidChange` if a value is not of its type."""
        values = {name: _copied(getattr(state, name)) for name in self._converters}
        return self._drawn(values)

    def restore(self, state: Any, pieces: Iterable[Any]) -> None:
        """Make `state` what the pieces say. It is what it was until they end, and if they, or this, raise."""
        values: dict[str, Any] = {}
        try:
            for piece in pieces:
                self._take(piece, values)
            made = self._kind(**values)
        except BaseException:
            let_go(*_containers(values.values()))
            raise
        old = [getattr(state, name) for name in self._converters]
        for name, value in {**{name: getattr(made, name) for name in self._converters}, **vars(made)}.items():
            setattr(state, name, value)
        for name in vars(state).keys() - vars(made).keys():
            if isinstance(getattr(self._kind, name, None), functools.cached_property):
                delattr(state, name)  # made of what was there
        let_go(*_containers(old))

    def give_up(self, state: object) -> None:
        """Nobody has this state any more: let go of what is in it."""
        let_go(*_containers(getattr(state, name) for name in self._converters))

    def _drawn(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {name: of.encode(_emptied(values[name]), name) for name, of in self._converters.items()}
        for name, converter in self._converters.items():
            value = values[name]
            if isinstance(value, dict):
                yield from self._slices_of_dict(name, converter, value)
            elif isinstance(value, list):
                yield from self._slices_of_list(name, converter, value)
        let_go(*_containers(values.values()))

    def _slices_of_dict(self, name: str, of: Any, value: dict[Any, Any]) -> Iterator[dict[str, Any]]:
        entries = ((of.encoded_key(key, name), of.value.encode(each, f"{name}.{key}")) for key, each in value.items())
        for some in slices((entry, len(entry[0]) + len(orjson.dumps(entry[1]))) for entry in entries):
            yield {name: dict(some)}

    def _slices_of_list(self, name: str, of: Any, value: list[Any]) -> Iterator[dict[str, Any]]:
        elements = (of.element.encode(each, f"{name}[{place}]") for place, each in enumerate(value))
        for some in slices((element, len(orjson.dumps(element))) for element in elements):
            yield {name: some}

    def _take(self, piece: Any, values: dict[str, Any]) -> None:
        if not isinstance(piece, dict):
            raise InvalidChange("a piece of the snapshot of {kind} must be an object", kind=self._kind.__name__)
        for name, part in piece.items():
            if (converter := self._converters.get(name)) is None:
                refuse(name, f"is no field of {self._kind.__name__}")
            decoded = converter.decode(part, name)
            if isinstance(converter, Dict):
                values.setdefault(name, {}).update(decoded)
            elif isinstance(converter, List):
                values.setdefault(name, []).extend(decoded)
            else:
                values[name] = decoded


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, dict | list) else value


def _emptied(value: Any) -> Any:
    return type(value)() if isinstance(value, dict | list) else value


def _containers(values: Iterable[Any]) -> list[dict[Any, Any] | list[Any]]:
    return [value for value in values if isinstance(value, dict | list)]
