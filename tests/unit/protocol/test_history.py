"""What entries of a history come to: their order, and since when nothing is missing."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator import protocol
from replicator.log.memory_history import MemoryHistory
from replicator.log.memory_redis import MemoryState
from replicator.protocol.history import History, HistoryEntry, in_order, merged

FOUND = HistoryEntry(what="found", term=1, number=1, at=10, node="a", boot="a1")


def entry(what: str, term: int, number: int, **more: Any) -> HistoryEntry:
    return HistoryEntry(what=what, term=term, number=number, at=more.pop("at", 10 * number), **more)


def took(term: int, number: int, before: int | None = None, what: str = "promote") -> HistoryEntry:
    return entry(what, term, number, ended_term=before, node="b")


def since(*entries: HistoryEntry, count: int | None = None) -> int | str | None:
    """The founding, or since when it is complete."""
    last = entries[-1]
    found = History.of(entries, count=last.number if count is None else count, term=last.term)
    return "founding" if found.complete else found.complete_since_at


def test_an_entry_is_what_it_was_after_it_was_written() -> None:
    full = HistoryEntry(
        what="promote", term=2, number=3, at=4, node="n", boot="b", by="ann", reason="✓", forced=True, run="r",
        id="2-5", version=6, ended="fenced", ended_term=1, ended_node="m", ended_at=7, lasted_ms=0, restored_by="o",
        skipped_id="1-5",
    )  # fmt: skip
    assert HistoryEntry.from_fields(full.to_fields()) == full
    assert HistoryEntry.from_fields(FOUND.to_fields()) == FOUND
    assert set(full.to_fields()) == set(full.to_dict()) - {"from_log"}


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"what": "stop"},
        {"term": "1"},
        {"what": "stop", "term": "x"},
        {"what": "stop", "term": "-1"},
        {"what": "stop", "term": "1", "at": "9" * 30},
        {"what": "stop", "term": "1", "number": "²"},
    ],
)
def test_what_no_script_wrote_is_none(texts: dict[str, str]) -> None:
    assert HistoryEntry.from_fields(texts) is None


def test_fields_of_a_newer_program_are_left_out() -> None:
    assert HistoryEntry.from_fields(FOUND.to_fields() | {"colour": "red"}) == FOUND


def test_it_is_in_order_by_terms_and_numbers_whatever_the_clock_does() -> None:
    pause, stop, third = entry("pause", 1, 2, at=5), entry("stop", 2, 4, at=1), took(3, 5, 2)
    second = took(2, 3, 1)
    assert in_order([third, stop, second, FOUND, pause]) == [FOUND, pause, second, stop, third]


def test_what_was_done_without_a_log_stands_where_its_time_has_it() -> None:
    forget = entry("forget", 0, 0, at=25)
    assert in_order([FOUND, took(2, 3, 1), took(3, 4, 2), forget]) == [FOUND, forget, took(2, 3, 1), took(3, 4, 2)]


def test_an_entry_that_was_put_back_is_the_same_entry() -> None:
    back = replace(FOUND, restored_by="b")
    assert merged([back], [FOUND]) == [back]
    assert merged([FOUND], [back]) == [FOUND]
    assert merged([FOUND], [replace(FOUND, at=11)]) == [FOUND, replace(FOUND, at=11)]


def test_it_is_complete_if_nothing_is_missing_since_the_founding() -> None:
    assert since(FOUND) == "founding"
    assert since(FOUND, entry("pause", 1, 2), took(2, 3, 1), entry("stop", 2, 4)) == "founding"


def test_without_its_beginning_it_is_complete_since_its_oldest_entry() -> None:
    assert since(entry("pause", 1, 2), took(2, 3, 1)) == 20
    assert since(took(2, 1, 1), entry("pause", 2, 2)) == 10, "of a group that is older than its history"


def test_a_gap_in_the_numbers_shows() -> None:
    assert since(FOUND, entry("pause", 1, 2), took(2, 4, 1), entry("stop", 2, 5)) == 40


def test_what_is_newest_may_be_missing() -> None:
    assert since(FOUND, count=2) is None
    assert History.of([FOUND], count=1, term=2).complete_since_at is None
    assert History.of([], count=0, term=0) == History(complete=False, complete_since_at=None, entries=[])


@pytest.mark.parametrize("later", [took(3, 2, 2), entry("pause", 2, 2)])
def test_a_term_that_was_not_told_shows(later: HistoryEntry) -> None:
    """An older program took it, which does not count either."""
    assert since(FOUND, later) == 20


def test_a_log_that_is_founded_anew_counts_from_the_beginning() -> None:
    assert since(FOUND, took(2, 2, 1), took(9, 1, what="recover"), entry("pause", 9, 2)) == "founding"


def test_a_redis_that_came_back_with_less_counts_some_numbers_twice() -> None:
    assert since(FOUND, entry("pause", 1, 2), entry("resume", 1, 3), took(9, 2, 1), entry("pause", 9, 3)) == "founding"


def test_what_the_log_tells_does_not_make_it_complete() -> None:
    of_log = HistoryEntry(what="promote", term=1, node="a", from_log=True)
    assert since(of_log, took(2, 1, 1)) == 10


def test_the_term_before_a_log_that_was_lost_is_known_from_the_entry_before() -> None:
    found = History.of([FOUND, took(9, 1, what="recover")], count=1, term=9)
    last = found.entries[-1]
    assert (last.ended, last.ended_term, last.ended_node) == ("log lost", 1, "a")
    alone = History.of([took(9, 1, what="recover")], count=1, term=9)
    assert alone.entries[0].ended is None


def test_a_part_of_it_says_the_same_of_the_whole() -> None:
    found = History.of([FOUND, entry("pause", 1, 2), entry("resume", 1, 3)], count=3, term=1)
    assert [each.what for each in found.newest(2).entries] == ["pause", "resume"]
    assert [each.what for each in found.newest(9).entries] == ["found", "pause", "resume"]
    assert [each.what for each in found.since(20).entries] == ["pause", "resume"]
    assert found.newest(1).complete


# --- it decides nothing -----------------------------------------------------------------------------------------------

#: What it is, where the head has it, and the words in which a node says why it takes over.
FOR_PEOPLE = {"history.py", "group.py", "takeover_reason.py"}


def test_no_rule_reads_it() -> None:
    rules = [path for path in Path(protocol.__file__).parent.glob("*.py") if path.name not in FOR_PEOPLE]
    assert len(rules) > 10
    for path in rules:
        for node in ast.walk(ast.parse(path.read_text())):
            read = node.attr if isinstance(node, ast.Attribute) else ""
            taken = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            assert read not in ("history_count", "since"), path.name
            assert not taken.endswith("history"), path.name


def test_the_explorer_tells_no_two_states_apart_by_it() -> None:
    told = MemoryHistory().told("pause", term=1, at=1)
    assert MemoryState(history=told) == MemoryState()
    assert hash(MemoryState(history=told)) == hash(MemoryState())
