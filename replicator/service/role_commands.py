"""The commands that tell a program which role its node has: one at a time, each with all that it started.

A command is a session of its own. Who ends it before it has ended by itself ends its whole process group, first with
SIGTERM, and soon after with SIGKILL: a script that is killed must not leave a child behind that starts the program on a
node that does not lead any more. What a command leaves running when it ends by itself is the program, and stays.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ..errors import ConfigError, ProgramError
from ..log.urls import shown
from ..runtime.event_log import EventLogger

__all__ = ["Commands", "command", "without_secrets"]

logger = EventLogger(__name__)

#: Between SIGTERM and SIGKILL.
GRACE_S = 2.0

POLL_EVERY_S = 0.02


def command(setting: str, text: str) -> list[str]:
    """The words of a command line; none if it is empty. Raises `ConfigError`."""
    if not isinstance(text, str) or "\0" in text:
        raise ConfigError(setting=setting, problem=f"{text!a} is not a command")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(setting=setting, problem=f"{text!r} is not a command: {error}") from None


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What a command gets of the environment of the node: not its URLs that have a password in them.

    Whoever may see the command's environment (its own children, a crash report) is not thereby to write to the log.
    """
    return {
        name: value
        for name, value in environment.items()
        if not (name.startswith("REPLICATOR_") and "://" in value and shown(value) != value)
    }


class Commands:
    """One command line for each role, `"primary"` and `"standby"`; an empty one is not run. For one thread at a time.

    `report` is told what went wrong with one, and None once one went well.
    """

    def __init__(self, lines: Mapping[str, Sequence[str]], *, report: Callable[[ProgramError | None], None]) -> None:
        self._lines = lines
        self._report = report
        self._process: subprocess.Popen[bytes] | None = None
        self._role = ""
        self._limit_s = 0.0
        self._until = 0.0
        #: What went wrong with the newest one, in words; empty: it is running, or went well.
        self.failed = ""

    @property
    def running(self) -> str:
        """The role whose command runs; empty: none does."""
        return self._role if self._process is not None else ""

    def begin(self, role: str, *, about: Mapping[str, str], limit_s: float) -> None:
        """Run the command for a role, with `REPLICATOR_<name>` for what is said `about` it. None may be running."""
        assert self._process is None
        self._role, self.failed = role, ""
        words = self._lines[role]
        if not words:
            return
        environment = without_secrets(os.environ) | {f"REPLICATOR_{name}": value for name, value in about.items()}
        logger.info("command.begins", "%s in term %s: running %s", role, about["TERM"], shlex.join(words))
        self._limit_s, self._until = limit_s, time.monotonic() + limit_s
        try:
            self._process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            self._tell(f"cannot be run: {problem}")

    def look(self) -> None:
        """See whether it has ended, and end it if it ran for too long."""
        process = self._process
        if process is None:
            return
        if _has_ended(process):
            self._process = None
            code = process.wait()
            self._tell(f"failed with exit code {code}" if code > 0 else f"was ended by signal {-code}" if code else "")
        elif time.monotonic() > self._until:
            self._end(process)
            self._tell(f"ran for {self._limit_s:g} s and was killed")

    def finish(self) -> None:
        """Wait until it has ended, by itself or because it ran for too long."""
        while self._process is not None:
            self.look()
            time.sleep(POLL_EVERY_S)

    def cut_short(self) -> None:
        """End it now: its role is over."""
        process = self._process
        if process is not None:
            logger.warning(
                "command.cut_short",
                "%s was cut short: this node has another role now",
                shlex.join(self._lines[self._role]),
            )
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while not _has_ended(process) and time.monotonic() < deadline:
            time.sleep(POLL_EVERY_S)
        # Also if it ended at once: whoever ignores a SIGTERM is one of its children. Before it is waited for: until
        # then nobody else gets its number.
        _signal_group(process, signal.SIGKILL)
        process.wait()
        self._process = None

    def _tell(self, failed: str) -> None:
        self.failed = failed
        line = shlex.join(self._lines[self._role])
        self._report(ProgramError(what=f"--on-{self._role}: {line}", problem=failed) if failed else None)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, and it stays to be waited for where the system knows that."""
    if process.returncode is None and hasattr(os, "waitid"):  # not everywhere on macOS
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # of a group that has ended; the latter on macOS
        os.killpg(process.pid, number)
