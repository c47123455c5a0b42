"""An SQLite database as a state that is replicated by pages: what a publication costs goes by what changed.

On the primary a process of its own reads what programs did to it (`pages/capture.py`), and a publication is a change of
pages (`format/pages.py`). Every node makes these changes in a database of its own, the shadow (`pages/shadow.py`).

At `path`, a standby has what was published when it became one, or, if it is `live`, what is published. Programs may
read that. It becomes what is published by then once the node is to lead, before it does: in place (`pages/live.py`) if
nobody else wrote it and it is not in WAL mode; otherwise as in `sqlite.py`, by SQLite's own backup, in one transaction,
and what was not published is put aside. Journal modes are every database's own business; but on a standby one is taken
out of WAL mode, and put back once its node is to lead.

**How it was left** is noted in a file of the node's own, so that the next start does not take what lags for something
that somebody wrote. That is not synced: after a power cut a copy too many is put aside.

**Not for** a database that a program has for itself (`PRAGMA locking_mode = EXCLUSIVE`), and groups with a key.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from replicator.errors import CheckpointError, StateError
from replicator.pages.capture import Base
from replicator.pages.capture_process import Reader
from replicator.pages.live import HEADER_BYTES, MODE, NOT_WAL, SCHEMA, Left, NotAsLeft, catch_up
from replicator.storage import disk
from replicator.storage.published_pages import ALL_OF_IT
from replicator.storage.shadow import Shadow

from ..runtime.event_log import EventLogger
from .replaced_files import explained
from .sqlite import BUSY_S, SQLiteState, content_digest, digest_of, discard, normal

__all__ = ["SQLitePages"]

logger = EventLogger(__name__)

#: Where all of a database has to be read to see what changed, it is read for this share of the time: outside of WAL
#: mode nobody can commit meanwhile.
SHARE_READ = 0.02

#: In WAL mode that is in nobody's way, and costs processor time.
SHARE_READ_IN_WAL = 0.1

#: It rests no longer than this. On a busy machine all takes longer, and what is not published would be lost with the
#: node.
REST_S_MAX = 60.0


#: Room for what is noted: a word, and two headers.
_NOTES_BYTES = 8 + 2 * (2 * HEADER_BYTES + 1)


class SQLitePages(SQLiteState):
    """As `SQLiteState`. It is the source of what its node publishes (`PublishedPages.source`).

    `live`: on a standby, it is to be what is published, all the time.
    """

    def __init__(
        self, path: str | Path, *, busy_s: float = BUSY_S, mode: int = disk.PRIVATE, live: bool = False
    ) -> None:
        super().__init__(path, busy_s=busy_s, mode=mode)
        self.live = live
        self._left: Left | None = None
        self._notes = _Notes()
        self._reader = Reader(self.path)
        self._rests_until = 0.0
        #: Whether the shadow is not what was published.
        self.shadow_is_broken: Callable[[], bool] = bool
        #: The pieces of what was published, once a node has it.
        self.published_pieces: Callable[[], Iterator[Any]] | None = None

    def keep_notes(self, path: Path) -> None:
        """Before anything else: note in this file how the database is left."""
        self._notes.read(path)

    def seen(self) -> object:
        """As of any database; and always another one, while all of it is to be published."""
        return object() if self.shadow_is_broken() else super().seen()

    @property
    def rests(self) -> bool:
        """Whether it was read so long just now that programs have it for themselves for a while."""
        return time.monotonic() < self._rests_until

    def look(self, shadow: Shadow) -> bytes | str | None:
        """See `Source`."""
        seen = self.seen()
        base = Base(shadow.path, shadow.inode, shadow.page_size, shadow.count, shadow.digest)
        found = self._reader.look(shadow.path, base)
        self._rest(SHARE_READ_IN_WAL if self._reader.was_wal else SHARE_READ)
        self._drawn = seen, ""
        if isinstance(found, str):
            logger.info("publish.whole", "%s is published as a whole: %s", self.path, found)
            return ALL_OF_IT
        return found

    def draw(self, draft: Path) -> None:
        """See `Source`."""
        seen = self.seen()
        self._reader.draw(draft)
        self._rest(SHARE_READ)
        self._drawn = seen, ""

    def _rest(self, share: float) -> None:
        until = time.monotonic() + min(self._reader.held_s / share, REST_S_MAX)
        self._rests_until = max(self._rests_until, until)

    def is_published(self, first: bytes) -> None:
        """At `path` is what is published, of which this is the first page: now it can be brought up to date in place.

        In WAL mode it could not: it is taken out of that until the node is to lead, unless programs have it open.
        """
        if self._journal_mode() == "wal":
            self._notes.was_wal = True
            self._notes.write()
            self._journal_mode("DELETE")
        self._left = self._as_published(first)
        self._notes.write(*([self._left.header] if self._left is not None else []))

    def _as_published(self, first: bytes) -> Left | None:
        """How it is left; None: it cannot be brought up to date in place.

        Pages put into a database that somebody wrote since would make one of two moments of it. So its content is
        compared, in a transaction that reads: nobody commits meanwhile. What cannot be compared now, or with nothing,
        is restored as a whole the next time.
        """
        with suppress(sqlite3.Error, StateError, CheckpointError), closing(self._opened("rw")) as db:
            db.execute("BEGIN")
            db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            header = self._header()
            if header is None:
                return None
            if header[MODE] != NOT_WAL:
                if self.live:
                    what = "%s is in WAL mode, and in use: it can only be restored as a whole"
                    logger.warning("database.lags", what, self.path)
                return None
            if self._content_of(db) == self._published_content():
                return Left(header, first[SCHEMA])
            self._known = None
            logger.warning("database.lags", "%s was written by something else, just now", self.path)
        return None

    def _content_of(self, db: sqlite3.Connection) -> str:
        copy = self._empty("copy")
        try:
            self._copy_of(db, copy)
            return digest_of(copy)
        finally:
            discard(copy)

    def _published_content(self) -> str:
        """The digest of what it was restored to, or of what is published, if that is what it is."""
        if self._known is not None and self._known[1]:
            return self._known[1]
        return content_digest(_normal_pieces(self.snapshot(), self.path))

    def loses_track(self) -> None:
        """It is about to be restored: until that is done, nobody knows what it lacks."""
        self._left = None

    def recognise(self) -> None:
        """At the start: if nobody wrote the database since it was left, nothing of it is lost by what replaces it."""
        header = self._header()
        if header is not None and header[MODE] == NOT_WAL and self._notes.knows(header):
            self._known = self.seen(), ""

    def catch_up(self, pages: dict[int, bytes], page_count: int) -> bool:
        """Whether it is what is published now, of which these are the pages that it lacked, and the first one.

        Raises `StateError`: not for now.
        """
        left = self._left
        if left is None:
            return False
        try:
            with explained(self.path), self._translated():
                self._left = catch_up(
                    self.path, left, pages, page_count, header_of=self._header, noting=self._notes.write
                )
        except NotAsLeft:
            self._left = None
            logger.warning(
                "database.lags",
                "%s was written by something else: it has to be restored as a whole",
                self.path,
            )
            return False
        seen = self.seen()
        # What somebody wrote before that look is not known to be published.
        self._known = (seen, "") if self._header() == self._left.header else None
        return True

    @property
    def was_wal(self) -> bool:
        """Whether it was taken out of WAL mode for as long as its node is a standby."""
        return self._notes.was_wal

    def enters_wal(self) -> None:
        """The node is to lead: its program is to have it as it was."""
        if self.was_wal and self._journal_mode("WAL") != "wal":
            logger.warning("database.not_in_wal", "%s could not be put into WAL mode again: it is in use", self.path)

    def forgets(self) -> None:
        """The node leads: what its program does is not what was left."""
        self._left = None
        self._notes.forget()

    def _header(self) -> bytes | None:
        header = self._headers.read("", HEADER_BYTES)
        return header if header is not None and len(header) == HEADER_BYTES else None

    def _journal_mode(self, mode: str = "") -> str:
        with suppress(sqlite3.Error), closing(self._opened("rw")) as db:
            return str(db.execute(f"PRAGMA journal_mode = {mode}" if mode else "PRAGMA journal_mode").fetchone()[0])
        return ""

    def close_reader(self) -> None:
        """The node leads no more."""
        self._reader.close()

    def snapshot(self) -> Iterator[bytes]:
        """What was published, where a node has it: the database may be ahead of that, or behind."""
        return super().snapshot() if self.published_pieces is None else self.published_pieces()

    def _restore(self, pieces: Iterable[Any], swap: Callable[[Path], None]) -> None:
        super()._restore(_normal_pieces(pieces, self.path), swap)


class _Notes:
    """How the database of a standby was left, by its header, in a file of the node's own.

    Two headers: it is being brought from the one to the other. `was_wal`: it was in WAL mode when its node led.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        #: Whether there may be a file: a primary forgets again and again.
        self._is_there = False
        self._headers: list[str] = []
        self.was_wal = False

    def read(self, path: Path) -> None:
        self._path, self._is_there = path, True
        try:
            mode, *self._headers = path.read_text().split()
        except (OSError, ValueError):  # none, or one that a power cut left
            return
        self.was_wal = mode == "wal"

    def knows(self, header: bytes) -> bool:
        return header.hex() in self._headers

    def write(self, *headers: bytes) -> None:
        """What cannot be noted costs a copy too many at the next start."""
        if self._path is not None:
            self._is_there = True
            mode = "wal" if self.was_wal else "other"
            told = " ".join([mode, *(header.hex() for header in headers)])
            with suppress(OSError):
                self._put(self._path, told.ljust(_NOTES_BYTES).encode())

    def _put(self, path: Path, told: bytes) -> None:
        """In one write, over what is there: a kill leaves the one or the other."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, disk.PRIVATE)
        try:
            os.pwrite(descriptor, told, 0)
        finally:
            os.close(descriptor)

    def forget(self) -> None:
        self.was_wal = False
        if self._path is not None and self._is_there:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._is_there = False


def _normal_pieces(pieces: Iterable[Any], path: Path) -> Iterator[bytes]:
    """As `SQLiteState` has them, so that both can be compared."""
    every = iter(pieces)
    for first in every:
        if not isinstance(first, bytes):
            raise StateError(path=path, problem="the group replicates something else than a database")
        yield from chain([normal(first) if first else first], every)
