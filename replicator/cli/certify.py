"""`replicator certify`: checks the log of a group, and what its nodes have of it on their disks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from replicator import ops
from replicator.errors import NotPrimary
from replicator.log.redis_log import RedisLog
from replicator.ops.certify import Certificate, NodeFacts
from replicator.ops.certify import certify as checked
from replicator.ops.log_check import Violation

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
from .progress import progress_of, say_line
from .state_option import REGISTRY, state_class

__all__ = ["certify"]

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
    make_state = state_class(state)
    found: Certificate | None = None
    live: ops.DigestReport | None = None
    try:
        with settings.log() as log:
            with progress_of("certify") as say:
                found = checked(
                    log,
                    data_dirs,
                    make_state=make_state,
                    assumed=_is_default("state"),
                    progress=say,
                    snapshot_bytes_max=snapshot_bytes_max,
                )
            if output == "table":
                click.echo(_text(found))
            live = _verified(log, timeout) if verify else None
    except Violation as violation:
        if output == "json":
            show_json(_result(found, live, violation))
        raise
    if output == "json":
        show_json(_result(found, live, None))
        return
    if live is not None:
        show_line(f"live     {', '.join(live.digests)} have equal states at {live.position}")
    show_line("certified")


def _result(found: Certificate | None, live: ops.DigestReport | None, violation: Violation | None) -> dict[str, Any]:
    return {
        "certified": violation is None,
        "violation": violation.to_dict() if violation else None,
        "log": asdict(found.log) if found else None,
        "nodes": [asdict(node) for node in found.nodes] if found else None,
        "equal_nodes": found.equal_nodes if found else None,
        "live": live.to_dict() if live else None,
    }


def _verified(log: RedisLog, timeout_s: float) -> ops.DigestReport | None:
    """Compare the live nodes' states. Nodes that do not report are named, but are no violation."""
    try:
        with progress_of("verify") as say:
            report = ops.verify(log, by=operator(), timeout_s=timeout_s, progress=say)
    except NotPrimary:
        say_line("no node leads, so the states of the live nodes were not compared")
        return None
    if report.differ or report.late_nodes or report.undrawn:
        raise Violation("state", report.verdict)
    if report.silent_nodes:
        say_line(f"{', '.join(report.silent_nodes)} does not report, so its state was not compared")
    return report


def _is_default(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.DEFAULT


def _text(found: Certificate) -> str:
    log = found.log
    begins = f"from {log.first_id} (older ones are trimmed)" if log.trimmed else f"from {log.first_id}"
    broken_off = f" ({log.broken_snapshot_count} more broken off)" if log.broken_snapshot_count else ""
    counted = {
        "terms": log.term_count,
        "changes": log.change_count,
        "markers": log.marker_count,
        "rebases": log.rebase_count,
    }
    told = ", ".join(f"{count} {what}" for what, count in counted.items())
    lines = [
        f"log      {log.record_count} records {begins} to {log.last_id}, {log.records_bytes} bytes",
        f"         {told}, {log.snapshot_count} snapshots{broken_off}",
    ]
    if found.nodes:
        lines += ["", table(HEADINGS, [_row(node) for node in found.nodes]), ""]
    lines += [f"states   {', '.join(names)} have equal states, at equal positions" for names in found.equal_nodes]
    return "\n".join(lines)


def _row(node: NodeFacts) -> dict[str, Any]:
    return asdict(node) | {
        "common": node.common_record_count,
        "trimmed": node.trimmed_record_count,
        "divergent": node.divergent_record_count,
    }
