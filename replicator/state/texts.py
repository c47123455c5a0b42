"""Times, days, UUIDs and decimal numbers: what JSON has no form for is text.

Whoever sends a change can send any text, and every node decodes it. So a value is taken only if all nodes take it, as
the same value, and a method can use it as values of its type are used:

- **One text a value**: the one that is written for it. What else the readers of Python take (weeks, digits of other
  scripts, braces) depends on its version. Of times that of JavaScript is taken as well: milliseconds, and `Z`.
- **No NaN, no infinity**, and no exponent that makes an integer of a megabyte: a comparison with the one raises, and a
  product of the others.
- **A time has its offset from UTC**: one without cannot be compared with one that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from uuid import UUID

from .converters import Converter, refuse

__all__ = ["Text", "is_text_type"]

#: Digits before the point, or places after it: those of the largest decimal numbers of IEEE 754. Products of many such
#: are far from what `decimal` raises `Overflow` at.
DECIMAL_EXPONENT_MAX = 6144


class _Kind(NamedTuple):
    """`forms`: the texts of a value; the first is written. `problem`: what is wrong with a value; empty: nothing."""

    read: Callable[[str], Any]
    forms: Callable[[Any], tuple[str, ...]]
    problem: Callable[[Any], str] = lambda value: ""


def _forms_of_time(value: datetime) -> tuple[str, ...]:
    written, short = value.isoformat(), value.isoformat(timespec="milliseconds")
    return written, short, *(each.removesuffix("+00:00") + "Z" for each in (written, short) if each.endswith("+00:00"))


def _problem_of_time(value: datetime) -> str:
    if value.utcoffset() is None:
        return "must have an offset from UTC: 2026-01-31T09:00:00+00:00"
    try:
        value.astimezone(UTC)
    except OverflowError:
        return "must be in the years 1 to 9999 in UTC"
    return ""


def _problem_of_decimal(value: Decimal) -> str:
    if not value.is_finite():
        return "must be a finite number"
    exponent = value.as_tuple().exponent
    if max(abs(value.adjusted()), abs(int(exponent))) > DECIMAL_EXPONENT_MAX:
        return f"must be a number of at most {DECIMAL_EXPONENT_MAX} digits before and after the point"
    return ""


_KINDS: dict[type, _Kind] = {
    datetime: _Kind(datetime.fromisoformat, _forms_of_time, _problem_of_time),
    date: _Kind(date.fromisoformat, lambda value: (value.isoformat(),)),
    UUID: _Kind(UUID, lambda value: (str(value),)),
    Decimal: _Kind(Decimal, lambda value: (str(value),), _problem_of_decimal),
}


def is_text_type(kind: type) -> bool:
    return kind in _KINDS


class Text(Converter):
    """One of the types above."""

    kinds = frozenset({str})

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._read, self._forms, self._problem = _KINDS[kind]

    def decode(self, value: Any, path: str) -> Any:
        if type(value) is not str:
            refuse(path, f"must be the text of a {self._kind.__name__}")
        try:
            read = self._read(value)
        except (ValueError, InvalidOperation):
            refuse(path, f"must be the text of a {self._kind.__name__}")
        self._check(read, path)
        if value not in (forms := self._forms(read)):
            refuse(path, f"must be written as {forms[0]}")
        return read

    def encode(self, value: Any, path: str) -> Any:
        if type(value) is not self._kind:
            refuse(path, f"must be a {self._kind.__name__}")
        self._check(value, path)
        return self._forms(value)[0]

    def _check(self, value: Any, path: str) -> None:
        if problem := self._problem(value):
            refuse(path, problem)
