"""`replicator jobs`: has work of the group done by its RQ worker, lists what there is, cancels it, and asks for it at
times."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from replicator.errors import ConfigError
from replicator.jobs.errors import NotDone
from replicator.jobs.kinds import KINDS
from replicator.jobs.queue import ENDED, JobFacts, JobQueue
from replicator.jobs.schedule import OFF, Schedule, check_times
from replicator.jobs.work import BACKUPS, BACKUPS_KEEP, BACKUPS_KEEP_DAYS, JobSettings
from replicator.log.redis_log import client_for
from replicator.node.options import LEASE_S_MIN
from replicator.ops.common import led_head
from replicator.sandbox.drill import FAULTS

from .context import (
    NAME,
    Seconds,
    Settings,
    data_dirs_option,
    output_option,
    show_json,
    show_line,
    snapshot_bytes_max_option,
    table,
    telling_what_helps,
    when,
)
from .job_results import show_result
from .job_run import Wanted, have_done

__all__ = ["jobs"]

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

HEADINGS = ("job", "status", "asked (UTC)", "due (UTC)", "ended (UTC)", "told")

#: In the table; all of it is in the JSON.
TOLD_CHARACTERS_MAX = 300

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

here_option: Option = click.option("--here", is_flag=True, help="Do it in this process, also if there is a worker.")
wait_option: Option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait for its end, and show its progress."
)
timeout_option: Option = click.option(
    "--timeout",
    type=Seconds(),
    default=None,
    help="Seconds to wait; the job goes on after that.  [default: as long as such a job may take]",
)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Of all kinds of jobs."""
    return here_option(wait_option(timeout_option(output_option(command))))


class _Due(click.ParamType):  # type: ignore[type-arg]
    """A time to come; unix ms."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        moment = _moment(str(value), datetime.now(tz=UTC))
        if moment is None:
            self.fail(f"{value!r} is no time: give 03:00 or 2026-01-31T03:00 (UTC), or +90s, +15m, +2h", param, ctx)
        if moment < datetime.now(tz=UTC):
            self.fail(f"{value!r} is over", param, ctx)
        return int(moment.timestamp()) * 1000  # RQ knows whole seconds


def _moment(text: str, now: datetime) -> datetime | None:
    """`03:00` is the next one; without a zone it is UTC."""
    if later := re.fullmatch(r"\+([0-9]{1,6})([smhd])", text):
        return now + timedelta(seconds=int(later[1]) * _UNITS_S[later[2]])
    if of_day := re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text):
        today = now.replace(hour=int(of_day[1]), minute=int(of_day[2]), second=0, microsecond=0)
        return today if today > now else today + timedelta(days=1)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group()
def jobs() -> None:
    """Work of the group, done by its RQ worker: asked for, listed, cancelled, and asked for at times."""


@jobs.group("run")
def run_() -> None:
    """Have a job done, by the worker of the group; without one, here."""


@run_.command()
@job_options
@click.pass_obj
def verify(settings: Settings, here: bool, wait: bool, timeout: float | None, output: str) -> None:
    """Compare the states of all nodes at one position. Exit code 1 if they differ, or if a node is missing."""
    _do(Wanted(name="verify", own=_own(settings), here=here, wait=wait, wait_s=timeout), output)


@run_.command()
@job_options
@click.pass_obj
def snapshot(settings: Settings, here: bool, wait: bool, timeout: float | None, output: str) -> None:
    """Have the primary put a snapshot of its state into the log."""
    _do(Wanted(name="snapshot", own=_own(settings), here=here, wait=wait, wait_s=timeout), output)


@run_.command()
@job_options
@data_dirs_option
@click.option(
    "--state",
    default="",
    envvar="REPLICATOR_CERTIFY_STATE",
    help="The class of the state, MODULE:CLASS, if it is done here.  [default: that of the registry]",
)
@snapshot_bytes_max_option
@click.pass_obj
def certify(
    settings: Settings,
    here: bool,
    wait: bool,
    timeout: float | None,
    output: str,
    data_dirs: tuple[Path, ...],
    state: str,
    snapshot_bytes_max: int,
) -> None:
    """Check the whole log, what nodes have of it on their disks, and the states of live nodes. Exit code 1 at the first
    violation."""
    _check_own("state", "data_dirs", "snapshot_bytes_max", here=here)
    own = _own(settings, state=state, data_dirs=data_dirs, snapshot_bytes_max=snapshot_bytes_max)
    _do(Wanted(name="certify", own=own, here=here, wait=wait, wait_s=timeout), output)


@run_.command()
@job_options
@click.option(
    "--backups",
    type=click.Path(file_okay=False, path_type=Path),
    envvar=BACKUPS,
    help="The directory of backups, if it is done here.",
)
@click.option(
    "--keep", type=click.IntRange(min=1), envvar=BACKUPS_KEEP, help="So many of the newest stay.  [default: all]"
)
@click.option(
    "--keep-days", type=click.FloatRange(min=0, min_open=True), envvar=BACKUPS_KEEP_DAYS, help="What is younger stays."
)
@data_dirs_option
@snapshot_bytes_max_option
@click.pass_obj
def backup(
    settings: Settings,
    here: bool,
    wait: bool,
    timeout: float | None,
    output: str,
    backups: Path | None,
    keep: int | None,
    keep_days: float | None,
    data_dirs: tuple[Path, ...],
    snapshot_bytes_max: int,
) -> None:
    """Write the state of the group to a file in the directory of backups, and remove those that need not be kept.

    Where that is, and what is kept, are settings of the worker: REPLICATOR_BACKUPS, REPLICATOR_BACKUPS_KEEP and
    REPLICATOR_BACKUPS_KEEP_DAYS.
    """
    _check_own("backups", "keep", "keep_days", "data_dirs", "snapshot_bytes_max", here=here)
    own = _own(
        settings,
        backups=backups,
        keep=keep,
        keep_days=keep_days,
        data_dirs=data_dirs,
        snapshot_bytes_max=snapshot_bytes_max,
    )
    _do(Wanted(name="backup", own=own, here=here, wait=wait, wait_s=timeout), output)


@run_.command()
@click.argument("faults", nargs=-1, type=click.Choice(list(FAULTS)), metavar="[FAULT]...")
@click.option("--lease-s", type=Seconds(LEASE_S_MIN), default=None, help="Lease of the primary.  [default: 1]")
@click.option("--seconds-per-fault", type=Seconds(), default=None, help="The minimum.  [default: 6]")
@job_options
@click.pass_obj
def drill(
    settings: Settings,
    faults: tuple[str, ...],
    lease_s: float | None,
    seconds_per_fault: float | None,
    here: bool,
    wait: bool,
    timeout: float | None,
    output: str,
) -> None:
    """Let things fail on a group of its own, on the machine of the worker, and count what that costs."""
    given = {"faults": list(faults) or None, "lease_s": lease_s, "seconds_per_fault": seconds_per_fault}
    arguments = {name: value for name, value in given.items() if value is not None}
    _do(
        Wanted(name="drill", own=_own(settings), arguments=arguments, here=here, wait=wait, wait_s=timeout),
        output,
    )


@run_.command()
@click.option("--to", type=NAME, required=True, help="The standby that is to lead.")
@click.option("--at", type=_Due(), help="When: 03:00 or 2026-01-31T03:00 (UTC), or +90s, +15m, +2h.  [default: now]")
@click.option("--reason", default="", help="For the history.")
@here_option
@click.option("--wait/--no-wait", default=None, help="Wait for its end.  [default: wait, but not with --at]")
@timeout_option
@output_option
@click.pass_obj
def switchover(
    settings: Settings,
    to: str,
    at: int | None,
    reason: str,
    here: bool,
    wait: bool | None,
    timeout: float | None,
    output: str,
) -> None:
    """Move the primary to another node, now or at a time.

    It is not done if the group is not as it was: somebody else took the term, the group is paused, the node does not
    report or is not in sync; or if it is more than five minutes late.
    """
    with settings.log() as log:
        term = led_head(log).term
    arguments: dict[str, Any] = {"to": to, "term": term}
    arguments |= {"at": at} if at is not None else {}
    arguments |= {"reason": reason} if reason else {}
    wait = at is None if wait is None else wait
    _do(
        Wanted(
            name="switchover",
            own=_own(settings),
            arguments=arguments,
            here=here,
            due_ms=at,
            wait=wait,
            wait_s=timeout,
        ),
        output,
    )


def _own(settings: Settings, **given: Any) -> JobSettings:
    level = click.get_current_context().find_root().params["log_level"]
    return JobSettings(redis=settings.redis, group=settings.group, log_level=level, key_file=settings.key_file, **given)


def _check_own(*names: str, here: bool) -> None:
    """Raises `ConfigError` for a setting of the worker that is given to this command: it would count for nothing."""
    ctx = click.get_current_context()
    for name in names:
        if not here and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(each for each in ctx.command.params if each.name == name)
            problem = "is a setting of the worker, and no part of what it is asked for; with --here it is done here"
            raise ConfigError(setting=option.opts[0], problem=problem)


def _do(wanted: Wanted, output: str) -> None:
    with telling_what_helps():
        found = have_done(wanted)
    if isinstance(found, JobFacts):
        _show_job(found, output)
    else:
        show_result(wanted.name, found, output)


@jobs.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are over, which are kept for a week.")
@output_option
@click.pass_obj
def list_(settings: Settings, everything: bool, output: str) -> None:
    """Show the jobs of the group: those to come, those that run, and with --all those that are over."""
    with telling_what_helps(), JobQueue(settings.redis, settings.group) as queue:
        found = [job for job in queue.jobs() if everything or job.job_status not in ENDED]
        has_worker = queue.has_worker()
    _show_jobs(found, output)
    if not has_worker:
        click.echo(f"no worker of group {settings.group} reports: `python -m replicator.workers.jobs`", err=True)


@jobs.command()
@click.argument("job")
@output_option
@click.pass_obj
def cancel(settings: Settings, job: str, output: str) -> None:
    """Have JOB not done, or, if it runs, end it. A drill ends its processes in order."""
    with telling_what_helps(), JobQueue(settings.redis, settings.group) as queue:
        before = queue.job(job)
        if before.job_status in ENDED and before.job_status != "canceled":
            raise NotDone(problem=f"job {job} is over: it is {before.job_status}")
        _show_job(queue.cancel(job), output)


def _show_job(facts: JobFacts, output: str) -> None:
    """A job that nobody waits for."""
    if output == "json":
        show_json(facts.to_dict())
        return
    due = f" for {when(facts.due_at)} UTC" if facts.due_at is not None else ""
    show_line(f"{facts.job} is {facts.job_status}{due}")
    if facts.problem:
        show_line(facts.problem)


def _show_jobs(found: list[JobFacts], output: str) -> None:
    if output == "json":
        show_json([facts.to_dict() for facts in found])
        return
    click.echo(table(HEADINGS, [_row(facts) for facts in found]))


def _row(facts: JobFacts) -> dict[str, Any]:
    return {
        "job": facts.job,
        "status": facts.job_status,
        "asked (UTC)": _second(facts.asked_at),
        "due (UTC)": _second(facts.due_at),
        "ended (UTC)": _second(facts.ended_at),
        "told": _short(facts.problem or facts.progress),
    }


def _short(told: str | None) -> str | None:
    return told if told is None or len(told) <= TOLD_CHARACTERS_MAX else f"{told[:TOLD_CHARACTERS_MAX]}..."


def _second(unix_ms: int | None) -> str | None:
    return None if unix_ms is None else when(unix_ms)[:-4]


def _times(name: str, default: str) -> Option:
    def check(ctx: click.Context, param: click.Parameter, given: str) -> str:
        return check_times(f"--{name}", given)

    return click.option(
        f"--{name}", default=default, show_default=True, callback=check, metavar="CRON", help=f"When to {name}."
    )


@jobs.command()
@_times("verify", "30 2 * * *")
@_times("certify", OFF)
@_times("backup", "0 3 * * *")
@_times("drill", "0 4 * * 0")
@_times("snapshot", OFF)
@click.pass_obj
def cron(settings: Settings, /, **times: str) -> None:
    """Ask for jobs at their times, until told to end (SIGTERM, Ctrl-C).

    CRON is five fields (minute, hour, day of the month, month, day of the week), in the time zone of this process, or
    `off`.
    """
    asked = {name: text for name, text in times.items() if text != OFF and name in KINDS}
    if not asked:
        raise ConfigError(setting="cron", problem="all of its times are off")
    with JobQueue(settings.redis, settings.group) as queue, client_for(settings.redis) as connection:
        schedule = Schedule(queue, connection, asked)
        for name, at in schedule.next_times.items():
            click.echo(f"{name}: {asked[name]}, next at {at:%Y-%m-%d %H:%M} UTC", err=True)
        schedule.start()
