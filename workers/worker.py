"""An RQ worker that outlasts a Redis which is away, and ends in order whatever signal asks it to.

RQ's own ends when Redis is not there at its start, and when it becomes a replica or restarts while a job is fetched.
A worker that was not asked to end begins anew, after a pause that grows.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
import rq
from rq.exceptions import StopRequested

from replicator.errors import LogUnavailable
from replicator.runtime.signals import on_end

__all__ = ["Worker", "work"]

logger = logging.getLogger(__name__)

#: Between two attempts: the first pause, and the longest.
PAUSE_S_MIN = 0.2
PAUSE_S_MAX = 10.0


class Worker(rq.Worker):
    """A worker that knows whether it was asked to end, also before it began."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked = threading.Event()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the job under way, and end. From then on SIGTERM and SIGINT end the job; the others say no more."""
        if not self.asked.is_set():
            self.asked.set()
            super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def _install_signal_handlers(self) -> None:
        on_end(self.request_stop)
        if self.asked.is_set():
            self._stop_requested = True

    def setup_work_horse_signals(self) -> None:
        """In the process of a job: what a terminal sends to all is for the worker to decide."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        for number in (signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)


def work(make: Callable[[], Worker]) -> None:
    """Work until a signal asks to end. `make`: a worker, or `LogUnavailable` while Redis is away.

    Raises what else `make` raises.
    """
    asked = threading.Event()
    pause_s, told = PAUSE_S_MIN, ""
    while not asked.is_set():
        on_end(lambda *_: asked.set())
        problem = ""
        try:
            worker = make()
            pause_s, told = PAUSE_S_MIN, ""
            problem = _worked(worker, asked)
        except LogUnavailable as error:
            problem = str(error)
        if asked.is_set():
            break
        if problem != told:
            logger.warning("%s; trying again until it is there", problem)
            told = problem
        asked.wait(pause_s)
        pause_s = min(2 * pause_s, PAUSE_S_MAX)
    logger.info("ended")


def _worked(worker: Worker, asked: threading.Event) -> str:
    """Let it work until it ends; why it did unasked."""
    problem = "the worker ended by itself"
    worker.asked = asked
    try:
        worker.work()
    except StopRequested:
        pass  # in the moment before RQ heeds it; what it told Redis of itself is gone after a while
    except (redis.exceptions.RedisError, OSError) as error:
        # Also at its end: then Redis forgets it by itself, after a while.
        problem = f"Redis is not available to the worker: {error}"
    return problem
