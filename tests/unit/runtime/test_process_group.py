"""What is left of a process that ended is found by its process group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replicator.runtime.process_group import left_of
from tests.support.kv import eventually

WAITS = "import sys; sys.stdin.read()"


def test_of_a_process_that_ended_and_was_waited_for_nothing_is_left() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"], process_group=0)
    process.wait()
    assert left_of(process.pid) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_one_that_nobody_has_waited_for_is_dead_all_the_same() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"], process_group=0)
    eventually(lambda: left_of(process.pid) == [], "it ends")
    process.wait()


def test_a_child_that_outlives_it_is_left() -> None:
    starts = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {WAITS!r}]).pid, flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", starts], process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    child = int(process.stdout.readline())
    process.wait()
    assert left_of(process.pid) == [child]
    process.stdin.close()
    process.stdout.close()
    eventually(lambda: left_of(process.pid) == [], "the child ends")
