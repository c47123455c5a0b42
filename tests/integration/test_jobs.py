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

from replicator import LogUnavailable, Node
from replicator.cli import cli
from replicator.log.redis_log import client_for
from replicator.ops.jobs import JobFailed, queue_name, run_in_queue
from replicator.sandbox.redis_server import RedisServer
from tests.conftest import RedisFactory
from tests.support.kv import KV, PATIENCE_S, eventually, in_step, push

WAIT_S = 60.0


@pytest.fixture
def worker(any_redis: RedisServer, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    paths = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "REPLICATOR_REDIS": any_redis.url, "REPLICATOR_GROUP": "g", "PYTHONPATH": paths}
    path = tmp_path / "of-the-worker.log"
    with path.open("w") as log:
        command = [sys.executable, "-X", "faulthandler", "-m", "replicator.workers.jobs"]
        process = subprocess.Popen(command, env=env, stderr=log)
    yield process
    # SIGINT and SIGTERM both let it finish its job first.
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0, path.read_text()


@pytest.fixture
def pair(any_redis: RedisServer, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    nodes = [
        Node(KV(), group="g", name=name, redis=any_redis.url, data_dir=tmp_path / name, lease_s=3.0) for name in "ab"
    ]
    with nodes[0], nodes[1]:
        nodes[0].promote()
        nodes[0].submit(push("x"))
        in_step(*nodes)
        yield nodes[0], nodes[1]


@pytest.fixture
def run(any_redis: RedisServer) -> Callable[..., Any]:
    told: list[str] = []

    def run(name: str, wait_s: float = WAIT_S) -> tuple[Any, list[str]]:
        return run_in_queue(any_redis.url, "g", name, wait_s=wait_s, progress=told.append), told

    return run


def test_a_snapshot_as_a_job_tells_its_progress_and_its_place(
    run: Callable[..., Any], pair: tuple[Node, Node], worker: Any
) -> None:
    result, told = run("snapshot")
    assert result == {"as_of": "1-2"}
    assert told[0].endswith(f"is in queue {queue_name('g')}")
    assert told[-1] == "the snapshot of 1-2 is complete"


def test_verify_as_a_job_compares_all_live_nodes(run: Callable[..., Any], pair: tuple[Node, Node], worker: Any) -> None:
    result, told = run("verify")
    assert result["equal"] is True
    assert set(result["digests"]) == {"a", "b"}
    assert told[-1].startswith("2 of 2 nodes reported at ")


def test_a_job_that_fails_says_why(run: Callable[..., Any], worker: Any) -> None:
    with pytest.raises(JobFailed, match=r"the job snapshot failed: .*NotPrimary: nobody leads the group"):
        run("snapshot")


def test_a_job_that_does_not_exist_fails(run: Callable[..., Any], worker: Any) -> None:
    with pytest.raises(JobFailed, match="the job nonsense failed"):
        run("nonsense")


class Trap:
    """A module that leaves a file behind when it is imported, and another one when something of it is called."""

    def __init__(self, directory: Path) -> None:
        self.traces = [directory / "imported", directory / "called"]
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
    def trap(self, tmp_path: Path) -> Trap:
        return Trap(tmp_path)

    @pytest.fixture
    def queue(self, any_redis: RedisServer) -> Iterator[rq.Queue]:
        with client_for(any_redis.url) as client:
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
        self, queue: rq.Queue, worker: Any, trap: Trap, run: Callable[..., Any], pair: Any, tmp_path: Path,
        options: dict[str, Any], problem: str,
    ) -> None:  # fmt: skip
        options = {"f": "replicator.workers.jobs.snapshot"} | options
        args = [each.format(dir=tmp_path) for each in options.pop("args", [])]
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
        assert run("snapshot")[0] == {"as_of": "1-2"}
        assert trap.sprung == []

    def test_a_webhook_is_not_called(self, queue: rq.Queue, worker: Any, run: Callable[..., Any], pair: Any) -> None:
        from rq.webhook import Webhook

        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.5)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            hooks = [Webhook(url, "failed", timeout=5), Webhook(url, "finished", timeout=5)]
            status, told = self.outcome(queue.enqueue("replicator.workers.jobs.snapshot", webhooks=hooks))
            assert (status, "it has webhooks" in told) == (JobStatus.FAILED, True)
            run("snapshot")
            with pytest.raises(TimeoutError):
                listener.accept()

    @pytest.mark.parametrize("field", ["data", "meta", "result"])
    def test_nothing_is_unpickled(
        self, queue: rq.Queue, worker: Any, trap: Trap, run: Callable[..., Any], pair: Any, field: str
    ) -> None:
        bad = pickle.dumps(_Unpickled(trap.traces[1]))
        self.push(queue, {"data": b'["replicator.workers.jobs.snapshot", null, [], {}]', field: bad})
        run("snapshot")
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
    def test_what_cannot_be_read_ends_no_worker(
        self, queue: rq.Queue, worker: Any, run: Callable[..., Any], pair: Any, fields: dict[str, Any]
    ) -> None:
        self.push(queue, fields)
        assert run("snapshot")[0] == {"as_of": "1-2"}
        assert worker.poll() is None

    def push(self, queue: rq.Queue, fields: dict[str, Any]) -> None:
        """Put a job into the queue by hand."""
        if fields:
            queue.connection.hset("rq:job:by-hand", mapping={"origin": queue.name, "status": "queued", **fields})
        queue.connection.rpush(queue.key, "by-hand")

    def test_an_id_that_is_none_ends_no_worker(
        self, queue: rq.Queue, worker: Any, run: Callable[..., Any], pair: Any
    ) -> None:
        queue.connection.rpush(queue.key, "no id: at all")
        assert run("snapshot")[0] == {"as_of": "1-2"}
        assert worker.poll() is None


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
    def invoke(self, server: RedisServer, *args: str) -> Result:
        return CliRunner().invoke(cli, ["--redis", server.url, "--group", "g", *args])

    def test_the_results_are_those_of_the_command_without_a_queue(
        self, any_redis: RedisServer, pair: tuple[Node, Node], worker: Any
    ) -> None:
        result = self.invoke(any_redis, "verify", "--queue")
        assert result.exit_code == 0
        assert result.stdout.endswith("all equal\n")
        assert "is in queue replicator-g" in result.stderr

    def test_a_job_that_fails_is_1(self, any_redis: RedisServer, worker: Any) -> None:
        result = self.invoke(any_redis, "snapshot", "--queue")
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
