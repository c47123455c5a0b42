"""A file, whatever is in it, as a state that is replicated whole.

On the primary any program writes it; `Node.publish` sends what changed. On a standby the file becomes what was
published, and nobody else should write it.

**Read.** A file that is replaced by a rename is always read as it was at one moment. One that is rewritten in place is
read once nobody has written to it for `still_s`, and read again if somebody did meanwhile, which its time stamps show.
So a program that pauses for longer than that in the middle of rewriting is seen half-way: let it write another file,
and rename that. Where a clock has ticks of a second (`file_stamps.py`), what is written in the second in which the file
is read shows in the next one, and the file is read again then.

**Written.** Beside it, to the disk, and then renamed: a program that opens it finds the old content or the new one, and
one that has it open keeps the old one. Mode and owner stay (the owner where this process may set it); a file that was
not there is for its owner alone, or has `mode`. What is at a symbolic link is replaced, and not the link. A file that
is a mount by itself (`docker run -v ./flags.json:/flags.json`) cannot be renamed over: it is overwritten in place, once
its new content is on the disk beside it and there is room for it, so for a moment it can be seen half-way there.

**Nothing is lost silently.** A file that is about to be replaced, and is neither what this object wrote nor what was
published from it, is kept as `PATH.replaced-<UTC time>`: what a primary had that nobody else has, or what somebody
wrote on a standby. After a restart nobody remembers: then whatever is not the very content is kept. What is aside
already is not kept again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import xxhash

from replicator.errors import StateChanged, StateError
from replicator.storage import disk

from .file_stamps import Seen, Stamp, Watch
from .replaced_files import Kept, asides, copied, draft_of, explained, is_kept, stat_of, survived, unused

__all__ = ["FileState"]

#: Large ones, because where a piece ends is a place at which a payload that was shifted differs.
PIECE_BYTES = 1024 * 1024

#: Longer than the fine ticks of the clocks by which file systems stamp.
STILL_S = 0.05

#: How long a file is waited for that does not hold still.
PATIENCE_S = 5.0

#: Written so often while the pieces come, little is left to be done at their end, when the state is locked.
SYNC_EVERY_BYTES = 8 * 1024 * 1024


class FileState:
    """The file at `path`. It need not be there yet; `mode`: what it gets then."""

    def __init__(self, path: str | Path, *, still_s: float = STILL_S, mode: int = disk.PRIVATE) -> None:
        self.path = Path(path)
        self._still_s = still_s
        self._mode = mode
        self._watch = Watch()
        #: A content that may be replaced, because it was published or put aside: as which it was seen, and its digest.
        self._known: tuple[Seen, str] | None = None
        self._drawn: tuple[Seen, str] | None = None
        #: It was overwritten in place, and not to the end: what is there is nobody's.
        self._is_torn = False
        #: What is put aside for it.
        self.kept = Kept(self.path)

    def seen(self) -> object:
        """Something that is another one once the file was written. Raises `StateError` if it cannot be said."""
        with explained(self.path):
            return self._watch.look([self.path.stat()])

    # --- what a node asks for ---

    def survived(self) -> bool:
        """Whether the file is there."""
        return survived(self.path)

    def published(self) -> None:
        """What the last snapshot gave is published."""
        self._known, self.kept.has_published, self.kept.is_new = self._drawn, True, False

    def snapshot(self) -> Iterator[bytes]:
        """The file as it is when the pieces are drawn, at least a piece. They end with `StateChanged` if it changed."""
        with explained(self.path):
            file = self.path.open("rb", buffering=0)
        return self._pieces(file)

    def _pieces(self, file: IO[bytes]) -> Iterator[bytes]:
        digest = xxhash.xxh3_128()
        with file, explained(self.path):
            before = self._still(file)
            seen = self._watch.look([before])
            empty = True
            while (piece := _read(file)) or empty:
                empty = False
                digest.update(piece)
                yield piece
            if _was_written(before, os.fstat(file.fileno())):
                raise StateChanged(path=self.path)
        self._drawn = seen, digest.hexdigest()

    def _still(self, file: IO[bytes]) -> os.stat_result:
        found = os.fstat(file.fileno())
        deadline = time.monotonic() + PATIENCE_S
        while time.time() - max(found.st_mtime_ns, found.st_ctime_ns) / 1e9 < self._still_s:
            time.sleep(self._still_s)
            before, found = found, os.fstat(file.fileno())
            if Stamp.of(found) == Stamp.of(before):  # a clock that is ahead of ours
                break
            if time.monotonic() > deadline:
                raise StateChanged(path=self.path)
        return found

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
            file = os.fdopen(disk.create(draft), "wb", buffering=0)
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
                        disk.sync_descriptor(file.fileno())
                        unsynced = 0
            with explained(target):
                self._dress(file.fileno(), target)
                disk.sync_descriptor(file.fileno())
        return digest.hexdigest() if some else None

    def _dress(self, draft: int, target: Path) -> None:
        """Give the draft the mode that the file has, or is to have: it is whole now."""
        try:
            disk.take_after(draft, target.stat())
        except FileNotFoundError:
            os.fchmod(draft, self._mode)

    def _swap(self, draft: Path, target: Path, digest: str) -> None:
        with explained(target):
            there, known = self._look(target), self._known
            if there is not None:
                content = known[1] if known is not None and there == known[0] else _digest(target)
                if content != digest and not self._is_torn and (known is None or content != known[1]):
                    self._keep(target, content)
                # Whatever happens from here on, it need not be kept again.
                self._known = there, content
                if content == digest:
                    self._is_torn = self.kept.has_published = self.kept.is_new = False
                    return
            ours = draft.stat()
            self._put(draft, target)
            found = stat_of(target)
            # Somebody may have written to it already: then what is there is not what was published.
            is_ours = found is not None and (found.st_ino != ours.st_ino or _content_of(found) == _content_of(ours))
            self._known = (self._watch.look([found]), digest) if found is not None and is_ours else None
            self.kept.has_published = self.kept.is_new = False

    def _look(self, target: Path) -> Seen | None:
        found = stat_of(target)
        return None if found is None else self._watch.look([found])

    def _keep(self, target: Path, digest: str) -> None:
        if is_kept(target, target.stat().st_size, digest, _digest):
            return
        aside = unused(target)
        try:
            os.link(target, aside)
            disk.sync(aside)
        except OSError:  # a file system without hard links, or a mount of its own
            aside.unlink(missing_ok=True)
            copied(target, aside)
        disk.sync(target.parent)
        self.kept.keep(aside)

    def _put(self, draft: Path, target: Path) -> None:
        try:
            os.replace(draft, target)
        except OSError as error:
            if error.errno != errno.EBUSY:  # what is said of a mount (rename(2))
                raise
            self._overwrite(draft, target)
        disk.sync(target.parent)

    def _overwrite(self, draft: Path, target: Path) -> None:
        for aside in asides(target):
            if aside.samefile(target):  # a link: it would become the new content, too
                copy = draft_of(target, "kept")
                copied(target, copy)
                os.replace(copy, aside)
        with draft.open("rb", buffering=0) as source, target.open("r+b", buffering=0) as file:
            size = os.fstat(source.fileno()).st_size
            _make_room(file, size)
            self._is_torn = True
            while data := _read(source):
                _write(file, data)
            file.truncate(size)
            disk.sync_descriptor(file.fileno())
        self._is_torn = False


def _content_of(found: os.stat_result) -> tuple[int, int]:
    """What another content would change, and a rename does not."""
    return found.st_size, found.st_mtime_ns


def _was_written(before: os.stat_result, now: os.stat_result) -> bool:
    """Whether somebody wrote to a file that is open. One that took its name, or a new link to it, is no write."""
    old, new = Stamp.of(before), Stamp.of(now)
    if before.st_nlink != now.st_nlink:
        new = new._replace(changed_ns=old.changed_ns)
    return old != new


def _make_room(file: IO[bytes], size: int) -> None:
    """Have the system set aside what a file is about to grow. Raises `OSError`; the file is what it was."""
    before = os.fstat(file.fileno()).st_size
    if size <= before or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), before, size - before)
    except OSError as error:
        os.ftruncate(file.fileno(), before)
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that knows no such thing
            raise


def _read(file: IO[bytes]) -> bytes:
    """The next piece: the same for the same content, however much the system gives at a time."""
    parts: list[bytes] = []
    left = PIECE_BYTES
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _write(file: IO[bytes], piece: bytes) -> None:
    disk.write(file.fileno(), piece)


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while data := _read(file):
            digest.update(data)
    return digest.hexdigest()
