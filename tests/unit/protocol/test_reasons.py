"""The codes of reasons are a closed set, each with facts of its own, and docs/reasons.md is about all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replicator.protocol.reasons import FACTS, ReasonCode, reason

DOCUMENT = (Path(__file__).parents[3] / "docs" / "reasons.md").read_text()


def test_every_code_has_its_facts() -> None:
    assert set(FACTS) == set(ReasonCode)


def test_a_reason_has_the_facts_of_its_code_in_their_order() -> None:
    told = reason(ReasonCode.OTHER_LEADS, "a leads", {"lease_ms": 5, "primary": "a", "term": 1})
    assert list(told.facts.items()) == [("primary", "a"), ("term", 1), ("lease_ms", 5)]


@pytest.mark.parametrize("facts", [None, {"term": 1}, {"primary": "a", "term": 1, "lease_ms": 5, "more": 1}])
def test_other_facts_than_those_of_its_code_are_a_mistake(facts: dict[str, str | int] | None) -> None:
    with pytest.raises(ValueError, match="other_leads comes with"):
        reason(ReasonCode.OTHER_LEADS, "a leads", facts)


def test_the_document_lists_every_code_with_its_facts() -> None:
    table = DOCUMENT.partition("## Codes")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*)\|", table, re.MULTILINE)
    assert [(code, tuple(re.findall(r"`(\w+)`", facts))) for code, facts in rows] == [
        (code.value, facts) for code, facts in FACTS.items()
    ]
