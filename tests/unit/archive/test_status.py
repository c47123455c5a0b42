"""What `doctor` says of an archive, from what its archiver said last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.archive.status import Status, check_of

NOW = 1_767_225_600_000
WELL = Status(group="g", host="db1", at=NOW - 500, complete_at=NOW - 1500)


def test_an_archive_that_keeps_up_is_well() -> None:
    found = check_of(WELL, "g", now_ms=NOW)
    assert (found.check, found.level, found.message) == ("archive", "ok", "it had all of the log 1.5 s ago")


@pytest.mark.parametrize(
    ("change", "level", "says"),
    [
        ({"at": NOW - 60_000}, "problem", "does not report"),
        ({"ended": True}, "problem", "has ended"),
        ({"group": "other"}, "problem", "of group other"),
        ({"problem": "no room"}, "problem", "no room"),
        ({"complete_at": 0}, "warning", "not yet had all of the log"),
        ({"complete_at": NOW - 400_000, "lag_records": 7}, "warning", "400.0 s ago (7 records)"),
    ],
    ids=lambda each: str(each),
)
def test_what_is_not_well_is_said(change: dict[str, object], level: str, says: str) -> None:
    found = check_of(replace(WELL, **change), "g", now_ms=NOW)  # type: ignore[arg-type]
    assert found.level == level
    assert says in found.message


def test_an_archiver_that_never_was_is_a_problem() -> None:
    assert check_of(None, "g").level == "problem"
