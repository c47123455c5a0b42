"""A state in one file that says what it is: of which application, at which position, and whether it is whole.

    "RPLBAK1\\n"   8 bytes
    body          a snapshot as the log has it (docs/log-format.md), its parts one after the other
    facts         JSON
    tail          the length of the facts (4 bytes), xxh3-128 of body and facts (16 bytes), "RPLBAKZ\\n"

It is read to its end before anything is done with it.

In a group that has a key (docs/sealed.md) the body has its sealed parts one after the other, each preceded by its
length (4 bytes), and the digest is sealed with the last one. The facts are not sealed, and say `"format": 2`.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import orjson
import xxhash

from .. import ops
from ..errors import ConfigError, CorruptRecord, LogLost, NotPrimary
from ..format.codec import SnapshotDecoder, SnapshotEncoder
from ..format.ids import ZERO_ID, Position, RecordId
from ..format.records import PartRecord
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..log.interface import Log
from ..replica.ledger import Ledger
from ..storage import disk
from ..storage.kept_parts import bodies_of, kept, opened_part, sealed_parts
from ..storage.keyring import Keys
from .errors import ArchiveUnavailable, BackupDamaged
from .folding import Folded

__all__ = ["Backup", "Facts", "described", "from_folded", "from_log", "newest_state", "opened"]

_MAGIC, _END = b"RPLBAK1\n", b"RPLBAKZ\n"
_TAIL = struct.Struct(">I16s8s")
_FACTS_BYTES_MAX = 1024 * 1024
_CHUNK = 256 * 1024

#: How often reading a snapshot from the log is begun anew: another one may have cut it meanwhile.
_READS_MAX = 5
_PARTS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a backup is of. `state`: the class of the state; `whole`: it has no `apply`; empty: not known.

    `at`: the stamp of the newest record in it, `made_at`: of the file (unix ms). `codec`, `digest`: of the body.
    """

    group: str
    app: str
    state: str
    version: int
    log_id: str
    position: str
    changed: str
    at: int
    made_at: int
    codec: str = ""
    digest: str = ""
    body_bytes: int = 0
    sealed: bool = False

    @property
    def id(self) -> RecordId:
        return Position.parse(self.position).id

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        told = asdict(self)
        del told["at"], told["changed"], told["sealed"]
        return told | {"position": str(self.id), "written_at": self.at, "app": self.app or None}


# --- writing ----------------------------------------------------------------------------------------------------------


def from_folded(
    path: Path,
    folded: Folded,
    *,
    state: str,
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    keys: Keys | None = None,
) -> Facts:
    """Write a state of an archive to a file, whole or not at all. Raises `ArchiveUnavailable` (the disk refuses)."""
    footer = folded.target.lineage.footer(folded.target.segment)
    facts = Facts(
        group=footer.group,
        app=footer.app,
        state=state,
        version=folded.view.version,
        log_id=footer.log_id,
        position=str(folded.view.position),
        changed=str(folded.view.changed),
        at=folded.target.at,
        made_at=int(time.time() * 1000),
    )
    encoder = SnapshotEncoder(most=snapshot_bytes_max, ledger=folded.ledger)

    bodies = bodies_of(encoder, folded.pieces())
    if keys is not None and (sealer := keys.of(footer.group).sealer) is not None:
        facts = replace(facts, sealed=True)
        bodies = _framed(sealed_parts(sealer, encoder, bodies, folded.view))
    return _written(path, bodies, lambda: facts, lambda: (encoder.codec, encoder.digest))


def newest_state(
    log: Log,
    *,
    by: str,
    timeout_s: float = 120.0,
    progress: ops.Progress = lambda _: None,
    warn: ops.Progress = lambda _: None,
) -> RecordId:
    """Have the primary send a snapshot, and give the record whose state it is; if no node leads, that of the newest
    snapshot in the log, and `warn` is told so. Raises `NotPrimary` if there is none, `TimeoutError`.
    """
    if any(node.role == "primary" and node.alive for node in ops.status(log).nodes):
        return RecordId.parse(ops.snapshot(log, by=by, timeout_s=timeout_s, progress=progress))
    head = log.look().head
    if head is None or head.snapshot_at == ZERO_ID:
        raise NotPrimary("no node leads, and the log has no snapshot: `replicator promote NODE`")
    warn(f"no node leads: this is the newest snapshot in the log, of {head.snapshot_at}")
    return head.snapshot_at


def from_log(path: Path, log: Log, *, as_of: RecordId, state: str) -> Facts:
    """Write the snapshot that the log has as of this record. Raises `LogLost` if it is not there any more,
    `CorruptRecord` if it cannot be read, as where it is sealed and there is no key.
    """
    for _ in range(_READS_MAX):
        parts = _parts(log, as_of)
        if parts:
            break
    else:
        raise LogLost(what=f"the snapshot of {as_of} was cut from the log {_READS_MAX} times while it was read")
    last = parts[-1]
    look = log.look()
    head = look.head
    place = last.position if last.replaces else last.as_of
    facts = Facts(
        group=log.group,
        app=head.app if head is not None else "",
        state=state,
        version=last.version,
        log_id=head.log_id if head is not None else "",
        position=str(place),
        changed=str(place.id if last.replaces else last.changed),
        at=parts[0].at,
        made_at=int(time.time() * 1000),
    )
    if not last.is_sealed:
        return _written(path, (part.body for part in parts), lambda: facts, lambda: (last.codec, last.digest))
    facts = replace(facts, sealed=True)
    return _written(path, _framed(map(kept, parts)), lambda: facts, lambda: (last.codec, last.digest))


def _framed(rows: Iterable[bytes]) -> Iterator[bytes]:
    for row in rows:
        yield len(row).to_bytes(4, "big") + row


def _parts(log: Log, as_of: RecordId) -> list[PartRecord]:
    """The parts of the snapshot of that record; none: it is not whole there, or not there any more."""
    parts: list[PartRecord] = []
    after = as_of
    while True:
        batch = log.read(after, count=_PARTS_AT_ONCE)
        for record in batch.records:
            if isinstance(record, PartRecord) and record.as_of.id == as_of:
                parts = [record] if record.part == 0 else [*parts, record]
                if record.is_last:
                    return parts if record.parts == len(parts) else []
            after = record.id
        if batch.corrupt is not None:
            raise batch.corrupt
        if not batch.records:
            return []


def _written(
    path: Path, body: Iterable[bytes], facts: Callable[[], Facts], codec: Callable[[], tuple[str, str]]
) -> Facts:
    draft = path.with_name(f".{path.name}.new")
    size, hashed = 0, xxhash.xxh3_128()
    try:
        draft.unlink(missing_ok=True)  # of a process that was killed here
        with open(disk.create(draft), "wb") as file:
            file.write(_MAGIC)
            for chunk in body:
                size += len(chunk)
                hashed.update(chunk)
                file.write(chunk)
            name, digest = codec()
            done = replace(facts(), codec=name, digest=digest, body_bytes=size)
            fields = asdict(done)
            is_sealed = fields.pop("sealed")
            told = orjson.dumps({"format": 1, **fields, **({"format": 2, "digest": ""} if is_sealed else {})})
            hashed.update(told)
            file.write(told + _TAIL.pack(len(told), hashed.digest(), _END))
        disk.publish(draft, path)
    except OSError as error:
        raise ArchiveUnavailable(place=path, problem=error.strerror or str(error)) from error
    finally:
        draft.unlink(missing_ok=True)
    return done


# --- reading ----------------------------------------------------------------------------------------------------------


class Backup:
    """A backup that was read to its end, and is whole: `opened` gives it."""

    def __init__(
        self, path: Path, file: IO[bytes], facts: Facts, snapshot_bytes_max: int, keys: Keys | None = None
    ) -> None:
        self._keys = keys
        self.path = path
        self.facts = facts
        self._file = file
        self._most = snapshot_bytes_max

    def pieces(self) -> Iterator[Any]:
        """See `State.snapshot`. Raises `BackupDamaged`."""
        facts = self.facts
        decoder = SnapshotDecoder(facts.codec, facts.digest, id_=str(facts.id), most=self._most)
        bodies = _body(self._file, facts.body_bytes)
        try:
            yield from decoder.pieces(self._opened(bodies, decoder) if facts.sealed else bodies)
            Ledger.of(decoder.ledger, id_=str(facts.id))
        except CorruptRecord as problem:
            raise BackupDamaged(path=self.path, problem=problem) from None

    def _opened(self, chunks: Iterator[bytes], decoder: SnapshotDecoder) -> Iterator[bytes]:
        """The payloads of sealed parts; the last one tells the digest."""
        opens = None if self._keys is None else self._keys.of(self.facts.group)
        held = bytearray()
        part = 0
        for chunk in chunks:
            held += chunk
            while len(held) >= 4 and len(held) >= (end := 4 + int.from_bytes(held[:4], "big")):
                payload, decoder.digest = opened_part(bytes(held[4:end]), part, opens, what="a part of it")
                del held[:end]
                part += 1
                yield payload
        if held:
            raise BackupDamaged(path=self.path, problem="it ends within a part")


@contextmanager
def opened(path: Path, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX, keys: Keys | None = None) -> Iterator[Backup]:
    """The backup in that file, once all of it was read and is right. Raises `BackupDamaged`, `ConfigError`.

    `keys`: those of its group, if it has some.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(setting="FILE", problem=f"{path} cannot be read: {error.strerror}") from None
    with file:
        backup = Backup(path, file, _facts(path, file), snapshot_bytes_max, keys)
        for _ in backup.pieces():
            pass
        yield backup


def described(path: Path) -> Facts:
    """What the file says of itself; its state is not read, so it may be damaged. Raises `BackupDamaged`, `OSError`."""
    with open(path, "rb", opener=disk.opener) as file:
        size = os.fstat(file.fileno()).st_size
        length, _ = _ends(path, file, size)
        file.seek(size - _TAIL.size - length)
        return _facts_of(path, file.read(length), size - _TAIL.size - length - len(_MAGIC))


def _facts(path: Path, file: IO[bytes]) -> Facts:
    size = os.fstat(file.fileno()).st_size
    length, digest = _ends(path, file, size)
    body_bytes = size - _TAIL.size - length - len(_MAGIC)
    hashed = xxhash.xxh3_128()
    for chunk in _body(file, body_bytes):
        hashed.update(chunk)
    told = file.read(length)
    hashed.update(told)
    if hashed.digest() != digest:
        raise BackupDamaged(path=path, problem="its hash does not fit its bytes")
    return _facts_of(path, told, body_bytes)


def _ends(path: Path, file: IO[bytes], size: int) -> tuple[int, bytes]:
    """The length of the facts, and the digest, if it begins and ends as a backup does."""
    if file.read(len(_MAGIC)) != _MAGIC or size < len(_MAGIC) + _TAIL.size:
        raise BackupDamaged(path=path, problem="it does not begin as one does")
    file.seek(size - _TAIL.size)
    length, digest, end = _TAIL.unpack(file.read(_TAIL.size))
    if end != _END or length > _FACTS_BYTES_MAX or size - _TAIL.size - length < len(_MAGIC):
        raise BackupDamaged(path=path, problem="it does not end as one does: it was cut short")
    return length, digest


def _facts_of(path: Path, told: bytes, body_bytes: int) -> Facts:
    try:
        fields = orjson.loads(told)
        version = fields.pop("format")
        if version not in (1, 2):
            raise BackupDamaged(path=path, problem="its format is a later one: update replicator")
        fields["sealed"] = version == 2
        facts = Facts(**{name: fields[name] for name in Facts.__dataclass_fields__})
        Position.parse(facts.position)
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise BackupDamaged(path=path, problem=f"what it says of itself cannot be read ({error})") from None
    if facts.body_bytes != body_bytes:
        raise BackupDamaged(path=path, problem="it has not the bytes that it says")
    return facts


def _body(file: IO[bytes], size: int) -> Iterator[bytes]:
    file.seek(len(_MAGIC))
    left = size
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            return
        left -= len(chunk)
        yield chunk
