"""Options of the command line that are those of a node (`NodeOptions`), with its defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from replicator.node.options import FAILOVER_WITHOUT, LEASE_S_MIN, ON_LOG_LOST, ON_RESTART, NodeOptions

from .context import Seconds

__all__ = ["auto_promote_option", "lease_option", "node_options"]

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_DEFAULTS = NodeOptions()


def lease_option(help_: str) -> _Decorator:
    """`--lease-s`."""
    return click.option(
        "--lease-s",
        type=Seconds(LEASE_S_MIN),
        default=_DEFAULTS.lease_s,
        show_default=True,
        envvar="REPLICATOR_LEASE_S",
        help=help_,
    )


def auto_promote_option(help_: str) -> _Decorator:
    """`--auto-promote`."""
    return click.option(
        "--auto-promote/--no-auto-promote",
        default=_DEFAULTS.auto_promote,
        show_default=True,
        envvar="REPLICATOR_AUTO_PROMOTE",
        help=help_,
    )


_OPTIONS: list[_Decorator] = [
    lease_option("How long the primary may go on without hearing from Redis."),
    auto_promote_option("Whether it takes over by itself when the primary's lease is gone."),
    click.option(
        "--ack",
        default=_DEFAULTS.ack,
        show_default=True,
        envvar="REPLICATOR_ACK",
        help="What a write waits for: appended, fsynced, replicated:N or applied:N.",
    ),
    click.option(
        "--on-restart",
        type=click.Choice(ON_RESTART),
        default=_DEFAULTS.on_restart,
        show_default=True,
        envvar="REPLICATOR_ON_RESTART",
        help="Whether it takes the term again that it held when it ended.",
    ),
    click.option(
        "--on-log-lost",
        type=click.Choice(ON_LOG_LOST),
        default=_DEFAULTS.on_log_lost,
        show_default=True,
        envvar="REPLICATOR_ON_LOG_LOST",
        help="What if Redis has lost the log: wait for `replicator recover`, or found it anew.",
    ),
    click.option(
        "--failover-without",
        type=click.Choice(FAILOVER_WITHOUT),
        default=_DEFAULTS.failover_without,
        show_default=True,
        envvar="REPLICATOR_FAILOVER_WITHOUT",
        help="Whether it leads after Redis may have lost something and nodes are missing: only if they cannot be all "
        "that hold what was acknowledged as applied:N, or always.",
    ),
]


def node_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of them, in the order in which they are shown."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
