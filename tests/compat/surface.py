"""What programs and scripts name of replicator, as JSON: what Python exports with its parameters, and commands
with their options. Whichever replicator is on PYTHONPATH is asked.

    python -m tests.compat.surface
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import click

import replicator
from replicator.cli import cli


def python_api() -> dict[str, list[str]]:
    """Every public name, and below it every public method; of each, the names of its parameters."""
    found: dict[str, list[str]] = {}
    for name in replicator.__all__:
        value = getattr(replicator, name)
        found[name] = parameters(value)
        if inspect.isclass(value):
            # What Python's own classes bring differs from one version of it to the next.
            ours = [each for each in value.__mro__ if each.__module__.startswith("replicator")]
            methods = {each for owner in ours for each in vars(owner) if not each.startswith("_")}
            found |= {f"{name}.{each}": parameters(getattr(value, each)) for each in sorted(methods)}
    return found


def parameters(value: Any) -> list[str]:
    """What may be given by name; nothing, if it is not called."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return []
    return sorted(name for name in signature.parameters if not name.startswith("_") and name not in ("args", "kwargs"))


def commands(command: click.Command, name: str = "replicator") -> dict[str, list[str]]:
    found = {name: sorted(each for option in command.params for each in (*option.opts, *option.secondary_opts))}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None
            found |= commands(below, f"{name} {each}")
    return found


if __name__ == "__main__":
    print(json.dumps({"python": python_api(), "commands": commands(cli)}))
