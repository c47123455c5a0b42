"""`replicator history`: what was done to the group, by whom and why, and how each term ended."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import click

from replicator import ops
from replicator.protocol.history import History, HistoryEntry

from .context import Settings, output_option, show_json, table, when

__all__ = ["history"]

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Moment(click.ParamType):  # type: ignore[type-arg]
    """A time in UTC, or how long ago it was; unix ms."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if ago := re.fullmatch(r"(\d{1,9})([smhd])", str(value), re.ASCII):
            return int((time.time() - int(ago[1]) * UNITS_S[ago[2]]) * 1000)
        try:
            moment = datetime.fromisoformat(str(value))
            return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            problem = (
                f"{value!r} is no time: give 2026-01-31, 2026-01-31T12:00 (UTC), or how long ago, as 90s, 15m, 2h, 7d"
            )
            self.fail(problem, param, ctx)


@click.command()
@output_option
@click.option("--limit", type=click.IntRange(min=1), help="So many entries at the most, the newest ones.")
@click.option("--since", type=_Moment(), help="Those since a time (UTC), as 2026-01-31T12:00, or 90s, 15m, 2h, 7d ago.")
@click.pass_obj
def history(settings: Settings, output: str, limit: int | None, since: int | None) -> None:
    """What was done to the group since its founding: every term, who took it, who asked for it and why, and how the one
    before ended; pauses, versions, and what else an operator did."""
    with settings.log() as log:
        found = ops.history(log)
        if not found.entries:
            ops.check_is_known(log, ops.looked(log))
    if since is not None:
        found = found.since(since)
    if limit is not None:
        found = found.newest(limit)
    if output == "json":
        show_json(found.to_dict())
        return
    now_ms = int(time.time() * 1000)
    headings = ("time (UTC)", "ago", "what", "node", "term", "by", "before", "reason")
    click.echo(table(headings, [_row(entry, now_ms) for entry in found.entries]))
    click.echo(f"\n{_completeness(found)}")


def _row(entry: HistoryEntry, now_ms: int) -> dict[str, Any]:
    notes = [f"version {entry.version}"] if entry.version else []
    notes += [f"without {entry.skipped_id}"] if entry.skipped_id else []
    notes += ["put back by " + entry.restored_by] if entry.restored_by else []
    notes += ["from the log"] if entry.from_log else []
    return {
        "time (UTC)": when(entry.at) if entry.at else None,
        "ago": _length(now_ms - entry.at) if entry.at else None,
        "what": f"{entry.what}, forced" if entry.forced else entry.what,
        "node": entry.node,
        "term": entry.term or None,
        "by": entry.by,
        "before": _before(entry),
        "reason": "; ".join([*([entry.reason] if entry.reason else []), *notes]),
    }


def _before(entry: HistoryEntry) -> str | None:
    """How the term before ended."""
    if entry.ended is None:
        return None
    lasted = f"{_lasted(entry.ended)} {_length(entry.lasted_ms)}" if entry.lasted_ms is not None else ""
    return f"{entry.ended_node} in {entry.ended_term}: {entry.ended}{lasted}"


def _lasted(ended: str) -> str:
    """A lease that ran out did so later: nothing is known but when its holder was last heard of."""
    return ", last heard of after" if ended == "lease ran out" else " after"


def _length(ms: int) -> str:
    """A length of time, for people: its two largest units."""
    seconds = max(0, ms) / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, next_one, name, next_name in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= unit:
            rest = int(seconds % unit // next_one)
            return f"{int(seconds // unit)} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{seconds:.1f} s"


def _completeness(found: History) -> str:
    if found.complete:
        return "complete since the founding"
    if found.complete_since_at is None:
        return "not complete: what is newest may be missing, too"
    return f"complete since {when(found.complete_since_at)} UTC; of what was before, entries may be missing"
