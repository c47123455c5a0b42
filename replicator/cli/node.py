"""`replicator node`: run one node of the registry, with its HTTP API."""

from __future__ import annotations

from pathlib import Path

import click

from .context import Settings

__all__ = ["node"]


@click.command()
@click.option("--name", required=True, envvar="REPLICATOR_NAME", help="This node's name, unique in the group.")
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
) -> None:
    """Run a node of the registry until it is told to end (SIGTERM, Ctrl-C)."""
    from replicator.service import serve

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
    )
