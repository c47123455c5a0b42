"""A directory on the disk: what is in it, and how it is opened without ever following a link out of it.

Each part of a path is opened in the one before it, and none of them may be a link: a program that puts one there
meanwhile, on a standby too, does not make a node read or write elsewhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from replicator.errors import StateError
from replicator.runtime.event_log import EventLogger

from ..replaced_files import explained
from .manifest import DATABASE, DIRECTORY, FILE, LINK, RESERVED, leads_out
from .patterns import SIDE_FILES, Patterns

__all__ = ["NOTHING", "Found", "Tree"]

logger = EventLogger(__name__)

_IN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: A fifo that took the place of a file is not waited for.
_IN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

NOTHING = Patterns((), setting="exclude")


class Found(NamedTuple):
    """What is at a path: its kind as in a manifest, what the system says of it, and where a link leads."""

    kind: str
    stat: os.stat_result
    target: str = ""

    @property
    def mode(self) -> int:
        return stat.S_IMODE(self.stat.st_mode)


class Tree:
    """The directory at `path`. Raises `StateError` where the system refuses."""

    def __init__(self, path: Path, *, excluded: Patterns = NOTHING, databases: Patterns = NOTHING) -> None:
        self.path = path
        self._excluded = excluded
        self._databases = databases
        self._told: set[str] = set()

    @contextmanager
    def root(self) -> Iterator[int]:
        """Its descriptor."""
        with explained(self.path):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def directory(self, root: int, path: str) -> Iterator[int]:
        """The descriptor of the directory `path` in it; empty: itself. Raises `OSError`."""
        opened = os.open(".", _IN_DIRECTORY, dir_fd=root)
        try:
            for part in path.split("/") if path else ():
                below = os.open(part, _IN_DIRECTORY, dir_fd=opened)
                os.close(opened)
                opened = below
            yield opened
        finally:
            os.close(opened)

    def open(self, root: int, path: str) -> int:
        """The descriptor of a regular file in it, to be read. Raises `OSError`."""
        above, _, name = path.rpartition("/")
        with self.directory(root, above) as directory:
            descriptor = os.open(name, _IN_FILE, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(f"{path} is no file any more")
        return descriptor

    def any(self, root: int, path: str) -> int:
        """The descriptor of a file or a directory in it, but of no link. Raises `OSError`."""
        above, _, name = path.rpartition("/")
        with self.directory(root, above) as directory:
            return os.open(name, _IN_FILE, dir_fd=directory)

    def kind_of(self, path: str) -> str:
        """What a file there is to these options: a file, a database, or empty if it is left out."""
        parts = path.split("/")
        if any(self._is_left_out("/".join(parts[: at + 1])) for at in range(len(parts))):
            return ""
        return DATABASE if self._databases.match(path) else FILE

    def scan(self, under: str = "") -> dict[str, Found]:
        """All that is in it, by path, but for what is left out. What is removed meanwhile may be missing."""
        found: dict[str, Found] = {}
        with explained(self.path), self.root() as root:
            device = os.fstat(root).st_dev
            waiting = [under]
            while waiting:
                above = waiting.pop()
                with explained(self.path / above):
                    waiting += self._look(root, above, device, found)
        return found

    def _look(self, root: int, above: str, device: int, found: dict[str, Found]) -> list[str]:
        """Add what one directory has; the directories in it."""
        below: list[str] = []
        # Removed meanwhile, or something else by now. Whoever scans again sees that.
        gone = suppress(FileNotFoundError, NotADirectoryError)
        with gone, self.directory(root, above) as directory, os.scandir(directory) as names:
            for name in names:
                path = f"{above}/{name.name}" if above else name.name
                if not self._is_left_out(path) and self._add(path, name, directory, device, found):
                    below.append(path)
        return below

    def _add(self, path: str, name: os.DirEntry[str], directory: int, device: int, found: dict[str, Found]) -> bool:
        """Whether it is a directory."""
        try:
            each = self._found(path, name, directory)
        except FileNotFoundError:
            return False
        if each is None:
            return False
        if each.stat.st_dev != device:
            raise StateError(path=self.path / path, problem="it is on another file system: --exclude it")
        found[path] = each
        return each.kind == DIRECTORY

    def _is_left_out(self, path: str) -> bool:
        """What is above it is not."""
        if path == RESERVED or self._excluded.match(path):
            return True
        return path.endswith(SIDE_FILES) and self._databases.match(path[: path.rindex("-")])

    def _found(self, path: str, name: os.DirEntry[str], directory: int) -> Found | None:
        about = name.stat(follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode):
            return Found(DIRECTORY, about)
        if stat.S_ISREG(about.st_mode):
            return Found(DATABASE if self._databases.match(path) else FILE, about)
        if not stat.S_ISLNK(about.st_mode):
            self._skip(path, "is a socket, a fifo or a device")
            return None
        target = os.readlink(name.name, dir_fd=directory)
        if why := leads_out(path, target):
            self._skip(path, why)
            return None
        return Found(LINK, about, target)

    def _skip(self, path: str, why: str) -> None:
        if path not in self._told:
            self._told.add(path)
            logger.warning("state.skipped", "%s is not replicated: it %s", self.path / path, why)
