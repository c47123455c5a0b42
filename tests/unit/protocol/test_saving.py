"""What a node that is killed may have forgotten, record by record."""

from __future__ import annotations

import pytest

from replicator.format.ids import ORIGIN, ZERO_ID, Writer
from replicator.format.records import Record, seal_change, seal_part
from replicator.protocol.fold import Verdict, View
from replicator.protocol.saving import may_be_forgotten

A = Writer("a", "a1")
HERE = View(term=1)
NEXT_TERM = View(term=2)


def change(*, wants_acks: int = 0) -> Record:
    return seal_change(
        writer=A, term=1, after=ORIGIN, at=0, codec="raw", digest="", count=1, body=b"x", wants_acks=wants_acks
    )


def part() -> Record:
    return seal_part(
        writer=A, term=1, after=ORIGIN, n=1, at=0, codec="raw", digest="", part=0, parts=0, as_of=ORIGIN,
        changed=ZERO_ID, replaces=False, body=b"x",
    )  # fmt: skip


def test_a_change_that_follows_may_and_so_may_a_part_that_changes_nothing() -> None:
    assert may_be_forgotten(change(), Verdict.APPLY, HERE, HERE)
    assert may_be_forgotten(part(), Verdict.SKIP, HERE, HERE)


def test_a_change_that_somebody_waits_for_may_not() -> None:
    assert not may_be_forgotten(change(wants_acks=1), Verdict.APPLY, HERE, HERE)


@pytest.mark.parametrize("verdict", [Verdict.APPLY, Verdict.SKIP])
def test_nothing_with_which_a_term_begins_may_whatever_the_record_is(verdict: Verdict) -> None:
    assert not may_be_forgotten(change(), verdict, HERE, NEXT_TERM)


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict not in (Verdict.APPLY, Verdict.SKIP)])
def test_no_other_verdict_may(verdict: Verdict) -> None:
    assert not may_be_forgotten(part(), verdict, HERE, HERE)
