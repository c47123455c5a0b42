"""The jobs of a group, and the RQ worker that runs them: `python -m workers.jobs`.

REPLICATOR_REDIS and REPLICATOR_GROUP say which group. Both sides of the queue speak JSON. The worker has a client of
its own, because RQ changes the timeouts of the client it is given.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import rq
from rq.serializers import JSONSerializer

from replicator import admin, checks
from replicator.cli import LEVELS, cli
from replicator.cli.environment import check_environment
from replicator.errors import ConfigError, ReplicatorError
from replicator.jobs import queue_name
from replicator.log import RedisLog, client_for
from workers.worker import Worker, work


def snapshot() -> dict[str, Any]:
    """Have the primary send a snapshot; the id whose state it is."""
    log = _log()
    try:
        return {"as_of": admin.snapshot(log, by="job", progress=_progress())}
    finally:
        log.close()


def verify() -> dict[str, Any]:
    """Compare the digests of all live nodes at one position."""
    log = _log()
    try:
        return admin.verify(log, by="job", progress=_progress()).to_dict()
    finally:
        log.close()


def main() -> None:
    try:
        logging.basicConfig(level=_log_level())
        check_environment(cli)
        url, group = _setting("REPLICATOR_REDIS"), _setting("REPLICATOR_GROUP")
        work(lambda: _worker(url, group))
    except ReplicatorError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _worker(url: str, group: str) -> Worker:
    _check_redis()
    # RQ draws a name for the worker: one that was killed keeps its name for a while.
    return Worker([queue_name(group)], connection=client_for(url), serializer=JSONSerializer)


def _log_level() -> str:
    return checks.choice("REPLICATOR_LOG_LEVEL", os.environ.get("REPLICATOR_LOG_LEVEL", "INFO").upper(), LEVELS)


def _check_redis() -> None:
    """RQ meets a Redis that is not there with a traceback; `LogUnavailable` says what to do."""
    log = _log()
    try:
        log.look()
    finally:
        log.close()


def _log() -> RedisLog:
    return RedisLog(_setting("REPLICATOR_REDIS"), _setting("REPLICATOR_GROUP"))


def _progress() -> Callable[[str], None]:
    job = rq.get_current_job()

    def say(text: str) -> None:
        if job is not None:
            job.meta["progress"] = text
            job.save_meta()  # type: ignore[no-untyped-call]

    return say


def _setting(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(setting=name, problem="is not set")
    return value


if __name__ == "__main__":
    main()
