"""An SQLite database as a state that is replicated by pages: what a publication costs goes by what changed.

On the primary a process of its own reads what programs did to it (`pages/capture.py`), and a publication is a change of
pages (`format/pages.py`). Every node makes these changes in a database of its own, the shadow (`pages/shadow.py`).

At `path`, a standby has what was published when it became one, or, if it is `live`, what is published. Programs may read
that. It becomes what is published by then once the node is to lead, before it does: in place (`pages/live.py`) if nobody
else wrote it and it is not in WAL mode; otherwise as in `sqlite.py`, by SQLite's own backup, in one transaction, and what
was not published is put aside. Journal modes are every database's own business.

**Not for** a database that a program has for itself (`PRAGMA locking_mode = EXCLUSIVE`), and groups with a key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from replicator.errors import StateError
from replicator.pages.capture import Base
from replicator.pages.capture_process import Reader
from replicator.pages.live import HEADER_BYTES, SCHEMA, Left, NotAsLeft, catch_up
from replicator.storage import disk
from replicator.storage.published_pages import ALL_OF_IT
from replicator.storage.shadow import Shadow

from ..format.pages import PageChange
from ..runtime.event_log import EventLogger
from .replaced_files import explained
from .sqlite import BUSY_S, SQLiteState, normal

__all__ = ["SQLitePages"]

logger = EventLogger(__name__)

#: Where all of a database has to be read to see what changed, it is read for this share of the time: outside of WAL
#: mode nobody can commit meanwhile.
SHARE_READ = 0.02


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
        self._reader = Reader(self.path)
        self._rests_until = 0.0
        #: The pieces of what was published, once a node has it.
        self.published_pieces: Callable[[], Iterator[Any]] | None = None

    @property
    def rests(self) -> bool:
        """Whether it was read so long just now that programs have it for themselves for a while."""
        return time.monotonic() < self._rests_until

    def look(self, shadow: Shadow) -> PageChange | str | None:
        """See `Source`."""
        seen = self.seen()
        base = Base(shadow.path, shadow.inode, shadow.page_size, shadow.count, shadow.digest)
        found = self._reader.look(shadow.path, base)
        self._rests_until = time.monotonic() + self._reader.held_s / SHARE_READ
        self._drawn = seen, shadow_text(found, base)
        if isinstance(found, str):
            logger.info("publish.whole", "%s is published as a whole: %s", self.path, found)
            return ALL_OF_IT
        return found

    def draw(self, draft: Path) -> None:
        """See `Source`."""
        seen = self.seen()
        self._reader.draw(draft)
        self._drawn = seen, str(seen)

    def is_published(self, first: bytes) -> None:
        """At `path` is what is published, of which this is the first page: from here on it can be brought up to date."""
        header = self._headers.read("", HEADER_BYTES)
        self._left = Left(header, first[SCHEMA]) if header is not None and len(header) == HEADER_BYTES else None

    def catch_up(self, pages: dict[int, bytes], page_count: int) -> bool:
        """Whether it is what is published now, of which these are the pages that it lacked, and the first one.

        Raises `StateError`: not for now.
        """
        if self._left is None:
            return False
        try:
            with explained(self.path), self._translated():
                self._left = catch_up(
                    self.path, self._left, pages, page_count, header_of=lambda: self._headers.read("", HEADER_BYTES)
                )
        except NotAsLeft:
            self._left = None
            return False
        self._known = self.seen(), ""
        return True

    def close_reader(self) -> None:
        """The node leads no more."""
        self._reader.close()

    def snapshot(self) -> Iterator[bytes]:
        """What was published, where a node has it: the database may be ahead of that, or behind."""
        return super().snapshot() if self.published_pieces is None else self.published_pieces()

    def _restore(self, pieces: Iterable[Any], swap: Callable[[Path], None]) -> None:
        super()._restore(_normal_pieces(pieces, self.path), swap)


def shadow_text(found: PageChange | str | None, base: Base) -> str:
    """In the place of a digest: which database this is."""
    return f"pages {found.digest if isinstance(found, PageChange) else base.digest}"


def _normal_pieces(pieces: Iterable[Any], path: Path) -> Iterator[bytes]:
    """As `SQLiteState` has them, so that both can be compared."""
    every = iter(pieces)
    for first in every:
        if not isinstance(first, bytes):
            raise StateError(path=path, problem="the group replicates something else than a database")
        yield from chain([normal(first) if first else first], every)
