"""The question before what can lose something: asked at a terminal, never where nothing can be lost."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result

from replicator.cli.confirm import NotConfirmed, confirm, yes_option
from replicator.errors import ReplicatorError

RISKS = ["what only b has is lost", "c\x1b[2J has not reported"]


def asked(*args: str, risks: list[str], answer: str = "") -> Result:
    @click.command()
    @yes_option
    def command(yes: bool) -> None:
        confirm("go on?", risks, yes=yes)
        click.echo("done")

    return CliRunner().invoke(command, list(args), input=answer)


def test_without_a_terminal_it_is_refused_with_exit_code_2_and_says_what_is_at_risk() -> None:
    told = asked(risks=RISKS)
    assert told.stdout == ""
    assert isinstance(told.exception, NotConfirmed)
    assert told.exception.exit_code == 2
    assert "nothing was done: what only b has is lost; c" in str(told.exception)
    assert "say --yes" in str(told.exception)


def test_with_yes_or_without_a_risk_nothing_is_asked() -> None:
    assert asked("--yes", risks=RISKS).stdout == "done\n"
    assert asked(risks=[]).stdout == "done\n"


@pytest.mark.parametrize(("answer", "done"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_at_a_terminal_it_is_asked(monkeypatch: pytest.MonkeyPatch, answer: str, done: bool) -> None:
    monkeypatch.setattr("replicator.cli.confirm._has_terminal", lambda: True)
    told = asked(risks=RISKS, answer=answer)
    assert (told.stdout == "done\n") == done
    assert "  what only b has is lost\n" in told.stderr
    assert "\x1b" not in told.stderr
    assert "go on? [y/N]" in told.stderr
    if not done:
        assert isinstance(told.exception, ReplicatorError)
        assert (told.exception.exit_code, str(told.exception)) == (1, "nothing was done")
