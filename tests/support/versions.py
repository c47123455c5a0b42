"""An application in two versions. The second has a field more, and a change that the first knows nothing of.

`One` fails at anything of version 2, as code does that was written before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

APP = "numbers"


class One:
    """`["add", key, n]` adds to a number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.notes: dict[str, str] = {}
        #: The version of each restore that began.
        self.restored: list[int] = []

    def apply(self, change: Any) -> Any:
        op, key, value = change
        if op != "add":
            raise KeyError(op)
        self.numbers[key] = self.numbers.get(key, 0) + value
        return self.numbers[key]

    def snapshot(self) -> Iterator[Any]:
        return iter([[key, self.numbers[key]] for key in sorted(self.numbers)])

    def restore(self, pieces: Iterable[Any]) -> None:
        self.restored.append(1)
        numbers = {key: value for key, value in pieces}  # noqa: C416  # two, and no more
        self.numbers = numbers


class Two(One):
    """And `["note", key, text]`, from version 2 on. Until then it writes snapshots as the first version reads them."""

    def __init__(self) -> None:
        super().__init__()
        #: The version that each change was applied in.
        self.applied: list[int] = []

    def apply(self, change: Any, version: int = 1) -> Any:
        self.applied.append(version)
        op, key, value = change
        if op != "note":
            return super().apply(change)
        self.notes[key] = value
        return None

    def snapshot(self, version: int = 1) -> Iterator[Any]:
        if version == 1:
            return super().snapshot()
        keys = sorted(self.numbers.keys() | self.notes.keys())
        return iter([[key, self.numbers.get(key), self.notes.get(key)] for key in keys])

    def restore(self, pieces: Iterable[Any], version: int = 1) -> None:
        self.restored.append(version)
        rows = [row if version > 1 else [*row, None] for row in pieces]
        self.numbers = {key: number for key, number, _ in rows if number is not None}
        self.notes = {key: note for key, _, note in rows if note is not None}


#: How a node runs the first version of the code, and how it runs the second one.
ONE: dict[str, Any] = {"app": APP, "version": 1}
TWO: dict[str, Any] = {"app": APP, "version": 2, "reads": range(1, 3)}
