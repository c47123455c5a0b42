"""`replicator node`: run one node, of the registry with its HTTP API, or beside a program that has a file."""

from __future__ import annotations

from pathlib import Path

import click

from replicator.node.node import LEASE_S_MIN
from replicator.service.sidecar import PUBLISH_EVERY_S_MIN

from .context import NAME, Seconds, Settings, snapshot_bytes_max_option

__all__ = ["node"]


def _octal(_: click.Context, __: click.Parameter, value: str) -> int:
    """The permissions of a file, as chmod(1) takes them."""
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0o400 <= mode <= 0o777:
        raise click.BadParameter(f"{value!r} is not a mode like 600 or 640")
    return mode


@click.command()
@click.option(
    "--name", type=NAME, required=True, envvar="REPLICATOR_NAME", help="This node's name, unique in the group."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="REPLICATOR_DATA_DIR",
    help="Its own directory.  [default: data/NAME]",
)
@click.option("--http", default="127.0.0.1:0", show_default=True, envvar="REPLICATOR_HTTP", help="HOST:PORT to serve.")
@click.option(
    "--advertise",
    default="",
    envvar="REPLICATOR_ADVERTISE",
    help="URL at which others reach it, where that is not what it serves.",
)
@click.option(
    "--lease-s",
    type=Seconds(LEASE_S_MIN),
    default=5.0,
    show_default=True,
    envvar="REPLICATOR_LEASE_S",
    help="How long the primary may go on without hearing from Redis.",
)
@click.option(
    "--auto-promote/--no-auto-promote",
    default=False,
    show_default=True,
    envvar="REPLICATOR_AUTO_PROMOTE",
    help="Whether it takes over by itself when the primary's lease is gone.",
)
@click.option(
    "--ack",
    default="appended",
    show_default=True,
    envvar="REPLICATOR_ACK",
    help="What a write waits for: appended, fsynced, replicated:N or applied:N.",
)
@click.option(
    "--on-restart",
    type=click.Choice(["primary", "standby"]),
    default="primary",
    show_default=True,
    envvar="REPLICATOR_ON_RESTART",
    help="Whether it takes the term again that it held when it ended.",
)
@click.option(
    "--on-log-lost",
    type=click.Choice(["wait", "recover"]),
    default="wait",
    show_default=True,
    envvar="REPLICATOR_ON_LOG_LOST",
    help="What if Redis has lost the log: wait for `replicator recover`, or found it anew.",
)
@click.option(
    "--failover-without",
    type=click.Choice(["safe", "always"]),
    default="safe",
    show_default=True,
    envvar="REPLICATOR_FAILOVER_WITHOUT",
    help="Whether it leads after Redis may have lost something and nodes are missing: only if they cannot be all that "
    "hold what was acknowledged as applied:N, or always.",
)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="REPLICATOR_FILE",
    help="Replicate this file, which another program writes, instead of a registry.",
)
@click.option(
    "--sqlite",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="REPLICATOR_SQLITE",
    help="Replicate this SQLite database, which other programs use, instead of a registry.",
)
@click.option(
    "--file-mode",
    metavar="OCTAL",
    callback=_octal,
    default="600",
    show_default=True,
    envvar="REPLICATOR_FILE_MODE",
    help="The mode of the file or database where it is not there yet, in octal. One that is there keeps its own.",
)
@click.option(
    "--publish-every-s",
    type=Seconds(PUBLISH_EVERY_S_MIN),
    default=1.0,
    show_default=True,
    envvar="REPLICATOR_PUBLISH_EVERY_S",
    help="How often the primary looks whether the file was written, and publishes what changed.",
)
@click.option(
    "--on-primary", default="", envvar="REPLICATOR_ON_PRIMARY", help="A command to run when this node is the primary."
)
@click.option("--on-standby", default="", envvar="REPLICATOR_ON_STANDBY", help="A command to run when it is a standby.")
@snapshot_bytes_max_option
@click.pass_obj
def node(
    settings: Settings,
    name: str,
    data_dir: Path | None,
    http: str,
    advertise: str,
    lease_s: float,
    auto_promote: bool,
    ack: str,
    on_restart: str,
    on_log_lost: str,
    failover_without: str,
    file: Path | None,
    sqlite: Path | None,
    file_mode: int,
    publish_every_s: float,
    on_primary: str,
    on_standby: str,
    snapshot_bytes_max: int,
) -> None:
    """Run a node until it is told to end (SIGTERM, Ctrl-C): of the registry, or beside a program (--file, --sqlite)."""
    from replicator.service.serve import serve

    serve(
        name=name,
        group=settings.group,
        redis=settings.redis,
        data_dir=data_dir or Path("data") / name,
        http=http,
        advertise=advertise,
        lease_s=lease_s,
        auto_promote=auto_promote,
        ack=ack,
        on_restart=on_restart,
        on_log_lost=on_log_lost,
        failover_without=failover_without,
        file=file,
        sqlite=sqlite,
        file_mode=file_mode,
        publish_every_s=publish_every_s,
        on_primary=on_primary,
        on_standby=on_standby,
        snapshot_bytes_max=snapshot_bytes_max,
    )
