"""`replicator restart` and `replicator shutdown`: ask the process of a node to begin anew, or to end."""

from __future__ import annotations

from dataclasses import asdict

import click

from replicator import ops
from replicator.errors import ReplicatorError

from .context import NAME, Seconds, Settings, operator, output_option, show_json, show_line
from .progress import say_line

__all__ = ["restart", "shutdown"]


class _CameBack(ReplicatorError):
    """{node} ended in order, and {run_by} has started it again: stop it there ({hint})"""


wait_option = click.option(
    "--timeout", type=Seconds(), default=60.0, show_default=True, help="Seconds to wait until it is done."
)


@click.command()
@click.argument("node", type=NAME)
@wait_option
@output_option
@click.pass_obj
def restart(settings: Settings, node: str, timeout: float, output: str) -> None:
    """Have the process of NODE stop in order and begin anew. A primary takes the next term when it is there again."""
    with settings.log() as log:
        done = ops.restart(log, node, by=operator(), timeout_s=timeout, progress=say_line)
    if output == "json":
        show_json(asdict(done))
    else:
        show_line(f"{node} was restarted ({done.took_ms:.0f} ms)")


@click.command()
@click.argument("node", type=NAME)
@click.option("--force", is_flag=True, help="Also if it leads: then nobody may write until another node does.")
@wait_option
@output_option
@click.pass_obj
def shutdown(settings: Settings, node: str, force: bool, timeout: float, output: str) -> None:
    """Have the process of NODE stop in order. Exit code 1 if a supervisor starts it again."""
    with settings.log() as log:
        done = ops.shutdown(log, node, by=operator(), force=force, timeout_s=timeout, progress=say_line)
    if output == "json":
        show_json(asdict(done))
    elif done.stays_down:
        how = "stopped in order" if done.stopped_in_order else "does not report any more"
        show_line(f"{node} {how} ({done.took_ms:.0f} ms)")
    if not done.stays_down:
        raise _CameBack(node=node, run_by=done.run_by, hint=_how_to_stop(done.run_by))


def _how_to_stop(run_by: str) -> str:
    if run_by.startswith("supervisord"):
        return f"`supervisorctl stop {run_by.partition('(')[2].rstrip(')')}`"
    return "`systemctl stop` its unit" if run_by == "systemd" else "with what runs it"
