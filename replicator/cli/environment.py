"""Checks the environment before anything of it is used: an unknown name, or an empty value, is a slip.

If it were ignored, `REPLICATOR_LEASE=30` would leave the lease as it is, and `REPLICATOR_REDIS=`, the result of a
variable that was not set elsewhere, would mean the Redis on this machine.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping

import click

from replicator.errors import ConfigError
from replicator.node.environment import VARIABLES
from replicator.sandbox.marked_processes import TOKEN_VARIABLE
from replicator.sandbox.redis_server import SERVER_VARIABLE
from replicator.sandbox.stack import NODES

__all__ = ["check_environment"]

PREFIX = "REPLICATOR"

#: Names that are not options: those of the dev stack, the drill and the benchmarks, and those that a command run by
#: `--on-primary` gets. (`VARIABLES` are of a node in a service of one's own.)
_OTHERS = frozenset(
    {
        SERVER_VARIABLE,
        TOKEN_VARIABLE,
        "REPLICATOR_DEV_SOCKET",
        "REPLICATOR_PYTHON",
        "REPLICATOR_DRILL_CONTROL",
        "REPLICATOR_BENCH_PEERS",
        "REPLICATOR_ROLE",
        "REPLICATOR_TERM",
        "REPLICATOR_NODE",
        *(f"REPLICATOR_HTTP_{name.upper()}" for name in NODES),
        *(f"REPLICATOR_REDIS_{name.upper()}" for name in (*NODES, "1", "2")),
    }
)

#: Kubernetes gives every pod such names for each service; for one that is called replicator, they begin with ours.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_(HOST|PORT(_.*)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)")


def check_environment(root: click.Group, command: str = "", environment: Mapping[str, str] = os.environ) -> None:
    """Raises `ConfigError` for a name that no command knows, and for an empty value of an option of this command."""
    given = {name: value for name, value in environment.items() if name.startswith(f"{PREFIX}_")}
    here = dict(_options(root, command))
    for name, value in given.items():
        if not value and name in here and here[name].default != "":
            raise ConfigError(setting=name, problem="it is set, but empty; unset it, or give it a value")
    if strange := sorted(given.keys() - here.keys() - _OTHERS):
        # Loading all commands takes a moment, so it is done only if the name is not one of this command's.
        known = {*dict(_options(root)), *VARIABLES, *_OTHERS}
        for name in strange:
            if name not in known and not _OF_KUBERNETES.fullmatch(name):
                raise ConfigError(setting=name, problem=f"no setting has this name{_near(name, known)}")


def _near(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, (known - _OTHERS) | {SERVER_VARIABLE}, 1, 0.7)
    return f"; did you mean {near[0]}?" if near else "; unset it, or see `replicator COMMAND --help` for the names"


def _options(root: click.Group, command: str = "") -> Iterator[tuple[str, click.Option]]:
    """The options of the root, and those of one command or of all, by their names in the environment."""
    yield from _of(root, PREFIX)
    context = click.Context(root)
    for name in [command] if command else root.list_commands(context):
        found = root.get_command(context, name)
        if found is not None:
            yield from _below(found, f"{PREFIX}_{name.upper()}")


def _below(command: click.Command, prefix: str) -> Iterator[tuple[str, click.Option]]:
    yield from _of(command, prefix)
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _below(each, f"{prefix}_{name.upper().replace('-', '_')}")


def _of(command: click.Command, prefix: str) -> Iterator[tuple[str, click.Option]]:
    for option in command.params:
        if isinstance(option, click.Option) and option.name and option.expose_value:
            named = option.envvar or ()
            for name in (*([named] if isinstance(named, str) else named), f"{prefix}_{option.name.upper()}"):
                yield name, option
