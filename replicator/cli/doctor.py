"""`replicator doctor`: finds what may go wrong with a group and its Redis, before it does."""

from __future__ import annotations

from dataclasses import asdict, replace

import click

from replicator import ops
from replicator.archive.errors import ArchiveUnavailable
from replicator.archive.opening import place_of
from replicator.archive.status import check_of, read_status
from replicator.errors import ConfigError, ReplicatorError
from replicator.ops import doctor as doctors
from replicator.ops.diagnosis import PROBLEM

from .context import Settings, output_option, show_json, table

__all__ = ["doctor"]


class _Unwell(ReplicatorError):
    """something is wrong with the group"""


@click.command()
@click.option(
    "--archive",
    default="",
    envvar="REPLICATOR_ARCHIVE",
    help="Also check whether this archive (a directory or a URL) keeps up.",
)
@output_option
@click.pass_obj
def doctor(settings: Settings, archive: str, output: str) -> None:
    """Check Redis, the log and the nodes, and say what to do. Exit code 1 if there is a problem, 3: unknown group."""
    with settings.log() as log:
        report = doctors.doctor(log)
        if archive:
            report = replace(report, checks=[*report.checks, _of_archive(archive, settings.group)])
        _show(report, output)
        if not report.problem_count:
            ops.check_is_known(log, ops.looked(log))
    if report.problem_count:
        raise _Unwell(f"{report.problem_count} of {len(report.checks)} checks found a problem")


def _of_archive(where: str, group: str) -> doctors.Check:
    try:
        return check_of(read_status(place_of(where)), group)
    except (ArchiveUnavailable, ConfigError) as error:
        return doctors.Check(check="archive", level=PROBLEM, message=str(error))


def _show(report: doctors.Report, output: str) -> None:
    if output == "json":
        show_json(report.to_dict())
    else:
        click.echo(table(("check", "level", "message"), [asdict(check) for check in report.checks]))
