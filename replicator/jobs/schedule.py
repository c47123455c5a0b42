"""Jobs that are asked for again and again, by RQ's cron.

RQ's own program (`rq cron FILE`) gives each job an id by chance. Here its scheduler runs with jobs that go into the
queue as all others do, and each of its times has a job of its own id: two of these processes ask for it once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import rq.cron
from croniter import CroniterBadDateError, croniter
from rq.exceptions import StopRequested
from rq.utils import now

from ..errors import ConfigError, LogUnavailable
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from ..runtime.signals import on_end
from .kinds import function_of
from .queue import JobQueue

__all__ = ["OFF", "Schedule", "check_times"]

logger = EventLogger(__name__)

_WAITS = Lasting("cron.waits", "cron.works", "Redis is there again")

#: Instead of times: that job is not asked for.
OFF = "off"

#: A signal may come where Python drops what its handler raises; then this is how long it takes until it is seen.
TURN_EVERY_S = 5.0


def check_times(setting: str, text: str) -> str:
    """Five fields of cron, or `off`. Raises `ConfigError`, also for a day that never comes (30 February)."""
    if text != OFF and (len(text.split()) != 5 or not croniter.is_valid(text)):
        problem = f"{text!r} is neither five fields of cron (minute, hour, day, month, weekday: 30 2 * * *) nor {OFF}"
        raise ConfigError(setting=setting, problem=problem)
    if text != OFF:
        try:
            croniter(text).get_next()
        except CroniterBadDateError:
            raise ConfigError(setting=setting, problem=f"{text!r} is a day that never comes") from None
    return text


class Schedule(rq.cron.CronScheduler):
    """Asks for jobs at their times, which are those of this machine's time zone, until it is told to end.

    `times`: the kind of a job, and five fields of cron, or `off`.
    """

    def __init__(self, queue: JobQueue, connection: Any, times: Mapping[str, str]) -> None:
        super().__init__(connection=connection)
        self._asked = threading.Event()
        self._queue = queue
        self._log_once = LogOnce(logger)
        self._cron_jobs: list[rq.cron.CronJob] = [
            _Planned(queue, name, text) for name, text in times.items() if text != OFF
        ]

    @property
    def next_times(self) -> dict[str, datetime]:
        """When each one is asked for next."""
        return {job.name: job.next_enqueue_time for job in self._cron_jobs if job.next_enqueue_time is not None}

    def start(self) -> None:
        """Returns when a signal asked to end, also in the moment before RQ expects one."""
        with suppress(StopRequested):
            super().start()  # type: ignore[no-untyped-call]

    def enqueue_jobs(self) -> list[rq.cron.CronJob]:
        """Ask for what is due. While Redis is away nothing is: it is asked for when that is back."""
        try:
            asked = super().enqueue_jobs()
        except LogUnavailable as unavailable:
            self._log_once.tell("redis", _WAITS, f"{unavailable}; trying again until it is there")
            return []
        self._log_once.over("redis")
        return asked

    # What it says of itself in Redis is for people. It says it again later.

    def register_birth(self) -> None:
        with suppress(LogUnavailable), self._queue.translated("cron"):
            super().register_birth()

    def register_death(self, pipeline: Any = None) -> None:
        with suppress(LogUnavailable), self._queue.translated("cron"):
            super().register_death(pipeline)

    def save(self, pipeline: Any = None) -> None:
        with suppress(LogUnavailable), self._queue.translated("cron"):
            super().save(pipeline)

    def heartbeat(self) -> None:
        with suppress(LogUnavailable), self._queue.translated("cron"):
            super().heartbeat()

    def _install_signal_handlers(self) -> None:
        on_end(self._request_stop)

    def _request_stop(self, signum: int, frame: Any) -> None:
        self._asked.set()
        super()._request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def calculate_sleep_interval(self) -> float:
        """RQ's, but never so long that a signal is not seen."""
        if self._asked.is_set():
            raise StopRequested
        return min(float(super().calculate_sleep_interval()), TURN_EVERY_S)


class _Planned(rq.cron.CronJob):
    """A job at its times."""

    def __init__(self, queue: JobQueue, name: str, times: str) -> None:
        super().__init__(queue.name, func_name=function_of(name), cron=times, name=name)
        self._queue = queue

    def enqueue(self, connection: Any) -> Any:
        """Ask for the job of this time. (RQ's would have an id by chance.)"""
        due = self.next_enqueue_time or now()
        asked = self._queue.ask(self.name, {}, slot=due.strftime("%Y%m%dT%H%MZ"))
        how = "is asked for" if asked.is_new else "was asked for already, by another schedule"
        logger.info("job.asked", "%s %s", self.name, how, job=asked.id)
        return asked
