"""Whether a program answers: a command that ends with 0, or a URL that answers with a status below 400.

It is asked on a thread of its own, and given a limit: a program that hangs holds nobody else up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import urllib.error
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException

from ...errors import ConfigError, NoThread
from ...runtime import checks
from ...runtime.direct_http import ask
from ...runtime.event_log import in_this_context
from ...runtime.threads import started
from ..role_commands import command, without_secrets

__all__ = ["Checking", "question"]

#: How long an answer may take, and how many may be missing in a row.
ANSWER_WITHIN_S = 5.0
MISSING_MAX = 3

#: A program that was just started has so long until its silence counts.
START_S = 30.0

#: Gives why there was no answer; empty: there was one.
Question = Callable[[], str]


def question(text: str) -> Question:
    """What `--check` names. Raises `ConfigError`."""
    if text.startswith(("http://", "https://")):
        url = checks.url("check", text)
        return lambda: _asked_url(url)
    words = command("check", text)
    if not words:
        raise ConfigError(setting="check", problem="is empty: give a command, or a URL")
    return lambda: _asked_command(words)


def _asked_url(url: str) -> str:
    """On a thread of its own: a server that sends a little now and then is within every limit of a socket, for ever."""
    answers: list[str] = []
    thread = started(lambda: answers.append(_answer_of(url)), name="check-url")
    thread.join(ANSWER_WITHIN_S)
    return answers[0] if answers else f"{url} has not answered within {ANSWER_WITHIN_S:g} s"


def _answer_of(url: str) -> str:
    try:
        with ask(url, timeout_s=ANSWER_WITHIN_S, follow=False):  # a redirect is an answer
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return "" if error.code < 400 else f"{url} answered {error.code}"
    except (OSError, ValueError, HTTPException) as error:  # the last one: what answers speaks no HTTP
        return f"{url} does not answer ({getattr(error, 'reason', error) or type(error).__name__})"


def _asked_command(words: Sequence[str]) -> str:
    try:
        process = subprocess.Popen(
            words,
            env=without_secrets(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
    except (OSError, ValueError) as error:
        return f"--check {words[0]} cannot be run ({getattr(error, 'strerror', None) or error})"
    try:
        code = process.wait(ANSWER_WITHIN_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"--check {words[0]} has not ended within {ANSWER_WITHIN_S:g} s"
    return "" if code == 0 else f"--check {words[0]} ended with {code}"


class Checking:
    """Asks about one run of a program, until `end`. Read from any thread."""

    def __init__(self, ask: Question, every_s: float) -> None:
        self._ask = ask
        self._every_s = every_s
        self._over = threading.Event()
        self._missing = 0
        #: Whether there was an answer yet.
        self.is_well = False
        #: Why it is taken for one that does not answer any more; empty: it is not.
        self.problem = ""
        started(in_this_context(self._run), name="check")

    def end(self) -> None:
        """No more of it. Waits for nobody."""
        self._over.set()

    def _run(self) -> None:
        counts_from = time.monotonic() + START_S
        while not self._over.wait(self._every_s):
            try:
                missing = self._ask()
            except NoThread as error:
                missing = str(error)
            if not missing:
                self.is_well, self._missing = True, 0
            elif self.is_well or time.monotonic() >= counts_from:
                self._missing += 1
                if self._missing >= MISSING_MAX:
                    self.problem = f"does not answer: {missing}"
                    return
