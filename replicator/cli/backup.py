"""`replicator backup` and `import`: any state to one file that says what it is, and back."""

from __future__ import annotations

from pathlib import Path

import click

from replicator import ops
from replicator.archive.backup import Facts, from_log, newest_state, opened
from replicator.archive.segment import Footer
from replicator.archive.state_class import class_of
from replicator.errors import ConfigError
from replicator.state.class_name import are_alike

from .archive_shown import state_option
from .context import (
    Seconds,
    Settings,
    data_dirs_option,
    operator,
    output_option,
    show_json,
    size_text,
    snapshot_bytes_max_option,
    when,
)
from .group_load import give_to_group, load_options
from .node_http import NodeHttp
from .progress import say_line

__all__ = ["backup", "import_"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@state_option
@data_dirs_option
@click.option("--timeout", type=Seconds(), default=120.0, show_default=True, help="Seconds to wait for the snapshot.")
@output_option
@click.pass_obj
def backup(
    settings: Settings, file: Path, state: str, data_dirs: tuple[Path, ...], timeout: float, output: str
) -> None:
    """Write the state of the group, as it is now, to FILE. The primary is asked for a snapshot; no class is needed.

    If no node leads: the newest snapshot that the log has.
    """
    with settings.log() as log:
        look = log.look()
        ops.check_is_known(log, look)
        as_of = newest_state(log, by=operator(), timeout_s=timeout, warn=say_line)
        app = look.head.app if look.head is not None else ""
        facts = from_log(file, log, as_of=as_of, state=_class(state, settings.group, app, data_dirs))
    if output == "json":
        show_json(facts.to_dict() | {"file": str(file), "file_bytes": file.stat().st_size})
        return
    click.echo(f"{file}: {_text(facts)}, {size_text(file.stat().st_size)}")


def _class(given: str, group: str, app: str, data_dirs: tuple[Path, ...]) -> str:
    return class_of(given, Footer(group=group, timeline=0, number=0, app=app), data_dirs)


def _text(facts: Facts) -> str:
    of = f"`{facts.app}`" if facts.app else "an application without a name"
    kind = f" ({facts.state})" if facts.state else ""
    return f"{of}{kind}, version {facts.version}, of group {facts.group} at {facts.id}, written {when(facts.at)} UTC"


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--check", "only_check", is_flag=True, help="Only read FILE, and say what is in it. Needs no Redis.")
@load_options
@state_option
@snapshot_bytes_max_option
@output_option
@click.pass_obj
def import_(
    settings: Settings,
    file: Path,
    only_check: bool,
    expect: str | None,
    force: bool,
    token_to: tuple[str, ...],
    token_file: Path | None,
    ca_file: Path | None,
    yes: bool,
    timeout: float,
    state: str,
    snapshot_bytes_max: int,
    output: str,
) -> None:
    """Make the state in FILE, which `backup` or `restore --backup` wrote, that of the group, on all nodes.

    FILE is read to its end before anything is changed. If the group has a state, say which one it replaces (--expect),
    or that it does not matter (--force).
    """
    with opened(file, snapshot_bytes_max=snapshot_bytes_max, keys=settings.keys) as found:
        facts = found.facts
        if not only_check:
            give_to_group(
                settings, found.pieces, kind=_kind(state, facts), app=facts.app, version=facts.version, expect=expect,
                force=force, yes=yes, timeout_s=timeout, reason=f"imported {file.name}, of {facts.id}", by=operator(),
                snapshot_bytes_max=snapshot_bytes_max, asks=NodeHttp(token_file, token_to, ca_file),
            )  # fmt: skip
    if output == "json":
        show_json(facts.to_dict() | {"file": str(file), "file_bytes": file.stat().st_size, "loaded": not only_check})
        return
    click.echo(f"{file}: {_text(facts)}, is {'whole' if only_check else 'the state of the group'}")


def _kind(given: str, facts: Facts) -> str:
    if given and facts.state and not are_alike(given, facts.state):
        raise ConfigError(
            setting="state", problem=f"{facts.state} is what it is of, not {given}: give --state {facts.state}"
        )
    return given or facts.state
