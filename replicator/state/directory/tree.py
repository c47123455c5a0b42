"""A directory on the disk: what is in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from replicator.errors import StateError
from replicator.format.manifest import DATABASE, DIRECTORY, FILE, LINK, RESERVED, in_order, leads_out
from replicator.runtime.event_log import EventLogger

from ..replaced_files import explained
from .descent import Descent
from .patterns import SIDE_FILES, Patterns

__all__ = ["NOTHING", "Found", "Tree"]

logger = EventLogger(__name__)

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

    def descent(self) -> Descent:
        """A way down into it, for one pass."""
        return Descent(self.path)

    def kind_of(self, path: str) -> str:
        """What a file there is to these options: a file, a database, or empty if it is left out.

        What it is in is not left out.
        """
        if self._is_left_out(path):
            return ""
        return DATABASE if self._databases.match(path) else FILE

    def scan(self, under: str = "") -> dict[str, Found]:
        """All that is in it, by path, but for what is left out. What is removed meanwhile may be missing."""
        found: dict[str, Found] = {}
        with explained(self.path), self.descent() as way:
            device = os.fstat(way.root).st_dev
            waiting = [under]
            while waiting:
                above = waiting.pop()
                with explained(self.path, above):
                    waiting += self._look(way, above, device, found)
        return found

    def look_at(self, way: Descent, paths: Iterable[str]) -> dict[str, Found]:
        """What is at these paths, which are in nothing that is left out, and are not themselves."""
        device = os.fstat(way.root).st_dev
        found: dict[str, Found] = {}
        for path in sorted(paths, key=in_order):
            above, _, name = path.rpartition("/")
            with explained(self.path, path), suppress(FileNotFoundError, NotADirectoryError):
                directory = way.directory(above)
                about = os.stat(name, dir_fd=directory, follow_symlinks=False)
                self._add(path, about, directory, device, found)
        return found

    def _look(self, way: Descent, above: str, device: int, found: dict[str, Found]) -> list[str]:
        """Add what one directory has; the directories in it."""
        below: list[str] = []
        prefix = f"{above}/" if above else ""
        # Removed meanwhile, or something else by now. Whoever scans again sees that.
        with suppress(FileNotFoundError, NotADirectoryError):
            directory = way.directory(above)
            with os.scandir(directory) as names:
                for name in names:
                    path = prefix + name.name
                    if self._is_left_out(path):
                        continue
                    try:
                        is_directory = self._add(path, name.stat(follow_symlinks=False), directory, device, found)
                    except FileNotFoundError:
                        continue
                    if is_directory:
                        below.append(path)
        return below

    def _add(self, path: str, about: os.stat_result, directory: int, device: int, found: dict[str, Found]) -> bool:
        """Whether it is a directory."""
        each = self._found(path, about, directory)
        if each is None:
            return False
        if each.stat.st_dev != device:
            raise StateError(path=self.path / path, problem="it is on another file system: --exclude it")
        found[path] = each
        return each.kind == DIRECTORY

    def _is_left_out(self, path: str) -> bool:
        """What is above it is not."""
        if path == RESERVED or (self._excluded and self._excluded.match(path)):
            return True
        return bool(self._databases) and path.endswith(SIDE_FILES) and self._databases.match(path[: path.rindex("-")])

    def _found(self, path: str, about: os.stat_result, directory: int) -> Found | None:
        if stat.S_ISDIR(about.st_mode):
            return Found(DIRECTORY, about)
        if stat.S_ISREG(about.st_mode):
            return Found(DATABASE if self._databases and self._databases.match(path) else FILE, about)
        if not stat.S_ISLNK(about.st_mode):
            self._skip(path, "is a socket, a fifo or a device")
            return None
        target = os.readlink(path[path.rfind("/") + 1 :], dir_fd=directory)
        if why := leads_out(path, target):
            self._skip(path, why)
            return None
        return Found(LINK, about, target)

    def _skip(self, path: str, why: str) -> None:
        if path not in self._told:
            self._told.add(path)
            logger.warning("state.skipped", "%s is not replicated: it %s", self.path / path, why)
