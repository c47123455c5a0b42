"""What a test needs that pip cannot bring: where it is not there the test is skipped, and in CI it fails."""

from __future__ import annotations

import os

import pytest


def needs(there: bool, what: str) -> None:
    """`what`: the Debian packages, or the rights, that it takes. `.ci/run` brings them."""
    if there:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI has to have {what}")
    pytest.skip(f"it takes {what}")
