"""Patches: the difference between two payloads, as bytes.

What a state without `apply` publishes is mostly what it published before. A patch names the payload it starts from and
the one it yields, by their digests, and consists of *copies* (bytes of the old payload) and *edits* (new bytes). The
edits of a stretch are one zstd frame, whose prefix is the old bytes from about the same places: a number that changed
in a record costs a few bytes, not the whole record.

    patch    "RPT1", the old digest and the new one (16 bytes each), the old size and the new one (8 bytes each), 1 for
             raw pieces or 0 for JSON (1 byte), then stretches until the new size is reached
    stretch  the lengths of its operations, of its edits and of its frame (4 bytes each), the operations, the frame
    copy     varint length * 2, zigzag varint: where in the old payload, counted from where the last operation ended
    edit     varint length * 2 + 1, zigzag varint likewise, varint: how many old bytes from there belong to the prefix

**Made in one pass.** `Maker` compares the new bytes with the old payload at the current *drift* (the offset of an old
byte from its new place), in blocks that get smaller where they differ. Where they differ for long, something was
inserted or deleted: a few bytes from there are searched for in the old payload, first nearby, then further away, and a
match that continues long enough gives the new drift. So making a patch takes as long as comparing, and zstd sees only
what changed.

**Bounded.** Nobody holds a payload: both sides read the old one where they need it, and a stretch has a bound, so an 80
MB payload is patched in some MB of memory. A reader trusts no length: it checks each against its bound, and the output
of a frame against the declared size.

**One record or several.** A patch is cut into bodies that fit into a record (`cut`). If there are several, `Gatherer`
puts them together; they are one change all the same, and nothing happens before the last of them.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import xxhash

from replicator.errors import CorruptRecord, SnapshotRefused

from .file_changes import MAGIC as FILES_MAGIC
from .file_changes import FileChange
from .ids import Writer
from .pages import MAGIC as PAGES_MAGIC
from .pages import PageChange, as_text
from .records import BODY_BYTES_MAX, ChangeRecord
from .unpacked_size import SNAPSHOT_BYTES_MAX

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "CODEC",
    "EMPTY_DIGEST",
    "MAGIC",
    "PATCH_BYTES_MAX",
    "Gatherer",
    "Maker",
    "PatchHead",
    "Source",
    "cut",
    "placed",
    "rebuild",
]

#: The codec that the header of a change record names.
CODEC = "patch"

#: The digest of the payload before anything was published.
EMPTY_DIGEST = xxhash.xxh3_128_hexdigest(b"")

#: Limit on a patch, which its maker and every node that applies it hold in memory. Beyond it the whole state is sent.
PATCH_BYTES_MAX = 16 * 1024 * 1024

#: The sizes of the blocks that are compared, each where a block of the size before it differs. Where a few per cent
#: changed, most blocks of the smallest size are the same, and only the others go through zstd.
_BLOCKS = (64 * 1024, 4 * 1024, 512)
_LEAST = _BLOCKS[-1]

#: How much is compared at a time: bounds what is read of both payloads.
_WINDOW = 256 * 1024

#: A stretch ends once its edits or their prefix have this many bytes. It may exceed that by one window and its prefix.
_EDITS_BYTES = 512 * 1024
_PREFIX_BYTES = 2 * 1024 * 1024
_EDITS_BYTES_MAX = _EDITS_BYTES + _WINDOW
_PREFIX_BYTES_MAX = _PREFIX_BYTES + 3 * _WINDOW

#: A stretch also ends once its operations have this many bytes, even if they are all copies. An operation has at most
#: three varints, and an edit at least `_LEAST` bytes, but for the last one of a window.
_OPERATIONS_BYTES = 128 * 1024
_OPERATIONS_BYTES_MAX = _OPERATIONS_BYTES + 64 * (_WINDOW // _LEAST)

#: How many old bytes around an edit that changed the drift join the prefix: what was deleted there may recur nearby.
_SLACK = 2048

#: Another drift is sought after this many bytes that differ, then each time after twice as many, up to the maximum.
_SEEK_AFTER = 2048
_SEEK_EVERY_MAX = 2 * 1024 * 1024

#: How far away the first searches look, one after the other. Later ones look everywhere.
_SEEK_WITHIN = (32 * 1024, 32 * 1024, 256 * 1024, 1024 * 1024)

#: How many searches may look everywhere: in vain in a row, and altogether. For bytes that have nothing in common with
#: the old ones each would be a scan of the whole payload.
_SEEKS_IN_VAIN = 16
_SEEKS_EVERYWHERE = 100

#: How many bytes are searched for, and how many from there must be the same for a match.
_SAMPLE = 48
_SURE = 256

#: How many occurrences of a sample are tried: in a document of similar records there are many.
_TRIES = 16

#: How frames are made. zstd uses a prefix only without a digested dictionary (`as_prefix`), and only as far back as the
#: window reaches.
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 5,
    zstd.CompressionParameter.window_log: 23,
    zstd.CompressionParameter.checksum_flag: 0,
}

#: Refuses frames with a larger window: they are not ours, and a reader would have to allocate that much memory.
_READ_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}

#: zstd accepts no shorter dictionary.
_PREFIX_BYTES_MIN = 8

_HEAD = struct.Struct(">4s16s16sQQB")
MAGIC = b"RPT1"
_STRETCH = struct.Struct(">III")

#: The prefix of a body: a magic, which body it is, and of how many.
_PLACE = struct.Struct(">2sHH")
_PLACE_MAGIC = b"RP"
_CUT_BYTES = BODY_BYTES_MAX - _PLACE.size
_BODIES_MAX = -(-PATCH_BYTES_MAX // _CUT_BYTES)

#: Limit on the declared size of a payload: no disk holds more.
_SIZE_MAX = 2**53


class Source(Protocol):
    """A payload with random access."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, both from 0 to `size`."""
        ...


class PatchHead(NamedTuple):
    """The head of a patch. `raw`: the pieces of the payload are bytes, not JSON."""

    old_digest: str
    new_digest: str
    old_size: int
    new_size: int
    raw: bool

    def to_bytes(self) -> bytes:
        digests = bytes.fromhex(self.old_digest), bytes.fromhex(self.new_digest)
        return _HEAD.pack(MAGIC, *digests, self.old_size, self.new_size, self.raw)

    @classmethod
    def of(cls, patch: bytes, *, id_: str) -> PatchHead:
        """Read the head of `patch`. Raises `CorruptRecord`."""
        if patch[:4] == PAGES_MAGIC:
            return cls._of_pages(PageChange.head_of(patch, id_=id_))
        if patch[:4] == FILES_MAGIC:
            change = FileChange.head_of(patch, id_=id_)
            return cls(change.old_digest, change.digest, change.old_size, change.size, True)
        if len(patch) < _HEAD.size:
            raise CorruptRecord(id=id_, problem="its patch is too short")
        magic, old_digest, new_digest, old_size, new_size, raw = _HEAD.unpack_from(patch)
        if magic != MAGIC or raw > 1:
            raise CorruptRecord(id=id_, problem="its patch has a format that is not known here: update replicator")
        if max(old_size, new_size) > _SIZE_MAX:
            raise CorruptRecord(id=id_, problem="its patch declares a payload of an impossible size")
        return cls(old_digest.hex(), new_digest.hex(), old_size, new_size, raw == 1)

    @classmethod
    def _of_pages(cls, change: PageChange) -> PatchHead:
        """Another form of a patch (`pages.py`): its digests are of pages. (Those of `file_changes.py` are of lines.)"""
        sizes = change.old_page_count * change.page_size, change.page_count * change.page_size
        return cls(as_text(change.old_digest), as_text(change.digest), *sizes, True)


# --- making -----------------------------------------------------------------------------------------------------------


class _Stretch:
    """Operations that are not written yet."""

    def __init__(self) -> None:
        self.operations = bytearray()
        self.edits: list[bytes] = []
        self.prefix: list[bytes] = []
        self.edits_bytes = 0
        self.prefix_bytes = 0
        #: A copy that may still grow: where it starts in the old payload, and its length.
        self.copy = 0, 0

    @property
    def is_full(self) -> bool:
        return (
            self.edits_bytes >= _EDITS_BYTES
            or self.prefix_bytes >= _PREFIX_BYTES
            or len(self.operations) >= _OPERATIONS_BYTES
        )


class Maker:
    """Makes a patch from `old` to the new payload: `feed` all of that, then `finish`."""

    def __init__(self, old: Source, old_digest: str, *, most: int = PATCH_BYTES_MAX) -> None:
        """`most`: a larger patch is given up; 0: only the digest is wanted, no patch."""
        self._old = old
        self._old_digest = old_digest
        self._most = most
        self._held = bytearray()
        self._hash = xxhash.xxh3_128()
        self.size = 0
        self._done = 0  # bytes of the new payload that are in operations
        self._drift = 0
        self._differs = 0  # bytes since the last block that was the same
        self._seek_at = _SEEK_AFTER
        self._seeks = 0
        self._seeks_in_vain = 0
        self._seeks_everywhere = 0
        self._expected = 0  # where in the old payload the last operation ended
        self._stretch = _Stretch()
        self._written: list[bytes] = []
        self._written_bytes = _HEAD.size

    @property
    def given_up(self) -> bool:
        return self._written_bytes > self._most

    @property
    def digest(self) -> str:
        """The digest of what it was fed."""
        return self._hash.hexdigest()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the new payload."""
        self._hash.update(data)
        self.size += len(data)
        if self.given_up:
            return
        self._held += data
        while len(self._held) >= _WINDOW and not self.given_up:
            window = bytes(self._held[:_WINDOW])
            del self._held[:_WINDOW]
            self._compare(window)

    def finish(self, *, raw: bool) -> bytes | None:
        """Return the patch, or None if it was given up."""
        if self._held and not self.given_up:
            self._compare(bytes(self._held))
        self._held.clear()
        self._write()
        if self.given_up:
            return None
        head = PatchHead(self._old_digest, self.digest, self._old.size, self.size, raw)
        return b"".join([head.to_bytes(), *self._written])

    def _compare(self, new: bytes) -> None:
        """Turn one window into operations: copies where it is the same, edits where it is not."""
        at, begun, drift = 0, 0, self._drift
        old = self._old_beside(0, len(new))
        while at < len(new):
            same = self._same(new, old, at)
            if same:
                self._edit(new, begun, at, drift)
                self._copy(at, same)
                at = begun = at + same
                drift = self._drift
                self._differs, self._seeks, self._seek_at = 0, 0, _SEEK_AFTER
                continue
            step = min(_LEAST, len(new) - at)
            at += step
            self._differs += step
            if self._differs >= self._seek_at and (found := self._seek(new, at)) is not None:
                at, self._drift = found
                old = bytes(begun) + self._old_beside(begun, len(new))
                at = self._back(new, old, begun, at)
        self._edit(new, begun, at, drift)
        self._done += len(new)

    def _old_beside(self, start: int, end: int) -> bytes:
        """The old bytes at the current drift for a range of the window; zeros stand for places before the first one."""
        first, last = self._done + self._drift + start, self._done + self._drift + end
        missing = min(max(0, -first), end - start)
        first, last = (min(max(0, place), self._old.size) for place in (first, last))
        return b"\0" * missing + self._old.read(first, last)

    def _in_old(self, at: int) -> bool:
        return 0 <= self._done + self._drift + at < self._old.size

    def _same(self, new: bytes, old: bytes, at: int) -> int:
        """How many bytes from `at` are the same, in whole blocks."""
        if not self._in_old(at):
            return 0
        begun = at
        sizes = iter(_BLOCKS)
        size = next(sizes)
        while at < len(new):
            end = min(at + size, len(new))
            if end <= len(old) and new[at:end] == old[at:end]:
                at = end
            elif (smaller := next(sizes, 0)) == 0:
                break
            else:
                size = smaller
        return at - begun

    # --- another drift ---

    def _seek(self, new: bytes, at: int) -> tuple[int, int] | None:
        """Find where window and old payload are the same again: the place in the window, and the drift there."""
        self._seek_at = self._differs + min(2 * self._differs, _SEEK_EVERY_MAX)
        self._seeks += 1
        everywhere = self._seeks > len(_SEEK_WITHIN)
        if everywhere:
            if self._seeks_in_vain >= _SEEKS_IN_VAIN or self._seeks_everywhere >= _SEEKS_EVERYWHERE:
                return None
            self._seeks_in_vain += 1
            self._seeks_everywhere += 1
        within = self._old.size if everywhere else _SEEK_WITHIN[self._seeks - 1]
        places = [at + number * _LEAST for number in range(2 if everywhere else 4)]
        for place in places:
            sure = new[place : place + _SURE]
            if len(sure) == _SURE and sure.count(sure[:1]) < _SURE // 2:
                found = self._found(sure, self._done + place + self._drift, within)
                if found is not None and found - self._done - place != self._drift:
                    self._seeks_in_vain = 0
                    return place, found - self._done - place
        return None

    def _found(self, sure: bytes, about: int, within: int) -> int | None:
        """Find `sure` in the old payload, not further than `within` from `about`."""
        start, stop = max(0, about - within), min(self._old.size, about + within + _SURE)
        tries = 0
        while start < stop and tries < _TRIES:
            end = min(stop, start + _WINDOW + _SURE)
            part = self._old.read(start, end)
            place = part.find(sure[:_SAMPLE])
            while place >= 0 and tries < _TRIES:
                if part[place : place + _SURE] == sure:
                    return start + place
                tries += 1
                place = part.find(sure[:_SAMPLE], place + 1)
            start = end if end == stop else end - _SURE
        return None

    def _back(self, new: bytes, old: bytes, begun: int, at: int) -> int:
        """Where the match at the new drift begins: at `at`, or before it, down to `begun`."""
        for size in (*_BLOCKS[1:], 64, 8, 1):
            while at - size >= begun and self._in_old(at - size) and new[at - size : at] == old[at - size : at]:
                at -= size
        return at

    # --- operations ---

    def _copy(self, at: int, length: int) -> None:
        """Add a copy, or extend the one before it if this follows it in the old payload."""
        place = self._done + self._drift + at
        start, before = self._stretch.copy
        if before and start + before == place:
            self._stretch.copy = start, before + length
            return
        self._end_copy()
        if self._stretch.is_full:
            self._write()
        self._stretch.copy = place, length

    def _end_copy(self) -> None:
        stretch = self._stretch
        start, length = stretch.copy
        if length:
            self._operation(2 * length, start)
            self._expected = start + length
            stretch.copy = 0, 0

    def _edit(self, new: bytes, start: int, end: int, drift_before: int) -> None:
        """Add the new bytes from `start` to `end`, and to the prefix the old bytes that they probably resemble."""
        if start == end:
            return
        self._end_copy()
        first, last = self._beside(start, end, drift_before)
        self._operation(2 * (end - start) + 1, first)
        self._stretch.operations += _varint(last - first)
        self._expected = last
        self._stretch.edits.append(new[start:end])
        self._stretch.edits_bytes += end - start
        if last > first:
            self._stretch.prefix.append(self._old.read(first, last))
            self._stretch.prefix_bytes += last - first
        if self._stretch.is_full:
            self._write()

    def _beside(self, start: int, end: int, drift_before: int) -> tuple[int, int]:
        """The range of old bytes that an edit probably resembles: between the drift before it and the one after it."""
        places = self._done + start + drift_before, self._done + end + self._drift
        first, last = min(places), max(places)
        if drift_before != self._drift:
            first, last = first - _SLACK, last + _SLACK
        last = min(last, first + (end - start) + 2 * _SLACK)
        first, last = (min(max(0, place), self._old.size) for place in (first, last))
        return first, last

    def _operation(self, length_and_kind: int, start: int) -> None:
        self._stretch.operations += _varint(length_and_kind)
        self._stretch.operations += _varint(_zigzag(start - self._expected))

    def _write(self) -> None:
        self._end_copy()
        stretch, self._stretch = self._stretch, _Stretch()
        if not stretch.operations:
            return
        frame = _packed(b"".join(stretch.edits), b"".join(stretch.prefix)) if stretch.edits_bytes else b""
        lengths = _STRETCH.pack(len(stretch.operations), stretch.edits_bytes, len(frame))
        self._written += lengths, bytes(stretch.operations), frame
        self._written_bytes += len(lengths) + len(stretch.operations) + len(frame)


def _packed(data: bytes, prefix: bytes) -> bytes:
    # With the size pledged, the frame declares it, and its window is not larger than it has to be.
    packer = zstd.ZstdCompressor(options=_OPTIONS, zstd_dict=_as_prefix(prefix))
    packer.set_pledged_input_size(len(data))
    return packer.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)


def _as_prefix(prefix: bytes) -> tuple[zstd.ZstdDict, int] | None:
    return zstd.ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= _PREFIX_BYTES_MIN else None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


# --- applying ---------------------------------------------------------------------------------------------------------


class _Operation(NamedTuple):
    """A copy of `old_length` bytes of the old payload from `start`, or an edit for which they are prefix."""

    is_edit: bool
    length: int
    start: int
    old_length: int


def rebuild(old: Source, old_digest: str, patch: bytes, *, id_: str, most: int = SNAPSHOT_BYTES_MAX) -> Iterator[bytes]:
    """Apply a patch: the bytes of the new payload, in chunks of at most some MB.

    Raises `SnapshotRefused` if the patch would yield more than `most`, and `CorruptRecord` if it does not start from
    `old_digest`, if it is damaged, and, at the very end, if the result does not match its digest: do not believe the
    chunks before that.
    """
    head = PatchHead.of(patch, id_=id_)
    if head.new_size > most:
        problem = f"its patch yields {head.new_size} bytes, and this node accepts {most} (snapshot_bytes_max)"
        raise SnapshotRefused(id=id_, problem=problem)
    if (head.old_digest, head.old_size) != (old_digest, old.size):
        raise CorruptRecord(id=id_, problem="its patch starts from another payload than the one here")
    reader = _Reader(old, head, patch, id_)
    digest, size = xxhash.xxh3_128(), 0
    for chunk in reader.chunks():
        size += len(chunk)
        digest.update(chunk)
        yield chunk
    if size != head.new_size or digest.hexdigest() != head.new_digest:
        raise CorruptRecord(id=id_, problem="its patch does not yield what it declares: it was damaged")


class _Reader:
    """Applies one patch, and checks everything that it declares before relying on it."""

    def __init__(self, old: Source, head: PatchHead, patch: bytes, id_: str) -> None:
        self._old = old
        self._patch = memoryview(patch)
        self._left = head.new_size
        self._expected = 0
        self._id = id_

    def chunks(self) -> Iterator[bytes]:
        """The new payload, one stretch after the other."""
        at = _HEAD.size
        while at < len(self._patch):
            if len(self._patch) - at < _STRETCH.size:
                raise self._corrupt("ends too early")
            operations_bytes, edits_bytes, frame_bytes = _STRETCH.unpack_from(self._patch, at)
            at += _STRETCH.size
            if len(self._patch) - at < operations_bytes + frame_bytes:
                raise self._corrupt("ends too early")
            if operations_bytes > _OPERATIONS_BYTES_MAX or edits_bytes > _EDITS_BYTES_MAX:
                raise self._corrupt("has a stretch that is too large")
            operations = self._operations(bytes(self._patch[at : at + operations_bytes]), edits_bytes)
            at += operations_bytes
            yield from self._carried_out(operations, self._edits(self._patch[at : at + frame_bytes], operations))
            at += frame_bytes

    def _operations(self, data: bytes, edits_bytes: int) -> list[_Operation]:
        """All operations of a stretch, after checking that they stay within both payloads."""
        operations, at = [], 0
        edited = 0
        while at < len(data):
            kind_and_length, at = self._varint(data, at)
            away, at = self._varint(data, at)
            length, is_edit = kind_and_length >> 1, kind_and_length & 1 == 1
            start = self._expected + (away >> 1 if away & 1 == 0 else -(away >> 1) - 1)
            old_length = length
            if is_edit:
                old_length, at = self._varint(data, at)
                edited += length
            if start < 0 or start + old_length > self._old.size or length == 0:
                raise self._corrupt("has an operation outside of the payload")
            if old_length > length + 2 * _SLACK:
                # The prefix is read for each edit: an edit of a few bytes must not cause MBs to be read.
                raise self._corrupt("has a prefix that is too large")
            self._left -= length
            if self._left < 0:
                raise self._corrupt("yields more than it says")
            self._expected = start + old_length
            operations.append(_Operation(is_edit, length, start, old_length))
        if edited != edits_bytes or not operations:
            raise self._corrupt("has a stretch whose operations do not fit its edits")
        return operations

    def _varint(self, data: bytes, at: int) -> tuple[int, int]:
        value = shift = 0
        while at < len(data) and shift < 63:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise self._corrupt("has a number that does not end")

    def _edits(self, frame: memoryview, operations: list[_Operation]) -> bytes:
        """The new bytes of all edits of a stretch, unpacked with their old bytes as the prefix."""
        wanted = sum(operation.length for operation in operations if operation.is_edit)
        if not wanted:
            if frame:
                raise self._corrupt("has a frame without an edit")
            return b""
        regions = [(operation.start, operation.old_length) for operation in operations if operation.is_edit]
        if sum(length for _, length in regions) > _PREFIX_BYTES_MAX:
            raise self._corrupt("has a prefix that is too large")
        prefix = b"".join(self._old.read(start, start + length) for start, length in regions if length)
        try:
            declared = zstd.get_frame_info(frame).decompressed_size
            if declared != wanted:
                raise self._corrupt(f"has a frame of {declared} bytes for edits of {wanted}")
            unpacker = zstd.ZstdDecompressor(zstd_dict=_as_prefix(prefix), options=_READ_OPTIONS)
            edits = unpacker.decompress(frame, max_length=wanted + 1)
        except zstd.ZstdError as error:
            raise self._corrupt(f"has a frame that is not zstd, or of other bytes ({error})") from None
        if len(edits) != wanted or not unpacker.eof or unpacker.unused_data:
            raise self._corrupt("has a frame that is not whole")
        return edits

    def _carried_out(self, operations: list[_Operation], edits: bytes) -> Iterator[bytes]:
        at = 0
        for is_edit, length, start, _ in operations:
            if is_edit:
                yield edits[at : at + length]
                at += length
                continue
            for place in range(start, start + length, _WINDOW):
                yield self._old.read(place, min(place + _WINDOW, start + length))

    def _corrupt(self, problem: str) -> CorruptRecord:
        return CorruptRecord(id=self._id, problem=f"its patch {problem}: it was damaged")


# --- records ----------------------------------------------------------------------------------------------------------


def cut(patch: bytes) -> list[bytes]:
    """The bodies of the records that carry the patch."""
    starts = range(0, len(patch), _CUT_BYTES)
    return [
        _PLACE.pack(_PLACE_MAGIC, index, len(starts)) + patch[start : start + _CUT_BYTES]
        for index, start in enumerate(starts)
    ]


class _Begun(NamedTuple):
    """A patch of which some bodies have come: its writer, its term, and how many bodies it has."""

    writer: Writer
    term: int
    of: int
    bodies: tuple[bytes, ...]

    @property
    def expects(self) -> tuple[Writer, int, int, int]:
        return self.writer, self.term, self.of, len(self.bodies)


class Gatherer:
    """Puts patches together from the records of one history, in order."""

    def __init__(self) -> None:
        self._begun: _Begun | None = None

    def forget(self) -> None:
        """Drop an unfinished patch: the history continues elsewhere."""
        self._begun = None

    def add(self, record: ChangeRecord) -> bytes | None:
        """Return the patch that this record completes; None: more bodies are to come.

        Raises `CorruptRecord` if the record is no body of a patch, or does not follow those before it. An unfinished
        patch is dropped when another one begins.
        """
        index, count, data = placed(record)
        begun = self._begun
        if index == 0:
            begun = _Begun(record.writer, record.id.term, count, ())
        elif begun is None or begun.expects != (record.writer, record.id.term, count, index):
            problem = f"it is body {index + 1} of a patch whose other bodies did not come"
            raise CorruptRecord(id=str(record.id), problem=problem)
        bodies = (*begun.bodies, data)
        if index + 1 == count:
            return b"".join(bodies)  # `_begun` stays: the record may come again, if the disk refused it
        self._begun = begun._replace(bodies=bodies)
        return None


def placed(record: ChangeRecord) -> tuple[int, int, bytes]:
    """Read a body of a patch: which one it is, of how many, and its data. Raises `CorruptRecord`."""
    id_, body = str(record.id), record.payload
    if record.codec != CODEC or record.count != 1:
        raise CorruptRecord(id=id_, problem=f"its codec is {record.codec!r}, and this state accepts patches only")
    if xxhash.xxh3_128_hexdigest(body) != record.digest:
        raise CorruptRecord(id=id_, problem="its digest does not fit its body: it was damaged")
    if len(body) <= _PLACE.size:
        raise CorruptRecord(id=id_, problem="its body is too short for a patch")
    magic, index, count = _PLACE.unpack_from(body)
    if magic != _PLACE_MAGIC or not index < count <= _BODIES_MAX:
        raise CorruptRecord(id=id_, problem="its body is not that of a patch")
    return index, count, body[_PLACE.size :]
