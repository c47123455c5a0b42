"""What several do with one job in the same moment: who takes it, who cancels it, whose time has come, who lists it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rq
from replicator.workers import jobs
from replicator.workers.worker import Worker
from rq.job import JobStatus

from replicator.jobs import queue as queue_module
from replicator.jobs.due import DueJobs
from replicator.jobs.own_job import OwnJob
from replicator.jobs.plain_pickle import PlainPickle
from replicator.jobs.queue import JobQueue
from replicator.jobs.work import JobSettings
from replicator.log.redis_log import client_for
from replicator.sandbox.redis_server import RedisServer


@pytest.fixture
def queue(any_redis: RedisServer) -> Iterator[JobQueue]:
    with JobQueue(any_redis.url, "g") as queue:
        yield queue


@pytest.fixture
def worker(any_redis: RedisServer) -> Iterator[Worker]:
    """One that is not turned: the test does what it would do."""
    worker = jobs._worker(JobSettings(redis=any_redis.url, group="g"))
    yield worker
    worker.connection.close()


def taken(worker: Worker) -> tuple[OwnJob, rq.Queue]:
    """What it does first: it has the job, and nobody sees that of the job."""
    found = rq.Queue.dequeue_any(
        worker.queues, None, connection=worker.connection, job_class=OwnJob, serializer=PlainPickle
    )
    assert found is not None
    return found  # type: ignore[return-value]


def in_how_long(seconds: float) -> int:
    """In unix ms."""
    return int((time.time() + seconds) * 1000)


def test_one_that_is_cancelled_while_a_worker_takes_it_is_not_done(queue: JobQueue, worker: Worker) -> None:
    id = queue.ask("verify", {}).id
    job, of = taken(worker)
    execution = worker.prepare_execution(job)
    # when
    assert queue.cancel(id).job_status == "canceled"
    # then
    assert not worker.perform_job(job, of, execution)
    assert queue.job(id).job_status == "canceled"
    assert worker.connection.lrange(of.intermediate_queue_key, 0, -1) == []
    assert of.started_job_registry.count == 0


def test_one_that_is_begun_while_somebody_cancels_it_is_stopped_by_its_worker(
    any_redis: RedisServer, queue: JobQueue, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "STOPS_WITHIN_S", 0.0)
    id = queue.ask("verify", {}).id
    job, _ = taken(worker)
    looked = queue.job

    def look_and_be_late(id: str) -> Any:
        facts = looked(id)
        worker._begins(job)
        return facts

    monkeypatch.setattr(queue, "job", look_and_be_late)
    with client_for(any_redis.url) as client, client.pubsub() as heard:
        heard.subscribe(f"rq:pubsub:{worker.name}")
        heard.get_message(timeout=60)
        # when, then: it is not called cancelled
        with pytest.raises(TimeoutError, match="is still started"):
            queue.cancel(id)
        assert b"stop-job" in heard.get_message(timeout=60)["data"]


class Late:
    """A client of which whoever looks is held up, while something else happens."""

    def __init__(self, client: Any, meanwhile: Callable[[], object]) -> None:
        self._client = client
        self._meanwhile = meanwhile

    def zrangebyscore(self, *args: Any) -> Any:
        found = self._client.zrangebyscore(*args)
        self._meanwhile()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.mark.parametrize("what", ["cancelled", "deleted", "taken"])
def test_one_that_is_cancelled_when_its_time_has_come_does_not_come_back(
    queue: JobQueue, worker: Worker, what: str
) -> None:
    id = queue.ask("verify", {}, due_ms=in_how_long(-10)).id
    due, other = DueJobs(worker.queues[0]), DueJobs(worker.queues[0])

    def meanwhile() -> None:
        if what == "cancelled":
            queue.cancel(id)
        elif what == "deleted":
            OwnJob.fetch(id, connection=worker.connection, serializer=PlainPickle).delete()
        else:
            other.enqueue_scheduled_jobs()

    due._connection = Late(due._connection, meanwhile)
    due.enqueue_scheduled_jobs()
    assert worker.queues[0].job_ids == ([id] if what == "taken" else [])
    assert [job.job_status for job in queue.jobs()] == {"cancelled": ["canceled"], "deleted": [], "taken": ["queued"]}[
        what
    ]


def test_one_whose_time_comes_while_somebody_lists_them_is_in_the_list(
    queue: JobQueue, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = queue.ask("verify", {}, due_ms=in_how_long(-10)).id
    read = queue._client.lrange

    def read_and_be_late(*args: Any) -> Any:
        found = read(*args)
        DueJobs(worker.queues[0]).enqueue_scheduled_jobs()
        return found

    monkeypatch.setattr(queue._client, "lrange", read_and_be_late)
    assert [job.job for job in queue.jobs()] == [id]


def test_one_that_ended_when_its_time_to_wait_is_over_is_no_job_that_goes_on(queue: JobQueue) -> None:
    id = queue.ask("verify", {}).id
    queue._client.hset(OwnJob.key_for(id), "status", JobStatus.FAILED.value)
    with pytest.raises(Exception, match="it was failed"):
        queue.follow(id, "verify", wait_s=0.0, progress=print)


def test_a_worker_that_is_to_end_a_job_that_has_ended_does_not_end_itself(any_redis: RedisServer) -> None:
    program = """
from replicator.jobs.work import JobSettings
from replicator.workers import jobs
import os
worker = jobs._worker(JobSettings.of(os.environ))
worker.kill_horse()
print("lives")
"""
    environment = {**os.environ, "REPLICATOR_REDIS": any_redis.url, "REPLICATOR_GROUP": "g"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (0, "lives\n"), done.stderr
