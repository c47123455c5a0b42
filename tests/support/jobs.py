"""A group with two nodes, its queue of jobs, and a worker as a process: made once for the tests of a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rq
from click.testing import CliRunner, Result
from rq.job import Job, JobStatus

from replicator import Node
from replicator.cli import cli
from replicator.jobs.queue import JobQueue, queue_name
from replicator.log.redis_log import client_for
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import KV, LEASE_S, PATIENCE_S, eventually, in_step, push

WAIT_S = 180.0


def start_worker(url: str, log: Path, *program: str, **environment: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "REPLICATOR_REDIS": url, "REPLICATOR_GROUP": "g", **environment}
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, *(program or ("-X", "faulthandler", "-m", "replicator.workers.jobs"))],
            env=env,
            stderr=file,
            start_new_session=True,
        )


def workers_of(url: str) -> list[Any]:
    with client_for(url) as client:
        return list(client.smembers("rq:workers"))


class JobsWorld:
    """Nodes a and b of group g, and a worker that may make backups and finds modules in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.backups = directory / "backups"
        self.server = RedisServer(directory / "redis").start()
        self.url = self.server.url
        self.nodes = [
            Node(KV(), group="g", name=name, redis=self.url, data_dir=directory / name, lease_s=LEASE_S)
            for name in "ab"
        ]
        self.worker: subprocess.Popen[bytes] | None = None
        self.log = directory / "worker.log"

    @contextlib.contextmanager
    def running(self) -> Iterator[JobsWorld]:
        try:
            with self.nodes[0], self.nodes[1]:
                self.nodes[0].promote(timeout_s=PATIENCE_S)
                self.nodes[0].submit(push("x"))
                in_step(*self.nodes)
                yield self
        finally:
            try:
                self.end_worker()
            finally:
                if self.worker is not None:
                    self.worker.kill()
                self.server.kill()

    def work(self) -> subprocess.Popen[bytes]:
        """The worker, which is started if it does not run."""
        if self.worker is None or self.worker.poll() is not None:
            paths = f"{self.directory}:{os.environ.get('PYTHONPATH', '')}"
            self.worker = start_worker(
                self.url, self.log, PYTHONPATH=paths, REPLICATOR_BACKUPS=str(self.backups), REPLICATOR_BACKUPS_KEEP="2"
            )
            with self.queue() as queue:
                eventually(queue.has_worker)
        return self.worker

    def end_worker(self) -> None:
        if self.worker is not None and self.worker.poll() is None:
            self.worker.send_signal(signal.SIGTERM)
            assert self.worker.wait(PATIENCE_S) == 0, self.log.read_text()

    def queue(self) -> JobQueue:
        return JobQueue(self.url, "g")

    @contextlib.contextmanager
    def plain_queue(self, serializer: Any = None) -> Iterator[rq.Queue]:
        """As anybody may use it who can write to Redis; without a serializer, RQ's own pickles."""
        with client_for(self.url) as client:
            yield rq.Queue(queue_name("g"), connection=client, serializer=serializer)

    def run(self, name: str, wait_s: float = WAIT_S, **arguments: Any) -> tuple[Any, list[str]]:
        """Have the worker do a job; its result, and what was told."""
        told: list[str] = []
        with self.queue() as queue:
            return queue.follow(queue.ask(name, arguments).id, name, wait_s=wait_s, progress=told.append), told

    def command(self, *args: object, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, ["--redis", self.url, "--group", "g", *map(str, args)], env=env)

    def leader(self) -> tuple[str, int]:
        """Who leads, and the term."""
        node = eventually(lambda: next((node for node in self.nodes if node.leads), None))
        return node.name, node.term


def ended(job: Job) -> tuple[JobStatus, str]:
    """What became of it, and the last line of what it raised."""
    deadline = time.monotonic() + WAIT_S
    while (status := job.get_status(refresh=True)) not in (JobStatus.FAILED, JobStatus.FINISHED):
        assert time.monotonic() < deadline, f"the job is still {status}"
        time.sleep(0.05)
    result = job.latest_result()
    return status, ((result.exc_string or "").strip().splitlines() or [""])[-1] if result else ""
