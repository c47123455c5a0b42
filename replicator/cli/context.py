"""What all commands share: the settings, the log that they name, types of options, and how a result is shown."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from click.shell_completion import CompletionItem

from replicator.errors import ConfigError, LogUnavailable
from replicator.format.records import Opens
from replicator.format.unpacked_size import SNAPSHOT_BYTES_MAX
from replicator.log.redis_log import RedisLog
from replicator.runtime import checks
from replicator.storage.keyring import KeyFile

if TYPE_CHECKING:
    from replicator.format.sealing import Sealing

__all__ = [
    "NAME",
    "Seconds",
    "Settings",
    "data_dirs_option",
    "given_keys",
    "needed",
    "operator",
    "output_option",
    "show_json",
    "size_text",
    "snapshot_bytes_max_option",
    "table",
    "wants_json",
    "when",
]


class _Name(click.ParamType):  # type: ignore[type-arg]
    """The name of a node or a group."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return checks.name(str(param.name if param else "name"), value)
        except ConfigError as error:
            self.fail(error.fields["problem"], param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from .completion import names_in_redis

        return names_in_redis(ctx, param, incomplete)


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A number of seconds, neither infinite nor NaN."""

    name = "seconds"

    def __init__(self, least: float = 0.0) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        try:
            return checks.seconds("seconds", number, least=self.least)
        except ConfigError as error:
            self.fail(error.fields["problem"], param, ctx)


NAME = _Name()

_JSON = "replicator.json"


def _asks_for_json(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    ctx.meta[_JSON] = given


def _form(ctx: click.Context, _: click.Parameter, given: str) -> str:
    form = "json" if ctx.meta.get(_JSON) else given
    ctx.meta[_JSON] = form == "json"
    return form


def wants_json(ctx: click.Context) -> bool:
    """Whether the command that runs was asked for JSON."""
    return bool(ctx.meta.get(_JSON))


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--output table|json`, and `--json`, which is short for the latter."""
    as_json = click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, callback=_asks_for_json, help="Short: --output json."
    )
    form = click.option(
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        callback=_form,
        help="A table for people, or JSON for programs.",
    )
    return form(as_json(command))


#: Where `replicator node` has its data by default: data/NAME.
DATA = Path("data")


def _data_dirs(ctx: click.Context, _: click.Parameter, given: tuple[Path, ...]) -> tuple[Path, ...]:
    # The settings file of a node says where its data is, and an operator on call has that file at hand.
    node = (ctx.find_root().default_map or {}).get("node", {})
    if not given and ("data_dir" in node or "name" in node):
        given = (Path(node.get("data_dir") or DATA / node["name"]),)
    if not given and DATA.is_dir():
        return tuple(_below(DATA))
    return tuple(each for path in given for each in (_below(path) or [path]))


def _below(path: Path) -> list[Path]:
    """The data directories of nodes in `path`; none if that is a data directory itself.

    The data directory of a node has had a lock file since its first start. But that of a dev stack has one, too, and a
    copy of a node's may have been made without, so `path` itself is judged by its contents.
    """
    if any((path / name).exists() for name in ("forks", "checkpoint.sqlite")):
        return []
    return sorted(lock.parent for lock in path.glob("*/lock"))


data_dirs_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--data-dir",
    "data_dirs",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar=["REPLICATOR_DATA_DIR", "REPLICATOR_NODE_DATA_DIR"],
    callback=_data_dirs,
    help="A node's data directory, or one with those of several; may be repeated.  [default: the node's, or data]",
)


def needed(data_dirs: tuple[Path, ...]) -> tuple[Path, ...]:
    """These, for what looks at files alone: there has to be one. Raises `UsageError`."""
    if not data_dirs:
        raise click.UsageError("give the data directory of a node with --data-dir, or of several")
    return data_dirs


snapshot_bytes_max_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--snapshot-bytes-max",
    type=click.IntRange(min=1),
    default=SNAPSHOT_BYTES_MAX,
    show_default=True,
    envvar="REPLICATOR_SNAPSHOT_BYTES_MAX",
    help="The most that an unpacked snapshot may weigh; the same for all nodes of a group.",
)


@dataclass(frozen=True)
class Settings:
    """The group, the Redis that it is in, and the file with its keys, if it has some."""

    redis: str
    group: str
    key_file: Path | None = None

    @cached_property
    def keys(self) -> KeyFile | None:
        return None if self.key_file is None else KeyFile(self.key_file)

    def check_plain(self, command: str) -> None:
        """Refuse a key for what makes a group of its own, which seals nothing. Raises `ConfigError`."""
        if self.key_file is not None:
            raise ConfigError(setting="key_file", problem=f"the group of `{command}` seals nothing: leave the key away")

    @property
    def sealing(self) -> Sealing | None:
        """What seals and opens for the group."""
        return None if self.keys is None else self.keys.of(self.group)

    @contextmanager
    def log(self, *, otherwise: Opens = None) -> Iterator[RedisLog]:
        """`otherwise`: what opens its records where no keys were given. While Redis is away, what helps is told."""
        log = RedisLog(self.redis, self.group, sealing=self.sealing or otherwise)
        try:
            with telling_what_helps():
                yield log
        finally:
            log.close()


@contextmanager
def telling_what_helps() -> Iterator[None]:
    """While Redis is away, have what helps told after the error."""
    try:
        yield
    except LogUnavailable as error:
        if error.is_away:
            from replicator.ops.redis_away import WHAT_HELPS

            error.__notes__ = list(WHAT_HELPS)
        raise


def given_keys() -> KeyFile | None:
    """Those of `--key-file`, for a command that names no group."""
    settings = click.get_current_context().find_object(Settings)
    return None if settings is None else settings.keys


def operator() -> str:
    """The name of the user at the keyboard, for the history."""
    try:
        return checks.plain(getpass.getuser())
    except (KeyError, OSError):
        return "operator"


def show_json(value: Any, *, a_line: bool = False) -> None:
    """Print `value` as JSON; `a_line`: on one line, as one of many values."""
    click.echo(checks.plain_json(orjson.dumps(value, option=0 if a_line else orjson.OPT_INDENT_2).decode()))


def show_line(text: str) -> None:
    """Print a line for people. What others wrote, names for example, makes no other line and controls no terminal."""
    click.echo(checks.plain(text))


def table(headings: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as a table. A value that is not known is shown as a dash."""
    cells = [[_cell(row.get(heading)) for heading in headings] for row in rows]
    widths = [max(len(line[i]) for line in [list(headings), *cells]) for i in range(len(headings))]
    lines = [[heading.upper() for heading in headings], *cells]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def size_text(count: int | None) -> str:
    """A number of bytes, for people."""
    if count is None:
        return "not known"
    return (
        f"{count} B" if count < 10_000 else f"{count / 1000:.1f} kB" if count < 10_000_000 else f"{count / 1e6:.1f} MB"
    )


def when(unix_ms: int) -> str:
    """A time in UTC, for people."""
    return datetime.fromtimestamp(unix_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return checks.plain(str(value))
