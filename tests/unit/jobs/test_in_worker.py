"""What a job leaves in Redis when it fails, where the group has a key."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import ReplicatorError
from replicator.jobs import in_worker, work
from replicator.jobs.in_worker import perform
from replicator.ops.certify import CannotRebuild
from tests.support.sealed import key_file

SECRET = "marker-of-the-state"


class Job:
    id, asked, asked_arguments = "j", "certify", dict[str, Any]()
    created_at = datetime(2026, 1, 1, tzinfo=UTC)

    def __init__(self) -> None:
        self.meta: dict[str, Any] = {}

    def save_meta(self) -> None: ...


@pytest.fixture(params=[True, False], ids=["sealed", "unsealed"])
def sealed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    monkeypatch.setenv("REPLICATOR_REDIS", "unix:///none")
    monkeypatch.setenv("REPLICATOR_GROUP", "g")
    if request.param:
        monkeypatch.setenv("REPLICATOR_KEY_FILE", str(key_file(tmp_path / "keys")))
    return bool(request.param)


def left_by(error: Exception, monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> str:
    """What RQ would keep."""

    def fail(*_: object, **__: object) -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as cause:
            raise error from cause

    monkeypatch.setattr(where, name, fail)
    job = Job()
    with pytest.raises((ReplicatorError, ValueError, OSError)) as raised:
        perform(job)
    return "".join(traceback.format_exception(raised.value)) + repr(job.meta)


@pytest.mark.parametrize("error", [ValueError(SECRET), ReplicatorError(), OSError(SECRET)])
def test_it_does_not_say_what_the_state_raised(sealed: bool, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    left = left_by(error, monkeypatch, in_worker, "run")
    assert type(error).__name__ in left
    assert (SECRET in left) is not sealed


def test_nor_does_certify(sealed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    error = CannotRebuild(node="a", problem=f"KeyError({SECRET!r})")
    left = left_by(error, monkeypatch, work, "certify_group")
    assert "a: its state cannot be rebuilt from its checkpoint (KeyError" in left
    assert (SECRET in left) is not sealed
