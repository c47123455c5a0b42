"""Commands that only look: status, versions, log."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from replicator import ops
from replicator.format.ids import ZERO_ID, RecordId
from replicator.format.records import ACT, ChangeRecord, PartRecord, Record, TermRecord
from replicator.runtime.checks import plain
from replicator.runtime.counted import counted

from .context import Settings, output_option, show_json, size_text, table, when
from .node_http import NodeHttp, token_options, token_to_option
from .watch import watched

__all__ = ["log", "status", "versions"]

#: Why a term is not in the first era.
OF_ERAS = "Redis came back, or its log was founded anew"


@click.command()
@output_option
@click.option("--watch", is_flag=True, help="Go on until interrupted; on a terminal as a screen.")
@token_to_option
@token_options
@click.pass_obj
def status(
    settings: Settings,
    output: str,
    watch: bool,
    token_to: tuple[str, ...],
    token_file: Path | None,
    ca_file: Path | None,
) -> None:
    """Who leads the group, and where every node is. Exit code 1 if something is wrong, 3 for an unknown group.

    While Redis is away, --watch asks the nodes over HTTP, with the token in --token-file.
    """
    asks = NodeHttp(token_file, token_to, ca_file)
    with settings.log() as log:
        if watch:
            with suppress(KeyboardInterrupt):  # the way to end it
                watched(log, output, _status_text, asks)
            return
        look = ops.looked(log)
        now = ops.status_at(log, look)
        _show_status(now, output)
        ops.check_is_known(log, look)
    if not now.well:
        sys.exit(1)  # without a message: the problem is shown above


def _show_status(now: ops.Status, output: str) -> None:
    if output == "json":
        show_json(now.to_dict())
    else:
        click.echo(_status_text(now))


def _status_text(now: ops.Status) -> str:
    lease = f"{now.lease_ms} ms" if now.lease_ms is not None else "none"
    facts: dict[str, Any] = {"group": now.group, "term": _term_text(now), "holder": now.holder or "nobody"}
    facts |= {"since": f"{when(now.since_at)} UTC"} if now.since_at is not None and now.holder else {}
    facts |= {"head": now.last_id or "-"}
    of_app = {name: value for name, value in (("app", now.app), ("version", now.version)) if value is not None}
    lines = ["   ".join(f"{name} {plain(str(value))}" for name, value in (facts | {"lease": lease} | of_app).items())]
    lines.append(_writer_text(now))
    if now.last_id is not None:
        lines.append(f"log {_log_text(now)}")
    lines += [f"PROBLEM  {plain(problem)}" for problem in now.problems]
    lines += [f"WARNING  {plain(warning)}" for warning in now.warnings]
    lines += filter(None, [_kept_text(now)])
    if not now.nodes:
        lines.append("no node has reported yet")
        return "\n".join(lines)
    headings = ("node", "role", "alive", "in_sync", "term", "position", "lag", "reported", "http", "problem")
    rows = [vars_of(node) | _node_cells(node) for node in now.nodes]
    return "\n".join([*lines, "", table(headings, rows)])


def _term_text(now: ops.Status) -> str:
    # In a later era terms are above a million, and whoever knew term 7 asks why.
    return f"{now.term}{f' (era {now.era}: {OF_ERAS})' if now.era > 1 else ''}"


def _writer_text(now: ops.Status) -> str:
    """What whoever is on call asks first."""
    writer = next((node for node in now.nodes if node.leads), None)
    if writer is None:
        return "nobody takes writes"
    if not writer.in_sync:
        return f"{writer.node} takes writes once all of its state is in the log"
    if writer.has_program:
        return f"{writer.node} leads, and only the program beside it may write"
    return f"{writer.node} takes writes{f', at {plain(writer.http)}' if writer.http else ''}"


def _kept_text(now: ops.Status) -> str:
    """What may have writes that the group does not have; empty: there is nothing."""
    kept = [f"{plain(node.node)} {counted(node.kept_count, 'file')}" for node in now.nodes if node.kept_count]
    forks = [f"{plain(node.node)} {counted(node.fork_count, 'fork')}" for node in now.nodes if node.fork_count]
    told = [f"{', '.join(forks)} (there: `replicator forks list`)"] if forks else []
    told += [f"{', '.join(kept)} (there: `replicator forks files`)"] if kept else []
    return f"kept aside: {'; '.join(told)}" if told else ""


def _node_cells(node: ops.NodeStatus) -> dict[str, Any]:
    # In words it is above the table, and `replicator why` explains the code.
    problem = ", ".join(node.codes) or node.problem
    # Of one that does not report it is not known what it is now, and whether it still has all of the log.
    known = {} if node.alive else {"role": None, "in_sync": None}
    return {"lag": _lag_text(node), "reported": f"{_age(node)} ago", "problem": problem, **known}


def _log_text(now: ops.Status) -> str:
    records = counted(now.record_count, "record")
    return (
        f"{records}, {size_text(now.log_bytes)} in Redis   snapshot {size_text(now.snapshot_bytes)}   "
        f"changes since {size_text(now.changes_bytes)}, in the log {size_text(now.kept_bytes)}"
    )


def vars_of(node: ops.NodeStatus) -> dict[str, Any]:
    return {name: getattr(node, name) for name in node.__dataclass_fields__}


def _age(node: ops.NodeStatus) -> str:
    age_s = node.age_ms / 1000
    return f"{age_s:.1f} s" if age_s < 100 else f"{age_s / 60:.0f} min"


def _lag_text(node: ops.NodeStatus) -> str | None:
    if node.lag_records is None:
        return None
    # Not the age of its newest record: after an hour without a write that is an hour, for a moment, at the first one.
    age = f", {node.behind_ms / 1000:.1f} s" if node.lag_records and node.behind_ms else ""
    return f"{node.lag_records}{age}"


@click.command()
@output_option
@click.pass_obj
def versions(settings: Settings, output: str) -> None:
    """Which version the group is at, which ones its nodes read, and what is next in an upgrade."""
    with settings.log() as log:
        look = ops.looked(log)
        ops.check_is_known(log, look)
        now = ops.versions_of(look)
    if output == "json":
        show_json(now.to_dict())
        return
    click.echo(f"app {plain(now.app or '-')}   version {now.version or '-'}")
    click.echo(f"next: {plain(now.step)}")
    rows = [_versions_row(node) for node in now.nodes]
    click.echo(f"\n{table(('node', 'app', 'code', 'reads', 'alive', 'problem'), rows)}")


def _versions_row(node: ops.NodeVersions) -> dict[str, Any]:
    reads = f"{node.reads_min}" if node.reads_min == node.reads_max else f"{node.reads_min}-{node.reads_max}"
    facts = {name: getattr(node, name) for name in ("node", "app", "alive", "problem")}
    return facts | {"code": node.version, "reads": reads}


@click.command()
@output_option
@click.option("--after", default=str(ZERO_ID), help="Start after this position, for example 5-1042.")
@click.option("--follow", is_flag=True, help="Wait for new records, and show them as they come.")
@click.pass_obj
def log(settings: Settings, output: str, after: str, follow: bool) -> None:
    """The records of the log, one per line."""
    begin = RecordId.parse(after)
    with settings.log() as group_log:
        ops.check_is_known(group_log, ops.looked(group_log))
        for record in ops.records(group_log, after=begin, follow=follow):
            if output == "json":
                show_json(_record_dict(record), a_line=True)
            else:
                click.echo(_record_text(record))


def _record_dict(record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": str(record.id), "kind": record.kind, "node": record.node, "boot": record.boot,
        "prev": record.prev, "chain": record.chain, "written_at": record.at, "body_bytes": len(record.body),
    }  # fmt: skip
    if isinstance(record, TermRecord):
        skipped_id = str(record.skip) if record.skip != ZERO_ID else None
        of_log = {"log_id": record.log_id, "app": record.app or None, "skipped_id": skipped_id}
        return fields | of_log | {"run": record.run, "by": record.by, "reason": record.reason}
    if isinstance(record, ChangeRecord):
        fields |= {"codec": record.codec, "digest": record.digest, "version": record.version or None}
        return fields | {"change_count": record.count if record.codec != ACT else 0}
    assert isinstance(record, PartRecord)
    fields |= {"codec": record.codec, "as_of": str(record.as_of.id)}
    return fields | {"part_index": record.part, "part_count": record.parts or None}


def _record_text(record: Record) -> str:
    line = f"{when(record.at)}  {str(record.id).ljust(14)} {record.kind.ljust(6)} {plain(record.node)}"
    if isinstance(record, TermRecord):
        without = f" without {record.skip}" if record.skip != ZERO_ID else ""
        return f"{line}  opens term {record.id.term}{without}: {plain(record.reason)}, by {plain(record.by)}"
    if isinstance(record, ChangeRecord):
        if record.version:
            return f"{line}  the group is at version {record.version}"
        changes = f"{counted(record.count, 'change')}, {len(record.body)} bytes"
        return f"{line}  {changes}" if record.count else f"{line}  marker"
    assert isinstance(record, PartRecord)
    whole = f" of {record.parts}, complete" if record.is_last else ""
    return f"{line}  part {record.part + 1}{whole}, state as of {record.as_of.id}, {len(record.body)} bytes"
