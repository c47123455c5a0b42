"""Commands that do something to a group: promote, demote, snapshot, verify."""

from __future__ import annotations

from typing import Any

import click

from replicator import admin
from replicator.errors import ReplicatorError

from .context import Settings, operator, output_option, show_json

__all__ = ["demote", "promote", "snapshot", "verify"]


class _Differ(ReplicatorError):
    """the states differ"""


@click.command()
@click.argument("node")
@click.option("--expect-term", type=click.IntRange(min=0), help="Only if the group is still at this term.")
@click.option("--force", is_flag=True, help="Even if another node is the better one. What only others have is lost.")
@click.option("--reason", default="asked by an operator", help="For the history.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait until the node leads.")
@output_option
@click.pass_obj
def promote(
    settings: Settings, node: str, expect_term: int | None, force: bool, reason: str, timeout: float, output: str
) -> None:
    """Make NODE the primary: it takes the next term, and whoever had the last one is fenced."""
    with settings.log() as log:
        done = admin.promote(
            log, node, by=operator(), reason=reason, expect=expect_term, force=force, timeout_s=timeout
        )
    if output == "json":
        show_json({name: getattr(done, name) for name in done.__dataclass_fields__})
    else:
        click.echo(f"{done.node} leads in term {done.term}, from {done.id} on ({done.led_ms:.0f} ms)")


@click.command()
@click.option("--reason", default="asked by an operator", help="For the history.")
@click.pass_obj
def demote(settings: Settings, reason: str) -> None:
    """Have the primary step down. Nobody writes until somebody is promoted."""
    with settings.log() as log:
        term = admin.demote(log, by=operator(), reason=reason)
    click.echo(f"nobody holds term {term}; `replicator promote NODE` makes a primary")


queue_option = click.option("--queue", is_flag=True, help="As a job of the group's RQ worker, instead of here.")
wait_option = click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")


@click.command()
@queue_option
@wait_option
@output_option
@click.pass_obj
def snapshot(settings: Settings, queue: bool, timeout: float, output: str) -> None:
    """Have the primary put a snapshot of its state into the log."""
    if queue:
        result = _queued(settings, "snapshot", timeout)
    else:
        with settings.log() as log:
            result = {"as_of": admin.snapshot(log, by=operator(), timeout_s=timeout, progress=_say)}
    if output == "json":
        show_json(result)
    else:
        click.echo(f"the log has a snapshot of the state as of {result['as_of']}")


@click.command()
@queue_option
@wait_option
@output_option
@click.pass_obj
def verify(settings: Settings, queue: bool, timeout: float, output: str) -> None:
    """Compare the states of all live nodes at one position. Exit code 1 if they differ."""
    if queue:
        result = _queued(settings, "verify", timeout)
    else:
        with settings.log() as log:
            result = admin.verify(log, by=operator(), timeout_s=timeout, progress=_say).to_dict()
    if output == "json":
        show_json(result)
    else:
        for node, digest in result["digests"].items():
            click.echo(f"{node}  {result['position']}  {digest}")
        for node in result["missing"]:
            click.echo(f"{node}  did not report in time")
    if not result["equal"]:
        raise _Differ(f"the states at {result['position']} are not shown to be equal")
    if output == "table":
        click.echo("all equal")


def _queued(settings: Settings, name: str, timeout: float) -> Any:
    from replicator.jobs import run_in_queue

    return run_in_queue(settings.redis, settings.group, name, wait_s=timeout, progress=_say)


def _say(text: str) -> None:
    click.echo(text, err=True)
