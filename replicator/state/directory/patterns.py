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
        names: list[str] = []
        paths: list[str] = []
        for glob in globs:
            if not glob.strip("/") or "\0" in glob:
                raise ConfigError(setting=setting, problem=f"{glob!a} is no pattern of a path")
            (paths if "/" in glob.strip("/") else names).append(translate(glob.strip("/")))
        self._names, self._paths = _any_of(names), _any_of(paths)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self._names is not None or self._paths is not None

    def match(self, path: str) -> bool:
        """Whether the path, relative to the top, is one of them."""
        if self._names is not None and self._names.match(path[path.rfind("/") + 1 :]):
            return True
        return self._paths is not None and self._paths.match(path) is not None


def _any_of(patterns: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(patterns)) if patterns else None
