"""Records, payloads, parts and heartbeats: what comes out of Redis, once it is bytes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest.mock import patch

import orjson

from replicator.errors import CorruptRecord
from replicator.format import codec
from replicator.format.codec import CHANGE_BYTES_MAX, SnapshotDecoder, decode_changes, digest_of, with_ledger
from replicator.format.ids import ORIGIN, TERM_MAX, ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer, extend_chain
from replicator.format.keyed import change_in, key_of
from replicator.format.patch import Gatherer, Maker, PatchHead, cut, rebuild
from replicator.format.records import BODY_BYTES_MAX, PartRecord, Record, parse, seal_change, seal_part
from replicator.format.snapshot_parts import Cutter, Progress, follow
from replicator.protocol.heartbeat import Heartbeat
from replicator.replica.ledger import Ledger
from tests.fuzz.engine import MIB, Target
from tests.fuzz.mutate import NASTY_TEXTS, Choices, bytes_near, edit_bytes, edits, json_near

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["TARGETS", "bomb", "check_peer", "heartbeat", "record_entry", "whole"]

Decode = Callable[[Any], bool]


def whole(decode: Decode) -> Callable[[], contextlib.AbstractContextManager[Decode]]:
    """For a decoder that needs nothing around it."""
    return lambda: contextlib.nullcontext(decode)


# --- record headers --------------------------------------------------------------------------------------------------

_CHAIN = "0123456789abcdef" * 2
_HERE = Position(RecordId(5, 1041), _CHAIN)
_A = Writer("a", "a1")


def _headers() -> Iterator[dict[str, Any]]:
    common = {"node": "a", "boot": "a1", "prev": _CHAIN, "at": 7, "v": 1}
    yield common | {"kind": "term", "log_id": "l", "run": "r", "by": "b", "reason": "", "ends": "1-7 4-900"}
    sealed = (
        seal_change(writer=_A, term=5, after=_HERE, at=7, codec="json", digest="d" * 32, count=1, body=b"[1]"),
        _part(0, 0),
        _part(3, 4),
        _part(0, 1, replaces=True),
    )
    yield from (orjson.loads(record.header) for record in sealed)


def _part(part: int, parts: int, *, replaces: bool = False) -> PartRecord:
    return seal_part(
        writer=_A,
        term=5,
        after=_HERE,
        n=1042,
        at=7,
        codec="json+zstd",
        digest="d" * 32 if parts else "",
        part=part,
        parts=parts,
        as_of=_HERE,
        changed=ZERO_ID,
        replaces=replaces,
        body=b"part",
        ends=(RecordId(1, 7),) if parts else (),
    )


HEADERS = tuple(_headers())
_IDS = ("5-1042", "1-1", f"{TERM_MAX}-{TERM_MAX}", f"{TERM_MAX + 1}-1", *NASTY_TEXTS)
_LARGE = (b"x" * BODY_BYTES_MAX, b"x" * (BODY_BYTES_MAX + 1), b"\x00" * (2 * BODY_BYTES_MAX))


def record_entry(choices: Choices) -> tuple[str, bytes | None, bytes | None]:
    """The id and the two fields of an entry that is a record, or almost."""
    id_ = choices.pick(_IDS) if choices.once_in(4) else _IDS[0]
    text = json_near(choices, choices.pick(HEADERS))
    header: bytes | None = text
    body: bytes | None = b"[1]"
    if choices.once_in(16):
        header = choices.pick((None, b"", choices.bytes(30), text + b" " * 16_000, text + b" " * 17_000))
    if choices.once_in(8):
        body = choices.pick((None, choices.bytes(30), *_LARGE))
    return id_, header, body


def _record(entry: tuple[str, bytes | None, bytes | None]) -> bool:
    id_, header, body = entry
    try:
        record = parse(id_, header, body)
    except CorruptRecord as problem:
        _check_names(problem, id_)
        return False
    assert header is not None
    assert record.id == RecordId.parse(id_)
    assert (record.header, record.body) == (header, body or b"")
    assert record.chain == extend_chain(record.prev, header, body or b"")
    _check_record(record)
    return True


def _check_names(problem: CorruptRecord, id_: str) -> None:
    assert problem.fields["id"] == id_
    assert str(problem)


def _check_record(record: Record) -> None:
    """The invariants of format/records.py, once more."""
    assert _in_range(record.id)
    assert record.id.term
    assert record.id.n
    assert record.node
    assert record.boot
    assert len(record.body) <= BODY_BYTES_MAX
    assert all(map(_in_range, getattr(record, "ends", ())))
    if isinstance(record, PartRecord):
        assert not record.parts or record.is_last
        # A checkpoint keeps these in SQLite, and the scripts compare them as doubles.
        assert 0 <= record.part <= TERM_MAX
        assert _in_range(record.as_of.id)
        assert _in_range(record.changed)
    str(record)


def _in_range(id_: RecordId) -> bool:
    return 0 <= id_.term <= TERM_MAX and 0 <= id_.n <= TERM_MAX


# --- change bodies ---------------------------------------------------------------------------------------------------

_CHANGES: tuple[list[Any], ...] = (
    [1],
    [],
    ["x", {"op": "register", "hostname": "a"}],
    [None, True, 1.5, [], {}],
    [{"k": "v" * 300}] * 5,
    [[[1, 2]]],
)
_OPTIONS = zstd.CompressionParameter


def _unsized(payload: bytes, **options: int) -> bytes:
    """A frame that does not say how large it is inside."""
    packer = zstd.ZstdCompressor(options={getattr(_OPTIONS, name): value for name, value in options.items()})
    return packer.compress(payload) + packer.flush()


def bomb(size: int, payload: bytes = b"0") -> bytes:
    """`size` bytes in a few, which do not say how many they are."""
    packer = zstd.ZstdCompressor(level=1)
    block = payload * (MIB // len(payload))
    return b"".join([*(packer.compress(block) for _ in range(size // MIB)), packer.flush()])


_SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
_BOMBS = (
    zstd.compress(b"0" * (CHANGE_BYTES_MAX + 1)),
    zstd.compress(b"0" * (8 * MIB)),
    bomb(8 * MIB),
    bomb(8 * MIB, b"[],"),
    # 2^63 bytes and more, says the frame's header, and holds none of them.
    b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\x00\x00",
    b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x7f\x01\x00\x00",
    _SKIPPABLE,
)

_PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda payload: payload,
    "zstd": zstd.compress,
    "unsized": _unsized,
    "checksummed": lambda payload: _unsized(payload, checksum_flag=1),
    "wide": lambda payload: _unsized(payload, window_log=27),
    "two": lambda payload: zstd.compress(payload) + zstd.compress(b"[]"),
    "skippable": lambda payload: _SKIPPABLE + zstd.compress(payload),
}


def _packing(choices: Choices) -> str:
    return choices.pick(tuple(_PACKINGS)) if choices.once_in(4) else "zstd"


def _packed(choices: Choices, payload: bytes, packing: str) -> bytes:
    body = _PACKINGS[packing](payload)
    return edit_bytes(body, edits(choices)) if choices.once_in(4) else body


#: With what brackets and commas are looked for behind.
_KEYS = (None, "k", 'a"b', "[,]", "é", "", "k" * 300, 5)


def _change(choices: Choices) -> tuple[str, bytes, str, int]:
    changes = choices.pick(_CHANGES)
    name = choices.pick(("json", "json+zstd", "keyed", "keyed+zstd"))
    if name.startswith("keyed"):
        changes = [[choices.pick(_KEYS), change] for change in changes]
    payload = json_near(choices, changes)
    body = _packed(choices, payload, _packing(choices) if name.endswith("zstd") else "plain")
    digest, count = digest_of(payload), len(changes)
    if choices.once_in(8):
        name, count = (
            choices.pick(("json", "json+zstd", "keyed", "keyed+zstd", "raw", "")),
            choices.pick((count, 0, 1, -1, 2**64 - 1)),
        )
        digest = choices.pick((digest, digest_of(body), "", "é"))
    return name, choices.pick(_BOMBS) if choices.once_in(32) else body, digest, count


def _change_body(given: tuple[str, bytes, str, int]) -> bool:
    name, body, digest, count = given
    try:
        changes = decode_changes(name, body, digest, count, id_="5-1042")
    except CorruptRecord as problem:
        _check_names(problem, "5-1042")
        return False
    payload = zstd.ZstdDecompressor().decompress(body) if name.endswith("zstd") else body
    assert digest_of(payload) == digest
    assert len(payload) <= CHANGE_BYTES_MAX
    assert len(changes) == count
    decoded = orjson.loads(payload)
    if name.startswith("keyed"):
        assert [key_of(change) for change in changes] == [entry[0] for entry in decoded]
        decoded = [entry[1] for entry in decoded]
    assert list(map(change_in, changes)) == decoded
    return True


# --- snapshots -------------------------------------------------------------------------------------------------------

#: As the real bound, in small: one piece is held whole, so inputs would take long to reach it.
_PIECE_BYTES_MAX = MIB

_SNAPSHOT_BOMBS = (
    bomb(3 * MIB),
    bomb(2 * MIB, b"[],"),
    zstd.compress(b"0\n" * 300_000),
    zstd.compress(b"\x00" * 300_000),
    zstd.compress(b"[" + b"[]," * 150_000 + b"0]\n"),
    zstd.compress(b"\x7f\xff\xff\xff" + b"x" * 100),
    zstd.compress(b"\x00\x0f\xff\xff" + b"x" * 3 * MIB),
    *_BOMBS,
)


_LEDGER = (
    b'{"keys":2}\n["k","5-1042",0,"0123456789abcdef0123456789abcdef",{"result":17}]\n'
    b'["order \\"4711\\"","5-1043",1,"0123456789abcdef0123456789abcdef",{"rejected":["ChangeRejected","no",{}]}]\n'
)


class _Snapshot(NamedTuple):
    """`size`: of the bodies that it is cut into."""

    codec: str
    payload: bytes
    body: bytes
    size: int
    digest: str


def _snapshot(choices: Choices) -> _Snapshot:
    if choices.below(2):
        name, payload = "raw+zstd", _frames(choices)
    else:
        name = "json+zstd"
        payload = b"".join(json_near(choices, choices.pick(_CHANGES)) + b"\n" for _ in choices.few(4))
    body, size = _packed(choices, payload, _packing(choices)), 1 + choices.below(60)
    if choices.once_in(128):
        payload, body, size = b"", choices.pick(_SNAPSHOT_BOMBS), BODY_BYTES_MAX
    digest = choices.pick(("", digest_of(body))) if choices.once_in(16) else digest_of(payload)
    if choices.once_in(3):
        ledger = edit_bytes(_LEDGER, edits(choices))
        name, digest, first = with_ledger(name, digest or digest_of(payload), ledger or _LEDGER)
        body = (edit_bytes(first, edits(choices)) if choices.once_in(4) else first) + body
    return _Snapshot(name, payload, body, size, digest)


def _frames(choices: Choices) -> bytes:
    frames = [bytes(choices.below(30)) for _ in choices.few(5)]
    payload = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    return edit_bytes(payload, edits(choices)) if choices.once_in(4) else payload


def _read_snapshot(given: _Snapshot) -> bool:
    bodies = [given.body[at : at + given.size] for at in range(0, len(given.body), given.size)]
    pieces: list[Any] = []
    decoder = SnapshotDecoder(given.codec, given.digest, id_="5-1042")
    try:
        for piece in decoder.pieces(bodies):
            # Whoever restores holds the pieces that it wants; the bound is on what the decoder holds.
            if len(pieces) < 50:
                pieces.append(piece)
        ledger = Ledger.of(decoder.ledger, id_="5-1042")
    except CorruptRecord as problem:
        _check_names(problem, "5-1042")
        return False
    assert ledger.image().to_bytes() == decoder.ledger
    plain = given.codec.replace("2+", "+")
    assert with_ledger(plain, digest_of(given.payload), decoder.ledger)[:2] == (given.codec, given.digest)
    if plain == "json+zstd":
        assert pieces == [orjson.loads(line) for line in given.payload.split(b"\n")[:-1]]
    else:
        assert b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces) == given.payload
    return True


@contextlib.contextmanager
def _small_pieces() -> Iterator[Decode]:
    with patch.object(codec, "PIECE_BYTES_MAX", _PIECE_BYTES_MAX):
        yield _read_snapshot


# --- parts -----------------------------------------------------------------------------------------------------------

_PLACES = ((0, 0), (1, 0), (2, 0), (2, 3), (1, 2), (0, 1), (3, 4), (2**53, 0), (2**64 - 1, 0), (2**64 - 2, 2**64 - 1))
_WRITERS = (_A, Writer("b", "b1"), Writer("a", "a2"))
_AS_OF = (_HERE, ORIGIN, Position(_HERE.id, ZERO_CHAIN))
_Stray = tuple[tuple[int, int], int, int, bool]


def _passing(choices: Choices) -> tuple[list[str | _Stray], list[bytes], int]:
    """Most parts continue the snapshot that is passing by; some are strays, before some the reader has seen a gap."""
    drawn: list[str | _Stray] = []
    for _ in range(choices.below(9)):
        kind = choices.below(8)
        stray = choices.pick(_PLACES), choices.below(3), choices.below(3), choices.once_in(10)
        drawn.append(("next" if kind < 4 else "last") if kind < 6 else stray)
    return drawn, [bytes(choices.below(20)) for _ in choices.few(5)], 1 + choices.below(12)


def _follow_parts(given: Any) -> bool:
    """Against a model: complete is what has all its parts, in order, of one writer and one state."""
    drawn, chunks, size = given
    progress: Progress | None = None
    passed: list[PartRecord] = []
    completed = False
    for one in drawn:
        record = _next_part(one, passed)
        if record is None:
            continue
        gap = isinstance(one, tuple) and one[3]
        progress = follow(None if gap else progress, record, _HERE.id)
        passed = [] if gap else passed
        if record.part and not _continues(passed, record):
            passed = []
            assert progress is None
            continue
        passed = [*passed, record] if record.part else [record]
        assert progress == Progress(
            record.writer, record.as_of, Position(_HERE.id, passed[0].prev), len(passed), record.is_last
        )
        assert progress.resume in (progress.as_of, progress.before)
        completed = completed or progress.complete
    _cut(chunks, size)
    return completed


def _next_part(one: Any, passed: list[PartRecord]) -> PartRecord | None:
    if isinstance(one, str):
        part = len(passed) if passed and not passed[-1].is_last else 0
        header = orjson.loads(_part(part, part + 1 if one == "last" else 0).header)
        if passed and part:
            header |= {"node": passed[0].node, "boot": passed[0].boot, "as_of": str(passed[0].as_of)}
    else:
        place, writer, as_of, _ = one
        header = orjson.loads(_part(0, 1).header) | {"part": list(place), "as_of": str(_AS_OF[as_of])}
        header |= _WRITERS[writer]._asdict()
    try:
        record = parse("5-1042", orjson.dumps(header), b"part")
    except CorruptRecord:
        return None
    assert isinstance(record, PartRecord)
    return record


def _continues(passed: list[PartRecord], record: PartRecord) -> bool:
    return (
        bool(passed)
        and not passed[-1].is_last
        and record.part == len(passed)
        and record.writer == passed[0].writer
        and record.as_of == passed[0].as_of
    )


def _cut(chunks: list[bytes], size: int) -> None:
    cutter = Cutter(size)
    bodies = [body for chunk in chunks for body in cutter.feed(chunk)]
    last = cutter.finish()
    assert b"".join([*bodies, last]) == b"".join(chunks)
    assert {len(body) for body in bodies} <= {size}
    assert len(last) <= size
    assert last or not bodies


# --- patches ---------------------------------------------------------------------------------------------------------

_OLD_PAYLOADS = tuple(
    b"".join(b"%08d a record that is like the others\n" % number for number in range(count))
    for count in (0, 3, 100, 400)
)


class _InMemory(NamedTuple):
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, end: int) -> bytes:
        assert 0 <= start <= end <= len(self.data)
        return self.data[start:end]


class _Patched(NamedTuple):
    """The bodies of some records, after which there is a patch of `old`, or almost."""

    old: bytes
    bodies: list[bytes]


def _patch(choices: Choices) -> _Patched:
    old = choices.pick(_OLD_PAYLOADS)
    new = edit_bytes(old, edits(choices)) + bytes(choices.below(700))
    maker = Maker(_InMemory(old), digest_of(old))
    maker.feed(new)
    made = maker.finish(raw=bool(choices.below(2)))
    assert made is not None
    if choices.once_in(3):
        # Behind the digests, where the lengths are, and the operations, and frames of zstd.
        head = choices.pick((4, 36, 53))
        made = made[:head] + edit_bytes(made[head:], edits(choices))
    if choices.once_in(32):
        made = made[:53] + choices.pick((b"\xff" * 40, b"\0" * 12, b"\0\0\0\4\0\0\0\1" + b"\xff" * 9, *_BOMBS))
    bodies = cut(made)
    if choices.once_in(8):
        bodies = [edit_bytes(body, edits(choices)) for body in bodies]
    return _Patched(choices.pick(_OLD_PAYLOADS) if choices.once_in(16) else old, bodies)


def _read_patch(given: _Patched) -> bool:
    gatherer, after = Gatherer(), _HERE
    patch_ = None
    try:
        for body in given.bodies:
            record = seal_change(
                writer=_A, term=5, after=after, at=7, codec="patch", digest=digest_of(body), count=1, body=body
            )
            after = record.position
            patch_ = gatherer.add(record)
        if patch_ is None:
            return False
        head = PatchHead.of(patch_, id_="5-1042")
        found = b"".join(rebuild(_InMemory(given.old), digest_of(given.old), patch_, id_="5-1042"))
    except CorruptRecord as problem:
        _check_names(problem, str(after.id) if patch_ is None else "5-1042")
        return False
    assert (digest_of(given.old), digest_of(found)) == (head.old_digest, head.new_digest)
    assert (len(given.old), len(found)) == (head.old_size, head.new_size)
    return True


# --- heartbeats ------------------------------------------------------------------------------------------------------

_BEATS = tuple(
    orjson.loads(heartbeat.to_json())
    for heartbeat in (
        Heartbeat("a", "a1"),
        Heartbeat(
            "b", "b1", run="r", term=5, role="primary", position=_HERE, changed=_HERE.id, http="http://b", digest="d"
        ),
        Heartbeat("c", "c1", every_ms=200, stalled="apply failed", digest_at=_HERE.id, candidate=True, log_id="l"),
    )
)


def heartbeat(choices: Choices) -> bytes:
    """What a node says of itself, or almost."""
    beat = choices.pick(_BEATS)
    return json_near(choices, beat) if choices.below(4) else bytes_near(choices, orjson.dumps(beat))


_PEER_TYPES = {name: type(value) for name, value in Heartbeat("a", "a1")._asdict().items()}


def check_peer(heartbeat: Heartbeat) -> None:
    """It is what its types say, and everything that the group does with a peer can be done with it."""
    assert {name: type(value) for name, value in heartbeat._asdict().items()} == _PEER_TYPES
    assert all(0 <= value <= TERM_MAX for value in heartbeat if type(value) is int)
    assert heartbeat.alive in (True, False)
    assert {heartbeat.node: heartbeat}
    assert Heartbeat.from_json(heartbeat.to_json(), age_ms=heartbeat.age_ms) == heartbeat


def _heartbeat(data: bytes) -> bool:
    heartbeat = Heartbeat.from_json(data, age_ms=17)
    if heartbeat is not None:
        check_peer(heartbeat)
    return heartbeat is not None


TARGETS = (
    Target(name="header", build=record_entry, opened=whole(_record)),
    Target(name="changes", build=_change, opened=whole(_change_body)),
    # A piece of 1 MiB that is `[],[],…` is some 30 times as large once it is lists.
    Target(name="snapshot", build=_snapshot, size=64, opened=_small_pieces, bytes_max=64 * MIB),
    # Edits come in stretches: what one may have is held, and its prefix.
    Target(name="patch", build=_patch, size=64, opened=whole(_read_patch), bytes_max=8 * MIB),
    Target(name="parts", build=_passing, size=64, opened=whole(_follow_parts)),
    Target(name="heartbeat", build=heartbeat, opened=whole(_heartbeat)),
)
