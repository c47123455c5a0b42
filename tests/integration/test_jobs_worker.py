"""The life of the worker of jobs, as the process that supervisord runs: its start, its end, and Redis that is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import LogUnavailable
from replicator.jobs.errors import JobFailed, NotTaken
from replicator.jobs.queue import JobQueue
from replicator.log.redis_log import client_for
from replicator.sandbox.redis_server import RedisServer
from tests.conftest import RedisFactory
from tests.support.jobs import WAIT_S, start_worker, workers_of
from tests.support.kv import PATIENCE_S, eventually


def run(url: str, name: str, *, wait_s: float, progress: Callable[[str], None] = print) -> Any:
    with JobQueue(url, "g") as queue:
        asked = queue.ask(name, {})
        progress(f"job {asked.id}")
        return queue.follow(asked.id, name, wait_s=wait_s, progress=progress)


@pytest.mark.parametrize("missing", ["REPLICATOR_REDIS", "REPLICATOR_GROUP"])
def test_a_worker_without_its_settings_ends_and_names_the_one_it_lacks(missing: str) -> None:
    env = {**os.environ, "REPLICATOR_REDIS": "redis://localhost", "REPLICATOR_GROUP": "g"}
    del env[missing]
    done = subprocess.run(
        [sys.executable, "-m", "replicator.workers.jobs"],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert missing in done.stderr


def test_a_worker_waits_for_a_redis_that_is_away_and_says_so_once(redis_factory: RedisFactory, tmp_path: Path) -> None:
    server = redis_factory(start=False)
    server.start()
    url = server.url
    server.stop()
    process = start_worker(url, tmp_path / "worker.log")
    log = tmp_path / "worker.log"
    eventually(lambda: "trying again until it is there" in log.read_text())
    # when it comes up
    server.start()
    assert server.url == url
    eventually(lambda: workers_of(url))
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert log.read_text().count("trying again") == 1
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_worker_that_waits_for_redis_ends_in_order(tmp_path: Path, number: signal.Signals) -> None:
    waiting = start_worker(f"unix://{tmp_path}/nobody", tmp_path / "worker.log")
    eventually(lambda: "trying again" in (tmp_path / "worker.log").read_text())
    waiting.send_signal(number)
    assert waiting.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGTERM])
def test_a_worker_ends_in_order(any_redis: RedisServer, tmp_path: Path, number: signal.Signals) -> None:
    working = start_worker(any_redis.url, tmp_path / "worker.log")
    eventually(lambda: workers_of(any_redis.url))
    working.send_signal(number)
    assert working.wait(PATIENCE_S) == 0
    assert workers_of(any_redis.url) == []  # it took its leave


@pytest.mark.parametrize(
    "what_the_handler_does",
    [
        pytest.param("_shutdown = lambda self: None", id="its exception is dropped"),
        pytest.param("get_state = refused", id="Redis refuses its question"),
    ],
)
def test_a_worker_whose_handler_does_not_get_through_ends_all_the_same(
    any_redis: RedisServer, tmp_path: Path, what_the_handler_does: str
) -> None:
    program = f"""
import redis, rq
from replicator.workers import jobs
def refused(self):
    raise redis.ConnectionError("refused")
rq.worker.BaseWorker.{what_the_handler_does}
jobs.main()
"""
    working = start_worker(any_redis.url, tmp_path / "worker.log", "-c", program)
    log = tmp_path / "worker.log"
    eventually(lambda: "Listening on" in log.read_text())
    working.send_signal(signal.SIGTERM)
    assert working.wait(PATIENCE_S) == 0, log.read_text()
    assert workers_of(any_redis.url) == []  # it took its leave


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory for temporary files, in which a drill finds the path of a socket short enough."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


#: A worker whose drill stands still in one place of its beginning, until somebody says that it may go on.
HELD = """
import time
from pathlib import Path
from replicator.sandbox import drill
from replicator.workers import jobs, worker

def held(work, *, first):
    def hold(*args, **options):
        if first:
            wait()
        result = work(*args, **options)
        if not first:
            wait()
        return result
    return hold

def wait():
    Path({directory!r}, "held").touch()
    while not Path({directory!r}, "go").exists():
        time.sleep(0.02)

{where}
jobs.main()
"""


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(
            "worker.Worker.prepare_execution = held(worker.Worker.prepare_execution, first=False)",
            id="before it has a process",
        ),
        pytest.param(
            "worker.Worker.setup_work_horse_signals = held(worker.Worker.setup_work_horse_signals, first=True)",
            id="before that has handlers",
        ),
        pytest.param("drill.run = held(drill.run, first=True)", id="before it heeds a signal"),
    ],
)
def test_a_worker_ends_a_drill_in_order_that_has_only_begun(
    any_redis: RedisServer, tmp_path: Path, short_tmp: Path, where: str
) -> None:
    log = tmp_path / "worker.log"
    program = HELD.format(directory=str(tmp_path), where=where)
    working = start_worker(any_redis.url, log, "-c", program, TMPDIR=str(short_tmp))
    with JobQueue(any_redis.url, "g") as queue:
        id = queue.ask("drill", {"faults": ["kill"]}).id
        eventually((tmp_path / "held").exists)
        working.send_signal(signal.SIGTERM)
        eventually(lambda: was_asked_to_end(any_redis.url))
        (tmp_path / "go").touch()
        assert working.wait(WAIT_S) == 0, log.read_text()
        job = queue.job(id)
    assert job.problem == "it was asked to end before it was done; nothing of it runs any more", log.read_text()
    assert list(short_tmp.iterdir()) == []


def test_a_worker_that_is_asked_to_end_before_its_first_turn_takes_its_leave(
    any_redis: RedisServer, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    where = "worker.Worker._install_signal_handlers = held(worker.Worker._install_signal_handlers, first=False)"
    working = start_worker(any_redis.url, log, "-c", HELD.format(directory=str(tmp_path), where=where))
    eventually((tmp_path / "held").exists)
    assert workers_of(any_redis.url)
    working.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    assert working.wait(PATIENCE_S) == 0, log.read_text()
    assert workers_of(any_redis.url) == []


def was_asked_to_end(url: str) -> bool:
    """Whether the only worker handled a signal. (It writes that down after it told the process of its job.)"""
    with client_for(url) as client:
        return any(client.hexists(name, "shutdown_requested_date") for name in client.smembers("rq:workers"))


def test_a_worker_that_was_thrown_out_by_a_failover_begins_anew(redis_factory: RedisFactory, tmp_path: Path) -> None:
    server = redis_factory()
    process = start_worker(server.url, tmp_path / "worker.log")
    eventually(lambda: workers_of(server.url))
    server.kill()
    server.start()
    # then, whatever RQ made of it, jobs are run again
    eventually(lambda: workers_of(server.url), "it reports again")
    with pytest.raises(JobFailed):
        run(server.url, "snapshot", wait_s=WAIT_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("level", ["TRACE", "", "5"])
def test_a_worker_with_a_log_level_that_is_none_ends_and_says_so(any_redis: RedisServer, level: str) -> None:
    env = {**os.environ, "REPLICATOR_REDIS": any_redis.url, "REPLICATOR_GROUP": "g", "REPLICATOR_LOG_LEVEL": level}
    done = subprocess.run(
        [sys.executable, "-m", "replicator.workers.jobs"],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: REPLICATOR_LOG_LEVEL")
    assert "Traceback" not in done.stderr


class TestWhileAJobIsWaitedFor:
    """What becomes of `--queue` when Redis does not stay as it was: one line, and not the inside of RQ."""

    def follow(self, server: RedisServer, meanwhile: Callable[[], Any]) -> Exception:
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            if len(told) == 1:
                meanwhile()

        with pytest.raises((JobFailed, LogUnavailable, NotTaken)) as raised:
            run(server.url, "snapshot", wait_s=2.0, progress=tell)
        assert "\n" not in str(raised.value)
        return raised.value

    def test_a_job_that_redis_lost_is_told_so(self, any_redis: RedisServer) -> None:
        def lose() -> None:
            with client_for(any_redis.url) as client:
                client.flushall()

        assert "Redis does not have it any more" in str(self.follow(any_redis, lose))

    def test_a_redis_that_is_gone_is_named(self, redis_factory: RedisFactory) -> None:
        server = redis_factory()
        assert isinstance(self.follow(server, server.kill), LogUnavailable)

    def test_a_redis_that_became_a_replica_is_named(self, redis_factory: RedisFactory) -> None:
        server = redis_factory()

        def demote() -> None:
            with client_for(server.url) as client:
                client.replicaof("127.0.0.1", "1")

        assert isinstance(self.follow(server, demote), LogUnavailable)

    def test_a_redis_that_is_away_for_a_moment_is_waited_for(self, redis_factory: RedisFactory) -> None:
        server = redis_factory(config={"appendonly": "yes", "appendfsync": "always"})
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            if len(told) == 1:
                server.kill()
            elif "waiting for it to come back" in text:
                server.start()

        with pytest.raises(NotTaken):
            run(server.url, "snapshot", wait_s=3.0, progress=tell)
        assert len(told) == 2
