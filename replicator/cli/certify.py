"""`replicator certify`: checks the log of a group, and what its nodes have of it on their disks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from replicator.ops.certify import Certificate, NodeFacts
from replicator.ops.certify_group import certify_group
from replicator.runtime.checks import plain
from replicator.runtime.counted import counted
from replicator.state.named_class import REGISTRY, state_class

from .archive_shown import certify_archive
from .context import (
    Seconds,
    Settings,
    data_dirs_option,
    operator,
    output_option,
    show_json,
    show_line,
    snapshot_bytes_max_option,
    table,
)
from .progress import progress_of

__all__ = ["certify", "text_of"]

HEADINGS = ("node", "position", "place", "common", "trimmed", "divergent", "digest")


@click.command()
@data_dirs_option
@click.option(
    "--state",
    default=REGISTRY,
    show_default=True,
    help="The class of the state, MODULE:CLASS, made without arguments. `whole`: any state without apply().",
)
@click.option(
    "--archive",
    default="",
    help="Check this archive instead (a directory or a URL): every segment, and the rules of a log. Needs no Redis.",
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Also compare the live nodes' states.")
@click.option("--timeout", type=Seconds(), default=60.0, show_default=True, help="Seconds to wait for the live nodes.")
@snapshot_bytes_max_option
@output_option
@click.pass_obj
def certify(
    settings: Settings,
    data_dirs: tuple[Path, ...],
    state: str,
    archive: str,
    verify: bool,
    timeout: float,
    snapshot_bytes_max: int,
    output: str,
) -> None:
    """Check the whole log, and what nodes have of it on their disks. Exit code 1 at the first violation."""
    if archive:
        certify_archive(archive, output=output, snapshot_bytes_max=snapshot_bytes_max)
        return
    with settings.log() as log, progress_of("certify") as say:
        found = certify_group(
            log,
            data_dirs,
            make_state=state_class(state),
            assumed=_is_default("state"),
            by=operator(),
            compare_live=verify,
            timeout_s=timeout,
            progress=say,
            snapshot_bytes_max=snapshot_bytes_max,
            keys=settings.keys,
        )
    if output == "json":
        show_json(found.to_dict())
    elif found.log is not None:
        click.echo(text_of(found.log))
    if found.violation is not None:
        raise found.violation
    if output == "table":
        if found.live is not None:
            show_line(f"live     {', '.join(found.live.digests)} have equal states at {found.live.position}")
        show_line("certified")


def _is_default(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.DEFAULT


def text_of(found: Certificate) -> str:
    """For people."""
    log = found.log
    begins = f"from {log.first_id} (older ones are trimmed)" if log.trimmed else f"from {log.first_id}"
    broken_off = f" ({log.broken_snapshot_count} more broken off)" if log.broken_snapshot_count else ""
    counts = ((log.term_count, "term"), (log.change_count, "change"), (log.marker_count, "marker"))
    told = ", ".join(counted(count, what) for count, what in (*counts, (log.rebase_count, "rebase")))
    lines = [
        plain(f"log      {counted(log.record_count, 'record')} {begins} to {log.last_id}, {log.records_bytes} bytes"),
        f"         {told}, {counted(log.snapshot_count, 'snapshot')}{broken_off}",
    ]
    if found.nodes:
        lines += ["", table(HEADINGS, [_row(node) for node in found.nodes]), ""]
    lines += [
        plain(f"states   {', '.join(names)} have equal states, at equal positions") for names in found.equal_nodes
    ]
    return "\n".join(lines)


def _row(node: NodeFacts) -> dict[str, Any]:
    return asdict(node) | {
        "common": node.common_record_count,
        "trimmed": node.trimmed_record_count,
        "divergent": node.divergent_record_count,
    }
