"""Nodes and clients as processes. Each is ended by its process id, however a run ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tests

#: Where `tests` and `replicator` are found, as they were found here.
ROOT = Path(next(iter(tests.__path__))).parent

#: What a node says that cannot start because its disk is full. Whoever supervises it starts it again.
NO_ROOM = "are free on that disk"

#: A node that is told to end writes its checkpoint and gives its lease back, on a machine that is busy.
STOP_TIMEOUT_S = 60.0


class Process:
    """A module of this package that runs beside us, and again if it is started again."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path, *, within: Sequence[str] = ()) -> None:
        #: `within`: the command that runs it on a host of its own.
        self._command = [*within, sys.executable, "-m", f"{__package__}.{module}", *arguments]
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        #: What it did that nobody asked for.
        self.problems: list[str] = []

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs. Says nothing of whether it got far."""
        self.note_its_end()
        if self.alive:
            return
        self._killed = False
        with self.log.open("ab") as log:
            # In a session of its own: a Ctrl-C at the terminal is for us. Its standard input ends when we do.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, cwd=ROOT
            )

    def kill(self) -> bool:
        """End it with SIGKILL; whether it was running."""
        self.note_its_end()
        was_alive = self.alive
        self._killed = True
        if self._process is not None:
            self._process.kill()
            self._reap()
        return was_alive

    def pause(self) -> bool:
        """Stop it with SIGSTOP; whether it was running."""
        return self._signal(signal.SIGSTOP)

    def resume(self) -> bool:
        return self._signal(signal.SIGCONT)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it with SIGTERM, with SIGKILL if that takes too long."""
        self.note_its_end()
        self._killed = True
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.problems.append(f"{self.log.stem} did not end within {timeout_s:g} s: its log says what it is in")
                self._tell_where_it_is()
        self.kill()

    def _tell_where_it_is(self) -> None:
        """Every thread writes its stack into the log: faulthandler does that when it is aborted."""
        assert self._process is not None
        self._signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)

    def note_its_end(self) -> None:
        """Remember it if it ended by itself."""
        code = self._process.poll() if self._process is not None else None
        if code is not None and not self._killed:
            self._killed = True
            if NO_ROOM not in self._last_line():
                self.problems.append(f"{self.log.stem} ended by itself with {code}: {self._last_line()}")

    def _signal(self, number: signal.Signals) -> bool:
        if not self.alive:
            return False
        assert self._process is not None
        self._process.send_signal(number)
        return True

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        if self._process.stdin is not None:
            # It has ended: there is nobody to flush to.
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1] if lines else ""
