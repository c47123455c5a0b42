"""Tells from the ends of a history (the last record of each of its terms) which records are in it.

Terms and numbers only grow along a history, so a record of term t is in it if and only if its n is not above the n at
which t ended there. Term records and complete snapshots carry the ends, so a node that follows a history, or is rebuilt
from a snapshot of it, knows them.
"""

from __future__ import annotations

from collections.abc import Iterable

from .ids import ZERO_ID, RecordId

__all__ = ["ENDS_KEPT", "left_behind", "parse_ends", "show_ends", "with_end"]

#: For how many terms a history keeps its ends. Nobody can tell any more whether an older record is in the history.
ENDS_KEPT = 100


def with_end(ends: tuple[RecordId, ...], last: RecordId) -> tuple[RecordId, ...]:
    """The ends after `last` has become one, without the oldest if they are too many."""
    return (*ends, last)[-ENDS_KEPT:]


def left_behind(id: RecordId, ends: Iterable[RecordId], last: RecordId, term: int) -> RecordId | None:
    """Where the history diverged from the one that has `id`; None if it has `id`, or may still get it.

    `ends` and `last` are those of the history so far; `term` is the one that it is in now.
    """
    if id.term >= term or id == ZERO_ID:
        return None  # every history has its beginning
    before = RecordId(0, 0)
    for end in (*ends, last):
        if end.term == id.term:
            return end if end.n < id.n else None
        if end.term > id.term:
            break
        before = end
    return before


def show_ends(ends: Iterable[RecordId]) -> str:
    """The ends as a header has them: `"1-7 5-1040"`, oldest first."""
    return " ".join(map(str, ends))


def parse_ends(text: str) -> tuple[RecordId, ...]:
    """The inverse of `show_ends`. Raises `ConfigError`."""
    return tuple(RecordId.parse(word) for word in text.split())
