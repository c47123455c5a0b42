"""A directory becomes what a snapshot says, or a change of files, file by file.

    draw     each content that is not there already goes to a draft in `.replicator/`, to the disk
    keep     what is about to be lost, and is not what was published, goes aside
    write    directories, then files by renames, links, databases; then what is no more is removed; modes at last

Nothing is to be seen of the first step. In the third, somebody who reads finds each file as it was or as it is to be,
whole, and for a moment some of them already and others not yet: what is new before what refers to it in a database, and
what goes away last. `.replicator/restoring` (`drafts.py`) says that this is under way; a directory that has it is no
whole cut.

A change is written where it says, and no other path is looked at (`only`), as long as the rest is known to be what it
was. Whoever calls sees to that.

What is equal already is not touched: files keep their time stamps and whoever has them open. A new one gets the owner
of the directory that it is in, where this process may give it, and one that is replaced keeps its own.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from replicator.errors import StateChanged, StateError
from replicator.format.file_changes import FileChange
from replicator.format.manifest import (
    DATABASE,
    DIRECTORY,
    FILE,
    LINK,
    BadManifest,
    Content,
    Entry,
    contents_in,
    contents_of,
    in_order,
    kept_mode,
)
from replicator.format.manifest import read_manifest as read
from replicator.storage import disk

from ..files import Files
from ..replaced_files import explained
from .contents import Index, pieces_of
from .databases import Databases
from .descent import Descent
from .drafts import Drafts, is_torn
from .folding import Folding
from .kept import Aside, is_kept
from .patterns import SIDE_FILES
from .present import Present
from .tree import Found, Tree

__all__ = ["Known", "Restoring", "known_of"]

#: What was published or restored, by path, as `Entry.identity` has it: it may be lost.
Known = dict[str, tuple[str, str]]

_KINDS = {FILE: "a file", DATABASE: "a database (--with-sqlite)", "": "left out (--exclude)"}


class Restoring:
    """Of one directory. `known`: it is kept up to date. `tell`: is told what was put aside."""

    def __init__(
        self,
        tree: Tree,
        index: Index,
        databases: Databases,
        folding: Folding,
        known: Known,
        tell: Callable[[Path], None],
    ) -> None:
        self._tree = tree
        self._folding = folding
        self._index = index
        self._databases = databases
        self._known = known
        self._tell = tell
        #: How long the last look at the directory took.
        self.looked_s = 0.0

    def restore(self, pieces: Iterable[Any], *, insisting: bool) -> None:
        """Become what `pieces` say. Raises `StateError`; then it is called again."""
        drawn = iter(pieces)
        first = next(drawn, None)
        if first is None:  # nothing was ever published
            return
        with self._refused():
            entries = read(chain([first], drawn))
        self._check(entries)
        with self._drafts(entries, None) as drafts:
            with self._refused():
                for content, mine in contents_in(drawn, entries):
                    if drafts.is_wanted(content):
                        drafts.write(content.digest, mine)
            self._swap(drafts, {entry.path: entry for entry in entries}, entries, None, insisting=insisting)

    def restore_files(self, files: Files, end: Iterable[Any], *, change: FileChange | None, insisting: bool) -> None:
        """Become `files`, of which what is needed is read; `change`: only this differs. Raises as `restore`.

        `end` is drawn before anything is written that shows.
        """
        entries = files.listing.in_order() if change is None else change.entries
        only = None if change is None else {*change.gone, *(entry.path for entry in entries)}
        self._check(entries)
        with self._drafts(entries, only) as drafts:
            for content in contents_of(entries):
                if drafts.is_wanted(content):
                    drafts.write(content.digest, files.content(content))
            for _ in end:
                pass
            self._swap(drafts, files.listing.entries, entries, only, insisting=insisting)

    @contextmanager
    def _drafts(self, entries: list[Entry], only: Collection[str] | None) -> Iterator[Drafts]:
        with explained(self._tree.path):
            disk.make_directory(self._tree.path)
        with self._present(only) as present:
            wanted = Counter(each.digest for each in entries if each.has_content and not present.is_equal(each))
        with Drafts(self._tree.path, wanted) as drafts:
            yield drafts

    def _swap(
        self,
        drafts: Drafts,
        every: Mapping[str, Entry],
        entries: list[Entry],
        only: Collection[str] | None,
        *,
        insisting: bool,
    ) -> None:
        swap = Swap(self._tree, self._databases, drafts, self._folding, self._known, every, insisting=insisting)
        with self._present(only) as present:
            swap.swap(entries, present, self._tell)
        for path in [*self._known] if only is None else only:
            self._known.pop(path, None)
        self._known.update(known_of(entries))

    @contextmanager
    def _present(self, only: Collection[str] | None) -> Iterator[Present]:
        began = time.monotonic()
        with self._tree.descent() as way:
            present = Present(self._tree, way, self._index, self._databases, only)
            self.looked_s = time.monotonic() - began
            yield present

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except BadManifest as bad:
            raise StateError(path=self._tree.path, problem=f"what the group has is not written: {bad}") from None

    def _check(self, entries: list[Entry]) -> None:
        """Whether they are here what they are to the primary."""
        for entry in entries:
            kind = self._tree.kind_of(entry.path)
            if not kind or (entry.has_content and kind != entry.kind):
                here, there = _KINDS[kind], _KINDS.get(entry.kind, "in it")
                problem = f"{entry.path!a} is {there} to the primary, and {here} here: give all nodes the same options"
                raise StateError(path=self._tree.path, problem=problem)


def known_of(entries: Iterable[Entry]) -> Known:
    """What is known of these."""
    return {entry.path: entry.identity for entry in entries if entry.kind != DIRECTORY}


class Swap:
    """The steps after all of it was drawn. `every`: all that is to be there, by path."""

    def __init__(
        self,
        tree: Tree,
        databases: Databases,
        drafts: Drafts,
        folding: Folding,
        known: Known,
        every: Mapping[str, Entry],
        *,
        insisting: bool,
    ) -> None:
        self._tree = tree
        self._databases = databases
        self._drafts = drafts
        self._folding = folding
        self._known = known
        self._every = every
        self._insisting = insisting
        #: Directories in which something was written.
        self._touched: set[str] = set()

    def swap(self, entries: list[Entry], present: Present, tell: Callable[[Path], None]) -> None:
        """Have these entries there, and nothing else of what is `present`. `tell`: is told what was put aside."""
        changed = [entry for entry in entries if not present.is_equal(entry)]
        gone = [path for path in present.found if path not in self._every]
        dressed = [entry for entry in entries if self._is_dressed_otherwise(entry, present)]
        if changed:
            self._check_names()
        if (aside := self._keep(changed, gone, present)) is not None:
            tell(aside)
        if changed or gone or dressed or is_torn(self._tree.path):
            with explained(self._tree.path):
                self._drafts.mark()
                self._write(changed, gone, present)
                self._dress(dressed)
                self._sync()
                self._drafts.unmark()

    def _check_names(self) -> None:
        with explained(self._tree.path):
            two = self._folding.two_that_are_one(self._drafts.descriptor, self._every)
        if two is not None:
            problem = f"{two[0]!a} and {two[1]!a} are one name to its file system, and two to the primary's"
            raise StateError(path=self._tree.path, problem=problem)

    def _is_dressed_otherwise(self, entry: Entry, present: Present) -> bool:
        found = present.found.get(entry.path)
        return found is not None and entry.kind != LINK and kept_mode(entry.kind, found.mode) != entry.mode

    # --- what is about to be lost ---

    def _keep(self, changed: list[Entry], gone: list[str], present: Present) -> Path | None:
        lost = {entry.path for entry in changed if entry.path in present.found} | set(gone)
        aside = Aside(self._tree, self._databases)
        with self._tree.descent() as way:
            for path in sorted(lost, key=in_order):
                found = present.found[path]
                if found.kind == DIRECTORY:
                    if path.rpartition("/")[0] not in lost:
                        self._keep_left_out(way, path, present, aside)
                elif self._is_to_be_kept(path, present.identity(path)):
                    aside.keep(way, path, found)
        return aside.end()

    def _is_to_be_kept(self, path: str, identity: tuple[str, str]) -> bool:
        return self._known.get(path) != identity and not is_kept(self._tree.path, path, identity)

    def _keep_left_out(self, way: Descent, directory: str, present: Present, aside: Aside) -> None:
        """What was left out of the directory until now goes with it."""
        for path, found in Tree(self._tree.path).scan(directory).items():
            # What was looked at is kept by itself, or need not be.
            looked_at = {path, *(path.removesuffix(end) for end in SIDE_FILES)}
            if found.kind != DIRECTORY and not looked_at & present.found.keys():
                aside.keep(way, path, found)

    # --- writing ---

    def _write(self, changed: list[Entry], gone: list[str], present: Present) -> None:
        """In three passes: in none of them does a directory take the place of another one."""
        in_the_way = self._in_the_way(changed, gone, present)
        with self._tree.descent() as way:
            for path in in_the_way:
                self._remove(way, path, present.found[path])
        with self._tree.descent() as way:
            # A database last: what it refers to is there by then.
            for kind in (DIRECTORY, FILE, LINK, DATABASE):
                for entry in changed:
                    if entry.kind == kind:
                        with explained(self._tree.path, entry.path):
                            self._put(way, entry)
                        self._known[entry.path] = entry.identity
        with self._tree.descent() as way:
            for path in sorted({*gone} - {*in_the_way}, key=in_order, reverse=True):
                self._remove(way, path, present.found[path])

    def _in_the_way(self, changed: list[Entry], gone: list[str], present: Present) -> list[str]:
        """What has to be removed before anything can be put there, from below."""
        there = [entry for entry in changed if entry.path in present.found]
        turned = {each.path for each in there if DIRECTORY in (each.kind, present.found[each.path].kind)}
        if changed and gone:
            come = (entry.path for entry in changed)
            turned |= self._folding.written_otherwise(self._drafts.descriptor, gone, come)
        found: dict[str, None] = {}
        for path in sorted([*turned, *gone], key=in_order) if turned else ():
            if path in turned or path.rpartition("/")[0] in found:
                found[path] = None
        return [*reversed(found)]

    def _above(self, way: Descent, path: str) -> tuple[int, str]:
        """The directory that a path is in, to be written to, and the name there."""
        above, _, name = path.rpartition("/")
        directory = way.directory(above)
        if above not in self._touched and os.fstat(directory).st_mode & 0o300 != 0o300:
            os.fchmod(directory, 0o700)
        self._touched.add(above)
        return directory, name

    def _remove(self, way: Descent, path: str, found: Found) -> None:
        with explained(self._tree.path, path), suppress(FileNotFoundError, NotADirectoryError):
            directory, name = self._above(way, path)
            if found.kind == DIRECTORY:
                shutil.rmtree(name, dir_fd=directory)
                return
            for end in ("", *SIDE_FILES) if found.kind == DATABASE else ("",):
                with suppress(FileNotFoundError):
                    os.unlink(name + end, dir_fd=directory)

    def _put(self, way: Descent, entry: Entry) -> None:
        directory, name = self._above(way, entry.path)
        if entry.kind == DIRECTORY:
            _make_way(directory, name)
            os.mkdir(name, 0o700, dir_fd=directory)
            self._touched.add(entry.path)
            self._own(way, entry.path, os.fstat(directory))
        elif entry.kind == LINK:
            self._replace(self._drafts.link(entry.target), directory, name)
        elif entry.kind == FILE:
            self._put_file(entry, directory, name)
        else:
            self._put_database(way, entry, directory, name)

    def _replace(self, draft: str, directory: int, name: str) -> None:
        os.replace(draft, name, src_dir_fd=self._drafts.descriptor, dst_dir_fd=directory)

    def _draft(self, entry: Entry) -> tuple[str, int]:
        draft = self._drafts.take(Content(entry.digest, entry.size))
        if draft is None:  # it was there when the pieces were drawn
            raise StateChanged(path=self._tree.path / entry.path)
        return draft

    def _put_file(self, entry: Entry, directory: int, name: str) -> None:
        draft, descriptor = self._draft(entry)
        try:
            disk.take_after(descriptor, _like(directory, name))
            os.fchmod(descriptor, entry.mode)
            disk.sync_descriptor(descriptor)
        finally:
            os.close(descriptor)
        self._replace(draft, directory, name)

    def _put_database(self, way: Descent, entry: Entry, directory: int, name: str) -> None:
        _make_way(directory, name)  # SQLite would follow a link
        like = _like(directory, name)
        _, descriptor = self._draft(entry)
        try:
            self._databases.put(entry.path, pieces_of(descriptor), insisting=self._insisting)
        finally:
            os.close(descriptor)
        self._own(way, entry.path, like)
        self._set_mode(way, entry)

    def _own(self, way: Descent, path: str, like: os.stat_result) -> None:
        descriptor = way.any(path)
        try:
            with suppress(PermissionError):
                os.fchown(descriptor, like.st_uid, like.st_gid)
        finally:
            os.close(descriptor)

    def _dress(self, dressed: list[Entry]) -> None:
        """Modes, those of directories from below: one may be closed to those who write."""
        above = (self._every[path] for path in self._touched if path in self._every)
        touched = [entry for entry in above if entry.kind == DIRECTORY]
        every = {entry.path: entry for entry in (*dressed, *touched)}
        with self._tree.descent() as way:
            for path in sorted(every, key=in_order, reverse=True):
                self._set_mode(way, every[path])

    def _set_mode(self, way: Descent, entry: Entry) -> None:
        descriptor = way.any(entry.path)
        try:
            os.fchmod(descriptor, entry.mode)
        finally:
            os.close(descriptor)

    def _sync(self) -> None:
        with self._tree.descent() as way:
            for path in sorted(self._touched, key=in_order):
                with suppress(FileNotFoundError, NotADirectoryError):
                    disk.sync_descriptor(way.directory(path))


def _like(directory: int, name: str) -> os.stat_result:
    """After whom a file takes: the one whose place it takes, or else the directory that it is in."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return os.fstat(directory)


def _make_way(directory: int, name: str) -> None:
    """Remove what is neither a file nor a directory: a link that is not ours, a socket."""
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            os.unlink(name, dir_fd=directory)
