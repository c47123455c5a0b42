"""The `replicator` command. Each concern has a module; this one has the options of all commands, and the exit codes.

Every option can be set in the environment as REPLICATOR_..., or in a TOML file given with --config. Errors go to
stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 outcome unknown, 5 fenced, 6 Redis unavailable.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from replicator.cli.config import load_settings
from replicator.errors import ConfigError, ReplicatorError
from replicator.runtime.checks import plain

from .context import NAME, Settings
from .environment import check_environment

__all__ = ["main"]

LOG_FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"


class _OneLine(logging.Formatter):
    """Escapes control characters in log lines: they may quote what others wrote."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return plain(super().formatMessage(record))


class _Group(click.Group):
    """Loads each command when it is used (a node needs no RQ), and turns our errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        where = _COMMANDS.get(name)
        if where is None:
            return None
        module = __import__(f"replicator.cli.{where}", fromlist=[name])
        command: click.Command = getattr(module, name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ReplicatorError as error:
            _tell(error)
            sys.exit(error.exit_code)
        except TimeoutError as error:
            _tell(error)
            sys.exit(1)


def _tell(error: Exception) -> None:
    # An error may have several lines, such as the end of a log. Each is escaped: what others wrote must not control the
    # terminal.
    for number, line in enumerate(str(error).split("\n")):
        click.echo(plain(line if number else f"Error: {line}"), err=True)


_COMMANDS = {
    "dev": "dev",
    "drill": "drill",
    "node": "node",
    "status": "inspect",
    "versions": "inspect",
    "history": "inspect",
    "log": "inspect",
    "doctor": "doctor",
    "ui": "ui",
    "promote": "operate",
    "switchover": "operate",
    "demote": "operate",
    "pause": "operate",
    "resume": "operate",
    "recover": "operate",
    "forget": "operate",
    "finalize": "operate",
    "reinit": "operate",
    "snapshot": "operate",
    "verify": "operate",
    "forks": "forks",
    "certify": "certify",
    "load": "load",
}


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LEVEL = click.Choice(LEVELS, case_sensitive=False)


@click.group(cls=_Group, context_settings={"auto_envvar_prefix": "REPLICATOR", "help_option_names": ["-h", "--help"]})
@click.option(
    "--redis", default="redis://localhost:6379/0", show_default=True, envvar="REPLICATOR_REDIS", help="Redis URL."
)
@click.option(
    "--group", type=NAME, default="registry", show_default=True, envvar="REPLICATOR_GROUP", help="Name of the group."
)
@click.option("--config", type=click.Path(path_type=Path), envvar="REPLICATOR_CONFIG", help="Settings, a TOML file.")
@click.option(
    "--log-level",
    type=LEVEL,
    default="INFO",
    show_default=True,
    envvar="REPLICATOR_LOG_LEVEL",
    help="What is logged, to stderr.",
)
@click.version_option(package_name="replicator", prog_name="replicator")
@click.pass_context
def cli(ctx: click.Context, redis: str, group: str, config: Path | None, log_level: str) -> None:
    """Warm standbys through a Redis stream, and failover without a split brain."""
    assert isinstance(ctx.command, click.Group)
    check_environment(ctx.command, ctx.invoked_subcommand or "")
    if config is not None:
        settings = _checked(load_settings(config), config)
        ctx.default_map = settings | _of_command(ctx, settings, config)
        redis = _from_file(ctx, settings, "redis", redis)
        group = _from_file(ctx, settings, "group", group)
        level = _from_file(ctx, settings, "log_level", log_level)
        log_level = ctx.params["log_level"] = _level(level, ctx)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(LOG_FORMAT))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    ctx.obj = Settings(redis=redis, group=group)


def _level(text: str, ctx: click.Context) -> str:
    option = next(option for option in ctx.command.params if option.name == "log_level")
    return LEVEL.convert(text, option, ctx)


def _checked(settings: dict[str, Any], config: Path) -> dict[str, Any]:
    """Refuse unknown names: a slip that was ignored could start the wrong group."""
    for name, value in settings.items():
        if name in _COMMANDS and not isinstance(value, dict):
            raise ConfigError(setting=str(config), problem=f"{name} is a command, its settings are a table: [{name}]")
        if name not in _COMMANDS and name not in ("redis", "group", "log_level"):
            raise ConfigError(setting=str(config), problem=f"{name} is not a setting")
    return settings


def _of_command(ctx: click.Context, settings: dict[str, Any], config: Path) -> dict[str, Any]:
    """The table of the command that runs, by the names of click's parameters: options may be called otherwise.

    The table of a group of commands is for each of them.
    """
    name = ctx.invoked_subcommand
    assert name is not None
    assert isinstance(ctx.command, click.Group)
    command = ctx.command.get_command(ctx, name)
    table = settings.get(name)
    if command is None or table is None:
        return {}
    below = command.commands if isinstance(command, click.Group) else {}
    options = {each: _options(of) for each, of in (below or {name: command}).items()}
    for setting in table:
        if not any(setting in known for known in options.values()):
            raise ConfigError(setting=str(config), problem=f"{setting} in [{name}] is not an option of {name}")
    found = {each: _by_parameter(table, known) for each, known in options.items()}
    return {name: found} if below else found


def _options(command: click.Command) -> dict[str, click.Option]:
    options = [option for option in command.params if isinstance(option, click.Option)]
    return {text.removeprefix("--").replace("-", "_"): option for option in options for text in option.opts}


def _by_parameter(table: dict[str, str], options: dict[str, click.Option]) -> dict[str, Any]:
    given = [(options[setting], text) for setting, text in table.items() if setting in options]
    return {str(option.name): [text] if option.multiple else text for option, text in given}


def _from_file(ctx: click.Context, settings: dict[str, Any], name: str, given: str) -> str:
    if ctx.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
        return str(settings.get(name, given))
    return given


def main(args: Sequence[str] | None = None, *, prog_name: str = "replicator") -> None:
    """The entry point. It does not return."""
    cli.main(args=args, prog_name=prog_name)
