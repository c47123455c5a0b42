"""A frame of which the size was told gives that many bytes, or nothing."""

from __future__ import annotations

import sys

import pytest

from replicator.errors import CorruptRecord
from replicator.format.zstd_frame import unpacked

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DATA = b"some bytes" * 1000
FRAME = zstd.compress(DATA)


def test_what_is_in_it_is_what_was_packed() -> None:
    assert unpacked(memoryview(FRAME), len(DATA), what="list", id_="1-1") == DATA


@pytest.mark.parametrize(
    ("frame", "size", "problem"),
    [
        (FRAME, len(DATA) - 1, "its list is not whole"),
        (FRAME, len(DATA) + 1, "its list is not whole"),
        (FRAME[:-1], len(DATA), "its list is not whole"),
        (FRAME + b"more", len(DATA), "its list is not whole"),
        (b"no frame", len(DATA), "its list is not zstd"),
        (zstd.compress(bytes(100_000_000)), 10, "its list is not whole"),
    ],
)
def test_one_that_does_not_fit_what_was_told_is_refused(frame: bytes, size: int, problem: str) -> None:
    with pytest.raises(CorruptRecord, match=problem):
        unpacked(memoryview(frame), size, what="list", id_="1-1")


def test_one_that_wants_a_large_window_is_refused() -> None:
    unpacker = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
    frame = unpacker.compress(DATA) + unpacker.flush()  # in a stream it does not say how little there is
    with pytest.raises(CorruptRecord, match="its list is not zstd"):
        unpacked(memoryview(frame), len(DATA), what="list", id_="1-1")
