"""`replicator completion SHELL`: what a shell needs to complete commands, options, and the names of nodes and groups.

Names come from Redis. Whoever presses Tab waits for them for a moment at most, and if Redis is away there are none: a
shell that shows an error in the middle of a line is worse than one that knows no name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem, get_completion_class

from replicator.errors import ReplicatorError
from replicator.log.interface import Log
from replicator.log.redis_log import RedisLog
from replicator.log.urls import with_password_file

from .config import load_settings
from .settings_file import found_settings

__all__ = ["completion", "names_in_redis"]

#: How long Tab may take.
WITHIN_S = 1.0

VARIABLE = "_REPLICATOR_COMPLETE"

#: Parameters of these names are names of nodes.
OF_NODES = ("node",)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: eval "$(replicator completion bash)"."""
    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, "replicator", VARIABLE).source())


def names_in_redis(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the nodes of the group, or of the groups, that begin so."""
    found: list[str] = []
    with suppress(ReplicatorError, OSError):
        found = _nodes(ctx) if param.name in OF_NODES else _groups(ctx) if param.name == "group" else []
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


def _nodes(ctx: click.Context) -> list[str]:
    return sorted(_log(ctx).look().heartbeats)


def _groups(ctx: click.Context) -> list[str]:
    return _log(ctx).groups() or []


def _log(ctx: click.Context) -> Log:
    root = ctx.find_root()
    config = root.params.get("config") or found_settings()
    file = load_settings(config) if config is not None else {}
    redis, path, group = (_setting(root, file, name) for name in ("redis", "redis_password_file", "group"))
    redis = with_password_file(redis, path, setting="redis-password-file") if path else redis
    return RedisLog(redis, group).within(time.monotonic() + WITHIN_S)


def _setting(root: click.Context, file: Mapping[str, Any], name: str) -> str:
    given = str(root.params[name] or "")
    return str(file.get(name, given)) if root.get_parameter_source(name) is ParameterSource.DEFAULT else given
