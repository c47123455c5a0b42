"""`replicator node`: run one node, of the registry with its HTTP API, or beside a program that has a file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from replicator.node.options import NodeOptions
from replicator.service.sidecar import PUBLISH_EVERY_S_MIN

from .access_options import access_of, access_options
from .context import NAME, Seconds, Settings, snapshot_bytes_max_option
from .node_options import node_options

__all__ = ["node"]


#: The ways in which a database is replicated (`service/serve.py`).
SQLITE_BY = ("copy", "pages")


def _octal(_: click.Context, __: click.Parameter, value: str) -> int:
    """The permissions of a file, as chmod(1) takes them."""
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0o400 <= mode <= 0o777:
        raise click.BadParameter(f"{value!r} is not a mode like 600 or 640")
    return mode


@click.command()
@click.option(
    "--name", type=NAME, required=True, envvar="REPLICATOR_NAME", help="This node's name, unique in the group."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="REPLICATOR_DATA_DIR",
    help="Its own directory.  [default: data/NAME]",
)
@click.option("--http", default="127.0.0.1:0", show_default=True, envvar="REPLICATOR_HTTP", help="HOST:PORT to serve.")
@click.option(
    "--advertise",
    default="",
    envvar="REPLICATOR_ADVERTISE",
    help="URL at which others reach it, where that is not what it serves.",
)
@access_options
@click.option(
    "--app",
    default=None,
    envvar="REPLICATOR_APP",
    help="Name of the application, the same on all nodes.  [default: the class of the state]",
)
@node_options
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="REPLICATOR_FILE",
    help="Replicate this file, which another program writes, instead of a registry.",
)
@click.option(
    "--sqlite",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="REPLICATOR_SQLITE",
    help="Replicate this SQLite database, which other programs use, instead of a registry.",
)
@click.option(
    "--sqlite-by",
    type=click.Choice(SQLITE_BY),
    default="copy",
    show_default=True,
    envvar="REPLICATOR_SQLITE_BY",
    help="How the database is replicated: a copy of it each time, or the pages that changed. The same on all nodes.",
)
@click.option(
    "--sqlite-live/--no-sqlite-live",
    default=False,
    show_default=True,
    envvar="REPLICATOR_SQLITE_LIVE",
    help="By pages: whether the database of a standby is what is published all the time, and not only once it leads.",
)
@click.option(
    "--file-mode",
    metavar="OCTAL",
    callback=_octal,
    default="600",
    show_default=True,
    envvar="REPLICATOR_FILE_MODE",
    help="The mode of the file or database where it is not there yet, in octal. One that is there keeps its own.",
)
@click.option(
    "--publish-every-s",
    type=Seconds(PUBLISH_EVERY_S_MIN),
    default=1.0,
    show_default=True,
    envvar="REPLICATOR_PUBLISH_EVERY_S",
    help="How often the primary looks whether the file was written, and publishes what changed.",
)
@click.option(
    "--on-primary", default="", envvar="REPLICATOR_ON_PRIMARY", help="A command to run when this node is the primary."
)
@click.option("--on-standby", default="", envvar="REPLICATOR_ON_STANDBY", help="A command to run when it is a standby.")
@click.option(
    "--run",
    default="",
    envvar="REPLICATOR_RUN",
    help="A program to run while this node leads, and only then, instead of the two commands.",
)
@click.option(
    "--check",
    default="",
    envvar="REPLICATOR_CHECK",
    help="Whether it answers: a command that ends with 0, or a URL. If it does not, it is started again; if that does "
    "not help, the node gives up its lease.",
)
@click.option(
    "--check-every-s",
    type=Seconds(0.1),
    default=5.0,
    show_default=True,
    envvar="REPLICATOR_CHECK_EVERY_S",
    help="How often that is asked.",
)
@click.option(
    "--run-stop-s",
    type=Seconds(),
    default=10.0,
    show_default=True,
    envvar="REPLICATOR_RUN_STOP_S",
    help="Between SIGTERM and SIGKILL, where the lease leaves the time.",
)
@snapshot_bytes_max_option
@click.pass_obj
def node(
    settings: Settings,
    /,
    name: str,
    data_dir: Path | None,
    http: str,
    advertise: str,
    app: str | None,
    **given: Any,
) -> None:
    """Run a node until it is told to end (SIGTERM, Ctrl-C): of the registry, or beside a program (--file, --sqlite)."""
    from replicator.runtime.process import begin_anew
    from replicator.service.serve import Program, serve

    asked = serve(
        name=name,
        group=settings.group,
        redis=settings.redis,
        data_dir=data_dir or Path("data") / name,
        http=http,
        advertise=advertise,
        app=app,
        options=NodeOptions(**_those_of(NodeOptions, given), key_file=settings.key_file),
        program=Program(**_those_of(Program, given)),
        access=access_of(given),
    )
    if asked == "restart":
        begin_anew()


def _those_of(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What was given for the fields of this dataclass."""
    return {field.name: given[field.name] for field in fields(kind) if field.name in given}
