"""Commands that change a group: who leads, that it goes on, what a node has; and `finalize`, `snapshot`, `verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from replicator import ops
from replicator.errors import ReplicatorError
from replicator.ops import risks
from replicator.runtime.counted import counted

from .confirm import confirm, yes_option
from .context import NAME, Seconds, Settings, operator, output_option, show_json, show_line
from .progress import progress_of, say_line

__all__ = [
    "demote",
    "finalize",
    "forget",
    "pause",
    "promote",
    "recover",
    "reinit",
    "resume",
    "snapshot",
    "switchover",
    "verify",
]


class _WouldBeRefused(ReplicatorError):
    """the promotion would be refused"""

    exit_code = 3


@click.command()
@click.argument("node", type=NAME)
@click.option("--expect-term", type=click.IntRange(min=0), help="Only if the group is still at this term.")
@click.option(
    "--dry-run", is_flag=True, help="Show what would be lost, and do nothing. Exit code 3 if it would be refused."
)
@click.option(
    "--force", is_flag=True, help="Even if another node is the better one, or missing. What only others have is lost."
)
@yes_option
@click.option("--reason", default="asked by an operator", help="For the history.")
@click.option(
    "--timeout", type=Seconds(), default=10.0, show_default=True, help="Seconds to wait until the node leads."
)
@output_option
@click.pass_obj
def promote(
    settings: Settings,
    node: str,
    expect_term: int | None,
    dry_run: bool,
    force: bool,
    yes: bool,
    reason: str,
    timeout: float,
    output: str,
) -> None:
    """Make NODE the primary: it takes the next term, and the primary before it is fenced."""
    with settings.log() as log:
        if dry_run:
            _show_preview(ops.preview(log, node), output)
            return
        if force:
            confirm(f"promote {node} all the same?", risks.of_promotion(log, node), yes=yes)
        done = ops.promote(log, node, by=operator(), reason=reason, expect=expect_term, force=force, timeout_s=timeout)
    if output == "json":
        show_json(asdict(done))
    else:
        show_line(f"{done.primary} leads in term {done.term}, from {done.first_id} on ({done.took_ms:.0f} ms)")


def _show_preview(preview: ops.PromotionPreview, output: str) -> None:
    if output == "json":
        show_json(preview.to_dict())
    else:
        records = counted(preview.lag_records, "record")
        lag = "not known" if preview.lag_records is None else f"{records}, which it reads first"
        show_line(f"behind the log by: {lag}")
        for heading, lines in (("lost (kept as forks)", preview.losses), ("not known", preview.unknowns)):
            show_line(f"{heading}: {'; '.join(lines) if lines else 'nothing'}")
    if preview.refusal is not None:
        hint = f"; {preview.better_node} is the better one" if preview.better_node else ""
        raise _WouldBeRefused(f"would be refused ({preview.code}): {preview.refusal}{hint}")
    if output == "table":
        show_line(f"would promote {preview.node}")


@click.command()
@click.option(
    "--to", "node", type=NAME, required=True, envvar="REPLICATOR_SWITCHOVER_TO", help="The standby that is to lead."
)
@click.option("--reason", default="switchover", help="For the history.")
@click.option(
    "--timeout", type=Seconds(), default=10.0, show_default=True, help="Seconds to wait until it keeps up, and leads."
)
@output_option
@click.pass_obj
def switchover(settings: Settings, node: str, reason: str, timeout: float, output: str) -> None:
    """Move the primary to another node. Nothing is lost; the time without a primary is printed."""
    with settings.log() as log:
        done = ops.switchover(log, node, by=operator(), reason=reason, timeout_s=timeout, progress=say_line)
    _show("switchover", asdict(done), output)


@click.command()
@click.option("--reason", default="asked by an operator", help="For the history.")
@output_option
@click.pass_obj
def demote(settings: Settings, reason: str, output: str) -> None:
    """Have the primary step down. No node accepts writes until one is promoted."""
    with settings.log() as log:
        term = ops.demote(log, by=operator(), reason=reason)
    if output == "json":
        show_json({"term": term})
        return
    show_line(f"no node holds term {term}; `replicator promote NODE` makes a primary")


@click.command()
@click.option("--reason", default="", help="Shown by status.")
@output_option
@click.pass_obj
def pause(settings: Settings, reason: str, output: str) -> None:
    """Switch automatic failover off: no node takes over by itself until `resume`."""
    with settings.log() as log:
        ops.pause(log, by=operator(), reason=reason)
    if output == "json":
        show_json({"paused": True})
        return
    show_line("automatic failover is paused; `replicator resume` ends that. `replicator promote` works meanwhile")


@click.command()
@click.option("--reason", default="", help="For the history.")
@output_option
@click.pass_obj
def resume(settings: Settings, reason: str, output: str) -> None:
    """Switch automatic failover on again, on the nodes that have it."""
    with settings.log() as log:
        ops.resume(log, by=operator(), reason=reason)
    if output == "json":
        show_json({"paused": False})
        return
    show_line("automatic failover is on again, on the nodes that have --auto-promote")


@click.command()
@click.option(
    "--from",
    "node",
    type=NAME,
    envvar="REPLICATOR_RECOVER_FROM",
    help="Found it from this node.  [default: the most advanced one]",
)
@click.option(
    "--force", is_flag=True, help="Even if nodes are missing that may have more. What only they have is lost."
)
@yes_option
@click.option("--reason", default="the log was lost", help="For the history.")
@click.option(
    "--timeout", type=Seconds(), default=60.0, show_default=True, help="Seconds to wait until the node leads."
)
@output_option
@click.pass_obj
def recover(
    settings: Settings, node: str | None, force: bool, yes: bool, reason: str, timeout: float, output: str
) -> None:
    """Found a log anew that Redis lost, or that is broken, from the most advanced live node."""
    with settings.log() as log:
        forced = {"force": True} if force else {}
        if force:
            confirm("found the log anew all the same?", risks.of_recovery(log, node), yes=yes)
        done = ops.recover(log, node, by=operator(), reason=reason, timeout_s=timeout, progress=say_line, **forced)
    if output == "json":
        show_json(asdict(done))
    else:
        show_line(f"the log is founded anew; {done.primary} leads in term {done.term}, from {done.first_id} on")


@click.command()
@click.argument("node", shell_complete=NAME.shell_complete)
@click.option("--reason", default="", help="For the history.")
@yes_option
@output_option
@click.pass_obj
def forget(settings: Settings, node: str, reason: str, yes: bool, output: str) -> None:
    """Declare that NODE will not come back: no node waits for it, nor for what only it may have."""
    with settings.log() as log:
        confirm(f"forget {node}?", risks.of_forget(log, node), yes=yes)
        ops.forget(log, node, by=operator(), reason=reason)
    if output == "json":
        show_json({"node": node})
        return
    show_line(f"{node} is forgotten; if it comes back, it is a node of the group again")


@click.command()
@click.argument("version", type=click.IntRange(min=1))
@click.option(
    "--timeout", type=Seconds(), default=10.0, show_default=True, help="Seconds to wait until the primary is there."
)
@output_option
@click.pass_obj
def finalize(settings: Settings, version: int, timeout: float, output: str) -> None:
    """Raise the group to VERSION, once all of its nodes read that. There is no way back."""
    with settings.log() as log:
        done = ops.finalize(log, version, by=operator(), timeout_s=timeout, progress=say_line)
    if output == "json":
        show_json(asdict(done))
    elif done.previous_version == version:
        show_line(f"the group is at version {version} already")
    else:
        show_line(f"the group is at version {version}; before it was at {done.previous_version}")


queue_option = click.option("--queue", is_flag=True, help="Run it as a job on the group's RQ worker.")
wait_option = click.option("--timeout", type=Seconds(), default=120.0, show_default=True, help="Seconds to wait.")


@click.command()
@click.argument("node", type=NAME)
@wait_option
@output_option
@click.pass_obj
def reinit(settings: Settings, node: str, timeout: float, output: str) -> None:
    """Rebuild NODE, a standby, from a snapshot of the primary. What it has is kept as a fork on its disk."""
    with settings.log() as log:
        done = ops.reinit(log, node, by=operator(), timeout_s=timeout, progress=say_line)
    if output == "json":
        show_json(asdict(done))
    else:
        show_line(f"{node} has the state of {done.primary} as of {done.position} ({done.took_ms:.0f} ms)")


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
        with progress_of("snapshot") as say, settings.log() as log:
            result = {"as_of": ops.snapshot(log, by=operator(), timeout_s=timeout, progress=say)}
    _show("snapshot", result, output)


@click.command()
@queue_option
@wait_option
@output_option
@click.pass_obj
def verify(settings: Settings, queue: bool, timeout: float, output: str) -> None:
    """Compare the states of all nodes at one position. Exit code 1 if they differ, or if a node is missing."""
    if queue:
        result = _queued(settings, "verify", timeout)
    else:
        with progress_of("verify") as say, settings.log() as log:
            result = ops.verify(log, by=operator(), timeout_s=timeout, progress=say).to_dict()
    _show("verify", result, output)


def _queued(settings: Settings, name: str, timeout: float) -> Any:
    """As a job. RQ is imported for that only."""
    from replicator.jobs.work import JobSettings

    from .job_run import Wanted, have_done

    own = JobSettings(redis=settings.redis, group=settings.group, key_file=settings.key_file)
    return have_done(Wanted(name=name, own=own, wait_s=timeout))


def _show(name: str, result: Any, output: str) -> None:
    from .job_results import show_result

    show_result(name, result, output)
