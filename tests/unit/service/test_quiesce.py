"""A command has the program wait while its directory is cut, and go on whatever became of that."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from replicator import ConfigError, StateError
from replicator.service.quiesce import Quiesce


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "told"


def telling(told: Path, *, then: str = "pass") -> str:
    """A command that writes what it is told, and does something `then`."""
    code = (
        f"import os, time; what = os.environ['REPLICATOR_QUIESCE']; open({str(told)!r}, 'a').write(what + ' '); {then}"
    )
    return shlex.join([sys.executable, "-c", code])


def test_it_is_told_to_begin_and_to_end(told: Path) -> None:
    with Quiesce(telling(told), told, leads=lambda: True)() as waits:
        assert waits
        assert told.read_text() == "begin "
    assert told.read_text() == "begin end "


def test_nobody_is_told_on_a_standby_or_without_a_command(told: Path) -> None:
    for line, leads in ((telling(told), False), ("", True)):
        with Quiesce(line, told, leads=lambda leads=leads: leads)() as waits:  # type: ignore[misc]
            assert not waits
    assert not told.exists()


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("what == 'begin' and exit(3)", r"\(begin\) failed with exit code 3"),
        ("what == 'end' and exit(4)", r"\(end\) failed with exit code 4"),
        ("what == 'begin' and os.kill(os.getpid(), 15)", r"\(begin\) was ended by signal 15"),
    ],
)
def test_what_fails_is_said_and_the_end_is_told_in_any_case(told: Path, then: str, said: str) -> None:
    quiesced = Quiesce(telling(told, then=then), told, leads=lambda: True)
    with pytest.raises(StateError, match=said), quiesced():
        pass
    assert told.read_text() == "begin end "


def test_one_that_hangs_is_killed(told: Path) -> None:
    quiesced = Quiesce(telling(told, then="time.sleep(1000)"), told, leads=lambda: True, timeout_s=0.3)
    with pytest.raises(StateError, match=r"ran for 0\.3 s and was killed"), quiesced():
        pass


def test_what_is_no_command_is_refused(told: Path) -> None:
    with pytest.raises(ConfigError, match="on-quiesce"):
        Quiesce("'", told, leads=lambda: True)
    quiesced = Quiesce("/no/such/program", told, leads=lambda: True)
    with pytest.raises(StateError, match="cannot be run: No such file"), quiesced():
        pass
