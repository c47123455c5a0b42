"""`replicator supervisord`: a file for supervisord, with one program for each node of a service of one's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from replicator.errors import ConfigError
from replicator.log.urls import place_of, shown
from replicator.node.environment import address_of, variable
from replicator.runtime import checks
from replicator.service.supervisor_file import NodeProgram, supervisor_file

from .context import Settings
from .node_options import node_options

__all__ = ["supervisord"]

#: That of the registry, which is run by `replicator node`.
DEFAULT_GROUP = "registry"


@click.command()
@click.option("--nodes", default="a", show_default=True, help="The names of the nodes on this host: a,b,c.")
@click.option(
    "--http",
    default="127.0.0.1:8001",
    show_default=True,
    envvar="REPLICATOR_HTTP",
    help="HOST:PORT of the first node; each further one has the next port.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Where the command runs. The nodes have their data in data/NAME there, and their logs beside it.",
)
@click.option("--alone", is_flag=True, help="A file that stands for itself: `supervisord -c FILE`.")
@node_options
@click.argument("command", nargs=-1, required=True)
@click.pass_context
def supervisord(
    ctx: click.Context,
    /,
    nodes: str,
    http: str,
    directory: Path,
    alone: bool,
    command: tuple[str, ...],
    **given: Any,
) -> None:
    """Print a file for supervisord, with one program for each node of a service of yours (`Node.from_env`).

    COMMAND is what a node is run by, after two dashes; {name}, {host} and {port} in it are those of the node:

    replicator --group votes supervisord --nodes a,b -- uvicorn service:app --port {port}
    """
    settings: Settings = ctx.obj
    root = ctx.find_root()
    if settings.group == DEFAULT_GROUP and root.get_parameter_source("group") is ParameterSource.DEFAULT:
        raise ConfigError(setting="group", problem="say of which group: replicator --group NAME supervisord ...")
    shared = {"group": settings.group, "redis": settings.redis} | {
        name: _text(value)
        for name, value in given.items()
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    for name in ("log_level", "log_format"):
        if root.get_parameter_source(name) is not ParameterSource.DEFAULT:
            shared[name] = str(root.params[name])
    if settings.key_file is not None:
        shared["key_file"] = str(settings.key_file.resolve())
    place_of(settings.redis)
    if shown(settings.redis) != settings.redis:
        del shared["redis"]  # a secret
    programs = list(_programs(nodes, http, directory.resolve(), command, shared))
    click.echo(supervisor_file(programs, group=settings.group, directory=directory.resolve(), alone=alone), nl=False)


def _programs(
    nodes: str, http: str, directory: Path, command: tuple[str, ...], shared: dict[str, str]
) -> Iterator[NodeProgram]:
    names = [checks.name("nodes", name.strip()) for name in nodes.split(",")]
    if len(set(names)) < len(names):
        raise ConfigError(setting="nodes", problem=f"{nodes!a:.80} has a name twice")
    host, first = address_of(http, setting="http")
    for port, name in enumerate(names, first):
        of_node = {"name": name, "host": host, "port": str(port)}
        address_of(f"{host}:{port}", setting="http")
        words = [_filled(word, of_node) for word in command]
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        own = {"name": name, "data_dir": str(directory / "data" / name), "http": at}
        environment = {variable(setting): value for setting, value in (shared | own).items()}
        yield NodeProgram(
            name=f"{shared['group']}-{name}", command=[_program(words[0]), *words[1:]], environment=environment
        )


def _filled(word: str, of_node: dict[str, str]) -> str:
    for what, value in of_node.items():
        word = word.replace(f"{{{what}}}", value)
    return word


def _program(word: str) -> str:
    """Its path: supervisord does not have the PATH of a virtual environment."""
    found = shutil.which(word)
    if found is None:
        raise ConfigError(setting="command", problem=f"there is no program {word!a:.80} on the PATH; give its path")
    return str(Path(found).absolute())


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
