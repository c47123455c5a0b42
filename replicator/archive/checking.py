"""Checks an archive as a whole: that nothing is missing between two segments, and that what is there is what was there.

By the links alone (names, footers, what follows what), or with the contents: the hash of each file, the chain of all
records, and then everything that `certify` checks of a log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import ConfigError
from ..format.ids import Position
from ..format.records import PartRecord, Record, TermRecord
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..ops.log_check import LogVerifier
from .catalog import Catalog, name_of
from .continuation import rebases
from .errors import ArchiveDamaged
from .segment import Footer, records_of

__all__ = ["ArchiveFacts", "TimelineFacts", "check"]

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineFacts:
    """One timeline. `trimmed`: its beginning was removed. `parent`: where its history comes from; empty: nothing before
    it is known. `first_at`, `last_at`: unix ms.
    """

    timeline: int
    reason: str
    parent_timeline: int | None
    parent_id: str | None
    trimmed: bool
    first_id: str
    last_id: str
    first_at: int
    last_at: int
    segment_count: int
    record_count: int
    change_count: int
    snapshot_count: int


@dataclass(kw_only=True, slots=True)
class ArchiveFacts:
    """What was checked, and found good. `bytes`: headers and bodies of all records."""

    segment_count: int = 0
    record_count: int = 0
    records_bytes: int = 0
    timelines: list[TimelineFacts] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(
    catalog: Catalog,
    *,
    contents: bool = True,
    group: str = "",
    rules: bool = False,
    progress: Progress = lambda _: None,
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
) -> ArchiveFacts:
    """Check the links, with `contents` every file, with `rules` also those of a log (`ops/log_check.py`).

    `group`: it has to be of this one; empty: of any. Raises `ArchiveDamaged`, `Violation`, `ConfigError`.
    """
    facts = ArchiveFacts()
    for timeline in sorted(catalog.timelines):
        footers = list(_linked(catalog, timeline))
        if group and footers[0].group != group:
            problem = f"the archive is of group {footers[0].group}, and this is group {group}: give it another place"
            raise ConfigError(setting="archive", problem=problem)
        facts.timelines.append(_facts(footers))
        facts.segment_count += len(footers)
        facts.record_count += sum(footer.record_count for footer in footers)
        facts.records_bytes += sum(footer.records_bytes for footer in footers)
    if rules:
        _check_rules(catalog, snapshot_bytes_max, progress)
    elif contents:
        for _ in _records(catalog, progress):
            pass
    return facts


def _linked(catalog: Catalog, timeline: int) -> Iterator[Footer]:
    """The footers of a timeline, each of which follows the one before it, and the first its parent."""
    before: Footer | None = None
    for footer in catalog.footers(timeline):
        if before is None and footer.number == 1 and footer.parent is not None:
            _check_parent(catalog, footer)
        if before is not None and footer.number != before.number + 1:
            missing = name_of(timeline, before.number + 1)
            raise ArchiveDamaged(name=missing, problem=f"it is missing, and {footer.name} is there")
        if before is not None and footer.prev != before.end.chain:
            problem = f"it begins with the chain {footer.prev}, and {before.name} ends with {before.end.chain}"
            raise ArchiveDamaged(name=footer.name, problem=problem)
        before = footer
        yield footer


def _check_parent(catalog: Catalog, first: Footer) -> None:
    assert first.parent is not None
    position = Position.parse(first.parent.position)
    # The record itself may have been removed; its chain is what counts, and the first part of a rebase has it as well.
    if first.prev != position.chain:
        problem = f"it says that it follows {position.id}, whose chain is {position.chain}, and it follows {first.prev}"
        raise ArchiveDamaged(name=first.name, problem=problem)
    # What is left of a timeline is always its end, so if there is anything of it, that position is.
    numbers = catalog.timelines.get(first.parent.timeline)
    if numbers and catalog.footer(first.parent.timeline, numbers[-1]).end.id < position.id:
        missing = name_of(first.parent.timeline, numbers[-1] + 1)
        raise ArchiveDamaged(name=missing, problem=f"it is missing, and {first.name} follows {position.id}")


def _facts(footers: list[Footer]) -> TimelineFacts:
    first, last = footers[0], footers[-1]
    return TimelineFacts(
        timeline=first.timeline,
        reason=first.reason,
        parent_timeline=first.parent.timeline if first.parent else None,
        parent_id=str(Position.parse(first.parent.position).id) if first.parent else None,
        trimmed=first.number != 1,
        first_id=first.first,
        last_id=str(last.end.id),
        first_at=first.first_at,
        last_at=last.last_at,
        segment_count=len(footers),
        record_count=sum(footer.record_count for footer in footers),
        change_count=sum(footer.change_count for footer in footers),
        snapshot_count=sum(len(footer.snapshots) for footer in footers),
    )


def _records(catalog: Catalog, progress: Progress) -> Iterator[tuple[Footer, Record]]:
    """Every record of the archive, in order."""
    for timeline in sorted(catalog.timelines):
        for footer in catalog.footers(timeline):
            for record in records_of(footer, catalog.data(footer), opens=catalog.opens(footer)):
                yield footer, record
        progress(f"timeline {timeline} is whole, up to {footer.end.id}")


def _check_rules(catalog: Catalog, snapshot_bytes_max: int, progress: Progress) -> None:
    """Those of the log. Where its reader lost the thread (a gap, records that Redis lost), they begin anew."""
    verifier = LogVerifier(snapshot_bytes_max=snapshot_bytes_max)
    #: Not every record can be a first one: a snapshot whose beginning is not there has to pass.
    passing = True
    for _, record in _records(catalog, progress):
        last = verifier.last
        if last is not None and not _goes_on(record, last):
            verifier.close()
            verifier, passing = LogVerifier(snapshot_bytes_max=snapshot_bytes_max), True
        if passing and not _may_begin(record):
            continue
        passing = False
        verifier.take(record)
    verifier.close()


def _goes_on(record: Record, last: Position) -> bool:
    return record.prev == last.chain or (rebases(record) and record.id.term == last.id.term)


def _may_begin(record: Record) -> bool:
    if isinstance(record, PartRecord):
        return record.part == 0 and record.as_of.id.term == record.id.term
    return isinstance(record, TermRecord)
