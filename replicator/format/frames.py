"""A payload as bytes: the frames of its pieces, one after the other (`codec.py` defines a frame).

A state without `apply` is stored, compared and patched in this form. Nobody holds a payload in memory: it is written
and read in chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from replicator.errors import CorruptRecord, NotJSON, SnapshotRefused

from .codec import MIXED, PIECE_BYTES_MAX, check_weight, frame_of, split_raw
from .unpacked_size import SNAPSHOT_BYTES_MAX, Weight

__all__ = ["frames_of", "joined", "pieces_of"]

#: Smaller chunks are joined before they are parsed or written.
_CHUNK = 64 * 1024


def frames_of(pieces: Iterable[Any], *, most: int = SNAPSHOT_BYTES_MAX) -> Iterator[tuple[bool, bytes]]:
    """Yield for each piece whether it is raw, and its frame; `most`: the most that all of them may weigh.

    Raises `NotJSON` if a piece cannot be encoded, or `ChangeTooLarge` if all so far weigh too much.
    """
    kind: bool | None = None
    weight = Weight(most)
    for piece in pieces:
        raw = isinstance(piece, bytes | bytearray | memoryview)
        if kind not in (None, raw):
            raise NotJSON(MIXED)
        kind = raw
        frame = frame_of(piece)
        check_weight(weight, frame, raw=raw)
        yield raw, frame


def joined(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of at least 64 KiB, but for the last."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= _CHUNK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def pieces_of(chunks: Iterable[bytes], *, raw: bool, id_: str, most: int = SNAPSHOT_BYTES_MAX) -> Iterator[Any]:
    """The inverse of `frames_of`: decode the pieces of a payload that comes in chunks; `most`: the most they may weigh.

    Raises `CorruptRecord`, `SnapshotRefused` if they weigh too much, and whatever `chunks` raises.
    """
    split = _split_raw if raw else _split_lines
    weight = Weight(most)
    held: list[bytes] = []
    size, wanted = 0, _CHUNK
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size > PIECE_BYTES_MAX + wanted:
            raise CorruptRecord(id=id_, problem="a piece of its payload is too large")
        if size < wanted or not (raw or b"\n" in chunk):
            continue
        pieces, rest = split(b"".join(held), id_)
        held, size = [rest], len(rest)
        wanted = max(_CHUNK, 4 + int.from_bytes(rest[:4], "big")) if raw and len(rest) >= 4 else _CHUNK
        yield from _weighed(pieces, weight, raw, id_)
    pieces, rest = split(b"".join(held), id_)
    yield from _weighed(pieces, weight, raw, id_)
    if rest:
        raise CorruptRecord(id=id_, problem="its payload ends within a piece")


def _weighed(pieces: Iterable[bytes], weight: Weight, raw: bool, id_: str) -> Iterator[Any]:
    for piece in pieces:
        if not weight.takes(piece, raw=raw):
            raise SnapshotRefused(id=id_, problem=weight.problem)
        yield piece if raw else _value(piece, id_)


def _value(line: bytes, id_: str) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise CorruptRecord(id=id_, problem=f"a piece of its payload is not JSON ({error})") from None


def _split_lines(data: bytes, id_: str) -> tuple[list[bytes], bytes]:
    *lines, rest = data.split(b"\n")
    return lines, rest


def _split_raw(data: bytes, id_: str) -> tuple[list[bytes], bytes]:
    return split_raw(data, lambda size: CorruptRecord(id=id_, problem=f"a piece of its payload has {size} bytes"))
