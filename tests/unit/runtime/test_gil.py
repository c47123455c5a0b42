"""Long work that lets others run between its steps."""

from __future__ import annotations

import pytest

from replicator.runtime import gil
from replicator.runtime.gil import Turns


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each pause."""
    pauses: list[int] = []
    monkeypatch.setattr(gil, "let_others_run", lambda: pauses.append(1))
    return pauses


def test_one_that_has_worked_for_long_enough_pauses_after_each_step(
    monkeypatch: pytest.MonkeyPatch, pauses: list[int]
) -> None:
    monkeypatch.setattr(gil, "YIELD_EVERY_S", 0.0)
    seen = [(step, len(pauses)) for step in Turns().over("abc")]
    assert seen == [("a", 0), ("b", 1), ("c", 2)]
    assert len(pauses) == 3


def test_one_that_has_not_goes_on(monkeypatch: pytest.MonkeyPatch, pauses: list[int]) -> None:
    monkeypatch.setattr(gil, "YIELD_EVERY_S", 3600.0)
    assert list(Turns().over("abc")) == ["a", "b", "c"]
    assert pauses == []
