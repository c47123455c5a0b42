"""Chaos bites: with a rule taken out of replicator, a scenario breaks a promise that it keeps with the rule in place.

What is taken out alone where one rule does it, and in pairs where a second one guards the same thing: the log's check
of the boot behind the node's own, the chain behind the reader's check of the term. `tests/model/removals.py` takes out
more, and explores every order of events; here it is real processes and a real Redis, and one order.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .broken import VARIANTS
from .scenarios import SCENARIOS, play

#: A rule that is not there is found in one of them.
PLAYS_MAX = 3


def test_every_variant_has_a_scenario() -> None:
    assert VARIANTS.keys() == SCENARIOS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_group_without_the_rule_breaks_a_promise(name: str, tmp_path: Path) -> None:
    # when every node lacks the rule, in a story that a busy machine may tell in another order
    found: set[str] = set()
    for number in range(PLAYS_MAX):
        directory = tmp_path / str(number)
        directory.mkdir()
        found |= {violation.rule for violation in play(name, directory, breaks=name).violations}
        if VARIANTS[name].caught_by in found:
            break
    # then the checker says which promise was broken
    assert VARIANTS[name].caught_by in found


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_group_with_the_rule_keeps_every_promise(name: str, tmp_path: Path) -> None:
    assert play(name, tmp_path).violations == []
