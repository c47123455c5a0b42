"""From JSON to the types of annotations and back: what `Commands` checks arguments and fields by.

    converter = converter_of(dict[str, Flag])
    converter.decode({"x": {"on": True}}, "flags")        {"x": Flag(on=True)}
    converter.encode({"x": Flag(on=True)}, "flags")       {"x": {"on": True}}

- **Strict.** `1` is no bool and `"1"` no number; an integer is a float as well. What a record does not know is refused,
  and so is what it lacks, unless that has a default.
- **Told apart by JSON alone.** The members of a union have to differ in their kind of JSON (a text, a number, an
  object...), or nobody could say what a value in the log was: `int | str | None` is one, `Cat | Dog` is none.
- **No longer than the types are deep.** A record, or an alias, that holds values of its own type is refused: how deep
  such a value may be would depend on the stack of whoever decodes it.

`int`, `float`, `str`, `bool`, `None`, `Any`, `list`, `dict` (keys of text or integers), `tuple`, unions, `Literal`,
`Enum`, dataclasses; `datetime`, `date`, `UUID` and `Decimal` as text (`texts.py`); and the models of msgspec and
pydantic, which convert themselves, if they are used (`models.py`).
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from typing import Any, Literal

from ..errors import ChangeTooLarge, ConfigError, InvalidChange, NotJSON
from ..format.codec import frame_of
from .converters import (
    Anything,
    Converter,
    Dict,
    FixedTuple,
    Float,
    List,
    OneOf,
    Plain,
    Record,
    Tuple,
    Union,
)
from .models import model_converter_of
from .texts import Text, is_text_type

__all__ = ["check_fits", "converter_of", "default_of", "has_default", "hints_of"]


def converter_of(hint: Any, what: str = "", within: tuple[Any, ...] = ()) -> Converter:
    """The converter of a resolved annotation. `what`: whose it is. `within`: the records and aliases around it.

    Raises `ConfigError` for a type that it does not know.
    """
    hint, within = _unwrapped(hint, what, within)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return Anything()
    if hint is None:
        return Plain(type(None))
    if origin is None and isinstance(hint, type):
        return _of_class(hint, what, within)
    if origin is Literal:
        return OneOf([(value, value) for value in arguments], what)
    if origin in (typing.Union, types.UnionType):
        return Union([converter_of(each, what, within) for each in arguments], what)
    if origin is list and len(arguments) == 1:
        return List(converter_of(arguments[0], what, within))
    if origin is dict and len(arguments) == 2:
        return Dict(_key_type(arguments[0], what), converter_of(arguments[1], what, within))
    if origin is tuple:
        return _tuple_of(arguments, what, within)
    raise ConfigError(setting=what, problem=f"{hint!r} is no type that can be written down as JSON{_ADVICE}")


_ADVICE = ": see replicator.state.conversion for those that can"

#: The old names of the classes, without arguments. As the classes: any list, any dict, and a tuple of who knows what.
_OLD_NAMES = ((typing.List, list), (typing.Dict, dict), (typing.Tuple, tuple))  # noqa: UP006


def _unwrapped(hint: Any, what: str, within: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Without the names that somebody gave it: `NewType`, and the `type` statement, which is added to `within`."""
    while True:
        if type(hint).__name__ == "TypeAliasType":
            _check_ends(hint, what, within)
            hint, within = _value_of(hint, what), (*within, hint)
        elif (supertype := getattr(hint, "__supertype__", None)) is not None:
            hint = supertype
        else:
            return next((kind for old, kind in _OLD_NAMES if hint is old), hint), within


def _value_of(alias: Any, what: str) -> Any:
    try:
        return alias.__value__  # found when it is first asked for
    except NameError as error:
        raise ConfigError(setting=what, problem=f"{alias.__name__} cannot be resolved ({error})") from None


def _check_ends(kind: Any, what: str, within: tuple[Any, ...]) -> None:
    if kind in within:
        raise ConfigError(setting=what, problem=f"{kind.__name__} holds values of its own type, of any depth")


def _of_class(kind: type, what: str, within: tuple[Any, ...]) -> Converter:
    if kind in (str, int, float, bool, type(None)):
        return Float() if kind is float else Plain(kind)
    if kind in (list, dict):
        return List(Anything()) if kind is list else Dict(str, Anything())
    if is_text_type(kind):
        return Text(kind)
    if issubclass(kind, enum.Enum):
        return OneOf([(member.value, member) for member in kind], what)
    _check_ends(kind, what, within)
    if dataclasses.is_dataclass(kind):
        return _record_of(kind, what, (*within, kind))
    if (model := model_converter_of(kind)) is not None:
        return model
    raise ConfigError(setting=what, problem=f"{kind.__name__} is no type that can be written down as JSON{_ADVICE}")


def _tuple_of(arguments: tuple[Any, ...], what: str, within: tuple[Any, ...]) -> Converter:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return Tuple(converter_of(arguments[0], what, within))
    return FixedTuple([converter_of(each, what, within) for each in arguments])


def _key_type(hint: Any, what: str) -> type:
    kind, _ = _unwrapped(hint, what, ())
    if kind not in (str, int):
        raise ConfigError(setting=what, problem="the keys of a dict are text or integers")
    return kind  # type: ignore[no-any-return]


def _record_of(kind: type, what: str, within: tuple[Any, ...]) -> Converter:
    fields = dataclasses.fields(kind)
    if set(inspect.signature(kind).parameters) != {field.name for field in fields}:
        raise ConfigError(setting=what, problem=f"{kind.__name__} is not made of its fields alone")
    hints = hints_of(kind, what)
    converters = {field.name: converter_of(hints[field.name], what, within) for field in fields}
    for field in fields:
        if has_default(field):
            _check_default(field, converters[field.name], what, kind.__name__)
    needed = [field.name for field in fields if not has_default(field)]
    frozen: bool = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return Record(kind, converters, needed, frozen=frozen)


#: Callables of which each call gives the same, beside dataclasses, whose own defaults are checked.
_SAME_EACH_TIME = (list, dict, tuple, str, int, float, bool)


def _check_default(field: dataclasses.Field[Any], converter: Converter, what: str, owner: str) -> None:
    """A member that was left out gets its default on each node by itself, so that has to be the same on all of them."""
    factory = field.default_factory
    if factory is not dataclasses.MISSING and factory not in _SAME_EACH_TIME and not dataclasses.is_dataclass(factory):
        problem = f"{owner}.{field.name} has a default_factory that may give each node another value: give it a default"
        raise ConfigError(setting=what, problem=problem)
    check_fits(default_of(field), converter, what, f"{owner}.{field.name}")


def default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def check_fits(default: Any, converter: Converter, what: str, name: str) -> bytes:
    """The default as JSON. Raises `ConfigError` if it is not of its type, or none that JSON has."""
    try:
        return frame_of(converter.encode(default, name))
    except (InvalidChange, NotJSON, ChangeTooLarge) as error:
        raise ConfigError(setting=what, problem=f"a default is not of its type: {error}") from None


def has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def hints_of(annotated: Any, what: str) -> dict[str, Any]:
    """The annotations of a class or function, resolved. Raises `ConfigError` where a name in them means nothing."""
    try:
        return typing.get_type_hints(annotated)
    except (NameError, TypeError) as error:
        problem = f"its annotations cannot be resolved ({error}): what they name has to be at the top of a module"
        raise ConfigError(setting=what, problem=problem) from None
