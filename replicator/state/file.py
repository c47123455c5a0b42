"""A file, whatever is in it, as a state that is replicated whole.

On the primary any program writes it; `Node.publish` sends what changed. On a standby the file becomes what was
published, and nobody else should write it.

**Read.** A file that is replaced by a rename is always read as it was at one moment. One that is rewritten in place is
read once nobody has written to it for `still_s`, and read again if somebody did meanwhile, which its time stamp shows.
So a program that pauses for longer than that in the middle of rewriting is seen half-way: let it write another file,
and rename that.

**Written.** Beside it, to the disk, and then renamed: who opens it finds the old content or the new one, and who has it
open keeps the old one. Mode and owner stay (the owner where this process may set it). What is at a symbolic link is
replaced, and not the link.

**Nothing is lost silently.** A file that is about to be replaced, and is neither what this object wrote nor what was
published from it, is kept as `PATH.replaced-<UTC time>`: what a primary had that nobody else has, or what somebody
wrote on a standby. After a restart nobody remembers: then whatever is not the very content is kept.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import xxhash

from replicator.errors import StateChanged, StateError

from .beside import draft_of, explained, sync, unused

__all__ = ["FileState"]

#: Large ones, because where a piece ends is a place at which a payload that was shifted differs.
PIECE_BYTES = 1024 * 1024

#: Longer than the ticks of the clocks by which file systems stamp.
STILL_S = 0.05

#: How long a file is waited for that does not hold still.
PATIENCE_S = 5.0

#: Written so often while the pieces come, little is left to be done at their end, when the state is locked.
SYNC_EVERY_BYTES = 8 * 1024 * 1024


class _Seen(NamedTuple):
    """Which file it is, and when it was written last. Another content without another one of these is not noticed."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Seen:
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class FileState:
    """The file at `path`. It need not be there yet."""

    def __init__(self, path: str | Path, *, still_s: float = STILL_S) -> None:
        self.path = Path(path)
        self._still_s = still_s
        #: What is known to be published: as which file it was seen, and its digest.
        self._known: tuple[_Seen, str] | None = None
        self._drawn: tuple[_Seen, str] | None = None

    def seen(self) -> object:
        """Something that is another one once the file was written. Raises `StateError` if it cannot be said."""
        with explained(self.path):
            return _Seen.of(self.path.stat())

    # --- what a node asks for ---

    def survived(self) -> bool:
        """Whether the file is there."""
        return self.path.exists()

    def published(self) -> None:
        """What the last snapshot gave is published."""
        self._known = self._drawn

    def snapshot(self) -> Iterator[bytes]:
        """The file as it is when the pieces are drawn, at least a piece. They end with `StateChanged` if it changed."""
        with explained(self.path):
            file = self.path.open("rb", buffering=0)
        return self._pieces(file)

    def _pieces(self, file: IO[bytes]) -> Iterator[bytes]:
        digest = xxhash.xxh3_128()
        with file, explained(self.path):
            seen = self._seen_still(file)
            empty = True
            while (piece := _read(file)) or empty:
                empty = False
                digest.update(piece)
                yield piece
            if _Seen.of(os.fstat(file.fileno())) != seen:
                raise StateChanged(path=self.path)
        self._drawn = seen, digest.hexdigest()

    def _seen_still(self, file: IO[bytes]) -> _Seen:
        seen = _Seen.of(os.fstat(file.fileno()))
        deadline = time.monotonic() + PATIENCE_S
        while time.time() - seen.modified_ns / 1e9 < self._still_s:
            time.sleep(self._still_s)
            before, seen = seen, _Seen.of(os.fstat(file.fileno()))
            if seen == before:  # a clock that is ahead of ours
                break
            if time.monotonic() > deadline:
                raise StateChanged(path=self.path)
        return seen

    def restore(self, pieces: Iterable[Any]) -> None:
        """Become what `pieces` say. Raises `StateError`; the file is what it was then."""
        target = Path(os.path.realpath(self.path))
        draft = draft_of(target)
        try:
            digest = self._write(draft, target, pieces)
            if digest is not None:
                self._swap(draft, target, digest)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _write(self, draft: Path, target: Path, pieces: Iterable[Any]) -> str | None:
        """Write the draft; its digest. None: there were no pieces, so nothing was ever published."""
        digest = xxhash.xxh3_128()
        unsynced = some = 0
        with explained(target):
            file = draft.open("xb", buffering=0)
            with suppress(FileNotFoundError):
                _take_after(file, target.stat())
        with file:
            for piece in pieces:
                if not isinstance(piece, bytes):
                    raise StateError(path=target, problem="the group replicates something else than a file")
                some += 1
                digest.update(piece)
                unsynced += len(piece)
                with explained(target):
                    _write(file, piece)
                    if unsynced >= SYNC_EVERY_BYTES:
                        os.fsync(file.fileno())
                        unsynced = 0
            with explained(target):
                os.fsync(file.fileno())
        return digest.hexdigest() if some else None

    def _swap(self, draft: Path, target: Path, digest: str) -> None:
        with explained(target):
            there = _Seen.of(target.stat()) if target.exists() else None
            known = self._known or (None, "")
            content = known[1] if there == known[0] else ("" if there is None else _digest(target))
            if there is not None and content == digest:
                self._known = there, digest
                return
            if there is not None and content != known[1]:
                _keep(target)
            os.replace(draft, target)
            sync(target.parent)
            self._known = _Seen.of(target.stat()), digest


def _read(file: IO[bytes]) -> bytes:
    """The next piece: the same for the same content, however much the system gives at a time."""
    parts: list[bytes] = []
    left = PIECE_BYTES
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _write(file: IO[bytes], piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[file.write(left) :]


def _take_after(file: IO[bytes], before: os.stat_result) -> None:
    os.fchmod(file.fileno(), before.st_mode & 0o7777)
    with suppress(PermissionError):
        os.fchown(file.fileno(), before.st_uid, before.st_gid)


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while data := _read(file):
            digest.update(data)
    return digest.hexdigest()


def _keep(path: Path) -> None:
    aside = unused(path)
    try:
        os.link(path, aside)
    except OSError:  # a file system without hard links
        shutil.copy2(path, aside)
