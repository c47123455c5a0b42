"""Options of `replicator node` for a directory beside a program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["directory_options"]

_OPTIONS = [
    click.option(
        "--dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="REPLICATOR_DIR",
        help="Replicate this directory, which another program writes, instead of a registry.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        envvar="REPLICATOR_EXCLUDE",
        help="Names, or with a slash paths, that are left out of it. May be repeated; the same on all nodes.",
    ),
    click.option(
        "--with-sqlite",
        multiple=True,
        metavar="GLOB",
        envvar="REPLICATOR_WITH_SQLITE",
        help="Names or paths of the SQLite databases in the directory. May be repeated; the same on all nodes.",
    ),
    click.option(
        "--on-quiesce",
        default="",
        envvar="REPLICATOR_ON_QUIESCE",
        help="A command that has the program wait while the directory is read: run before it and after it, with "
        "REPLICATOR_QUIESCE=begin and =end.",
    ),
]


def directory_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of them, in the order in which they are shown."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
