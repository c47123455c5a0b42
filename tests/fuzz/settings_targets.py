"""The settings file: as `load_settings` reads it, and as every command of the command line takes it."""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import click
from click.testing import CliRunner

from replicator import cli
from replicator.cli.config import load_settings
from replicator.errors import ConfigError
from tests.fuzz.engine import MIB, Target
from tests.fuzz.mutate import Choices, bytes_near

__all__ = ["TARGETS"]

_VALUES = (
    b'"x"', b'""', b"1", b"0", b"-1", b"1.5", b"true", b"false", b"[]", b"[1]", b'["a"]', b"{}", b"{a = 1}", b"nan",
    b"inf", b"-inf", b"1e999", b"9" * 30, b"9" * 5000, b"0x" + b"f" * 5000, b"1979-05-27", b"07:32:00",
    b"1979-05-27T07:32:00Z",
    b'"a\\u0000b"', b'"\\ud800"', b'"\\u00e9"', b"'''x'''", b'"primary"', b'"standby"', b'"stop"', b'"json"', b'"info"',
    b'"DEBUG"', b'"redis://h:1/0"', b'"redis://:p@[::1"', b'"data/a"', b'"' + b"x" * 5000 + b'"',
    b"[" * 40 + b"]" * 40, b"", b"'", b"yes", b"24:61:61", b"2026-02-30", b'{name = {name = "x"}}',
)  # fmt: skip
_TOP = ("redis", "group", "log-level", "log_level", "node", "unknown", "", "é", ".".join("a" * 50))


class _Command(NamedTuple):
    """A command without subcommands: how it is called, and the names that its options have in a file."""

    path: tuple[str, ...]
    command: click.Command
    names: list[str]

    @property
    def arguments(self) -> int:
        return sum(isinstance(one, click.Argument) for one in self.command.params)


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[_Command]:
    if not isinstance(command, click.Group):
        options = [text.removeprefix("--") for one in command.params for text in one.opts if text.startswith("--")]
        yield _Command(path, command, options or ["other"])
        return
    with click.Context(command) as context:
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _commands(found, (*path, name))


@functools.cache
def _all_commands() -> tuple[_Command, ...]:
    return tuple(_commands(cli.cli))


def _settings(choices: Choices) -> tuple[str, bytes]:
    """A command, and a file with settings for it."""
    every = _all_commands()
    command = choices.pick(every)
    lines = [_line(choices, choices.pick(_TOP)) for _ in choices.few(3)]
    if choices.below(8):
        lines.append(b"[" + ".".join(command.path).encode() + b"]")
    names = command.names
    lines += [_line(choices, choices.pick(names) if choices.below(8) else "other") for _ in range(choices.below(4))]
    text = b"\n".join(lines) + b"\n"
    return " ".join(command.path), bytes_near(choices, text) if choices.once_in(4) else text


def _line(choices: Choices, name: str) -> bytes:
    # What is nested deeply ends in a RecursionError, which takes a hundred times as long as the rest.
    deep = choices.once_in(60) and choices.once_in(10)
    return name.encode() + b" = " + (b"[" * 3000 if deep else choices.pick(_VALUES))


def _load(path: Path, given: tuple[str, bytes]) -> bool:
    path.write_bytes(given[1])
    try:
        settings = load_settings(path)
    except ConfigError as problem:
        return _refused(problem, path)
    assert all("-" not in name for name in settings)
    return True


def _refused(problem: ConfigError, path: Path) -> bool:
    assert str(problem).startswith(str(path))
    return False


def _run_command(path: Path, given: tuple[str, bytes]) -> bool:
    name, text = given
    path.write_bytes(text)
    command = next(one for one in _all_commands() if " ".join(one.path) == name)
    arguments = [*command.path, *[str(path)] * command.arguments]
    # What would be done is left out, and what would outlive it.
    with (
        patch.object(command.command, "callback", lambda **_: None),
        patch.object(logging, "basicConfig", lambda **_: None),
    ):
        done = CliRunner().invoke(cli.cli, ["--config", str(path), *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code in (0, 2), done.output
    assert done.exit_code == 0 or "Error: " in done.output
    return done.exit_code == 0


def _with_file(
    use: Callable[[Path, Any], bool],
) -> Callable[[], contextlib.AbstractContextManager[Callable[[Any], bool]]]:
    @contextlib.contextmanager
    def opened() -> Iterator[Callable[[Any], bool]]:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
            path = Path(directory) / "settings.toml"
            yield lambda given: use(path, given)

    return opened


TARGETS = (
    Target(name="settings", build=_settings, opened=_with_file(_load), bytes_max=8 * MIB),
    Target(name="options", build=_settings, opened=_with_file(_run_command), bytes_max=8 * MIB, share=0.2),
)
