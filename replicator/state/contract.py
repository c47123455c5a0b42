"""Whether an object is a state: asked when a node is made, so that a slip is named there and not met in a failover.

`isinstance(state, State)` asks for names only. A class has them, and so has an object whose `apply` is a coroutine
function, of which a call does nothing. And an `aply` makes a state of the other kind, without `apply`. So here methods
are looked at: that they are there, can be called as a node calls them, and do their work when they are called.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from replicator.errors import ConfigError

from . import KeptState

__all__ = ["at_version", "check_state", "takes_version"]

#: With how many arguments a node calls each.
_ARGUMENTS = {
    "snapshot": 0, "restore": 1, "apply": 1, "check": 1, "check_pieces": 1, "survived": 0, "published": 0,
    "result_to_json": 2, "result_from_json": 2,
}  # fmt: skip

_NEEDED = ("snapshot", "restore")

#: Those that are given the version of the group, if they have a parameter of that name.
_VERSIONED = ("snapshot", "restore", "apply", "check", "check_pieces")

#: A name as alike as this to the one that is missing is that one misspelt: `aply`, `Apply`, `restor`; not `supply`.
_ALIKE = 0.8


def check_state(state: object) -> None:
    """Raises `ConfigError`, which names the first thing that is wrong with it."""
    name = getattr(state, "__name__", None) if inspect.isclass(state) else type(state).__name__
    for problem in _problems(state, str(name)):
        raise ConfigError(setting="state", problem=problem)


def _problems(state: object, name: str) -> Iterator[str]:
    if inspect.isclass(state):
        yield f"{name} is a class: give an object, `{name}()`"
    for method in _NEEDED:
        if getattr(state, method, None) is None:
            yield f"{name} has no {method}(){_hint(state, method)}; see replicator.state"
    for method, arguments in _ARGUMENTS.items():
        found = getattr(state, method, None)
        if method == "check" and getattr(state, "apply", None) is None:
            continue  # nobody submits a change to it: it is the application's own
        if found is not None and (problem := _problem_of(found, method, arguments)):
            yield f"{method}() of {name} {problem}"
    if getattr(state, "apply", None) is None and not isinstance(state, KeptState):
        yield from _near_misses(state, name)


def _near_misses(state: object, name: str) -> Iterator[str]:
    """A state without `apply` is one on purpose, unless it has a name that is nearly that."""
    if alike := _alike(state, "apply"):
        yield f"{name} has no apply(), but {alike}(): is that it? If not, give that another name"
    for has, lacks in (("survived", "published"), ("published", "survived")):
        if hasattr(state, has):
            yield f"{name} has {has}() and no {lacks}(){_hint(state, lacks)}: one that outlives the process has both"


def _problem_of(found: Any, method: str, arguments: int) -> str:
    if not callable(found):
        return "is not a method"
    if _any(inspect.iscoroutinefunction, found) or _any(inspect.isasyncgenfunction, found):
        return "is async, and a node calls it from threads: make it a plain method"
    if method != "snapshot" and _any(inspect.isgeneratorfunction, found):
        return "has a `yield` in it, so calling it does nothing: make it a plain method"
    versions = {"version": 1} if method in _VERSIONED and takes_version(found) else {}
    try:
        inspect.signature(found).bind(*[None] * arguments, **versions)
    except TypeError as error:
        takes = {0: "no argument", 1: "one argument"}[arguments]
        return f"is called with {takes}: {error}"
    except ValueError:
        pass  # written in C: it does not say what it takes
    return ""


def takes_version(found: Any) -> bool:
    """Whether this callback (`_VERSIONED`) is to be told the group's version: it has a parameter `version`.

    The first parameter is not it, but of `snapshot`: that is the pieces, or the change.
    """
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):  # written in C: it does not say what it takes
        return False
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    of_call = 0 if getattr(found, "__name__", "") == "snapshot" else 1
    return any(each.name == "version" and each.kind in named for each in parameters[of_call:])


def at_version(found: Callable[..., Any], version: int) -> Callable[..., Any]:
    """This callback (`_VERSIONED`), which is told the version if it wants to know."""
    return partial(found, version=version) if takes_version(found) else found


def _any(asks: Callable[[Any], bool], found: Any) -> bool:
    """Of a function, or of an object that can be called like one."""
    return asks(found) or asks(getattr(found, "__call__", None))  # noqa: B004  # it is called by that very name


def _hint(state: object, method: str) -> str:
    alike = _alike(state, method)
    return f", but {alike}(): is that it?" if alike else ""


def _alike(state: object, method: str) -> str:
    """The public name that is nearly `method`; empty if there is none, or that one itself."""
    names = [name for name in dir(state) if not name.startswith("_") and name not in _ARGUMENTS]
    known = {name.lower().rstrip("_"): name for name in names}
    found = difflib.get_close_matches(method, known, n=1, cutoff=_ALIKE) if not hasattr(state, method) else []
    return known[found[0]] if found else ""
