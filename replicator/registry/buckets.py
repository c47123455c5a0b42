"""Records by id, in buckets that a snapshot shares (`state/copy_on_write.py`).

Records come in the order of their buckets, and within a bucket in the order in which they came; a bucket comes when its
first record does, and goes with its last. So the order is that of the records themselves: what is built of records in
this order has it, too.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from ..state.copy_on_write import CopyOnWrite
from .document import Record

__all__ = ["IDS_PER_BUCKET", "Buckets"]

_BITS = 7

#: A copy of a bucket takes some microseconds, and an index of a hundred thousand records has a thousand buckets.
IDS_PER_BUCKET = 1 << _BITS


class Buckets(CopyOnWrite[int, Record]):
    """A dict of records by id, as far as a registry needs one."""

    def __init__(self) -> None:
        super().__init__()
        #: The numbers of the buckets in ascending order. None of them is empty, so a page costs what is in it.
        self._numbers: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id: int) -> bool:
        bucket = self._parts.get(id >> _BITS)
        return bucket is not None and id in bucket

    def __getitem__(self, id: int) -> Record:
        return self._parts[id >> _BITS][id]

    def get(self, id: int) -> Record | None:
        bucket = self._parts.get(id >> _BITS)
        return None if bucket is None else bucket.get(id)

    def __setitem__(self, id: int, record: Record) -> None:
        bucket = self._to_change(id >> _BITS)
        before = len(bucket)
        bucket[id] = record
        self._count += len(bucket) - before

    def add(self, ids: Iterable[int], records: Iterable[Record]) -> None:
        """Take in records, none of which is there."""
        number, bucket = -1, dict[int, Record]()
        for id, record in zip(ids, records, strict=True):
            if id >> _BITS != number:
                number = id >> _BITS
                bucket = self._to_change(number)
            bucket[id] = record
            self._count += 1

    def pop(self, id: int) -> Record:
        if id not in self:
            raise KeyError(id)
        bucket = self._to_change(id >> _BITS)
        record = bucket.pop(id)
        self._gone(id >> _BITS, bucket)
        return record

    def items(self) -> Iterator[tuple[int, Record]]:
        """All of them as they are now, drawn later: a snapshot."""
        return self._shared()

    def page(self, after: int, limit: int) -> dict[int, Record]:
        """At most `limit` records whose ids are above `after`, in ascending order of their ids."""
        found: dict[int, Record] = {}
        for place in range(bisect_left(self._numbers, (after + 1) >> _BITS), len(self._numbers)):
            if len(found) >= limit:
                break
            bucket = self._parts[self._numbers[place]]
            ids = sorted(id for id in bucket if id > after)
            found.update((id, bucket[id]) for id in ids[: limit - len(found)])
        return found

    # What `release.let_go` needs.

    def popitem(self) -> tuple[int, Record]:
        """Give up the last one. What a snapshot has of it stays there."""
        number = next(reversed(self._parts))
        bucket = self._to_change(number)
        item = bucket.popitem()
        self._gone(number, bucket)
        return item

    def clear(self) -> None:
        super().clear()
        self._numbers, self._count = [], 0

    def _to_change(self, number: int) -> dict[int, Record]:
        if number not in self._parts:
            insort(self._numbers, number)
        return super()._to_change(number)

    def _gone(self, number: int, bucket: dict[int, Record]) -> None:
        self._count -= 1
        if not bucket:
            self._drop(number)
            del self._numbers[bisect_left(self._numbers, number)]
