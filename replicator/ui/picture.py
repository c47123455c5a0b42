"""What a look at a group comes to on the page, as JSON.

Judgements are those of `ops/diagnosis.py`, so the page says what `status` and `doctor` say. Numbers over time (the rate
of changes) come of two looks, by the clock of Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..format.ids import ZERO_ID
from ..format.records import ACT, ChangeRecord, PartRecord, Record, TermRecord
from ..log.interface import LogSize
from ..ops import status_of
from ..ops.diagnosis import OK, PROBLEM, WARNING, Check, checks_of_group, checks_of_nodes, is_known
from ..ops.findings import findings_of
from ..ops.redis_away import WHAT_HELPS
from ..protocol.election import NOBODY
from ..protocol.group import GroupView
from ..protocol.history import History, HistoryEntry
from ..runtime.counted import counted
from .stages import StageShown

__all__ = ["Picture", "Seen", "picture_of", "record_shown", "terms_shown", "with_redis_away"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What the page gets. `taken_at`: unix ms, by the clock of who looked. `redis_problem`: why what is shown is older
    than that; null: it is not. `look_ms`: how long the look took. `record_rate`: records a second since the look
    before; null: not known yet. `headline`: who may write, or why nobody may; `findings`: what is wrong, as above the
    table of `status`. `may_act`: the page has the actions. `stages`: how long those of a change took on the node that
    serves the page (`stages.py`); null: no node does.
    """

    taken_at: int
    told_by: str
    redis_problem: str | None
    redis_away_ms: int | None
    look_ms: float | None
    may_act: bool
    headline: dict[str, str]
    findings: list[dict[str, str]]
    status: dict[str, Any]
    checks: list[dict[str, str]]
    record_rate: float | None
    terms: list[dict[str, Any]]
    records: list[dict[str, Any]]
    stages: list[dict[str, Any]] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A look and what was read with it. `look_ms`: how long it took."""

    look: GroupView
    size: LogSize
    look_ms: float
    terms: Sequence[dict[str, Any]]
    records: Sequence[Record]
    stages: Sequence[StageShown] | None = None


def picture_of(
    group: str, seen: Seen, before: GroupView | None, *, taken_at: int, told_by: str, may_act: bool
) -> Picture:
    """`before`: the look before this one, if there was one."""
    look = seen.look
    checks = [*checks_of_group(look), *checks_of_nodes(look)] if is_known(look) else []
    found = findings_of(look)
    return Picture(
        taken_at=taken_at,
        told_by=told_by,
        redis_problem=None,
        redis_away_ms=None,
        look_ms=round(seen.look_ms, 2),
        may_act=may_act,
        headline=_headline(group, look, checks, found),
        findings=[{"check": each.check, "level": each.level, "message": each.message} for each in found],
        status=status_of(group, look, seen.size).to_dict(),
        checks=[asdict(check) for check in checks],
        record_rate=_rate(look, before),
        terms=list(seen.terms),
        records=[record_shown(record) for record in reversed(seen.records)],
        stages=None if seen.stages is None else [each._asdict() for each in seen.stages],
    )


def with_redis_away(
    picture: Picture, problem: str, *, taken_at: int, away_ms: int, is_reached: bool = False
) -> Picture:
    """The last picture, with everybody's silence counted on: what it shows is as old as that.

    `is_reached`: Redis answers, but not with what is asked for: it refuses that, for example.
    """
    status = dict(picture.status)
    status["nodes"] = [{**node, "age_ms": node["age_ms"] + away_ms} for node in status["nodes"]]
    known = picture.headline["text"].removesuffix(".")
    what = "Redis answers, and this page cannot look at the group" if is_reached else "Redis is not reached"
    headline = {"level": PROBLEM, "text": f"{what}. Before that: {known}."}
    # What was wrong before helps nobody now: there is nothing to promote in, or to resume.
    helps = () if is_reached else WHAT_HELPS
    found = {"check": "Redis", "level": PROBLEM, "message": " ".join([f"{problem.removesuffix('.')}.", *helps])}
    return replace(
        picture, taken_at=taken_at, redis_problem=problem, redis_away_ms=away_ms, look_ms=None, record_rate=None,
        status=status, headline=headline, findings=[found],
    )  # fmt: skip


def terms_shown(told: History, most: int) -> list[dict[str, Any]]:
    """Who led when, the newest `most` terms, oldest first. `began_at`: unix ms; `ended`: how. null: not known, or
    it goes on. `holder`: null for nobody.
    """
    terms = [entry for entry in told.entries if entry.takes_term]
    ends = {entry.ended_term: entry for entry in terms}
    return [_term_shown(entry, ends.get(entry.term)) for entry in terms[-most:]]


def _term_shown(term: HistoryEntry, end: HistoryEntry | None) -> dict[str, Any]:
    return {
        "term": term.term,
        "what": f"{term.what}, forced" if term.forced else term.what,
        "holder": None if term.node == NOBODY.node else term.node,
        "began_at": term.at,
        "by": term.by,
        "reason": term.reason,
        "ended": end.ended if end else None,
        "lasted_ms": end.lasted_ms if end else None,
    }


def record_shown(record: Record) -> dict[str, Any]:
    """The headers of a record, and in words what it does."""
    return {
        "id": str(record.id),
        "kind": record.kind,
        "node": record.node,
        "boot": record.boot,
        "written_at": record.at,
        "prev": record.prev,
        "chain": record.chain,
        "body_bytes": len(record.body),
        "what": _what(record),
    }


def _what(record: Record) -> str:
    if isinstance(record, TermRecord):
        without = f" without {record.skip}" if record.skip != ZERO_ID else ""
        return f"opens term {record.id.term}{without}: {record.reason}, by {record.by}"
    if isinstance(record, ChangeRecord):
        if record.version:
            return f"the group is at version {record.version}"
        if record.codec == ACT or not record.count:
            return "a marker"
        return counted(record.count, "change")
    assert isinstance(record, PartRecord)
    whole = f" of {record.parts}, complete" if record.is_last else ""
    return f"part {record.part + 1}{whole} of a snapshot, state as of {record.as_of.id}"


def _headline(group: str, look: GroupView, checks: Sequence[Check], found: Sequence[Check]) -> dict[str, str]:
    """Who may write. Other problems are in the list below it."""
    if not is_known(look):
        return {"level": PROBLEM, "text": f"This Redis knows no group {group}."}
    about = next((check for check in checks if check.check == "primary"), None)
    about = about or next((check for check in checks if check.check == "log"), None)
    if about is None:
        return {"level": PROBLEM, "text": "Nobody may write."}
    if about.level == OK:
        # It is about writes: a cross is for those who cannot write.
        text = f"{look.head.node if look.head else ''} may write.{_below(found)}"
        return {"level": WARNING if found else OK, "text": text}
    return {"level": PROBLEM, "text": f"Nobody may write: {about.message.split(':')[0]}."}


def _below(found: Sequence[Check]) -> str:
    counts = ((sum(each.level == level for each in found), level) for level in (PROBLEM, WARNING))
    told = " and ".join(counted(count, level) for count, level in counts if count)
    return f" {told[:1].upper()}{told[1:]} below." if told else ""


def _rate(look: GroupView, before: GroupView | None) -> float | None:
    if before is None or before.head is None or look.head is None or before.run != look.run:
        return None
    seconds = (look.now_ms - before.now_ms) / 1000
    records = look.head.position.id.n - before.head.position.id.n
    return round(records / seconds, 1) if seconds > 0 and records >= 0 else None
