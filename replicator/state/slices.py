"""Cuts what there is many of into pieces of a snapshot, so that encoding one does not hold the interpreter for long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["PIECE_BYTES", "slices"]

#: About so much JSON in a piece: see `ReplicatedState.snapshot`. One entry that is larger is a piece by itself.
PIECE_BYTES = 64 * 1024

EntryT = TypeVar("EntryT")


def slices(sized: Iterable[tuple[EntryT, int]]) -> Iterator[list[EntryT]]:
    """The entries, each with about how many bytes it has, in lists of at most `PIECE_BYTES`, in their order.

    By the sizes of the entries alone, so equal states are cut at the same places.
    """
    some: list[EntryT] = []
    size = 0
    for entry, entry_bytes in sized:
        if some and size + entry_bytes > PIECE_BYTES:
            yield some
            some, size = [], 0
        some.append(entry)
        size += entry_bytes
    if some:
        yield some
