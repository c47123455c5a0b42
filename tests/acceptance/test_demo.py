"""`make demo`, as it is run."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_loses_nothing_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replicator.sandbox.demo"], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(SIGSTOP)" in done.stdout
    assert "kill -9 of" in done.stdout
    led = re.findall(r"then (\w) led in term (\d)\.", done.stdout)
    assert len(led) == 2, done.stdout
    assert led[0][0] != led[1][0], "from a primary that was killed, and stays away, another one takes over"
    assert "acknowledged: 0 of them are missing." in done.stdout
    assert done.stdout.endswith("All is as it should be.\n")
