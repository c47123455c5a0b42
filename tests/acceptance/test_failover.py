"""The story of a failover (story.py) as a test, with a registry as large as it is to be: 80 MB."""

from __future__ import annotations

import pytest

from tests.acceptance import story


@pytest.mark.slow
def test_a_killed_primary_that_comes_back_can_do_no_harm() -> None:
    transcript: list[str] = []

    peak_mib = story.run(108_000, transcript.append)
    print(*transcript, peak_mib, sep="\n")

    assert set(peak_mib) == {"node-a", "node-b", "node-c"}
    assert any("fenced: b holds term 2" in line for line in transcript)
    assert any("equal or smaller" in line for line in transcript)
