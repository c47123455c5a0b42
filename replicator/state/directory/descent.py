"""The way down into a directory, without ever following a link out of it.

Each part of a path is opened in the one before it, and none of them may be a link: a program that puts one there
meanwhile, on a standby too, does not make a node read or write elsewhere.

The last directories on the way stay open, since what is asked for next is mostly beside them: who goes through a tree
opens each directory once, however deep it is. So a descent is for one pass, in which no directory takes the place of
another one.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path
from types import TracebackType

from ..replaced_files import explained

__all__ = ["Descent"]

_IN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: A fifo that took the place of a file is not waited for.
_IN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: A process may have some hundred files open, and a tree may be deeper than that.
_OPEN_MAX = 64


class Descent:
    """Into the directory at `path`, from `with` on. Its descriptors are its own: nobody else closes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = -1
        #: The last ones on the way, by their paths.
        self._way: deque[tuple[str, int]] = deque()

    def __enter__(self) -> Descent:
        with explained(self._path):
            self._root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._way:
            os.close(self._way.pop()[1])
        os.close(self._root)

    @property
    def root(self) -> int:
        """Its own descriptor."""
        return self._root

    def directory(self, path: str) -> int:
        """The descriptor of the directory `path` in it, until the next call; empty: itself. Raises `OSError`."""
        way = self._way
        while way and not f"{path}/".startswith(f"{way[-1][0]}/"):
            os.close(way.pop()[1])
        at, opened = way[-1] if way else ("", self._root)
        for part in path[len(at) :].strip("/").split("/") if path != at else ():
            opened = os.open(part, _IN_DIRECTORY, dir_fd=opened)
            at = f"{at}/{part}" if at else part
            way.append((at, opened))
            if len(way) > _OPEN_MAX:
                os.close(way.popleft()[1])
        return opened

    def open(self, path: str) -> int:
        """The descriptor of a regular file in it, to be read; the caller closes it. Raises `OSError`."""
        descriptor = self.any(path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(f"{path} is no file any more")
        return descriptor

    def any(self, path: str) -> int:
        """The same for a file or a directory, but for no link. Raises `OSError`."""
        above, _, name = path.rpartition("/")
        return os.open(name, _IN_FILE, dir_fd=self.directory(above))
