"""Entries in parts, each a dict: what a snapshot shares with a state that moves on.

A copy of one large dict takes milliseconds in which nobody else has the interpreter, and so does giving it up: each
entry is touched. Here a snapshot takes the list of the parts, and the first change of a part after it is made in a copy
of that part. Which entry is in which part is up to the subclass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["CopyOnWrite"]

K = TypeVar("K")
V = TypeVar("V")


class CopyOnWrite(Generic[K, V]):
    """The parts, by number. They are read as they are, and changed as `_to_change` gives them."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[K, V]] = {}
        #: The parts that no snapshot has.
        self._own: set[int] = set()

    def _shared(self) -> Iterator[tuple[K, V]]:
        """All entries as they are now, part by part, drawn later: a snapshot."""
        self._own = set()
        return _drawn(list(self._parts.values()))

    def _to_change(self, number: int) -> dict[K, V]:
        """A part that is there, or a new one."""
        if number not in self._own:
            shared = self._parts.get(number)
            self._parts[number] = {} if shared is None else shared.copy()
            self._own.add(number)
        return self._parts[number]

    def _drop(self, number: int) -> None:
        del self._parts[number]
        self._own.discard(number)

    def clear(self) -> None:
        self._parts, self._own = {}, set()


def _drawn(parts: list[dict[K, V]]) -> Iterator[tuple[K, V]]:
    """What is drawn is given up, a part at a time: the state may have replaced it meanwhile."""
    parts.reverse()
    while parts:
        yield from parts.pop().items()
