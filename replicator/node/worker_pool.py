"""Threads for the work of many nodes: as many as have something to do, up to a bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ..errors import NoThread
from ..runtime.backoff import Backoff
from ..runtime.event_log import EventLogger
from ..runtime.log_once import BUG, Lasting, LogOnce
from ..runtime.threads import started

__all__ = [
    "PATIENCE_S",
    "RETRY_S",
    "RETRY_S_MAX",
    "TEAM_MAX",
    "WATCH_EVERY_S",
    "Team",
    "submitted",
]

logger = EventLogger(__name__)

_TOO_FEW = Lasting("threads.missing", "threads.enough", "there are enough threads again")


#: How soon Redis is tried again after it did not answer: at first, and at the most.
RETRY_S, RETRY_S_MAX = 0.1, 1.0


#: A thread that is so long at one thing is held up; how often that is looked at; how many threads may be.
PATIENCE_S = 0.25


WATCH_EVERY_S = 0.1


TEAM_MAX = 32


class Team:
    """Threads that take one thing after the other, and do it. More of them while some are held up, to a limit.

    `take` waits for something to do; None ends the thread.
    """

    def __init__(self, name: str, take: Callable[[], Callable[[], None] | None], *, size: int) -> None:
        self._name = name
        self._take = take
        self._size = size
        self._lock = threading.Lock()
        self._backoff = Backoff(RETRY_S, RETRY_S_MAX)
        self._log_once = LogOnce(logger)
        self._threads: set[threading.Thread] = set()
        #: Since when each thread is at something.
        self._since: dict[threading.Thread, float] = {}

    def begin(self) -> None:
        """Raises `NoThread`."""
        with self._lock:
            for _ in range(self._size):
                self._add()

    def relieve(self) -> None:
        """Add threads for those that are held up."""
        with self._lock:
            try:
                while len(self._threads) < self._limit():
                    self._add()
                self._log_once.over("threads")
            except NoThread as problem:  # those that are there go on, and the next look tries again
                self._log_once.tell("threads", _TOO_FEW, f"nodes wait for one another: {problem}")

    def join(self, timeout_s: float) -> None:
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=timeout_s)

    def _add(self) -> None:
        self._threads.add(started(self._work, name=f"host-{self._name}"))

    def _limit(self) -> int:
        until = time.monotonic() - PATIENCE_S
        held_up = sum(since < until for since in list(self._since.values()))
        # Where some are held up the next one may be as well.
        return min(TEAM_MAX, self._size + 2 * held_up)

    def _work(self) -> None:
        me = threading.current_thread()
        work: Callable[[], None] | None = None
        while not self._is_one_too_many(me):
            try:
                work = self._take()
                if work is None:
                    break
                self._since[me] = time.monotonic()
                work()
            except BaseException as error:
                # Of one node, perhaps: the others need this thread.
                self._log_once.tell(self._name, BUG, f"a bug in replicator: {error!r}", exc_info=True)
                time.sleep(self._backoff.failed())
            else:
                self._backoff.succeeded()
                self._log_once.over(self._name)
            finally:
                work = None  # a thread that waits for the next node does not keep the last one
                self._since.pop(me, None)
        with self._lock:
            self._threads.discard(me)

    def _is_one_too_many(self, me: threading.Thread) -> bool:
        with self._lock:
            if len(self._threads) <= self._limit():
                return False
            self._threads.discard(me)
            return True


def submitted(pool: ThreadPoolExecutor, work: Callable[[], None]) -> Future[None]:
    """Have it done by the pool, or here and now if there are no threads."""
    try:
        return pool.submit(work)
    except RuntimeError:
        done: Future[None] = Future()
        try:
            work()
            done.set_result(None)
        except Exception as error:
            done.set_exception(error)
        return done
