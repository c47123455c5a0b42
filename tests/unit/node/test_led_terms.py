"""Who led when, from a node's memory: what it saw, the ends of older terms, and never a guess."""

from __future__ import annotations

from replicator.format.ids import ORIGIN, Position, RecordId
from replicator.node.led_terms import TERMS_KEPT, LedTerm, LedTerms
from replicator.protocol.fold import NOBODY, Holder, View


def view(term: int, holder: str, *, ends: tuple[RecordId, ...] = (), n: int = 0) -> View:
    by = Holder(holder, f"boot-of-{holder}", "run-1") if holder else NOBODY
    return View(term=term, holder=by, ends=ends, position=Position(RecordId(term, n), "0" * 32) if n else ORIGIN)


class Told:
    """A view that moves, and a clock that counts."""

    def __init__(self, first: View) -> None:
        self.view = first
        self.now = 0
        self.terms = LedTerms(lambda: self.view, now_ms=lambda: self.now)

    def becomes(self, view: View, at: int) -> None:
        self.view, self.now = view, at
        self.terms.turned()


def test_a_group_without_a_term_has_no_history() -> None:
    assert Told(View()).terms.terms() == []


def test_it_tells_who_took_a_term_and_when_that_was_noticed() -> None:
    told = Told(View())
    told.becomes(view(1, "a", n=3), at=1000)
    told.becomes(view(2, "b", ends=(RecordId(1, 7),), n=8), at=2000)
    assert told.terms.terms() == [
        LedTerm(1, "a", "boot-of-a", 1000, "1-7"),
        LedTerm(2, "b", "boot-of-b", 2000, "2-8"),
    ]


def test_a_term_that_began_before_the_node_did_has_a_holder_and_no_moment() -> None:
    (only,) = Told(view(4, "c", n=9)).terms.terms()
    assert (only.holder, only.noticed_at, only.last_id) == ("c", None, "4-9")


def test_of_terms_that_it_did_not_see_it_knows_the_ends_alone() -> None:
    told = Told(view(3, "a", ends=(RecordId(1, 7), RecordId(2, 9)), n=12))
    assert [(each.term, each.holder, each.last_id) for each in told.terms.terms()] == [
        (1, None, "1-7"), (2, None, "2-9"), (3, "a", "3-12"),
    ]  # fmt: skip


def test_a_holder_that_is_learnt_later_is_filled_in_and_the_moment_stays() -> None:
    told = Told(View())
    told.becomes(view(2, ""), at=1000)
    told.becomes(view(2, "b", n=4), at=5000)
    told.becomes(view(2, "b", n=5), at=6000)
    assert told.terms.terms() == [LedTerm(2, "b", "boot-of-b", 1000, "2-5")]


def test_a_group_that_flaps_does_not_fill_the_memory() -> None:
    told = Told(View())
    for term in range(1, TERMS_KEPT + 50):
        told.becomes(view(term, "a"), at=term)
    terms = told.terms.terms()
    assert (len(terms), terms[-1].term) == (TERMS_KEPT, TERMS_KEPT + 49)
