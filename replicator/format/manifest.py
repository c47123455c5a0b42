"""What is in a directory, as the pieces of a snapshot: a manifest, and then each content once.

    {"directory": 1}                                the format
    ["d", "a", 448]                                 a directory, and its mode
    ["f", "a/b", 416, 5, "<digest>"]                a file: mode, size, digest of its content
    ["b", "a/c.sqlite", 384, 8192, "<digest>"]      a database, as SQLite's backup gives it
    ["l", "a/d", "b"]                               a symbolic link, and where it leads
                                                    an empty piece: the end of the manifest
    the contents, in the order in which the manifest first names them, in pieces of 1 MiB

Entries are sorted by their path, part by part, so a directory comes before what is in it. Equal directories give equal
pieces. A file that was changed, added or removed moves what comes after it and changes nothing else, which is what
patches are good at (`format/patch.py`). A content that several files have is there once. Names are text, in which
bytes that are no UTF-8 are surrogates (PEP 383).

**What is read here was written by somebody else.** No name leads out of the directory, whatever the log says: it has no
`..`, it is not absolute, and what it is in is a directory of the manifest, and no link. A link leads to something in
the directory, too. Of texts that are the same bytes, one is a name.
"""

from __future__ import annotations

import hashlib
import json
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = [
    "DATABASE",
    "DIRECTORY",
    "FILE",
    "LINK",
    "PIECE_BYTES",
    "RESERVED",
    "BadManifest",
    "Content",
    "Entry",
    "bad_path",
    "content_hash",
    "contents_in",
    "contents_of",
    "in_order",
    "is_directory",
    "kept_mode",
    "leads_out",
    "manifest_pieces",
    "read_entry",
    "read_manifest",
]

FILE, DATABASE, DIRECTORY, LINK = "f", "b", "d", "l"

#: Ours, at the top of the directory, while it is written. Never replicated.
RESERVED = ".replicator"

_HEAD = b'{"directory": 1}\n'

#: A piece of the manifest ends after one entry in so many, which its own bytes choose: so one that is added moves no
#: other end. It also ends at this size.
_ENTRIES_A_PIECE = 512
_PIECE_BYTES = 256 * 1024

#: What is replicated of a mode: no file becomes one that runs as somebody else because the log says so.
_FILE_MODE, _DIRECTORY_MODE = 0o777, 0o777 | stat.S_ISVTX | stat.S_ISGID

#: A content is cut into pieces of this size.
PIECE_BYTES = 1024 * 1024

_DIGEST_BYTES = 20


class BadManifest(Exception):
    """It is not one, or it names what must not be named: why, in words."""


class Entry(NamedTuple):
    """A file, database, directory or link at `path`, relative to the directory. `digest`: of its content."""

    kind: str
    path: str
    mode: int = 0
    size: int = 0
    digest: str = ""
    target: str = ""

    @property
    def has_content(self) -> bool:
        return self.kind in (FILE, DATABASE)

    @property
    def identity(self) -> tuple[str, str]:
        """What another content changes, and another mode does not."""
        return self.kind, self.digest or self.target

    def to_json(self) -> bytes:
        values: list[Any] = [self.kind, self.path]
        if self.kind == LINK:
            values.append(self.target)
        else:
            values.append(kept_mode(self.kind, self.mode))
        if self.has_content:
            values += [self.size, self.digest]
        # Not orjson, which knows no surrogates.
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"


class Content(NamedTuple):
    """Bytes that one or more of the files have."""

    digest: str
    size: int


def content_hash() -> hashlib.blake2b:
    """One for which nobody makes two contents: one of them would take the place of the other."""
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def kept_mode(kind: str, mode: int) -> int:
    """What is replicated of a mode."""
    return mode & (_DIRECTORY_MODE if kind == DIRECTORY else _FILE_MODE)


def contents_of(entries: Iterable[Entry]) -> list[Content]:
    """The contents that come after the manifest, in order. An empty one does not."""
    return list(dict.fromkeys(Content(each.digest, each.size) for each in entries if each.has_content and each.size))


def in_order(path: str) -> str:
    """By which paths are sorted: part by part, since no part has a character that is less."""
    return path.replace("/", "\0")


# --- writing ----------------------------------------------------------------------------------------------------------


def manifest_pieces(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The pieces of the manifest of these entries, which are in order (`in_order`), with the empty one at the end."""
    held, size = [_HEAD], len(_HEAD)
    for entry in entries:
        line = entry.to_json()
        held.append(line)
        size += len(line)
        if size >= _PIECE_BYTES or zlib.crc32(line) % _ENTRIES_A_PIECE == 0:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
    yield b""


# --- reading ----------------------------------------------------------------------------------------------------------


def read_manifest(pieces: Iterator[bytes]) -> list[Entry]:
    """Draw the pieces of a manifest to its end. Raises `BadManifest`."""
    entries: list[Entry] = []
    kinds: dict[str, str] = {}
    lines = _lines(pieces)
    if next(lines, b"") + b"\n" != _HEAD:
        raise BadManifest("it is no directory, or one in a format that is not known here: update replicator")
    for line in lines:
        entry = read_entry(line)
        if entries and in_order(entry.path) <= in_order(entries[-1].path):
            raise BadManifest(f"{entry.path!a} is out of order, or there twice")
        above = entry.path.rpartition("/")[0]
        if above and kinds.get(above) != DIRECTORY:
            raise BadManifest(f"{entry.path!a} is in something that is no directory")
        kinds[entry.path] = entry.kind
        entries.append(entry)
    if not entries:
        raise BadManifest("it names nothing, and no node publishes an empty directory")
    return entries


def is_directory(first: object) -> bool:
    """Whether a snapshot with this piece at its front is that of a directory."""
    return isinstance(first, bytes) and first.startswith(_HEAD)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if not isinstance(piece, bytes):
            raise BadManifest("the group replicates something else than a directory")
        if not piece:
            return
        yield from piece.splitlines()
    raise BadManifest("it has no end")


def contents_in(pieces: Iterator[Any], entries: Iterable[Entry]) -> Iterator[tuple[Content, Iterator[bytes]]]:
    """What comes after the manifest of these entries: each content, and its pieces, which the caller draws or leaves.

    Raises `BadManifest` if it does not fit. What is in a content is not looked at.
    """
    for content in contents_of(entries):
        mine = _next_content(pieces, content.size)
        yield content, mine
        for _ in mine:
            pass
    for _ in pieces:
        raise BadManifest("there is more than it says")


def _next_content(pieces: Iterator[Any], size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = next(pieces, None)
        if not isinstance(piece, bytes) or not 0 < len(piece) <= left:
            raise BadManifest("what comes after it does not fit it")
        left -= len(piece)
        yield piece


def read_entry(line: bytes) -> Entry:
    """One line of a manifest. What it is in is not looked at. Raises `BadManifest`."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise BadManifest(f"{line[:80]!a} is no entry") from None
    match values:
        case ["l", str(path), str(target)]:
            entry = Entry(LINK, path, target=target)
        case ["d", str(path), int(mode)] if _is_mode(mode, _DIRECTORY_MODE):
            entry = Entry(DIRECTORY, path, mode)
        case ["f" | "b" as kind, str(path), int(mode), int(size), str(digest)] if (
            _is_mode(mode, _FILE_MODE) and type(size) is int and size >= 0 and _is_digest(digest)
        ):
            entry = Entry(kind, path, mode, size, digest)
        case _:
            raise BadManifest(f"{line[:80]!a} is no entry")
    if problem := bad_path(entry.path) or (leads_out(entry.path, entry.target) if entry.kind == LINK else ""):
        raise BadManifest(f"{entry.path!a} {problem}")
    return entry


def _is_mode(mode: int, known: int) -> bool:
    return type(mode) is int and mode & ~known == 0


def _is_digest(text: str) -> bool:
    return len(text) == 2 * _DIGEST_BYTES and not set(text) - set("0123456789abcdef")


def bad_path(path: str) -> str:
    """Why nothing may be written there, in words; empty: it may."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "leads out of the directory"
    if not _is_name(path):
        return "is no name"
    if parts[0] == RESERVED:
        return "is the library's own"
    return ""


def leads_out(path: str, target: str) -> str:
    """Why a link at `path` may not lead to `target`, in words; empty: it may.

    `..` is only taken at its front: after another link, `..` is where that leads to.
    """
    if not target or not _is_name(target):
        return "is a link to what is no name"
    parts: Sequence[str] = [part for part in target.split("/") if part not in ("", ".")]
    up = 0
    while up < len(parts) and parts[up] == "..":
        up += 1
    if target.startswith("/") or up > path.count("/") or ".." in parts[up:]:
        return "is a link that leads out of the directory"
    return ""


def _is_name(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        name = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    # Another text for the same bytes would be a second name of one file, which no `--exclude` knows.
    return name.decode("utf-8", "surrogateescape") == text
