"""What is put aside of a directory: `PATH.replaced-<UTC time>`, a directory with the files that are about to be lost.

Only those are in it, under the paths that they had.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from replicator.format.manifest import DATABASE, LINK
from replicator.storage import disk

from ..replaced_files import asides, copied, explained, unused
from .contents import digest_of, pieces_of
from .databases import Databases
from .descent import Descent
from .tree import Found, Tree

__all__ = ["Aside", "is_kept"]


class Aside:
    """A directory for what is put aside of one. It is made with the first file; `end` has all of it on the disk."""

    def __init__(self, tree: Tree, databases: Databases) -> None:
        self._tree = tree
        self._databases = databases
        self.path: Path | None = None
        self._made: list[Path] = []

    def keep(self, way: Descent, path: str, found: Found) -> None:
        """Put a file, database or link there. Raises `StateError`."""
        with explained(self._tree.path, path):
            if self.path is None:
                self.path = unused(self._tree.path)
                self._make(self.path)
            target = self.path / path
            for above in reversed(Path(path).parents[:-1]):
                if not (self.path / above).is_dir():
                    self._make(self.path / above)
            if found.kind == LINK:
                os.symlink(found.target, target)
            elif found.kind == DATABASE and self._databases.digest(path):
                _write(target, self._databases.state(path).snapshot(), found)
            else:
                self._link(way, path, target)

    def _make(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self._made.append(directory)

    def _link(self, way: Descent, path: str, target: Path) -> None:
        above, _, name = path.rpartition("/")
        try:
            os.link(name, target, src_dir_fd=way.directory(above), follow_symlinks=False)
        except OSError:  # a file system without hard links, or another one
            descriptor = way.open(path)
            try:
                copied(Path(f"/dev/fd/{descriptor}"), target)
            finally:
                os.close(descriptor)
        else:
            disk.sync(target)

    def end(self) -> Path | None:
        """The directory, if something was put there."""
        if self.path is not None:
            with explained(self.path):
                for directory in (*reversed(self._made), self.path.parent):
                    disk.sync(directory)
        return self.path


def _write(target: Path, pieces: Iterable[bytes], found: Found) -> None:
    descriptor = disk.create(target)
    try:
        for piece in pieces:
            disk.write(descriptor, piece)
        disk.take_after(descriptor, found.stat)
        disk.sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def is_kept(top: Path, path: str, identity: tuple[str, str]) -> bool:
    """Whether this content is aside already, of this path: who tries again and again keeps it once."""
    kind, digest = identity
    for aside in _of(top, path):
        if kind == LINK:
            if aside.is_symlink() and os.readlink(aside) == digest:
                return True
        elif aside.is_file() and not aside.is_symlink() and _digest(aside) == digest:
            return True
    return False


def _of(top: Path, path: str) -> Iterator[Path]:
    return (aside / path for aside in asides(top) if os.path.lexists(aside / path))


def _digest(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return digest_of(pieces_of(descriptor))[0]
    finally:
        os.close(descriptor)
