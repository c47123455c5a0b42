"""The parts of snapshots on a disk: a part that is sealed is kept with its id and its header.

They are sealed with it (`format/sealing.py`), and a row of a checkpoint, or a backup, has no other place for them.

    magic (16) | term (8) | n (8) | length of the header (4) | header | body

A part that is not sealed is its body alone, as ever.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from replicator.errors import CorruptRecord
from replicator.format.codec import SnapshotEncoder
from replicator.format.ids import Writer
from replicator.format.records import Closed, Opens, PartRecord, parse, seal_part
from replicator.format.seals import Refused
from replicator.format.snapshot_parts import Cutter
from replicator.protocol.fold import View

if TYPE_CHECKING:
    from replicator.format.sealing import Sealer

__all__ = ["bodies_of", "is_kept_sealed", "kept", "opened_part", "sealed_parts"]

#: No body begins like this by chance.
_MAGIC = b"\x00RPL sealed part"
_PLACE = struct.Struct(">16sQQI")

#: The writer of what is in no log. It leads in none, so in the log it would be nobody's.
_NO_BOOT = Writer("nobody", "no log")


def kept(record: PartRecord) -> bytes:
    """The part as it is kept."""
    if not record.is_sealed:
        return record.body
    return _PLACE.pack(_MAGIC, *record.id, len(record.header)) + record.header + record.body


def is_kept_sealed(row: bytes) -> bool:
    """Whether that part is a sealed one."""
    return row.startswith(_MAGIC)


def opened_part(row: bytes, part: int, opens: Opens, *, what: str) -> tuple[bytes, str]:
    """The payload of a part that was kept as the one of this number, and the digest that it tells if it is the last.

    Raises `CorruptRecord`, also if the keys do not open it; `what`: what it is of, for the message.
    """
    if not is_kept_sealed(row):
        _check_unsealed(opens, what)
        return row, ""
    if len(row) < _PLACE.size:
        raise CorruptRecord(id=what, problem="a part of its snapshot is cut short")
    _, term, n, length = _PLACE.unpack_from(row)
    begins = _PLACE.size + length
    record = parse(f"{term}-{n}", row[_PLACE.size : begins], row[begins:], opens)
    if not isinstance(record, PartRecord) or record.part != part:
        raise CorruptRecord(id=what, problem=f"part {part} of its snapshot is {record}")
    return record.payload, record.digest


def bodies_of(encoder: SnapshotEncoder, pieces: Iterable[Any]) -> Iterator[bytes]:
    """A state as the bodies of parts."""
    cutter = Cutter()
    for piece in pieces:
        yield from cutter.feed(encoder.feed(piece))
    yield from cutter.feed(encoder.finish())
    yield cutter.finish()


def sealed_parts(sealer: Sealer, encoder: SnapshotEncoder, bodies: Iterator[bytes], view: View) -> Iterator[bytes]:
    """The bodies of a state that is in no log, each as it is kept. `encoder`: it made them. `view`: with that state."""
    held, index = next(bodies), 0
    for body in bodies:
        yield kept(_part(sealer, encoder, held, index, view))
        held, index = body, index + 1
    yield kept(_part(sealer, encoder, held, index, view, is_last=True))


def _part(
    sealer: Sealer, encoder: SnapshotEncoder, body: bytes, index: int, view: View, *, is_last: bool = False
) -> PartRecord:
    after = view.position
    return seal_part(
        writer=_NO_BOOT,
        term=max(1, after.id.term),
        after=after,
        n=after.id.n + 1 + index,
        at=0,
        codec=encoder.codec,
        digest=encoder.digest if is_last else "",
        part=index,
        parts=index + 1 if is_last else 0,
        as_of=after,
        changed=view.changed,
        replaces=False,
        body=body,
        version=view.version,
        sealer=sealer,
    )


def _check_unsealed(opens: Opens, what: str) -> None:
    if opens is None or isinstance(opens, Closed):
        return
    try:
        opens.check_unsealed()
    except Refused as problem:
        raise CorruptRecord(id=what, problem=problem) from None
