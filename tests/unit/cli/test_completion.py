"""Completion of a shell: scripts for three of them, and nothing where Redis is away."""

from __future__ import annotations

import subprocess

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from replicator.cli import cli


def completed(line: str) -> list[str]:
    """What is offered for the last word of a line."""
    *words, incomplete = line.split(" ")
    found = ShellComplete(cli, {}, "replicator", "_REPLICATOR_COMPLETE").get_completions(words, incomplete)
    return [item.value for item in found]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    told = CliRunner().invoke(cli, ["completion", shell])
    assert told.exit_code == 0
    assert "_REPLICATOR_COMPLETE" in told.stdout


def test_bash_takes_its_script() -> None:
    script = CliRunner().invoke(cli, ["completion", "bash"]).stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_commands_and_options_are_completed() -> None:
    assert "promote" in completed("pro")
    assert "--force" in completed("promote a --f")


@pytest.mark.parametrize("line", ["promote ", "why ", "switchover --to ", "forget ", "--group "])
def test_without_redis_there_are_no_names_and_no_error(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert completed(f"--redis redis://127.0.0.1:1 {line}") == []
    assert capfd.readouterr() == ("", "")
