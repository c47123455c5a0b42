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

from replicator import admin
from replicator.errors import ConfigError, ReplicatorError
from replicator.jobs import queue_name
from replicator.log import RedisLog, client_for


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
    logging.basicConfig(level=os.environ.get("REPLICATOR_LOG_LEVEL", "INFO").upper())
    try:
        url, group = _setting("REPLICATOR_REDIS"), _setting("REPLICATOR_GROUP")
        _check_redis()
        # RQ draws a name for the worker: one that was killed keeps its name for a while.
        worker = rq.Worker([queue_name(group)], connection=client_for(url), serializer=JSONSerializer)
    except ReplicatorError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    worker.work()


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
