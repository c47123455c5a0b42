"""`replicator forks`: shows histories that lost, and what they have that the group lacks. It only reads files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import orjson

from replicator.errors import CheckpointError
from replicator.runtime.checks import plain
from replicator.runtime.counted import counted
from replicator.service.kept_files import kept_in
from replicator.storage import forks as files

from . import kept_files
from .context import (
    data_dirs_option,
    given_keys,
    needed,
    output_option,
    show_json,
    snapshot_bytes_max_option,
    table,
    when,
)

__all__ = ["forks"]

HEADINGS = ("fork", "node", "when", "position", "term", "parted", "divergent", "reason")


@click.group()
def forks() -> None:
    """Histories that lost: what some node had, and the group lacks."""


for _each in (kept_files.files, kept_files.diff, kept_files.restore):
    forks.add_command(_each)


@forks.command("list")
@data_dirs_option
@output_option
def list_(data_dirs: tuple[Path, ...], output: str) -> None:
    """List the forks of these nodes. Exit code 1 if one of them cannot be read."""
    paths = files.paths(needed(data_dirs))
    problems: list[CheckpointError] = []
    found = list(_readable(paths, problems))
    if output == "json":
        show_json([fork.to_dict() for fork in found])
    elif found:
        click.echo(table(HEADINGS, [_row(fork) for fork in found]))
    elif not paths:
        click.echo("no forks")
    if output != "json" and (aside := kept_in(data_dirs)):
        click.echo(f"{counted(len(aside), 'file was', 'files were')} put aside as well: `replicator forks files`")
    for problem in problems:
        click.echo(f"Error: {plain(str(problem))}", err=True)
    if problems:
        sys.exit(1)


def _readable(paths: list[Path], problems: list[CheckpointError]) -> Iterator[files.Fork]:
    for path in paths:
        try:
            yield files.read(path)
        except CheckpointError as problem:
            problems.append(problem)


def _row(fork: files.Fork) -> dict[str, object]:
    return fork.to_dict() | {"when": _when(fork), "parted": fork.parted_id, "divergent": _divergent_text(fork)}


def _when(fork: files.Fork) -> str | None:
    return when(fork.written_at).partition(".")[0] if fork.written_at is not None else None


def _divergent_text(fork: files.Fork) -> str:
    return f"{fork.divergent_change_count}{_more_text(fork)}"


def _more_text(fork: files.Fork) -> str:
    return " + those in its snapshot" if fork.has_more_in_snapshot else ""


@forks.command()
@click.argument("name")
@data_dirs_option
@output_option
def show(name: str, data_dirs: tuple[Path, ...], output: str) -> None:
    """Show the fork NAME, and the changes that it has and the group lacks."""
    fork = files.read(files.find(name, needed(data_dirs)))
    if output == "json":
        show_json(
            fork.to_dict() | {"changes": [change.to_dict() for change in files.divergent(fork, keys=given_keys())]}
        )
        return
    for label, value in _facts(fork).items():
        click.echo(f"{label.ljust(10)} {plain(str(value))}")
    click.echo()
    if fork.has_more_in_snapshot:
        click.echo(f"Changes from {fork.parted_id} up to {fork.snapshot_changed} are in its snapshot and cannot be "
                   f"listed one by one: `replicator forks export {name} --state` gives the whole state.")  # fmt: skip
    for change in files.divergent(fork, keys=given_keys()):
        value = plain(orjson.dumps(change.change).decode())
        click.echo(f"{when(change.at)}  {str(change.id).ljust(14)} {change.index:4d}  {plain(change.node)}  {value}")


def _facts(fork: files.Fork) -> dict[str, object]:
    return {
        "fork": fork.path,
        "node": f"{fork.node}, of group {fork.group}",
        "written": _when(fork) or "not known",
        "reason": fork.reason,
        "position": f"{fork.position}; the newest term that it knew is {fork.term}",
        "parted at": f"{fork.parted_id}: up to there, the group has all of its history",
        "divergent": f"{counted(fork.divergent_change_count, 'change')}{_more_text(fork)}",
    }


@forks.command()
@click.argument("name")
@click.option("--state", is_flag=True, help="The whole state of the fork, not only what the group lacks.")
@snapshot_bytes_max_option
@data_dirs_option
def export(name: str, state: bool, snapshot_bytes_max: int, data_dirs: tuple[Path, ...]) -> None:
    """Export the changes that the fork NAME has and the group lacks, as JSON, one per line."""
    fork = files.read(files.find(name, needed(data_dirs)))
    lines = (
        files.export_state(fork, snapshot_bytes_max=snapshot_bytes_max, keys=given_keys())
        if state
        else files.export(fork, keys=given_keys())
    )
    for line in lines:
        show_json(line, a_line=True)
