"""States without `apply`, as applications would write them, and payloads for them that do not compress."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from replicator import Node
from tests.support.kv import eventually

KIB = 1024


class Text:
    """A text, or any JSON values, that a program changes as it likes."""

    def __init__(self, pieces: Iterable[Any] = ()) -> None:
        self.pieces = list(pieces)
        self.restored = 0
        self.failures: list[Exception] = []

    def snapshot(self) -> Iterator[Any]:
        return iter(list(self.pieces))

    def restore(self, pieces: Iterable[Any]) -> None:
        found = []
        for piece in pieces:
            found.append(piece)
            if self.failures:
                raise self.failures.pop()
        self.pieces = found
        self.restored += 1


class Kept(Text):
    """One that outlives its process."""

    publications = 0

    def survived(self) -> bool:
        return bool(self.pieces)

    def published(self) -> None:
        self.publications += 1


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def pieces(size: int, seed: int = 1) -> list[bytes]:
    return [noise(min(50 * KIB, size - at), seed + at) for at in range(0, size, 50 * KIB)]


def has(node: Node, expected: list[Any]) -> None:
    """Wait until it has that, and knows it: what a node says of its state moves with the state, under this lock."""

    def there() -> bool:
        with node._running.replica.applied.lock:
            found: list[Any] = node._setup.state.pieces
        return found == expected

    eventually(there, f"{node.name} having it")
