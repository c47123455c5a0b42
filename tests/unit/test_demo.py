"""What `make demo` says of a drill. That it plays one is in tests/acceptance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.errors import ConfigError
from replicator.sandbox import demo, drill
from replicator.sandbox.drill import FaultReport, Report

PAUSE = FaultReport(
    fault="pause", acknowledged_count=260, lost_tags=[], refused_count=0, unknown_count=4,
    gap_ms=1036, stale_refused_count=2, primary="b", term=2, problem=None,
)  # fmt: skip

GOOD = Report(
    faults=[PAUSE], acknowledged_count=1650, refused_count=83, unknown_count=1, landed_count=1,
    lost_tags=[], doubled_tags=[], appeared_tags=[], stale_accepted_count=0, equal=True, position="2-14",
    digests={"a": "0", "b": "0", "c": "0"}, problems=[],
)  # fmt: skip


def test_a_good_drill_is_told_in_numbers() -> None:
    assert list(demo.in_words(GOOD)) == [
        "The primary hung, and woke up later: nobody could write for 1.0 s, then b led in term 2.",
        "",
        "1,650 writes were acknowledged: 0 of them are missing.",
        "  (260 of them while a fault was played, the others before, between and after.)",
        "83 writes were refused, or reached nobody: 0 of them are in the state.",
        "1 write was not answered in time: 1 of them are in the state.",
        "  (Any number is right here: nobody was told what became of them.)",
        "In the state twice: 0.",
        "2 writes were sent in the name of a primary that had been replaced: Redis took 0 of them.",
        "All three nodes, the old primaries among them, have the same state.",
        "",
        "All is as it should be.",
    ]


def test_what_was_lost_is_not_called_good() -> None:
    bad = replace(GOOD, lost_tags=["w-1", "w-2"], equal=False, stale_accepted_count=1, problems=["pause: nobody leads"])
    said = list(demo.in_words(bad))
    assert "1,650 writes were acknowledged: 2 of them are missing." in said
    assert "3 writes were sent in the name of a primary that had been replaced: Redis took 1 of them." in said
    assert "All three nodes, the old primaries among them, are NOT shown to have the same state." in said
    assert said[-3:] == ["Problem: pause: nobody leads", "", "NOT as it should be: see above."]


@pytest.mark.parametrize(("report", "code"), [(GOOD, 0), (replace(GOOD, lost_tags=["w-1"]), 1), (None, 1)])
def test_the_exit_code_is_that_of_what_was_found(
    report: Report | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "run", lambda *_, **__: report)
    assert demo.main() == code


def test_a_stack_that_does_not_come_up_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConfigError(setting="supervisor", problem="is not installed")

    monkeypatch.setattr(drill, "run", fails)
    assert demo.main() == ConfigError.exit_code
    assert capsys.readouterr().err == "Error: supervisor: is not installed\n"
