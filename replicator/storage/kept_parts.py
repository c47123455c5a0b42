"""The parts of snapshots on a disk: a part that is sealed is kept with its id and its header.

They are sealed with it (`format/sealing.py`), and a row of a checkpoint, or a backup, has no other place for them.

    magic (16) | term (8) | n (8) | length of the header (4) | header | body

A part that is not sealed is its body alone, as ever.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from replicator.errors import CorruptRecord
from replicator.format.records import Closed, PartRecord, parse
from replicator.format.seals import Refused

if TYPE_CHECKING:
    from replicator.format.records import Opens

__all__ = ["is_kept_sealed", "kept", "opened_part"]

#: No body begins like this by chance.
_MAGIC = b"\x00RPL sealed part"
_PLACE = struct.Struct(">16sQQI")


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


def _check_unsealed(opens: Opens, what: str) -> None:
    if opens is None or isinstance(opens, Closed):
        return
    try:
        opens.check_unsealed()
    except Refused as problem:
        raise CorruptRecord(id=what, problem=problem) from None
