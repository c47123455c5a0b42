"""Page changes: what became of the pages of an SQLite database, as bytes. And its digest, which moves with its pages.

A page change says of which database it makes which one: by digests, page size and numbers of pages. It carries every
page that is another one or new, as a whole. What is cut off at the end is told by the number of pages.

    change  "RPG1", the old digest and the new one (16 bytes each), the page size, the old number of pages and the new
            one, how many pages it carries (4 bytes each), a zstd frame
    frame   the numbers of the pages in ascending order (4 bytes each), then the pages

**The digest** of a database is the sum of the xxh3-128 of its pages, each with its number as the seed, modulo 2^128. So
a change of ten pages moves it by twenty hashes, and whoever takes the old hashes from the pages that are really in his
file sees one that was changed otherwise, as soon as a change touches it.

**What belongs to a file and not to its content** is left out (`canonical`): the counters of changes, the version of the
library that wrote last, and the journal mode, which is every database's own business. SQLite never uses the page with
the byte at 1 GiB, which locks stand for: it is a page of zeros here.

Bounded like a patch: nobody holds more than `CHANGE_BYTES_MAX` of pages, and a reader trusts no length.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import xxhash

from replicator.errors import CorruptRecord

from .zstd_frame import unpacked

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "CHANGE_BYTES_MAX",
    "MAGIC",
    "MODULUS",
    "NO_PAGES",
    "PageChange",
    "as_text",
    "canonical",
    "hash_of",
    "is_page_size",
    "lock_page",
    "moved",
    "sum_in",
    "sum_of",
]

MAGIC = b"RPG1"

_HEAD = struct.Struct(">4s16s16sIIII")

#: What a change may carry, unpacked. Who has more to say sends the database.
CHANGE_BYTES_MAX = 32 * 1024 * 1024

#: The digest of a database without a page.
NO_PAGES = 0

MODULUS = 1 << 128

#: Where SQLite's locks are (sqlite.org/fileformat.html, 1.4).
_LOCK_BYTE = 0x40000000

#: What belongs to a file (sqlite.org/fileformat.html, 1.3), and what stands there instead. The two counters are equal,
#: or the number of pages in the header would not be believed.
_OF_THE_FILE = ((18, b"\x01\x01"), (24, bytes(4)), (92, bytes(8)))


def is_page_size(size: int) -> bool:
    """Whether SQLite has pages of so many bytes."""
    return 512 <= size <= 65536 and size & (size - 1) == 0


def lock_page(page_size: int) -> int:
    """The number of the page that SQLite leaves alone."""
    return _LOCK_BYTE // page_size + 1


def canonical(number: int, page: bytes) -> bytes:
    """A page as it is replicated."""
    if number == 1:
        first = bytearray(page)
        for place, value in _OF_THE_FILE:
            first[place : place + len(value)] = value
        return bytes(first)
    return bytes(len(page)) if number == lock_page(len(page)) else page


def hash_of(number: int, page: bytes | memoryview) -> int:
    return xxhash.xxh3_128_intdigest(page, seed=number)


def sum_of(pages: Iterable[tuple[int, bytes | memoryview]]) -> int:
    """The digest of a database of these pages."""
    return sum(hash_of(number, page) for number, page in pages) % MODULUS


def sum_in(first: int, piece: bytes, page_size: int) -> int:
    """What a run of pages is of the digest: from this number on, one after the other."""
    view, starts = memoryview(piece), range(0, len(piece), page_size)
    return sum_of((first + n, view[start : start + page_size]) for n, start in enumerate(starts))


def moved(digest: int, gone: Iterable[tuple[int, bytes]], come: Iterable[tuple[int, bytes]]) -> int:
    """The digest after these pages took the place of those."""
    return (digest - sum_of(gone) + sum_of(come)) % MODULUS


def as_text(digest: int) -> str:
    """32 hex digits."""
    return f"{digest:032x}"


class PageChange(NamedTuple):
    """From a database of `old_page_count` pages to one of `page_count` pages. `pages`: by their numbers, which
    ascend.
    """

    old_digest: int
    digest: int
    page_size: int
    old_page_count: int
    page_count: int
    pages: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """As it goes into a record."""
        numbers = struct.pack(f">{len(self.pages)}I", *self.pages)
        frame = zstd.compress(numbers + b"".join(self.pages.values()), level=1)
        digests = self.old_digest.to_bytes(16, "big"), self.digest.to_bytes(16, "big")
        sizes = self.page_size, self.old_page_count, self.page_count, len(self.pages)
        return _HEAD.pack(MAGIC, *digests, *sizes) + frame

    @classmethod
    def head_of(cls, data: bytes, *, id_: str) -> PageChange:
        """The same without its pages, of which nothing is looked at. Raises `CorruptRecord`."""
        return cls._head_of(data, id_)[0]

    @classmethod
    def _head_of(cls, data: bytes, id_: str) -> tuple[PageChange, int]:
        """And how many pages it says that it carries."""
        if len(data) < _HEAD.size or data[:4] != MAGIC:
            raise CorruptRecord(id=id_, problem="its body is no change of pages")
        _, old_digest, digest, page_size, old_count, count, carried = _HEAD.unpack_from(data)
        if not is_page_size(page_size) or carried * page_size > CHANGE_BYTES_MAX:
            raise CorruptRecord(id=id_, problem="its change of pages is not of a size that there is")
        digests = int.from_bytes(old_digest, "big"), int.from_bytes(digest, "big")
        return cls(*digests, page_size, old_count, count, {}), carried

    @classmethod
    def of(cls, data: bytes, *, id_: str) -> PageChange:
        """Raises `CorruptRecord`: it is none, or was damaged."""
        head, carried = cls._head_of(data, id_)
        page_size, old_count, count = head.page_size, head.old_page_count, head.page_count
        size = carried * (page_size + 4)
        told = unpacked(memoryview(data)[_HEAD.size :], size, what="change of pages", id_=id_)
        numbers = struct.unpack_from(f">{carried}I", told)
        ascending = all(before < number for before, number in zip((0, *numbers), numbers, strict=False))
        if not ascending or (numbers and numbers[-1] > count):
            raise CorruptRecord(id=id_, problem="its change of pages has numbers that cannot be")
        starts = range(4 * carried, size, page_size)
        pages = {number: told[at : at + page_size] for number, at in zip(numbers, starts, strict=True)}
        new = range(old_count + 1, count + 1)
        if len(new) > carried or any(number not in pages for number in new):
            raise CorruptRecord(id=id_, problem="its change of pages lacks pages at the end")
        return head._replace(pages=pages)
