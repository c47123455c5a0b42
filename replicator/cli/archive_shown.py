"""What the commands that read an archive share: their options, finding the class of the state, and what they show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from replicator.archive.catalog import Catalog
from replicator.archive.checking import ArchiveFacts, TimelineFacts, check
from replicator.archive.opening import place_of
from replicator.archive.status import Status, read_status
from replicator.archive.target import Target, Wanted, resolve
from replicator.ops.log_check import Violation
from replicator.runtime.counted import counted
from replicator.state import ReplicatedState
from replicator.state.class_name import WHOLE
from replicator.state.named_class import state_class

from .context import given_keys, show_json, table, when
from .progress import progress_of

__all__ = [
    "Opened",
    "archive_option",
    "at_option",
    "certify_archive",
    "size_of",
    "state_option",
    "timeline_option",
    "timelines_text",
]

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

archive_option: Option = click.option(
    "--archive", "where", required=True, envvar="REPLICATOR_ARCHIVE", help="The archive: a directory or a URL."
)

AT = "An id (5-1042), a time (2026-01-31T12:00:00Z), or how long ago (10s, 5m, 2h, 1d)."

at_option: Option = click.option("--at", default="latest", show_default=True, help=AT)

timeline_option: Option = click.option(
    "--timeline", type=int, default=None, help="In the history of this timeline.  [default: the newest that has it]"
)

state_option: Option = click.option(
    "--state",
    default="",
    help="The class of the state, MODULE:CLASS, made without arguments.  [default: as archived, or in a checkpoint]",
)


class Opened:
    """An archive to read from."""

    def __init__(self, where: str) -> None:
        self.place = place_of(where)
        self.catalog = Catalog(self.place, keys=given_keys())

    def status(self) -> Status | None:
        return read_status(self.place)

    def target(self, at: str, timeline: int | None) -> Target:
        return resolve(self.catalog, Wanted.parse(at), status=self.status(), timeline=timeline)


def maker(name: str) -> Callable[[], ReplicatedState] | None:
    """What makes an empty state; None: the class is not known, or there are no changes to apply."""
    return None if name in ("", WHOLE) else state_class(name)


# --- showing ----------------------------------------------------------------------------------------------------------

_HEADINGS = ("timeline", "from", "to", "begins", "ends", "segments", "changes", "snapshots", "follows", "reason")


def size_of(facts: ArchiveFacts) -> str:
    records = counted(facts.record_count, "record")
    return f"{counted(facts.segment_count, 'segment')}, {records}, {facts.records_bytes} bytes"


def timelines_text(facts: ArchiveFacts) -> str:
    return table(_HEADINGS, [_row(each) for each in facts.timelines])


def _row(each: TimelineFacts) -> dict[str, Any]:
    follows = f"{each.parent_timeline} at {each.parent_id}" if each.parent_timeline is not None else None
    return {
        "timeline": each.timeline,
        "from": f"{each.first_id} (older ones removed)" if each.trimmed else each.first_id,
        "to": each.last_id,
        "begins": when(each.first_at),
        "ends": when(each.last_at),
        "segments": each.segment_count,
        "changes": each.change_count,
        "snapshots": each.snapshot_count,
        "follows": follows,
        "reason": each.reason,
    }


def certify_archive(where: str, *, output: str, snapshot_bytes_max: int) -> None:
    """`certify --archive`. Raises `ArchiveDamaged`, `Violation`."""
    opened = Opened(where)
    try:
        with progress_of("certify") as say:
            facts = check(opened.catalog, rules=True, progress=say, snapshot_bytes_max=snapshot_bytes_max)
    except Violation as violation:
        if output == "json":
            show_json({"certified": False, "violation": violation.to_dict(), "archive": None})
        raise
    if output == "json":
        show_json({"certified": True, "violation": None, "archive": asdict(facts)})
        return
    click.echo(timelines_text(facts))
    click.echo(size_of(facts))
    click.echo("certified")
