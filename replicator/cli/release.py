"""`replicator release`: give back the lease of a node that has ended, now or when the command that runs it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click

from replicator import ops
from replicator.errors import ReplicatorError, StillRuns
from replicator.log.redis_log import RedisLog
from replicator.runtime.checks import plain
from replicator.runtime.event_log import EventLogger
from replicator.runtime.process_group import ENDS_WITHIN_S, left_after
from replicator.runtime.signals import on_end

from .context import Settings, output_option, show_json

__all__ = ["release"]

log = EventLogger(__name__)

#: Who says in the history that the node has ended.
BY = "replicator release"

#: Of a command that is not there, or cannot be run, as shells have it.
NOT_FOUND, NOT_RUN = 127, 126


@click.command()
@click.option(
    "--data-dir",
    "data_dirs",
    multiple=True,
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    envvar=["REPLICATOR_DATA_DIR", "REPLICATOR_NODE_DATA_DIR"],
    help="The data directory of the node; may be repeated.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@output_option
@click.pass_obj
def release(settings: Settings, data_dirs: tuple[Path, ...], command: tuple[str, ...], output: str) -> None:
    """Give back the lease of a node that has ended, so that another one takes over at once.

    For what sees a node end: `ExecStopPost=` of systemd, or a wrapper. Nothing is done for a node that runs, or whose
    program has not ended (exit code 3), or for a lease that is another one's by now. With a COMMAND (after
    `--`) it runs that, passes signals on to it, gives the lease back when it has ended, and ends with its exit code.
    """
    with settings.log() as redis_log:
        if command:
            sys.exit(_after(command, redis_log, data_dirs))
        refused: StillRuns | None = None
        released: list[ops.Released] = []
        for data_dir in data_dirs:
            try:
                released.append(ops.release(redis_log, data_dir, by=BY))
            except StillRuns as error:
                refused = refused or error
                continue
            if output == "table":
                click.echo(plain(str(released[-1])))
        if output == "json":
            show_json([asdict(each) | {"data_dir": str(each.data_dir)} for each in released])
        if refused is not None:
            raise refused


def _after(command: Sequence[str], redis_log: RedisLog, data_dirs: Sequence[Path]) -> int:
    asked: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    on_end(pass_on)
    try:
        # A group of its own: what it leaves behind is found by that.
        process = subprocess.Popen(command, process_group=0)
    except OSError as error:
        click.echo(f"Error: {command[0]} cannot be run: {error.strerror or error}", err=True)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN
    for number in asked:  # one that came before it was there
        process.send_signal(number)
    code = process.wait()
    if left := left_after(process.pid, ENDS_WITHIN_S):
        what = "%s has ended, and processes that it started live on (%s), so its lease runs out by itself"
        log.warning("lease.children_live", what, command[0], ", ".join(map(str, left)))
    else:
        _give_back(redis_log, data_dirs)
    return code if code >= 0 else 128 + signal.Signals(-code)


def _give_back(redis_log: RedisLog, data_dirs: Sequence[Path]) -> None:
    """What fails here is for the log: the exit code is the command's, and the lease runs out by itself."""
    for data_dir in data_dirs:
        try:
            log.info("lease.given_back_for", "%s", ops.release(redis_log, data_dir, by=BY))
        except ReplicatorError as error:
            log.warning("lease.not_given_back_for", "%s", error)
