"""How far a command is: a bar on a terminal, lines elsewhere, and never anything on stdout."""

from __future__ import annotations

import io
import sys

import pytest

from replicator.cli.progress import Counted, progress_of
from replicator.ops import Progress, Step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What stderr is from now on. Within the test, since pytest sets it again when that begins."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    return stderr


def tell(say: Progress) -> None:
    say("asked a\x1b[2J for [bold]it")
    say(Step("1 of 3 [red]nodes", 1, 3))


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of("verify") as say:
        tell(say)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "asked a\\x1b[2J for [bold]it\n1 of 3 [red]nodes\n")


def test_where_no_lines_are_wanted_there_is_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of("load", lines=False) as say:
        tell(say)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_below_what_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stderr = terminal(monkeypatch)
    with progress_of("verify") as say:
        tell(say)
        print("a result")
    shown = stderr.getvalue()
    assert "asked a\\x1b[2J for [bold]it" in shown
    assert "1 of 3 [red]nodes" in shown
    assert "verify" in shown
    assert shown.endswith("\x1b[2K"), "the bar is gone"
    assert "a result" not in shown
    assert capsys.readouterr().out == "a result\n"


def test_without_rich_there_are_lines_on_a_terminal_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with progress_of("verify") as say:
        tell(say)
    assert stderr.getvalue() == "asked a\\x1b[2J for [bold]it\n1 of 3 [red]nodes\n"


def test_a_file_that_is_sent_tells_how_much_of_it_was_read() -> None:
    told: list[str] = []
    file = Counted(io.BytesIO(b"12345"), 5, told.append)
    assert [file.read(3), file.read(3), file.read(3)] == [b"123", b"45", b""]
    assert [(each.done, each.total) for each in told if isinstance(each, Step)] == [(3, 5), (5, 5), (5, 5)]
