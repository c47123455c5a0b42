"""A function over the state, which is called while nothing is applied: it has to do all its work in that call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeVar

from ..errors import ConfigError

__all__ = ["check_function", "viewed"]

T = TypeVar("T")

_LATER = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)


def check_function(function: object) -> None:
    """Raises `ConfigError` for what cannot be called, or does its work only later."""
    if not callable(function):
        raise ConfigError(setting="view", problem=f"{function!r:.80} cannot be called")
    called = (function, getattr(function, "__call__", None))  # noqa: B004  # it is called by that very name
    if any(asks(each) for asks in _LATER for each in called):
        raise _works_later()


def viewed(function: Callable[[Any], T], state: Any) -> T:
    """What it makes of the state. Raises `ConfigError` if that is only begun."""
    result = function(state)
    if isinstance(result, CoroutineType | GeneratorType):
        result.close()
        raise _works_later()
    if isinstance(result, AsyncGeneratorType):
        raise _works_later()
    return result


def _works_later() -> ConfigError:
    problem = "the function is async, or a generator: it would read the state when others change it. Give a plain one"
    return ConfigError(setting="view", problem=problem)
