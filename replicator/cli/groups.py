"""`replicator groups`: what is in this Redis."""

from __future__ import annotations

from typing import Any

import click

from replicator import ops
from replicator.errors import ReplicatorError
from replicator.log.redis_log import RedisLog
from replicator.runtime.checks import plain

from .context import Settings, output_option, show_json, size_text, table

__all__ = ["groups"]


class _NotAllowed(ReplicatorError):
    """this Redis user may not search for groups (SCAN): allow it, or name one with --group"""


@click.command()
@output_option
@click.pass_obj
def groups(settings: Settings, output: str) -> None:
    """The groups in this Redis: who leads each one, its size, and what is wrong. Exit code 1 if something is."""
    with settings.log() as log:
        log.look()  # a Redis that does not answer is another thing than one without groups
        names = log.groups()
    if names is None:
        raise _NotAllowed()
    found = ops.groups(names, lambda name: RedisLog(settings.redis, name))
    if output == "json":
        show_json([each.to_dict() for each in found])
    elif not found:
        click.echo("there is no group in this Redis")
    else:
        headings = ("group", "app", "primary", "term", "nodes", "records", "size", "problem")
        click.echo(table(headings, [_row(each) for each in found]))
    if any(each.problem for each in found):
        click.get_current_context().exit(1)


def _row(each: ops.GroupSummary) -> dict[str, Any]:
    return each.to_dict() | {
        "nodes": f"{each.live_count} of {each.node_count}",
        "records": each.record_count,
        "size": size_text(each.log_bytes),
        "problem": plain(each.problem or ""),
    }
