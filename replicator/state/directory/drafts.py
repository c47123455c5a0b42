"""Contents on their way into a directory, in `.replicator/` at its top: none is seen under its name before it is whole.

That it is there, and whether a restore broke off, is looked at and written through its descriptor: whatever a program
puts into its place meanwhile is not followed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from replicator.errors import StateError
from replicator.format.manifest import RESERVED, Content, content_hash
from replicator.storage import disk

from ..replaced_files import explained
from .contents import pieces_of

__all__ = ["Drafts", "is_torn"]

#: There while the directory is neither the old one nor the new one.
_MARK = "restoring"

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_torn(path: Path) -> bool:
    """Whether a restore of the directory broke off in the middle of writing."""
    return os.path.lexists(path / RESERVED / _MARK)


class Drafts:
    """Those for the directory at `path`. `wanted`: how many files need each content. Raises `StateError`."""

    def __init__(self, path: Path, wanted: Counter[str]) -> None:
        self._path = path
        self._wanted = wanted
        #: Those of each content, one for each file that needs it.
        self._names: dict[str, list[str]] = {}
        self._count = 0
        self._opened: int | None = None

    def __enter__(self) -> Drafts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is None:
            return
        with suppress(OSError):
            if not is_torn(self._path):
                self._empty(self._opened)
                (self._path / RESERVED).rmdir()
        os.close(self._opened)

    @property
    def descriptor(self) -> int:
        """Of the directory with them, which is made with the first one. What a process of old left there is removed."""
        if self._opened is None:
            with suppress(FileExistsError):
                (self._path / RESERVED).mkdir(mode=0o700)
            with explained(self._path / RESERVED):
                self._opened = os.open(self._path / RESERVED, _OURS)
            if os.fstat(self._opened).st_uid != os.geteuid():
                raise StateError(path=self._path / RESERVED, problem="it belongs to somebody else: remove it")
            self._empty(self._opened)
        return self._opened

    def _empty(self, directory: int) -> None:
        with os.scandir(directory) as left:
            names = [each.name for each in left if each.name != _MARK]
        for name in names:
            try:
                os.unlink(name, dir_fd=directory)
            except (IsADirectoryError, PermissionError):
                shutil.rmtree(name, dir_fd=directory)

    def is_wanted(self, content: Content) -> bool:
        """Whether a file needs it that does not have it."""
        return self._wanted[content.digest] > 0

    def write(self, digest: str, pieces: Iterator[bytes]) -> None:
        """Draw a content, to the disk. Raises `StateError` if it is another one than was said.

        Each file that needs it gets one of its own: a disk that is full is met before anything shows.
        """
        found = content_hash()
        name = self._written(self._counted(pieces, found))
        if found.hexdigest() != digest:
            raise StateError(path=self._path, problem="what the group has does not fit its digest")
        names = [name]
        while len(names) < self._wanted[digest]:
            source = self._open(name)
            try:
                names.append(self._written(pieces_of(source)))
            finally:
                os.close(source)
        self._names[digest] = names

    def _counted(self, pieces: Iterator[bytes], into: hashlib.blake2b) -> Iterator[bytes]:
        for piece in pieces:
            into.update(piece)
            yield piece

    def _written(self, pieces: Iterator[bytes]) -> str:
        name, descriptor = self._new()
        try:
            for piece in pieces:
                with explained(self._path):
                    disk.write(descriptor, piece)
            with explained(self._path):
                disk.sync_descriptor(descriptor)
        finally:
            os.close(descriptor)
        return name

    def _open(self, name: str) -> int:
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)

    def _new(self) -> tuple[str, int]:
        self._count += 1
        with explained(self._path):
            return str(self._count), os.open(str(self._count), _NEW, disk.PRIVATE, dir_fd=self.descriptor)

    def take(self, content: Content) -> tuple[str, int] | None:
        """A draft of a content for one file: its name and its descriptor. None: there is none for it."""
        if not content.size:
            return self._new()
        names = self._names.get(content.digest)
        if not names:
            return None
        name = names.pop()
        return name, self._open(name)

    def link(self, target: str) -> str:
        """The name of a new link."""
        self._count += 1
        os.symlink(target, str(self._count), dir_fd=self.descriptor)
        return str(self._count)

    def mark(self) -> None:
        """From here on, the directory is not whole."""
        os.close(os.open(_MARK, _NEW & ~os.O_EXCL, disk.PRIVATE, dir_fd=self.descriptor))
        disk.sync_descriptor(self.descriptor)
        disk.sync(self._path)

    def unmark(self) -> None:
        """It is whole again."""
        os.unlink(_MARK, dir_fd=self.descriptor)
        disk.sync_descriptor(self.descriptor)
