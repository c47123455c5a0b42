"""A segment: a stretch of the log, record by record as it was in Redis, in one file that can be verified alone.

    "RPLSEG1\\n"   8 bytes
    blocks        one zstd frame each. In it, for each record: term and n (8 bytes each), the lengths of header and
                  body (4 bytes each), big-endian; then the header and the body, to the byte (docs/log-format.md)
    footer        JSON: which records these are, of which log, what they follow, and where the blocks are
    tail          the length of the footer (4 bytes), xxh3-128 of the footer (16 bytes), of the blocks and the footer
                  (16 bytes), "RPLSEGZ\\n"

The chain says whether the records are what was in the log, in that order: it begins with `prev`, the chain before the
first one, and ends with `last`. The hashes in the tail say it faster; that of the footer alone is for those who read
nothing else of a segment: what a footer tells decides which segments are read. Nothing in here acts: bytes in, values
out.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import orjson
import xxhash

from ..errors import ConfigError, CorruptRecord
from ..format.ids import ZERO_CHAIN, ZERO_ID, Position, RecordId
from ..format.patch import CODEC
from ..format.records import BODY_BYTES_MAX, ChangeRecord, Opens, PartRecord, Record, parse
from ..format.snapshot_parts import Progress, follow
from ..state.class_name import WHOLE
from .errors import ArchiveDamaged

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["TAIL_BYTES", "Block", "Builder", "Footer", "Parent", "Snapshot", "footer_of", "records_of", "verified"]

_MAGIC, _END = b"RPLSEG1\n", b"RPLSEGZ\n"
_ENTRY = struct.Struct(">QQII")
_TAIL = struct.Struct(">I16s16s8s")

#: What a reader asks for first: it has the footer of nearly all segments.
TAIL_BYTES = 16 * 1024

#: Records are packed together until they have so many bytes. A block may exceed it by one record.
_BLOCK_BYTES = 1024 * 1024

#: Parts of snapshots are packed already, headers are much the same: more effort gains nothing.
_LEVEL = 1

#: The most that a block unpacks to: one full record more than it should have, and headers.
_UNPACKED_BYTES_MAX = _BLOCK_BYTES + 2 * BODY_BYTES_MAX
_READ_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}

#: A reader trusts no length.
_FOOTER_BYTES_MAX = 64 * 1024 * 1024


class Block(NamedTuple):
    """Where a block is in the file, and its first record."""

    offset: int
    size: int
    term: int
    n: int


class Parent(NamedTuple):
    """Where the history of a timeline comes from: a position in another one."""

    timeline: int
    position: str


class Snapshot(NamedTuple):
    """A complete snapshot: the position whose state it is, its first part and its last. `at`: the stamp of the last."""

    as_of: str
    first: str
    last: str
    at: int

    @property
    def position(self) -> Position:
        return Position.parse(self.as_of)


@dataclass(kw_only=True, slots=True)
class Footer:
    """What a segment says of itself.

    `timeline`, `number`: its place in the archive. `reason`: why the timeline began, `parent`: where; None: nothing
    before it is known (a gap, or the beginning). `prev`: the chain before `first`, the id of the first record; `last`:
    the position of the last. `first_at`, `last_at`: the stamps of the two (unix ms, their writers' clocks);
    `max_at_before`, `max_at`: the latest stamp of the history before it, and with it. `state`: the class, if the
    archiver knew it. `rejects_errors`: as nodes have it (`on_apply_error`). `change_count`: the changes of the
    application. `snapshots`: those whose last part is in here; `begun`: one that is not complete at the end, as far as
    it got (its `last`, `at`: the newest part).
    """

    group: str
    timeline: int
    number: int
    log_id: str = ""
    app: str = ""
    state: str = ""
    rejects_errors: bool = False
    version: int = 1
    run: str = ""
    reason: str = ""
    parent: Parent | None = None
    prev: str = ZERO_CHAIN
    first: str = ""
    last: str = ""
    first_at: int = 0
    last_at: int = 0
    max_at_before: int = 0
    max_at: int = 0
    record_count: int = 0
    change_count: int = 0
    records_bytes: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)
    begun: Snapshot | None = None
    blocks: list[Block] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.timeline:06d}/{self.number:010d}.segment"

    @property
    def first_id(self) -> RecordId:
        return RecordId.parse(self.first)

    @property
    def end(self) -> Position:
        return Position.parse(self.last)


class Builder:
    """A segment that grows: `add` records in order, then `finish`. It is in memory: its bound is the caller's.

    `footer` says what is known before the first record. `progress`: the snapshot that is passing by.
    """

    def __init__(self, footer: Footer, *, progress: Progress | None = None) -> None:
        self.footer = footer
        self.progress = progress
        self._held = bytearray()
        self._held_from: RecordId | None = None
        self._out = bytearray(_MAGIC)

    @property
    def is_empty(self) -> bool:
        return self.footer.record_count == 0

    def add(self, record: Record, before: RecordId) -> None:
        """The next record, which follows the entry `before` in the log. The caller has compared the chains."""
        footer = self.footer
        if not footer.record_count:
            footer.prev, footer.first, footer.first_at = record.prev, str(record.id), record.at
        if self._held_from is None:
            self._held_from = record.id
        self._held += _ENTRY.pack(*record.id, len(record.header), len(record.body))
        self._held += record.header
        self._held += record.body
        footer.record_count += 1
        footer.records_bytes += len(record.header) + len(record.body)
        footer.last, footer.last_at = f"{record.id}@{record.chain}", record.at
        footer.max_at = max(footer.max_at, record.at)
        if isinstance(record, ChangeRecord):
            footer.change_count += record.count
            footer.version = max(footer.version, record.version)
            if record.codec == CODEC:
                footer.state = footer.state or WHOLE
        self._follow(record, before)
        if len(self._held) >= _BLOCK_BYTES:
            self._pack()

    def _follow(self, record: Record, before: RecordId) -> None:
        footer = self.footer
        if not isinstance(record, PartRecord):
            if record.kind == "term":
                self.progress, footer.begun = None, None
            return
        self.progress = follow(self.progress, record, before)
        if self.progress is None:
            footer.begun = None
            return
        begun = footer.begun if record.part and footer.begun else None
        # What replaces the state is what it is at its last part, and no state before that.
        place = record.position if record.replaces else record.as_of
        now = Snapshot(str(place), begun.first if begun else str(record.id), str(record.id), record.at)
        if record.is_last:
            footer.snapshots.append(now)
            footer.begun, footer.version = None, max(footer.version, record.version)
        else:
            footer.begun = now

    def _pack(self) -> None:
        if self._held_from is not None:
            packed = zstd.compress(bytes(self._held), level=_LEVEL)
            self.footer.blocks.append(Block(len(self._out), len(packed), *self._held_from))
            self._out += packed
            self._held.clear()
            self._held_from = None

    def finish(self) -> bytes:
        """The whole file. The same again if it is called again: what could not be published is tried again."""
        self._pack()
        footer = orjson.dumps({"format": 1, **asdict(self.footer)}, default=list)
        hashed = bytes(self._out[len(_MAGIC) :]) + footer
        digests = xxhash.xxh3_128_digest(footer), xxhash.xxh3_128_digest(hashed)
        return bytes(self._out) + footer + _TAIL.pack(len(footer), *digests, _END)


# --- reading ----------------------------------------------------------------------------------------------------------


def footer_of(name: str, tail: bytes) -> Footer | int:
    """The footer, from the last bytes of a file; a number: it takes so many of them. Raises `ArchiveDamaged`."""
    length, digest, _ = _tail_of(name, tail)
    needs = _TAIL.size + length
    return needs if len(tail) < needs else _footer(name, tail[-needs : -_TAIL.size], digest)


def _tail_of(name: str, tail: bytes) -> tuple[int, bytes, bytes]:
    # The length of the footer, its digest, and that of the whole.
    if len(tail) < _TAIL.size:
        raise ArchiveDamaged(name=name, problem="it has no end: it is not a segment, or was cut short")
    length, footer, whole, end = _TAIL.unpack(tail[-_TAIL.size :])
    if end != _END or length > _FOOTER_BYTES_MAX:
        raise ArchiveDamaged(name=name, problem="it does not end as a segment does: it was cut short, or damaged")
    return length, footer, whole


def _footer(name: str, data: bytes, digest: bytes) -> Footer:
    if xxhash.xxh3_128_digest(data) != digest:
        raise ArchiveDamaged(name=name, problem="the hash of its footer does not fit: it was damaged")
    try:
        fields = orjson.loads(data)
        if fields.pop("format") != 1:
            raise ArchiveDamaged(name=name, problem="its format is a later one: update replicator")
        known = {key: value for key, value in fields.items() if key in Footer.__dataclass_fields__}
        known["parent"] = Parent(*known["parent"]) if known["parent"] else None
        known["begun"] = Snapshot(*known["begun"]) if known["begun"] else None
        known["snapshots"] = [Snapshot(*each) for each in known["snapshots"]]
        known["blocks"] = [Block(*each) for each in known["blocks"]]
        footer = Footer(**known)
        _check_places(footer)
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise ArchiveDamaged(name=name, problem=f"its footer cannot be read ({error})") from None
    return footer


def _check_places(footer: Footer) -> None:
    RecordId.parse(footer.first)
    if footer.parent is not None and footer.parent.timeline >= footer.timeline:
        raise ValueError(f"timeline {footer.timeline} does not continue timeline {footer.parent.timeline}")
    for each in (footer.last, *(one.as_of for one in footer.snapshots)):
        Position.parse(each)


def verified(name: str, data: bytes) -> Footer:
    """The footer of a whole file, once its hash is right. Raises `ArchiveDamaged`."""
    length, footer, digest = _tail_of(name, data)
    at = len(data) - _TAIL.size - length
    if not data.startswith(_MAGIC) or at < len(_MAGIC):
        raise ArchiveDamaged(name=name, problem="it does not begin as a segment does")
    if xxhash.xxh3_128_digest(memoryview(data)[len(_MAGIC) : -_TAIL.size]) != digest:
        raise ArchiveDamaged(name=name, problem="its hash does not fit its bytes: it was damaged")
    return _footer(name, data[at : -_TAIL.size], footer)


def records_of(footer: Footer, data: bytes, *, after: RecordId = ZERO_ID, opens: Opens = None) -> Iterator[Record]:
    """The records in a whole file whose ids are above `after`, each of which follows the one before it.

    `opens`: see `parse`.

    Raises `ArchiveDamaged` where that is not so, or where they are not those that the footer tells.
    """
    first = _block_with(footer, after)
    chain = footer.prev if first == 0 else None
    last: Record | None = None
    for block in footer.blocks[first:]:
        for record in _unpacked(footer.name, data[block.offset :][: block.size], opens):
            if chain is not None and record.prev != chain:
                problem = f"{record.id} follows the chain {record.prev}, and the one before it is {chain}"
                raise ArchiveDamaged(name=footer.name, problem=problem)
            chain, last = record.chain, record
            if record.id > after:
                yield record
    if last is None or last.position != footer.end:
        raise ArchiveDamaged(name=footer.name, problem=f"it ends at {last and last.position}, and says {footer.last}")


def _block_with(footer: Footer, after: RecordId) -> int:
    """The index of the block in which the first record above `after` is, or which is before that one."""
    later = (index for index, block in enumerate(footer.blocks) if (block.term, block.n) > after)
    return max(0, next(later, len(footer.blocks)) - 1)


def _unpacked(name: str, packed: bytes, opens: Opens) -> Iterator[Record]:
    try:
        unpacker = zstd.ZstdDecompressor(options=_READ_OPTIONS)
        data = unpacker.decompress(packed, max_length=_UNPACKED_BYTES_MAX)
        if not unpacker.eof or unpacker.unused_data:
            raise ArchiveDamaged(name=name, problem="a block is not one whole zstd frame of the size of a block")
        at = 0
        while at < len(data):
            term, n, header, body = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            middle, end = at + header, at + header + body
            if end > len(data):
                raise ArchiveDamaged(name=name, problem="a block ends within a record")
            yield parse(f"{term}-{n}", data[at:middle], data[middle:end], opens)
            at = end
    except (zstd.ZstdError, struct.error) as error:
        raise ArchiveDamaged(name=name, problem=f"a block cannot be unpacked ({error})") from None
    except CorruptRecord as error:
        raise ArchiveDamaged(name=name, problem=str(error)) from None
