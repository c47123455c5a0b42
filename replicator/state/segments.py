"""A dict of text in the order in which the keys came, in segments: what a snapshot shares with a state that moves on.

A copy of one dict of a million keys takes 30 ms in which nobody else has the interpreter, and so does giving it up:
each entry is touched. Here a snapshot takes the list of the segments, and the first change of a segment after it is
made in a copy of that segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .release import let_go

__all__ = ["KEYS_PER_SEGMENT", "Segments"]

#: A copy of a segment takes some microseconds, and a million keys have two thousand segments.
KEYS_PER_SEGMENT = 512

#: A dict keeps its room when keys go. A segment that has come down to so many is copied, which makes it small.
_SHRINKS_AT = frozenset({KEYS_PER_SEGMENT // 4, KEYS_PER_SEGMENT // 16, KEYS_PER_SEGMENT // 64})


class Segments:
    """The keys and what is held for each."""

    def __init__(self) -> None:
        #: Every key, in order, with the number of its segment.
        self._where: dict[str, int] = {}
        self._segments: dict[int, dict[str, Any]] = {0: {}}
        #: The segment that takes new keys.
        self._last = 0
        #: The segments that no snapshot has.
        self._own: set[int] = set()

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __getitem__(self, key: str) -> Any:
        return self._segments[self._where[key]][key]

    def update(self, entries: Mapping[str, Any]) -> None:
        """Set these keys: one that is there keeps its place, another one comes last."""
        where = self._where
        for key, held in entries.items():
            number = where.get(key)
            if number is None:
                number = where[key] = self._with_room()
            self._to_change(number)[key] = held

    def discard(self, key: str) -> bool:
        """Take a key away; whether it was there."""
        number = self._where.pop(key, None)
        if number is None:
            return False
        segment = self._to_change(number)
        del segment[key]
        if not segment and number != self._last:
            self._drop(number)
        elif len(segment) in _SHRINKS_AT:
            self._segments[number] = segment.copy()
        return True

    def shared(self) -> Iterator[tuple[str, Any]]:
        """All of them as they are now, drawn later: a snapshot."""
        self._own = set()
        return _drawn(list(self._segments.values()))

    def give_up(self) -> None:
        """Nobody has these any more, but for snapshots: let go of what is in them without holding anybody up."""
        let_go(self)

    # What `release.let_go` needs.

    def popitem(self) -> tuple[str, Any]:
        """Give up the last one. What a snapshot has of it stays there."""
        key, number = self._where.popitem()
        segment = self._to_change(number)
        held = segment.pop(key)
        if not segment and number != self._last:
            self._drop(number)
        return key, held

    def clear(self) -> None:
        self._where, self._segments, self._last, self._own = {}, {0: {}}, 0, set()

    def _drop(self, number: int) -> None:
        del self._segments[number]
        self._own.discard(number)

    def _with_room(self) -> int:
        if len(self._segments[self._last]) >= KEYS_PER_SEGMENT:
            self._last += 1
            self._segments[self._last] = {}
            self._own.add(self._last)
        return self._last

    def _to_change(self, number: int) -> dict[str, Any]:
        if number not in self._own:
            self._segments[number] = self._segments[number].copy()
            self._own.add(number)
        return self._segments[number]


def _drawn(segments: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """What is drawn is given up, a segment at a time: the state may have replaced it meanwhile."""
    segments.reverse()
    while segments:
        yield from segments.pop().items()
