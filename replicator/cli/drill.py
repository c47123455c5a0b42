"""`replicator drill`: tries on this machine what a group of three nodes does when things fail."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from replicator.errors import ReplicatorError
from replicator.node.options import LEASE_S_MIN
from replicator.ops import Step
from replicator.runtime.counted import counted
from replicator.sandbox.drill import FAULTS, FaultReport, Report, run

from .context import Seconds, Settings, output_option, show_json, show_line, table
from .progress import progress_of

__all__ = ["drill", "show"]

HEADINGS = ("fault", "acknowledged", "lost", "refused", "unknown", "gap_ms", "stale_refused", "primary", "term")

#: How many names of lost registrations and the like are shown: enough to begin a search.
NAMES_SHOWN = 10


_MENU = "\b\nFaults:\n" + "\n".join(f"  {name:15} {fault.about}" for name, fault in FAULTS.items())


class _Failed(ReplicatorError):
    """the drill was not passed"""


@click.command(epilog=_MENU)
@click.argument("faults", nargs=-1, type=click.Choice(list(FAULTS)), metavar="[FAULT]...")
@click.option("--lease-s", type=Seconds(LEASE_S_MIN), default=1.0, show_default=True, help="Lease of the primary.")
@click.option(
    "--seconds-per-fault",
    type=Seconds(),
    default=6.0,
    show_default=True,
    help="The minimum; a fault also lasts until all is well again.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    envvar="REPLICATOR_DRILL_DIR",
    help="Data and logs, kept; must be empty.  [default: a temporary one]",
)
@click.option("--keep", is_flag=True, help="Keep the temporary directory. It is kept anyway if something is wrong.")
@output_option
@click.pass_context
def drill(
    ctx: click.Context,
    faults: tuple[str, ...],
    lease_s: float,
    seconds_per_fault: float,
    directory: Path | None,
    keep: bool,
    output: str,
) -> None:
    """Inject faults one after the other into a group of its own that is under load; by default all of them.

    Exit code 0 if nothing was lost and all nodes are equal, 1 otherwise.
    """
    settings: Settings = ctx.obj
    settings.check_plain("drill")
    started = time.monotonic()
    with progress_of("drill") as tell:

        def say(text: str) -> None:
            tell(text if isinstance(text, Step) else f"{time.monotonic() - started:6.1f} s  {text}")

        report = run(
            faults or list(FAULTS),
            directory=directory,
            keep=keep,
            group=settings.group,
            lease_s=lease_s,
            seconds_per_fault=seconds_per_fault,
            log_level=ctx.find_root().params["log_level"],
            say=say,
        )
    if report is None:
        click.echo("interrupted; nothing runs any more", err=True)
        sys.exit(1)
    if output == "json":
        show_json(report.to_dict())
    else:
        click.echo(err=True)
        show(report)
    if not report.passed:
        raise _Failed()


def show(report: Report) -> None:
    """For people."""
    click.echo(table(HEADINGS, [_row(fault) for fault in report.faults]))
    click.echo()
    for line in _verdict(report):
        show_line(line)


def _row(fault: FaultReport) -> dict[str, object]:
    return {
        "fault": fault.fault,
        "acknowledged": fault.acknowledged_count,
        "lost": len(fault.lost_tags),
        "refused": fault.refused_count,
        "unknown": fault.unknown_count,
        "gap_ms": fault.gap_ms,
        "stale_refused": fault.stale_refused_count,
        "primary": fault.primary,
        "term": fault.term,
    }


def _verdict(report: Report) -> Iterable[str]:
    yield f"{counted(report.acknowledged_count, 'registration')} acknowledged: {_are(report.lost_tags, 'lost')}"
    yield f"{report.refused_count} refused: {_are(report.appeared_tags, 'in the state all the same')}"
    yield f"{report.unknown_count} with an unknown outcome: {report.landed_count} of them are in the state"
    if report.doubled_tags:
        yield f"in the state more than once: {_named(report.doubled_tags)}"
    if report.stale_accepted_count:
        yield f"records of a term that is over, but accepted: {report.stale_accepted_count}"
    nodes = ", ".join(report.digests) or "nobody"
    yield f"nodes {nodes} {'are equal' if report.equal else 'are NOT shown to be equal'} at {report.position or '-'}"
    yield from report.problems


def _are(tags: Sequence[str], what: str) -> str:
    return f"{len(tags)} are {what}: {_named(tags)}" if tags else f"none is {what}"


def _named(tags: Sequence[str]) -> str:
    more = f" and {len(tags) - NAMES_SHOWN} more" if len(tags) > NAMES_SHOWN else ""
    return ", ".join(tags[:NAMES_SHOWN]) + more
