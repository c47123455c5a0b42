"""One piece of work that only the leader does, and what runs it: a thread, or a task of an event loop.

At most one run of it exists at a time. A run that goes on although its leadership is over keeps the next one from
beginning, and is a problem of the node until it ends.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from ..errors import ConfigError, Fenced, LeadershipLost, NoThread, NotPrimary, ReplicatorError, WorkFailed
from ..runtime.backoff import Backoff
from ..runtime.event_log import EventLogger, in_this_context
from ..runtime.threads import started
from .leadership import Leadership, Tenure

__all__ = [
    "AsyncWork",
    "Every",
    "LeaderWork",
    "Once",
    "Pace",
    "Work",
    "is_async",
    "runner_of",
    "running_loop",
    "work_name",
]

logger = EventLogger(__name__)

Work = Callable[[Leadership], object]
AsyncWork = Callable[[Leadership], Coroutine[Any, Any, object]]

#: How soon work that raised is begun again: at first, and at the most. Who ran for longer than that begins anew.
RETRY_S, RETRY_S_MAX = 0.5, 30.0


#: A time that is this part of an interval ahead has come: numbers are rounded.
ROUNDING = 1e-6


class Pace(Protocol):
    """When work is done again in the leadership for which this was made. `recurs`: it ends, and is done again."""

    recurs: bool

    def pause_s(self, *, failed: bool) -> float | None:
        """It has just ended: the seconds until it begins again; None: not in this leadership."""
        ...


class Once:
    """Once in a leadership; what failed, again."""

    recurs = False

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = Backoff(RETRY_S, RETRY_S_MAX)
        self._clock = clock
        self._began = clock()

    def pause_s(self, *, failed: bool) -> float | None:
        if not failed:
            return None
        if self._clock() - self._began > RETRY_S_MAX:
            self._backoff.succeeded()
        pause_s = self._backoff.failed()
        self._began = self._clock() + pause_s
        return pause_s


class Every:
    """At once, and then every `seconds`, counted from the beginning of the leadership: however long a run takes, the
    times stay. Those that pass while one runs are skipped.
    """

    recurs = True

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._began = clock()

    def pause_s(self, *, failed: bool) -> float | None:
        passed_s = self._clock() - self._began
        return (math.floor(passed_s / self._seconds + ROUNDING) + 1) * self._seconds - passed_s


def is_async(work: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(work) or inspect.iscoroutinefunction(getattr(work, "__call__", None))  # noqa: B004


def work_name(work: Callable[..., Any]) -> str:
    """What it is called in log lines and problems."""
    inner = getattr(work, "func", work)  # of a functools.partial
    return str(getattr(inner, "__qualname__", type(inner).__name__)).replace("<locals>.", "")


class LeaderWork:
    """One piece of work. `tell`: what is wrong with it, or None; `ended`: a run has come to its end; `clock`: by which
    it pauses, in seconds.

    One thread, the node's watch, calls `begin` and `tell_if_it_goes_on`.
    """

    def __init__(
        self,
        name: str,
        pace: Callable[[], Pace],
        tell: Callable[[ReplicatorError | None], None],
        ended: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        #: The leadership in which it was begun last.
        self.tenure: Tenure | None = None
        #: When by the clock its pause is over; None: it does not pause.
        self.due_at: float | None = None
        #: Since when, by `time.monotonic`, a run is at what it does: it was begun, or goes on, or was told to end.
        self.since = 0.0
        self._new_pace = pace
        self._pace = pace()
        self._tell = tell
        self._ended = ended
        self._clock = clock
        self._leadership: Leadership | None = None
        #: Since when a run goes on that was told to end.
        self._told_at: float | None = None
        self._logged = ""

    @property
    def runs(self) -> bool:
        """Whether a run of it has not ended."""
        return self._leadership is not None

    @property
    def is_at_it(self) -> bool:
        """Whether a run of it is to end, or to come to its next pause: it was told to, or is due, or recurs."""
        if not self.runs or self._told_at is not None:
            return self.runs
        due_at = self.due_at
        return self._pace.recurs if due_at is None else due_at <= self._clock()

    def begin(self, tenure: Tenure, leadership: Leadership) -> None:
        """Begin a run. None may be running."""
        self._pace, self.since = self._new_pace(), time.monotonic()
        self.tenure, self._leadership, self._told_at = tenure, leadership, None
        self._tell(None)
        try:
            self._start(leadership)
        except ReplicatorError as error:
            if isinstance(error, NoThread):
                self.tenure = None  # there may be one a moment later
            self._tell(error)
            self._leadership = None

    def end(self) -> None:
        """Its leadership is over: tell the run."""
        leadership = self._leadership
        if leadership is not None and self._told_at is None:
            self._told_at = self.since = time.monotonic()
            leadership.lost.set()
            self._wake()
            self._cancel()

    def stir(self) -> None:
        """The clock was moved: have a run that pauses look at it."""
        if self.due_at is not None:
            self.since = time.monotonic()
        self._wake()

    def forget(self) -> None:
        """It was taken back. None of its runs begins meanwhile; one that goes on tells of itself at its end."""
        if not self.runs:
            self._tell(None)
        self.end()

    def hand_over(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """For work that was registered where no event loop ran: that is its loop; None: there is none, again."""

    def check_loop(self, problem: str) -> None:
        """Raises `ConfigError`, with that problem, for work that has no event loop and needs one."""

    def tell_if_it_goes_on(self, patience_s: float) -> None:
        """A problem if a run goes on for longer than that after it was told to end."""
        leadership = self._leadership
        if leadership is not None and self._told_at is not None and time.monotonic() - self._told_at > patience_s:
            problem = f"goes on although the leadership in term {leadership.term} is over: another node may do the same"
            self._tell(WorkFailed(work=self.name, problem=f"{problem}; it has to end when it is told"))
            if self._leadership is not leadership:  # at that very moment
                self._tell(None)

    def is_waited_for_by(self, thread: threading.Thread, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Whether it cannot end before that thread, in which that event loop runs, goes on."""
        raise NotImplementedError

    def _start(self, leadership: Leadership) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        """Out of its pause."""
        raise NotImplementedError

    def _cancel(self) -> None:
        """Beside that `lost` is set."""

    # --- what a run does, on its thread or in its task ---

    def _pauses(self, leadership: Leadership, until: float) -> float:
        """The seconds that are left of a pause; 0: it is over, or the run is."""
        left_s = 0.0 if leadership.lost.is_set() else until - self._clock()
        if left_s > 0:
            self.due_at = until
            return left_s
        if self.due_at is not None:
            self.since, self.due_at = time.monotonic(), None
        return 0.0

    def _succeeded(self) -> None:
        self._logged = ""
        self._tell(None)

    def _failed(self, leadership: Leadership, error: BaseException) -> None:
        if isinstance(error, LeadershipLost | Fenced | NotPrimary) and leadership.is_over:
            return  # as it should
        text = repr(error)
        if text != self._logged:
            logger.error("work.failed", "%s failed", self.name, exc_info=error)
        self._logged = text
        self._tell(WorkFailed(work=self.name, problem=f"raised {text[:200]}; it is tried again while this node leads"))

    def _is_done(self) -> None:
        self._leadership = self.due_at = None
        self._succeeded()  # whatever was wrong with the run, it has ended
        self._ended()


class _ThreadWork(LeaderWork):
    """A function. It has a thread of its own while it runs."""

    def __init__(self, work: Work, *more: Any) -> None:
        super().__init__(*more)
        self._work = work
        self._stirred = threading.Event()
        self._thread: threading.Thread | None = None

    def is_waited_for_by(self, thread: threading.Thread, loop: asyncio.AbstractEventLoop | None) -> bool:
        return self._thread is thread

    def _start(self, leadership: Leadership) -> None:
        self._thread = started(in_this_context(self._run), leadership, name=self.name)

    def _wake(self) -> None:
        self._stirred.set()

    def _run(self, leadership: Leadership) -> None:
        try:
            while not leadership.is_over:
                pause_s = self._pace.pause_s(failed=not self._attempt(leadership))
                if pause_s is None:
                    return
                self._pause(leadership, self._clock() + pause_s)
        finally:
            self._is_done()

    def _pause(self, leadership: Leadership, until: float) -> None:
        while left_s := self._pauses(leadership, until):
            self._stirred.wait(left_s)
            self._stirred.clear()

    def _attempt(self, leadership: Leadership) -> bool:
        try:
            given = self._work(leadership)
            if inspect.iscoroutine(given):
                given.close()
                raise TypeError("it gave a coroutine, and did nothing: give a function that is `async def` itself")
        except BaseException as error:  # no less than all: the application's, and nobody else sees it
            self._failed(leadership, error)
            return False
        self._succeeded()
        return True


class _TaskWork(LeaderWork):
    """A coroutine function. It has a task of the event loop while it runs: of that in which it was registered, or else
    of that in which the node is started.
    """

    def __init__(self, work: AsyncWork, setting: str, *more: Any) -> None:
        super().__init__(*more)
        self._work = work
        self._setting = setting
        self._loop = running_loop()
        self._waits_for_loop = self._loop is None
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def hand_over(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._waits_for_loop:
            self._loop = loop

    def check_loop(self, problem: str) -> None:
        if self._loop is None:
            name = work_name(self._work)
            raise ConfigError(setting=self._setting, problem=f"{name} is a coroutine function, and {problem}")

    def tell_if_it_goes_on(self, patience_s: float) -> None:
        if self.runs and self._loop is not None and self._loop.is_closed():  # before the run had begun, or had ended
            self.tenure = None  # it is to begin again, which says what is wrong
            self._is_done()
        else:
            super().tell_if_it_goes_on(patience_s)

    def is_waited_for_by(self, thread: threading.Thread, loop: asyncio.AbstractEventLoop | None) -> bool:
        return self._loop is None or loop is self._loop or not self._loop.is_running()

    def _start(self, leadership: Leadership) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._create, leadership)
        except RuntimeError:
            problem = "cannot begin, because the event loop in which it was registered is closed: register it again"
            raise WorkFailed(work=self.name, problem=problem) from None

    def _create(self, leadership: Leadership) -> None:
        if leadership.is_over:
            self._is_done()
            return
        self._task = asyncio.get_running_loop().create_task(self._run(leadership), name=self.name)
        # Not in the task: one that is cancelled before its first step runs nothing of it.
        self._task.add_done_callback(lambda _: self._is_done())

    def _cancel(self) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # of a loop that was closed: its tasks are gone
            self._loop.call_soon_threadsafe(self._cancel_here)

    def _wake(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stirred.set)

    def _cancel_here(self) -> None:
        if self._task is not None:
            self._task.cancel("the leadership is over")

    async def _run(self, leadership: Leadership) -> None:
        while not leadership.is_over:
            pause_s = self._pace.pause_s(failed=not await self._attempt(leadership))
            if pause_s is None:
                return
            await self._pause(leadership, self._clock() + pause_s)

    async def _pause(self, leadership: Leadership, until: float) -> None:
        while left_s := self._pauses(leadership, until):
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._stirred.wait()
            self._stirred.clear()

    async def _attempt(self, leadership: Leadership) -> bool:
        try:
            await self._work(leadership)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            self._failed(leadership, error)  # of something that the work waited for
            return False
        except Exception as error:
            self._failed(leadership, error)
            return False
        self._succeeded()
        return True


def _is_cancelled() -> bool:
    """Whether somebody cancelled the task that runs here."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def runner_of(work: Work | AsyncWork, setting: str, *more: Any) -> LeaderWork:
    """What runs it. `more`: as of `LeaderWork`. Raises `ConfigError` for what cannot be run."""
    if not callable(work):
        raise ConfigError(setting=setting, problem=f"{work!r:.80} cannot be called: give a function of the leadership")
    if not is_async(work):
        return _ThreadWork(work, *more)
    return _TaskWork(work, setting, *more)  # type: ignore[arg-type]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs on this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
