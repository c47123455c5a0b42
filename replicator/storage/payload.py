"""The payload of a state that is replicated whole: what was published last, in a file of this node's own.

    data_dir/payload        the frames of the published payload, one after the other
    data_dir/payload.new-N  one that is being written

A state without `apply` is moved by its program, and not by the log: on the primary it may be ahead of what was
published. So what the log says is kept beside it. The primary makes its patches from this file, and sends it when
somebody needs a snapshot: a snapshot as of a position shows what was published by then, whatever the program has done
since. A standby applies patches to it, and gives its state the pieces.

**It is a file, because that is where 80 MB cost least.** Patches are made and applied with some MB of memory and a look
at either payload where it is needed. The pages belong to the system, which can have them back.

**It is a cache.** The checkpoint has the newest snapshot and the patches since, and is what counts. Nothing here is
synced. At the start the file is held against the digests that the checkpoint tells: it is what it should be, or one
from before, to which patches are still to be applied, or made anew from the snapshot.

A draft takes the place of the file by its name. A reader of the old one goes on reading that.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from ..errors import CheckpointError, StateChanged
from ..format.codec import SnapshotDecoder
from ..format.frames import frames_of, joined, pieces_of
from ..format.ids import RecordId
from ..format.patch import EMPTY_DIGEST, PATCH_BYTES_MAX, Gatherer, Maker, PatchHead, rebuild
from ..format.records import ACT, ChangeRecord
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..runtime.event_log import EventLogger
from . import disk
from .checkpoint_file import Payload
from .disk_errors import unusable
from .keyring import cloak

__all__ = ["Made", "Published", "Whole"]

logger = EventLogger(__name__)

#: What is read of a payload in one go.
_CHUNK = 1024 * 1024

#: A file that is rewritten in place all the time is never seen still. After so many attempts the caller is told.
DRAWN_TIMES_MAX = 5


class Published(NamedTuple):
    """What `Node.publish` did: `what` is `"patch"`, `"whole"`, `"snapshot"`, or `"nothing"` if nothing had changed.

    `id`: the position that has it. `bytes`: of the bodies of the records that it took; of a snapshot they are not
    counted.
    """

    what: str
    id: RecordId
    bytes: int = 0


class _File:
    """A payload on the disk. It is read through its own descriptor, so its name may be taken away meanwhile.

    `is_private`: nobody but this process can read what it writes there.
    """

    def __init__(self, path: Path, *, new: bool = True, is_private: bool = False) -> None:
        self.path = path
        self._cloak = cloak() if is_private else None
        self.raw = True
        self.size = 0
        self._hash = xxhash.xxh3_128()
        try:
            self._file = disk.create(path) if new else os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise unusable(path, error) from error
        # Whoever draws its pieces holds it, too: the descriptor ends with the last of them.
        weakref.finalize(self, os.close, self._file)

    @classmethod
    def found(cls, path: Path) -> _File | None:
        """The file that is there, with the digest of what is in it."""
        if not path.exists():
            return None
        file = cls(path, new=False)
        while data := file.read(file.size, file.size + _CHUNK):
            file._hash.update(data)
            file.size += len(data)
        return file

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        try:
            disk.write(self._file, data if self._cloak is None else self._cloak(self.size - len(data), data))
        except OSError as error:
            raise unusable(self.path, error) from error

    def read(self, start: int, end: int) -> bytes:
        try:
            data = os.pread(self._file, end - start, start)
        except OSError as error:
            raise unusable(self.path, error) from error
        return data if self._cloak is None else self._cloak(start, data)

    def pieces(self, most: int) -> Iterator[Any]:
        chunks = (self.read(start, min(start + _CHUNK, self.size)) for start in range(0, self.size, _CHUNK))
        return pieces_of(chunks, raw=self.raw, id_="payload", most=most)

    def becomes(self, path: Path) -> None:
        try:
            disk.give_name(self.path, path)
        except OSError as error:
            raise unusable(path, error) from error
        self.path = path

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


class _Decoder(SnapshotDecoder):
    """Keeps the payload that it decodes: the very bytes, and not what JSON would make of the pieces."""

    def __init__(self, codec: str, digest: str, *, id_: str, file: _File, most: int) -> None:
        super().__init__(codec, digest, id_=id_, most=most)
        file.raw = codec.startswith("raw")
        self._file = file

    def _unpack(self, bodies: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in super()._unpack(bodies):
            self._file.write(chunk)
            yield chunk


class Made(NamedTuple):
    """What the state is now. `patch`: from what was published to that; None: it would be too large."""

    digest: str
    pieces: Callable[[], Iterator[Any]]
    patch: bytes | None


class Whole:
    """What was published last, and what comes next. Whatever changes it is called with the write lock, but for `make`.

    `snapshot_bytes_max`: what it may weigh (`format/unpacked_size.py`); a patch may yield as many bytes. `is_private`:
    the group has a key. Then what is on the disk can be read by this process alone, and the next start makes it anew.
    """

    def __init__(
        self, directory: Path, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX, is_private: bool = False
    ) -> None:
        self.path = directory / "payload"
        self._is_private = is_private
        self.snapshot_bytes_max = snapshot_bytes_max
        #: The state may be ahead of what was published: its program may have moved it while this node led.
        self.is_ahead = False
        #: What is larger goes as a whole.
        self.patch_bytes_max = PATCH_BYTES_MAX
        self.gatherer = Gatherer()
        self._now: _File | None = None
        self._next: _File | None = None
        #: What this node is about to publish.
        self._made: _File | None = None
        self._numbers = count(1)
        try:
            for left in directory.glob("payload.new-*"):  # of a process that was killed
                left.unlink()
            if is_private:  # it may be of before the group had a key
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise unusable(directory, error) from error

    @property
    def digest(self) -> str:
        return self._now.digest if self._now is not None else EMPTY_DIGEST

    @property
    def is_published(self) -> bool:
        """Whether anything ever was: what was has a piece at least."""
        return self._now is not None and self._now.size > 0

    def pieces(self) -> Iterator[Any]:
        """Those of the published payload, as it is at the call; none if nothing was published."""
        return self._now.pieces(self.snapshot_bytes_max) if self._now is not None else iter(())

    # --- at the start ---

    def load(
        self, base: Payload | None, bodies: Callable[[], Iterable[bytes]], changes: Callable[[], Iterable[ChangeRecord]]
    ) -> None:
        """Become what a checkpoint has: its snapshot (what it says of itself, and its bodies), and the changes since.

        Raises `CorruptRecord` if they do not fit each other, and `CheckpointError`.
        """
        steps = [(base.digest, base.codec.startswith("raw")) if base is not None else (EMPTY_DIGEST, True)]
        for patch in self._patches(changes()):
            head = PatchHead.of(patch, id_="payload")
            steps.append((head.new_digest, head.raw))
        found = _File.found(self.path)
        done = max((at for at, (digest, _) in enumerate(steps) if found and digest == found.digest), default=0)
        if found is not None and found.digest == steps[done][0]:
            self._now = found
            found.raw = steps[done][1]
        elif base is not None:
            self._drawn(self.received(base.codec, base.digest, bodies(), id_=str(base.as_of.id)))
        else:
            self._now = None
        for patch in islice(self._patches(changes()), done, None):
            self._drawn(self.rebuilt(patch, id_="payload"))

    def _patches(self, records: Iterable[ChangeRecord]) -> Iterator[bytes]:
        self.gatherer.forget()
        for record in records:
            if record.count and record.codec != ACT and (patch := self.gatherer.add(record)) is not None:
                yield patch

    def _drawn(self, pieces: Iterable[Any]) -> None:
        for _ in pieces:
            pass
        self.adopt()

    # --- what comes ---

    def received(self, codec: str, digest: str, bodies: Iterable[bytes], *, id_: str) -> Generator[Any, None, None]:
        """The pieces of a snapshot. Once they were drawn to their end it can be adopted.

        Raises `CorruptRecord`, at the latest at the end, and `CheckpointError`.
        """
        self.gatherer.forget()
        self._next = self._begun()
        yield from _Decoder(codec, digest, id_=id_, file=self._next, most=self.snapshot_bytes_max).pieces(bodies)

    def rebuilt(self, patch: bytes, *, id_: str) -> Generator[Any, None, None]:
        """The same for what a patch makes of the published payload."""
        head = PatchHead.of(patch, id_=id_)
        self._next = self._begun()
        self._next.raw = head.raw
        chunks = self._patched(self._next, patch, id_)
        yield from pieces_of(chunks, raw=head.raw, id_=id_, most=self.snapshot_bytes_max)

    def _patched(self, file: _File, patch: bytes, id_: str) -> Iterator[bytes]:
        old = self._now if self._now is not None else _Nothing()
        for chunk in joined(rebuild(old, self.digest, patch, id_=id_, most=self.snapshot_bytes_max)):
            file.write(chunk)
            yield chunk

    def adopt(self) -> None:
        """What was drawn is what is published now."""
        file, self._next = self._next, None
        assert file is not None
        self._become(file)

    def _become(self, file: _File) -> None:
        self._now = file
        self.gatherer.forget()
        try:
            file.becomes(self.path)
        except CheckpointError as problem:
            # It is here, and can be read; only the next start has more to do.
            logger.warning("payload.misplaced", "%s", problem)

    def _new_file(self) -> _File:
        return _File(self.path.with_name(f"payload.new-{next(self._numbers)}"), is_private=self._is_private)

    def _begun(self) -> _File:
        if self._next is not None:
            self._next.discard()
        return self._new_file()

    # --- what this node publishes ---

    def make(self, snapshot: Callable[[], Iterable[Any]]) -> Made | None:
        """Draw the state and compare it with what is published; None: it is the same.

        `snapshot` gives the pieces, and is called again if what it gave did not hold still (`StateChanged`).
        Raises `ChangeTooLarge`, `CheckpointError`, and what drawing the state raises.
        """
        for _ in range(DRAWN_TIMES_MAX - 1):
            with suppress(StateChanged):
                return self._make(snapshot())
        return self._make(snapshot())

    def _make(self, pieces: Iterable[Any]) -> Made | None:
        # Looked at once: a node that is replaced meanwhile has another one, and sends nothing.
        old = self._now if self._now is not None else _Nothing()
        maker = Maker(old, old.digest, most=self.patch_bytes_max)
        file = self._new_file()
        try:
            for file.raw, frame in frames_of(pieces, most=self.snapshot_bytes_max):
                file.write(frame)
                maker.feed(frame)
        except BaseException:
            file.discard()
            raise
        if file.digest == old.digest and old.size:
            file.discard()
            return None
        if self._made is not None:
            self._made.discard()
        self._made = file
        return Made(
            file.digest, partial(file.pieces, self.snapshot_bytes_max), maker.finish(raw=file.raw) if old.size else None
        )

    def adopts_made(self, digest: str) -> bool:
        """Whether that is what this node has made; it is what is published now."""
        file = self._made
        if file is None or file.digest != digest:
            return False
        self._made = None
        self._become(file)
        return True


class _Nothing:
    """Before anything was published."""

    size = 0
    digest = EMPTY_DIGEST

    def read(self, start: int, end: int) -> bytes:
        return b""
