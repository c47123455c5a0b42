"""A dict of text in the order in which the keys came, in segments that a snapshot shares (`copy_on_write.py`).

A copy of one dict of a million keys takes 30 ms in which nobody else has the interpreter, and so does giving it up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .copy_on_write import CopyOnWrite
from .release import let_go

__all__ = ["KEYS_PER_SEGMENT", "Segments"]

#: A copy of a segment takes some microseconds, and a million keys have two thousand segments.
KEYS_PER_SEGMENT = 512

#: A dict keeps its room when keys go. A segment that has come down to so many is copied, which makes it small.
_SHRINKS_AT = frozenset({KEYS_PER_SEGMENT // 4, KEYS_PER_SEGMENT // 16, KEYS_PER_SEGMENT // 64})


class Segments(CopyOnWrite[str, Any]):
    """The keys and what is held for each."""

    def __init__(self) -> None:
        super().__init__()
        #: Every key, in order, with the number of its segment.
        self._where: dict[str, int] = {}
        #: The segment that takes new keys.
        self._last = 0
        self._parts[0] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __getitem__(self, key: str) -> Any:
        return self._parts[self._where[key]][key]

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
            self._parts[number] = segment.copy()
        return True

    def shared(self) -> Iterator[tuple[str, Any]]:
        """All of them as they are now, drawn later: a snapshot."""
        return self._shared()

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
        super().clear()
        self._where, self._last = {}, 0
        self._parts[0] = {}

    def _with_room(self) -> int:
        if len(self._parts[self._last]) >= KEYS_PER_SEGMENT:
            self._last += 1
            self._to_change(self._last)
        return self._last
