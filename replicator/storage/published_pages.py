"""What was published of a database that is replicated by pages: the counterpart of `storage/payload.py`.

It is a shadow (`shadow.py`), on every node. The primary makes its changes from it, and sends it when somebody needs a
snapshot. What it makes is read by a process of its own (`capture_process.py`), which compares the database with the
shadow.

A change that its node cannot make (another database than the one it starts from, a page that was changed in the file by
somebody else) is one that does not fit: the node waits for a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from ..errors import CheckpointError, ConfigError, CorruptRecord, StateError
from ..format.codec import SnapshotDecoder
from ..format.manifest import is_directory
from ..format.pages import MAGIC, PageChange, as_text
from ..format.patch import CODEC, EMPTY_DIGEST, placed
from ..format.records import ChangeRecord
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..runtime.event_log import EventLogger
from .checkpoint_file import Payload
from .checkpoint_reader import CheckpointReader
from .payload import Made, Whole
from .published_files import FilesAtRest
from .shadow import Draft, PiecesDigest, Shadow, View, digest_of_pieces

__all__ = ["ALL_OF_IT", "BY_PAGES_WITH_A_KEY", "PublishedPages", "Source", "rebuilt_from", "whole_at_rest"]

logger = EventLogger(__name__)

#: What a look says where a change would be too large, or there is none.
ALL_OF_IT = "all of it"

#: The shadow is not sealed.
BY_PAGES_WITH_A_KEY = "a group with a key cannot have its database replicated by pages: leave it at copy"

#: A larger patch may be more than the database is when that is packed; and so may any, of a smaller database.
_SMALL_PATCH_BYTES = 64 * 1024
_SMALL_BYTES = 4 * 1024 * 1024


class Source(Protocol):
    """What reads the database of the program."""

    def look(self, shadow: Shadow) -> bytes | str | None:
        """What became of it since the shadow, a `PageChange`; None: nothing; `ALL_OF_IT`. Raises `StateError`."""

    def draw(self, draft: Path) -> None:
        """Write all of it to this file, as it is at one moment. Raises `StateError`."""


class _Making(NamedTuple):
    """What is about to be published: a change of the shadow, or another shadow. `told`: its digests."""

    change: PageChange | None
    shadow: Shadow | None
    told: set[str]


class PublishedPages(Whole):
    """See `Whole`. `source`: of the program's database, on a node that leads."""

    def __init__(
        self, directory: Path, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX, is_private: bool = False
    ) -> None:
        if is_private:
            raise ConfigError(setting="sqlite-by", problem=BY_PAGES_WITH_A_KEY)
        super().__init__(directory, snapshot_bytes_max=snapshot_bytes_max)
        self.path.unlink(missing_ok=True)  # of the other way
        self.path = directory / "shadow"
        for left in directory.glob("shadow.new-*"):  # of a process that was killed
            left.unlink()
        self.source: Source | None = None
        self._shadow: Shadow | None = None
        self._comes: Shadow | PageChange | None = None
        #: The pages that the newest change carried; None: it was not a change that came.
        self.carried: frozenset[int] | None = None
        self._making: _Making | None = None

    @property
    def digest(self) -> str:
        return as_text(self._shadow.digest) if self._shadow is not None else EMPTY_DIGEST

    @property
    def is_published(self) -> bool:
        return self._shadow is not None

    @property
    def is_broken(self) -> bool:
        """Whether the shadow is not what was published."""
        return self._shadow is not None and self._shadow.broken != ""

    def pieces(self) -> Iterator[Any]:
        return self._shadow.pieces() if self._shadow is not None else iter(())

    def _draft(self) -> Draft:
        return Draft(self.path.with_name(f"shadow.new-{next(self._numbers)}"))

    # --- at the start ---

    def load(
        self, base: Payload | None, bodies: Callable[[], Iterable[bytes]], changes: Callable[[], Iterable[ChangeRecord]]
    ) -> None:
        every = (PageChange.head_of(patch, id_="shadow") for patch in self._patches(changes()))
        wanted = [as_text(change.digest) for change in every]
        self._shadow = Shadow.found(self.path) if base is not None else None
        if self._shadow is not None and base is not None:
            done = self._done(self._shadow, base, wanted)
            if done is not None:
                self._make_again(changes, done)
                return
            if wanted and self._mended(self._shadow, changes):
                return
        self._shadow = None
        if base is not None:
            for _ in self.received(base.codec, base.digest, bodies(), id_=str(base.as_of.id)):
                pass
            self.adopt()
            self._make_again(changes, 0)

    def _done(self, shadow: Shadow, base: Payload, wanted: list[str]) -> int | None:
        """How many of the changes are in it; None: it is none of what there was."""
        if (digest := as_text(shadow.digest)) in wanted:
            return len(wanted) - wanted[::-1].index(digest)
        return 0 if digest_of_pieces(shadow.pieces()) == base.digest else None

    def _make_again(self, changes: Callable[[], Iterable[ChangeRecord]], done: int) -> None:
        for patch in islice(self._patches(changes()), done, None):
            for _ in self.rebuilt(patch, id_="shadow"):
                pass
            self.adopt()

    def _mended(self, shadow: Shadow, changes: Callable[[], Iterable[ChangeRecord]]) -> bool:
        """Whether it is right once all pages that were changed since the snapshot are put into it.

        It is if it was torn by a change among these, wherever that was.
        """
        change: PageChange | None = None
        for patch in self._patches(changes()):
            change = PageChange.of(patch, id_="shadow")
            if shadow.count and change.page_size != shadow.page_size:
                return False
            shadow.put(change.pages)
        assert change is not None
        shadow.page_size = change.page_size
        shadow.ends_after(change.page_count)
        shadow.digest = shadow.counted()
        if shadow.digest != change.digest:
            return False
        logger.info("shadow.mended", "%s was torn, and is what was published again", shadow.path)
        return True

    # --- what comes ---

    def received(self, codec: str, digest: str, bodies: Iterable[bytes], *, id_: str) -> Generator[Any, None, None]:
        self.gatherer.forget()
        draft = self._draft()
        some = False
        try:
            for piece in SnapshotDecoder(codec, digest, id_=id_, most=self.snapshot_bytes_max).pieces(bodies):
                if not isinstance(piece, bytes):
                    raise CorruptRecord(id=id_, problem="its snapshot is of something else than a database")
                some = True
                draft.write(piece)
                yield piece
            comes = draft.finish() if some else None
        except BaseException:
            draft.discard()
            raise
        if comes is None:  # nothing was ever published
            draft.discard()
        self._comes = comes

    def rebuilt(self, patch: bytes, *, id_: str) -> Generator[Any, None, None]:
        """No piece: a change is made in place, by `adopt`."""
        change = PageChange.of(patch, id_=id_)
        if self._shadow is None:
            raise CorruptRecord(id=id_, problem="its change of pages starts from a database, and there is none here")
        if change.page_count * change.page_size > self.snapshot_bytes_max:
            raise CorruptRecord(id=id_, problem="its database is larger than this node accepts (snapshot_bytes_max)")
        self._shadow.check(change, id_=id_)
        self._shadow.reserve(change)
        self._comes = change
        yield from ()

    def adopt(self) -> None:
        comes, self._comes, self.carried = self._comes, None, None
        if isinstance(comes, PageChange):
            self._make_change(comes)
            self.carried = frozenset(comes.pages)
        else:
            self._become_shadow(comes)
        self.gatherer.forget()

    def _make_change(self, change: PageChange) -> None:
        assert self._shadow is not None
        # One that cannot be made is on the disk: the next start makes the file anew, and so does a snapshot.
        self._shadow.make(change)

    def _become_shadow(self, shadow: Shadow | None) -> None:
        self._shadow = shadow
        if shadow is not None:
            try:
                shadow.becomes(self.path)
            except Exception as problem:
                # It is here, and can be read; only the next start has more to do.
                logger.warning("payload.misplaced", "%s", problem)

    def now(self, numbers: Iterable[int]) -> tuple[dict[int, bytes], int] | None:
        """These pages as they are, as far as there are any, with the first one; and how many there are. None: nothing
        was published, or there is none."""
        shadow = self._shadow
        if shadow is None or shadow.broken or not shadow.count:
            return None
        wanted = sorted(number for number in {1, *numbers} if number <= shadow.count)
        return {number: shadow.page(number) for number in wanted}, shadow.count

    # --- what this node publishes ---

    def make(self, snapshot: Callable[[], Iterable[Any]]) -> Made | None:
        """See `Whole`. It is not made of the pieces of a snapshot, but of what the source says."""
        if self.source is None:
            raise StateError(path=self.path, problem="nothing reads the database: this is a bug in replicator")
        self._forget_making()
        shadow = self._shadow
        found = self.source.look(shadow) if shadow is not None and not shadow.broken else ALL_OF_IT
        if found is None:
            return None
        if isinstance(found, bytes):
            assert shadow is not None
            if _may_go_as_a_whole(found, shadow) and shadow.counted() != shadow.digest:
                shadow.breaks("it was changed by something else than this node")
            else:
                return self._made_of(PageChange.of(found, id_="shadow"), found, shadow)
        return self._made_anew()

    def _made_of(self, change: PageChange, patch: bytes, shadow: Shadow) -> Made:
        self._making = _Making(change, None, {as_text(change.digest)})
        fits = len(patch) <= self.patch_bytes_max
        return Made(as_text(change.digest), lambda: self._told(shadow.after(change)), patch if fits else None)

    def _made_anew(self) -> Made | None:
        assert self.source is not None
        path = self.path.with_name(f"shadow.new-{next(self._numbers)}")
        try:
            self.source.draw(path)
            drawn = Shadow.found(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        assert drawn is not None
        now = self._shadow
        if now is not None and not now.broken and (now.digest, now.page_size) == (drawn.digest, drawn.page_size):
            drawn.discard()
            return None
        self._making = _Making(None, drawn, {as_text(drawn.digest)})
        return Made(as_text(drawn.digest), lambda: self._told(drawn.view()), None)

    def _told(self, view: View) -> Iterator[bytes]:
        """Its pieces. After the last, what the record of a snapshot says of them is known."""
        making, digest = self._making, PiecesDigest()
        try:
            for piece in view.pieces():
                digest.update(piece)
                yield piece
        except CheckpointError as error:  # the shadow is broken, and the next attempt draws all of it
            raise StateError(path=self.path, problem=f"{error}; all of it is published next") from error
        if making is not None:
            making.told.add(digest.text)

    def adopts_made(self, digest: str) -> bool:
        making = self._making
        if making is None or digest not in making.told:
            return False
        self._making = None
        if making.change is not None:
            self._make_change(making.change)
        else:
            self._become_shadow(making.shadow)
        self.gatherer.forget()
        return True

    def _forget_making(self) -> None:
        if self._making is not None and self._making.shadow is not None:
            self._making.shadow.discard()
        self._making = None


def _may_go_as_a_whole(patch: bytes, shadow: Shadow) -> bool:
    """Whether all of it may be the smaller one: then it is worth a look at the shadow before."""
    return len(patch) > _SMALL_PATCH_BYTES or shadow.count * shadow.page_size < _SMALL_BYTES


class _AtRest(PublishedPages):
    """Of a checkpoint that nobody writes. Its digest is that of its pieces, as of any other payload."""

    @property
    def digest(self) -> str:
        return digest_of_pieces(self.pieces()) if self.is_published else EMPTY_DIGEST


@contextmanager
def rebuilt_from(stored: CheckpointReader) -> Iterator[Whole]:
    """What a checkpoint at rest has of a state without `apply`, in a temporary directory. Raises `CorruptRecord`."""
    with TemporaryDirectory(prefix="replicator-") as directory:
        whole = whole_at_rest(
            Path(directory),
            stored.changes(),
            first=next(iter(stored.pieces()), None) if stored.payload is not None else None,
            snapshot_bytes_max=stored.snapshot_bytes_max,
            is_private=stored.is_private,
        )
        whole.load(stored.payload, stored.bodies, stored.changes)
        yield whole


def whole_at_rest(
    directory: Path, changes: Iterable[ChangeRecord], *, first: object, snapshot_bytes_max: int, is_private: bool
) -> Whole:
    """For whoever makes again what these changes made: of files, by pages, or neither.

    `first`: the first piece of the snapshot that they follow; None: there is none.
    """
    by_pages = _AtRest if _is_by_pages(changes) else Whole
    kind = FilesAtRest if is_directory(first) else by_pages
    return kind(directory, snapshot_bytes_max=snapshot_bytes_max, is_private=is_private)


def _is_by_pages(changes: Iterable[ChangeRecord]) -> bool:
    """Whether the first patch among these is a change of pages."""
    for record in changes:
        if record.count and record.codec == CODEC and (data := placed(record))[0] == 0:
            return data[2][: len(MAGIC)] == MAGIC
    return False
