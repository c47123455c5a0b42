"""`replicator skip`: a group that stalled at one change goes on without it."""

from __future__ import annotations

from dataclasses import asdict

import click

from replicator import ops
from replicator.errors import ConfigError, SkipRefused
from replicator.format.ids import RecordId
from replicator.ops import risks
from replicator.runtime.counted import counted

from .confirm import confirm, yes_option
from .context import NAME, Seconds, Settings, operator, output_option, show_json, show_line

__all__ = ["skip"]


@click.command()
@click.argument("change", metavar="ID")
@click.option("--on", "node", type=NAME, required=True, help="The node that is to lead. It has to be stalled at ID.")
@click.option("--reason", required=True, help="For the history, and for whoever repeats a change with its key.")
@click.option("--dry-run", is_flag=True, help="Show what would be lost, and do nothing. Exit code 3 if it is refused.")
@click.option(
    "--force", is_flag=True, help="Even if a node has applied ID, and may have acknowledged it: it is rebuilt without."
)
@yes_option
@click.option(
    "--timeout", type=Seconds(), default=30.0, show_default=True, help="Seconds to wait until the node leads."
)
@output_option
@click.pass_obj
def skip(
    settings: Settings,
    change: str,
    node: str,
    reason: str,
    dry_run: bool,
    force: bool,
    yes: bool,
    timeout: float,
    output: str,
) -> None:
    """Have a group go on without its last change, ID, at which every node stalls. NODE leads from then on."""
    id_ = _id_of(change)
    with settings.log() as log:
        if dry_run:
            _show_preview(ops.preview_skip(log, id_, node, force=force), output)
            return
        if force:
            confirm(f"go on without {id_} all the same?", risks.of_skip(log, id_), yes=yes)
        done = ops.skip(log, id_, node, by=operator(), reason=reason, force=force, timeout_s=timeout)
    if output == "json":
        show_json(asdict(done))
    else:
        show_line(
            f"{done.primary} leads in term {done.term}, from {done.first_id} on, without {done.skipped_id} "
            f"({counted(done.change_count, 'change')}; {done.took_ms:.0f} ms)"
        )


def _id_of(text: str) -> RecordId:
    try:
        return RecordId.parse(text)
    except ConfigError:
        raise ConfigError(setting="ID", problem=f"{text!r} is no id of a record, like 5-1042") from None


def _show_preview(preview: ops.SkipPreview, output: str) -> None:
    if output == "json":
        show_json(preview.to_dict())
    else:
        count = preview.change_count
        show_line(f"lost: {'nothing that the log has' if count is None else counted(count, 'change')}")
        show_line(f"rebuilt without it: {', '.join(preview.applied_nodes) or 'no node that has applied it is known'}")
    if preview.refusal is not None:
        raise SkipRefused(change=preview.skipped_id, node=preview.node, reason=preview.refusal)
    if output == "table":
        show_line(f"would go on without {preview.skipped_id}, on {preview.node}")
