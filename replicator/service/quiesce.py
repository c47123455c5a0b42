"""A program that is told to wait while its directory is cut: `--on-quiesce CMD`.

The command is run twice around each cut, without a shell, with `REPLICATOR_QUIESCE=begin` in its environment, and with
`end`. It is run on a node that leads, since nobody writes on the others. `end` is run whatever became of `begin`, so it
has to do no harm where nothing was begun. A node that is killed in between runs it no more: let what waits go on by
itself after a while.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StateError
from .role_commands import command, without_secrets

__all__ = ["Quiesce"]

#: A command that takes longer is killed: the program waits for it.
TIMEOUT_S = 10.0


class Quiesce:
    """For `DirectoryState.quiesced`. `leads`: whether there is somebody to be told. Raises `ConfigError`."""

    def __init__(self, line: str, path: Path, *, leads: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        self._words = command("on-quiesce", line)
        self._path = path
        self._leads = leads
        self._timeout_s = timeout_s

    @contextmanager
    def __call__(self) -> Iterator[bool]:
        """Whether the program waits. Raises `StateError` if the command fails, either time."""
        if not self._words or not self._leads():
            yield False
            return
        try:
            self._run("begin")
            yield True
        finally:
            self._run("end")

    def _run(self, what: str) -> None:
        environment = without_secrets(os.environ) | {"REPLICATOR_QUIESCE": what}
        try:
            process = subprocess.Popen(self._words, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        except (OSError, ValueError) as error:
            raise self._failed(what, f"cannot be run: {getattr(error, 'strerror', None) or error}") from None
        try:
            code = process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise self._failed(what, f"ran for {self._timeout_s:g} s and was killed") from None
        if code:
            raise self._failed(what, f"failed with exit code {code}" if code > 0 else f"was ended by signal {-code}")

    def _failed(self, what: str, problem: str) -> StateError:
        return StateError(path=self._path, problem=f"--on-quiesce: {shlex.join(self._words)} ({what}) {problem}")
