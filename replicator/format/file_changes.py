"""What became of a directory since it was published last, file by file: the patch of a state that is one.

Where `patch.py` compares all bytes of two payloads, this names the paths that are others, and carries no more than
their contents. So it costs what was changed, on both sides, however large the directory is.

    patch    "RPD1", the old digest and the new one (16 bytes each), the bytes of all contents before and after (8 bytes
             each), the length of the list, unpacked, and of its frame (4 bytes each), a zstd frame, the contents
    list     a line for each path that is another one, in the order of a manifest: `["-", "a/b"]` if it is gone, or
             else its entry, as a manifest has it (`manifest.py`)
    contents nothing, or a patch ("RPT1", `patch.py`) from the *bases* to the new contents, each one after the other

The *new contents* are those of the list that the old directory does not have, in the order in which they are named. The
*bases* are what was at the paths of these before. Both follow from the old directory and the list (`Listing`), so they
are not written down.

**The digest** of a directory is the sum of the xxh3-128 of the lines of its manifest, modulo 2^128, and each line has
the digest of a content. So it moves with the lines that are others, and nobody goes through the rest.

**Bounded, and believed in nothing.** The list has at most `LIST_BYTES_MAX`, and `LINES_MAX` lines. Its names are held
to the rules of a manifest, and what comes of the old directory is a manifest, too: what a path is in is a directory,
and nothing is left in one that is gone.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import xxhash

from replicator.errors import CorruptRecord

from .manifest import DIRECTORY, PIECE_BYTES, BadManifest, Content, Entry, bad_path, contents_of, in_order, read_entry
from .pages import MODULUS, as_text
from .zstd_frame import unpacked

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["LINES_MAX", "LIST_BYTES_MAX", "MAGIC", "FileChange", "Listing"]

MAGIC = b"RPD1"

#: What a list may have. Who has more to say sends all of the directory. A reader holds the entries of all lines.
LIST_BYTES_MAX = 8 * 1024 * 1024
LINES_MAX = 100_000

_HEAD = struct.Struct(">4s16s16sQQII")

_GONE = "-"

#: What a piece weighs besides its bytes (`unpacked_size.py`).
_PIECE_WEIGHS = 256


# --- what is in a directory -------------------------------------------------------------------------------------------


class Listing:
    """A directory: its entries, by path. Whoever has it to himself may change it; else `after` gives another one."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        #: Each content, and how many files have it.
        self.contents: dict[Content, int] = {}
        #: The bytes of all contents, and at most what a snapshot of it weighs (`unpacked_size.py`).
        self.size = 0
        self.weight = 0
        self._sum = 0
        #: How many entries are in each directory.
        self._inside: dict[str, int] = {}

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Listing:
        """Of the entries of a manifest."""
        listing = cls()
        for entry in entries:
            listing._put(entry)
        return listing

    @property
    def digest(self) -> str:
        return as_text(self._sum)

    def in_order(self) -> list[Entry]:
        """Its entries, as a manifest has them."""
        return sorted(self.entries.values(), key=lambda entry: in_order(entry.path))

    def after(self, gone: Iterable[str], entries: Iterable[Entry]) -> Listing:
        """Without the paths that are gone, and with these entries. Raises `BadManifest` if that is no directory."""
        other = self.copy()
        other.become(gone, entries)
        return other

    def copy(self) -> Listing:
        """Another one, which is equal."""
        other = Listing()
        other.entries, other.contents, other._inside = self.entries.copy(), self.contents.copy(), self._inside.copy()
        other.size, other.weight, other._sum = self.size, self.weight, self._sum
        return other

    def become(self, gone: Iterable[str], entries: Iterable[Entry]) -> None:
        """The same as `after`, of one that nobody else has: it costs what changes, and not what there is.

        What it is after `BadManifest` is of no use.
        """
        left, come = [*gone], [*entries]
        for path in left:
            self._take_away(path)
        for entry in come:
            self._put(entry)
        self._check(left, come)

    def _check(self, gone: list[str], come: list[Entry]) -> None:
        """Whether it is a directory still, which can only be wrong where it changed."""
        for path in (*gone, *(entry.path for entry in come if entry.kind != DIRECTORY)):
            if self._inside.get(path):
                raise BadManifest(f"something is left in {path!a}, which is no directory any more")
        for entry in come:
            above = entry.path.rpartition("/")[0]
            if above and (above not in self.entries or self.entries[above].kind != DIRECTORY):
                raise BadManifest(f"{entry.path!a} is in something that is no directory")
        if not self.entries:
            raise BadManifest("nothing is left, and no node publishes an empty directory")

    def _put(self, entry: Entry) -> None:
        before = self.entries.get(entry.path)
        if before is not None:
            self._count(before, -1)
        self.entries[entry.path] = entry
        self._count(entry, 1)

    def _take_away(self, path: str) -> None:
        before = self.entries.pop(path, None)
        if before is None:
            raise BadManifest(f"{path!a} is gone, and was not there")
        self._count(before, -1)

    def _count(self, entry: Entry, by: int) -> None:
        line = entry.to_json()
        self._sum = (self._sum + by * xxhash.xxh3_128_intdigest(line)) % MODULUS
        self.weight += by * (len(line) + _PIECE_WEIGHS)
        above = entry.path.rpartition("/")[0]
        self._inside[above] = self._inside.get(above, 0) + by
        if not self._inside[above]:
            del self._inside[above]
        for content in contents_of([entry]):
            self._count_content(content, by)

    def _count_content(self, content: Content, by: int) -> None:
        before = self.contents.get(content, 0)
        if before + by:
            self.contents[content] = before + by
        else:
            del self.contents[content]
        if bool(before) != bool(before + by):
            self.size += by * content.size
            self.weight += by * (content.size + _PIECE_WEIGHS * -(-content.size // PIECE_BYTES))

    # --- what changes ---

    def changed_to(self, entries: Iterable[Entry]) -> tuple[list[str], list[Entry]]:
        """What is gone, and what is new or another one, if these are the entries now."""
        now = {entry.path: entry for entry in entries}
        gone = [path for path in self.entries if path not in now]
        # Mostly the very same objects, which are told apart faster as such.
        before = ((self.entries.get(path), entry) for path, entry in now.items())
        return gone, [entry for last, entry in before if last is not entry and last != entry]

    def new_contents(self, entries: Iterable[Entry]) -> list[Content]:
        """The contents of these that it does not have, in the order in which a patch has them."""
        return [content for content in contents_of(entries) if content not in self.contents]

    def bases(self, entries: Iterable[Entry]) -> list[Content]:
        """What these are told from: what it has where they have a content that is new."""
        new = {*self.new_contents(entries)}
        told = (entry.path for entry in entries if entry.has_content and Content(entry.digest, entry.size) in new)
        return contents_of(self.entries[path] for path in told if path in self.entries)


# --- a patch ----------------------------------------------------------------------------------------------------------


class FileChange(NamedTuple):
    """From one directory to another. `gone`: paths; `entries`: what is new or another one, in order; `contents`: see
    above.
    """

    old_digest: str
    digest: str
    old_size: int
    size: int
    gone: list[str]
    entries: list[Entry]
    contents: bytes

    def to_bytes(self) -> bytes | None:
        """As it goes into records; None: the list is longer than one may be."""
        lines = [(in_order(path), _gone_line(path)) for path in self.gone]
        lines += [(in_order(entry.path), entry.to_json()) for entry in self.entries]
        listed = b"".join(line for _, line in sorted(lines))
        if len(listed) > LIST_BYTES_MAX or len(lines) > LINES_MAX:
            return None
        frame = zstd.compress(listed, level=5)
        digests = bytes.fromhex(self.old_digest), bytes.fromhex(self.digest)
        head = _HEAD.pack(MAGIC, *digests, self.old_size, self.size, len(listed), len(frame))
        return head + frame + self.contents

    @classmethod
    def head_of(cls, data: bytes, *, id_: str) -> FileChange:
        """The same without its list and contents, of which nothing is looked at. Raises `CorruptRecord`."""
        return cls._head_of(data, id_)[0]

    @classmethod
    def _head_of(cls, data: bytes, id_: str) -> tuple[FileChange, int, int]:
        """And the lengths of its list and of the frame of it, as it says."""
        if len(data) < _HEAD.size or data[:4] != MAGIC:
            raise CorruptRecord(id=id_, problem="its body is no change of files")
        _, old_digest, digest, old_size, size, list_bytes, frame_bytes = _HEAD.unpack_from(data)
        if list_bytes > LIST_BYTES_MAX:
            raise CorruptRecord(id=id_, problem="its change of files has a list that is too long")
        return cls(old_digest.hex(), digest.hex(), old_size, size, [], [], b""), list_bytes, frame_bytes

    @classmethod
    def of(cls, data: bytes, *, id_: str) -> FileChange:
        """Raises `CorruptRecord`: it is none, or was damaged, or names what must not be named."""
        head, list_bytes, frame_bytes = cls._head_of(data, id_)
        end = _HEAD.size + frame_bytes
        listed = unpacked(memoryview(data)[_HEAD.size : end], list_bytes, what="change of files", id_=id_)
        gone: list[str] = []
        entries: list[Entry] = []
        try:
            for line in _lines(listed):
                (gone if isinstance(line, str) else entries).append(line)  # type: ignore[arg-type]
        except BadManifest as bad:
            raise CorruptRecord(id=id_, problem=f"its change of files is not one: {bad}") from None
        return head._replace(gone=gone, entries=entries, contents=data[end:])


def _gone_line(path: str) -> bytes:
    return json.dumps([_GONE, path], separators=(",", ":")).encode() + b"\n"


def _lines(listed: bytes) -> Iterator[str | Entry]:
    """A path that is gone, or an entry. Raises `BadManifest`."""
    if listed.count(b"\n") > LINES_MAX:
        raise BadManifest("it has too many lines")
    before = ""
    for line in listed.split(b"\n")[:-1]:
        given = _gone(line) or read_entry(line)
        path = given if isinstance(given, str) else given.path
        if in_order(path) <= before:
            raise BadManifest(f"{path!a} is out of order, or there twice")
        before = in_order(path)
        yield given
    if listed and not listed.endswith(b"\n"):
        raise BadManifest("it has no end")


def _gone(line: bytes) -> str:
    """The path that such a line names; empty: it is another one."""
    if not line.startswith(b'["-"'):
        return ""
    try:
        match json.loads(line):
            case ["-", str(path)] if not bad_path(path):
                return path
    except (ValueError, RecursionError):
        pass
    raise BadManifest(f"{line[:80]!a} names nothing that may be gone")
