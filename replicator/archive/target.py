"""Which state is meant: by the id of its last record, or by a time; and where in the archive that is.

A time means the last record before the first one that is stamped later. Stamps are of the writers' clocks, which may
differ: an id is exact. What the archive does not know is refused and not guessed: a time within a gap, before the
beginning, or after the moment up to which the archive is known to have everything.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from datetime import UTC, datetime
from typing import NamedTuple

from ..errors import ConfigError
from ..format.ids import RecordId
from .catalog import Catalog, Lineage
from .errors import NotInArchive
from .status import Status

__all__ = ["LATEST", "Target", "Wanted", "resolve"]

LATEST = "latest"

_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Wanted(NamedTuple):
    """What somebody asks for: an id, or a time (unix ms); neither: the newest state."""

    text: str = LATEST
    id: RecordId | None = None
    at: int | None = None

    @classmethod
    def parse(cls, text: str, *, now_ms: int | None = None) -> Wanted:
        """`5-1042`, `10s` (ago; also m, h, d), `2026-01-31T12:00:00Z` (UTC without a zone), `latest`. `ConfigError`."""
        if text == LATEST:
            return cls()
        if re.fullmatch("[0-9]+-[0-9]+", text):
            return cls(text, id=RecordId.parse(text))
        now = int(time.time() * 1000) if now_ms is None else now_ms
        if ago := _AGO.fullmatch(text):
            return cls(text, at=now - int(float(ago[1]) * _UNIT_S[ago[2]] * 1000))
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            problem = (
                f"{text!r} is no id (5-1042), no time (2026-01-31T12:00:00Z), no age (10s, 5m, 2h, 1d), not latest"
            )
            raise ConfigError(setting="at", problem=problem) from None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return cls(text, at=int(moment.timestamp() * 1000))


class Target(NamedTuple):
    """A record in a history. `at`: its stamp (unix ms). `segment`: where in the history it is."""

    lineage: Lineage
    id: RecordId
    at: int
    segment: int


def resolve(catalog: Catalog, wanted: Wanted, *, status: Status | None = None, timeline: int | None = None) -> Target:
    """Where that is. `timeline`: in the history of this one; None: of the newest that has it.

    Raises `NotInArchive`, `ConfigError` (no such timeline).
    """
    if not catalog.timelines:
        raise NotInArchive(target=wanted.text, problem="it is empty")
    if timeline is not None and timeline not in catalog.timelines:
        there = ", ".join(map(str, sorted(catalog.timelines)))
        raise ConfigError(setting="timeline", problem=f"there is no timeline {timeline}; there are {there}")
    candidates = [timeline] if timeline is not None else sorted(catalog.timelines, reverse=True)
    if wanted.id is not None:
        return _by_id(catalog, wanted.id, candidates)
    if wanted.at is not None:
        return _by_time(catalog, wanted.text, wanted.at, candidates, status)
    lineage = catalog.lineage(candidates[0])
    footer = lineage.footer(len(lineage) - 1)
    return Target(lineage, footer.end.id, footer.last_at, len(lineage) - 1)


def _by_id(catalog: Catalog, id_: RecordId, candidates: list[int]) -> Target:
    for timeline in candidates:
        lineage = catalog.lineage(timeline)
        record = lineage.record(id_)
        if record is not None:
            return Target(lineage, id_, record.at, lineage.index_of(id_))
        if (found := _first_snapshot(lineage, id_)) is not None:
            return found
    lineage = catalog.lineage(candidates[0])
    begins, ends = lineage.footer(0).first_id, lineage.end(len(lineage) - 1).id
    raise NotInArchive(target=id_, problem=f"no record has that id; its newest history goes from {begins} to {ends}")


def _first_snapshot(lineage: Lineage, id_: RecordId) -> Target | None:
    """A history whose beginning is gone begins with a snapshot, of a record that is gone, too: that can be had."""
    for segment in range(len(lineage)):
        for each in lineage.snapshots(segment):
            return Target(lineage, id_, each.at, segment) if each.position.id == id_ else None
    return None


def _by_time(catalog: Catalog, text: str, at: int, candidates: list[int], status: Status | None) -> Target:
    later: Lineage | None = None
    for timeline in candidates:
        lineage = catalog.lineage(timeline)
        if at < lineage.footer(0).first_at:
            later = lineage
            continue
        found = _last_before(lineage, at)
        complete_at = status.complete_at if status is not None and timeline == max(catalog.timelines) else 0
        if found.at_end and at > complete_at:
            raise NotInArchive(target=text, problem=_after_the_end(found.target, at, complete_at, later))
        return found.target
    assert later is not None
    footer = later.footer(0)
    raise NotInArchive(target=text, problem=f"it begins with {footer.first}, of {_when(footer.first_at)}")


class _Found(NamedTuple):
    target: Target
    at_end: bool


def _last_before(lineage: Lineage, at: int) -> _Found:
    """The last record before the first one that is stamped later than `at`. The first of all is not."""
    index = bisect_right(range(len(lineage)), at, key=lambda each: lineage.footer(each).max_at)
    begin = max(0, index - 1)
    last: tuple[RecordId, int, int] | None = None
    for record in lineage.records(begin):
        if record.at > at:
            assert last is not None
            return _Found(Target(lineage, last[0], last[1], lineage.index_of(last[0])), False)
        last = record.id, record.at, 0
    assert last is not None
    return _Found(Target(lineage, last[0], last[1], lineage.index_of(last[0])), True)


def _after_the_end(last: Target, at: int, complete_at: int, later: Lineage | None) -> str:
    end = f"{last.id}, of {_when(last.at)}"
    if later is not None:
        first = later.footer(0)
        return (
            f"there is a gap between {end}, and {first.first}, of {_when(first.first_at)} ({first.reason}); "
            f"--at {last.id} is the last state before it"
        )
    known = (
        f"it is known to be complete up to {_when(complete_at)}"
        if complete_at
        else "nobody says up to when it is complete"
    )
    return f"its newest record is {end}, and {known}: wait for the archiver, or give --at {last.id}"


def _when(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
