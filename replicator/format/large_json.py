"""Reading a large JSON document without keeping the interpreter from others for longer than a slice takes.

`orjson.loads` of 80 MB holds the interpreter for half a second. Most of such a document is in a few containers at its
top: an object of records, a list. They are cut into slices, and each slice is decoded for itself.

A cut needs no parser of its own. JSON is read from left to right, and in one way. So if a slice that begins where a
member begins is a whole object once it is put into braces, then it ends where a member ends: had it ended within a
string, or deeper inside, the brace would not have closed it. The same goes for elements and brackets. A cut is thus
guessed by what the values of a container end with, and orjson says whether it was one.

Whether a container is small is looked at first, in a window that doubles: so what is looked at in vain is in proportion
to what was there, and many small containers cost no guesses.

What is not as usual (many members at the top, one record of megabytes, no object at all, an error) is decoded in one
go: the answer, and the error, are always those of `orjson.loads`. So each slice is decoded within a list: it is then as
deep as it was in the document, and orjson refuses what is too deep.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import orjson

__all__ = ["SLICED_FROM_BYTES", "loads"]

#: Below this, all of it takes a few milliseconds.
SLICED_FROM_BYTES = 512 * 1024

#: A slice is a little longer. It takes a fraction of a millisecond.
SLICE_BYTES = 64 * 1024

#: A container that ends within a slice is found in a window of so many bytes, or of twice, four times, ... as many.
WINDOW_BYTES = 1024

#: A document of more members at its top has most of them small, or means harm: finding each would cost more than orjson
#: needs for all.
MEMBERS_MAX = 64

#: Guesses of where a slice may end, and how far they are looked for. Records have objects of their own.
GUESSES = 8
GUESS_WITHIN_BYTES = 256 * 1024

#: The rest of a container, which no cut ends, is looked for within this: more than a slice and all guesses.
REST_BYTES = 1024 * 1024

SPACE = re.compile(rb"[ \t\n\r]*")
NAME = re.compile(rb'("(?:[^"\\]|\\.){0,1000}")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
SCALAR = re.compile(rb'"(?:[^"\\]|\\.){0,65536}"|[-+.0-9A-Za-z]{1,1000}', re.DOTALL)

#: Where a cut may be, by how the first value of a container begins.
ENDS = {
    b"{": re.compile(rb"\}[ \t\n\r]*(,)"),
    b"[": re.compile(rb"\][ \t\n\r]*(,)"),
    b'"': re.compile(rb'"[ \t\n\r]*(,)'),
}
ANY_END = re.compile(rb"(,)")

#: It only finds where a value ends: what the value is, orjson says.
_extent = json.JSONDecoder().raw_decode

Body = bytes | bytearray


class _Unusual(Exception):
    """It cannot be cut, or it is no JSON."""


def loads(body: Body, pause: Callable[[], None]) -> Any:
    """What `orjson.loads` gives, and raises. `pause` is called again and again while a large document is decoded."""
    if len(body) < SLICED_FROM_BYTES:
        return orjson.loads(body)
    try:
        return _document(body, pause)
    except (_Unusual, orjson.JSONDecodeError, RecursionError):
        return orjson.loads(body)


def _document(body: Body, pause: Callable[[], None]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    at = _after(body, _spaces(body, 0), b"{")
    for _ in range(MEMBERS_MAX):
        name = NAME.match(body, at)
        if name is None:
            raise _Unusual
        document[orjson.loads(name[1])], at = _value(body, name.end(), pause)
        at = _spaces(body, at)
        if body[at : at + 1] == b"}":
            if _spaces(body, at + 1) != len(body):
                raise _Unusual
            return document
        at = _after(body, at, b",")
    raise _Unusual


def _value(body: Body, at: int, pause: Callable[[], None]) -> tuple[Any, int]:
    """The value that begins there, and where it has ended."""
    begins = body[at : at + 1]
    if begins in (b"{", b"["):
        length = _length(b"", body, at, WINDOW_BYTES, SLICE_BYTES)
        if length is not None:
            return _decoded(body[at : at + length]), at + length
        return _object(body, at, pause) if begins == b"{" else _list(body, at, pause)
    scalar = SCALAR.match(body, at)
    if scalar is None:
        raise _Unusual
    return orjson.loads(scalar[0]), scalar.end()


def _object(body: Body, at: int, pause: Callable[[], None]) -> tuple[dict[str, Any], int]:
    start = _spaces(body, at + 1)
    name = NAME.match(body, start)
    slices = _Slices(body, start, b"{}", first_value_at=name.end() if name else start)
    found: dict[str, Any] = {}
    while (members := slices.take()) is not None:
        found.update(members)
        pause()
    return found, slices.at


def _list(body: Body, at: int, pause: Callable[[], None]) -> tuple[list[Any], int]:
    start = _spaces(body, at + 1)
    slices = _Slices(body, start, b"[]", first_value_at=start)
    found: list[Any] = []
    while (elements := slices.take()) is not None:
        found += elements
        pause()
    return found, slices.at


class _Slices:
    """Takes a container apart. `at`: where the next slice begins; in the end, where the container has ended."""

    def __init__(self, body: Body, start: int, brackets: bytes, *, first_value_at: int) -> None:
        self._body = body
        self._opens, self._closes = brackets[:1], brackets[1:]
        self._ends = ENDS.get(bytes(body[first_value_at : first_value_at + 1]), ANY_END)
        self._is_first = True
        self._is_over = False
        self.at = start

    def take(self) -> Any:
        """What is in the next slice: a part of the container; None if there is no more."""
        if self._is_over:
            return None
        part = self._cut()
        if part is None:
            part = self._rest()
            self._is_over = True
        # A comma with nothing before it, or after it, is no JSON.
        if not part and not (self._is_first and self._is_over):
            raise _Unusual
        self._is_first = False
        return part

    def _cut(self) -> Any:
        """A slice; None if none of the guesses is one."""
        from_ = self.at + SLICE_BYTES
        for _ in range(GUESSES):
            end = self._ends.search(self._body, from_, self.at + SLICE_BYTES + GUESS_WITHIN_BYTES)
            if end is None:
                return None
            from_ = end.end()
            try:
                part = _decoded(self._opens + self._body[self.at : end.start(1)] + self._closes)
            except (orjson.JSONDecodeError, _Unusual):
                continue
            self.at = _spaces(self._body, from_)
            return part
        return None

    def _rest(self) -> Any:
        """All that is left of the container, up to its end."""
        length = _length(self._opens, self._body, self.at, SLICE_BYTES, REST_BYTES)
        if length is None:
            raise _Unusual
        start, self.at = self.at, self.at + length - len(self._opens)
        return _decoded(self._opens + self._body[start : self.at])


def _length(opens: bytes, body: Body, at: int, size: int, size_max: int) -> int | None:
    """How long the container is that `opens` and what is at that place begin; None if it does not end within
    `size_max`. It is looked for in `size` bytes, in twice as many, and so on.
    """
    while size <= size_max:
        # As Latin-1 each byte is a character, so the places are the same.
        with contextlib.suppress(ValueError):  # it ends later, or never
            _, end = _extent((opens + body[at : at + size]).decode("latin-1"))
            return end
        if at + size >= len(body):
            return None
        size *= 2
    return None


def _decoded(container: Body) -> Any:
    """A container at the top of a document, or a part of one in its brackets, at the depth that it has there."""
    found = orjson.loads(b"[" + container + b"]")
    if len(found) != 1:  # a slice that closed its brackets and opened others: `"a":1},{"b":2`
        raise _Unusual
    return found[0]


def _spaces(body: Body, at: int) -> int:
    """Where the next one begins that is no white space."""
    found = SPACE.match(body, at)
    assert found is not None  # it matches none, too
    return found.end()


def _after(body: Body, at: int, expected: bytes) -> int:
    """Past this byte, and the white space after it."""
    if body[at : at + 1] != expected:
        raise _Unusual
    return _spaces(body, at + 1)
