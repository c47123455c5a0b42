"""Converters: what one type has in JSON, and back. Whatever does not fit is refused, with the path of it.

`conversion.py` has the rules, and makes them of annotations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import ChangeRejected, ConfigError, InvalidChange

__all__ = [
    "Anything",
    "Converter",
    "Dict",
    "FixedTuple",
    "Float",
    "List",
    "OneOf",
    "Plain",
    "Record",
    "Tuple",
    "Union",
    "decoded_members",
    "refuse",
    "refuse_made",
]

#: What every JSON encoder of ours writes down exactly.
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1

#: The kinds of JSON values, as Python decodes them, and what a message calls them.
_KIND_NAMES: dict[type, str] = {
    type(None): "null",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def refuse(path: str, problem: str) -> NoReturn:
    """Raise `InvalidChange` for the value at this path (`flag.percent`)."""
    raise InvalidChange("{path} {problem}", field=path, path=path, problem=problem)


def refuse_made(path: str, error: Exception, *, by: type[Exception] = ValueError) -> NoReturn:
    """Raise `InvalidChange` for what the class of a value raised when one was made of what somebody sent.

    Whatever it raised: a check that stumbles over hostile input is a check all the same, and would stall every node.
    `by`: what such a class raises on purpose, with a text that says it all.
    """
    if isinstance(error, ChangeRejected | MemoryError | RecursionError):
        raise error  # it says itself what is wrong; or it is this node that ran short, and no other one
    refuse(path, f"is refused: {error}" if isinstance(error, by) else f"is refused: {type(error).__name__}: {error}")


class Converter(ABC):
    """Of one type."""

    #: The kinds of JSON that its values are.
    kinds: frozenset[type]
    #: None, or what of it can be changed in place, so that a snapshot that is drawn later would show it changed.
    mutable: str | None = None

    @abstractmethod
    def decode(self, value: Any, path: str) -> Any:
        """The value of decoded JSON. Raises `InvalidChange`."""

    @abstractmethod
    def encode(self, value: Any, path: str) -> Any:
        """What JSON has for a value. Raises `InvalidChange`: this is where an argument is checked first."""


# --- Values without parts ---------------------------------------------------------------------------------------------


class Anything(Converter):
    """Any JSON. Whether it is JSON, the codec checks."""

    kinds = frozenset(_KIND_NAMES)
    mutable = "Any"

    def decode(self, value: Any, path: str) -> Any:
        return value

    def encode(self, value: Any, path: str) -> Any:
        return value


class Plain(Converter):
    """A text, an integer, true or false, or null: in JSON what it is in Python."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self.kinds = frozenset({kind})

    def decode(self, value: Any, path: str) -> Any:
        if type(value) is not self._kind:
            refuse(path, f"must be {_KIND_NAMES[self._kind]}")
        if isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
            refuse(path, "must be an integer of at most 64 bits")
        return value

    def encode(self, value: Any, path: str) -> Any:
        return self.decode(value, path)


class Float(Converter):
    kinds = frozenset({float, int})

    def decode(self, value: Any, path: str) -> Any:
        if type(value) not in (float, int):
            refuse(path, "must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            refuse(path, "must be a finite number")
        return number

    encode = decode


class OneOf(Converter):
    """`Literal`, or an `Enum` by its values. `members`: what JSON has, and what Python has for it."""

    def __init__(self, members: Sequence[tuple[Any, Any]], what: str) -> None:
        for value, _ in members:
            if type(value) not in (str, int, bool, type(None)):
                raise ConfigError(setting=what, problem=f"{value!r} is no text, integer, true, false or null")
        self.kinds = frozenset(type(value) for value, _ in members)
        # By type as well: 1 and true are equal in Python.
        self._decoded = {(type(value), value): member for value, member in members}
        self._encoded = {(type(member), member): value for value, member in members}
        self._problem = f"must be one of {', '.join(repr(value) for value, _ in members)}"

    def decode(self, value: Any, path: str) -> Any:
        return self._found(self._decoded, value, path)

    def encode(self, value: Any, path: str) -> Any:
        return self._found(self._encoded, value, path)

    def _found(self, among: dict[tuple[type, Any], Any], value: Any, path: str) -> Any:
        try:
            return among[type(value), value]
        except (KeyError, TypeError):
            refuse(path, self._problem)


# --- Values with parts ------------------------------------------------------------------------------------------------


class List(Converter):
    kinds = frozenset({list})
    mutable = "a list"

    def __init__(self, element: Converter) -> None:
        self.element = element

    def decode(self, value: Any, path: str) -> Any:
        if type(value) is not list:
            refuse(path, "must be a list")
        return [self.element.decode(each, f"{path}[{place}]") for place, each in enumerate(value)]

    def encode(self, value: Any, path: str) -> Any:
        if type(value) is not list:
            refuse(path, "must be a list")
        return [self.element.encode(each, f"{path}[{place}]") for place, each in enumerate(value)]


class Dict(Converter):
    """Keys that are integers are their digits in JSON."""

    kinds = frozenset({dict})
    mutable = "a dict"

    def __init__(self, key: type, value: Converter) -> None:
        self._key = key
        self.value = value

    def decode(self, value: Any, path: str) -> Any:
        if type(value) is not dict:
            refuse(path, "must be an object")
        return {self._decoded_key(key, path): self.value.decode(each, f"{path}.{key}") for key, each in value.items()}

    def encode(self, value: Any, path: str) -> Any:
        if type(value) is not dict:
            refuse(path, "must be a dict")
        return {self.encoded_key(key, path): self.value.encode(each, f"{path}.{key}") for key, each in value.items()}

    def encoded_key(self, key: Any, path: str) -> str:
        if type(key) is not self._key:
            refuse(path, f"must have keys of type {self._key.__name__}, and not {key!r:.100}")
        if type(key) is int and not INTEGER_MIN <= key <= INTEGER_MAX:
            refuse(path, "must have integers of at most 64 bits as keys")
        return str(key)

    def _decoded_key(self, key: str, path: str) -> Any:
        if self._key is str:
            return key
        try:
            number = int(key)
        except ValueError:  # how many digits it takes is a setting of the process
            refuse(path, f"must have integers as keys, and not {key!r:.100}")
        if not INTEGER_MIN <= number <= INTEGER_MAX or str(number) != key:  # " 1" and "01" would be one with "1"
            refuse(path, f"must have integers as keys, and not {key!r:.100}")
        return number


class Tuple(Converter):
    """`tuple[T, ...]`: a list in JSON."""

    kinds = frozenset({list})

    def __init__(self, element: Converter) -> None:
        self._element = element
        self.mutable = element.mutable

    def decode(self, value: Any, path: str) -> Any:
        if type(value) is not list:
            refuse(path, "must be a list")
        return tuple(self._element.decode(each, f"{path}[{place}]") for place, each in enumerate(value))

    def encode(self, value: Any, path: str) -> Any:
        if type(value) is not tuple:
            refuse(path, "must be a tuple")
        return [self._element.encode(each, f"{path}[{place}]") for place, each in enumerate(value)]


class FixedTuple(Converter):
    """`tuple[A, B]`."""

    kinds = frozenset({list})

    def __init__(self, elements: list[Converter]) -> None:
        self._elements = elements
        self.mutable = _first_mutable(elements)

    def decode(self, value: Any, path: str) -> Any:
        self._check(value, list, path)
        return tuple(of.decode(value[place], f"{path}[{place}]") for place, of in enumerate(self._elements))

    def encode(self, value: Any, path: str) -> Any:
        self._check(value, tuple, path)
        return [of.encode(value[place], f"{path}[{place}]") for place, of in enumerate(self._elements)]

    def _check(self, value: Any, kind: type[list[Any]] | type[tuple[Any, ...]], path: str) -> None:
        if not isinstance(value, kind) or len(value) != len(self._elements):
            refuse(path, f"must be a {kind.__name__} of {len(self._elements)}")


class Union(Converter):
    def __init__(self, options: list[Converter], what: str) -> None:
        # An integer is an int where there is a choice.
        options = sorted(options, key=lambda option: float in option.kinds)
        self._by_kind: dict[type, Converter] = {}
        for option in options:
            kinds = option.kinds - {int} if float in option.kinds else option.kinds
            if taken := kinds & self._by_kind.keys():
                names = " and ".join(_KIND_NAMES[kind] for kind in taken)
                raise ConfigError(setting=what, problem=f"two members of a union are both {names} in JSON")
            self._by_kind |= {kind: option for kind in option.kinds if kind not in self._by_kind}
        self._options = options
        self.kinds = frozenset(self._by_kind)
        self.mutable = _first_mutable(options)

    def decode(self, value: Any, path: str) -> Any:
        option = self._by_kind.get(type(value))
        if option is None:
            refuse(path, f"must be {' or '.join(_KIND_NAMES[kind] for kind in _KIND_NAMES if kind in self.kinds)}")
        return option.decode(value, path)

    def encode(self, value: Any, path: str) -> Any:
        problems = []
        for option in self._options:
            try:
                return option.encode(value, path)
            except InvalidChange as problem:
                problems.append(str(problem.fields["problem"]))
        refuse(path, ", or ".join(problems))


class Record(Converter):
    """A dataclass: an object with a member for each field. `needed`: the fields without a default."""

    kinds = frozenset({dict})

    def __init__(self, kind: type, fields: Mapping[str, Converter], needed: Iterable[str], *, frozen: bool) -> None:
        self._kind = kind
        self._fields = fields
        self._needed = tuple(needed)
        self.mutable = _first_mutable(fields.values()) if frozen else f"{kind.__name__}, which is not frozen"

    def decode(self, value: Any, path: str) -> Any:
        if type(value) is not dict:
            refuse(path, "must be an object")
        members = decoded_members(value, self._fields, self._needed, path)
        try:
            return self._kind(**members)
        except Exception as error:  # of its own `__post_init__`
            refuse_made(path, error)

    def encode(self, value: Any, path: str) -> Any:
        if type(value) is not self._kind:
            refuse(path, f"must be a {self._kind.__name__}")
        return {name: of.encode(getattr(value, name), f"{path}.{name}") for name, of in self._fields.items()}


def decoded_members(
    value: dict[str, Any], converters: Mapping[str, Converter], needed: Iterable[str], path: str = ""
) -> dict[str, Any]:
    """The members of an object, decoded: those that it knows, and of them at least those that are needed."""
    prefix = f"{path}." if path else ""
    members = {}
    for name, member in value.items():
        if (converter := converters.get(name)) is None:
            refuse(f"{prefix}{name}", "is not known here")
        members[name] = converter.decode(member, f"{prefix}{name}")
    for name in needed:
        if name not in members:
            refuse(f"{prefix}{name}", "is missing")
    return members


def _first_mutable(converters: Iterable[Converter]) -> str | None:
    return next((converter.mutable for converter in converters if converter.mutable), None)
