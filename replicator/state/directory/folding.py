"""File systems to which names are one that differ only by case, or by how their accents are written.

On such a one, a file takes the place of another one whose name differs no more than that. Whether it is such a one is
tried, once. Two names of a manifest that are one there are refused before anything is written, and a path that is gone
because it is written otherwise now is taken away before that is put there. Who asks there for the new name finds the
old one, so what is there is told by listing directories then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from unicodedata import normalize

__all__ = ["Folding", "is_written_otherwise"]

#: The same name to some: by case, and by case and accent.
_MADE = "Is-one-e\u0301"
_ASKED = ("iS-OnE-e\u0301", "iS-OnE-\u00e9")


class Folding:
    """Of the file system of one directory. `directory`: a descriptor there. Raises `OSError`."""

    def __init__(self) -> None:
        self._folds: bool | None = None

    def two_that_are_one(self, directory: int, paths: Iterable[str]) -> tuple[str, str] | None:
        """Two of these paths that are; None: there are none."""
        if not self._is_one(directory):
            return None
        seen: dict[str, str] = {}
        for path in paths:
            other = seen.setdefault(_one_name(path), path)
            if other != path:
                return other, path
        return None

    def written_otherwise(self, directory: int, gone: Iterable[str], come: Iterable[str]) -> set[str]:
        """The paths that are gone, and are one with some that come."""
        if not self._is_one(directory):
            return set()
        names = {_one_name(path) for path in come}
        return {path for path in gone if _one_name(path) in names}

    def _is_one(self, directory: int) -> bool:
        if self._folds is None:
            self._folds = _folds(directory)
        return self._folds


def is_written_otherwise(gone: Iterable[str], come: Iterable[str]) -> bool:
    """Whether there is a path that is gone and may be one with some that comes."""
    names = {_one_name(path) for path in come}
    return any(_one_name(path) in names for path in gone)


def _folds(directory: int) -> bool:
    os.close(os.open(_MADE, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory))
    try:
        return any(_is_there(name, directory) for name in _ASKED)
    finally:
        os.unlink(_MADE, dir_fd=directory)


def _is_there(name: str, directory: int) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    return False


def _one_name(path: str) -> str:
    return normalize("NFC", normalize("NFC", path).casefold())
