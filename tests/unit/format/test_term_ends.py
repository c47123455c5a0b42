"""The ends of terms tell what is in a history: against every record of it, in a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.format.ids import ERA, TERM_MAX, ZERO_ID, RecordId
from replicator.format.term_ends import ENDS_KEPT, left_behind, parse_ends, show_ends, with_end


class Record(NamedTuple):
    """A record of a history, and the ends of the terms before its own."""

    id: RecordId
    ends: tuple[RecordId, ...]


class Next(NamedTuple):
    """What comes next: a term, so many above the one before, with so many records.

    `lost`: how many records Redis has lost. Whoever takes the term lacks them too, or (`rebases`) still has them.
    """

    above: int
    records: int
    lost: int = 0
    rebases: bool = False


class Naive:
    """A history as a list of all its records; and every record that was ever written, in whatever history."""

    def __init__(self, terms: Iterable[Next]) -> None:
        self.history = [Record(RecordId(1, 1), ())]
        self.written = {RecordId(1, 1)}
        self.term = 1
        for each in terms:
            self._take(each)

    def _take(self, term: Next) -> None:
        kept = max(1, len(self.history) - term.lost)
        self.term += term.above
        if not term.rebases:
            self.history = self.history[:kept]
        # The term record of a rebase goes behind what is left in the log, and into no state: it is left out here.
        last = self.history[-1]
        ends = with_end(last.ends, last.id)
        new = [Record(RecordId(self.term, last.id.n + 1 + i), ends) for i in range(term.records)]
        self.history += new
        self.written |= {record.id for record in new}

    def left_behind(self, id: RecordId) -> RecordId | None:
        last = self.history[-1]
        return left_behind(id, last.ends, last.id, self.term)

    @property
    def ids(self) -> list[RecordId]:
        return [record.id for record in self.history]


terms = st.builds(Next, st.integers(1, 3) | st.just(ERA), st.integers(1, 5), st.integers(0, 12), st.booleans())


@given(st.lists(terms, max_size=20))
def test_a_record_is_left_behind_if_it_is_not_in_the_history(given_terms: list[Next]) -> None:
    naive = Naive(given_terms)
    for id_ in naive.written:
        assert (naive.left_behind(id_) is None) == (id_ in naive.ids), f"{id_} of {naive.ids}"


@given(st.lists(terms, max_size=20))
def test_the_place_where_two_histories_parted_is_the_last_record_that_both_may_have(given_terms: list[Next]) -> None:
    naive = Naive(given_terms)
    for id_ in naive.written - set(naive.ids):
        assert naive.left_behind(id_) == max(known for known in naive.ids if known < id_)


@given(st.lists(terms, max_size=20), st.integers(0, 5))
def test_what_the_present_term_or_a_later_one_may_still_bring_is_not_left_behind(
    given_terms: list[Next], above: int
) -> None:
    naive = Naive(given_terms)
    for n in (1, naive.ids[-1].n, naive.ids[-1].n + 99):
        assert naive.left_behind(RecordId(naive.term + above, n)) is None


def test_a_term_that_began_out_of_sync_has_no_record_yet_and_ends_the_one_before() -> None:
    """A view is in a term before anything of that term is in its state."""
    assert left_behind(RecordId(3, 10), (RecordId(2, 6),), RecordId(3, 10), 4) is None
    assert left_behind(RecordId(3, 11), (RecordId(2, 6),), RecordId(3, 10), 4) == RecordId(3, 10)
    assert left_behind(RecordId(1, 1), (), ZERO_ID, 4) == ZERO_ID, "it has nothing at all"


def test_an_end_that_is_given_twice_counts_once() -> None:
    """A state that was restored is at the end of the last term before a rebase, which is among the ends, too."""
    ends = (RecordId(1, 4), RecordId(2, 9))
    assert left_behind(RecordId(2, 9), ends, RecordId(2, 9), 7) is None
    assert left_behind(RecordId(2, 10), ends, RecordId(2, 9), 7) == RecordId(2, 9)


def test_a_history_tells_so_many_ends_and_of_what_is_older_nobody_can_say_that_it_is_in_it() -> None:
    naive = Naive([Next(1, 3)] * (ENDS_KEPT + 50))
    told = naive.history[-1].ends
    assert len(told) == ENDS_KEPT
    assert (
        told
        == tuple(each for each, after in zip(naive.ids, naive.ids[1:], strict=False) if each.term < after.term)[
            -ENDS_KEPT:
        ]
    )
    oldest = told[0].term
    for id_ in naive.ids:
        assert (naive.left_behind(id_) is None) == (id_.term >= oldest)


@given(st.lists(st.builds(RecordId, st.integers(0, TERM_MAX), st.integers(0, TERM_MAX)), max_size=ENDS_KEPT))
def test_ends_are_read_back_as_they_were_shown(ends: list[RecordId]) -> None:
    assert parse_ends(show_ends(ends)) == tuple(ends)


def test_ends_are_ids_with_blanks_between() -> None:
    assert show_ends([RecordId(1, 7), RecordId(5, 1040)]) == "1-7 5-1040"
    assert parse_ends("") == parse_ends(" ") == ()


@pytest.mark.parametrize("text", ["1", "1-2,3-4", "1-2 x", "1-2 -3", "1-2-3"])
def test_what_is_no_list_of_ends_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_ends(text)


def test_the_beginning_is_in_every_history() -> None:
    assert left_behind(ZERO_ID, (RecordId(1, 7), RecordId(5, 1040)), RecordId(6, 2000), 6) is None
    assert left_behind(ZERO_ID, (), ZERO_ID, 3) is None
