"""`replicator key`: the file with the keys of a group. It may change while nodes run: each looks at it once a beat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from replicator.errors import ConfigError
from replicator.storage.keyring import Entry, changed, dropped, new_key, read_entries, write_entries

from .context import Settings, output_option, show_json, table

__all__ = ["key"]

HEADINGS = ("key", "writes", "opens")


@click.group()
def key() -> None:
    """The keys with which a group's records are sealed: a file (--key-file) that every node has."""


def _file(settings: Settings) -> Path:
    if settings.key_file is None:
        raise ConfigError(setting="key_file", problem="give the file: `replicator --key-file FILE key ...`")
    return settings.key_file


@key.command()
@click.option("--first-unsealed", is_flag=True, help="For a group that has records: write unsealed until `key use`.")
@click.pass_obj
def new(settings: Settings, first_unsealed: bool) -> None:
    """Make the file, with one key. Give a copy of it to every node.

    With --first-unsealed nothing changes yet: the key opens, and what is not sealed is read and written. When every
    node has the file, `replicator key use NAME` on each has it seal.
    """
    entry = Entry(not first_unsealed, new_key())
    write_entries(_file(settings), [entry, *([Entry(True, None)] if first_unsealed else [])], new=True)
    click.echo(entry.name)


@key.command("list")
@output_option
@click.pass_obj
def list_(settings: Settings, output: str) -> None:
    """The keys in the file, by their names; never the keys themselves."""
    rows = [{"key": each.name, "writes": each.writes, "opens": True} for each in read_entries(_file(settings))]
    if output == "json":
        show_json(rows)
    else:
        click.echo(table(HEADINGS, rows))


@key.command()
@click.pass_obj
def add(settings: Settings) -> None:
    """Put another new key into the file, which opens only. Once every node has the file: `key use`."""
    path, entry = _file(settings), Entry(False, new_key())
    write_entries(path, [*read_entries(path), entry])
    click.echo(entry.name)


def _changing(what: Callable[..., Any], settings: Settings, name: str) -> None:
    path = _file(settings)
    write_entries(path, what(read_entries(path), name))


@key.command()
@click.argument("name")
@click.pass_obj
def use(settings: Settings, name: str) -> None:
    """Have the key NAME write from now on; all others still open. `unsealed`: seal nothing."""
    _changing(changed, settings, name)


@key.command()
@click.argument("name")
@click.pass_obj
def drop(settings: Settings, name: str) -> None:
    """Take the key NAME out of the file. What is sealed with it is refused from then on: `replicator snapshot` first.

    Keep a copy of the old file for as long as you keep archives, backups and forks of its time.
    """
    _changing(dropped, settings, name)
