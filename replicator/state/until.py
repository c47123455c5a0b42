"""Until when an entry of a state is good, and whether it is over: by a time that is handed in, and no clock.

The time is a number (Unix time, in seconds) or a `datetime` with its offset from UTC; an entry that has none, or None,
is never over. Anything else is no time: such an entry stays on every node, and the primary's job says so.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

__all__ = ["NotATime", "is_over", "is_surely_over"]


class NotATime(ValueError):
    """What an entry has there cannot be compared with a time."""


def is_over(entry: Any, until: str | None, now: float) -> bool:
    """Whether an entry is over at `now` (Unix time, in seconds). `until`: the name of its attribute, or of its member
    if it is a dict; None: the entry itself is the time. Raises `NotATime`.
    """
    value = entry
    if until is not None:
        value = entry.get(until) if isinstance(entry, dict) else getattr(entry, until, None)
    if type(value) is float or type(value) is int:  # nearly all of them, of a million perhaps
        return value <= now
    ends_at = _ends_at(value)
    return ends_at is not None and ends_at <= now


def is_surely_over(entry: Any, until: str | None, now: float) -> bool:
    """The same for `apply`, which is to raise on no node: what has no time that can be compared is not over."""
    try:
        return is_over(entry, until, now)
    except NotATime:
        return False


def _ends_at(value: Any) -> float | None:
    if isinstance(value, datetime) and value.tzinfo is not None:  # without an offset it is another time on each machine
        return value.timestamp()
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise NotATime(f"{value!r:.80} is no time: a number of Unix seconds, a datetime with its offset, or None")
    return value
