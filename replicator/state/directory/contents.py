"""Contents of files: their digests, which are remembered for as long as a file looks the same, and copies of them.

A digest is kept with what the file system says of the file (`file_stamps.py`). It counts from the moment at which
another write would show: until the stamp is older than a tick of the clock, the file is read again each time.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from replicator.format.manifest import PIECE_BYTES, content_hash
from replicator.storage import disk

from ..file_stamps import COARSE_TICK_S, FINE_TICK_S, Stamp
from ..replaced_files import explained

__all__ = ["PIECE_BYTES", "Index", "Read", "Stage", "digest_of", "is_old", "pieces_of", "read_from"]

#: Copies of what changed lately may have so many bytes; what is larger is read twice.
STAGE_BYTES_MAX = 64 * 1024 * 1024


class Read(NamedTuple):
    """A content that was read: what the file was while it was, and whether its stamp tells later writes apart."""

    stamp: Stamp
    digest: str
    size: int
    is_settled: bool


def is_old(stamp: Stamp) -> bool:
    """Whether whatever is written to this file from now on shows."""
    tick_s = COARSE_TICK_S if stamp.is_coarse else FINE_TICK_S
    return time.time() - stamp.changed_ns / 1e9 > tick_s


def pieces_of(descriptor: int) -> Iterator[bytes]:
    """What a file has from here on, in pieces: the same for the same content, however much the system gives at once."""
    while piece := _piece(descriptor):
        yield piece


def _piece(descriptor: int) -> bytes:
    parts: list[bytes] = []
    left = PIECE_BYTES
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _up_to(size: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What is more shows, and no more of it is read: somebody may write as fast as we read."""
    for piece in pieces:
        yield piece
        size -= len(piece)
        if size < 0:
            return


def digest_of(pieces: Iterator[bytes]) -> tuple[str, int]:
    """The digest of a content, and its size."""
    digest, size = content_hash(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


def read_from(descriptor: int, stage: Stage | None = None) -> Read | None:
    """Read a file, and put a copy on the stage where there is room. None: it was written meanwhile."""
    before = Stamp.of(os.fstat(descriptor))
    is_settled = is_old(before)
    begun = stage.begin(before.size) if stage is not None else None
    pieces = _up_to(before.size, pieces_of(descriptor))
    digest, size = digest_of(begun.copied(pieces) if begun is not None else pieces)
    if Stamp.of(os.fstat(descriptor)) != before or size != before.size:
        return None
    if begun is not None:
        begun.end(digest, size)
    return Read(before, digest, size, is_settled)


class Index:
    """The digests of files, by path."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._lock = threading.Lock()

    def get(self, path: str, about: os.stat_result) -> str | None:
        """The digest of a file that looks as it did when it was read. None: it has to be read."""
        with self._lock:
            known = self._known.get(path)
        return known[1] if known is not None and known[0].fits(about) else None

    def note(self, path: str, read: Read) -> None:
        """It was read."""
        with self._lock:
            if read.is_settled:
                self._known[path] = read.stamp, read.digest
            else:
                self._known.pop(path, None)

    def keep_only(self, paths: Container[str]) -> None:
        """Forget what is not there any more."""
        with self._lock:
            for path in [path for path in self._known if path not in paths]:
                del self._known[path]


class Stage:
    """Copies of contents, in a file without a name. They stay what they were, whatever becomes of the files."""

    def __init__(self, directory: Path | None) -> None:
        self._where = directory or Path(tempfile.gettempdir())
        with explained(self._where):
            if directory is not None:
                disk.make_directory(directory)
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # it ends with this object
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def begin(self, size: int) -> Staging | None:
        """A place for a content of about this size; None: there is no room."""
        return Staging(self, self._end) if self._end + size <= STAGE_BYTES_MAX else None

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def pieces(self, digest: str) -> Iterator[bytes]:
        """A content that was put here."""
        start, size = self._places[digest]
        for at in range(start, start + size, PIECE_BYTES):
            yield os.pread(self._file.fileno(), min(PIECE_BYTES, start + size - at), at)

    def _write(self, data: bytes, at: int) -> int:
        with explained(self._where):  # and not as if the file that is read were to blame
            disk.write_at(self._file.fileno(), data, at)
        return at + len(data)

    def _put(self, digest: str, start: int, size: int) -> None:
        if digest not in self._places:
            self._places[digest] = start, size
            self._end = start + size


class Staging:
    """A content on its way to the stage. What is not ended is written over by the next one."""

    def __init__(self, stage: Stage, start: int) -> None:
        self._stage = stage
        self._start = start

    def copied(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces, which are on the stage then."""
        at = self._start
        for piece in pieces:
            at = self._stage._write(piece, at)
            yield piece

    def end(self, digest: str, size: int) -> None:
        """All of it is there."""
        self._stage._put(digest, self._start, size)
