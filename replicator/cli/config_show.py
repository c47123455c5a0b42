"""`replicator config show`: the settings of a command, and where each one comes from. Secrets are masked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click
from click.core import ParameterSource

from replicator.errors import ConfigError

from .context import Settings, output_option, show_json, table
from .environment import PREFIX
from .settings_file import masked

__all__ = ["config"]

OPTION, ENVIRONMENT, FILE, DEFAULT = "option", "environment", "file", "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting of `command` (None: of all). `value`: None, if it has none. `origin`: the variable, or the file."""

    command: str | None
    setting: str
    value: str | None
    source: str
    origin: str | None


@click.group()
def config() -> None:
    """The settings: what they are, and where they come from."""


@config.command()
@click.argument("command", default="node")
@output_option
@click.pass_context
def show(ctx: click.Context, command: str, output: str) -> None:
    """The settings of COMMAND (node) and those of all commands, each with where it comes from. Asks no Redis."""
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    found = root.command.get_command(root, command)
    if found is None or isinstance(found, click.Group):
        raise ConfigError(setting="COMMAND", problem=f"{command!r} is not a command with settings of its own")
    settings = [*_of_all(root), *_of_command(root, command, found, os.environ)]
    if output == "json":
        show_json([asdict(each) for each in settings])
        return
    rows = [asdict(each) | {"setting": _named(each)} for each in settings]
    click.echo(table(("setting", "value", "source", "origin"), rows))


def _named(each: Setting) -> str:
    return each.setting if each.command is None else f"{each.command}.{each.setting}"


def _of_all(root: click.Context) -> Iterator[Setting]:
    settings: Settings = root.obj
    path, file = root.params["config"], root.default_map or {}
    path_of_password = root.params["redis_password_file"]
    values = {
        "redis": settings.redis,
        "redis_password_file": str(path_of_password) if path_of_password else None,
        "group": settings.group,
        "key_file": str(settings.key_file) if settings.key_file is not None else None,
        **{name: root.params[name] for name in ("log_level", "log_format")},
    }
    for name, value in values.items():
        given = root.get_parameter_source(name)
        if given is ParameterSource.COMMANDLINE:
            source, origin = OPTION, None
        elif given is ParameterSource.ENVIRONMENT:
            source, origin = ENVIRONMENT, f"{PREFIX}_{name.upper()}"
        else:
            source, origin = (FILE, str(path)) if name in file else (DEFAULT, None)
        setting = name.replace("_", "-")
        text = masked(name, value) if value is not None else None
        yield Setting(command=None, setting=setting, value=text, source=source, origin=origin)


def _of_command(
    root: click.Context, name: str, command: click.Command, environment: Mapping[str, str]
) -> Iterator[Setting]:
    """The options that can be set elsewhere than on the command line of that command, which nobody typed."""
    table = (root.default_map or {}).get(name, {})
    for option in command.params:
        if not isinstance(option, click.Option) or not option.name or not option.expose_value:
            continue
        names = [text.removeprefix("--") for text in option.opts if text.startswith("--")]
        keys = [each for each in (text.replace("-", "_") for text in names) if each in table]
        variables = [each for each in _variables(option, name) if each in environment]
        value: str | None
        origin: str | None
        if variables:
            value, source, origin = environment[variables[0]], ENVIRONMENT, variables[0]
        elif keys:
            value, source, origin = table[keys[0]], FILE, str(root.params["config"])
        else:
            value, source, origin = _default_text(option, root), DEFAULT, None
        shown = masked(option.name, value) if value is not None else None
        yield Setting(command=name, setting=names[0], value=shown, source=source, origin=origin)


def _variables(option: click.Option, command: str) -> list[str]:
    named = option.envvar or ()
    return [
        *([named] if isinstance(named, str) else named),
        f"{PREFIX}_{command.upper()}_{(option.name or '').upper()}",
    ]


def _default_text(option: click.Option, root: click.Context) -> str | None:
    default: Any = option.get_default(root, call=True)
    if isinstance(default, bool):
        return "true" if default else "false"
    return str(default) if isinstance(default, str | int | float) else None
