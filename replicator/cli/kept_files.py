"""`replicator forks files|diff|restore`: files that were put aside for the one beside a node."""

from __future__ import annotations

import difflib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from replicator.errors import ReplicatorError
from replicator.ops.diagnosis import term_holder
from replicator.runtime.checks import plain
from replicator.service.kept_directories import check_way, paths_in
from replicator.service.kept_files import KeptFile, find, kept_in
from replicator.state.replaced_files import copied, draft_of, explained, unused
from replicator.storage import disk

from .context import Settings, data_dirs_option, needed, output_option, show_json, size_text, table, when

__all__ = ["diff", "files", "restore"]

#: What a database begins with.
_SQLITE = b"SQLite format 3\0"

#: A text that is larger is not compared line by line.
TEXT_BYTES_MAX = 16 * 1024 * 1024


class NotTheLeader(ReplicatorError):
    """{node} does not lead ({who}), and what is written there is put aside again: restore it where the group's file is,
    or `replicator switchover --to {node}` first"""

    exit_code = 3


@click.command("files")
@data_dirs_option
@output_option
def files(data_dirs: tuple[Path, ...], output: str) -> None:
    """List what was put aside (PATH.replaced-...) for the file, database or directory beside a node."""
    found = kept_in(needed(data_dirs))
    if output == "json":
        show_json([file.to_dict() for file in found])
    elif found:
        click.echo(table(("file", "when", "size", "reason"), [_row(file) for file in found]))
    else:
        click.echo("no files were put aside")


def _row(file: KeptFile) -> dict[str, object]:
    moment = when(file.kept_at).partition(".")[0] if file.kept_at is not None else None
    return file.to_dict() | {"when": moment, "size": size_text(file.bytes)}


@click.command("diff")
@click.argument("name")
@data_dirs_option
def diff(name: str, data_dirs: tuple[Path, ...]) -> None:
    """Show what is different between the file NAME that was put aside, and the one in its place now.

    Lines of a text, or rows of an SQLite database: those with - are in the file now, those with + in NAME alone. Of a
    directory that was put aside, each file in it.
    """
    file = find(name, needed(data_dirs))
    some = False
    for line in _differences(file):
        some = True
        click.echo(plain(line))
    if not some:
        click.echo("no difference")


@click.command("restore")
@click.argument("name")
@data_dirs_option
@click.pass_obj
def restore(settings: Settings, name: str, data_dirs: tuple[Path, ...]) -> None:
    """Put the file NAME that was put aside into the place of the present one, which is put aside instead.

    On the node that leads: it publishes the file then, as if a program had written it. Stop the program meanwhile.
    """
    file = find(name, needed(data_dirs))
    _check_leads(settings, file.node)
    aside = unused(file.of)
    if file.path.is_dir():
        _put_each(file, aside)
        what = f"what {plain(file.name)} has is in {plain(str(file.of))} again"
    else:
        _put_one(file, aside)
        what = f"{plain(str(file.of))} is what {plain(file.name)} was"
    click.echo(f"{what}; what was there is kept as {plain(aside.name)}" if aside.exists() else what)


def _put_each(file: KeptFile, aside: Path) -> None:
    """The files of a directory, into their places."""
    each = {path: replace(file, path=file.path / path, of=file.of / path) for path in paths_in(file.path)}
    for path in each:
        check_way(file.of, path)
    for path, one in each.items():
        with explained(one.of):
            if os.path.lexists(one.of):
                (aside / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            one.of.parent.mkdir(parents=True, exist_ok=True)
        _put_one(one, aside / path)


def _put_one(file: KeptFile, aside: Path) -> None:
    with explained(file.of):
        if os.path.lexists(file.of):
            _copy(file.of, aside)
        _put(file)
        disk.sync(file.of.parent)


def _check_leads(settings: Settings, node: str) -> None:
    with settings.log() as log:
        holder = term_holder(log.look())
    if holder != node:
        raise NotTheLeader(node=node, who=f"{holder} does" if holder else "nobody does")


def _copy(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
        return
    if _is_database(source):
        with closing(sqlite3.connect(_read_only(source), uri=True)) as live:
            os.close(disk.create(target))
            with closing(sqlite3.connect(target)) as copy:
                live.backup(copy)
        return
    copied(source, target)


def _put(file: KeptFile) -> None:
    """A database is written as a transaction, since a program may have it open; any other file is renamed over."""
    if not file.path.is_symlink() and _is_database(file.path) and file.of.is_file() and not file.of.is_symlink():
        with (
            closing(sqlite3.connect(_read_only(file.path), uri=True)) as source,
            closing(sqlite3.connect(file.of)) as target,
        ):
            source.backup(target)
        return
    draft = draft_of(file.of, "restored")
    _copy(file.path, draft)
    os.replace(draft, file.of)


def _read_only(path: Path) -> str:
    """The URI of a database. A path may have characters in it that would end one."""
    return f"{path.absolute().as_uri()}?mode=ro"


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _differences(file: KeptFile) -> Iterator[str]:
    if file.path.is_dir():
        for path in paths_in(file.path):
            one = replace(file, path=file.path / path, of=file.of / path)
            yield from _links(one) if one.path.is_symlink() or one.of.is_symlink() else _differences_of(one)
        return
    yield from _differences_of(file)


def _links(file: KeptFile) -> Iterator[str]:
    """Of a link, there or aside: where it leads is told, and not what is there."""
    if not os.path.lexists(file.of):
        yield f"there is no {file.of} now"
        return
    now, kept = (f"a link to {os.readlink(path)}" if path.is_symlink() else "" for path in (file.of, file.path))
    if now != kept:
        yield f"- {file.of}: {now or 'no link'}"
        yield f"+ {file.of}: {kept or 'no link'}"


def _differences_of(file: KeptFile) -> Iterator[str]:
    with explained(file.of):
        if not file.of.exists():
            yield f"there is no {file.of} now"
            return
        if file.of.is_dir():
            yield f"{file.of} is a directory now"
            return
        if _is_database(file.path) and _is_database(file.of):
            yield from _rows(file)
            return
        sizes = file.path.stat().st_size, file.of.stat().st_size
        if max(sizes) <= TEXT_BYTES_MAX:
            try:
                now, kept = file.of.read_text("utf-8"), file.path.read_text("utf-8")
            except UnicodeDecodeError:
                pass
            else:
                names = str(file.of), file.name
                yield from difflib.unified_diff(now.splitlines(), kept.splitlines(), *names, lineterm="")
                return
        if file.of.read_bytes() != file.path.read_bytes():
            yield f"they differ, and are no text: {sizes[1]} bytes now, {sizes[0]} bytes in {file.name}"


def _rows(file: KeptFile) -> Iterator[str]:
    with closing(sqlite3.connect(_read_only(file.of), uri=True)) as db:
        db.execute("ATTACH ? AS kept", (_read_only(file.path),))
        listed = "SELECT name, sql FROM {}.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        now, kept = (dict(db.execute(listed.format(which))) for which in ("main", "kept"))
        for name in sorted(now.keys() | kept.keys()):
            if now.get(name) != kept.get(name):
                yield from (f"{sign} {tables[name]}" for sign, tables in (("-", now), ("+", kept)) if name in tables)
                continue
            quoted = '"{}"'.format(name.replace('"', '""'))
            for sign, one, other in (("-", "main", "kept"), ("+", "kept", "main")):
                for row in db.execute(f"SELECT * FROM {one}.{quoted} EXCEPT SELECT * FROM {other}.{quoted}"):
                    yield f"{sign} {name} {row!r}"
