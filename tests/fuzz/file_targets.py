"""Changes of files: lists of names that somebody else wrote, and what they make of a directory."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from replicator.errors import CorruptRecord
from replicator.format.file_changes import FileChange, Listing
from replicator.format.manifest import (
    DIRECTORY,
    FILE,
    LINK,
    BadManifest,
    Entry,
    bad_path,
    in_order,
    manifest_pieces,
    read_manifest,
)
from tests.fuzz.core_targets import whole
from tests.fuzz.engine import MIB, Target
from tests.fuzz.mutate import NASTY_TEXTS, Choices, edit_bytes, edits

__all__ = ["TARGETS"]

_PATHS = ("a", "a/b", "a/b/c", "a-b", "b", "..", "a/../b", "/a", ".replicator/a", "a//b", "c", *NASTY_TEXTS)
_OLD = (
    Listing(),
    Listing.of([Entry(FILE, "a", 0o644, 1, "0" * 40)]),
    Listing.of(
        [
            Entry(DIRECTORY, "a", 0o755),
            Entry(DIRECTORY, "a/b", 0o755),
            Entry(FILE, "a/b/c", 0o644, 3, "1" * 40),
            Entry(LINK, "b", target="a/b"),
        ]
    ),
)


class _Changed(NamedTuple):
    old: Listing
    data: bytes


def _change(choices: Choices) -> _Changed:
    """A change of a directory, or almost."""
    old = choices.pick(_OLD)
    gone = [choices.pick((*old.entries, *_PATHS)) for _ in choices.few(3)]
    entries = [_entry(choices) for _ in choices.few(4)]
    gone = [path for path in dict.fromkeys(gone) if path not in {entry.path for entry in entries}]
    entries = sorted({entry.path: entry for entry in entries}.values(), key=lambda entry: in_order(entry.path))
    try:
        digest = old.after(gone, entries).digest
    except BadManifest:
        digest = old.digest
    data = FileChange(old.digest, digest, old.size, old.size, gone, entries, b"").to_bytes()
    assert data is not None
    if choices.once_in(3):
        head = choices.pick((4, 36, 52))
        data = data[:head] + edit_bytes(data[head:], edits(choices))
    return _Changed(old, data)


def _entry(choices: Choices) -> Entry:
    path = choices.pick(_PATHS)
    match choices.below(3):
        case 0:
            return Entry(DIRECTORY, path, choices.pick((0o755, 0, 0o7777)))
        case 1:
            return Entry(LINK, path, target=choices.pick(_PATHS))
        case _:
            size = choices.pick((0, 1, 2**60))
            return Entry(FILE, path, choices.pick((0o644, 0o4755)), size, choices.pick(("2" * 40, "1" * 40, "x")))


def _read_change(given: _Changed) -> bool:
    try:
        change = FileChange.of(given.data, id_="5-1042")
    except CorruptRecord:
        return False
    try:
        new = given.old.after(change.gone, change.entries)
    except BadManifest:
        return False
    _check(new)
    return True


def _check(listing: Listing) -> None:
    """It is a directory, none of whose names leads out of it, and its sums are right."""
    entries: list[Any] = read_manifest(manifest_pieces(listing.in_order()))
    assert vars(Listing.of(entries)) == vars(listing)
    assert not any(bad_path(entry.path) for entry in entries)
    assert all(json.loads(entry.to_json()) for entry in entries)


TARGETS = (Target(name="file-change", build=_change, size=64, opened=whole(_read_change), bytes_max=MIB),)
