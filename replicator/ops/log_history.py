"""Reads for people what there was: the history of a group (`history`), and the records of its log (`replicator log`).

No node has to be there. The history tells of everything that was done to the group. A group that was there before the
history has one from the first act on that a script told; of the terms before it, what the log still has of them is
told, as `from_log`. The log is trimmed: of a term whose own record is gone, only its number and its holder are known.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..format.ids import ZERO_ID, RecordId
from ..format.records import Record, TermRecord
from ..log.interface import Log
from ..protocol.election import NOBODY
from ..protocol.history import History, HistoryEntry, merged
from .common import looked

__all__ = ["history", "records"]


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


def history(log: Log, *, reads_log: bool = True) -> History:
    """All that was done to the group, oldest first. Raises `LogUnavailable`, `CorruptRecord`.

    `reads_log`: if something is missing, read the whole log for the terms of which it still has records.
    """
    look, entries = looked(log), merged(_told(log))
    head = look.head
    found = History.of(entries, count=head.history_count if head else 0, term=head.term if head else 0)
    if found.complete or head is None or not reads_log:
        return found
    known = {entry.term for entry in entries if entry.takes_term}
    of_log = [entry for entry in _terms_of_log(log) if entry.term not in known]
    return History.of(merged(entries, of_log), count=head.history_count, term=head.term)


def _told(log: Log) -> Iterator[HistoryEntry]:
    page = log.history()
    while page.entries:
        yield from page.entries
        page = log.history(page.end)


def _terms_of_log(log: Log) -> Iterator[HistoryEntry]:
    """The terms of which the log still has records."""
    last = 0
    for record in records(log):
        if record.id.term != last:
            last = record.id.term
            yield _term_of(record)


def _term_of(record: Record) -> HistoryEntry:
    """The term of `record`, which is the first one of it that the log has."""
    term, node, boot = record.id.term, record.node, record.boot
    if not isinstance(record, TermRecord):
        return HistoryEntry(what="promote", term=term, node=node, boot=boot, from_log=True)
    what = "demote" if node == NOBODY.node else "takeover" if record.by == node else "promote"
    skips = record.skip != ZERO_ID
    return HistoryEntry(
        what="skip" if skips else what,
        term=term,
        at=record.at,
        node=node,
        boot=boot,
        by=record.by,
        reason=record.reason,
        run=record.run,
        id=str(record.id),
        skipped_id=str(record.skip) if skips else None,
        from_log=True,
    )
