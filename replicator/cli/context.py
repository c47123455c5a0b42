"""What all commands share: the settings, the log that they name, and how a result is shown."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import orjson

from replicator.log import RedisLog

__all__ = ["Settings", "operator", "output_option", "show_json", "table"]

output_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people, or programs.",
)


@dataclass(frozen=True)
class Settings:
    """Which group, in which Redis."""

    redis: str
    group: str

    @contextmanager
    def log(self) -> Iterator[RedisLog]:
        log = RedisLog(self.redis, self.group)
        try:
            yield log
        finally:
            log.close()


def operator() -> str:
    """Who is at the keyboard, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"


def show_json(value: Any, *, a_line: bool = False) -> None:
    """`a_line`: one of many, each on a line of its own."""
    click.echo(orjson.dumps(value, option=0 if a_line else orjson.OPT_INDENT_2).decode())


def table(headings: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns wide enough for what is in them; what is not known is a dash."""
    cells = [[_cell(row.get(heading)) for heading in headings] for row in rows]
    widths = [max(len(line[i]) for line in [list(headings), *cells]) for i in range(len(headings))]
    lines = [[heading.upper() for heading in headings], *cells]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
