"""The `replicator` command. Each concern has a module; this one has the options of all commands, and the exit codes.

Every option can be set in the environment as REPLICATOR_..., or in a TOML file given with --config. Errors go to
stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 outcome unknown, 5 fenced, 6 Redis unavailable.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from replicator.cli.config import load_settings
from replicator.errors import ConfigError, ReplicatorError, name_of
from replicator.log.urls import shown, with_password_file
from replicator.runtime.checks import plain
from replicator.runtime.event_log import EventLogger
from replicator.runtime.log_output import FORMATS, configure

from .context import NAME, Settings, wants_json
from .environment import check_environment
from .settings_file import check_trusted, found_settings

__all__ = ["main"]

logger = EventLogger(__name__)

#: Commands that run until they are told to end: under a supervisor, programs read what they log.
_RUNS_ON = ("node",)


class _Group(click.Group):
    """Loads each command when it is used (a node needs no RQ), and turns our errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        where = _COMMANDS.get(name)
        if where is None:
            return None
        module = __import__(f"replicator.cli.{where}", fromlist=[name])
        command: click.Command = getattr(module, _FUNCTIONS.get(name, name))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ReplicatorError as error:
            _tell(ctx, error, error.exit_code)
            sys.exit(error.exit_code)
        except TimeoutError as error:
            _tell(ctx, error, 1)
            sys.exit(1)


def _tell(ctx: click.Context, error: Exception, exit_code: int) -> None:
    if wants_json(ctx):
        told = {"error": name_of(error), "message": str(error), "exit_code": exit_code}
        click.echo(orjson.dumps(told).decode(), err=True)
        return
    # An error may have several lines, such as the end of a log. Each is escaped: what others wrote must not control the
    # terminal.
    for number, line in enumerate(str(error).split("\n")):
        click.echo(plain(line if number else f"Error: {line}"), err=True)
    for line in getattr(error, "__notes__", ()):
        click.echo(line, err=True)


_COMMANDS = {
    "dev": "dev",
    "drill": "drill",
    "node": "node",
    "status": "inspect",
    "why": "why",
    "groups": "groups",
    "versions": "inspect",
    "history": "history",
    "log": "inspect",
    "doctor": "doctor",
    "acl": "acl",
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
    "skip": "skip",
    "release": "release",
    "restart": "process",
    "shutdown": "process",
    "jobs": "jobs",
    "snapshot": "operate",
    "verify": "operate",
    "forks": "forks",
    "certify": "certify",
    "metrics": "metrics",
    "token": "token",
    "load": "load",
    "supervisord": "supervisord",
    "archive": "archive",
    "show": "restore",
    "diff": "restore",
    "restore": "restore",
    "backup": "backup",
    "import": "backup",
    "key": "key",
    "config": "config_show",
    "completion": "completion",
}

#: What a settings file has beside the tables of commands.
_SETTINGS = ("redis", "redis_password_file", "group", "key_file", "log_level", "log_format")

#: Of commands whose names are words of the language.
_FUNCTIONS = {"import": "import_"}


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LEVEL = click.Choice(LEVELS, case_sensitive=False)
FORMAT = click.Choice(FORMATS, case_sensitive=False)


@click.group(cls=_Group, context_settings={"auto_envvar_prefix": "REPLICATOR", "help_option_names": ["-h", "--help"]})
@click.option(
    "--redis", default="redis://localhost:6379/0", show_default=True, envvar="REPLICATOR_REDIS", help="Redis URL."
)
@click.option(
    "--redis-password-file",
    type=click.Path(path_type=Path),
    envvar="REPLICATOR_REDIS_PASSWORD_FILE",
    help="A file with the password of Redis on one line, for a URL without one.",
)
@click.option(
    "--group", type=NAME, default="registry", show_default=True, envvar="REPLICATOR_GROUP", help="Name of the group."
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    envvar="REPLICATOR_KEY_FILE",
    help="The keys of the group, if its records are sealed (`replicator key`).",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="REPLICATOR_CONFIG",
    help="Settings, a TOML file.  [default: ./replicator.toml, or that in ~/.config/replicator]",
)
@click.option(
    "--log-level",
    type=LEVEL,
    default="INFO",
    show_default=True,
    envvar="REPLICATOR_LOG_LEVEL",
    help="What is logged, to stderr.",
)
@click.option(
    "--log-format",
    type=FORMAT,
    default="auto",
    show_default=True,
    envvar="REPLICATOR_LOG_FORMAT",
    help="How: `console` for people, `json` for programs; `auto`: `json` for a node without a terminal.",
)
@click.version_option(package_name="replicator", prog_name="replicator")
@click.pass_context
def cli(
    ctx: click.Context,
    redis: str,
    redis_password_file: Path | None,
    group: str,
    key_file: Path | None,
    config: Path | None,
    log_level: str,
    log_format: str,
) -> None:
    """Warm standbys through a Redis stream, and failover without a split brain."""
    assert isinstance(ctx.command, click.Group)
    check_environment(ctx.command, ctx.invoked_subcommand or "")
    config = ctx.params["config"] = config or found_settings()
    if config is not None:
        settings = _checked(load_settings(config), config)
        check_trusted(config, settings)
        ctx.default_map = settings | _of_command(ctx, settings, config)
        redis = _from_file(ctx, settings, "redis", redis)
        path = _from_file(ctx, settings, "redis_password_file", "")
        redis_password_file = redis_password_file or (Path(path) if path else None)
        group = _from_file(ctx, settings, "group", group)
        if keys := _from_file(ctx, settings, "key_file", str(key_file or "")):
            key_file = Path(keys)
        for name, given in (("log_level", log_level), ("log_format", log_format)):
            ctx.params[name] = _choice(name, _from_file(ctx, settings, name, given), ctx)
        log_level, log_format = ctx.params["log_level"], ctx.params["log_format"]
    runs_on = ctx.invoked_subcommand in _RUNS_ON
    configure(log_level, log_format.lower(), otherwise="json" if runs_on else "console")
    if ctx.get_parameter_source("redis") is click.core.ParameterSource.COMMANDLINE and shown(redis) != redis:
        logger.warning(
            "redis.password_in_arguments",
            "the password in --redis is seen by everybody who lists the processes of this machine (ps), and is kept by "
            "shells: give it with --redis-password-file FILE, or the URL as REPLICATOR_REDIS",
        )
    ctx.params["redis_password_file"] = redis_password_file
    if redis_password_file is not None:
        redis = with_password_file(redis, redis_password_file, setting="redis-password-file")
    ctx.obj = Settings(redis=redis, group=group, key_file=key_file)


def _choice(name: str, text: str, ctx: click.Context) -> str:
    option = next(option for option in ctx.command.params if option.name == name)
    return str(option.type.convert(text, option, ctx))


def _checked(settings: dict[str, Any], config: Path) -> dict[str, Any]:
    """Refuse unknown names: a slip that was ignored could start the wrong group."""
    for name, value in settings.items():
        if name in _COMMANDS and not isinstance(value, dict):
            raise ConfigError(setting=str(config), problem=f"{name} is a command, its settings are a table: [{name}]")
        if name not in _COMMANDS and name not in _SETTINGS:
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
    _check_values(table, options.values(), f"[{name}]", config)
    for setting in table:
        if not any(setting in known for known in options.values()):
            raise ConfigError(setting=str(config), problem=f"{setting} in [{name}] is not an option of {name}")
    found = {each: _by_parameter(table, known) for each, known in options.items()}
    return {name: found} if below else found


def _check_values(table: dict[str, str], known: Iterable[dict[str, click.Option]], where: str, config: Path) -> None:
    """A value of a wrong type is told with its file and name: an option of that name was not typed."""
    for setting, text in table.items():
        for option in (options[setting] for options in known if setting in options):
            try:
                option.type(text, option, click.get_current_context())
            except click.BadParameter as error:
                problem = f"{setting} in {where} cannot be {text!r}: {error.message}"
                raise ConfigError(setting=str(config), problem=problem) from None


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
