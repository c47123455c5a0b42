"""Reading a large JSON document without keeping the interpreter from others for longer than a slice takes.

`orjson.loads` of 80 MB holds the interpreter for half a second. Most of such a document is in a few containers at its
top: an object of records, a list. They are cut into slices, and each slice is decoded for itself.

A cut needs no parser of its own. JSON is read from left to right, and in one way. So if a slice that begins where a
member begins is a whole object once it is put into braces, then it ends where a member ends: had it ended within a
string, or deeper inside, the brace would not have closed it. The same goes for elements and brackets. A cut is thus
guessed by what the values of a container end with, and orjson says whether it was one.

What is not as usual (one record of megabytes, no object at all, an error) is decoded in one go: the answer, and the
error, are always those of `orjson.loads`.
"""

from __future__ import annotations

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
    while True:
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


def _value(body: Body, at: int, pause: Callable[[], None]) -> tuple[Any, int]:
    """The value that begins there, and where it has ended."""
    begins = body[at : at + 1]
    if begins == b"{":
        return _object(body, at, pause)
    if begins == b"[":
        return _list(body, at, pause)
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
                part = orjson.loads(self._opens + self._body[self.at : end.start(1)] + self._closes)
            except orjson.JSONDecodeError:
                continue
            self.at = _spaces(self._body, from_)
            return part
        return None

    def _rest(self) -> Any:
        """All that is left of the container, up to its end."""
        window = self._opens + self._body[self.at : self.at + REST_BYTES]
        try:
            # As Latin-1 each byte is a character, so the places are the same.
            _, end = _extent(window.decode("latin-1"))
        except ValueError:
            raise _Unusual from None
        self.at += end - 1
        return orjson.loads(window[:end])


def _spaces(body: Body, at: int) -> int:
    """Where the next one begins that is no white space."""
    found = SPACE.match(body, at)
    assert found is not None  # it matches none, too
    return found.end()


def _after(body: Body, at: int, expected: bytes) -> int:
    """Past this byte, and the white space behind it."""
    if body[at : at + 1] != expected:
        raise _Unusual
    return _spaces(body, at + 1)
