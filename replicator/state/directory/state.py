"""A directory, whatever is in it, as a state that is replicated whole: files, modes, links in it, directories.

On the primary any program writes it; `Node.publish` sends what changed. On a standby it becomes what was published, and
nobody else should write it.

**Read** as a cut of one moment (`cut.py`), with the databases that are named, by SQLite's backup. What a file system
says of a file tells whether it changed (`contents.py`); what looks the same is not read to see that.

**Written** file by file, what is new first (`restoring.py`). Whoever reads a standby while a publication is written
sees whole files, some of them new already. A node that leads has a whole cut: it does not lead before the last file is
written, and a process that was killed halfway does not take the directory for what its program left.

**Nothing is lost silently**, as in `state/file.py`: what is about to be replaced or removed, and is neither what was
restored nor what was published, is kept in the directory `PATH.replaced-<UTC time>`, under the path that it had.

Not replicated: owners, times, extended attributes; sockets, fifos and devices, and links that lead out of the directory
(`state.skipped` names them). Hard links are files that have the same content. An empty directory is never published:
it is one whose file system is not mounted, and all nodes would remove what they have. Nor is one that was mounted once,
and is not (`mount.py`).
"""

from __future__ import annotations

import marshal
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from replicator.errors import StateError
from replicator.format.file_changes import FileChange
from replicator.format.manifest import DATABASE, DIRECTORY, Entry

from ..file_stamps import Watch
from ..files import Files
from ..replaced_files import Kept, explained, survived
from .contents import Index
from .cut import Cut, Cutting
from .databases import Databases
from .drafts import is_torn
from .folding import Folding, is_written_otherwise
from .mount import MountPoint
from .patterns import Patterns
from .restoring import Known, Restoring, known_of
from .tree import Found, Tree

__all__ = ["DirectoryState"]

#: Longer than the fine ticks of the clocks by which file systems stamp.
STILL_S = 0.05

#: How long a directory is waited for that does not hold still, and a database that is in use.
PATIENCE_S = 5.0
BUSY_S = 1.0

#: On a standby, all of it is looked at again after so many times as long as a look takes, and so many seconds: if
#: somebody wrote there, it is made what was published by then. In between only what changes is looked at.
LOOK_PAUSE_TIMES = 100
LOOK_PAUSE_S = 10.0


@contextmanager
def _nobody_is_told() -> Iterator[bool]:
    yield False


class DirectoryState:
    """The directory at `path`. On a standby it need not be there yet; it is made for its owner alone.

    `exclude`: globs of what is left out, and on a standby left alone. `with_sqlite`: globs of the SQLite databases in
    it. The same on all nodes. `still_s`: how long nobody may have written before it is read. `stage`: a directory for
    copies that are read once; None: that for temporary files. Raises `ConfigError`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        exclude: Iterable[str] = (),
        with_sqlite: Iterable[str] = (),
        still_s: float = STILL_S,
        stage: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        excluded, named = Patterns(exclude, setting="exclude"), Patterns(with_sqlite, setting="with-sqlite")
        real, stage = Path(os.path.realpath(path)), None if stage is None else Path(stage)
        self._tree = Tree(real, excluded=excluded, databases=named)
        self._databases = Databases(real, busy_s=BUSY_S, stage=stage)
        self._mount = MountPoint(real, stage)
        self._index = Index()
        self._folding = Folding()
        self._cutting = Cutting(
            self._tree, self._index, self._databases, still_s=still_s, patience_s=PATIENCE_S, stage=stage
        )
        self._watch = Watch()
        #: What may be replaced or removed, because it was published or put aside.
        self._known: Known = {}
        #: The entries that the last cut had, and those that were published, until somebody asks for them.
        self._drawn: Sequence[Entry] = ()
        self._published: Sequence[Entry] | None = None
        #: The digest of the files that it was made, if nothing else can have happened to it; and until when no more is
        #: looked at than what changes.
        self._holds = ""
        self._look_again_at = 0.0
        #: Which directory that was.
        self._top: tuple[int, int] | None = None
        #: Entered while a cut is taken; whether the program is told to wait then.
        self.quiesced: Callable[[], AbstractContextManager[bool]] = _nobody_is_told
        #: What is put aside for it.
        self.kept = Kept(self.path)

    def seen(self) -> object:
        """Something that is another one once something was written. Raises `StateError` if it cannot be said."""
        found = dict(sorted(self._tree.scan().items()))
        self._check(has_entries=bool(found))
        files = [each.stat for each in found.values() if each.kind not in (DIRECTORY, DATABASE)]
        # Of the newest one alone: older ones have no stamp that another write could leave.
        newest = max(files, key=lambda each: each.st_ctime_ns, default=None)
        databases = self._databases.seen(path for path, each in found.items() if each.kind == DATABASE)
        # By a form of marshal in which equal values are equal bytes: those of `repr` take ten times as long.
        return self._watch.look([newest], (marshal.dumps([*map(_look, found.items())], 2),)), databases

    def _check(self, *, has_entries: bool) -> None:
        self._mount.check()
        if is_torn(self.path):
            raise StateError(path=self.path, problem="a restore of it broke off: it is to be restored again")
        if not has_entries:
            problem = "it is empty, and that is not published: if it is meant to be so, put a file into it"
            raise StateError(path=self.path, problem=problem)

    # --- what a node asks for ---

    def survived(self) -> bool:
        """Whether it is there, with something in it and all that was mounted, and is what its program left."""
        if not survived(self.path) or is_torn(self.path) or self._mount.is_lost:
            return False
        try:
            return bool(self._tree.scan())
        except StateError:  # something is there
            return True

    def published(self) -> None:
        """What the last snapshot gave is published."""
        self._published, self.kept.has_published, self.kept.is_new = self._drawn, True, False
        self._holds = ""

    def snapshot(self) -> Iterator[bytes]:
        """The directory as it is when the first piece is drawn. They end with `StateChanged` if that cannot be kept."""
        with explained(self.path):
            self.path.stat()
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        with self.cut() as cut:
            yield from cut.pieces()

    @contextmanager
    def cut(self) -> Iterator[Cut]:
        """See `FilesState`."""
        with explained(self.path):
            self.path.stat()
        self._check(has_entries=True)
        cut = self._cutting.take(self.quiesced)
        try:
            self._check(has_entries=bool(cut.entries))
            yield cut
        finally:
            cut.close()
        self._drawn = cut.entries

    def restore(self, pieces: Iterable[Any]) -> None:
        """Become what `pieces` say. Raises `StateError`, `StateInUse`; it is called again then."""
        self._restore(pieces, insisting=False)

    def restore_in_use(self, pieces: Iterable[Any]) -> None:
        """The same, also if a program does not stop reading a database in it: it goes on reading what was there."""
        self._restore(pieces, insisting=True)

    def _restore(self, pieces: Iterable[Any], *, insisting: bool) -> None:
        self._restoring().restore(pieces, insisting=insisting)
        self.kept.has_published = self.kept.is_new = False

    def _restoring(self) -> Restoring:
        self._mount.check()
        self._holds = ""  # whatever becomes of it
        if self._published is not None:
            self._known, self._published = known_of(self._published), None
        return Restoring(self._tree, self._index, self._databases, self._folding, self._known, self.kept.keep)

    def restore_files(
        self, files: Files, end: Iterable[Any], *, change: FileChange | None = None, insisting: bool = False
    ) -> None:
        """See `FilesState`."""
        only = change if change is not None and self._is_what_starts(change) else None
        restoring = self._restoring()
        restoring.restore_files(files, end, change=only, insisting=insisting)
        self.kept.has_published = self.kept.is_new = False
        self._holds = files.listing.digest
        if only is None:
            self._look_again_at = time.monotonic() + max(LOOK_PAUSE_TIMES * restoring.looked_s, LOOK_PAUSE_S)
            self._top = self._top_now()

    def _is_what_starts(self, change: FileChange) -> bool:
        """Whether it needs no look to say that it is what this change starts from."""
        is_known = self._holds == change.old_digest and time.monotonic() < self._look_again_at
        if not is_known or is_written_otherwise(change.gone, (entry.path for entry in change.entries)):
            return False
        return self._top is not None and self._top == self._top_now() and not is_torn(self.path)

    def _top_now(self) -> tuple[int, int] | None:
        try:
            about = os.stat(self.path)
        except OSError:
            return None
        return about.st_dev, about.st_ino


def _look(item: tuple[str, Found]) -> tuple[object, ...]:
    """By what a file, a directory or a database is told from what was there before."""
    path, (kind, stat, target) = item
    if kind in (DIRECTORY, DATABASE):
        return path, kind, stat.st_mode, stat.st_ino
    return path, kind, stat.st_mode, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, target
