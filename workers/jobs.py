"""The RQ worker that does the jobs of a group: `python -m replicator.workers.jobs`.

REPLICATOR_REDIS and REPLICATOR_GROUP name the group; REPLICATOR_BACKUPS and others say what a job may touch of this
machine (`replicator/jobs/work.py`). The worker has a client of its own, because RQ changes the timeouts of the
client it is given.

A queue is data, and anybody who can write to Redis can write to it: `replicator/jobs/own_job.py` says what of it is
run.
"""

from __future__ import annotations

import os
import sys

import rq

from replicator.cli import LEVELS, cli
from replicator.cli.environment import check_environment
from replicator.errors import ReplicatorError
from replicator.jobs.own_job import OwnJob
from replicator.jobs.plain_pickle import PlainPickle
from replicator.jobs.queue import WORKER_TTL_S, queue_name
from replicator.jobs.work import JobSettings
from replicator.log.redis_log import RedisLog, client_for
from replicator.runtime import checks
from replicator.runtime.event_log import SPEAKER
from replicator.runtime.log_output import FORMATS, GroupSpeaker, configure

from .worker import Worker, work

#: How often a worker reports while it has a job.
MONITOR_EVERY_S = 10

#: How often it looks for jobs whose worker was killed.
MAINTAIN_EVERY_S = 60


def main() -> None:
    try:
        configure(_log_level(), _log_format(), otherwise="json")
        SPEAKER.set(GroupSpeaker(os.environ.get("REPLICATOR_GROUP", "")))
        check_environment(cli)
        settings = JobSettings.of(os.environ)
        work(lambda: _worker(settings))
    except ReplicatorError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _worker(settings: JobSettings) -> Worker:
    _check_redis(settings)
    queue = rq.Queue(
        queue_name(settings.group),
        connection=client_for(settings.redis),
        serializer=PlainPickle,
        job_class=OwnJob,
    )
    # RQ draws a new name for each worker: the name of one that was killed stays taken for a while.
    return Worker(
        [queue],
        connection=queue.connection,
        serializer=PlainPickle,
        job_class=OwnJob,
        worker_ttl=WORKER_TTL_S,
        job_monitoring_interval=MONITOR_EVERY_S,
        maintenance_interval=MAINTAIN_EVERY_S,
        log_job_description=False,  # it is untrusted text from the queue
    )


def _log_level() -> str:
    return checks.choice("REPLICATOR_LOG_LEVEL", os.environ.get("REPLICATOR_LOG_LEVEL", "INFO").upper(), LEVELS)


def _log_format() -> str:
    return checks.choice("REPLICATOR_LOG_FORMAT", os.environ.get("REPLICATOR_LOG_FORMAT", "auto").lower(), FORMATS)


def _check_redis(settings: JobSettings) -> None:
    """Raises `LogUnavailable`, which says what to do, if Redis is away: RQ would only show a traceback."""
    log = RedisLog(settings.redis, settings.group)
    try:
        log.look()
    finally:
        log.close()


if __name__ == "__main__":
    main()
