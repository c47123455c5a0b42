"""The short form: a few hundred inputs for each decoder, others in every run. The long one: `python -m tests.fuzz`."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz.core_targets import whole
from tests.fuzz.engine import SHORT, Finding, Target, run
from tests.fuzz.mutate import Choices
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_raises_only_what_it_documents_and_accepts_only_what_is_right(name: str) -> None:
    ran = run(TARGETS[name], SHORT)
    assert ran.inputs >= SHORT * TARGETS[name].share
    assert ran.accepted, "inputs that are all refused show nothing"
    assert ran.refused, "inputs that are all accepted show nothing"


# --- the tool itself -------------------------------------------------------------------------------------------------


def _target(decode: Any, **fields: Any) -> Target:
    return Target(name="made", build=lambda choices: choices.below(200), opened=whole(decode), **fields)


def test_a_finding_shows_the_least_input_and_why() -> None:
    def decode(value: int) -> bool:
        if value >= 10:
            raise KeyError("ten")
        return True

    with pytest.raises(Finding, match=r"made: KeyError: 'ten'\n  input: 10$"):
        run(_target(decode), 500, seed_=1)


def test_memory_beyond_the_bound_is_a_finding() -> None:
    with pytest.raises(Finding, match="TooMuchMemory"):
        run(_target(lambda value: len(bytes(2_000_000)) > 0, bytes_max=1_000_000), 10)


def test_the_same_seed_gives_the_same_inputs() -> None:
    seen: list[list[int]] = [[], []]
    for found in seen:
        run(_target(lambda value, found=found: bool(found.append(value))), 100, seed_=7)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 20


def test_choices_that_have_ended_are_the_plainest() -> None:
    choices = Choices(b"\x05")
    assert choices.below(64) == 5
    assert (choices.pick("abc"), choices.once_in(4), choices.bytes(10), list(choices.few(3))) == ("a", False, b"", [])


def _called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fuzz", *arguments])
    # It is for the whole process, which here is that of all tests.
    monkeypatch.setattr(command, "limit_memory", lambda: None)
    return command.main()


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _called(monkeypatch, "--examples", "40", "--seed", "1", "header", "parts") == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[0] for words in told] == ["seed", "decoder", "header", "parts"]
    assert told[2][1] == "40"


def test_the_command_ends_at_the_first_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS, "made", _target(lambda value: 1 // 0 > 0))
    assert _called(monkeypatch, "--examples", "40", "made", "parts") == 1
    told = capsys.readouterr().out
    assert "made: ZeroDivisionError" in told
    assert "parts" not in told


def test_the_command_knows_the_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _called(monkeypatch, "nothing")
    assert "there is no decoder 'nothing'" in capsys.readouterr().err
