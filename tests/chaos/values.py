"""The state of the nodes: an append-only list of texts, with a digest of all that is in it.

Equal digests of equal length mean equal lists. A reader that gets a length and a digest can thus be held to the whole
list, and no read costs more than a few bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

#: So that a snapshot of a long run has many pieces.
PIECE_VALUES = 500


def extended(digest: str, value: str) -> str:
    """The digest after one more value. That of the empty list is empty."""
    return hashlib.blake2b(f"{digest} {value}".encode(), digest_size=8).hexdigest()


def digests(values: Iterable[str]) -> list[str]:
    """The digests after none, one, two ... of the values."""
    every = [""]
    for value in values:
        every.append(extended(every[-1], value))
    return every


class Values:
    """`apply` appends a text and gives its index."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.digest = ""
        #: What is wrong with `snapshot`: it raises at the `call`, or at a `piece`; empty: nothing.
        self.frail = ""

    def apply(self, value: Any) -> int:
        self.values.append(value)
        self.digest = extended(self.digest, value)
        return len(self.values) - 1

    def snapshot(self) -> Iterator[Any]:
        # Nothing in the list is ever replaced, so its first `count` values are the state as it is now.
        if self.frail == "call":
            raise RuntimeError("a snapshot that fails")
        return _pieces(self.values, len(self.values), self.frail)

    def restore(self, pieces: Iterable[Any]) -> None:
        values = values_of(pieces)
        digest = digests(values)[-1]
        self.values, self.digest = values, digest


def _pieces(values: list[str], count: int, frail: str) -> Iterator[Any]:
    for start in range(0, max(1, count), PIECE_VALUES):
        yield values[start : min(count, start + PIECE_VALUES)]
    if frail:
        raise RuntimeError("a snapshot that fails")


def values_of(pieces: Iterable[Any]) -> list[str]:
    """The list that the pieces of a snapshot make up."""
    return [value for piece in pieces for value in piece]
