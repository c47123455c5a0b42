"""Jobs of an application's own queue, run by real workers: in a term, and writing to a service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rq
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from replicator import ConfigError, Node, NotPrimary
from replicator.log.redis_log import RedisLog, client_for
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.rq import enqueue_in_term, in_term, submit_from_job, term_meta
from replicator.sandbox.redis_server import RedisServer
from replicator.web.server import WebServer
from tests.support import rq_jobs
from tests.support.kv import LEASE_S, PATIENCE_S

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def node(any_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node[Registry]]:
    """A service of one node, to whose URL jobs write."""
    node = Node(Registry(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path / "a", lease_s=LEASE_S)
    with node, WebServer(registry_app(node)) as server:
        node.promote(timeout_s=PATIENCE_S)
        monkeypatch.setenv("REPLICATOR_TEST_URL", server.url)
        monkeypatch.setenv("REPLICATOR_REDIS", any_redis.url)
        yield node


@pytest.fixture
def queue(any_redis: RedisServer) -> Iterator[rq.Queue]:
    with client_for(any_redis.url) as client:
        yield rq.Queue("theirs", connection=client, serializer=JSONSerializer)


@pytest.fixture
def here(any_redis: RedisServer) -> Iterator[Callable[[], None]]:
    """Have what is in the queue run, in this process."""
    with client_for(any_redis.url) as client:
        yield lambda: rq.SimpleWorker(["theirs"], connection=client, serializer=JSONSerializer).work(burst=True)


@pytest.fixture
def forked(any_redis: RedisServer, tmp_path: Path) -> Callable[[], None]:
    """Have what is in the queue run by a worker as they are started in earnest, which forks for each job."""

    def run() -> None:
        command = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--serializer", "json"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (tmp_path / "worker.log").open("w") as log:
            subprocess.run([*command, "--url", any_redis.url, "theirs"], env=env, stdout=log, stderr=log, check=True)

    return run


@pytest.fixture(params=["here", "forked"])
def work(request: pytest.FixtureRequest) -> Callable[[], None]:
    run: Callable[[], None] = request.getfixturevalue(request.param)
    return run


def owners(node: Node[Registry]) -> list[str]:
    with node.reading() as registry:
        return sorted(record["owner"] for record in registry.nodes(limit=1000).values())


def status(job: Job) -> Any:
    return job.get_status(refresh=True)


def why(job: Job) -> str:
    result = job.latest_result()
    return (result.exc_string or "").strip().splitlines()[-1] if result else ""


class TestWhatAJobWrites:
    def test_it_lands_and_the_job_has_its_result(self, node: Any, queue: rq.Queue, work: Any) -> None:
        job = queue.enqueue(rq_jobs.register, "x")
        work()
        assert job.return_value(refresh=True) == {"id": 1, "created": True}
        assert owners(node) == ["x"]

    def test_a_job_that_failed_after_it_wrote_and_is_retried_lands_once(
        self, node: Any, queue: rq.Queue, work: Any, tmp_path: Path
    ) -> None:
        job = queue.enqueue(rq_jobs.register_and_fail, "x", str(tmp_path / "marker"), retry=rq.Retry(max=1))
        work()
        assert status(job) is JobStatus.FINISHED
        assert job.return_value(refresh=True) == {"id": 1, "created": True}
        assert owners(node) == ["x"]

    def test_a_job_whose_work_horse_was_killed_after_it_wrote_lands_once(
        self, node: Any, queue: rq.Queue, forked: Any, tmp_path: Path
    ) -> None:
        job = queue.enqueue(rq_jobs.register_and_die, "x", str(tmp_path / "marker"), retry=rq.Retry(max=1))
        forked()
        assert "Work-horse terminated unexpectedly" in (tmp_path / "worker.log").read_text()
        assert status(job) is JobStatus.FINISHED
        assert owners(node) == ["x"]

    def test_a_job_that_somebody_requeues_lands_once(
        self, node: Any, queue: rq.Queue, here: Any, tmp_path: Path
    ) -> None:
        job = queue.enqueue(rq_jobs.register_and_fail, "x", str(tmp_path / "marker"))
        here()
        assert status(job) is JobStatus.FAILED
        job.requeue()
        here()
        assert status(job) is JobStatus.FINISHED
        assert owners(node) == ["x"]

    def test_each_run_of_a_series_lands(self, node: Any, queue: rq.Queue, here: Any) -> None:
        queue.enqueue(rq_jobs.register, "x", repeat=rq.Repeat(times=2))
        here()
        assert owners(node) == ["x", "x", "x"]

    def test_two_jobs_of_the_same_arguments_both_land(self, node: Any, queue: rq.Queue, here: Any) -> None:
        queue.enqueue(rq_jobs.register, "x")
        queue.enqueue(rq_jobs.register, "x")
        here()
        assert owners(node) == ["x", "x"]

    def test_a_job_names_the_parts_of_what_it_writes(self, node: Any, queue: rq.Queue, here: Any) -> None:
        job = queue.enqueue(rq_jobs.register_two, "x")
        here()
        assert status(job) is JobStatus.FINISHED
        assert owners(node) == ["x-first", "x-second"]

    def test_without_parts_the_second_is_refused(self, node: Any, queue: rq.Queue, here: Any) -> None:
        job = queue.enqueue(rq_jobs.register_two_without_parts, "x")
        here()
        assert status(job) is JobStatus.FAILED
        assert "KeyReused" in why(job)
        assert owners(node) == ["x-first"]


class TestJobsInATerm:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "terms"

    def test_one_runs_in_its_term(self, node: Any, queue: rq.Queue, work: Any, path: Path) -> None:
        job = enqueue_in_term(queue, node, rq_jobs.bill, str(path), meta={"mine": 1})
        work()
        assert job.return_value(refresh=True) == "g 1"
        assert path.read_text() == "1\n"
        assert job.get_meta(refresh=True) == {"mine": 1, "replicator": {"group": "g", "term": 1}}

    def test_one_whose_term_is_over_does_not_begin_and_is_not_retried(
        self, node: Any, queue: rq.Queue, work: Any, path: Path
    ) -> None:
        job = enqueue_in_term(queue, node, rq_jobs.begin, str(path), retry=rq.Retry(max=5, interval=3600))
        node.promote(timeout_s=PATIENCE_S)
        work()
        assert status(job) is JobStatus.FAILED
        assert "TermOver: term 1 is over, a holds term 2" in why(job)
        assert queue.count == 0
        assert not path.exists()

    def test_one_whose_term_ends_meanwhile_is_told_at_its_check(
        self, node: Any, queue: rq.Queue, here: Any, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rq_jobs, "meanwhile", [lambda: node.promote(timeout_s=PATIENCE_S)])
        job = enqueue_in_term(queue, node, rq_jobs.bill, str(path), retry=rq.Retry(max=5, interval=3600))
        here()
        assert status(job) is JobStatus.FAILED
        assert "TermOver" in why(job)
        assert not path.exists()
        assert node.term == 2  # it ran once

    def test_while_redis_is_away_it_is_retried(self, node: Any, queue: rq.Queue, here: Any, path: Path) -> None:
        job = enqueue_in_term(queue, node, rq_jobs.bill_elsewhere, str(path), retry=rq.Retry(max=1))
        here()
        assert status(job) is JobStatus.FAILED
        assert "LogUnavailable" in why(job)
        job.refresh()
        assert job.retries_left == 0
        assert not path.exists()

    def test_the_term_may_come_from_the_log(
        self, node: Any, queue: rq.Queue, here: Any, path: Path, any_redis: RedisServer
    ) -> None:
        log = RedisLog(any_redis.url, "g")
        enqueue_in_term(queue, log, rq_jobs.bill, str(path))
        log.close()
        here()
        assert path.read_text() == "1\n"

    def test_where_nobody_leads_there_is_no_term(self, any_redis: RedisServer, tmp_path: Path) -> None:
        log = RedisLog(any_redis.url, "g")
        with pytest.raises(NotPrimary, match="nobody leads it"):
            term_meta(log)
        log.close()
        with (
            Node(Registry(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path / "a") as node,
            pytest.raises(NotPrimary, match="the node that leads"),
        ):
            term_meta(node)

    @pytest.mark.parametrize(
        "meta", [{}, {"replicator": 7}, {"replicator": {"group": "a b", "term": 1}}, {"replicator": {"group": "g"}},
                 {"replicator": {"group": "g", "term": "1"}}, {"replicator": {"group": "g", "term": 0}}]
    )  # fmt: skip
    def test_a_job_without_a_term_says_how_it_gets_one(
        self, node: Any, queue: rq.Queue, here: Any, path: Path, meta: dict[str, Any]
    ) -> None:
        job = queue.enqueue(rq_jobs.bill, str(path), meta=meta)
        here()
        assert f"the job {job.id}: carries no term: use enqueue_in_term" in why(job)
        assert not path.exists()

    def test_a_worker_that_does_not_know_the_redis_of_the_group_says_so(
        self, node: Any, queue: rq.Queue, here: Any, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = enqueue_in_term(queue, node, rq_jobs.bill, str(path))
        monkeypatch.delenv("REPLICATOR_REDIS")
        here()
        assert "REPLICATOR_REDIS: is not set" in why(job)

    def test_outside_of_a_worker_it_says_so(self) -> None:
        with pytest.raises(ConfigError, match="an RQ worker runs"):
            rq_jobs.bill("path")
        with pytest.raises(ConfigError, match="an RQ worker runs"):
            submit_from_job(None, {"op": "register"})  # type: ignore[arg-type]

    def test_what_is_no_function_is_told(self) -> None:
        with pytest.raises(ConfigError, match="is not a function"):
            in_term("redis://h")  # type: ignore[call-overload]
