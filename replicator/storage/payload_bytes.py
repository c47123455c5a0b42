"""Contents of a pack as bytes in a row, of which nobody holds more than a part: what patches are told from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain

from ..format.codec import frame_of
from ..format.file_changes import Listing
from ..format.manifest import PIECE_BYTES, Content, contents_of, manifest_pieces
from .pack import Pack

__all__ = ["OfContents", "payload_of"]


class _Piece:
    """Bytes that are there, or a part of a content."""

    def __init__(self, size: int, *, data: bytes = b"", content: Content | None = None, start: int = 0) -> None:
        self.size = size
        self._data = data
        self._content = content
        self._start = start

    def read(self, pack: Pack, start: int, end: int) -> bytes:
        if self._content is None:
            return self._data[start:end]
        return pack.read(self._content, self._start + start, self._start + end)


class _InARow:
    """Pieces in a row: a `Source` of patches."""

    def __init__(self, pack: Pack, pieces: Iterable[_Piece]) -> None:
        self._pack = pack
        self._pieces = [*pieces]
        self._ends = [*accumulate(piece.size for piece in self._pieces)]

    @property
    def size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, end: int) -> bytes:
        """See `Source`."""
        return b"".join(self._parts(start, end))

    def _parts(self, start: int, end: int) -> Iterator[bytes]:
        number = bisect_right(self._ends, start)
        while start < end:
            piece = self._pieces[number]
            begins = self._ends[number] - piece.size
            until = min(end, self._ends[number])
            yield piece.read(self._pack, start - begins, until - begins)
            start, number = until, number + 1


class OfContents(_InARow):
    """Contents, one after the other."""

    def __init__(self, pack: Pack, contents: Iterable[Content]) -> None:
        super().__init__(pack, (_Piece(content.size, content=content) for content in contents))


def payload_of(listing: Listing, pack: Pack) -> _InARow:
    """The payload of a directory: the frames of the pieces of its snapshot."""
    entries = listing.in_order()
    manifest = (frame_of(piece) for piece in manifest_pieces(entries))
    first = (_Piece(len(frame), data=frame) for frame in manifest)
    return _InARow(pack, chain(first, chain.from_iterable(map(_framed, contents_of(entries)))))


def _framed(content: Content) -> Iterator[_Piece]:
    for start in range(0, content.size, PIECE_BYTES):
        size = min(PIECE_BYTES, content.size - start)
        yield _Piece(4, data=size.to_bytes(4, "big"))
        yield _Piece(size, content=content, start=start)
