"""How `history` says, for people, how the term before ended."""

from __future__ import annotations

import pytest

from replicator.cli.history import _before
from replicator.protocol.history import HistoryEntry


@pytest.mark.parametrize(
    ("ended", "lasted_ms", "said"),
    [
        # Its lease of three seconds ran out later: how long that was, nobody knows.
        ("lease ran out", 1000, "a in 1: lease ran out, last heard of after 1.0 s"),
        ("lease ran out", None, "a in 1: lease ran out"),
        ("stopped", 3_277_000, "a in 1: stopped after 54 min 37 s"),
    ],
)
def test_the_end_of_a_term(ended: str, lasted_ms: int | None, said: str) -> None:
    entry = HistoryEntry(
        what="takeover", term=2, node="b", ended=ended, ended_term=1, ended_node="a", lasted_ms=lasted_ms
    )
    assert _before(entry) == said
