"""The records of a log: what they carry, how they are written, how they are read.

A log entry has two fields: `h`, a JSON header, and `b`, the body. `seal_change` and `seal_part` build a record (the
promote script builds a term record), and `parse` reads one. All check the same rules, so nothing malformed is ever
folded. Records are frozen, and know the chain of their history up to and including themselves. Term and n are not in
the header: they are the record's id.

The invariants of a record, which `_check` and the reader of its kind enforce:

 1. its term is at least 1, its n is at least 1, and both are below 2^53;
 2. `prev` is a chain; node and boot are not empty;
 3. a change or a part says its codec; a change has a digest and counts what it carries (0 is a marker);
 4. a part's index is below the number of parts. Only the last part knows that number and carries the digest; in the
    others it is 0. Both are below 2^53, as are the ids that a header names;
 5. the body fits: BODY_BYTES_MAX.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import orjson

from replicator.errors import ChangeTooLarge, ConfigError, CorruptRecord

from .ids import TERM_MAX, ZERO_ID, Position, RecordId, Writer, extend_chain, new_tuple
from .seals import NO_KEY, SEAL_BYTES, Refused
from .term_ends import parse_ends, show_ends

if TYPE_CHECKING:
    from .sealing import Sealer, Sealing

__all__ = [
    "ACT",
    "BODY_BYTES_MAX",
    "CLOSED",
    "FORMAT_VERSION",
    "ChangeRecord",
    "Closed",
    "Opens",
    "PartRecord",
    "Record",
    "TermRecord",
    "is_private",
    "last_change_after",
    "parse",
    "seal_change",
    "seal_part",
]

FORMAT_VERSION = 1

#: Of records that are of a later version of the application than the first one. A program that knows of no versions
#: stops before them.
FORMAT_WITH_VERSION = 2

#: Of records whose body is sealed (`sealing.py`). A program that knows of no keys stops before them.
FORMAT_SEALED = 3


class Closed:
    """For whoever checks or copies sealed records, and does not look into them: they have no payload, and no digest."""


CLOSED = Closed()

#: What opens the records of a group; None: it has no key.
Opens: TypeAlias = "Sealing | Closed | None"

#: The codec of a change of the group itself: see `acts.py`.
ACT = "act"

#: A version is counted up by hand (VERSION_MAX in node/release.py is far below).
_VERSION_MAX = 2**31

#: A script argument of 1 MiB keeps Redis busy for 1.7 ms, one of 256 KiB for 0.4 ms.
BODY_BYTES_MAX = 256 * 1024

#: Whatever fits without a key fits with one.
_STORED_BYTES_MAX = BODY_BYTES_MAX + SEAL_BYTES

#: Far above the few hundred bytes of a header that replicator wrote.
HEADER_BYTES_MAX = 16 * 1024

_is_chain = re.compile("[0-9a-f]{32}").fullmatch

#: Version 00 of W3C's Trace Context, with ids that are none of zeros.
_is_trace = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What every record has. `body`: as it is in the log; `payload`: the same, opened if it is sealed."""

    id: RecordId
    node: str
    boot: str
    prev: str
    at: int
    header: bytes
    body: bytes
    payload: bytes
    chain: str

    kind: ClassVar[str]

    @property
    def writer(self) -> Writer:
        return Writer(self.node, self.boot)

    @property
    def is_sealed(self) -> bool:
        return self.payload is not self.body

    @property
    def position(self) -> Position:
        return Position(self.id, self.chain)

    def __str__(self) -> str:
        return f"{self.id} {self.kind} by {self.node}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TermRecord(Record):
    """Opens a term: from here on only `node`, in this boot, writes.

    `ends`: the last records of the terms before it (see `term_ends.py`). `app`: of which application the log is; empty:
    whoever wrote it knew of none. `version`: that at which a log begins that this record founds. `skip`: the last
    change before it, if the term is taken to go on without that (`protocol/skip.py`); 0-0: it is not.
    """

    log_id: str
    run: str
    by: str
    reason: str
    ends: tuple[RecordId, ...] = ()
    app: str = ""
    version: int = 1
    skip: RecordId = ZERO_ID

    kind = "term"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeRecord(Record):
    """A batch of application changes. An empty one is a marker: every node reports the digest of its state there.

    `wants_acks`: how many standbys a caller waits for, so they acknowledge the record once it is on their disks; 0: no
    caller waits. `version`: the one that the group is at from here on, if this is an act that says so (`acts.py`).
    `trace`: the span in which it was appended (`tracing.py`), as W3C's traceparent; empty: none.
    """

    codec: str
    digest: str
    count: int
    wants_acks: int = 0
    version: int = 0
    trace: str = ""

    kind = "change"


class _ChangeDraft(Record):
    """A change record while its fields are set, all of them; `finished` freezes it.

    The constructor of a frozen dataclass sets each field by a call of `object.__setattr__`, and takes as long as all
    the rest of a record. Nearly all records are changes, and on a primary a caller waits for each.
    """

    __slots__ = ("codec", "count", "digest", "trace", "version", "wants_acks")

    # Those of `Record` refuse; with all three from `object`, Python sets a slot without a call. The slots are those of
    # `ChangeRecord`, or it would not let the draft become one.
    if not TYPE_CHECKING:
        __init__ = object.__init__
        __setattr__ = object.__setattr__
        __delattr__ = object.__delattr__
    else:

        def __init__(self) -> None: ...

        id: RecordId
        node: str
        boot: str
        prev: str
        at: int
        header: bytes
        body: bytes
        payload: bytes
        chain: str
        codec: str
        digest: str
        count: int
        wants_acks: int
        version: int
        trace: str

    def finished(self) -> ChangeRecord:
        frozen: Any = self
        frozen.__class__ = ChangeRecord
        return frozen  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRecord(Record):
    """One part of a snapshot of the state as of `as_of`, whose last change was `changed`.

    `parts` is 0 in all parts but the last, so a snapshot can be sent while it is still being drawn. With `replaces` the
    snapshot does not describe the history so far: at its last part it takes the place of that history. The last part
    also carries `ends`, those of the history that the snapshot describes, and `wants_acks`, as a change does.
    `version`: the one that the group was at there.
    """

    codec: str
    digest: str
    part: int
    parts: int
    as_of: Position
    changed: RecordId
    replaces: bool
    ends: tuple[RecordId, ...] = ()
    wants_acks: int = 0
    version: int = 1

    kind = "part"

    @property
    def is_last(self) -> bool:
        return self.part + 1 == self.parts


def seal_change(
    *,
    writer: Writer,
    term: int,
    after: Position,
    at: int,
    codec: str,
    digest: str,
    count: int,
    body: bytes,
    wants_acks: int = 0,
    version: int = 0,
    trace: str = "",
    sealer: Sealer | None = None,
) -> ChangeRecord:
    """Make the change record that follows `after`; `body`: its payload. Raises `ChangeTooLarge` if it does not fit."""
    (node, boot), ((_, n), prev) = writer, after
    fields: dict[str, Any] = {
        "v": FORMAT_VERSION,
        "kind": "change",
        "node": node,
        "boot": boot,
        "prev": prev,
        "at": at,
        "codec": codec,
        "digest": digest,
        "count": count,
    }
    if wants_acks:
        fields["acks"] = int(wants_acks)
    if version:
        fields |= {"v": FORMAT_WITH_VERSION, "version": version}
    if trace:
        fields["trace"] = trace
    id_ = new_tuple(RecordId, (term, n + 1))
    payload = body
    if sealer is None:
        header = _header_of(id_, fields, body)
    else:
        header, body = _sealed_with(sealer, id_, fields, body)
    # Unlike those of a part, its fields are not read back from the header: a caller is waiting for this record.
    record = _ChangeDraft()
    record.id = id_
    record.node = node
    record.boot = boot
    record.prev = prev
    record.at = at
    record.header = header
    record.body = body
    record.payload = payload
    record.chain = extend_chain(prev, header, body)
    record.codec = codec
    record.digest = digest
    record.count = count
    record.wants_acks = int(wants_acks)
    record.version = version
    record.trace = trace
    return record.finished()


def seal_part(
    *,
    writer: Writer,
    term: int,
    after: Position,
    n: int,
    at: int,
    codec: str,
    digest: str,
    part: int,
    parts: int,
    as_of: Position,
    changed: RecordId,
    replaces: bool,
    body: bytes,
    ends: tuple[RecordId, ...] = (),
    wants_acks: int = 0,
    version: int = 1,
    sealer: Sealer | None = None,
) -> PartRecord:
    """Make one part record that follows `after`; `n` is one above that of `after`, unless a rebase leaves a gap.

    Raises `ChangeTooLarge` if the body does not fit.
    """
    fields: dict[str, Any] = {
        "v": FORMAT_VERSION,
        "kind": "part",
        "node": writer.node,
        "boot": writer.boot,
        "prev": after.chain,
        "at": at,
        "codec": codec,
        "part": [part, parts],
        "as_of": str(as_of),
        "changed": str(changed),
    }
    if version > 1:
        fields |= {"v": FORMAT_WITH_VERSION, "version": version}
    if replaces:
        fields["replaces"] = True
    if parts:
        fields |= {"digest": digest, "ends": show_ends(ends)}
    if parts and wants_acks:
        fields["acks"] = int(wants_acks)
    id_, payload = RecordId(term, n), body
    if sealer is None:
        header = _header_of(id_, fields, body)
    else:
        header, body = _sealed_with(sealer, id_, fields, body)
    try:
        record = _record(id_, fields, header, body, payload)
    except (_Malformed, ConfigError) as problem:  # a writer's own mistake is found here, not by every reader
        raise CorruptRecord(id=str(id_), problem=str(problem)) from None
    assert isinstance(record, PartRecord)
    return record


def _sealed_with(sealer: Sealer, id_: RecordId, fields: dict[str, Any], payload: bytes) -> tuple[bytes, bytes]:
    """The header and the body of a sealed record. The digest of its payload is sealed, too."""
    digest = fields.pop("digest", "")
    fields["v"] = FORMAT_SEALED
    header = _header_of(id_, fields, payload)
    fields["digest"] = digest
    return header, sealer.seal(id_, header, payload, digest)


def _header_of(id_: RecordId, fields: dict[str, Any], payload: bytes) -> bytes:
    if len(payload) > BODY_BYTES_MAX:
        raise ChangeTooLarge(problem=f"it has {len(payload)} bytes, a record takes {BODY_BYTES_MAX}")
    header = orjson.dumps(fields)
    try:
        _check(id_, fields["node"], fields["boot"], fields["prev"], header, payload)
    except _Malformed as problem:
        raise CorruptRecord(id=str(id_), problem=str(problem)) from None
    return header


def is_private(opens: Opens) -> bool:
    """Whether this is of a group that has a key."""
    return opens is not None and not isinstance(opens, Closed)


def last_change_after(record: ChangeRecord | PartRecord, *, rebase: bool = False) -> RecordId | None:
    """The last change in the log's history once `record` is its end; None: the same as before it.

    A change moves it, and so does the last part of a snapshot that brings another history with it. A marker does not.
    """
    if isinstance(record, ChangeRecord):
        return record.id if record.count else None
    if not record.is_last:
        return None
    if record.replaces:
        return record.id
    return record.changed if rebase else None


def parse(id_: str, header: bytes | None, body: bytes | None, opens: Opens = None) -> Record:
    """Read one log entry. Raises `CorruptRecord`, which names the entry, for anything that is not a record.

    `opens`: what opens records of the group (`sealing.py`); None: the group has no key. Unknown fields of a header are
    ignored (a later version may add some); an unknown `v` or `kind` is an error.
    """
    try:
        return _parse(RecordId.parse(id_), header, body, opens)
    except (_Malformed, ConfigError, Refused) as problem:
        raise CorruptRecord(id=id_, problem=str(problem)) from None


class _Malformed(Exception):
    """What is wrong with a record; callers turn it into a `CorruptRecord`, which names the entry."""


def _parse(id_: RecordId, header: bytes | None, body: bytes | None, opens: Sealing | Closed | None) -> Record:
    """Read the header, whose checks come first: body and kind mean something only in a format that is known."""
    if header is None:
        hint = "`replicator recover` founds the log anew"
        raise _Malformed(f"it has no header field: something else wrote into the stream. {hint}")
    if len(header) > HEADER_BYTES_MAX:
        raise _Malformed(f"its header has {len(header)} bytes")
    try:
        fields = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise _Malformed(f"its header is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise _Malformed("its header is not a JSON object")
    version = fields.get("v")
    if type(version) is not int or version not in (FORMAT_VERSION, FORMAT_WITH_VERSION, FORMAT_SEALED):
        most = FORMAT_SEALED
        raise _Malformed(f"its format is {_named(version)}, this program reads up to {most}: update replicator")
    body = body or b""
    payload = body
    if opens is not None or version == FORMAT_SEALED:
        payload, fields["digest"] = _opened(id_, fields, header, body, opens)
    return _record(id_, fields, header, body, payload)


def _opened(id_: RecordId, fields: dict[str, Any], header: bytes, body: bytes, opens: Opens) -> tuple[bytes, Any]:
    """The payload, and its digest as the header or the seal has it. Raises `Refused`."""
    is_sealed = fields["v"] == FORMAT_SEALED
    if is_sealed and len(body) > _STORED_BYTES_MAX:
        raise _Malformed(f"its body has {len(body)} bytes, more than {_STORED_BYTES_MAX}")
    if opens is None:
        raise Refused(NO_KEY)
    if isinstance(opens, Closed):
        return (b"", "") if is_sealed else (body, fields.get("digest"))
    if is_sealed:
        return opens.open(id_, header, body)
    if fields.get("kind") == "term":
        opens.check_term(id_, fields)
    else:
        opens.check_unsealed()
    return body, fields.get("digest")


def _named(value: object) -> str:
    # Deeply nested values can be parsed but not shown: repr() would raise RecursionError.
    return repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _record(id_: RecordId, fields: dict[str, Any], header: bytes, body: bytes, payload: bytes) -> Record:
    """The record of a header that was just read or is about to be written."""
    kind = fields.get("kind")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    node, boot, prev, at = fields.get("node"), fields.get("boot"), fields.get("prev"), fields.get("at")
    if not (type(node) is str and type(boot) is str and type(prev) is str and type(at) is int):
        for name in ("node", "boot", "prev"):
            _take(fields, name, str)
        _take(fields, "at", int)
        raise AssertionError("one of them is not what it should be")
    if reader is None:
        raise _Malformed(f"its kind is {_named(kind)}: update replicator")
    _check(id_, node, boot, prev, header, payload)
    return reader(id_, fields, header, body, payload)


def _check(id_: RecordId, node: str, boot: str, prev: str, header: bytes, payload: bytes) -> None:
    """Check the invariants that hold for records of all kinds, whoever made them."""
    if not (1 <= id_.term <= TERM_MAX and 1 <= id_.n <= TERM_MAX):
        raise _Malformed("its id is not TERM-N with both from 1 to 2^53-1")
    if _is_chain(prev) is None:
        raise _Malformed("prev is not a chain (32 hex digits)")
    if not node or not boot:
        raise _Malformed("it does not say who wrote it")
    if len(header) > HEADER_BYTES_MAX:
        raise _Malformed(f"its header has {len(header)} bytes")
    if len(payload) > BODY_BYTES_MAX:
        raise _Malformed(f"its body has {len(payload)} bytes, more than {BODY_BYTES_MAX}")


def _common(id_: RecordId, fields: dict[str, Any], header: bytes, body: bytes, payload: bytes) -> dict[str, Any]:
    """What records of all kinds have."""
    common = {name: fields[name] for name in ("node", "boot", "prev", "at")}
    chain = extend_chain(fields["prev"], header, body)
    return {"id": id_, **common, "header": header, "body": body, "payload": payload, "chain": chain}


def _read_term(id_: RecordId, fields: dict[str, Any], header: bytes, body: bytes, payload: bytes) -> TermRecord:
    return TermRecord(
        **_common(id_, fields, header, body, payload),
        log_id=_take(fields, "log_id", str),
        run=_take(fields, "run", str),
        by=_take(fields, "by", str),
        reason=_take(fields, "reason", str),
        ends=_ends(fields),
        app=_take({"app": ""} | fields, "app", str),
        version=_version(fields, 1),
        skip=_in_range(RecordId.parse(_take({"skip": "0-0"} | fields, "skip", str))),
    )


def _read_change(id_: RecordId, fields: dict[str, Any], header: bytes, body: bytes, payload: bytes) -> ChangeRecord:
    """Nearly all records are changes, so one is made without the dict that those of other kinds are made through."""
    codec, digest, count = fields.get("codec"), fields.get("digest"), fields.get("count")
    if not (type(codec) is str and type(digest) is str and type(count) is int and count >= 0):
        if _take(fields, "count", int) < 0:
            raise _Malformed("count is below 0")
        for name in ("codec", "digest"):
            _take(fields, name, str)
        raise AssertionError("one of them is not what it should be")
    version = _version(fields, 0) if "version" in fields else 0
    if version and codec != ACT:
        raise _Malformed("only an act raises the version")
    record = _ChangeDraft()
    record.id = id_
    record.node = fields["node"]
    record.boot = fields["boot"]
    record.prev = prev = fields["prev"]
    record.at = fields["at"]
    record.header = header
    record.body = body
    record.payload = payload
    record.chain = extend_chain(prev, header, body)
    record.codec = codec
    record.digest = digest
    record.count = count
    record.wants_acks = _wants_acks(fields) if "acks" in fields else 0
    record.version = version
    record.trace = _trace(fields["trace"]) if "trace" in fields else ""
    return record.finished()


def _read_part(id_: RecordId, fields: dict[str, Any], header: bytes, body: bytes, payload: bytes) -> PartRecord:
    """What only the last part carries (digest, ends, acks) is ignored in the others."""
    place = fields.get("part")
    if not (isinstance(place, list) and len(place) == 2 and all(type(i) is int and 0 <= i <= TERM_MAX for i in place)):
        raise _Malformed("part is not [index, number]")
    part, parts = place
    if parts and part + 1 != parts:
        raise _Malformed("only the last part may say how many there are")
    as_of = Position.parse(_take(fields, "as_of", str))
    _in_range(as_of.id)
    return PartRecord(
        **_common(id_, fields, header, body, payload),
        codec=_take(fields, "codec", str),
        digest=_take(fields, "digest", str) if parts else "",
        part=part,
        parts=parts,
        as_of=as_of,
        changed=_in_range(RecordId.parse(_take(fields, "changed", str))),
        replaces=fields.get("replaces") is True,
        ends=_ends(fields) if parts else (),
        wants_acks=_wants_acks(fields) if parts else 0,
        version=_version(fields, 1),
    )


_READERS = {"term": _read_term, "change": _read_change, "part": _read_part}


def _wants_acks(fields: dict[str, Any]) -> int:
    acks = fields.get("acks")
    return int(acks) if isinstance(acks, int) and 0 < acks <= TERM_MAX else 0


def _trace(value: Any) -> str:
    # It decides nothing: what is none is none.
    return value if isinstance(value, str) and _is_trace(value) else ""


def _version(fields: dict[str, Any], default: int) -> int:
    version = fields.get("version", default)
    if type(version) is not int or not default <= version <= _VERSION_MAX:
        raise _Malformed("version is not a whole number above 0")
    return version


def _ends(fields: dict[str, Any]) -> tuple[RecordId, ...]:
    return tuple(map(_in_range, parse_ends(_take({"ends": ""} | fields, "ends", str))))


def _in_range(id_: RecordId) -> RecordId:
    # Checkpoints keep these ids in SQLite, scripts compare them as doubles.
    if id_.term > TERM_MAX or id_.n > TERM_MAX:
        raise _Malformed(f"{id_} is above 2^53-1")
    return id_


def _take(fields: dict[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if type(value) is not kind:
        raise _Malformed(f"{name} is missing or not {'a text' if kind is str else 'an integer'}")
    return value
