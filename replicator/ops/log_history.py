"""Reads the log for people: its records (`replicator log`), and which node held which term and why (`history`).

Both read the log in order from its oldest record, and nothing else: no node has to be there. The log is trimmed, so
what is older than the oldest snapshot that it keeps cannot be told; of a term whose own record is gone, only what its
later records say is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..format.ids import ZERO_ID, RecordId
from ..format.records import ACT, ChangeRecord, PartRecord, Record, TermRecord
from ..log.interface import Log

__all__ = [
    "Term",
    "history",
    "records",
]


def records(log: Log, *, after: RecordId = ZERO_ID, follow: bool = False) -> Iterator[Record]:
    """Yield the records after `after`; with `follow`, also those that are still to come. Raises `CorruptRecord`."""
    while True:
        batch = log.read(after, block_ms=500 if follow else None)
        yield from batch.records
        if batch.corrupt is not None:
            raise batch.corrupt
        if batch.records:
            after = batch.records[-1].id
        elif not follow:
            return


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One term, as its own record and those after it show it. `holder`: the node that took it.

    `first_id`: the oldest of its records that the log still has, written at `first_written_at` (unix ms); `last_id`:
    its newest. `change_count`, `snapshot_count`: how many it has. `skipped_id`: the change that it goes on without.
    """

    term: int
    holder: str
    boot: str
    run: str | None
    by: str | None
    reason: str | None
    first_written_at: int
    first_id: str
    last_id: str
    change_count: int
    snapshot_count: int
    skipped_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def history(log: Log) -> list[Term]:
    """The terms of which the log still has records, oldest first.

    If the record of a term itself was trimmed away, `run`, `by` and `reason` are None: not known.
    """
    terms: list[Term] = []
    for record in records(log):
        if not terms or terms[-1].term != record.id.term:
            terms.append(_opened(record))
        terms[-1] = _with(terms[-1], record)
    return terms


def _opened(record: Record) -> Term:
    """The term of `record`, which is the first one of it that the log has."""
    opens = record if isinstance(record, TermRecord) else None
    return Term(
        term=record.id.term,
        holder=record.node,
        boot=record.boot,
        run=opens.run if opens else None,
        by=opens.by if opens else None,
        reason=opens.reason if opens else None,
        first_written_at=record.at,
        first_id=str(record.id),
        last_id=str(record.id),
        change_count=0,
        snapshot_count=0,
        skipped_id=str(opens.skip) if opens and opens.skip != ZERO_ID else None,
    )


def _with(term: Term, record: Record) -> Term:
    changes = record.count if isinstance(record, ChangeRecord) and record.codec != ACT else 0
    ends = isinstance(record, PartRecord) and record.is_last
    return replace(
        term,
        last_id=str(record.id),
        change_count=term.change_count + changes,
        snapshot_count=term.snapshot_count + (1 if ends else 0),
    )
