"""A directory of the past, as one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..format.manifest import DATABASE, FILE, BadManifest, manifest_pieces, read_manifest
from ..state.directory import DirectoryState
from ..storage import disk
from .errors import ArchiveDamaged

__all__ = ["write_directory"]


def write_directory(pieces: Iterable[Any], path: Path) -> None:
    """Make a directory, which is not there yet, of the pieces of one. Raises `ConfigError`, `StateError`, `OSError`."""
    if os.path.lexists(path):
        raise ConfigError(setting="to", problem=f"{path} is there already: name a directory that is not")
    draft = path.with_name(f".{path.name}.new")
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    try:
        DirectoryState(draft).restore(_as_files(iter(pieces)))
        os.rename(draft, path)
        disk.sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _as_files(pieces: Iterator[Any]) -> Iterator[Any]:
    """Databases are files, too: nobody uses them yet."""
    try:
        entries = read_manifest(pieces)
    except BadManifest as bad:
        raise ArchiveDamaged(name="the state", problem=str(bad)) from None
    yield from manifest_pieces(entry._replace(kind=FILE) if entry.kind == DATABASE else entry for entry in entries)
    yield from pieces
