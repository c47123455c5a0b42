"""States for benchmarks that ask what the log costs: they do as little as a state can do. See also `bench.inbox`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

__all__ = ["Nothing", "Records"]

#: A piece of a snapshot of this many records has some 64 KiB, as `State.snapshot` has it.
RECORDS_PER_PIECE = 400


class Nothing:
    """Takes every change and keeps none of it."""

    def snapshot(self) -> Iterable[Any]:
        return [{}]

    def restore(self, pieces: Iterable[Any]) -> None:
        for _ in pieces:
            pass

    def apply(self, change: Any) -> None:
        pass


class Records:
    """A dict of so many records. A change `{"key": number, …}` takes the place of the record of that number."""

    def __init__(self, size: int = 0) -> None:
        self.records: dict[int, Any] = {key: {"key": key, "pad": "x" * 100} for key in range(size)}

    def snapshot(self) -> Iterator[Any]:
        records = iter(self.records.copy().values())
        return iter(lambda: list(islice(records, RECORDS_PER_PIECE)), [])

    def restore(self, pieces: Iterable[Any]) -> None:
        self.records = {record["key"]: record for piece in pieces for record in piece}

    def apply(self, change: Any) -> None:
        self.records[change["key"]] = change
