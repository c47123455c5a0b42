"""Changes of files as bytes: what goes in comes out, and leads to the directory that was meant, or is refused."""

from __future__ import annotations

import json
import random
import struct
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import CorruptRecord
from replicator.format import file_changes
from replicator.format.file_changes import MAGIC, FileChange, Listing
from replicator.format.manifest import (
    DIRECTORY,
    FILE,
    LINK,
    BadManifest,
    Content,
    Entry,
    contents_of,
    in_order,
    manifest_pieces,
    read_manifest,
)
from replicator.format.patch import PatchHead

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EMPTY = "0" * 32


def file(path: str, content: str = "1", mode: int = 0o644) -> Entry:
    return Entry(FILE, path, mode, len(content), content.encode().hex().rjust(40, "0"))


def directory(path: str) -> Entry:
    return Entry(DIRECTORY, path, 0o755)


def listing(*entries: Entry) -> Listing:
    return Listing.of(sorted(entries, key=lambda entry: in_order(entry.path)))


#: Of few names, so that a file takes the place of a directory, and the other way round.
@st.composite
def trees(draw: st.DrawFn) -> Listing:
    entries: dict[str, Entry] = {}
    directories = [""]
    for name in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=12)):
        above = draw(st.sampled_from(directories))
        path = f"{above}/{name}" if above else name
        if path in entries:
            continue
        kind = draw(st.sampled_from([FILE, DIRECTORY, LINK]))
        if kind == DIRECTORY:
            directories.append(path)
        made = {FILE: file(path, draw(st.sampled_from(("", "1", "22", "333")))), DIRECTORY: directory(path)}
        entries[path] = made.get(kind, Entry(LINK, path, target="a"))
    return listing(*entries.values())


def change_of(old: Listing, new: Listing) -> FileChange:
    gone, entries = old.changed_to(new.in_order())
    return FileChange(old.digest, new.digest, old.size, new.size, gone, entries, b"")


def again(change: FileChange) -> FileChange:
    data = change.to_bytes()
    assert data is not None
    return FileChange.of(data, id_="1-1")


@given(trees(), trees())
def test_a_change_leads_from_one_directory_to_the_other(old: Listing, new: Listing) -> None:
    before = vars(Listing.of(old.in_order()))
    read = again(change_of(old, new))
    assert (sorted(read.gone), read.entries) == (sorted(change_of(old, new).gone), change_of(old, new).entries)
    assert vars(old.after(read.gone, read.entries)) == vars(new)
    assert new.digest == Listing.of(new.in_order()).digest
    assert (old.digest == new.digest) == (old.entries == new.entries)
    assert vars(old) == before


@given(trees())
def test_it_knows_what_is_in_it(tree: Listing) -> None:
    entries = tree.in_order()
    assert entries == read_manifest(manifest_pieces(entries))
    assert [*tree.contents] == contents_of(tree.entries.values())
    assert tree.size == sum(content.size for content in tree.contents)
    assert tree.weight >= tree.size + sum(len(piece) + 256 for piece in [*manifest_pieces(entries)][:-1]) - 256 - 17


def test_what_is_new_is_named_once_and_told_from_what_was_there() -> None:
    old = listing(file("a", "old"), file("b", "same"), file("c", "also"), directory("d"))
    new = [file("a", "new"), file("b", "also"), file("c", "new"), file("d", "more"), file("e", ""), file("f", "first")]
    digests = {name: file("x", name).digest for name in ("new", "more", "first", "old", "also")}
    assert old.new_contents(new) == [Content(digests[name], len(name)) for name in ("new", "more", "first")]
    # not of what is there already, and not where there was no file
    assert old.bases(new) == [Content(digests["old"], 3), Content(digests["also"], 4)]


def test_it_is_a_patch_of_another_form() -> None:
    old, new = listing(file("a", "1")), listing(file("a", "22"))
    data = change_of(old, new).to_bytes()
    assert data is not None
    assert PatchHead.of(data, id_="1-1") == (old.digest, new.digest, 1, 2, True)
    with pytest.raises(CorruptRecord, match="not known here: update replicator"):
        PatchHead.of(b"RPD9" + data[4:], id_="1-1")


@pytest.mark.parametrize(
    ("gone", "entries", "said"),
    [
        (["x"], [], "was not there"),
        (["d"], [], "left in 'd'"),
        ([], [file("d")], "left in 'd'"),
        (["d", "d/e"], [], "left in 'd/e'"),
        ([], [file("x/y")], "in something that is no directory"),
        ([], [file("f/y")], "in something that is no directory"),
        ([], [file("l/y")], "in something that is no directory"),
        (["d", "d/e", "d/e/f", "f", "l"], [], "empty directory"),
    ],
)
def test_what_makes_no_directory_is_refused(gone: list[str], entries: list[Entry], said: str) -> None:
    old = listing(directory("d"), directory("d/e"), file("d/e/f"), file("f"), Entry(LINK, "l", target="d"))
    with pytest.raises(BadManifest, match=said):
        old.after(gone, entries)


def packed(*lines: Any, listed: bytes | None = None, list_bytes: int | None = None) -> bytes:
    """A patch with these lines, whatever they are."""
    listed = b"".join(json.dumps(line).encode() + b"\n" for line in lines) if listed is None else listed
    frame = zstd.compress(listed)
    size = len(listed) if list_bytes is None else list_bytes
    return struct.pack(">4s16s16sQQII", MAGIC, bytes(16), bytes(16), 0, 0, size, len(frame)) + frame


@pytest.mark.parametrize(
    "line",
    [
        *(
            ["f", path, 0o644, 1, "0" * 40]
            for path in ("../a", "/a", "a/../b", "a//b", "", ".", "a\0", ".replicator/a")
        ),
        *(["-", path] for path in ("../a", "/a", "a/../b", "", ".", "a\0", ".replicator", "\ud800", "\udcc3\udca9")),
        *(["l", "a", target] for target in ("/etc/passwd", "../a", "b/../../c", "")),
        ["f", "a", 0o4755, 1, "0" * 40],
        ["f", "a", 0o644, -1, "0" * 40],
        ["f", "a", 0o644, 1, "0" * 39],
        ["-", "a", "b"],
        ["-", 7],
        ["-"],
        ["-", ["a"]],
        {"-": "a"},
        None,
    ],
)
def test_a_line_that_names_what_must_not_be_named_is_refused(line: Any) -> None:
    with pytest.raises(CorruptRecord, match="change of files is not one"):
        FileChange.of(packed(line), id_="1-1")


@pytest.mark.parametrize(
    "lines",
    [
        (["-", "b"], ["-", "a"]),
        (["-", "a"], ["-", "a"]),
        (["-", "a"], ["d", "a", 0o755]),
        (["d", "a-b", 0o755], ["d", "a/b", 0o755], ["d", "a", 0o755]),
    ],
)
def test_lines_are_in_order_and_name_each_path_once(lines: tuple[Any, ...]) -> None:
    with pytest.raises(CorruptRecord, match="out of order, or there twice"):
        FileChange.of(packed(*lines), id_="1-1")


def test_a_list_has_a_bound_for_who_writes_and_for_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    old = listing(*(file(str(number)) for number in range(10)))
    change = change_of(old, listing(file("x")))
    monkeypatch.setattr(file_changes, "LINES_MAX", 10)
    assert change.to_bytes() is None
    with pytest.raises(CorruptRecord, match="too many lines"):
        FileChange.of(packed(*(["-", str(number)] for number in range(11, 22))), id_="1-1")
    monkeypatch.undo()
    monkeypatch.setattr(file_changes, "LIST_BYTES_MAX", 80)
    assert change.to_bytes() is None
    with pytest.raises(CorruptRecord, match="too long"):
        FileChange.of(packed(["-", "a" * 80]), id_="1-1")


def test_a_frame_that_unpacks_to_something_else_than_it_says_is_refused() -> None:
    bomb = packed(listed=bytes(2**26), list_bytes=100)
    for data, said in ((bomb, "not whole"), (packed(listed=b'["-","a"]'), "no end"), (packed()[:-1], "not whole|zstd")):
        with pytest.raises(CorruptRecord, match=said):
            FileChange.of(data, id_="1-1")
    with pytest.raises(CorruptRecord, match="no change of files"):
        FileChange.of(packed()[:20], id_="1-1")


def test_no_bit_of_it_makes_anything_else_than_a_refusal_or_a_change() -> None:
    old = listing(directory("d"), file("d/a"), file("d/b"), file("e"))
    data = change_of(old, listing(directory("d"), file("d/a", "22"), file("d/c", "1"))).to_bytes()
    assert data is not None
    chance = random.Random(1)
    for _ in range(3000):
        damaged = bytearray(data[: chance.choice((len(data), chance.randrange(len(data))))])
        for _ in range(chance.randrange(3)):
            if damaged:
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        with suppress(CorruptRecord, BadManifest):
            change = FileChange.of(bytes(damaged), id_="1-1")
            read_manifest(manifest_pieces(old.after(change.gone, change.entries).in_order()))
