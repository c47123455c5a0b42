"""Jobs that an RQ worker runs for the command line: puts one into the queue, and follows it to its end.

The functions themselves are in `workers/jobs.py`; here only their names are known. Arguments and results are JSON. The
worker takes the group's Redis from its own environment, so no URL with a password goes through the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rq
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from ..errors import LogUnavailable, ReplicatorError
from ..log.redis_errors import advice
from ..log.redis_log import client_for, shown
from ..runtime import checks

__all__ = ["JobFailed", "queue_name", "run_in_queue"]

POLL_EVERY_S = 0.1

#: How long Redis may be away while a job is waited for. One that fails over is back within seconds.
AWAY_S_MAX = 15.0

#: A job on 80 MB of state takes seconds; one that takes ten minutes hangs.
JOB_TIMEOUT_S = 600

RESULT_TTL_S = 3600


#: The statuses that are final.
ENDED = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


class JobFailed(ReplicatorError):
    """the job {name} failed: {problem}"""


def queue_name(group: str) -> str:
    """The queue of a group's jobs. A worker serves one group."""
    return f"replicator-{checks.name('group', group)}"


def run_in_queue(url: str, group: str, name: str, *, wait_s: float, progress: Callable[[str], None]) -> Any:
    """Enqueue `replicator.workers.jobs.<name>`, show its progress, and return its result.

    Raises `JobFailed`, `LogUnavailable`, `TimeoutError` (no worker took it, or it takes longer than `wait_s`).
    """
    connection = client_for(url)
    try:
        with _translated(url, name):
            queue = rq.Queue(queue_name(group), connection=connection, serializer=JSONSerializer)
            job = queue.enqueue(
                f"replicator.workers.jobs.{name}",
                job_timeout=JOB_TIMEOUT_S,
                result_ttl=RESULT_TTL_S,
                failure_ttl=RESULT_TTL_S,
            )
        progress(f"job {job.id} is in queue {queue.name}")
        return _follow(job, name, url, wait_s, progress)
    finally:
        connection.close()


def _follow(job: Job, name: str, url: str, wait_s: float, progress: Callable[[str], None]) -> Any:
    """Poll the job until it ends, and return its result. One that no worker took in time is cancelled."""
    told: str | None = None
    answered_at = time.monotonic()
    deadline = answered_at + wait_s
    while time.monotonic() < deadline:
        status: JobStatus | None = None
        try:
            with _translated(url, name):
                status = job.get_status(refresh=True)
                said = job.get_meta(refresh=True).get("progress")
            answered_at = time.monotonic()
        except LogUnavailable as unavailable:
            # Redis may be failing over, and the job goes on meanwhile.
            if time.monotonic() > answered_at + AWAY_S_MAX:
                raise
            said = f"{unavailable}; waiting for it to come back"
        if said and said != told:
            told = said
            progress(said)
        if status in ENDED:
            with _translated(url, name):
                return _result_of(job, name, status)
        time.sleep(POLL_EVERY_S)
    with _translated(url, name):
        status = job.get_status(refresh=True)
        if status == JobStatus.QUEUED:
            job.cancel()  # its result would reach nobody
    if status == JobStatus.QUEUED:
        raise TimeoutError(
            f"no worker took job {job.id} from the queue; is `python -m replicator.workers.jobs` running?"
        )
    raise TimeoutError(f"job {job.id} is still {status}")


@contextmanager
def _translated(url: str, name: str) -> Iterator[None]:
    """Turn the errors of Redis and RQ into ours."""
    try:
        yield
    except ReplicatorError:
        raise
    except (NoSuchJobError, InvalidJobOperation):
        problem = "Redis does not have it any more, as after a failover or a restart that lost it; ask for it again"
        raise JobFailed(name=name, problem=problem) from None
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.startswith("redis."):
            raise LogUnavailable(url=shown(url), problem=advice(error)) from None
        raise


def _result_of(job: Job, name: str, status: JobStatus) -> Any:
    if status == JobStatus.FINISHED:
        return job.return_value()
    raise JobFailed(name=name, problem=_problem_of(job) or str(status))


def _problem_of(job: Job) -> str:
    result = job.latest_result()
    text = (result.exc_string if result is not None else "") or ""
    return text.strip().splitlines()[-1] if text.strip() else ""
