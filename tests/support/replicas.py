"""What a copy of the state reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from replicator.format.codec import SnapshotEncoder
from replicator.format.ids import ZERO_ID, RecordId, Writer
from replicator.format.records import PartRecord, Record, seal_part
from replicator.testing import MemoryLog

from .worlds import Author

ME = Writer("b", "boot-b")


def all_of(log: MemoryLog) -> list[Record]:
    return log.read(ZERO_ID, count=1000).records


def snapshot_of(
    author: Author,
    pieces: Iterable[Any],
    *,
    digest: str | None = None,
    replaces: bool = False,
    ends: tuple[RecordId, ...] = (),
    ledger: bytes = b"",
) -> PartRecord:
    """A whole snapshot in one part, behind what the author wrote."""
    encoder = SnapshotEncoder(ledger=ledger)
    body = b"".join(encoder.feed(piece) for piece in pieces) + encoder.finish()
    return seal_part(
        writer=author.writer, term=author.term, after=author.position, n=author.position.id.n + 1, at=0,
        codec=encoder.codec, digest=digest or encoder.digest, part=0, parts=1, as_of=author.position,
        changed=ZERO_ID, replaces=replaces, ends=ends, body=body,
    )  # fmt: skip
