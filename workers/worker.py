"""An RQ worker that survives while Redis is away, and ends cleanly whichever signal asks it to.

RQ's own worker ends if Redis is away at its start, or becomes a replica or restarts while a job is fetched. Here a
worker that was not asked to end is started anew, with a back-off.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
import rq
from rq.exceptions import StopRequested

from replicator.errors import LogUnavailable
from replicator.runtime.event_log import EventLogger
from replicator.runtime.log_once import Lasting, LogOnce
from replicator.runtime.signals import on_end

__all__ = ["Worker", "work"]

logger = EventLogger(__name__)

_WAITS = Lasting("worker.waits", "worker.works", "works again")

#: The pause between two attempts: the first, and the longest.
PAUSE_S_MIN = 0.2
PAUSE_S_MAX = 10.0


#: How long a worker waits for a job, or for Redis, before it looks again whether it was asked to end.
WAIT_S = 5


class Worker(rq.Worker):
    """A worker that knows whether it was asked to end, even before it began.

    RQ ends a worker that waits by an exception out of the signal's handler. Wherever that comes up, it may be taken for
    something else: `__del__` drops it, and what the handler asks of Redis may fail first. So a worker that was asked is
    ended at its next turn, too.
    """

    max_connection_wait_time = float(WAIT_S)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked = threading.Event()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the present job, then end. After that SIGTERM and SIGINT end the job; other signals have no effect."""
        if not self.asked.is_set():
            self.asked.set()
            super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def _install_signal_handlers(self) -> None:
        on_end(self.request_stop)
        if self.asked.is_set():
            self._stop_requested = True

    @property
    def dequeue_timeout(self) -> int:
        """For how many seconds Redis is asked for a job before the next turn."""
        return WAIT_S

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Whether they are due. RQ asks at each turn, before it fetches a job: so nothing that was fetched is lost."""
        if self.asked.is_set():
            raise StopRequested
        return bool(super().should_run_maintenance_tasks)

    def setup_work_horse_signals(self) -> None:
        """In the process of a job: ignore signals that a terminal sends to all processes. The worker handles them."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        for number in (signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)


def work(make: Callable[[], Worker]) -> None:
    """Work until a signal asks to end. `make` makes a worker, or raises `LogUnavailable` while Redis is away.

    Raises anything else that `make` raises.
    """
    asked = threading.Event()
    pause_s, log_once = PAUSE_S_MIN, LogOnce(logger)
    while not asked.is_set():
        on_end(lambda *_: asked.set())
        problem = ""
        try:
            worker = make()
            pause_s = PAUSE_S_MIN
            log_once.over("worker")
            problem = _worked(worker, asked)
        except LogUnavailable as error:
            problem = str(error)
        if asked.is_set():
            break
        log_once.tell("worker", _WAITS, f"{problem}; trying again until it is there")
        asked.wait(pause_s)
        pause_s = min(2 * pause_s, PAUSE_S_MAX)
    logger.info("worker.ended", "ended")


def _worked(worker: Worker, asked: threading.Event) -> str:
    """Let the worker work until it ends; return why it ended, in case it was not asked to."""
    problem = "the worker ended by itself"
    worker.asked = asked
    try:
        worker.work()
    except StopRequested:
        pass  # the signal came in the moment before RQ handles it; Redis forgets the worker after a while
    except (redis.exceptions.RedisError, OSError) as error:
        # This also happens when the worker signs off; then Redis forgets it after a while.
        problem = f"Redis is not available to the worker: {error}"
    return problem
