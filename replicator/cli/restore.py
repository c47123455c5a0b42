"""`replicator show`, `diff` and `restore`: what is in an archive, and an earlier state made of it again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import click
import orjson

from replicator.archive.as_directory import write_directory
from replicator.archive.backup import from_folded
from replicator.archive.checking import check
from replicator.archive.data_dir import write_data_dir
from replicator.archive.difference import differences
from replicator.archive.documents import document
from replicator.archive.folding import Folded, fold
from replicator.archive.state_class import class_of
from replicator.archive.target import Wanted
from replicator.errors import ConfigError
from replicator.format.codec import decode_changes
from replicator.format.ids import ZERO_ID
from replicator.format.keyed import change_in, key_of
from replicator.format.manifest import is_directory
from replicator.format.patch import CODEC
from replicator.format.records import ACT, ChangeRecord, PartRecord, Record
from replicator.runtime.checks import plain
from replicator.runtime.counted import counted
from replicator.state.class_name import WHOLE
from replicator.storage import disk

from .archive_shown import (
    AT,
    Opened,
    archive_option,
    at_option,
    maker,
    size_of,
    state_option,
    timeline_option,
    timelines_text,
)
from .context import (
    NAME,
    Settings,
    data_dirs_option,
    operator,
    output_option,
    show_json,
    snapshot_bytes_max_option,
    when,
)
from .group_load import give_to_group, load_options
from .node_http import NodeHttp

__all__ = ["diff", "restore", "show"]


# --- show -------------------------------------------------------------------------------------------------------------


@click.command()
@archive_option
@click.option("--at", default=None, help=f"Show the state there. {AT}  [default: what is in the archive]")
@click.option("--since", default=None, help="List the changes after this id or time, up to --at.")
@click.option("--document", is_flag=True, help="Write the state itself to stdout, as `restore --to` does.")
@timeline_option
@state_option
@data_dirs_option
@snapshot_bytes_max_option
@output_option
def show(
    where: str,
    at: str | None,
    since: str | None,
    document: bool,
    timeline: int | None,
    state: str,
    data_dirs: tuple[Path, ...],
    snapshot_bytes_max: int,
    output: str,
) -> None:
    """Show what is in an archive; with --at, the state there; with --since, the changes that led to it."""
    opened = Opened(where)
    if since is not None:
        _show_changes(opened, since, at or "latest", timeline, output)
        return
    if at is None and not document:
        _show_archive(opened, output)
        return
    with ExitStack() as stack:
        folded, _ = _folded(opened, at or "latest", timeline, state, data_dirs, snapshot_bytes_max, stack)
        if document:
            _write_document(folded, sys.stdout.buffer)
            return
        told = _facts(folded)
        if output == "json":
            show_json(told)
            return
        for name, value in _lines(folded).items():
            click.echo(f"{name.ljust(10)} {plain(str(value))}")


def _folded(
    opened: Opened,
    at: str,
    timeline: int | None,
    state: str,
    data_dirs: tuple[Path, ...],
    snapshot_bytes_max: int,
    stack: ExitStack,
) -> tuple[Folded, str]:
    """The state there, and its class."""
    target = opened.target(at, timeline)
    footer = target.lineage.footer(target.segment)
    kind = class_of(state, footer, data_dirs)
    folded = fold(
        target,
        stack,
        make_state=maker(kind),
        rejects_errors=footer.rejects_errors,
        snapshot_bytes_max=snapshot_bytes_max,
    )
    return folded, WHOLE if folded.kind == WHOLE else kind


def _facts(folded: Folded) -> dict[str, Any]:
    footer = folded.target.lineage.footer(folded.target.segment)
    return {
        "group": footer.group,
        "app": footer.app or None,
        "log_id": footer.log_id,
        "timeline": folded.target.lineage.timeline,
        "id": str(folded.target.id),
        "written_at": folded.target.at,
        "position": str(folded.view.position.id),
        "term": folded.view.position.id.term,
        "version": folded.view.version,
        "snapshot_id": str(folded.snapshot_id),
        "change_count": folded.change_count,
        "rejected_count": folded.rejected_count,
        "digest": folded.digest,
    }


def _lines(folded: Folded) -> dict[str, Any]:
    told = _facts(folded)
    made = f"the snapshot of {told['snapshot_id']}" if told["snapshot_id"] != "0-0" else "the beginning of the log"
    return {
        "record": f"{told['id']}, written {when(told['written_at'])} UTC, in term {told['term']}",
        "group": f"{told['group']}, of `{told['app']}`, version {told['version']}, log {told['log_id']}",
        "timeline": told["timeline"],
        "made of": f"{made}, and {counted(told['change_count'], 'change')} since ({told['rejected_count']} rejected)",
        "digest": told["digest"],
    }


def _show_archive(opened: Opened, output: str) -> None:
    facts, status = check(opened.catalog, contents=False), opened.status()
    lag_ms = status.lag_ms() if status is not None else None
    if output == "json":
        told = status.to_dict() | {"alive": status.alive(), "lag_ms": lag_ms} if status is not None else None
        show_json({"archive": facts.to_dict(), "archiver": told})
        return
    if facts.timelines:
        click.echo(timelines_text(facts))
    click.echo(size_of(facts))
    if status is None:
        click.echo("nothing is known of an archiver")
        return
    says = "is at work" if status.alive() else "has ended" if status.ended else "does not report"
    behind = f"{lag_ms / 1000:.1f} s" if lag_ms is not None else "not known"
    click.echo(f"the archiver on {plain(status.host)} (process {status.pid}) {says}; lag {behind}, "
               f"{counted(status.lag_records, 'record')}")  # fmt: skip
    if status.problem:
        click.echo(f"problem: {plain(status.problem)}")


def _show_changes(opened: Opened, since: str, at: str, timeline: int | None, output: str) -> None:
    upto = opened.target(at, timeline)
    lineage = upto.lineage
    wanted = Wanted.parse(since)
    if wanted.at is not None and wanted.at < lineage.footer(0).first_at:
        click.echo(f"the archive begins with {lineage.footer(0).first}: this is all since then", err=True)
        segment, after = 0, ZERO_ID
    else:
        begin = opened.target(since, lineage.timeline)
        segment, after = begin.segment, begin.id
    for record in lineage.records(segment, after=after):
        if record.id > upto.id:
            return
        for line in _changes(record):
            _show_change(line, output)


def _changes(record: Record) -> Iterator[dict[str, Any]]:
    """What a record changed, line by line: the changes in it, or that it is the last part of another state."""
    told = {"id": str(record.id), "written_at": record.at, "node": record.node}
    if isinstance(record, PartRecord) and record.is_last and record.replaces:
        yield told | {"index": 0, "change": {"replaces": str(record.as_of.id)}, "key": None}
    if not isinstance(record, ChangeRecord):
        return
    if record.codec in (CODEC, ACT):
        yield told | {"index": 0, "change": {"codec": record.codec, "body_bytes": len(record.body)}, "key": None}
        return
    changes = decode_changes(record.codec, record.payload, record.digest, record.count, id_=str(record.id))
    for index, change in enumerate(changes):
        yield told | {"index": index, "change": change_in(change), "key": key_of(change)}


def _show_change(told: dict[str, Any], output: str) -> None:
    if output == "json":
        show_json(told, a_line=True)
        return
    value = plain(orjson.dumps(told["change"]).decode())
    click.echo(f"{when(told['written_at'])}  {told['id'].ljust(14)} {told['index']:4d}  {plain(told['node'])}  {value}")


# --- diff -------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("before")
@click.argument("after", default="latest")
@archive_option
@timeline_option
@state_option
@data_dirs_option
@snapshot_bytes_max_option
@output_option
def diff(
    before: str,
    after: str,
    where: str,
    timeline: int | None,
    state: str,
    data_dirs: tuple[Path, ...],
    snapshot_bytes_max: int,
    output: str,
) -> None:
    """Show what is different in the state at AFTER (an id or a time) from that at BEFORE."""
    opened = Opened(where)
    with ExitStack() as stack:
        old, _ = _folded(opened, before, timeline, state, data_dirs, snapshot_bytes_max, stack)
        new, _ = _folded(opened, after, timeline, state, data_dirs, snapshot_bytes_max, stack)
        found = differences(old.pieces(), new.pieces())
        if output == "json":
            ids = {"before_id": str(old.target.id), "after_id": str(new.target.id)}
            show_json(ids | {"differences": [each.to_dict() for each in found]})
            return
        click.echo(
            f"from {old.target.id}, written {when(old.target.at)}, to {new.target.id}, written {when(new.target.at)}"
        )
        for each in found:
            for sign, value in (("-", each.before), ("+", each.after)):
                if value is not None:
                    click.echo(f"{sign} {plain(each.entry)} {plain(value.decode())}")


# --- restore ----------------------------------------------------------------------------------------------------------


@click.command()
@archive_option
@at_option
@timeline_option
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write the state's own document: what `load` takes, the file, database or directory, or a piece a line.",
)
@click.option(
    "--backup", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Write a file for `import`."
)
@click.option("--to-data-dir", type=click.Path(path_type=Path), default=None, help="Make the data directory of a node.")
@click.option("--name", type=NAME, default=None, help="The name of the node that --to-data-dir is for.")
@click.option("--load", is_flag=True, help="Make it the state of the group, on all nodes.")
@load_options
@state_option
@data_dirs_option
@snapshot_bytes_max_option
@output_option
@click.pass_obj
def restore(
    settings: Settings,
    where: str,
    at: str,
    timeline: int | None,
    to: Path | None,
    backup: Path | None,
    to_data_dir: Path | None,
    name: str | None,
    load: bool,
    expect: str | None,
    force: bool,
    token_to: tuple[str, ...],
    token_file: Path | None,
    ca_file: Path | None,
    yes: bool,
    timeout: float,
    state: str,
    data_dirs: tuple[Path, ...],
    snapshot_bytes_max: int,
    output: str,
) -> None:
    """Make an earlier state again: as a document, a backup, a data directory, or as that of the group (--load)."""
    if not (to or backup or to_data_dir or load):
        raise click.UsageError(
            "say what to make of it: --to FILE, --backup FILE, --to-data-dir DIR --name NODE, or --load"
        )
    if to_data_dir is not None and name is None:
        raise click.UsageError("--to-data-dir needs --name: a data directory belongs to one node")
    opened = Opened(where)
    with ExitStack() as stack:
        if to_data_dir is not None and name is not None:
            _to_data_dir(opened, at, timeline, state, data_dirs, to_data_dir, name, output)
        if not (to or backup or load):
            return
        folded, kind = _folded(opened, at, timeline, state, data_dirs, snapshot_bytes_max, stack)
        footer = folded.target.lineage.footer(folded.target.segment)
        if to is not None:
            _to_file(folded, to)
        if backup is not None:
            from_folded(backup, folded, state=kind, snapshot_bytes_max=snapshot_bytes_max, keys=settings.keys)
        if load:
            give_to_group(
                settings, folded.pieces, kind=kind, app=footer.app, version=folded.view.version, expect=expect,
                force=force, yes=yes, timeout_s=timeout, reason=f"restored from {folded.target.id}", by=operator(),
                snapshot_bytes_max=snapshot_bytes_max, asks=NodeHttp(token_file, token_to, ca_file),
            )  # fmt: skip
        _tell(_facts(folded), [str(each) for each in (to, backup) if each], load, output)


def _to_data_dir(
    opened: Opened,
    at: str,
    timeline: int | None,
    state: str,
    data_dirs: tuple[Path, ...],
    place: Path,
    name: str,
    output: str,
) -> None:
    target = opened.target(at, timeline)
    footer = target.lineage.footer(target.segment)
    kind = class_of(state, footer, data_dirs)
    view = write_data_dir(target, place, node=name, state=kind, rejects_errors=footer.rejects_errors)
    click.echo(f"{place} is the data directory of node {name} of group {footer.group}, at {view.position.id}",
               err=output == "json")  # fmt: skip


def _to_file(folded: Folded, path: Path) -> None:
    draft = path.with_name(f".{path.name}.new")
    try:
        if is_directory(next(iter(folded.pieces()), None)):
            write_directory(folded.pieces(), path)
            return
        draft.unlink(missing_ok=True)
        with open(disk.create(draft), "wb") as file:
            _write_document(folded, file)
        disk.publish(draft, path)
    except OSError as error:
        raise ConfigError(setting="to", problem=f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _write_document(folded: Folded, file: IO[bytes]) -> None:
    for chunk in document(folded):
        file.write(chunk)
    file.flush()


def _tell(facts: dict[str, Any], files: list[str], loaded: bool, output: str) -> None:
    if output == "json":
        show_json(facts | {"files": files, "loaded": loaded})
        return
    into = [*files, *(["the group"] if loaded else [])]
    click.echo(f"the state at {facts['id']}, written {when(facts['written_at'])} UTC, is in {', '.join(into)}")
