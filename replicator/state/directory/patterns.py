"""Which paths of a directory are left out, and which are databases."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

from replicator.errors import ConfigError

__all__ = ["SIDE_FILES", "Patterns"]

#: What SQLite has beside a database.
SIDE_FILES = ("-wal", "-shm", "-journal")


class Patterns:
    """Globs. One without a slash is held against each name, one with a slash against the path from the top.

    `*` stands for slashes as well. Raises `ConfigError`.
    """

    def __init__(self, globs: Iterable[str], *, setting: str) -> None:
        self._names: list[re.Pattern[str]] = []
        self._paths: list[re.Pattern[str]] = []
        for glob in globs:
            if not glob.strip("/") or "\0" in glob or "\n" in glob:
                raise ConfigError(setting=setting, problem=f"{glob!a} is no pattern of a path")
            kept = self._paths if "/" in glob.strip("/") else self._names
            kept.append(re.compile(translate(glob.strip("/"))))

    def match(self, path: str) -> bool:
        """Whether the path, relative to the top, is one of them."""
        name = path.rpartition("/")[2]
        return any(each.match(name) for each in self._names) or any(each.match(path) for each in self._paths)
