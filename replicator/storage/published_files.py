"""What was published of a directory, file by file: the counterpart of `payload.py`.

    data_dir/payload        the contents of its files, each once (`pack.py`)
    data_dir/payload.new-N  one that is being written

What is in the directory is in memory, as a `Listing`. A publication is a change of files (`format/file_changes.py`):
the primary reads what is new to this node and nothing else, and a standby adds what the change carries. Both keep what
was published, since programs write the directory of a primary, and somebody may write that of a standby.

As every payload this is a cache, and the checkpoint is what counts. It is made anew at each start, from the newest
snapshot and the changes since: so nobody has to tell which of its contents are whole after a kill.

A patch of bytes (`format/patch.py`), as nodes of before this form publish it, is taken, too. It starts from the digest
of the bytes of a snapshot, for which all of it is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..errors import ChangeTooLarge, CheckpointError, CorruptRecord, SnapshotRefused, StateChanged, StateError
from ..format.codec import SnapshotDecoder, digest_of_pieces
from ..format.file_changes import MAGIC, FileChange, Listing
from ..format.frames import joined, pieces_of
from ..format.manifest import BadManifest, Content, Entry, contents_in, contents_of, manifest_pieces, read_manifest
from ..format.patch import EMPTY_DIGEST, Maker, PatchHead, rebuild
from ..format.records import ChangeRecord
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX, Weight
from ..runtime.event_log import EventLogger
from .checkpoint_file import Payload
from .disk_errors import unusable
from .pack import Pack
from .payload import DRAWN_TIMES_MAX, Made, Whole
from .payload_bytes import OfContents, payload_of
from .shadow import PiecesDigest

__all__ = ["Cut", "FilesAtRest", "PublishedFiles", "Source", "View"]

logger = EventLogger(__name__)


class Cut(Protocol):
    """A directory at one moment."""

    @property
    def entries(self) -> Sequence[Entry]:
        """What is in it, in order."""

    def contents(self, wanted: Sequence[Content]) -> Iterator[tuple[Content, Iterator[bytes]]]:
        """These of its contents, in its order, and the pieces of each, to be drawn. Raises `StateChanged`."""


class Source(Protocol):
    """What reads the directory of the program."""

    def cut(self) -> AbstractContextManager[Cut]:
        """It as it is now. Raises `StateError`."""


class View(NamedTuple):
    """A directory that was published. It stays what it is."""

    listing: Listing
    pack: Pack

    def content(self, content: Content) -> Iterator[bytes]:
        """The pieces of a content that is in it."""
        return self.pack.pieces(content)

    def pieces(self) -> Iterator[bytes]:
        """Those of a snapshot."""
        entries = self.listing.in_order()
        yield from manifest_pieces(entries)
        for content in contents_of(entries):
            yield from self.pack.pieces(content)


class _Making(NamedTuple):
    """What is about to be published. `told`: its digests."""

    view: View
    told: set[str]


class PublishedFiles(Whole):
    """See `Whole`. `source`: of the program's directory, on a node that leads."""

    #: What it loads was checked by this node when it came.
    is_of_this_node = True

    def __init__(
        self, directory: Path, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX, is_private: bool = False
    ) -> None:
        super().__init__(directory, snapshot_bytes_max=snapshot_bytes_max, is_private=is_private)
        try:
            self.path.unlink(missing_ok=True)  # of the boot before
        except OSError as error:
            raise unusable(self.path, error) from error
        self.source: Source | None = None
        self._pack: Pack | None = None
        #: What was published, and what comes next.
        self._view: View | None = None
        self._comes: View | None = None
        #: From what to what a patch goes that was drawn, until it is adopted; None: it is none by files.
        self.change: FileChange | None = None
        self._making: _Making | None = None
        #: What is drawn is that of a checkpoint or an archive, and nobody has it yet.
        self._is_loading = False
        #: Whoever draws into the pack; meanwhile no other one takes its place.
        self._drawing = 0
        self._lock = threading.Lock()

    @property
    def digest(self) -> str:
        return self._view.listing.digest if self._view is not None else EMPTY_DIGEST

    @property
    def is_published(self) -> bool:
        return self._view is not None

    @property
    def now(self) -> View | None:
        """What was published; None: nothing was."""
        return self._view

    @property
    def coming(self) -> View | None:
        """What was drawn, and is adopted next."""
        return self._comes

    def pieces(self) -> Iterator[Any]:
        return self._view.pieces() if self._view is not None else iter(())

    @contextmanager
    def _packing(self) -> Iterator[Pack]:
        """The pack, to be added to. What is too much of it is left behind before: nobody waits for that who reads."""
        with self._lock:
            if self._pack is None:
                self._pack = self._new_pack()
            # A disk that is full, or did not keep what was written to it: another time, as what is published is there.
            with suppress(CheckpointError, CorruptRecord):
                self._leave_waste_behind()
            self._drawing += 1
            pack = self._pack
        try:
            yield pack
        finally:
            with self._lock:
                self._drawing -= 1

    def _new_pack(self) -> Pack:
        pack = Pack(self._new_path(), is_private=self._is_private)
        self._named(pack)
        return pack

    def _new_path(self) -> Path:
        return self.path.with_name(f"payload.new-{next(self._numbers)}")

    def _named(self, pack: Pack) -> None:
        try:
            pack.becomes(self.path)
        except CheckpointError as problem:
            # It is here, and can be read.
            logger.warning("payload.misplaced", "%s", problem)

    # --- at the start ---

    def load(
        self, base: Payload | None, bodies: Callable[[], Iterable[bytes]], changes: Callable[[], Iterable[ChangeRecord]]
    ) -> None:
        self._view, self._is_loading = None, True
        try:
            if base is not None:
                self._drawn(self.received(base.codec, base.digest, bodies(), id_=str(base.as_of.id)))
            for patch in self._patches(changes()):
                self._drawn(self.rebuilt(patch, id_="payload"))
        finally:
            self._is_loading = False

    # --- what comes ---

    def received(self, codec: str, digest: str, bodies: Iterable[bytes], *, id_: str) -> Generator[Any, None, None]:
        self.gatherer.forget()
        pieces = SnapshotDecoder(codec, digest, id_=id_, most=self.snapshot_bytes_max).pieces(bodies)
        yield from self._taken(pieces, id_)

    def _taken(self, pieces: Iterator[Any], id_: str) -> Generator[bytes, None, None]:
        """Take the pieces of a snapshot. One is given for each content; who draws them may give up in between."""
        self._comes = self.change = None
        first = next(pieces, None)
        if first is None:  # nothing was ever published
            return
        with self._packing() as pack, _damaged(id_, "its snapshot"):
            entries = read_manifest(chain([first], pieces))
            listing = Listing.of(entries)
            self._check_size(listing.size, id_)
            for content, mine in contents_in(pieces, entries):
                # This node checked its own contents when they came, and the digest of all of it is checked now.
                pack.put(content, mine, id_=id_, is_checked=self._is_loading and self.is_of_this_node)
                yield b""
            self._comes = View(listing, pack)

    def _check_size(self, size: int, id_: str) -> None:
        """No more is drawn than a snapshot may weigh, whatever is said of it."""
        if size > self.snapshot_bytes_max:
            problem = f"its directory has {size} bytes, and this node accepts {self.snapshot_bytes_max}"
            raise SnapshotRefused(id=id_, problem=f"{problem} (snapshot_bytes_max)")

    def rebuilt(self, patch: bytes, *, id_: str) -> Generator[Any, None, None]:
        """See `_taken` for what it gives."""
        if patch[:4] != MAGIC:
            yield from self._rebuilt_of_bytes(patch, id_)
            return
        self._comes = self.change = None
        change, old = FileChange.of(patch, id_=id_), self._view.listing if self._view is not None else Listing()
        if change.old_digest != old.digest:
            raise CorruptRecord(id=id_, problem="its patch starts from another directory than the one here")
        with self._packing() as pack:  # which tidies by what was published, so before that moves
            wanted, bases = old.new_contents(change.entries), old.bases(change.entries)
            with _damaged(id_, "its change of files"):
                listing = old if self._is_loading else old.copy()
                listing.become(change.gone, change.entries)
            if listing.digest != change.digest:
                raise CorruptRecord(id=id_, problem="its patch does not yield what it declares: it was damaged")
            self._check_size(listing.weight, id_)
            yield from self._new_contents(pack, wanted, bases, change, id_)
            self._comes, self.change = View(listing, pack), change

    def _new_contents(
        self, pack: Pack, wanted: list[Content], told_from: list[Content], change: FileChange, id_: str
    ) -> Iterator[bytes]:
        size = sum(content.size for content in wanted)
        if not wanted:
            if change.contents:
                raise CorruptRecord(id=id_, problem="its change of files carries contents that it does not name")
            return
        bases = OfContents(pack, told_from)
        head = PatchHead.of(change.contents, id_=id_)
        if head.new_size != size:
            raise CorruptRecord(id=id_, problem="its change of files does not carry the contents that it names")
        chunks = rebuild(bases, change.old_digest, change.contents, id_=id_, most=self.snapshot_bytes_max)
        rest = _Rest(chunks)
        for content in wanted:
            pack.put(content, rest.next_of(content.size), id_=id_)
            yield b""
        rest.end()

    def _rebuilt_of_bytes(self, patch: bytes, id_: str) -> Generator[bytes, None, None]:
        """The other form. Its digests are of the bytes of a snapshot."""
        head = PatchHead.of(patch, id_=id_)
        if self._view is None or not head.raw:
            raise CorruptRecord(id=id_, problem="its patch starts from another payload than the one here")
        old = payload_of(self._view.listing, self._view.pack)
        chunks = joined(rebuild(old, digest_of_pieces(self.pieces()), patch, id_=id_, most=self.snapshot_bytes_max))
        yield from self._taken(pieces_of(chunks, raw=True, id_=id_, most=self.snapshot_bytes_max), id_)

    def adopt(self) -> None:
        self._making = None
        self._become_view(self._comes)

    def _become_view(self, view: View | None) -> None:
        with self._lock:
            self._view, self._comes, self.change = view, None, None
        self.gatherer.forget()

    def _leave_waste_behind(self) -> None:
        view, pack = self._view, self._pack
        listing = view.listing if view is not None else Listing()
        # What is drawn or made already is in the pack as it is, and is what is published next.
        is_needed = self._drawing or self._comes is not None or self._making is not None
        if is_needed or pack is None or not pack.is_wasteful(listing.size):
            return
        other = pack.copy(self._new_path(), contents_of(listing.in_order()))
        self._named(other)
        self._pack, self._view = other, View(listing, other) if view is not None else None

    # --- what this node publishes ---

    def make(self, snapshot: Callable[[], Iterable[Any]]) -> Made | None:
        """See `Whole`. It is not made of the pieces of a snapshot, but of what the source says."""
        if self.source is None:
            raise StateError(path=self.path, problem="nothing reads the directory: this is a bug in replicator")
        for _ in range(DRAWN_TIMES_MAX - 1):
            with suppress(StateChanged):
                return self._made_of(self.source)
        return self._made_of(self.source)

    def _made_of(self, source: Source) -> Made | None:
        self._making = None
        with self._packing() as pack, source.cut() as cut:
            # Looked at once: a node that is replaced meanwhile has another one, and sends nothing.
            view = self._view
            old = view.listing if view is not None else Listing()
            gone, entries = old.changed_to(cut.entries)
            if view is not None and not gone and not entries:
                return None
            with _damaged("new", "what is there"):
                listing = old.after(gone, entries)
            if listing.size > self.snapshot_bytes_max:
                raise ChangeTooLarge(problem=Weight(self.snapshot_bytes_max).problem)
            wanted = [content for content in contents_of(entries) if content not in pack]
            for content, pieces in cut.contents(wanted):
                with _changed(content, entries):
                    pack.put(content, pieces, id_="new")
            self._making = making = _Making(View(listing, pack), {listing.digest})
            patch = self._patch(pack, old, listing, gone, entries) if view is not None else None
        return Made(listing.digest, lambda: _told(making), patch)

    def _patch(self, pack: Pack, old: Listing, new: Listing, gone: list[str], entries: list[Entry]) -> bytes | None:
        """None: it would be too large."""
        if new.weight > self.snapshot_bytes_max:
            return None
        contents: bytes | None = b""
        if wanted := old.new_contents(entries):
            maker = Maker(OfContents(pack, old.bases(entries)), old.digest, most=self.patch_bytes_max)
            for content in wanted:
                for piece in pack.pieces(content):
                    maker.feed(piece)
                if maker.given_up:
                    return None
            contents = maker.finish(raw=True)
        if contents is None:
            return None
        change = FileChange(old.digest, new.digest, old.size, new.size, gone, entries, contents)
        patch = change.to_bytes()
        return patch if patch is not None and len(patch) <= self.patch_bytes_max else None

    def adopts_made(self, digest: str) -> bool:
        making = self._making
        if making is None or digest not in making.told:
            return False
        self._making = None
        self._become_view(making.view)
        return True


class FilesAtRest(PublishedFiles):
    """Of a checkpoint or an archive, whoever wrote it. Its digest is that of its pieces, as of any other payload."""

    is_of_this_node = False

    @property
    def digest(self) -> str:
        return digest_of_pieces(self.pieces()) if self.is_published else EMPTY_DIGEST


def _told(making: _Making) -> Iterator[bytes]:
    """Its pieces. After the last, what the record of a snapshot says of them is known."""
    digest = PiecesDigest()
    for piece in making.view.pieces():
        digest.update(piece)
        yield piece
    making.told.add(digest.text)


@contextmanager
def _damaged(id_: str, what: str) -> Iterator[None]:
    try:
        yield
    except BadManifest as bad:
        raise CorruptRecord(id=id_, problem=f"{what} is no directory: {bad}") from None


@contextmanager
def _changed(content: Content, entries: Iterable[Entry]) -> Iterator[None]:
    """What was read is not what it was a moment ago."""
    try:
        yield
    except CorruptRecord:
        raise StateChanged(path=next(each.path for each in entries if each.digest == content.digest)) from None


class _Rest:
    """Chunks, of which so many bytes are taken at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""

    def next_of(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, or what there is."""
        while size:
            chunk = self._held or next(self._chunks, b"")
            if not chunk:
                return
            self._held, taken = chunk[size:], chunk[:size]
            size -= len(taken)
            yield taken

    def end(self) -> None:
        """Draw the rest: what is wrong shows at the end."""
        for _ in self._chunks:
            pass
