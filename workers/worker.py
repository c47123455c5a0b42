"""An RQ worker that survives while Redis is away, and ends cleanly whichever signal asks it to.

RQ's own worker ends if Redis is away at its start, or becomes a replica or restarts while a job is fetched. Here a
worker that was not asked to end is started anew, with a back-off.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
import rq
from rq import worker_registration
from rq.exceptions import StopRequested
from rq.job import JobStatus

from replicator.errors import LogUnavailable
from replicator.jobs.due import DueJobs
from replicator.jobs.kinds import KINDS
from replicator.runtime.event_log import EventLogger
from replicator.runtime.log_once import Lasting, LogOnce
from replicator.runtime.signals import on_end

__all__ = ["Worker", "work"]

logger = EventLogger(__name__)

_WAITS = Lasting("worker.waits", "worker.works", "works again")

#: The pause between two attempts: the first, and the longest.
PAUSE_S_MIN = 0.2
PAUSE_S_MAX = 10.0

#: Those that may be sent to a worker, or to all that a terminal has.
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

#: How long a worker waits for a job, or for Redis, before it looks again whether it was asked to end.
WAIT_S = 5

#: A drill ends its processes in order within this time, also on a busy machine.
BREAKS_OFF_WITHIN_S = 30.0


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
        self._due = DueJobs(self.queues[0])
        self._breaks_off = False
        #: Whether RQ's loop runs. Raised before or after it, an exception keeps the worker from taking its leave, and
        #: whoever has a job waits for it.
        self._turns = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the present job, then end. After that SIGTERM and SIGINT end the job; other signals have no effect.

        A job that can be broken off (a drill) is not finished, but ends in order.
        """
        if not self.asked.is_set():
            self.asked.set()
            self._break_off()
            if self._turns:
                super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def execute_job(self, job: Any, queue: Any) -> None:
        """Have it done in a process of its own, unless it was cancelled in the moment in which it was taken."""
        if job.get_status(refresh=False) == JobStatus.CANCELED:
            self.connection.lrem(queue.intermediate_queue_key, 1, job.id)
            return
        kind = KINDS.get(job.asked)
        self._breaks_off = kind is not None and kind.breaks_off
        self._stopped_job_id = None  # of a job of the same id, which was stopped before
        # Another worker may have a job at its time, while this one is busy.
        self._due.release_locks()  # type: ignore[no-untyped-call]
        super().execute_job(job, queue)
        self._breaks_off = False

    def fork_work_horse(self, job: Any, queue: Any) -> None:
        """As in RQ, except that whoever is to be ended in this moment hears of it.

        The new process has the handlers of this one until it has its own, so signals wait that long. It has a process
        group of its own from here on: RQ kills the group.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().fork_work_horse(job, queue)
            with contextlib.suppress(OSError):  # it did that itself, or has ended
                os.setpgid(self.horse_pid, self.horse_pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self.asked.is_set():  # before there was a process that could be told
            self._break_off()

    def perform_job(self, job: Any, queue: Any, execution: Any) -> bool:
        """In the process of a job: do it, unless it was cancelled since it was taken. From here on it is stopped."""
        if self._begins(job):
            return bool(super().perform_job(job, queue, execution))
        with self.connection.pipeline() as pipe:
            pipe.lrem(queue.intermediate_queue_key, 1, job.id)
            self.cleanup_execution(job, pipe, execution)
            pipe.execute()
        return False

    def _begins(self, job: Any) -> bool:
        begins = True

        def begin(pipe: Any) -> None:
            nonlocal begins
            begins = pipe.hget(job.key, "status") != JobStatus.CANCELED.value.encode()
            pipe.multi()
            if begins:
                pipe.hset(job.key, mapping={"status": JobStatus.STARTED.value, "worker_name": self.name})

        self.connection.transaction(begin, job.key)
        return begins

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """End the present job: one that can be broken off gets the time to do that in order."""
        if not self.horse_pid:  # RQ would kill the process group of this process
            return
        if not self._break_off() or self.asked.is_set():
            super().kill_horse(sig)
            return
        horse = self.horse_pid
        later = threading.Timer(BREAKS_OFF_WITHIN_S, lambda: self._kill_horse_of_then(horse))
        later.daemon = True
        later.start()

    def _kill_horse_of_then(self, horse: int) -> None:
        if self.horse_pid == horse:
            super().kill_horse()

    def _break_off(self) -> bool:
        """Ask the present job to end, if it is of those that can; whether it is."""
        if not self._breaks_off or not self.horse_pid:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.horse_pid, signal.SIGTERM)
        return True

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
        """Whether they are due. RQ asks at each turn, before it fetches a job: so nothing that was fetched is lost, and
        what is due now is fetched next."""
        self._turns = True
        if self.asked.is_set():
            raise StopRequested
        # Redis may have forgotten it while it, or this machine, was away.
        worker_registration.register(self)
        self._due.turn()
        return bool(super().should_run_maintenance_tasks)

    def teardown(self) -> None:
        """Leave what is due to the other workers."""
        self._turns = False
        if not self.is_horse:
            self._due.release_locks()  # type: ignore[no-untyped-call]
        super().teardown()  # type: ignore[no-untyped-call]

    def setup_work_horse_signals(self) -> None:
        """In the process of a job: ignore signals that a terminal sends to all processes. The worker handles them.

        SIGTERM waits until a job that can be broken off heeds it: `Interruption` lets it through.
        """
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        for number in (signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        waits = {signal.SIGTERM} if self._breaks_off else set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS - waits)


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
