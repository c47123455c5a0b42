"""The database that a node keeps of what was published, in a file of its own that is changed in place.

    data_dir/shadow        the pages, one after the other, as they are replicated: SQLite can open a copy of it
    data_dir/shadow.new-N  one that is being written

**It is a cache.** The checkpoint has the newest snapshot and the changes since, and a change is saved there before it
is made here. So nothing here is synced, and none of it has a journal: at the start the file is held against the
digests that the checkpoint tells. One that was torn, or is of before, becomes what it should be by all pages that the
checkpoint has of changes, and is made anew from the snapshot if that does not give the digest
(`published_pages.py`).

**Its pieces** are those of a moment: whoever draws them while changes are made gets the pages as they were, which are
kept for him until he has passed them. They are held against the digest: a shadow that somebody else changed is
`broken`, and says so.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import xxhash

from ..errors import CheckpointError, CorruptRecord
from ..format.pages import MODULUS, NO_PAGES, PageChange, is_page_size, moved, sum_in
from ..runtime.event_log import EventLogger
from . import disk
from .disk_errors import unusable

__all__ = ["PIECE_BYTES", "Draft", "PiecesDigest", "Shadow", "View", "digest_of_pieces", "page_size_in"]

logger = EventLogger(__name__)

#: The pieces of a database. Every page size divides it.
PIECE_BYTES = 1024 * 1024

#: Where the page size is, and that of a database without a page.
_SIZE_AT = slice(16, 18)
_NO_SIZE = 4096


def page_size_in(header: bytes) -> int:
    """What the header of a database says; 0: there is none, or it is no database."""
    said = int.from_bytes(header[_SIZE_AT], "big")
    size = 65536 if said == 1 else said
    return size if header[:16] == b"SQLite format 3\0" and is_page_size(size) else 0


class PiecesDigest:
    """That of a snapshot of raw pieces, as its last part tells it (`format/codec.py`)."""

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()

    def update(self, piece: bytes) -> None:
        self._digest.update(len(piece).to_bytes(4, "big"))
        self._digest.update(piece)

    @property
    def text(self) -> str:
        return self._digest.hexdigest()


def digest_of_pieces(pieces: Iterable[bytes]) -> str:
    """The same for all of them."""
    digest = PiecesDigest()
    for piece in pieces:
        digest.update(piece)
    return digest.text


class Shadow:
    """A database at rest, but for `make`. Thread-safe. `count`: how many pages it has. Raises `CheckpointError`."""

    def __init__(self, path: Path, descriptor: int, page_size: int, count: int, digest: int) -> None:
        self.path = path
        self.page_size = page_size
        self.count = count
        self.digest = digest
        self._file = descriptor
        self._lock = threading.Lock()
        self._views: weakref.WeakSet[View] = weakref.WeakSet()
        #: Why it is not what it should be, if a change could not be made.
        self.broken = ""
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def found(cls, path: Path) -> Shadow | None:
        """The one that is there, if it can be one; with the digest of what is in it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unusable(path, error) from error
        page_size = page_size_in(os.pread(descriptor, 100, 0)) or _NO_SIZE
        shadow = cls(path, descriptor, page_size, os.fstat(descriptor).st_size // page_size, NO_PAGES)
        shadow.digest = shadow.counted()
        return shadow

    @property
    def inode(self) -> int:
        return os.fstat(self._file).st_ino

    def counted(self) -> int:
        """The digest of what is in it, by all of its pages."""
        at_once, digest = PIECE_BYTES // self.page_size, NO_PAGES
        for first in range(1, self.count + 1, at_once):
            digest += sum_in(first, self.read(first, min(at_once, self.count + 1 - first)), self.page_size)
        return digest % MODULUS

    def page(self, number: int) -> bytes:
        return os.pread(self._file, self.page_size, (number - 1) * self.page_size)

    def pieces(self) -> Iterator[bytes]:
        """Those of now, whatever is made of it meanwhile. One without a page has one that is empty."""
        return self.view().pieces()

    def view(self) -> View:
        """What it is now."""
        with self._lock:
            view = View(self, self.count, self.digest)
            self._views.add(view)
            return view

    def after(self, change: PageChange) -> View:
        """What it would be."""
        return View(self, change.page_count, change.digest, change.pages)

    # --- changes ---

    def check(self, change: PageChange, *, id_: str) -> None:
        """Raises `CorruptRecord` if this change does not start from what is here, or does not lead where it says."""
        if self.broken:
            raise CorruptRecord(id=id_, problem=f"what it starts from could not be kept here ({self.broken})")
        here = self.digest, self.page_size if self.count else change.page_size, self.count
        if (change.old_digest, change.page_size, change.old_page_count) != here:
            raise CorruptRecord(id=id_, problem="its change of pages starts from another database than the one here")
        numbers = [number for number in change.pages if number <= self.count]
        numbers += range(change.page_count + 1, self.count + 1)
        gone = ((number, self.page(number)) for number in numbers)
        if moved(self.digest, gone, change.pages.items()) != change.digest:
            raise CorruptRecord(id=id_, problem="its change of pages does not yield what it declares, of what is here")

    def reserve(self, change: PageChange) -> None:
        """Have room for it. Raises `CheckpointError`; nothing has changed then."""
        more = (change.page_count - self.count) * change.page_size
        if more <= 0 or not hasattr(os, "posix_fallocate"):  # as on macOS
            return
        try:
            os.posix_fallocate(self._file, self.count * change.page_size, more)
        except OSError as error:
            raise unusable(self.path, error) from error

    def make(self, change: PageChange) -> None:
        """Make a change that was checked. One that cannot be made leaves it `broken`."""
        with self._lock:
            self._keep_for_views(change)
            self.page_size = change.page_size
            try:
                self.put(change.pages)
                os.truncate(self._file, change.page_count * change.page_size)
            except OSError as error:
                self.breaks(f"it could not be written ({error.strerror or error})")
            self.count, self.digest = change.page_count, change.digest

    def put(self, pages: Mapping[int, bytes]) -> None:
        """Write these pages, whatever is there."""
        for number, page in pages.items():
            if os.pwrite(self._file, page, (number - 1) * len(page)) != len(page):
                raise OSError(0, "a page was not written as a whole")

    def ends_after(self, count: int) -> None:
        os.truncate(self._file, count * self.page_size)
        self.count = count

    def _keep_for_views(self, change: PageChange) -> None:
        for view in self._views:
            for number in (*change.pages, *range(change.page_count + 1, view.count + 1)):
                if view.passed < number <= view.count and number not in view.kept:
                    view.kept[number] = self.page(number)

    def breaks(self, why: str) -> None:
        """It is not what it should be: a node that leads draws all of it anew, any other one waits for a snapshot."""
        if not self.broken:
            logger.error("shadow.broken", "%s is not what was published: %s", self.path, why)
        self.broken = self.broken or why

    # --- its name ---

    def becomes(self, path: Path) -> None:
        try:
            os.replace(self.path, path)
        except OSError as error:
            raise unusable(path, error) from error
        self.path = path

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)

    def read(self, first: int, count: int) -> bytes:
        """So many pages from this number on. The caller has the lock."""
        data = os.pread(self._file, count * self.page_size, (first - 1) * self.page_size)
        if len(data) != count * self.page_size:
            raise CheckpointError(path=self.path, problem="it was cut by somebody else")
        return data

    @property
    def lock(self) -> threading.Lock:
        return self._lock


class View:
    """A shadow of some moment, with this digest. `kept`: the pages that are others in the file."""

    def __init__(self, shadow: Shadow, count: int, digest: int, kept: Mapping[int, bytes] | None = None) -> None:
        self.count = count
        self._digest = digest
        self._sum = NO_PAGES
        self.kept = dict(kept or {})
        #: Pages up to here were drawn, and are not needed any more.
        self.passed = 0
        self._shadow = shadow
        self._page_size = shadow.page_size if shadow.count or not self.kept else len(next(iter(self.kept.values())))

    def pieces(self) -> Iterator[bytes]:
        """Raises `CheckpointError`."""
        if not self.count:
            yield b""
        at_once = PIECE_BYTES // self._page_size
        while self.passed < self.count:
            first = self.passed + 1
            piece = self._piece(min(at_once, self.count - self.passed))
            self._sum = (self._sum + sum_in(first, piece, self._page_size)) % MODULUS
            yield piece
        if self._sum != self._digest:
            self._shadow.breaks("it was changed by something else than this node")
            raise CheckpointError(path=self._shadow.path, problem=self._shadow.broken)

    def _piece(self, count: int) -> bytes:
        shadow, first = self._shadow, self.passed + 1
        with shadow.lock:
            kept = {n: page for n in range(first, first + count) if (page := self.kept.pop(n, None)) is not None}
            # What is not in the file any more is kept.
            there = max(0, min(count, shadow.count - self.passed))
            data = shadow.read(first, there) if there else b""
            self.passed += count
        if not kept:
            return data
        piece = bytearray(data.ljust(count * self._page_size, b"\0"))
        for number, page in kept.items():
            start = (number - first) * self._page_size
            piece[start : start + self._page_size] = page
        return bytes(piece)


class Draft:
    """A shadow that is written from its first page to its last. Raises `CheckpointError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0
        try:
            self._file = disk.create(path)
        except OSError as error:
            raise unusable(path, error) from error

    def write(self, piece: bytes) -> None:
        try:
            disk.write(self._file, piece)
        except OSError as error:
            raise unusable(self.path, error) from error

    def finish(self) -> Shadow:
        """What was written."""
        shadow = Shadow.found(self.path)
        assert shadow is not None
        os.close(self._file)
        return shadow

    def discard(self) -> None:
        os.close(self._file)
        self.path.unlink(missing_ok=True)
