"""Payloads as bytes: pieces become frames and frames pieces again, however the bytes are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import CorruptRecord, NotJSON
from replicator.format import frames
from replicator.format.codec import digest_of, digest_of_pieces
from replicator.format.frames import frames_of, joined, pieces_of


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def payload(pieces: list[Any]) -> bytes:
    return b"".join(frame for _, frame in frames_of(pieces))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.binary(max_size=300), max_size=8) | st.lists(JSON, max_size=8), st.integers(1, 200))
def test_pieces_come_back_as_they_were(pieces: list[Any], size: int) -> None:
    data = payload(pieces)
    raw = bool(pieces) and isinstance(pieces[0], bytes)
    assert list(pieces_of(cut(data, size), raw=raw, id_="1-1")) == pieces
    assert list(pieces_of(joined(cut(data, size)), raw=raw, id_="1-1")) == pieces
    # and their digest is that which a snapshot of them has
    assert digest_of(data) == digest_of_pieces(pieces)


@pytest.mark.parametrize("pieces", [[b"x" * 200_000, b"", b"y" * 70_000], [{"k": "v" * 200_000}, 1, ["z" * 70_000]]])
def test_pieces_larger_than_a_chunk_come_back_as_they_were(pieces: list[Any]) -> None:
    data = payload(pieces)
    assert list(pieces_of(cut(data, 5000), raw=isinstance(pieces[0], bytes), id_="1-1")) == pieces


def test_small_chunks_are_joined() -> None:
    chunks = list(joined(b"x" * 1000 for _ in range(200)))
    assert b"".join(chunks) == b"x" * 200_000
    assert len(chunks) == 4


def test_pieces_are_of_one_kind() -> None:
    assert [raw for raw, _ in frames_of([b"a", memoryview(b"b")])] == [True, True]
    with pytest.raises(NotJSON, match="all bytes or all JSON"):
        payload([b"a", {"b": 1}])
    with pytest.raises(NotJSON, match="not JSON"):
        payload([{1, 2}])


@pytest.mark.parametrize(
    ("data", "raw", "why"),
    [
        (payload([b"abc"])[:-1], True, "ends within a piece"),
        (b"\0\0", True, "ends within a piece"),
        (payload([[1, 2]])[:-1], False, "ends within a piece"),
        (b"[1,\n", False, "not JSON"),
        (b"\xff\xff\xff\xff", True, "4294967295 bytes"),
    ],
)
def test_what_is_no_payload_is_refused(data: bytes, raw: bool, why: str) -> None:
    with pytest.raises(CorruptRecord, match=why):
        list(pieces_of([data], raw=raw, id_="1-1"))


def test_a_piece_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PIECE_BYTES_MAX", 300_000)
    given_bytes = 0

    def endless() -> Iterator[bytes]:
        nonlocal given_bytes
        while True:
            given_bytes += 100_000
            yield b"x" * 100_000

    with pytest.raises(CorruptRecord, match="too large"):
        list(pieces_of(endless(), raw=False, id_="1-1"))
    assert given_bytes < 600_000
    with pytest.raises(CorruptRecord, match="has 2021161080 bytes"):
        list(pieces_of(endless(), raw=True, id_="1-1"))
