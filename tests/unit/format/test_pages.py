"""Changes of pages as bytes: what goes in comes out, and what was damaged is refused, whatever it says."""

from __future__ import annotations

import random
import struct
import sys
from contextlib import suppress

import pytest

from replicator.errors import CorruptRecord
from replicator.format.pages import MAGIC, NO_PAGES, PageChange, canonical, hash_of, lock_page, moved, sum_in, sum_of
from replicator.format.patch import PatchHead

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def change(**other: object) -> PageChange:
    pages = {2: b"b" * 512, 7: b"g" * 512, 8: b"h" * 512}
    return PageChange(5, 2**127, 512, 7, 8, pages)._replace(**other)  # type: ignore[arg-type]


def test_what_goes_in_comes_out() -> None:
    for each in (change(), change(page_count=2, pages={2: b"b" * 512}), change(old_page_count=8, pages={})):
        assert PageChange.of(each.to_bytes(), id_="1-1") == each


def test_it_is_a_patch_of_another_form() -> None:
    head = PatchHead.of(change().to_bytes(), id_="1-1")
    assert head == (f"{5:032x}", f"{2**127:032x}", 7 * 512, 8 * 512, True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (change(page_size=500), "not of a size"),
        (change(page_size=65536), "not whole"),
        (change(page_count=7), "numbers"),
        (change(page_count=9), "lacks pages"),
        (change(page_count=2**32 - 1), "lacks pages"),
        (change(old_page_count=6, pages={8: b"h" * 512}), "lacks pages"),
        (change(pages={7: b"g" * 512, 2: b"b" * 512, 8: b"h" * 512}), "numbers"),
        (change(pages={0: b"z" * 512, 8: b"h" * 512}), "numbers"),
        (change(pages={8: b"h" * 511}), "not whole"),
    ],
)
def test_what_cannot_be_is_refused(wrong: PageChange, said: str) -> None:
    with pytest.raises(CorruptRecord, match=said):
        PageChange.of(wrong.to_bytes(), id_="1-1")


def test_no_bit_of_it_makes_anything_else_than_a_refusal_or_a_change() -> None:
    chance, data = random.Random(1), change().to_bytes()
    for _ in range(3000):
        damaged = bytearray(data[: chance.choice((len(data), chance.randrange(len(data))))])
        for _ in range(chance.randrange(3)):
            if damaged:
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        with suppress(CorruptRecord):
            PageChange.of(bytes(damaged), id_="1-1")


def test_a_frame_that_unpacks_to_more_than_it_says_is_not_unpacked() -> None:
    head = struct.pack(">4s16s16sIIII", MAGIC, bytes(16), bytes(16), 512, 1, 1, 1)
    with pytest.raises(CorruptRecord, match="not whole"):
        PageChange.of(head + zstd.compress(bytes(2**26)), id_="1-1")


def test_the_digest_moves_with_its_pages() -> None:
    pages = {number: bytes([number]) * 512 for number in range(1, 9)}
    digest = sum_of(pages.items())
    assert sum_in(1, b"".join(pages.values()), 512) == digest
    new = {3: b"x" * 512, 9: b"y" * 512}
    assert moved(digest, [(3, pages[3])], new.items()) == sum_of({**pages, **new}.items())
    assert moved(digest, pages.items(), ()) == NO_PAGES
    assert hash_of(1, pages[1]) != hash_of(2, pages[1])


def test_what_belongs_to_the_file_is_left_out() -> None:
    page = bytes(range(256)) * 2
    first = canonical(1, page)
    assert (first[18:20], first[24:28], first[92:100]) == (b"\x01\x01", bytes(4), bytes(8))
    assert (first[28:92], first[100:]) == (page[28:92], page[100:])
    assert canonical(2, page) == page
    assert canonical(lock_page(512), page) == bytes(512)
