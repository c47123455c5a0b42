"""Records by id, in pages: what a snapshot shares with a state that moves on.

A copy of one large index takes milliseconds in which nobody else has the interpreter, and so does giving it up: each
entry is touched. Here a snapshot takes the list of the pages, and the first change of a page after it copies that page.

Records come in the order of their pages, and within a page in the order in which they came; a page comes when its first
record does, and goes with its last. So the order is that of the records themselves: what is built of records in this
order has it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from .document import Record

__all__ = ["IDS_PER_PAGE", "Pages"]

_BITS = 7

#: A copy of a page takes some microseconds, and an index of a hundred thousand records has a thousand pages.
IDS_PER_PAGE = 1 << _BITS


class Pages:
    """A dict of records by id, as far as a registry needs one."""

    def __init__(self) -> None:
        self._pages: dict[int, dict[int, Record]] = {}
        #: The pages that no snapshot has.
        self._own: set[int] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id: int) -> bool:
        page = self._pages.get(id >> _BITS)
        return page is not None and id in page

    def __getitem__(self, id: int) -> Record:
        return self._pages[id >> _BITS][id]

    def get(self, id: int) -> Record | None:
        page = self._pages.get(id >> _BITS)
        return None if page is None else page.get(id)

    def __setitem__(self, id: int, record: Record) -> None:
        page = self._to_change(id >> _BITS)
        before = len(page)
        page[id] = record
        self._count += len(page) - before

    def add(self, ids: Iterable[int], records: Iterable[Record]) -> None:
        """Take in records, none of which is there."""
        number, page = -1, dict[int, Record]()
        for id, record in zip(ids, records, strict=True):
            if id >> _BITS != number:
                number = id >> _BITS
                page = self._to_change(number)
            page[id] = record
            self._count += 1

    def pop(self, id: int) -> Record:
        if id not in self:
            raise KeyError(id)
        page = self._to_change(id >> _BITS)
        record = page.pop(id)
        self._gone(id >> _BITS, page)
        return record

    def items(self) -> Iterator[tuple[int, Record]]:
        """All of them as they are now, drawn later: a snapshot."""
        self._own = set()
        pages = list(self._pages.values())
        return chain.from_iterable(page.items() for page in pages)

    # What `release.let_go` needs.

    def popitem(self) -> tuple[int, Record]:
        """Give up the last one. What a snapshot has of it stays there."""
        number = next(reversed(self._pages))
        page = self._to_change(number)
        item = page.popitem()
        self._gone(number, page)
        return item

    def clear(self) -> None:
        self._pages, self._own, self._count = {}, set(), 0

    def _to_change(self, number: int) -> dict[int, Record]:
        if number in self._own:
            return self._pages[number]
        shared = self._pages.get(number)
        page = self._pages[number] = {} if shared is None else shared.copy()
        self._own.add(number)
        return page

    def _gone(self, number: int, page: dict[int, Record]) -> None:
        self._count -= 1
        if not page:
            del self._pages[number]
            self._own.discard(number)
