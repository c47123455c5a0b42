"""Reads what programs did to their database since the last look, without being in their way.

**In a process of its own** (`capture_process.py`). Whoever closes a descriptor of a file gives up every lock that his
process has on it (fcntl(2), *Advisory record locking*), those of SQLite's connections, too; and a lost lock is a lost
transaction that no check finds. Here a look opens the database, and closes SQLite's connection before its own
descriptors: there is no lock left to be lost. Between looks nothing is open, so a program can change the journal mode,
and its last connection tidies up as ever.

**A glance** is enough for nearly all of what programs do in WAL mode. The index says what is committed, and if it is
the log of the last look, the frames since are read. That takes no transaction, no lock, and no connection: a log that
is begun anew meanwhile shows by its salts (`files.py`).

**A look** is for the rest. It is a transaction that reads, of some ms. While it lasts nothing that it reads is
overwritten:

- In WAL mode it is a scan: the database with the frames laid over it. A checkpoint writes nothing to the database that
  is not in the log as far as it was read; and a log that was begun anew meanwhile shows, so the look is repeated.
- In the other modes nobody writes the database while it is read. The counter of changes says whether there is anything
  to do; then all of it is read, and compared: by a hash of each stretch where that is known, otherwise with the shadow.

**What it gives** are the pages that differ from those of the shadow, as they are replicated. A look that was not
published is not lost: where the next one begins moves only once the shadow has what this one gave.

Once in `AUDIT_EVERY_S` all of it is compared, in WAL mode as well. What that finds and the frames did not tell is a
bug; it is said, and sent.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import xxhash

from ..format.pages import CHANGE_BYTES_MAX, MODULUS, NO_PAGES, PageChange, canonical, lock_page, moved, sum_in
from ..storage import disk
from ..storage.shadow import PIECE_BYTES
from .files import Files, Moving, NoDatabase, held, unheld
from .wal import WalIndex

__all__ = ["AUDIT_EVERY_S", "Base", "Capture", "Found"]

#: How often all of the database is compared.
AUDIT_EVERY_S = 60.0

#: A stretch of the database that has one hash. Every page size divides it.
STRETCH_BYTES = 256 * 1024

#: A log that is begun anew again and again while it is read: the caller is told after so many attempts.
ATTEMPTS_MAX = 5


class Base(NamedTuple):
    """The shadow that a look is compared with: its file, and what its node knows of it."""

    path: str | Path
    inode: int
    page_size: int
    page_count: int
    digest: int


class Found(NamedTuple):
    """What a look gave. `change` None and not `all_of_it`: nothing. `held_s`: how long all of it was read for; 0:
    it was not, or for an audit alone, which a log would have spared. `missed`: pages that an audit found and the log
    had not told."""

    change: PageChange | None = None
    all_of_it: str = ""
    held_s: float = 0.0
    missed: int = 0
    in_wal: bool = False


class _Seen(NamedTuple):
    """Where the next look may go on. `file`: which one the database was, and when it was written. `hashes`: of
    stretches, by their number."""

    file: tuple[int, int]
    wal: WalIndex | None
    counter: bytes
    hashes: dict[int, int]


_NOTHING = _Seen((0, 0), None, b"", {})


class Capture:
    """Of one database. `audit_every_s`: how often all of it is compared, whatever its log tells."""

    def __init__(self, path: Path, *, audit_every_s: float = AUDIT_EVERY_S) -> None:
        self._path = path
        self._audit_every_s = audit_every_s
        self._audited_at = time.monotonic()
        self._shadow = _SharedFile()
        #: What is known of the database as it was when it was equal to the shadow with this digest.
        self._seen = _NOTHING
        self._digest: int | None = None
        #: The same for what was found last, should that be published.
        self._next: tuple[int, _Seen] | None = None

    # --- looks ---

    def look(self, base: Base) -> Found:
        """Raises `NoDatabase`, `sqlite3.Error`, `OSError`."""
        if self._next is not None and self._next[0] == base.digest:
            self._digest, self._seen = self._next
        elif self._digest != base.digest:
            self._digest, self._seen = base.digest, _NOTHING
        self._next = None
        shadow = self._shadow.of(base)
        for _ in range(ATTEMPTS_MAX):
            try:
                return self._look(base, shadow)
            except Moving:
                continue
        raise NoDatabase("its log was begun anew again and again while it was read")

    def _look(self, base: Base, shadow: int) -> Found:
        audits = time.monotonic() - self._audited_at >= self._audit_every_s
        if not audits and (found := self._glance(base, shadow)) is not None:
            return found
        with held(self._path) as files:
            if files.page_size != base.page_size and base.page_count:
                return Found(all_of_it="its page size is another one")
            seen = self._seen if files.inode == self._seen.file[0] else _NOTHING
            if _is_as(files, seen) and not audits:
                return Found()
            compared = _compared(files, base, shadow, seen, audits=audits)
            files.check_still()
        held_s = time.monotonic() - files.held_from if compared.scanned else 0.0
        if audits:
            self._audited_at = time.monotonic()
            if _digest_of(shadow, base) != base.digest:
                return Found(all_of_it="the shadow was changed by something else than its node", held_s=held_s)
        if compared.is_too_much:
            return Found(all_of_it="there is too much of it", held_s=held_s)
        found = self._given(base, shadow, files, compared)
        return found._replace(held_s=held_s, missed=compared.missed, in_wal=files.wal is not None)

    def _glance(self, base: Base, shadow: int) -> Found | None:
        """What the log of the last look got since; None: that is not all that happened, so a look is needed."""
        seen = self._seen
        if seen.wal is None:
            return None
        try:
            with unheld(self._path) as files:
                if files.inode != seen.file[0] or files.wal is None or not files.wal.follows(seen.wal):
                    return None
                if files.wal.frames_upto == seen.wal.frames_upto:
                    return Found(in_wal=True) if files.is_all() else None
                compared = _told(files, base, shadow, seen)
                files.check_still()
        except (Moving, NoDatabase, OSError):  # whatever it is, the look says so
            return None
        if compared is None or compared.is_too_much:
            return None
        return self._given(base, shadow, files, compared)._replace(in_wal=True)

    def _given(self, base: Base, shadow: int, files: Files, compared: _Compared) -> Found:
        pages, seen = compared.pages, _Seen(files.file, files.wal, files.counter, compared.hashes)
        if not pages and files.count == base.page_count:
            self._seen = seen
            return Found()
        size = files.page_size
        gone = [number for number in pages if number <= base.page_count] + [
            *range(files.count + 1, base.page_count + 1)
        ]
        old = ((number, os.pread(shadow, size, (number - 1) * size)) for number in gone)
        come = dict(sorted(pages.items()))
        digest = moved(base.digest, old, come.items())
        self._next = digest, seen
        return Found(PageChange(base.digest, digest, size, base.page_count, files.count, come))

    def draw(self, draft: Path) -> float:
        """Write all of it to a new file, as it is at one moment. For how long nobody could commit; 0 in WAL mode.

        Raises what `look` raises.
        """
        descriptor = disk.create(draft)
        try:
            for _ in range(ATTEMPTS_MAX):
                try:
                    return self._draw(descriptor)
                except Moving:
                    os.ftruncate(descriptor, 0)
                    os.lseek(descriptor, 0, os.SEEK_SET)
        finally:
            os.close(descriptor)
        raise NoDatabase("its log was begun anew again and again while it was read")

    def _draw(self, descriptor: int) -> float:
        with held(self._path) as files:
            overlaid = files.frames_since(None) or {}
            for first, piece in files.pieces(PIECE_BYTES, overlaid):
                disk.write(descriptor, _canonical(first, piece, files.page_size))
            files.check_still()
        return time.monotonic() - files.held_from if files.wal is None else 0.0


def _digest_of(shadow: int, base: Base) -> int:
    digest, at_once = NO_PAGES, PIECE_BYTES // base.page_size
    for first in range(1, base.page_count + 1, at_once):
        count = min(at_once, base.page_count + 1 - first)
        piece = os.pread(shadow, count * base.page_size, (first - 1) * base.page_size)
        digest += sum_in(first, piece, base.page_size)
    return digest % MODULUS


class _SharedFile:
    """The shadow, opened to be read, for as long as it is that one."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._inode = 0

    def of(self, base: Base) -> int:
        if self._file is None or self._inode != base.inode:
            if self._file is not None:
                os.close(self._file)
            self._file = os.open(base.path, os.O_RDONLY | os.O_CLOEXEC)
            self._inode = os.fstat(self._file).st_ino
            if self._inode != base.inode:
                raise NoDatabase("the shadow is another file than the one that was named")
        return self._file


# --- comparing --------------------------------------------------------------------------------------------------------


class _Compared(NamedTuple):
    """What differs from a shadow. `scanned`: all of it had to be read. `missed`: see `Found`."""

    pages: dict[int, bytes]
    hashes: dict[int, int]
    scanned: bool
    is_too_much: bool
    missed: int = 0


def _is_as(files: Files, seen: _Seen) -> bool:
    """Whether nothing was written since: outside of WAL mode, the counter and the file system say so."""
    return files.counter != b"" and (files.counter, files.file) == (seen.counter, seen.file)


def _told(files: Files, base: Base, shadow: int, seen: _Seen) -> _Compared | None:
    """By what the log tells; None: it does not tell all."""
    frames = files.frames_since(seen.wal) if seen.wal is not None else None
    new = set(range(base.page_count + 1, files.count + 1)) - {lock_page(files.page_size)}
    if frames is None or not new <= frames.keys():  # SQLite need not write a page that is free
        return None
    reader = _Reader(files, base, shadow)
    pages = reader.differing(frames, files.count)
    touched = {(number - 1) * files.page_size // STRETCH_BYTES for number in pages}
    hashes = seen.hashes
    if not touched.isdisjoint(hashes):
        hashes = {stretch: found for stretch, found in hashes.items() if stretch not in touched}
    return _Compared(pages, hashes, False, reader.is_too_much)


def _compared(files: Files, base: Base, shadow: int, seen: _Seen, *, audits: bool) -> _Compared:
    told = _told(files, base, shadow, seen)
    if told is not None and not audits:
        return told
    scan = _Reader(files, base, shadow)
    scanned = scan.scanned({} if audits else seen.hashes)
    missed = len(scanned.keys() - told.pages.keys()) if told is not None and not told.is_too_much else 0
    return _Compared(scanned, scan.hashes, told is None, scan.is_too_much, missed)


class _Reader:
    """Compares what is read with a shadow. `is_too_much`: more differs than a change may carry."""

    def __init__(self, files: Files, base: Base, shadow: int) -> None:
        self._files = files
        self._base = base
        self._shadow = shadow
        self._bytes = 0
        self.hashes: dict[int, int] = {}

    @property
    def is_too_much(self) -> bool:
        return self._bytes > CHANGE_BYTES_MAX

    def differing(self, frames: dict[int, int], count: int) -> dict[int, bytes]:
        """Those of these pages that the shadow has not, of a database of so many."""
        pages: dict[int, bytes] = {}
        if self._base.page_count < (empty := lock_page(self._files.page_size)) <= count:
            pages[empty] = bytes(self._files.page_size)
        for number, frame in frames.items():
            if self.is_too_much:
                break
            self._compare(number, self._files.in_frame(frame), pages)
        return pages

    def _compare(self, number: int, page: bytes, pages: dict[int, bytes]) -> None:
        size = len(page)
        page = canonical(number, page)
        if number > self._base.page_count or page != os.pread(self._shadow, size, (number - 1) * size):
            pages[number] = page
            self._bytes += size

    def scanned(self, hashes: dict[int, int]) -> dict[int, bytes]:
        """All pages that the shadow has not. `hashes`: of stretches that were the same in it."""
        files, pages = self._files, dict[int, bytes]()
        overlaid = files.frames_since(None) or {}
        for first, piece in files.pieces(STRETCH_BYTES, overlaid):
            if self.is_too_much:
                break
            stretch = (first - 1) * files.page_size // STRETCH_BYTES
            found = self.hashes[stretch] = xxhash.xxh3_64_intdigest(piece)
            if hashes.get(stretch) != found:
                self._compare_stretch(first, piece, pages)
        return pages

    def _compare_stretch(self, first: int, piece: bytes, pages: dict[int, bytes]) -> None:
        size = self._files.page_size
        there = max(0, min(len(piece), (self._base.page_count + 1 - first) * size))
        if piece == os.pread(self._shadow, there, (first - 1) * size):
            return
        for start in range(0, len(piece), size):
            self._compare(first + start // size, piece[start : start + size], pages)


def _canonical(first: int, piece: bytes, page_size: int) -> bytes:
    """A piece of which one page or none is another one where it is replicated."""
    whole = piece
    for number in (1, lock_page(page_size)):
        start = (number - first) * page_size
        if 0 <= start < len(piece):
            page = canonical(number, piece[start : start + page_size])
            whole = whole[:start] + page + whole[start + page_size :]
    return whole
