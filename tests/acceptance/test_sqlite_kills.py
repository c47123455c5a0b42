"""Programs and nodes beside a database are killed (sqlite_kills.py), as a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.sqlite_kills import run


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize(("way", "mode"), [("pages", "wal"), ("live", "delete")])
def test_whoever_is_killed_nothing_that_was_published_is_lost(tmp_path: Path, way: str, mode: str) -> None:
    transcript: list[str] = []
    story = run(tmp_path, kills=6, way=way, mode=mode, seed=1, say=transcript.append)
    print(*transcript, sep="\n")
    assert story.broken == []
    assert sum(story.done.values()) == 6
