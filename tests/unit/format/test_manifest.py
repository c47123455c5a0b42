"""A manifest comes back as it was, and no name in one leads out of the directory, whatever somebody wrote into it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.format.manifest import (
    DATABASE,
    DIRECTORY,
    FILE,
    LINK,
    BadManifest,
    Content,
    Entry,
    contents_of,
    in_order,
    leads_out,
    manifest_pieces,
    read_manifest,
)

HEAD = b'{"directory": 1}\n'
DIGEST = "0" * 40

#: Names as a file system has them: any bytes but the slash and the zero.
NAMES = (
    st.binary(min_size=1, max_size=12)
    .map(lambda name: os.fsdecode(name.replace(b"/", b"_").replace(b"\0", b"_")))
    .filter(lambda name: name not in (".", "..", ".replicator"))
)


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    entries: dict[str, Entry] = {}
    directories = [""]
    for name in draw(st.lists(NAMES, max_size=12)):
        above = draw(st.sampled_from(directories))
        path = f"{above}/{name}" if above else name
        kind = draw(st.sampled_from([FILE, DATABASE, DIRECTORY, LINK]))
        if path in entries:
            continue
        if kind == LINK:
            entries[path] = Entry(LINK, path, target=draw(NAMES.filter(lambda target: not target.startswith("."))))
        elif kind == DIRECTORY:
            entries[path] = Entry(DIRECTORY, path, draw(st.integers(0, 0o777)))
            directories.append(path)
        else:
            size, digest = draw(st.integers(0, 2**50)), draw(st.binary(min_size=20, max_size=20)).hex()
            entries[path] = Entry(kind, path, draw(st.integers(0, 0o777)), size, digest)
    return sorted(entries.values(), key=lambda entry: in_order(entry.path))


@given(trees().filter(bool))
def test_what_is_written_is_read_again(entries: list[Entry]) -> None:
    assert read_manifest(manifest_pieces(entries)) == entries


def test_a_content_is_named_once_and_an_empty_one_not_at_all() -> None:
    files = [("a", 1, "1"), ("b", 0, "0"), ("c", 2, "2"), ("d", 1, "1")]
    entries = [Entry(FILE, path, 0o600, size, digest * 40) for path, size, digest in files]
    assert contents_of([*entries, Entry(LINK, "e", target="a")]) == [Content("1" * 40, 1), Content("2" * 40, 2)]


def test_one_more_entry_moves_no_other_piece() -> None:
    entries = [Entry(FILE, f"{number:05}", 0o600, 1, DIGEST) for number in range(5000)]
    before, after = (
        [*manifest_pieces(entries)],
        [*manifest_pieces([*entries[:2000], Entry(LINK, "01999x", target="a"), *entries[2000:]])],
    )
    assert len(before) > 5
    assert len(set(after) - set(before)) <= 2


def lines(*entries: Any) -> Any:
    return iter([HEAD + b"".join(json.dumps(entry).encode() + b"\n" for entry in entries), b""])


BAD = [
    # names that lead out, or are none
    *(["f", path, 0o600, 1, DIGEST] for path in (
        "", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "./a", "a//b", "a/", "a\0b", "\ud800",
        ".replicator", ".replicator/restoring",
        "\udcc3\udca9", "\udce2\udc82\udcac",  # what UTF-8 has another text for: two names of one file
    )),
    # links that do
    *(["l", "a", target] for target in ("/etc", "..", "../x", "b/../../x", "b/..", "", "x\0", "./../x")),
    # modes that would make somebody else of whoever runs it, and what is no mode, size or digest
    *(["f", "a", mode, 1, DIGEST] for mode in (0o4755, 0o2755, 0o1777, -1, 2**40, True, 1.0, "600", None)),
    *(["d", "a", mode] for mode in (0o4755, -1, True)),
    *(["f", "a", 0o600, size, DIGEST] for size in (-1, True, 1.5, "1", None)),
    *(["f", "a", 0o600, 1, digest] for digest in ("", "0" * 39, "G" * 40, "A" * 40, 1, None)),
    # what is no entry
    [], {}, None, 1, "f", ["f"], ["x", "a"], ["f", "a", 0o600, 1], ["f", "a", 0o600, 1, DIGEST, 1], ["l", "a"],
    ["l", "a", 1], ["d", "a"], ["f", 1, 0o600, 1, DIGEST],
]  # fmt: skip


@pytest.mark.parametrize("entry", BAD)
def test_what_must_not_be_written_is_refused(entry: Any) -> None:
    with pytest.raises(BadManifest):
        read_manifest(lines(entry))


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([["l", "a", "b"], ["f", "a/x", 0o600, 1, DIGEST]], id="in a link"),
        pytest.param([["f", "a", 0o600, 1, DIGEST], ["f", "a/x", 0o600, 1, DIGEST]], id="in a file"),
        pytest.param([["f", "a/x", 0o600, 1, DIGEST]], id="in a directory that is not there"),
        pytest.param([["d", "a", 0o700], ["l", "a", "b"]], id="twice"),
        pytest.param([["l", "b", "a"], ["d", "a", 0o700]], id="out of order"),
    ],
)
def test_entries_that_do_not_fit_each_other_are_refused(entries: list[Any]) -> None:
    with pytest.raises(BadManifest):
        read_manifest(lines(*entries))


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b""],
        [HEAD],
        [HEAD, b""],
        [b'{"directory": 2}\n', b""],
        [b"\xff\n", b""],
        [HEAD, b"[" * 100_000, b""],
        [{"directory": 1}],
    ],
)
def test_what_is_no_manifest_is_refused(pieces: list[Any]) -> None:
    with pytest.raises(BadManifest):
        read_manifest(iter(pieces)) if pieces != [b""] else read_manifest(iter([b"x\n", b""]))


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_bytes_of_anybody_are_entries_or_refused(pieces: list[bytes]) -> None:
    try:
        entries = read_manifest(iter([HEAD, *pieces, b""]))
    except BadManifest:
        return
    for entry in entries:
        assert not os.path.isabs(entry.path)
        assert os.path.normpath(os.path.join("/top", entry.path)).startswith("/top/")


@given(st.lists(st.sampled_from(["..", "a", ".", "", "b"]), max_size=5), st.integers(0, 3))
def test_a_link_that_may_stay_leads_to_something_inside(parts: list[str], depth: int) -> None:
    path, target = "/".join(["d"] * depth + ["link"]), "/".join(parts)
    if not leads_out(path, target):
        where = os.path.normpath(os.path.join("/top", os.path.dirname(path), target))
        assert where == "/top" or where.startswith("/top/")
        assert not os.path.isabs(target)
