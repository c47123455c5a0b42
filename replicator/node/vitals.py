"""Whether the application that a node serves is alive. One that is not must not keep the others from leading.

A node has threads of its own, so it would renew its lease for an application that hangs. So once a beat it looks:

- *The event loop* that it serves, that of `async with node`, has to turn. The loop is asked to run a function; if it
  has not done that for longer than `limit_s`, it hangs: something in it blocks its thread. If a task of it awaits
  something in the middle of a plain `reading()` for so long, the node stands still as well.
- *The watchdog*, a function of the application, has to be content. It is asked on a thread of its own, once at a time;
  one that does not return for longer than `limit_s` is not content either.

No look waits for either of them, but for a moment for the first answer of the watchdog: before that nobody knows, and
the node does not lead. Who promotes it waits for that answer (`wait_for_answer`). What is wrong is a problem of the
node (`UNHEALTHY`): while there is one it does not renew its lease, and does not take the term (`lease_keeper.py`,
`ha_loop.py`).
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from types import CoroutineType

from ..errors import ConfigError
from ..runtime.hanging_calls import Aside, Question
from ..runtime.reentrancy import READING, Inside
from .problems import UNHEALTHY, Problems, Unanswered, Unhealthy

__all__ = ["Vitals", "Watchdog", "check_watchdog"]

#: None or True: all is well. False, a text that says why, or an exception: it is not.
Watchdog = Callable[[], object]

#: The first answer of a watchdog is waited for so long: a node that cannot lead is not to begin with it.
FIRST_ANSWER_S = 0.1


class Vitals:
    """Of one node. `limit_s`: for so long either of them may be silent. `watches_loop`: whether loops are looked at."""

    def __init__(self, problems: Problems, watchdog: Watchdog | None, *, limit_s: float, watches_loop: bool) -> None:
        self._problems = problems
        self._loop = _LoopPulse(limit_s) if watches_loop else None
        self._watchdog = _WatchdogAnswers(watchdog, limit_s) if watchdog is not None else None
        self._looking = threading.Lock()

    def serve(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """From now on this loop has to turn; None: no loop has to."""
        if self._loop is not None:
            self._loop.loop = loop

    def watch_reads(self, inside: Inside) -> None:
        """And not to stand in the middle of a read of this node."""
        if self._loop is not None:
            self._loop.inside = inside

    def look(self) -> None:
        """Once a beat."""
        with self._looking:
            why: str | None = self._loop.problem() if self._loop is not None else ""
            why = why or (self._watchdog.problem() if self._watchdog is not None else "")
            # Still under the lock: what an older look found must not outlive what a newer one did.
            if why is None:
                self._report(Unanswered())
            elif why:
                self._report(Unhealthy(problem=why))
            else:
                self._problems.solved(UNHEALTHY)

    def wait_for_answer(self, timeout_s: float) -> None:
        """Return once the watchdog has answered for the first time, or after that time. Then it is looked at."""
        if self._watchdog is not None and self._watchdog.answers_first(timeout_s):
            self.look()

    def _report(self, problem: Unhealthy) -> None:
        if str(self._problems.get(UNHEALTHY)) != str(problem):
            self._problems.report(UNHEALTHY, problem)


class _Silence:
    """How long something is silent, by those who look. A process that was stopped did not look, and heard nobody."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._silent_s = 0.0
        self._looked_at = time.monotonic()

    def is_too_long(self) -> bool:
        now = time.monotonic()
        self._silent_s += min(now - self._looked_at, self._limit_s / 2)
        self._looked_at = now
        return self._silent_s > self._limit_s


class _Asked:
    """A loop that was asked to turn. `pending`: it has not. `in_a_read`: it has, in the middle of a read."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self.loop = loop
        self.silence = _Silence(limit_s)
        self.pending = True
        self.in_a_read = False


class _LoopPulse:
    """Whether a loop turns, and leaves the state alone when it does."""

    def __init__(self, limit_s: float) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.inside: Inside | None = None
        self._limit_s = limit_s
        #: None: the loop did all that it was asked for.
        self._asked: _Asked | None = None

    def problem(self) -> str:
        """Why it does not live; empty: it does."""
        loop, asked = self.loop, self._asked
        if loop is None:
            return ""
        if asked is None or asked.loop is not loop:
            self._asked = asked = _Asked(loop, self._limit_s)
            self._ask(asked)
            return ""
        why = self._why(asked) if not loop.is_closed() and asked.silence.is_too_long() else ""
        if not asked.pending:
            self._ask(asked)
        return why

    def _why(self, asked: _Asked) -> str:
        if asked.in_a_read:
            what = f"a task has awaited something inside of reading() for {self._limit_s:.3g} s"
            return f"{what}, so the state stands still: use areading()"
        what = f"the event loop of the application does not turn: something has blocked it for {self._limit_s:.3g} s"
        return f"{what}; if it goes on, restart that service"

    def _ask(self, asked: _Asked) -> None:
        asked.pending = True
        try:
            asked.loop.call_soon_threadsafe(self._turned, asked)
        except RuntimeError:  # it was closed, and nobody is served by it any more
            self.loop = self._asked = None

    def _turned(self, asked: _Asked) -> None:
        """On the thread of the loop, of which nobody runs now: whoever is in a read there awaits something."""
        asked.in_a_read = self.inside is not None and self.inside.on_this_thread() == READING
        asked.pending = False
        if not asked.in_a_read and self._asked is asked:
            self._asked = None


class _WatchdogAnswers:
    """What the watchdog says."""

    def __init__(self, watchdog: Watchdog, limit_s: float) -> None:
        self._watchdog = watchdog
        self._limit_s = limit_s
        self._aside: Aside[object] = Aside("watchdog", most=1)
        self._asked: Question[object] | None = None
        self._silence = _Silence(limit_s)
        #: By its last answer; None: there was none yet, and nobody knows.
        self._why: str | None = None

    def problem(self) -> str | None:
        """Why it is not content; empty: it is. None: it has not answered yet."""
        if self._asked is None:
            self._asked, self._silence = self._aside.ask("watchdog", self._watchdog), _Silence(self._limit_s)
            self._asked.wait(FIRST_ANSWER_S)
        if self._asked.done:
            self._why = _why_not(self._asked)
            # The next look has the answer.
            self._asked, self._silence = self._aside.ask("watchdog", self._watchdog), _Silence(self._limit_s)
        elif self._silence.is_too_long():
            self._why = f"its watchdog has not returned for {self._limit_s:.3g} s"
        return self._why

    def answers_first(self, timeout_s: float) -> bool:
        """Wait for its first answer, if that is still to come; whether it was, and has come."""
        asked = self._asked
        return self._why is None and asked is not None and asked.wait(min(timeout_s, self._limit_s))


def _why_not(asked: Question[object]) -> str:
    """Why the watchdog is not content; empty: it is."""
    answer, error = asked.answer, asked.error
    if error is not None:
        return f"its watchdog raised {type(error).__name__}: {error}"
    if answer is None or answer is True or answer == "":
        return ""
    if isinstance(answer, str):
        return f"its watchdog says: {answer}"
    if isinstance(answer, CoroutineType):
        answer.close()
        return "its watchdog gave a coroutine, and looked at nothing: make it a plain function"
    if answer is False:
        return "its watchdog returned False"
    return f"its watchdog returned {answer!r:.80}, which is neither None, True, False nor a text"


def check_watchdog(watchdog: object) -> Watchdog | None:
    """One that can be asked, or None for none. Raises `ConfigError`."""
    if watchdog is None:
        return None
    if not callable(watchdog):
        raise ConfigError(setting="watchdog", problem=f"{watchdog!r:.80} cannot be called")
    for asked in (watchdog, getattr(watchdog, "__call__", None)):  # noqa: B004  # it is called by that very name
        if inspect.iscoroutinefunction(asked) or inspect.isasyncgenfunction(asked):
            problem = "it is async, and is called on a thread: give a plain function"
            raise ConfigError(setting="watchdog", problem=problem)
    return watchdog
