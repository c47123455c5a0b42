"""How `replicator dev` says that replicator is typed in another terminal."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from replicator.cli.dev import command_here


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `replicator` in an environment that nobody activated, below the directory that one is in."""
    path = tmp_path / "a checkout" / ".venv" / "bin" / "replicator"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [str(path), "dev"])
    monkeypatch.chdir(tmp_path / "a checkout")
    return path


def test_below_this_directory_it_is_a_short_path(script: Path) -> None:
    assert command_here() == ".venv/bin/replicator"


def test_beside_the_command_it_is_no_bare_name(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(script.parent)
    assert command_here() == "./replicator"


def test_elsewhere_it_is_the_whole_path_as_a_shell_reads_it(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command_here() == f"'{script}'"


def test_where_the_shell_finds_it_it_is_its_name(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    assert command_here() == "replicator"


def test_another_one_that_the_shell_finds_is_not_meant(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "replicator"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert command_here() == ".venv/bin/replicator"


def test_started_in_another_way_it_is_the_one_beside_the_interpreter(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["-c", "dev"])
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(script.parent))
    assert command_here() == ".venv/bin/replicator"
