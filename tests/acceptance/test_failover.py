"""The story of `make demo` as a test, at two sizes."""

from __future__ import annotations

from tests.acceptance import demo


def test_a_killed_primary_that_comes_back_can_do_no_harm() -> None:
    transcript: list[str] = []

    peak_mib = demo.run(2_000, transcript.append)

    assert set(peak_mib) == {"node-a", "node-b", "node-c"}
    assert any("fenced: b holds term 2" in line for line in transcript)
    assert any("equal or smaller" in line for line in transcript)
