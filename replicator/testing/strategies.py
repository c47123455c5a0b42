"""Hypothesis strategies for the changes of the states that are ready. Needs `hypothesis`.

    check_state(DictState, strategies.dict_changes())
    check_state(FlagState, strategies.commands(FlagState))
    check_state(FlagState, strategies.commands(FlagState, percent=st.integers(0, 200)))

What they give is valid: its types fit, and it can be written to the log. Texts and numbers are few and come again, so
that changes meet: a flag that is dropped was mostly set before.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from ..errors import ChangeTooLarge, ConfigError, InvalidChange, NotJSON
from ..state.changes import Change
from ..state.commands import ChangeMethod, Commands
from ..state.conversion import hints_of
from ..state.mapping import delete, expire, put, put_many

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ImportError as missing:
    raise ImportError("replicator.testing.strategies needs hypothesis: pip install hypothesis") from missing

__all__ = ["commands", "dict_changes", "json_values"]

#: Keys and names are among these most of the time, so that changes meet.
FEW_TEXTS = ("", "a", "b", "c", "ä", "dark-mode")

#: JSON in the log has integers of 64 bits.
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1

TEXT_CHARS_MAX = 12
ITEMS_MAX = 4


def _texts() -> SearchStrategy[str]:
    return st.sampled_from(FEW_TEXTS) | st.text(max_size=TEXT_CHARS_MAX)


def _integers() -> SearchStrategy[int]:
    return st.integers(0, 10) | st.integers(INTEGER_MIN, INTEGER_MAX)


def _floats() -> SearchStrategy[float]:
    return st.floats(allow_nan=False, allow_infinity=False)


def json_values() -> SearchStrategy[Any]:
    """Any JSON value that is not large."""
    atoms = st.none() | st.booleans() | _integers() | _floats() | _texts()
    return st.recursive(
        atoms,
        lambda inner: st.lists(inner, max_size=ITEMS_MAX) | st.dictionaries(_texts(), inner, max_size=ITEMS_MAX),
        max_leaves=8,
    )


def dict_changes(
    keys: SearchStrategy[str] | None = None, values: SearchStrategy[Any] | None = None
) -> SearchStrategy[Change[Any]]:
    """A change of a `DictState`: `put`, `put_many`, `delete` or `expire`."""
    keys = _texts() if keys is None else keys
    values = json_values() if values is None else values
    return st.one_of(
        st.builds(put, keys, values),
        st.builds(put_many, st.dictionaries(keys, values, max_size=ITEMS_MAX)),
        st.lists(keys, max_size=ITEMS_MAX).map(lambda gone: delete(*gone)),
        st.builds(expire, st.lists(keys, max_size=ITEMS_MAX), st.none() | _texts(), _floats()),
    )


def commands(kind: type[Commands], **arguments: SearchStrategy[Any]) -> SearchStrategy[Change[Any]]:
    """A change of this `Commands` class: one of its methods, with arguments of the types that it has.

    `arguments`: what an argument of that name is drawn from, in every method that has one. An argument with a default
    is left out now and then. Raises `ConfigError` if no method has an argument of that name.
    """
    methods = {name: method for name in dir(kind) if isinstance(method := getattr(kind, name), ChangeMethod)}
    if not methods:
        raise ConfigError(setting=kind.__name__, problem="it has no method that is a @change")
    known = {name for method in methods.values() for name in method.__signature__.parameters}
    if unknown := sorted(arguments.keys() - known):
        raise ConfigError(setting=unknown[0], problem=f"no change of {kind.__name__} has an argument of that name")
    return st.one_of([_calls(method, arguments) for _, method in sorted(methods.items())])


def _calls(method: ChangeMethod[..., Any], given: dict[str, SearchStrategy[Any]]) -> SearchStrategy[Change[Any]]:
    hints = hints_of(method._function, method.name)
    needed: dict[str, SearchStrategy[Any]] = {}
    optional: dict[str, SearchStrategy[Any]] = {}
    for name, parameter in method.__signature__.parameters.items():
        drawn = given[name] if name in given else _of(hints[name], f"{method.name}({name})")
        (needed if parameter.default is inspect.Parameter.empty else optional)[name] = drawn
    drawn_arguments = st.fixed_dictionaries(needed, optional=optional)
    return drawn_arguments.map(lambda drawn: _made(method, drawn)).filter(lambda change: change is not None)


def _made(method: Callable[..., Change[Any]], drawn: dict[str, Any]) -> Any:
    """The change; None: the types fit, and the values do not (a model has limits of its own, or it is too large)."""
    try:
        return method(**drawn)
    except (InvalidChange, NotJSON, ChangeTooLarge):
        return None


_SIMPLE: dict[Any, Callable[[], SearchStrategy[Any]]] = {
    None: st.none,
    type(None): st.none,
    Any: json_values,
    bool: st.booleans,
    int: _integers,
    float: _floats,
    str: _texts,
    # A time has its offset from UTC, and a number is finite: `state/texts.py`.
    datetime: lambda: st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    Decimal: lambda: st.decimals(-(10**12), 10**12, allow_nan=False, allow_infinity=False),
}


def _of(hint: Any, what: str) -> SearchStrategy[Any]:
    """Values of an annotation that can be written down as JSON: the same annotations as `state/conversion.py` takes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated or hasattr(hint, "__supertype__") or hasattr(hint, "__value__"):
        return _of(getattr(hint, "__supertype__", getattr(hint, "__value__", arguments and arguments[0])), what)
    if isinstance(hint, Hashable) and hint in _SIMPLE:
        return _SIMPLE[hint]()
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_of(each, what) for each in arguments])
    if origin is list:
        return st.lists(_of(arguments[0], what), max_size=ITEMS_MAX)
    if origin is dict:
        return st.dictionaries(_of(arguments[0], what), _of(arguments[1], what), max_size=ITEMS_MAX)
    if origin is tuple:
        return _tuples(arguments, what)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _records(hint, what)
    return st.from_type(hint)


def _tuples(arguments: tuple[Any, ...], what: str) -> SearchStrategy[Any]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return st.lists(_of(arguments[0], what), max_size=ITEMS_MAX).map(tuple)
    return st.tuples(*(_of(each, what) for each in arguments if each != ()))


def _records(kind: type[Any], what: str) -> SearchStrategy[Any]:
    hints = hints_of(kind, what)
    drawn = {each.name: _of(hints[each.name], what) for each in dataclasses.fields(kind) if each.init}
    return st.builds(kind, **drawn)
