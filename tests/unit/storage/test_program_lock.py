"""The lock of a program outlives the node that took it, for as long as what it was handed to lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.storage.program_lock import program_is_over, take_program_lock
from tests.support.kv import PATIENCE_S

WAITS = "import sys; sys.stdin.read()"


def test_where_no_program_was_ever_run_none_has_to_be_waited_for(tmp_path: Path) -> None:
    assert program_is_over(tmp_path, within_s=0)
    assert list(tmp_path.iterdir()) == []


def test_it_is_held_by_what_it_was_handed_to_until_that_ends(tmp_path: Path) -> None:
    lock = take_program_lock(tmp_path)
    assert lock is not None
    command = [sys.executable, "-c", WAITS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[lock]) as keeper:
        os.close(lock)
        assert take_program_lock(tmp_path) is None
        assert not program_is_over(tmp_path, within_s=0)
        assert not program_is_over(tmp_path, within_s=0.05)
        keeper.kill()
    assert program_is_over(tmp_path, within_s=PATIENCE_S)
    again = take_program_lock(tmp_path)
    assert again is not None
    os.close(again)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "program.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"program\.lock"):
        program_is_over(tmp_path, within_s=0)
