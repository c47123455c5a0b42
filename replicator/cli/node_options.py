"""Options of the command line that are those of a node (`NodeOptions`), with its defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from replicator.node.options import FAILOVER_WITHOUT, LEASE_S_MIN, ON_APPLY_ERROR, ON_LOG_LOST, ON_RESTART, NodeOptions

from .context import Seconds

__all__ = ["auto_promote_option", "lease_option", "node_options"]

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_DEFAULTS = NodeOptions()


def _option(field: str, help_: str, **more: Any) -> _Decorator:
    """The option of that field of `NodeOptions`: its name, its default and its variable follow from it."""
    name, default = field.replace("_", "-"), getattr(_DEFAULTS, field)
    declared = f"--{name}/--no-{name}" if isinstance(default, bool) else f"--{name}"
    variable = f"REPLICATOR_{field.upper()}"
    return click.option(declared, default=default, show_default=True, envvar=variable, help=help_, **more)


def lease_option(help_: str) -> _Decorator:
    """`--lease-s`."""
    return _option("lease_s", help_, type=Seconds(LEASE_S_MIN))


def auto_promote_option(help_: str) -> _Decorator:
    """`--auto-promote`."""
    return _option("auto_promote", help_)


_OPTIONS: list[_Decorator] = [
    lease_option("How long the primary may go on without hearing from Redis."),
    auto_promote_option("Whether it takes over by itself when the primary's lease is gone."),
    _option("ack", "What a write waits for: appended, fsynced, replicated:N or applied:N."),
    _option("on_restart", "Whether it takes the term again that it held when it ended.", type=click.Choice(ON_RESTART)),
    _option(
        "on_log_lost",
        "What if Redis has lost the log: wait for `replicator recover`, or found it anew.",
        type=click.Choice(ON_LOG_LOST),
    ),
    _option(
        "failover_without",
        "Whether it leads after Redis may have lost something and nodes are missing: only if they cannot be all "
        "that hold what was acknowledged as applied:N, or always.",
        type=click.Choice(FAILOVER_WITHOUT),
    ),
    _option(
        "on_apply_error",
        "What an exception of apply() means: the node applies nothing more, or it is a rejection. The same on all "
        "nodes.",
        type=click.Choice(ON_APPLY_ERROR),
    ),
    _option(
        "verify_every_s",
        "How often the primary, if it wrote, has the states of all nodes compared; 0: never.",
        type=Seconds(),
    ),
]


def node_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of them, in the order in which they are shown."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
