"""The settings of a process that does jobs, and what becomes of a job that finds something wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from replicator.errors import ConfigError
from replicator.jobs.errors import BrokenOff, NotPassed
from replicator.jobs.work import JobSettings, run
from replicator.sandbox import drill
from replicator.sandbox.drill.report import Report

GROUP = {"REPLICATOR_REDIS": "redis://localhost", "REPLICATOR_GROUP": "g"}

REPORT = Report(
    faults=[], acknowledged_count=12, refused_count=2, unknown_count=1, landed_count=1, lost_tags=[], doubled_tags=[],
    appeared_tags=[], stale_accepted_count=0, equal=True, position="2-14", digests={}, problems=[],
)  # fmt: skip


def test_a_worker_has_its_settings_from_its_environment(tmp_path: Path) -> None:
    (tmp_path / "nodes" / "a").mkdir(parents=True)
    (tmp_path / "nodes" / "a" / "checkpoint.sqlite").touch()
    (tmp_path / "nodes" / "empty").mkdir()
    settings = JobSettings.of(
        GROUP
        | {
            "REPLICATOR_BACKUPS": "/backups",
            "REPLICATOR_BACKUPS_KEEP": "7",
            "REPLICATOR_BACKUPS_KEEP_DAYS": "0.5",
            "REPLICATOR_CERTIFY_STATE": "app:State",
            "REPLICATOR_DATA_DIR": str(tmp_path / "nodes"),
        }
    )
    assert (settings.backups, settings.keep, settings.keep_days) == (Path("/backups"), 7, 0.5)
    assert (settings.state, settings.data_dirs) == ("app:State", (tmp_path / "nodes" / "a",))


def test_without_them_nothing_of_its_machine_is_touched() -> None:
    settings = JobSettings.of(GROUP)
    assert (settings.backups, settings.keep, settings.keep_days, settings.data_dirs) == (None, None, None, ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("REPLICATOR_REDIS", ""),
        ("REPLICATOR_BACKUPS_KEEP", "0"),
        ("REPLICATOR_BACKUPS_KEEP", "many"),
        ("REPLICATOR_BACKUPS_KEEP", "-1"),
        ("REPLICATOR_BACKUPS_KEEP", "0.5"),
        ("REPLICATOR_BACKUPS_KEEP_DAYS", "nan"),
        ("REPLICATOR_BACKUPS_KEEP_DAYS", "inf"),
    ],
)
def test_a_setting_that_is_none_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        JobSettings.of(GROUP | {name: text})


def played(monkeypatch: pytest.MonkeyPatch, report: Report | None) -> list[Any]:
    """Have a drill give this; with what it is called."""
    calls: list[Any] = []
    monkeypatch.setattr(drill, "run", lambda *args, **options: calls.append((args, options)) or report)
    return calls


def do(**arguments: Any) -> Any:
    return run("drill", arguments, JobSettings.of(GROUP), by="test", key="0" * 16)


def test_a_drill_that_is_passed_gives_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = played(monkeypatch, REPORT)
    assert do(faults=["kill"], lease_s=2.0) == REPORT.to_dict()
    ((faults,), options) = calls[0]
    assert (faults, options["lease_s"], options["seconds_per_fault"]) == (["kill"], 2.0, 6.0)
    assert "directory" not in options


def test_without_faults_all_of_them_are_played(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = played(monkeypatch, REPORT)
    do()
    assert calls[0][0] == (list(drill.FAULTS),)


def test_one_that_is_not_passed_fails_and_its_report_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    lost = replace(REPORT, lost_tags=["t"])
    played(monkeypatch, lost)
    with pytest.raises(NotPassed, match="the drill was not passed") as raised:
        do()
    assert raised.value.result == lost.to_dict()


def test_one_that_was_asked_to_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, None)
    with pytest.raises(BrokenOff):
        do()
