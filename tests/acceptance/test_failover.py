"""The story of a failover (story.py) as a test, at two sizes."""

from __future__ import annotations

import pytest

from tests.acceptance import story


@pytest.mark.parametrize("nodes", [2_000, pytest.param(108_000, marks=pytest.mark.slow)], ids=["small", "80 MB"])
def test_a_killed_primary_that_comes_back_can_do_no_harm(nodes: int) -> None:
    transcript: list[str] = []

    peak_mib = story.run(nodes, transcript.append)
    print(*transcript, peak_mib, sep="\n")

    assert set(peak_mib) == {"node-a", "node-b", "node-c"}
    assert any("fenced: b holds term 2" in line for line in transcript)
    assert any("equal or smaller" in line for line in transcript)
