"""A consistent cut of a directory that programs write: what it was at one moment, all of it.

    scan -> read what changed -> pin the databases -> scan again

If both scans are the same, nothing was written between them, and what was read and pinned there is of any moment in
between. Otherwise it is done again, with pauses that grow, and for a limited time: then a file that never holds still
is named. Nobody may have written for `still_s` before the first scan, since a program that writes two files that belong
together should have done with both; a program that is told to wait (`quiesced`) is not waited for.

What changed lately is copied while it is read, so it may change again while the cut is drawn. What did not is read when
its turn comes, and the cut breaks off (`StateChanged`) if it looks different by then. That file has changed lately when
the next cut is taken, and is copied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from replicator.errors import StateChanged, StateError
from replicator.format.manifest import (
    DATABASE,
    DIRECTORY,
    FILE,
    Content,
    Entry,
    contents_of,
    in_order,
    kept_mode,
    manifest_pieces,
)
from replicator.runtime.event_log import EventLogger

from ..file_stamps import Stamp
from ..replaced_files import explained
from .contents import Index, Stage, pieces_of, read_from
from .databases import Copied, Databases
from .descent import Descent
from .tree import Found, Tree

__all__ = ["Cut", "Cutting", "entry_of"]

logger = EventLogger(__name__)

#: The first pause between two attempts, and the longest.
PAUSE_S = 0.02
PAUSE_S_MAX = 0.5

#: What an SQLite database begins with.
_SQLITE = b"SQLite format 3\0"

_RESTLESS = (
    "it was written to again and again for {patience_s:g} s: --exclude it, name it with --with-sqlite if it is a "
    "database, or have --on-quiesce stop its program for a moment"
)


def _looks_like(one: Found, other: Found) -> bool:
    """A database looks the same, whoever writes to it."""
    if (one.kind, one.target, one.stat.st_mode) != (other.kind, other.target, other.stat.st_mode):
        return False
    if one.kind in (DIRECTORY, DATABASE):
        return one.stat.st_ino == other.stat.st_ino and one.stat.st_dev == other.stat.st_dev
    return Stamp.of(one.stat).fits(other.stat)


def entry_of(path: str, found: Found, digest: str = "", size: int = 0) -> Entry:
    """As the manifest has it."""
    return Entry(found.kind, path, kept_mode(found.kind, found.mode), size, digest, found.target)


class Cut:
    """What a directory was at one moment. `pieces`, once; `close` it then."""

    def __init__(
        self, tree: Tree, entries: list[Entry], found: dict[str, Found], stage: Stage, databases: dict[str, Copied]
    ) -> None:
        self._tree = tree
        self.entries = entries
        self._found = found
        self._stage = stage
        self._databases = {each.digest: each for each in databases.values()}
        self._copies = list(databases.values())

    def pieces(self) -> Iterator[bytes]:
        """As `format/manifest.py` says. Raises `StateChanged`."""
        yield from manifest_pieces(self.entries)
        for _, pieces in self.contents(contents_of(self.entries)):
            yield from pieces

    def contents(self, wanted: Sequence[Content]) -> Iterator[tuple[Content, Iterator[bytes]]]:
        """These contents, and the pieces of each, to be drawn. Raises `StateChanged`."""
        left = {digest for digest, _ in wanted if digest not in self._databases and digest not in self._stage}
        #: The files that were not copied.
        paths = {each.digest: each.path for each in self.entries if each.kind == FILE and each.digest in left}
        with self._tree.descent() as way:
            for content in wanted:
                yield content, self._content(way, content.digest, paths)

    def _content(self, way: Descent, digest: str, paths: dict[str, str]) -> Iterator[bytes]:
        if digest in self._databases:
            return self._databases[digest].pieces()
        if digest in self._stage:
            return self._stage.pieces(digest)
        path = paths[digest]
        return self._read(way, path, Stamp.of(self._found[path].stat))

    def _read(self, way: Descent, path: str, stamp: Stamp) -> Iterator[bytes]:
        with explained(self._tree.path, path):
            try:
                descriptor = way.open(path)
            except (FileNotFoundError, NotADirectoryError):
                raise self._changed(path) from None
        try:
            with explained(self._tree.path, path):
                if _stamp_of(descriptor) != stamp:
                    raise self._changed(path)
                yield from pieces_of(descriptor)
                if _stamp_of(descriptor) != stamp:
                    raise self._changed(path)
        finally:
            os.close(descriptor)

    def _changed(self, path: str) -> StateChanged:
        return StateChanged(path=self._tree.path / path)

    def close(self) -> None:
        """It is drawn, or not wanted."""
        for copy in self._copies:
            copy.close()


def _stamp_of(descriptor: int) -> Stamp:
    return Stamp.of(os.fstat(descriptor))


class Cutting:
    """Takes cuts. `stage`: a directory for copies; `index`: what is known of contents."""

    def __init__(
        self, tree: Tree, index: Index, databases: Databases, *, still_s: float, patience_s: float, stage: Path | None
    ) -> None:
        self._tree = tree
        self._index = index
        self._databases = databases
        self._still_s = still_s
        self._patience_s = patience_s
        self._stage = stage
        self._told: set[str] = set()
        #: The files of the cut before, by path.
        self._last: dict[str, Entry] = {}

    def take(self, quiesced: Callable[[], AbstractContextManager[bool]]) -> Cut:
        """Raises `StateError`, with the name of a file that never holds still."""
        deadline, pause_s = time.monotonic() + self._patience_s, PAUSE_S
        stage = Stage(self._stage)
        with quiesced() as nobody_writes:
            found = self._tree.scan()
            while True:
                restless = "" if nobody_writes else self._waited_for(found)
                if not restless:
                    taken = self._taken(found, stage)
                    if isinstance(taken, Cut):
                        return taken
                    restless = taken
                if time.monotonic() > deadline:
                    problem = _RESTLESS.format(patience_s=self._patience_s)
                    raise StateError(path=self._tree.path / restless, problem=problem)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
                found = self._tree.scan()

    def _waited_for(self, found: dict[str, Found]) -> str:
        """Wait until nobody has written for `still_s`. What was written meanwhile; empty: nothing."""
        newest_ns = max((_written_ns(each) for each in found.values()), default=0)
        if time.time() - newest_ns / 1e9 >= self._still_s:
            return ""
        # Not by its stamp alone: a file server may be ahead of this machine.
        time.sleep(self._still_s)
        return _different(found, self._tree.scan())

    def _taken(self, found: dict[str, Found], stage: Stage) -> Cut | str:
        """A cut, or which file is in the way of it."""
        read = self._read(found, stage)
        if isinstance(read, str):
            return read
        paths = sorted(path for path, each in found.items() if each.kind == DATABASE)
        with self._databases.pinned(paths) as pinned:
            if restless := _different(found, self._tree.scan()):
                return restless
            if pinned is None:
                return paths[0]
            copies = pinned.copies()
        return self._put_together(found, read, stage, copies)

    def _read(self, found: dict[str, Found], stage: Stage) -> dict[str, str] | str:
        """The digests of all files; of those that look new, a copy. Or which of them changed meanwhile."""
        digests: dict[str, str] = {}
        with self._tree.descent() as way:
            for path, each in found.items():
                if each.kind != FILE:
                    continue
                digest = self._index.get(path, each.stat)
                if digest is None and (digest := self._read_one(way, path, each.stat, stage)) is None:
                    return path
                digests[path] = digest
        self._index.keep_only(found)
        return digests

    def _read_one(self, way: Descent, path: str, about: os.stat_result, stage: Stage) -> str | None:
        with explained(self._tree.path, path), suppress(FileNotFoundError, NotADirectoryError):
            descriptor = way.open(path)
            try:
                self._look_for_database(descriptor, path)
                read = read_from(descriptor, stage)
            finally:
                os.close(descriptor)
            if read is not None and read.stamp == Stamp.of(about):
                self._index.note(path, read)
                return read.digest
        return None

    def _look_for_database(self, descriptor: int, path: str) -> None:
        if path not in self._told and os.pread(descriptor, len(_SQLITE), 0) == _SQLITE:
            self._told.add(path)
            logger.warning(
                "state.database_as_file",
                "%s is an SQLite database, and is copied as a file: name it with --with-sqlite",
                self._tree.path / path,
            )

    def _put_together(
        self, found: dict[str, Found], digests: dict[str, str], stage: Stage, copies: dict[str, Copied]
    ) -> Cut:
        entries = []
        for path, each in sorted(found.items(), key=lambda item: in_order(item[0])):
            if each.kind == FILE:
                entries.append(self._file(path, each, digests[path]))
            elif each.kind == DATABASE:
                entries.append(entry_of(path, each, copies[path].digest, copies[path].size))
            else:
                entries.append(entry_of(path, each))
        self._last = {entry.path: entry for entry in entries if entry.kind == FILE}
        return Cut(self._tree, entries, found, stage, copies)

    def _file(self, path: str, each: Found, digest: str) -> Entry:
        """The entry of the cut before, if it is that still: whoever compares the two has less to do."""
        last = self._last.get(path)
        if last is not None and last.digest == digest and last.mode == kept_mode(FILE, each.mode):
            return last
        return entry_of(path, each, digest, each.stat.st_size)


def _written_ns(found: Found) -> int:
    return 0 if found.kind in (DIRECTORY, DATABASE) else found.stat.st_ctime_ns


def _different(before: dict[str, Found], now: dict[str, Found]) -> str:
    """A path that is not what it was; empty: there is none."""
    others = [path for path, each in now.items() if path not in before or not _looks_like(before[path], each)]
    others += [path for path in before if path not in now]
    return min(others, default="")
