"""Puts jobs into the queue whose time has come.

It is RQ's scheduler, with its lock: of all workers of a queue, one does this. But it is turned by the worker between
two jobs, and not by a process of its own, which would have signals and a connection to look after; and what is
scheduled is not read here, so that nothing in it can end it.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import rq
from rq.job import JobStatus
from rq.registry import ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.utils import utcformat

from .own_job import OwnJob
from .plain_pickle import PlainPickle

__all__ = ["DueJobs"]


class DueJobs(RQScheduler):
    """Those of one queue. `turn` is called now and then, `release_locks` at the end."""

    def __init__(self, queue: rq.Queue) -> None:
        super().__init__([queue.name], connection=queue.connection, serializer=PlainPickle)
        self._connection: Any = queue.connection
        self._queue = queue
        self.log.setLevel(logging.WARNING)  # it takes the lock again after each job, and would say so

    def turn(self) -> None:
        """Enqueue what is due, if no other worker does that."""
        if self.acquire_locks():  # type: ignore[no-untyped-call]
            self.enqueue_scheduled_jobs()

    def enqueue_scheduled_jobs(self) -> None:
        """Each one in one step, so that none is lost and none is there twice, whenever this process is killed."""
        registry = ScheduledJobRegistry(queue=self._queue)  # type: ignore[no-untyped-call]
        now = datetime.now(tz=UTC)
        for raw in self._connection.zrangebyscore(registry.key, 0, int(now.timestamp())):
            self._enqueue_due(registry.key, raw, now)

    def _enqueue_due(self, registry_key: str, raw: bytes, now: datetime) -> None:
        """Unless it is cancelled, or deleted, in this moment."""
        id = raw.decode("utf-8", "replace")

        def enqueue(pipe: Any) -> None:
            is_due = pipe.zscore(registry_key, raw) is not None and pipe.exists(OwnJob.key_for(id))
            pipe.multi()
            pipe.zrem(registry_key, raw)
            if is_due:
                fields = {"status": JobStatus.QUEUED.value, "enqueued_at": utcformat(now)}
                pipe.hset(OwnJob.key_for(id), mapping=fields)
                pipe.rpush(self._queue.key, id)

        self._connection.transaction(enqueue, registry_key, OwnJob.key_for(id))
