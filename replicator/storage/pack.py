"""Contents of files, each once, in one file of a node's own: what was published of a directory (`published_files.py`).

A content is added at the end and stays where it is, so whoever reads one goes on reading, whatever is added meanwhile.
What nobody needs any more is left behind by writing another pack, once it is more than half (`is_wasteful`): so over
time no more is copied than was added.

It is a cache, as the payload of another state (`payload.py`). Nothing is synced, and the next start makes it anew: it
has no table of contents on the disk.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import CheckpointError, CorruptRecord
from ..format.manifest import PIECE_BYTES, Content, content_hash
from . import disk
from .disk_errors import unusable
from .keyring import cloak

__all__ = ["WASTE_BYTES", "Pack"]

#: So much may be left over, however little is needed.
WASTE_BYTES = 64 * 1024 * 1024


class Pack:
    """In a new file at `path`. Thread-safe. `is_private`: nobody but this process can read what it writes there."""

    def __init__(self, path: Path, *, is_private: bool = False) -> None:
        self.path = path
        self._is_private = is_private
        self._cloak = cloak() if is_private else None
        self._lock = threading.Lock()
        #: Where each begins.
        self._starts: dict[Content, int] = {}
        self._end = 0
        try:
            self._file = disk.create(path)
        except OSError as error:
            raise unusable(path, error) from error
        # Whoever reads of it holds it, too: the descriptor ends with the last of them.
        weakref.finalize(self, os.close, self._file)

    def __contains__(self, content: Content) -> bool:
        return content in self._starts

    def put(self, content: Content, pieces: Iterable[bytes], *, id_: str, is_checked: bool = False) -> None:
        """Draw a content and add it. Raises `CorruptRecord` if the pieces are not it, and `CheckpointError`.

        `is_checked`: they were it when they came here, and whoever gives them sees that they are what came.
        """
        if content in self._starts:
            for _ in pieces:
                pass
            return
        with self._lock:  # a place is used once, whatever becomes of it (`cloak`)
            start, self._end = self._end, self._end + content.size
        try:
            self._draw(content, pieces, start, id_=id_, is_checked=is_checked)
        except BaseException:
            self._give_back(start, content.size)
            raise
        with self._lock:
            self._starts[content] = start

    def _draw(self, content: Content, pieces: Iterable[bytes], start: int, *, id_: str, is_checked: bool) -> None:
        digest, size = content_hash(), 0
        for piece in pieces:
            if not is_checked:
                digest.update(piece)
            if size + len(piece) > content.size:
                break
            self._write(start + size, piece)
            size += len(piece)
        if size != content.size or (not is_checked and digest.hexdigest() != content.digest):
            raise CorruptRecord(id=id_, problem="a content in it does not fit its digest: it was damaged")

    def _give_back(self, start: int, size: int) -> None:
        """The disk gets back what was written of a content that did not come: it may be full of just that."""
        with self._lock, suppress(OSError):
            if self._end == start + size:  # nothing is behind it
                os.ftruncate(self._file, start)
                if self._cloak is None:
                    self._end = start

    def _write(self, at: int, piece: bytes) -> None:
        try:
            disk.write_at(self._file, piece if self._cloak is None else self._cloak(at, piece), at)
        except OSError as error:
            raise unusable(self.path, error) from error

    def read(self, content: Content, start: int, end: int) -> bytes:
        """The bytes of a content from `start` to `end`, both from 0 to its size. Raises `CheckpointError`."""
        at = self._starts[content] + start
        try:
            data = os.pread(self._file, end - start, at)
        except OSError as error:
            raise unusable(self.path, error) from error
        if len(data) != end - start:
            raise CheckpointError(path=self.path, problem="it is shorter than what was written to it")
        return data if self._cloak is None else self._cloak(at, data)

    def pieces(self, content: Content) -> Iterator[bytes]:
        """A content, as a snapshot has it."""
        for start in range(0, content.size, PIECE_BYTES):
            yield self.read(content, start, min(start + PIECE_BYTES, content.size))

    def is_wasteful(self, needed_bytes: int) -> bool:
        """Whether most of it is of no use, if so many bytes are needed."""
        return self._end - needed_bytes > max(needed_bytes, WASTE_BYTES)

    def copy(self, path: Path, contents: Iterable[Content]) -> Pack:
        """Another one, with these alone. Raises `CheckpointError`."""
        other = Pack(path, is_private=self._is_private)
        try:
            for content in contents:
                other.put(content, self.pieces(content), id_="payload")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return other

    def becomes(self, path: Path) -> None:
        """Give it this name. Raises `CheckpointError`."""
        try:
            disk.give_name(self.path, path)
        except OSError as error:
            raise unusable(path, error) from error
        self.path = path
