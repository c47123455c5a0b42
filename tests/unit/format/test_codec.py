"""Payloads: there and back, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import subprocess
import sys
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ChangeTooLarge, CorruptRecord, NotJSON
from replicator.format import codec
from replicator.format.codec import (
    CHANGE_BYTES_MAX,
    SnapshotDecoder,
    SnapshotEncoder,
    decode_changes,
    digest_of,
    encode_change,
    encode_changes,
    zstd,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
).filter(lambda value: _is_encodable(value))


def _is_encodable(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False  # a lone surrogate in a key
    return True


# --- changes ---------------------------------------------------------------------------------------------------------


@given(st.lists(json_values, max_size=6))
def test_changes_come_back_as_json_gives_them(changes: list[Any]) -> None:
    name, body, digest = encode_changes(map(encode_change, changes))
    assert decode_changes(name, body, digest, len(changes), id_="1-1") == changes


def test_large_batches_are_compressed_and_small_ones_are_not() -> None:
    assert encode_changes([encode_change("x")])[0] == "json"
    name, body, digest = encode_changes([encode_change("x" * 50_000)])
    assert name == "json+zstd"
    assert len(body) < 200
    assert digest == digest_of(orjson.dumps(["x" * 50_000])), "the digest is that of the decoded payload"
    assert decode_changes(name, body, digest, 1, id_="1-1") == ["x" * 50_000]


def test_what_compression_does_not_shorten_stays_as_it_is() -> None:
    noise = "".join(chr(33 + (i * i * 7919 + i // 3) % 89) for i in range(1100))
    encoded = encode_change(noise)
    name, body, _ = encode_changes([encoded])
    assert len(body) <= len(encoded) + 2
    assert name in ("json", "json+zstd")


@dataclasses.dataclass
class Point:
    x: float


class Colour(enum.Enum):
    RED = float("nan")


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "value",
    [
        NAN,
        INF,
        -INF,
        [1, [2, NAN]],
        {"a": {"b": [INF]}},
        (1, (NAN,)),
        {"null": None, "x": [NAN]},
        Point(NAN),
        [Point(INF)],
        {"deep": [Point(-INF)]},
        Colour.RED,
        type("Float", (float,), {})(NAN),
    ],
    ids=repr,
)
def test_nan_and_infinities_are_refused_wherever_they_hide(value: Any) -> None:
    with pytest.raises(NotJSON, match="JSON"):
        encode_change(value)
    with pytest.raises(NotJSON, match="JSON"):
        SnapshotEncoder().feed(value)


@pytest.mark.parametrize(
    "value", [None, [None, 1.5], {"null": "null"}, ("x", None), Point(1.5), [True, None, 2**64 - 1]]
)
def test_what_merely_looks_like_nan_is_not_refused(value: Any) -> None:
    assert orjson.loads(encode_change(value)) is not NAN


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), 2**64, "\ud800", {1: 2}, b"bytes"], ids=lambda value: type(value).__name__
)
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(NotJSON, match="not JSON"):
        encode_change(value)


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(NotJSON, match="not JSON"):
        encode_change(deep)


def test_a_date_is_applied_as_the_text_that_the_others_get() -> None:
    name, body, digest = encode_changes([encode_change(datetime.date(2026, 1, 2))])
    assert decode_changes(name, body, digest, 1, id_="1-1") == ["2026-01-02"]


def test_a_change_has_to_fit_into_a_record() -> None:
    most = CHANGE_BYTES_MAX - 4  # two quotes, two brackets
    name, body, digest = encode_changes([encode_change("x" * most)])
    assert decode_changes(name, body, digest, 1, id_="1-1") == ["x" * most]
    with pytest.raises(ChangeTooLarge, match="a record takes"):
        encode_change("x" * (most + 1))


def test_a_body_that_was_damaged_is_corrupt() -> None:
    name, body, digest = encode_changes([encode_change("x")])
    for damaged, count in ((body[:-1], 1), (body + b" ", 1), (b'["y"]', 1), (body, 2), (body, 0)):
        with pytest.raises(CorruptRecord, match="4-2"):
            decode_changes(name, damaged, digest, count, id_="4-2")


@pytest.mark.parametrize("payload", [b"{}", b"7", b"[", b"[1", b"[NaN]"])
def test_a_payload_that_is_no_list_is_corrupt_even_if_its_digest_fits(payload: bytes) -> None:
    with pytest.raises(CorruptRecord, match=r"not JSON|not a list"):
        decode_changes("json", payload, digest_of(payload), 1, id_="1-1")


@pytest.mark.parametrize("name", ["", "patch", "json+gzip", "raw", "json+zstd+seal"])
def test_a_codec_that_is_not_known_asks_for_an_update(name: str) -> None:
    with pytest.raises(CorruptRecord, match="update replicator"):
        decode_changes(name, b"[]", digest_of(b"[]"), 0, id_="1-1")


@given(st.sampled_from(["json", "json+zstd"]), st.binary(max_size=200), st.booleans(), st.integers(0, 3))
def test_any_bytes_at_all_are_changes_or_a_corrupt_record(name: str, body: bytes, packed: bool, count: int) -> None:
    body = zstd.compress(body) if packed else body
    try:
        assert len(decode_changes(name, body, digest_of(body), count, id_="1-1")) == count
    except CorruptRecord as problem:
        assert problem.fields["id"] == "1-1"  # noqa: PT017


# --- bombs -----------------------------------------------------------------------------------------------------------

BOMB_BYTES = 128 * 1024 * 1024


def undeclared(size: int, *, window_log: int = 0) -> bytes:
    """A frame that does not say how large it is inside."""
    options = {zstd.CompressionParameter.compression_level: 1}
    if window_log:
        options[zstd.CompressionParameter.window_log] = window_log
    packer = zstd.ZstdCompressor(options=options)
    block = b"0" * (1024 * 1024)
    return b"".join([*(packer.compress(block) for _ in range(size // len(block))), packer.flush()])


def test_a_bomb_is_refused_by_what_it_declares() -> None:
    bomb = zstd.compress(b"0" * (CHANGE_BYTES_MAX + 1))
    with pytest.raises(CorruptRecord, match="it declares 262145 bytes, a record takes 262144"):
        decode_changes("json+zstd", bomb, "", 1, id_="1-1")


def test_a_bomb_that_does_not_declare_its_size_is_refused_by_what_it_turns_out_to_be() -> None:
    bomb = undeclared(64 * 1024 * 1024)
    assert len(bomb) < CHANGE_BYTES_MAX
    tracemalloc.start()
    with pytest.raises(CorruptRecord, match="of a size that a record takes"):
        decode_changes("json+zstd", bomb, "", 1, id_="1-1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * CHANGE_BYTES_MAX


def test_the_memory_of_a_whole_process_stays_bounded_under_bombs() -> None:
    """Counted by the operating system: what zstd takes for itself is not Python's."""
    code = """
import resource, sys
from replicator.format.codec import decode_changes
from replicator.errors import CorruptRecord
bomb = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_changes("json+zstd", bomb, "", 1, id_="1-1")
except CorruptRecord:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    for bomb in (undeclared(BOMB_BYTES), undeclared(BOMB_BYTES, window_log=27)):
        done = subprocess.run([sys.executable, "-c", code], input=bomb, capture_output=True, check=True, timeout=300)
        assert int(done.stdout) < 16 * 1024, "kilobytes"


@pytest.mark.parametrize("more", [b"x", zstd.compress(b"[]")], ids=["garbage", "another frame"])
def test_only_one_whole_frame_is_a_body(more: bytes) -> None:
    body = zstd.compress(b"[]")
    for wrong in (body + more, body[:-1], body[:4], b""):
        with pytest.raises(CorruptRecord, match="zstd"):
            decode_changes("json+zstd", wrong, digest_of(b"[]"), 0, id_="1-1")


# --- snapshots -------------------------------------------------------------------------------------------------------


def encoded(pieces: list[Any]) -> tuple[str, str, bytes]:
    encoder = SnapshotEncoder()
    data = b"".join([*map(encoder.feed, pieces), encoder.finish()])
    return encoder.codec, encoder.digest, data


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@given(st.lists(json_values, max_size=8) | st.lists(st.binary(max_size=60), max_size=8), st.integers(1, 50))
def test_a_snapshot_comes_back_piece_by_piece_however_it_is_cut(pieces: list[Any], size: int) -> None:
    name, digest, data = encoded(pieces)
    assert list(SnapshotDecoder(name, digest, id_="1-1").pieces(cut(data, size))) == pieces


def test_large_pieces_come_back_too() -> None:
    for pieces in ([b"x" * 3_000_000, b"", b"y" * 1_100_000, b"z"], ["x" * 3_000_000, "", ["y" * 1_100_000]]):
        name, digest, data = encoded(list(pieces))
        assert list(SnapshotDecoder(name, digest, id_="1-1").pieces(cut(data, 4096))) == pieces


def test_the_digest_is_that_of_the_decoded_payload() -> None:
    assert encoded([{"a": 1}, 2])[:2] == ("json+zstd", digest_of(b'{"a":1}\n2\n'))
    assert encoded([b"ab", b""])[:2] == ("raw+zstd", digest_of(b"\0\0\0\2ab\0\0\0\0"))
    assert encoded([])[:2] == ("json+zstd", digest_of(b""))


def test_pieces_are_there_before_the_last_body_is() -> None:
    numbers = [[(i * 7919) % 65536 for i in range(j, j + 2000)] for j in range(400)]
    name, digest, data = encoded(numbers)
    bodies = iter(cut(data, len(data) // 10))
    pieces = SnapshotDecoder(name, digest, id_="1-1").pieces(bodies)
    assert next(pieces) == numbers[0]
    assert len(list(bodies)) >= 5, "the first piece came with the first bodies"


def test_a_snapshot_has_one_kind_of_pieces() -> None:
    for first, second in (("x", b"x"), (b"x", "x")):
        encoder = SnapshotEncoder()
        encoder.feed(first)
        with pytest.raises(NotJSON, match="all bytes or all JSON"):
            encoder.feed(second)


def test_bytes_of_all_kinds_are_raw_pieces() -> None:
    name, digest, data = encoded([b"a", bytearray(b"b"), memoryview(b"c")])
    assert list(SnapshotDecoder(name, digest, id_="1-1").pieces([data])) == [b"a", b"b", b"c"]


def test_a_piece_that_is_too_large_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    too_large: list[list[Any]] = [["x" * 3_000_000], [b"x" * 3_000_000]]
    made = [encoded(pieces) for pieces in too_large]
    monkeypatch.setattr(codec, "PIECE_BYTES_MAX", 1_000_000)
    for pieces, (name, digest, data) in zip(too_large, made, strict=True):
        with pytest.raises(ChangeTooLarge, match="yield several"):
            SnapshotEncoder().feed(pieces[0])
        with pytest.raises(CorruptRecord, match=r"too large|a piece of"):
            list(SnapshotDecoder(name, digest, id_="1-1").pieces([data]))


def test_a_piece_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "PIECE_BYTES_MAX", 4_000_000)
    tracemalloc.start()
    with pytest.raises(CorruptRecord, match="too large"):
        list(SnapshotDecoder("json+zstd", "", id_="1-1").pieces([undeclared(256 * 1024 * 1024)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000


def test_a_snapshot_that_was_damaged_is_corrupt() -> None:
    for pieces in (["x", "y"], [b"x", b"y"]):
        name, digest, data = encoded(list(pieces))
        wrong = [data[:-1], data + b"x", data + data, b"", data[1:], zstd.compress(b"7\n"), zstd.compress(b"{\n")]
        for damaged in [*wrong, zstd.compress(b"7"), zstd.compress(b"\0\0\0\5ab")]:
            with pytest.raises(CorruptRecord, match="4-2"):
                list(SnapshotDecoder(name, digest, id_="4-2").pieces([damaged]))
        with pytest.raises(CorruptRecord, match="goes on after its end"):
            list(SnapshotDecoder(name, digest, id_="4-2").pieces([data, b"more"]))


@pytest.mark.parametrize("name", ["json", "raw", "", "patch+zstd"])
def test_a_snapshot_in_a_codec_that_is_not_known_asks_for_an_update(name: str) -> None:
    with pytest.raises(CorruptRecord, match="update replicator"):
        SnapshotDecoder(name, "", id_="1-1")


@given(st.sampled_from(["json+zstd", "raw+zstd"]), st.lists(st.binary(max_size=80), max_size=4), st.booleans())
def test_any_bytes_at_all_are_a_snapshot_or_a_corrupt_record(name: str, bodies: list[bytes], packed: bool) -> None:
    payload = b"".join(bodies)
    given_bodies = [zstd.compress(payload)] if packed else bodies
    try:
        list(SnapshotDecoder(name, digest_of(payload), id_="1-1").pieces(given_bodies))
    except CorruptRecord as problem:
        assert problem.fields["id"] == "1-1"  # noqa: PT017


def test_the_digest_of_a_state_is_that_of_its_snapshot() -> None:
    pieces = [{"a": 1}, [1, 2, 3], "x"]
    encoder = codec.SnapshotEncoder()
    for piece in pieces:
        encoder.feed(piece)
    assert codec.digest_of_pieces(iter(pieces)) == encoder.digest
    assert codec.digest_of_pieces(pieces) != codec.digest_of_pieces(pieces[:2])
    assert codec.digest_of_pieces([b"a", b"bc"]) != codec.digest_of_pieces([b"ab", b"c"])
