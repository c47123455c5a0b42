"""Nodes beside a directory are killed (directory_kills.py), as a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.directory_kills import run


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_whoever_is_killed_each_file_is_whole_and_both_become_equal(tmp_path: Path) -> None:
    transcript: list[str] = []
    story = run(tmp_path, kills=6, seed=1, say=transcript.append)
    print(*transcript, sep="\n")
    assert story.broken == []
    assert sum(story.done.values()) == 6
