"""Records by id, in buckets: what a snapshot shares with a state that moves on.

A copy of one large index takes milliseconds in which nobody else has the interpreter, and so does giving it up: each
entry is touched. Here a snapshot takes the list of the buckets, and the first change of a bucket after it is made in a
copy of that bucket.

Records come in the order of their buckets, and within a bucket in the order in which they came; a bucket comes when its
first record does, and goes with its last. So the order is that of the records themselves: what is built of records in
this order has it, too.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import chain

from .document import Record

__all__ = ["IDS_PER_BUCKET", "Buckets"]

_BITS = 7

#: A copy of a bucket takes some microseconds, and an index of a hundred thousand records has a thousand buckets.
IDS_PER_BUCKET = 1 << _BITS


class Buckets:
    """A dict of records by id, as far as a registry needs one."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[int, Record]] = {}
        #: Their numbers in ascending order. None of them is empty, so a page costs what is in it.
        self._numbers: list[int] = []
        #: The buckets that no snapshot has.
        self._own: set[int] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id: int) -> bool:
        bucket = self._buckets.get(id >> _BITS)
        return bucket is not None and id in bucket

    def __getitem__(self, id: int) -> Record:
        return self._buckets[id >> _BITS][id]

    def get(self, id: int) -> Record | None:
        bucket = self._buckets.get(id >> _BITS)
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
        self._own = set()
        buckets = list(self._buckets.values())
        return chain.from_iterable(bucket.items() for bucket in buckets)

    def page(self, after: int, limit: int) -> dict[int, Record]:
        """At most `limit` records whose ids are above `after`, in ascending order of their ids."""
        found: dict[int, Record] = {}
        for place in range(bisect_left(self._numbers, (after + 1) >> _BITS), len(self._numbers)):
            if len(found) >= limit:
                break
            bucket = self._buckets[self._numbers[place]]
            ids = sorted(id for id in bucket if id > after)
            found.update((id, bucket[id]) for id in ids[: limit - len(found)])
        return found

    # What `release.let_go` needs.

    def popitem(self) -> tuple[int, Record]:
        """Give up the last one. What a snapshot has of it stays there."""
        number = next(reversed(self._buckets))
        bucket = self._to_change(number)
        item = bucket.popitem()
        self._gone(number, bucket)
        return item

    def clear(self) -> None:
        self._buckets, self._numbers, self._own, self._count = {}, [], set(), 0

    def _to_change(self, number: int) -> dict[int, Record]:
        if number in self._own:
            return self._buckets[number]
        shared = self._buckets.get(number)
        if shared is None:
            insort(self._numbers, number)
        bucket = self._buckets[number] = {} if shared is None else shared.copy()
        self._own.add(number)
        return bucket

    def _gone(self, number: int, bucket: dict[int, Record]) -> None:
        self._count -= 1
        if not bucket:
            del self._buckets[number]
            del self._numbers[bisect_left(self._numbers, number)]
            self._own.discard(number)
