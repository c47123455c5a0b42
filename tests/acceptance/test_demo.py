"""`make demo`, as it is run."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_loses_nothing_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replicator.sandbox.demo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(SIGSTOP)" in done.stdout
    killed = re.findall(r"kill -9 of (\w);", done.stdout)
    led = re.findall(r"then (\w) led in term \d+\.", done.stdout)
    assert (len(killed), len(led)) == (1, 2), done.stdout
    assert led[1] != killed[0], "from a primary that was killed, and stays away, another one takes over"
    assert "acknowledged: 0 of them are missing." in done.stdout
    assert done.stdout.endswith("All is as it should be.\n")
