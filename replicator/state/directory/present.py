"""What a directory has now, and its contents."""

from __future__ import annotations

import os
from collections.abc import Iterable

from replicator.errors import StateChanged
from replicator.format.manifest import DATABASE, DIRECTORY, FILE, LINK, Entry

from ..replaced_files import explained
from .contents import Index, read_from
from .databases import Databases
from .descent import Descent
from .tree import Found, Tree

__all__ = ["Present"]


class Present:
    """A look at it, by this way: at all, or `only` at some paths.

    A content is read when it is asked for, unless the index or SQLite says what it is.
    """

    def __init__(
        self, tree: Tree, way: Descent, index: Index, databases: Databases, only: Iterable[str] | None = None
    ) -> None:
        self._tree = tree
        self._way = way
        self._index = index
        self._databases = databases
        self.found = tree.scan() if only is None else tree.look_at(way, only)
        self._digests: dict[str, str] = {}

    def identity(self, path: str) -> tuple[str, str]:
        """What is at the path, as `Entry.identity` has it. Raises `StateError`."""
        found = self.found[path]
        if found.kind == LINK:
            return LINK, found.target
        if found.kind == DIRECTORY:
            return DIRECTORY, ""
        if path not in self._digests:
            self._digests[path] = self._databases.digest(path) if found.kind == DATABASE else self._read(path, found)
        return found.kind, self._digests[path]

    def _read(self, path: str, found: Found) -> str:
        digest = self._index.get(path, found.stat)
        if digest is not None:
            return digest
        with explained(self._tree.path, path):
            descriptor = self._way.open(path)
            try:
                read = read_from(descriptor)
            finally:
                os.close(descriptor)
        if read is None:
            raise StateChanged(path=self._tree.path / path)
        self._index.note(path, read)
        return read.digest

    def is_equal(self, entry: Entry) -> bool:
        """Whether what is there is what the entry says, but for its mode."""
        found = self.found.get(entry.path)
        if found is None or found.kind != entry.kind:
            return False
        if found.kind == FILE and found.stat.st_size != entry.size:
            return False
        return self.identity(entry.path) == entry.identity
