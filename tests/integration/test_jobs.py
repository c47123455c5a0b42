"""The group's jobs through a real queue, run by the worker process that supervisord runs."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rq
from click.testing import CliRunner, Result
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from replicator import LogUnavailable, Node, ops
from replicator.cli import cli
from replicator.log.redis_log import RedisLog, client_for
from replicator.ops.jobs import JobFailed, queue_name, run_in_queue
from replicator.sandbox.redis_server import RedisServer
from tests.conftest import RedisFactory
from tests.support.kv import KV, PATIENCE_S, eventually, in_step, push

WAIT_S = 60.0


class Desk:
    """A Redis, a group in it, and the group's worker, for all tests that do no more than give it jobs.

    What is in a queue is data, and changes nothing for the jobs after it. So one of them is enough.
    """

    def __init__(self, server: RedisServer, directory: Path, group: str = "g") -> None:
        self.server = server
        self.group = group
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def worker(self) -> subprocess.Popen[bytes]:
        """Its worker, which lives: if the test before this one cost its life, only that test failed."""
        if self._process is None or self._process.poll() is not None:
            paths = f"{self.directory}:{os.environ.get('PYTHONPATH', '')}"
            settings = {"REPLICATOR_REDIS": self.server.url, "REPLICATOR_GROUP": self.group, "PYTHONPATH": paths}
            command = [sys.executable, "-X", "faulthandler", "-m", "replicator.workers.jobs"]
            with self._log.open("a") as log:
                self._process = subprocess.Popen(command, env={**os.environ, **settings}, stderr=log)
        return self._process

    def run(self, name: str, wait_s: float = WAIT_S) -> tuple[Any, list[str]]:
        """The result of a job, and what it told of its progress."""
        told: list[str] = []
        return run_in_queue(self.server.url, self.group, name, wait_s=wait_s, progress=told.append), told

    def runs_jobs(self) -> bool:
        """Whether a job that comes now is done, and right."""
        last_id = self.last_id
        return bool(self.run("snapshot")[0] == {"as_of": last_id})

    @property
    def last_id(self) -> str:
        """Of the log: of what a snapshot that is sent now is the state."""
        log = RedisLog(self.server.url, self.group)
        try:
            return str(ops.status(log).last_id)
        finally:
            log.close()

    def close(self) -> None:
        if self._process is not None:
            # SIGINT and SIGTERM both let it finish its job first.
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(PATIENCE_S) == 0, self._log.read_text()

    @property
    def _log(self) -> Path:
        return self.directory / "of-the-worker.log"


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server.start()
    server.kill()


@pytest.fixture(scope="module")
def _desk(_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    directory = tmp_path_factory.mktemp("desk")
    nodes = [
        Node(KV(), group="g", name=name, redis=_server.url, data_dir=directory / name, lease_s=30.0) for name in "ab"
    ]
    with nodes[0], nodes[1]:
        nodes[0].promote()
        nodes[0].submit(push("x"))
        in_step(*nodes)
        desk = Desk(_server, directory)
        yield desk
        desk.close()


@pytest.fixture(scope="module")
def _desk_of_nobody(_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(_server, tmp_path_factory.mktemp("desk"), "nobody")
    yield desk
    desk.close()


@pytest.fixture
def desk(_desk: Desk) -> Desk:
    """Of a group with a primary and a standby."""
    _desk.worker()
    return _desk


@pytest.fixture
def desk_of_nobody(_desk_of_nobody: Desk) -> Desk:
    """Of a group that nobody leads."""
    _desk_of_nobody.worker()
    return _desk_of_nobody


@pytest.fixture
def run(any_redis: RedisServer, tmp_path: Path) -> Callable[..., Any]:
    """Give a job to a queue without a worker."""
    return Desk(any_redis, tmp_path).run


def test_a_snapshot_as_a_job_tells_its_progress_and_its_place(desk: Desk) -> None:
    last_id = desk.last_id
    result, told = desk.run("snapshot")
    assert result == {"as_of": last_id}
    assert told[0].endswith(f"is in queue {queue_name('g')}")
    assert told[-1] == f"the snapshot of {last_id} is complete"


def test_verify_as_a_job_compares_all_live_nodes(desk: Desk) -> None:
    result, told = desk.run("verify")
    assert result["equal"] is True
    assert set(result["digests"]) == {"a", "b"}
    assert told[-1].startswith("2 of 2 nodes reported at ")


def test_a_job_that_fails_says_why(desk_of_nobody: Desk) -> None:
    with pytest.raises(JobFailed, match=r"the job snapshot failed: .*NotPrimary: nobody leads the group"):
        desk_of_nobody.run("snapshot")


def test_a_job_that_does_not_exist_fails(desk: Desk) -> None:
    with pytest.raises(JobFailed, match="the job nonsense failed"):
        desk.run("nonsense")


class Trap:
    """A module that leaves a file behind when it is imported, and another one when something of it is called."""

    def __init__(self, directory: Path) -> None:
        self.traces = [directory / "imported", directory / "called"]
        for trace in self.traces:
            trace.unlink(missing_ok=True)
        lines = [
            f"open({str(self.traces[0])!r}, 'w').close()",
            "def spring(*args, **kwargs):",
            f"    open({str(self.traces[1])!r}, 'w').close()",
        ]
        (directory / "trap.py").write_text("\n".join(lines))

    @property
    def sprung(self) -> list[str]:
        return [trace.name for trace in self.traces if trace.exists()]


class _Unpickled:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


class TestWhatTheQueueSays:
    """A queue is data: of what it names nothing but the package's own jobs is run."""

    @pytest.fixture
    def trap(self, desk: Desk) -> Trap:
        return Trap(desk.directory)

    @pytest.fixture
    def queue(self, desk: Desk) -> Iterator[rq.Queue]:
        with client_for(desk.server.url) as client:
            yield rq.Queue(queue_name("g"), connection=client, serializer=JSONSerializer)

    def outcome(self, job: Job) -> tuple[JobStatus, str]:
        deadline = time.monotonic() + WAIT_S
        while (status := job.get_status(refresh=True)) not in (JobStatus.FAILED, JobStatus.FINISHED):
            assert time.monotonic() < deadline, f"the job is still {status}"
            time.sleep(0.05)
        result = job.latest_result()
        return status, (result.exc_string or "").strip().splitlines()[-1] if result else ""

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"f": "trap.spring"}, "there is no job 'trap.spring'"),
            ({"f": "os.system", "args": ["touch {dir}/called"]}, "there is no job 'os.system'"),
            ({"f": "replicator.workers.jobs.main"}, "there is no job 'replicator.workers.jobs.main'"),
            (
                {"f": "replicator.workers.jobs.snapshot", "args": ["x"]},
                "replicator.workers.jobs.snapshot takes no arguments",
            ),
            (
                {"f": "replicator.workers.jobs.snapshot", "kwargs": {"x": 1}},
                "replicator.workers.jobs.snapshot takes no arguments",
            ),
            ({"on_failure": "trap.spring"}, "it has failure_callback_name"),
            ({"on_success": "trap.spring"}, "it has success_callback_name"),
            ({"on_stopped": "trap.spring"}, "it has stopped_callback_name"),
            ({"f": "trap.spring", "on_failure": "trap.spring", "retry": rq.Retry(max=3)}, "there is no job"),
        ],
    )
    def test_what_is_no_job_of_the_package_fails_and_nothing_of_it_is_run(
        self, queue: rq.Queue, desk: Desk, trap: Trap, options: dict[str, Any], problem: str
    ) -> None:
        options = {"f": "replicator.workers.jobs.snapshot"} | options
        args = [each.format(dir=desk.directory) for each in options.pop("args", [])]
        callbacks = {
            name: rq.Callback(value) if name.startswith("on_") else value
            for name, value in options.items()
            if name not in ("f", "kwargs")
        }
        job = queue.enqueue_call(options["f"], args=args, kwargs=options.get("kwargs"), **callbacks)
        status, told = self.outcome(job)
        assert status is JobStatus.FAILED
        assert problem in told
        assert "nothing of it was run" in told
        assert "This worker runs replicator.workers.jobs.snapshot and replicator.workers.jobs.verify" in told
        # Whatever comes after a job is over before the next one begins.
        assert desk.runs_jobs()
        assert trap.sprung == []

    def test_a_webhook_is_not_called(self, queue: rq.Queue, desk: Desk) -> None:
        from rq.webhook import Webhook

        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.5)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            hooks = [Webhook(url, "failed", timeout=5), Webhook(url, "finished", timeout=5)]
            status, told = self.outcome(queue.enqueue("replicator.workers.jobs.snapshot", webhooks=hooks))
            assert (status, "it has webhooks" in told) == (JobStatus.FAILED, True)
            assert desk.runs_jobs()
            with pytest.raises(TimeoutError):
                listener.accept()

    @pytest.mark.parametrize("field", ["data", "meta", "result"])
    def test_nothing_is_unpickled(self, queue: rq.Queue, desk: Desk, trap: Trap, field: str) -> None:
        bad = pickle.dumps(_Unpickled(trap.traces[1]))
        self.push(queue, {"data": b'["replicator.workers.jobs.snapshot", null, [], {}]', field: bad})
        desk.run("snapshot")
        assert trap.sprung == []

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"data": b"\xff"},
            {"data": b"[]"},
            {"data": b"7"},
            {"data": b'[["replicator.workers.jobs.snapshot"], null, [], {}]'},
            {"data": zlib.compress(b" " * 50_000_000)},
            {"data": b'["replicator.workers.jobs.snapshot", null, [], {}]', "created_at": b"yesterday"},
            {"data": b'["replicator.workers.jobs.snapshot", null, [], {}]', "timeout": b"soon", "origin": b"\xff"},
        ],
    )
    def test_what_cannot_be_read_ends_no_worker(self, queue: rq.Queue, desk: Desk, fields: dict[str, Any]) -> None:
        before = desk.worker().pid
        self.push(queue, fields)
        assert desk.runs_jobs()
        assert desk.worker().pid == before

    def push(self, queue: rq.Queue, fields: dict[str, Any]) -> None:
        """Put a job into the queue by hand."""
        queue.connection.delete("rq:job:by-hand")
        if fields:
            queue.connection.hset("rq:job:by-hand", mapping={"origin": queue.name, "status": "queued", **fields})
        queue.connection.rpush(queue.key, "by-hand")

    def test_an_id_that_is_none_ends_no_worker(self, queue: rq.Queue, desk: Desk) -> None:
        before = desk.worker().pid
        queue.connection.rpush(queue.key, "no id: at all")
        assert desk.runs_jobs()
        assert desk.worker().pid == before


def test_without_a_worker_it_says_that_nobody_took_the_job(run: Callable[..., Any]) -> None:
    with pytest.raises(TimeoutError, match=r"no worker took job .* is `python -m replicator\.workers\.jobs` running\?"):
        run("snapshot", wait_s=0.3)


def test_a_job_that_nobody_took_is_not_run_later(run: Callable[..., Any], any_redis: RedisServer) -> None:
    with pytest.raises(TimeoutError):
        run("snapshot", wait_s=0.3)
    with client_for(any_redis.url) as client:
        assert rq.Queue(queue_name("g"), connection=client, serializer=JSONSerializer).count == 0


def test_without_redis_it_is_unavailable_and_the_password_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable) as raised:
        run_in_queue(f"unix://user:secret@{tmp_path}/nobody", "g", "snapshot", wait_s=1.0, progress=print)
    assert "secret" not in str(raised.value)


class TestCommandLine:
    def invoke(self, server: RedisServer, *args: str, group: str = "g") -> Result:
        return CliRunner().invoke(cli, ["--redis", server.url, "--group", group, *args])

    def test_the_results_are_those_of_the_command_without_a_queue(self, desk: Desk) -> None:
        result = self.invoke(desk.server, "verify", "--queue")
        assert result.exit_code == 0
        assert result.stdout.endswith("all equal\n")
        assert "is in queue replicator-g" in result.stderr

    def test_a_job_that_fails_is_1(self, desk_of_nobody: Desk) -> None:
        result = self.invoke(desk_of_nobody.server, "snapshot", "--queue", group=desk_of_nobody.group)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "the job snapshot failed" in result.stderr

    def test_a_job_that_nobody_takes_is_1(self, any_redis: RedisServer) -> None:
        result = self.invoke(any_redis, "snapshot", "--queue", "--timeout", "0.3")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "no worker took job" in result.stderr


@pytest.mark.parametrize("missing", ["REPLICATOR_REDIS", "REPLICATOR_GROUP"])
def test_a_worker_without_its_settings_ends_and_names_the_one_it_lacks(missing: str) -> None:
    env = {**os.environ, "REPLICATOR_REDIS": "redis://localhost", "REPLICATOR_GROUP": "g"}
    del env[missing]
    done = subprocess.run(
        [sys.executable, "-m", "replicator.workers.jobs"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert missing in done.stderr


def test_a_worker_waits_for_a_redis_that_is_away_and_says_so_once(redis_factory: RedisFactory, tmp_path: Path) -> None:
    server = redis_factory(start=False)
    server.start()
    url = server.url
    server.stop()
    process = start_worker(url, tmp_path)
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


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGTERM])
def test_a_worker_ends_in_order_whether_redis_is_there_or_not(
    any_redis: RedisServer, tmp_path: Path, number: signal.Signals
) -> None:
    waiting = start_worker(f"unix://{tmp_path}/nobody", tmp_path)
    eventually(lambda: "trying again" in (tmp_path / "worker.log").read_text())
    waiting.send_signal(number)
    assert waiting.wait(PATIENCE_S) == 0

    working = start_worker(any_redis.url, tmp_path)
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
    working = start_worker(any_redis.url, tmp_path, "-c", program)
    log = tmp_path / "worker.log"
    eventually(lambda: "Listening on" in log.read_text())
    working.send_signal(signal.SIGTERM)
    assert working.wait(PATIENCE_S) == 0, log.read_text()
    assert workers_of(any_redis.url) == []  # it took its leave


def test_a_worker_that_was_thrown_out_by_a_failover_begins_anew(redis_factory: RedisFactory, tmp_path: Path) -> None:
    server = redis_factory()
    process = start_worker(server.url, tmp_path)
    eventually(lambda: workers_of(server.url))
    server.kill()
    server.start()
    # then, whatever RQ made of it, jobs are run again
    with pytest.raises(JobFailed):
        run_in_queue(server.url, "g", "snapshot", wait_s=WAIT_S, progress=print)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


def start_worker(url: str, tmp_path: Path, *program: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "REPLICATOR_REDIS": url, "REPLICATOR_GROUP": "g"}
    with (tmp_path / "worker.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *(program or ("-m", "replicator.workers.jobs"))],
            env=env,
            stderr=log,
            start_new_session=True,
        )


def workers_of(url: str) -> list[Any]:
    with client_for(url) as client:
        return list(client.smembers("rq:workers"))


@pytest.mark.parametrize("level", ["TRACE", "", "5"])
def test_a_worker_with_a_log_level_that_is_none_ends_and_says_so(any_redis: RedisServer, level: str) -> None:
    env = {**os.environ, "REPLICATOR_REDIS": any_redis.url, "REPLICATOR_GROUP": "g", "REPLICATOR_LOG_LEVEL": level}
    done = subprocess.run(
        [sys.executable, "-m", "replicator.workers.jobs"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
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

        with pytest.raises((JobFailed, LogUnavailable, TimeoutError)) as raised:
            run_in_queue(server.url, "g", "snapshot", wait_s=2.0, progress=tell)
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

        with pytest.raises(TimeoutError, match="no worker took job"):
            run_in_queue(server.url, "g", "snapshot", wait_s=3.0, progress=tell)
        assert len(told) == 2
