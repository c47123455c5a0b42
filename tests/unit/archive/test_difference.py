"""Two states, entry by entry."""

from __future__ import annotations

from typing import Any

from replicator.archive.difference import differences
from replicator.format.manifest import DIRECTORY, FILE, LINK, Entry, manifest_pieces


def told(before: list[Any], after: list[Any]) -> list[tuple[str, str]]:
    return [(each.to_dict()["entry"], each.to_dict()["kind"]) for each in differences(before, after)]


def test_equal_states_differ_in_nothing_however_they_are_cut() -> None:
    assert (
        told([{"n": {"1": 1, "2": 2}, "t": ["a", "b"]}], [{"n": {"1": 1}}, {"n": {"2": 2}, "t": ["a"]}, {"t": ["b"]}])
        == []
    )


def test_entries_are_added_removed_and_changed() -> None:
    before = [{"n": {"1": "one", "2": "two"}, "next": 3}]
    after = [{"n": {"2": "zwei", "3": "three"}, "next": 3}]
    assert told(before, after) == [("n.1", "removed"), ("n.2", "changed"), ("n.3", "added")]


def test_items_of_lists_count_how_often_they_are_there() -> None:
    assert told([{"t": ["a", "a"]}], [{"t": ["a"]}]) == [('t["a"]#2', "removed")]


def test_pieces_that_are_no_objects_are_entries_themselves() -> None:
    assert told([["data", "k", 1]], [["data", "k", 2]]) == [
        ('[["data","k",1]]', "removed"),
        ('[["data","k",2]]', "added"),
    ]


def test_of_bytes_the_size_and_the_digest_are_told() -> None:
    [difference] = differences([b"one"], [b"o", b"ther"])
    assert difference.to_dict()["before"]["bytes"] == 3
    assert difference.to_dict()["after"]["bytes"] == 5


def test_of_a_directory_the_paths_are_told() -> None:
    def pieces(*entries: Entry) -> list[bytes]:
        return [*manifest_pieces(entries), b"content"]

    before = pieces(Entry(FILE, "a", 0o644, 7, "0" * 40), Entry(DIRECTORY, "d", 0o755), Entry(LINK, "l", target="a"))
    after = pieces(
        Entry(FILE, "a", 0o644, 7, "1" * 40), Entry(LINK, "l", target="\udcff"), Entry(FILE, "new", 0, 0, "0" * 40)
    )
    assert told(before, after) == [("a", "changed"), ("d", "removed"), ("l", "changed"), ("new", "added")]
    assert [each.to_dict()["before"] for each in differences(before, after)] == [
        {"mode": "644", "bytes": 7, "digest": "0" * 40},
        {"mode": "755"},
        {"link": "a"},
        None,
    ]
    assert told(before, before) == []
