"""What goes through the queue: the values that JSON has, as a pickle.

RQ's tools and rq-dashboard take pickle where nobody names a serializer to them, and fail at anything else. But whoever
can write to Redis can write to the queue, and a pickle may have its reader import and call anything. So:

- What is written is what JSON would make of it: none, truth, numbers, text, lists, dicts with text for keys. As a
  pickle that imports and calls nothing, whoever reads it.
- What is read is read here, by the few opcodes of such values. Nothing in this module could import or call what a
  pickle names; any other opcode is refused before anything comes of it.
- A text may be named again, a list or a dict may not: so nothing contains itself, and few bytes do not become many.

What an earlier version wrote is JSON, and is read, too.
"""

from __future__ import annotations

import json
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

__all__ = ["BYTES_MAX", "AnswersInJSON", "NotPlain", "PlainPickle", "is_pickle", "read", "written"]

#: Of a result, or what is beside a job. (A call has its own, of `own_job.py`.) The worst of this size takes a second of
#: processor time and 80 MB; a result of ours has some kilobytes.
BYTES_MAX = 1024 * 1024

#: Lists and dicts in each other. A result of ours has five; what is recursive fails at a thousand.
DEPTH_MAX = 32

#: The first with frames and without numbers in the memo, which a reader would have to make room for.
_PROTOCOL = 4

#: A pickle of protocol 2 and later begins so; no JSON does.
_BEGINS = pickle.PROTO


class NotPlain(ValueError):
    """Is no plain value, or more than may be read."""


class PlainPickle:
    """For RQ, in the place of its serializer."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        """Raises `TypeError` for what JSON does not have."""
        return written(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        """Raises `NotPlain`."""
        return read(data)


class AnswersInJSON(PlainPickle):
    """For a job that was asked for in JSON, by an earlier version: that reads nothing else."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        """Raises `TypeError` for what JSON does not have."""
        return json.dumps(value).encode()


def written(value: Any) -> bytes:
    """A pickle of what JSON makes of a value: tuples are lists, keys are text. Raises `TypeError` for what it lacks."""
    return pickle.dumps(json.loads(json.dumps(value)), protocol=_PROTOCOL)


def is_pickle(data: bytes) -> bool:
    """Whether it says it is one. Else it is JSON, or nothing."""
    return data.startswith(_BEGINS)


def read(data: bytes) -> Any:
    """The value that was written so, or as JSON. Raises `NotPlain`."""
    if len(data) > BYTES_MAX:
        raise NotPlain(f"it has {len(data)} bytes, more than {BYTES_MAX}")
    try:
        value = _Reader().read(data) if is_pickle(data) else json.loads(data)
    except NotPlain:
        raise
    except (ValueError, RecursionError) as error:  # pickletools and json say no more than that
        raise NotPlain(f"it cannot be read ({error})") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        if not all(_is_text(each) for each in level if isinstance(each, str)):
            raise NotPlain("it has text that is none: half of a pair of UTF-16")
        level = [inner for each in level if isinstance(each, list | dict) for inner in _inside(each)]
        if not level:
            return
    raise NotPlain(f"it has more than {DEPTH_MAX} lists and dicts in each other")


def _is_text(text: str) -> bool:
    """Whether it can be shown and sent. JSON and pickle have texts that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _inside(value: list[Any] | dict[str, Any]) -> list[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value


class _Reader:
    """The machine of a pickle, as far as plain values need it: a stack, those below its marks, and the memo."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: list[Any] = []
        self._characters_left = BYTES_MAX

    def read(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            self._do(opcode.name, argument)
        if len(self._stack) != 1 or self._below:
            raise NotPlain("it ends with more or less than one value")
        return self._stack.pop()

    def _do(self, name: str, argument: Any) -> None:
        if name in _GIVEN:
            self._stack.append(argument)
        elif (make := _MADE.get(name)) is not None:
            self._stack.append(make())
        elif (gather := _GATHERED.get(name)) is not None:
            gather(self)
        elif name in ("BINGET", "LONG_BINGET"):
            self._again(argument)
        elif name not in _SAID:
            raise NotPlain(f"it has the opcode {name}")

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def memoize(self) -> None:
        self._memo.append(self.taken(1, keep=True)[0])

    def _again(self, number: int) -> None:
        text = self._memo[number] if number < len(self._memo) else None
        if not isinstance(text, str):
            raise NotPlain("it names something again that is no text")
        self._characters_left -= len(text)
        if self._characters_left < 0:
            raise NotPlain(f"it unpacks to more than {BYTES_MAX} characters")
        self._stack.append(text)

    def taken(self, count: int, *, keep: bool = False) -> list[Any]:
        """The uppermost values, the first of them below the others."""
        if len(self._stack) < count:
            raise NotPlain("it takes a value that is not there")
        values = self._stack[-count:]
        if not keep:
            del self._stack[-count:]
        return values

    def above_mark(self) -> list[Any]:
        if not self._below:
            raise NotPlain("it takes values from a mark that is not there")
        values, self._stack = self._stack, self._below.pop()
        return values

    def list_of(self, count: int) -> None:
        self._stack.append(self.taken(count))

    def list_above_mark(self) -> None:
        values = self.above_mark()
        self._stack.append(values)

    def extend(self, values: list[Any]) -> None:
        (into,) = self.taken(1, keep=True)
        if not isinstance(into, list):
            raise NotPlain("it appends to what is no list")
        into += values

    def update(self, values: list[Any]) -> None:
        (into,) = self.taken(1, keep=True)
        keys = values[::2]
        if not isinstance(into, dict) or len(values) % 2 or not all(isinstance(key, str) for key in keys):
            raise NotPlain("it sets in what is no dict, or by what is no text")
        into |= zip(keys, values[1::2], strict=True)


#: Opcodes whose argument is the value. Protocol 4 has no others for numbers and texts of this size.
_GIVEN = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"))

#: Those of a value of their own. A tuple is a list, as in JSON.
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": list,
    "EMPTY_DICT": dict,
}

#: Those that put values together.
_GATHERED: dict[str, Callable[[_Reader], None]] = {
    "MARK": _Reader.mark,
    "MEMOIZE": _Reader.memoize,
    "TUPLE1": lambda reader: reader.list_of(1),
    "TUPLE2": lambda reader: reader.list_of(2),
    "TUPLE3": lambda reader: reader.list_of(3),
    "TUPLE": _Reader.list_above_mark,
    "APPEND": lambda reader: reader.extend(reader.taken(1)),
    "APPENDS": lambda reader: reader.extend(reader.above_mark()),
    "SETITEM": lambda reader: reader.update(reader.taken(2)),
    "SETITEMS": lambda reader: reader.update(reader.above_mark()),
}

#: Those that say something about the pickle alone.
_SAID = frozenset(("PROTO", "FRAME", "STOP"))
