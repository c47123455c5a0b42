"""The place that somebody names: a path, or a URL."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from .object_store import ObjectStore
from .places import Directory, Place

__all__ = ["place_of"]


def place_of(where: str, *, make: bool = False) -> Place:
    """The place of this path or URL. `make`: a directory that is not there is made. Raises `ConfigError`."""
    if "://" in where and not where.startswith("file://"):
        return ObjectStore(where)
    path = Path(where.removeprefix("file://"))
    if not make and not path.is_dir():
        raise ConfigError(setting="archive", problem=f"there is no directory {path}")
    return Directory(path)
