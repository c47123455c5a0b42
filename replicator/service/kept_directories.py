"""What was put aside of a directory, `PATH.replaced-<UTC time>`: the files in it, and what is in their places now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import StateError

__all__ = ["check_way", "paths_in", "size_of"]


def paths_in(aside: Path) -> Iterator[str]:
    """The files and links in it, by the path that they had. Links are not followed."""
    for above, directories, names in os.walk(aside):
        directories.sort()
        links = [name for name in directories if (Path(above) / name).is_symlink()]
        for name in sorted([*names, *links]):
            yield str((Path(above) / name).relative_to(aside))


def size_of(aside: Path) -> int:
    """In bytes, all of them."""
    return sum((aside / path).lstat().st_size for path in paths_in(aside))


def check_way(of: Path, path: str) -> None:
    """Raise `StateError` unless a file can be put at `path` in `of`: a link on the way may lead anywhere."""
    for above in Path(path).parents:
        where = of / above
        if where != of and os.path.lexists(where) and (where.is_symlink() or not where.is_dir()):
            raise StateError(path=where, problem="it is no directory now: what was put aside had one there")
    if (of / path).is_dir() and not (of / path).is_symlink():
        raise StateError(path=of / path, problem="it is a directory now: what was put aside was none")
