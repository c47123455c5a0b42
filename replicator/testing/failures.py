"""What a helper of a test raises when the application, or the group, is not as the test says it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["CheckFailed", "difference", "shown"]

#: A text in a failure is cut there: a whole state tells nobody anything.
SHOWN_CHARS = 400


class CheckFailed(AssertionError):
    """The test failed; the message says at what, in words."""


def shown(value: Any) -> str:
    """A value as a failure quotes it."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]} ... ({len(text):,} characters)"


def difference(left: Any, right: Any, *, names: tuple[str, str], place: str = "") -> str:
    """In words, the first place at which two JSON values differ; empty: they are equal, down to the order of keys."""
    where = f"at {place}, " if place else ""
    if type(left) is not type(right):
        return f"{where}{names[0]} has {shown(left)}, and {names[1]} has {shown(right)}"
    if isinstance(left, dict):
        return _of_objects(left, right, names, place)
    if isinstance(left, Sequence) and not isinstance(left, str | bytes):
        return _of_lists(left, right, names, place)
    # By its text: 1 is not 1.0, and a NaN is itself.
    return (
        "" if repr(left) == repr(right) else f"{where}{names[0]} has {shown(left)}, and {names[1]} has {shown(right)}"
    )


def _of_objects(left: dict[Any, Any], right: dict[Any, Any], names: tuple[str, str], place: str) -> str:
    where = f"at {place}, " if place else ""
    for here, there, (has, lacks) in ((left, right, names), (right, left, names[::-1])):
        for key in here:
            if key not in there:
                return f"{where}{has} has {key!r}: {shown(here[key])}, and {lacks} has no {key!r}"
    for key, value in left.items():
        if found := difference(value, right[key], names=names, place=f"{place}[{key!r}]"):
            return found
    if list(left) != list(right):
        order = f"keys in the order {shown(list(left))}, and {names[1]} in the order {shown(list(right))}"
        return f"{where}{names[0]} has {order}"
    return ""


def _of_lists(left: Sequence[Any], right: Sequence[Any], names: tuple[str, str], place: str) -> str:
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        if found := difference(one, other, names=names, place=f"{place}[{number}]"):
            return found
    if len(left) == len(right):
        return ""
    number = min(len(left), len(right))
    has, lacks = names if len(left) > len(right) else names[::-1]
    return f"at {place}[{number}], {has} has {shown(max(left, right, key=len)[number])}, and {lacks} has no more"
