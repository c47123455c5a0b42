"""A class whose methods are the changes of a state: typed, checked before anything is written, written down as JSON.

    @dataclass(frozen=True)
    class Flag:
        on: bool
        percent: int = 100

    @dataclass
    class FlagState(Commands):
        flags: dict[str, Flag] = field(default_factory=dict)

        @change
        def set_flag(self, name: str, on: bool, percent: int = 100) -> Flag:
            flag = self.flags[name] = Flag(on, percent)
            return flag

    flag = node.submit(FlagState.set_flag("dark-mode", on=True))

- **Of the class, `set_flag` makes a change**: a `Change` with all arguments in it, checked. What does not fit is an
  `InvalidChange` there, before anything is written. **Of an object it carries one out, inside of `apply` alone**:
  called anywhere else it would change one copy of the state, and is refused (`NotSubmitted`).
- **Defaults are written down**, so a record means the same when the code has another default. A call that gets one gets
  a copy of its own.
- **`apply` checks again**: a change that this code does not know, and arguments that do not fit, are `InvalidChange`,
  which is a rejection: recorded, the same on every node, and nothing moved. A method says no by raising
  `ChangeRejected` *before* it moves anything; nothing is undone. Any other exception is a bug, and stalls the node.
- **`snapshot` and `restore` follow from the fields** of a dataclass: `fields.py`. They can be overridden.

`changes.py` has the form in the log; `conversion.py` the types that arguments and fields may have.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import orjson

from ..errors import ChangeTooLarge, ConfigError, InvalidChange, NotJSON, NotSubmitted
from .changes import Change, checked_change, named
from .conversion import converter_of, hints_of
from .converters import Converter, decoded_members
from .fields import Fields, fields_of

__all__ = ["ChangeMethod", "Commands", "change"]

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

#: What `Commands` has itself: no change can be called that.
_RESERVED = ("apply", "check", "snapshot", "restore", "check_pieces", "checked", "result_to_json", "result_from_json")


class ChangeMethod(Generic[P, ResultT]):
    """A method that is a change: see this module."""

    def __init__(self, function: Callable[..., ResultT]) -> None:
        functools.update_wrapper(self, function)
        del self.__dict__["__wrapped__"]  # what a caller gives is told by the next line, and not by the function
        self.__signature__ = self._signature = _signature_of(function)
        self._function = function
        self.name = function.__name__
        self._owner = function.__qualname__.rpartition(".")[0].rpartition(".")[2]

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> ChangeMethod[P, ResultT]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> Callable[P, ResultT]: ...
    def __get__(self, instance: object, owner: type[Any]) -> Any:
        return self if instance is None else MethodType(self._carried_out, instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Change[ResultT]:
        """The change, with all its arguments. Raises `InvalidChange`, `NotJSON` and `ChangeTooLarge`."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidChange("{change}: {error}", change=self.name, error=error) from None
        return self._written(bound.arguments)

    def rewritten(self, arguments: Any) -> Change[ResultT]:
        """The change with these arguments, as JSON has them. Raises what a call raises."""
        return self._written(self._decoded(arguments))

    def carry_out(self, state: Any, arguments: Any) -> ResultT:
        """Call the method with these arguments, as JSON has them. Raises `InvalidChange`, and what the method does."""
        return self._called(state, self._decoded(arguments))

    def result_to_json(self, result: Any) -> Any:
        """What JSON has for what the method gave, by the type that it says it gives. Raises `InvalidChange`."""
        return result if self._result is None else self._result.encode(result, "result")

    def result_from_json(self, value: Any) -> Any:
        """The inverse."""
        return value if self._result is None else self._result.decode(value, "result")

    @functools.cached_property
    def _result(self) -> Converter | None:
        """None: it does not say what it gives, or a type that cannot be written down."""
        setting = f"{self._owner}.{self.name}"
        try:
            return converter_of(hints_of(self._function, setting)["return"], setting)
        except (KeyError, ConfigError):
            return None

    def check(self) -> None:
        """Raises `ConfigError` if an argument has no type that can be written down, or a default that is not of it."""
        _ = self._converters, self._defaults

    def _carried_out(self, state: Any, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        if not state._is_applying:
            raise NotSubmitted(change=self.name, owner=type(state).__name__)
        return self._called(state, self._signature.bind(*args, **kwargs).arguments)

    def _called(self, state: Any, given: dict[str, Any]) -> ResultT:
        if len(given) < len(self._converters):
            given |= self._defaults_but(given)
        return self._function(state, **given)

    def _written(self, given: dict[str, Any]) -> Change[ResultT]:
        encoded = {name: self._converters[name].encode(value, name) for name, value in given.items()}
        arguments = {**self._defaults, **encoded}
        return checked_change(self.name, {name: arguments[name] for name in self._converters})

    def _defaults_but(self, given: dict[str, Any]) -> dict[str, Any]:
        """Those of what was not given, made anew for each call: a method may keep one, and change it later."""
        left_out = [(name, default) for name, default in self._defaults.items() if name not in given]
        return {name: self._converters[name].decode(_copied(default), name) for name, default in left_out}

    def _decoded(self, arguments: Any) -> dict[str, Any]:
        if not isinstance(arguments, dict):
            raise InvalidChange("{change} must have an object of its arguments", field=self.name, change=self.name)
        return decoded_members(arguments, self._converters, self._needed)

    @functools.cached_property
    def _converters(self) -> dict[str, Converter]:
        # When it is first used, because annotations may name what stands below in the module.
        setting = f"{self._owner}.{self.name}"
        hints = hints_of(self._function, setting)
        for name in self._signature.parameters:
            if name not in hints:
                raise ConfigError(setting=setting, problem=f"give {name} a type")
        return {name: converter_of(hints[name], f"{setting}: {name}") for name in self._signature.parameters}

    @functools.cached_property
    def _defaults(self) -> dict[str, Any]:
        """As JSON, in which nobody changes anything: what the code has is one object for all calls."""
        parameters = self._signature.parameters.values()
        found = {each.name: each.default for each in parameters if each.default is not each.empty}
        try:
            written = {name: self._converters[name].encode(default, name) for name, default in found.items()}
            return dict(checked_change(self.name, written)[self.name])
        except (InvalidChange, NotJSON, ChangeTooLarge) as error:
            problem = f"a default is not of its type: {error}"
            raise ConfigError(setting=f"{self._owner}.{self.name}", problem=problem) from None

    @functools.cached_property
    def _needed(self) -> tuple[str, ...]:
        return tuple(name for name in self._signature.parameters if name not in self._defaults)


def _copied(json: Any) -> Any:
    return orjson.loads(orjson.dumps(json))


def change(function: Callable[Concatenate[Any, P], ResultT]) -> ChangeMethod[P, ResultT]:
    """Make a method of a `Commands` class a change, by its own name. Raises `ConfigError` if it cannot be one."""
    return ChangeMethod(function)


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """What a caller gives: without `self`. Every argument has a name in the log, so `*args` is none."""
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigError(setting=function.__qualname__, problem="a change is a plain method: not async, no `yield`")
    signature = inspect.signature(function)
    if not signature.parameters:
        raise ConfigError(setting=function.__qualname__, problem="a change is a method: it takes self")
    _, *parameters = signature.parameters.values()
    for each in parameters:
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise ConfigError(setting=function.__qualname__, problem=f"every argument has a name: {each} has none")
    return signature.replace(parameters=parameters)


class Commands:
    """The base of a state whose changes are its methods: see this module.

    A subclass is a dataclass whose fields have the types that `fields.py` takes, or has its own `snapshot` and
    `restore`. `ConfigError` is raised when one is made that is neither.
    """

    #: Whether `apply` runs: only then a method that is a change may be called.
    _is_applying = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        _plan_of(cls)
        return super().__new__(cls)

    def apply(self, change: Any) -> Any:
        """See `State`: `{"set_flag": {"name": ..., "on": ...}}` calls `set_flag`, and gives what that gave.

        Raises `InvalidChange`, and what the method raises.
        """
        name, arguments = named(change)
        method = _plan_of(type(self)).method(name)
        before, self._is_applying = self._is_applying, True
        try:
            return method.carry_out(self, arguments)
        finally:
            self._is_applying = before

    def result_to_json(self, change: Any, result: Any) -> Any:
        """See `TypedResults`: by the type that the method says it gives."""
        return _plan_of(type(self)).method(named(change)[0]).result_to_json(result)

    def result_from_json(self, change: Any, value: Any) -> Any:
        """See `TypedResults`."""
        return _plan_of(type(self)).method(named(change)[0]).result_from_json(value)

    @classmethod
    def checked(cls, change: Any) -> Change[Any]:
        """A change that somebody sent as JSON, checked, with its defaults. Raises what a change that is made raises."""
        name, arguments = named(change)
        return _plan_of(cls).method(name).rewritten(arguments)

    def snapshot(self) -> Iterator[dict[str, Any]]:
        """See `State`, and `fields.py`."""
        return _plan_of(type(self)).fields.pieces(self)

    def restore(self, pieces: Iterable[Any]) -> None:
        """See `State`, and `fields.py`. Raises `InvalidChange` at a piece that does not fit the fields."""
        _plan_of(type(self)).fields.restore(self, pieces)

    def check_pieces(self, pieces: Iterable[Any]) -> None:
        """See `CheckedState`: an object of its own is restored. A class that does both by itself says nothing."""
        plan = _plan_of(type(self))
        if not plan.has_fields:
            return
        tried = type(self)()
        try:
            tried.restore(pieces)
        finally:
            plan.fields.give_up(tried)


class _Plan:
    """What there is to know of a class. Raises `ConfigError` if it is none that can be a state."""

    def __init__(self, kind: type[Any]) -> None:
        found = {name: each for base in reversed(kind.__mro__) for name, each in vars(base).items()}
        self.methods = {name: each for name, each in found.items() if isinstance(each, ChangeMethod)}
        self._kind = kind
        for name, method in self.methods.items():
            if name in _RESERVED or name != method.name:
                raise ConfigError(setting=f"{kind.__name__}.{name}", problem="give the change the name of its method")
            method.check()
        #: Whether its snapshot, or the restore of one, follows from its fields.
        self.has_fields = kind.snapshot is Commands.snapshot or kind.restore is Commands.restore
        if self.has_fields:
            _ = self.fields

    @functools.cached_property
    def fields(self) -> Fields:
        if not dataclasses.is_dataclass(self._kind):
            problem = "make it a @dataclass, or give it a snapshot() and a restore()"
            raise ConfigError(setting=self._kind.__name__, problem=problem)
        return fields_of(self._kind)

    def method(self, name: str) -> ChangeMethod[..., Any]:
        if (method := self.methods.get(name)) is None:
            kind = self._kind.__name__
            raise InvalidChange("{kind} has no change {name!r:.100}", field=name, kind=kind, name=name)
        return method


def _plan_of(kind: type[Any]) -> _Plan:
    plan: _Plan | None = vars(kind).get("_plan")
    if plan is None:
        plan = kind._plan = _Plan(kind)
    return plan
