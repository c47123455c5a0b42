"""Payloads: from application values to the bytes of a body, and back.

A codec is named in the header: `json` or `raw`, then optionally `+zstd`. The digest of a payload is xxh3-128 over the
*decoded* bytes (before compression), never over something re-serialised.

- A change's payload is one JSON list, of changes, or of [key or null, change] if one of them has a key (`keyed.py`).
- A snapshot's payload is a sequence of frames, one for each piece of the state. `json`: one JSON value per line. `raw`:
  each piece preceded by its length (4 bytes, big-endian). Both can be read while they are still arriving.
- `json2` and `raw2` have two zstd frames one after the other: what the library itself keeps (the *ledger*, bytes that
  mean nothing here), then the pieces as above. Their digest is that over the digests of the two.

Two traps are closed here. orjson writes NaN and infinities as `null`: they are refused. And what an application hands
in may differ from what JSON gives back (a tuple, a date, an object that is changed later): every node, including the
primary, applies what was *decoded*.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import orjson
import xxhash

from replicator.errors import ChangeTooLarge, CorruptRecord, NotJSON, SnapshotRefused

from .ids import new_tuple
from .keyed import NotKeyed, as_keyed, entries_of, keyed, unkeyed
from .unpacked_size import SNAPSHOT_BYTES_MAX, Weight

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "CHANGE_BYTES_MAX",
    "Encoded",
    "SnapshotDecoder",
    "SnapshotEncoder",
    "decode_changes",
    "digest_of",
    "digest_of_pieces",
    "encode_change",
    "encode_changes",
    "encoded",
    "encoded_keyed",
    "jsons_of",
    "ledger_in",
    "split_raw",
    "with_ledger",
]

#: Limit on a batch of changes: its JSON, before compression. The same as for the body of a record, so a batch fits with
#: or without zstd.
CHANGE_BYTES_MAX = 256 * 1024

#: Smaller batches are not compressed: packing 20 KB takes as long as a round trip to Redis with them, and a caller is
#: waiting.
_COMPRESS_FROM = 32 * 1024

#: On the JSON of a registry, level 1 compresses as well as level 3 and is twice as fast.
_LEVEL = 1

#: Limit on one piece of a snapshot. Without it a single line of JSON could fill the memory of every standby.
PIECE_BYTES_MAX = 64 * 1024 * 1024

#: Refuses frames with a larger window: they are not ours (level 1 needs 512 KiB), and a reader would have to allocate
#: that much memory.
_READ_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}

#: A ledger has at most 16 MiB of keys (`replica/ledger.py`), and something besides.
LEDGER_BYTES_MAX = 24 * 1024 * 1024

#: The codecs of a snapshot, with their counterparts that have a ledger.
_WITH_LEDGER = {"json+zstd": "json2+zstd", "raw+zstd": "raw2+zstd"}
_SNAPSHOTS = {*_WITH_LEDGER, *_WITH_LEDGER.values()}

#: Fragments of error messages.
_CHANGE = "the change"
_PIECE = "a piece of the snapshot"
_NOT_FINITE = "NaN and infinities have no place in it"
MIXED = "the pieces of a snapshot must be all bytes or all JSON, not a mix"

#: How much the decoder takes from zstd at a time. It bounds the memory that a decompression bomb can use, and is only a
#: few pieces long, so pieces are decoded as they arrive.
_CHUNK = 256 * 1024


def digest_of(payload: bytes) -> str:
    """xxh3-128 of `payload`, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(payload)


# --- changes ---------------------------------------------------------------------------------------------------------


class Encoded(NamedTuple):
    """Changes on their way into a record: their JSON, joined by commas, and the values that every node will decode.

    `keyed`: at least one of them has a key. Then the JSON has an entry for each (`keyed.py`), the values a `Keyed` for
    each with a key.
    """

    json: bytes
    changes: list[Any]
    keyed: bool = False


def encoded(changes: Sequence[Any]) -> Encoded:
    """Encode changes that go into one record together.

    Raises `NotJSON` (NaN and infinities are none), or `ChangeTooLarge` if they do not fit.
    """
    try:
        payload = orjson.dumps(changes if type(changes) is list else list(changes))
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJSON(what=_CHANGE, problem=error) from None
    # orjson writes NaN as null: a payload without a null has none, so most changes need no second look.
    if b"null" in payload and _has_nonfinite(changes):
        raise NotJSON(what=_CHANGE, problem=_NOT_FINITE)
    # orjson copies a Fragment unchecked. A payload that cannot be decoded would stop every node.
    try:
        decoded = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise NotJSON(what=_CHANGE, problem=error) from None
    if len(payload) > CHANGE_BYTES_MAX:
        raise ChangeTooLarge(problem=f"it has {len(payload)} bytes, a record takes {CHANGE_BYTES_MAX}")
    if len(decoded) != len(changes):
        raise NotJSON(what=_CHANGE, problem="a fragment in it is more, or less, than one JSON value")
    return new_tuple(Encoded, (payload[1:-1], decoded, False))


def encoded_keyed(changes: Sequence[Any], keys: Sequence[str | None]) -> Encoded:
    """The same for changes with keys; None: without. As many keys as changes, each of them one (`is_key`)."""
    if all(key is None for key in keys):
        return encoded(changes)
    jsons: list[bytes] = []
    decoded: list[Any] = []
    for change, key in zip(changes, keys, strict=True):
        json, (value,), _ = encoded([change])
        entry, value = (unkeyed(json), value) if key is None else keyed(key, json, value)
        jsons.append(entry)
        decoded.append(value)
    joined = b",".join(jsons)
    if len(joined) + 2 > CHANGE_BYTES_MAX:
        raise ChangeTooLarge(problem=f"with its key it has {len(joined) + 2} bytes, a record takes {CHANGE_BYTES_MAX}")
    return Encoded(joined, decoded, keyed=True)


def jsons_of(every: Iterable[Encoded], *, keyed: bool) -> list[bytes]:
    """What goes into one record together; with `keyed` entries of all, for one of them has a key."""
    if not keyed:
        return [each.json for each in every]
    return [each.json if each.keyed else as_keyed(each.json, len(each.changes)) for each in every]


def encode_change(change: Any) -> bytes:
    """One change as JSON. Raises what `encoded` raises."""
    return encoded([change]).json


def _has_nonfinite(value: Any) -> bool:
    """Whether a NaN or an infinity is, or may be, in `value`."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return True
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
        elif item is not None and not isinstance(item, str | int | float | bool):
            return True  # dataclasses and the like hide their floats: a null in them is not worth the doubt
    return False


def encode_changes(encoded: Iterable[bytes], codec: str = "json") -> tuple[str, bytes, str]:
    """Join encoded changes into one payload: its codec, body and digest. `codec`: `keyed`, for entries with keys."""
    payload = b"[" + b",".join(encoded) + b"]"
    digest = digest_of(payload)
    if len(payload) >= _COMPRESS_FROM:
        packed = zstd.compress(payload, level=_LEVEL)
        if len(packed) < len(payload):
            return f"{codec}+zstd", packed, digest
    return codec, payload, digest


def decode_changes(codec: str, body: bytes, digest: str, count: int, *, id_: object) -> list[Any]:
    """Decode the changes in a change record; one with a key is a `Keyed`.

    `id_`: of the record. Raises `CorruptRecord` if body, digest and count disagree.
    """
    if codec in ("json", "keyed"):
        payload = body
    elif codec in ("json+zstd", "keyed+zstd"):
        payload = _inflate(body, CHANGE_BYTES_MAX, id_)
    else:
        raise CorruptRecord(id=str(id_), problem=f"its codec is {codec!r}: update replicator")
    if digest_of(payload) != digest:
        raise CorruptRecord(id=str(id_), problem="its digest does not fit its body: it was damaged")
    try:
        changes = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise CorruptRecord(id=str(id_), problem=f"its body is not JSON ({error})") from None
    if not isinstance(changes, list) or len(changes) != count:
        raise CorruptRecord(id=str(id_), problem=f"its body is not a list of {count} changes")
    return changes if codec.startswith("json") else _keyed(payload, changes, id_)


def _keyed(payload: bytes, decoded: list[Any], id_: object) -> list[Any]:
    try:
        return entries_of(payload, decoded)
    except NotKeyed as problem:
        raise CorruptRecord(id=str(id_), problem=str(problem)) from None


def _inflate(body: bytes, most: int, id_: object) -> bytes:
    """Decompress at most `most` bytes: a bomb is refused by the size it declares, and by the size it really has."""
    try:
        declared = zstd.get_frame_info(body).decompressed_size
        if declared is not None and declared > most:
            raise CorruptRecord(id=str(id_), problem=f"it declares {declared} bytes, a record takes {most}")
        unpacker = zstd.ZstdDecompressor(options=_READ_OPTIONS)
        payload = unpacker.decompress(body, max_length=most + 1)
    except zstd.ZstdError as error:
        raise CorruptRecord(id=str(id_), problem=f"its body is not zstd ({error})") from None
    if len(payload) > most or not unpacker.eof or unpacker.unused_data:
        raise CorruptRecord(id=str(id_), problem="its body is not one whole zstd frame of a size that a record takes")
    return payload


# --- snapshots -------------------------------------------------------------------------------------------------------


class SnapshotEncoder:
    """Compresses the pieces of a snapshot as they come: `feed` each piece, then `finish`.

    The first piece decides between `json` and `raw`; a snapshot has one kind only. `most`: the most it may weigh.
    `ledger`: what the library keeps beside the state, if that is anything.
    """

    def __init__(self, *, most: int = SNAPSHOT_BYTES_MAX, ledger: bytes = b"") -> None:
        self._ledger = ledger
        self.codec = _codec(raw=False, ledger=ledger)
        self._weight = Weight(most)
        self._hash = xxhash.xxh3_128()
        self._packer = zstd.ZstdCompressor(level=_LEVEL)
        self._raw: bool | None = None

    def feed(self, piece: Any) -> bytes:
        """Add a piece; return the compressed bytes that are ready (often none).

        Raises `NotJSON` if the piece cannot be encoded, or `ChangeTooLarge` if the snapshot gets too heavy with it.
        """
        raw = isinstance(piece, bytes | bytearray | memoryview)
        before = b""
        if self._raw is None:
            self._raw = raw
            self.codec = _codec(raw=raw, ledger=self._ledger)
            before = self._packed_ledger()
        if raw != self._raw:
            raise NotJSON(MIXED)
        frame = frame_of(piece)
        check_weight(self._weight, frame, raw=raw)
        self._hash.update(frame)
        return before + self._packer.compress(frame)

    def finish(self) -> bytes:
        """Return the rest of the compressed bytes. From then on `digest` is that of the whole payload."""
        before = self._packed_ledger() if self._raw is None else b""
        return before + self._packer.flush()

    def _packed_ledger(self) -> bytes:
        return zstd.compress(self._ledger, level=_LEVEL) if self._ledger else b""

    @property
    def digest(self) -> str:
        return _digest_beside(self._ledger, self._hash.hexdigest())


def _codec(*, raw: bool, ledger: bytes) -> str:
    codec = "raw+zstd" if raw else "json+zstd"
    return _WITH_LEDGER[codec] if ledger else codec


def _digest_beside(ledger: bytes, digest: str) -> str:
    """The digest of a snapshot whose pieces have that digest."""
    return digest_of(bytes.fromhex(digest_of(ledger)) + bytes.fromhex(digest)) if ledger else digest


def with_ledger(codec: str, digest: str, ledger: bytes) -> tuple[str, str, bytes]:
    """Put a ledger before a snapshot that was encoded without: its codec, its digest, and the bytes that come first."""
    if not ledger:
        return codec, digest, b""
    return _WITH_LEDGER[codec], _digest_beside(ledger, digest), zstd.compress(ledger, level=_LEVEL)


def digest_of_pieces(pieces: Iterable[Any], *, ledger: bytes = b"") -> str:
    """The digest that a snapshot of these pieces would have. Nodes at equal positions have equal digests (G6)."""
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(frame_of(piece))
    return _digest_beside(ledger, digest.hexdigest())


def check_weight(weight: Weight, frame: bytes, *, raw: bool) -> None:
    """Count a piece that is about to be sent. Raises `ChangeTooLarge` if all of them weigh too much.

    A reader weighs a piece without its length prefix or newline, so what passes here is never too heavy for a reader.
    """
    if not weight.takes(frame, raw=raw):
        raise ChangeTooLarge(problem=weight.problem)


def frame_of(piece: Any) -> bytes:
    return _raw_frame(bytes(piece)) if isinstance(piece, bytes | bytearray | memoryview) else _json_frame(piece)


def _raw_frame(piece: bytes) -> bytes:
    if len(piece) > PIECE_BYTES_MAX:
        raise ChangeTooLarge(problem=f"a piece of {len(piece)} bytes; yield several of 64 KiB or so")
    return len(piece).to_bytes(4, "big") + piece


def _json_frame(piece: Any) -> bytes:
    try:
        frame = orjson.dumps(piece, option=orjson.OPT_APPEND_NEWLINE)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJSON(what=_PIECE, problem=error) from None
    if b"null" in frame and _has_nonfinite(piece):
        raise NotJSON(what=_PIECE, problem=_NOT_FINITE)
    if len(frame) > PIECE_BYTES_MAX:
        raise ChangeTooLarge(problem=f"a piece of {len(frame)} bytes; yield several of 64 KiB or so")
    return frame


def split_raw(data: bytes, too_large: Callable[[int], Exception]) -> tuple[list[bytes], bytes]:
    """The raw frames that are whole in it, without their lengths, and what is left. Raises `too_large(size)`."""
    frames: list[bytes] = []
    start = 0
    while len(data) - start >= 4:
        size = int.from_bytes(data[start : start + 4], "big")
        if size > PIECE_BYTES_MAX:
            raise too_large(size)
        if len(data) - start - 4 < size:
            break
        frames.append(data[start + 4 : start + 4 + size])
        start += 4 + size
    return frames, data[start:]


class SnapshotDecoder:
    """Decodes a snapshot: `pieces(bodies)` yields each piece once its bytes are there, and checks the digest last.

    Memory is bounded by the largest piece, and the weight of all pieces by `most`, whatever the bodies declare. Only
    the last part of a snapshot carries the digest, so `digest` may be set as late as when the last body is taken.
    """

    def __init__(self, codec: str, digest: str = "", *, id_: str, most: int = SNAPSHOT_BYTES_MAX) -> None:
        if codec not in _SNAPSHOTS:
            raise SnapshotRefused(id=id_, problem=f"its codec is {codec!r}: update replicator")
        self._lines = codec.startswith("json")
        self._has_ledger = codec not in _WITH_LEDGER
        #: What the library keeps beside the state, once the first piece was given; empty: nothing.
        self.ledger = b""
        self._wanted = 0  # bytes until the next piece can be whole
        self._weight = Weight(most)
        self.digest = digest
        self._id = id_
        self._hash = xxhash.xxh3_128()

    def pieces(self, bodies: Iterable[bytes]) -> Iterator[Any]:
        """Yield the pieces. Raises `SnapshotRefused` if the bytes are damaged, or do not match the digest.

        The digest is checked after the last piece: no piece may be believed before the iteration has ended.
        """
        # Chunks are joined only when a piece ends in them: a piece of many chunks is copied once, not once per chunk.
        rest: list[bytes] = []
        held = 0
        for chunk in self._unpack(self._after_ledger(bodies) if self._has_ledger else bodies):
            self._hash.update(chunk)
            rest.append(chunk)
            held += len(chunk)
            if held > PIECE_BYTES_MAX + _CHUNK:
                raise self._refused("a piece of it is too large")
            if held < self._wanted or (self._lines and b"\n" not in chunk):
                continue
            frames, left = self._split(b"".join(rest))
            rest, held = [left], len(left)
            yield from map(self._piece, frames)
        if held or _digest_beside(self.ledger, self._hash.hexdigest()) != self.digest:
            raise self._refused("its digest does not fit its parts: it was damaged")

    def ledger_of(self, bodies: Iterable[bytes]) -> bytes:
        """See `ledger_in`."""
        return self._first_frame(iter(bodies))[0] if self._has_ledger else b""

    def _after_ledger(self, bodies: Iterable[bytes]) -> Iterator[bytes]:
        """Take the ledger off the bodies, and give what comes after it."""
        rest = iter(bodies)
        self.ledger, left = self._first_frame(rest)
        return chain([left], rest)

    def _first_frame(self, bodies: Iterator[bytes]) -> tuple[bytes, bytes]:
        """Decompress the ledger: it, and what follows it in the body in which it ends."""
        unpacker = zstd.ZstdDecompressor(options=_READ_OPTIONS)
        ledger = b""
        try:
            for body in bodies:
                ledger += unpacker.decompress(body, max_length=LEDGER_BYTES_MAX + 1 - len(ledger))
                if len(ledger) > LEDGER_BYTES_MAX:
                    raise self._refused(f"its ledger has more than {LEDGER_BYTES_MAX} bytes")
                if unpacker.eof:
                    break
        except zstd.ZstdError as error:
            raise self._refused(f"it is not zstd ({error})") from None
        if not unpacker.eof or not ledger:
            raise self._refused("it has no whole ledger")
        return ledger, unpacker.unused_data

    def _split(self, data: bytes) -> tuple[list[bytes], bytes]:
        if self._lines:
            *frames, left = data.split(b"\n")
            return frames, left
        frames, left = split_raw(data, lambda size: self._refused(f"a piece of it has {size} bytes"))
        self._wanted = 4 + int.from_bytes(left[:4], "big") if len(left) >= 4 else 4
        return frames, left

    def _piece(self, frame: bytes) -> Any:
        # Decoded one at a time, on demand: a million decoded values that nobody has looked at yet only cost memory.
        if not self._weight.takes(frame, raw=not self._lines):
            raise self._refused(self._weight.problem)
        if not self._lines:
            return frame
        try:
            return orjson.loads(frame)
        except ValueError as error:
            raise self._refused(f"a piece of it is not JSON ({error})") from None

    def _unpack(self, bodies: Iterable[bytes]) -> Iterator[bytes]:
        """Decompress the bodies, which are one zstd frame together, in chunks of bounded size."""
        unpacker = zstd.ZstdDecompressor(options=_READ_OPTIONS)
        try:
            for body in bodies:
                data = body
                while data or not unpacker.needs_input:
                    if unpacker.eof:
                        raise self._refused("it goes on after its end")
                    yield unpacker.decompress(data, max_length=_CHUNK)
                    data = b""
                    if unpacker.eof:
                        break
        except zstd.ZstdError as error:
            raise self._refused(f"it is not zstd ({error})") from None
        if not unpacker.eof or unpacker.unused_data:
            raise self._refused("it is not one whole zstd frame")

    def _refused(self, problem: str) -> SnapshotRefused:
        return SnapshotRefused(id=self._id, problem=problem)


def ledger_in(codec: str, bodies: Iterable[bytes], *, id_: str) -> bytes:
    """The ledger of a snapshot, without its pieces; empty: it has none. Raises `SnapshotRefused`."""
    return SnapshotDecoder(codec, id_=id_).ledger_of(bodies)
