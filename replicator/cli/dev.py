"""`replicator dev`: a Redis and three nodes of the registry on this machine, under supervisord, until Ctrl-C."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
import time
from pathlib import Path

import click

from replicator import ops
from replicator.errors import LogUnavailable, ReplicatorError
from replicator.log.redis_log import RedisLog
from replicator.sandbox.stack import DEFAULT_DIRECTORY, DEFAULT_PORT, DevStack

from .context import Settings
from .node_options import auto_promote_option, lease_option

__all__ = ["command_here", "dev"]

#: The group leads itself again after a restart: two heartbeats, and what a slow machine adds.
LEADER_WITHIN_S = 30.0

FIRST_PRIMARY = "a"


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=DEFAULT_DIRECTORY,
    show_default=True,
    envvar="REPLICATOR_DEV_DIR",
    help="Data, logs and pid file of the stack.",
)
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    help="HTTP port of node a; b and c take the next two. 0: any three.",
)
@lease_option("Lease of the primary.")
@auto_promote_option("Whether a standby takes over by itself.")
@click.pass_context
def dev(ctx: click.Context, directory: Path, port: int, lease_s: float, auto_promote: bool) -> None:
    """Run a Redis and three nodes on this machine, until Ctrl-C."""
    settings: Settings = ctx.obj
    settings.check_plain("dev")
    stack = DevStack(
        directory,
        port=port,
        group=settings.group,
        environment={
            "REPLICATOR_LOG_LEVEL": ctx.find_root().params["log_level"],
            "REPLICATOR_LOG_FORMAT": ctx.find_root().params["log_format"],
            "REPLICATOR_LEASE_S": str(lease_s),
            "REPLICATOR_AUTO_PROMOTE": str(int(auto_promote)),
        },
    )
    click.echo(f"starting Redis and nodes a, b, c in {stack.directory} ...")
    stack.run(_lead_and_tell)
    click.echo(f"\nended; the data is still in {stack.directory}, and the next start goes on with it")
    if directory == DEFAULT_DIRECTORY:  # one that was named may hold something else
        click.echo(f"to begin anew, delete it: rm -r {directory}")


def _lead_and_tell(stack: DevStack) -> None:
    log = RedisLog(stack.redis_url, stack.group)
    try:
        now = _with_leader(log)
    finally:
        log.close()
    click.echo()
    for name, url in stack.urls().items():
        click.echo(f"  node {name}  {url}/v1/state   {'primary' if name == now.holder else 'standby'}")
    click.echo(f"  logs    {stack.directory / 'log'}")
    click.echo()
    click.echo("in another terminal, in this directory:")
    click.echo(f"  export REPLICATOR_REDIS='{stack.redis_url}' REPLICATOR_GROUP={stack.group}")
    replicator = command_here()
    click.echo(f"  {replicator} status --watch")
    click.echo(f"  {replicator} switchover --to b")
    click.echo()
    click.echo("Ctrl-C ends everything.")


def _with_leader(log: RedisLog) -> ops.Status:
    """The group once somebody leads: a new one is given its first primary, another goes on by itself."""
    deadline = time.monotonic() + LEADER_WITHIN_S
    while time.monotonic() < deadline:
        try:
            now = ops.status(log)
            if now.term == 0 and any(node.node == FIRST_PRIMARY and node.alive for node in now.nodes):
                ops.promote(log, FIRST_PRIMARY, by="replicator dev", reason="the first primary", expect=0)
                continue
            if any(node.role == "primary" and node.alive for node in now.nodes):
                return now
        except LogUnavailable:
            pass
        time.sleep(0.1)
    raise ReplicatorError(f"nobody leads the group after {LEADER_WITHIN_S:.0f} s; the nodes' logs say why")


def command_here() -> str:
    """How this very command is typed in another terminal that is in the same directory.

    Its name, if the shell finds this one by it; else its path: nobody has to activate the environment of a checkout.
    """
    started = Path(sys.argv[0])
    ours = started if started.name == "replicator" else Path(sysconfig.get_path("scripts")) / "replicator"
    found = shutil.which("replicator")
    if not ours.is_file() or (found is not None and ours.samefile(found)):
        return "replicator"
    # Not resolved: what a link leads to may not know its environment.
    path, here = Path(os.path.abspath(ours)), Path.cwd()
    if path.parent == here:
        return "./replicator"
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
