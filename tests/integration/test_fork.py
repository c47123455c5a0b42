"""A process that has a node forks: the child may use nothing of it, and the parent, under load, notices nothing.

gunicorn with --preload, multiprocessing and RQ's work horses all do that.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator import Host, Node, WrongProcess, ops
from replicator.log.redis_log import RedisLog
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.runtime.gc_pause import HeldCollector
from replicator.sandbox.redis_server import RedisServer
from replicator.service.sidecar import Sidecar
from replicator.storage.checkpoint import Checkpoint
from replicator.testing import MemoryLog, MemoryRedis
from replicator.web.server import WebServer
from tests.support.forking import Child, in_child, outcome
from tests.support.kv import KV, PATIENCE_S, after_beats, document, eventually, in_thread, push, pushed
from tests.support.worlds import World

with warnings.catch_warnings():
    # Newer versions of Starlette would rather have httpx2.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

#: No busy machine costs it, and a test can wait for a beat.
LEASE_S = 5.0


@pytest.fixture
def primary(any_redis: RedisServer, tmp_path: Path) -> Iterator[Node]:
    node = Node(KV(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path / "a", lease_s=LEASE_S)
    node.start()
    node.promote(timeout_s=PATIENCE_S)
    yield node
    node.stop()


class Load:
    """Writes until it is told to stop."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.acknowledged: list[int] = []
        self._enough = False
        self._writer = in_thread(self._write)

    def _write(self) -> None:
        while not self._enough:
            self.node.submit(push(len(self.acknowledged)))
            self.acknowledged.append(len(self.acknowledged))

    def more(self) -> None:
        reached = len(self.acknowledged) + 20
        eventually(lambda: len(self.acknowledged) >= reached, "more writes")

    def end(self) -> None:
        self._enough = True
        self._writer()


def facts(node: Node) -> dict[str, Callable[[], Any]]:
    names = [
        "role",
        "boot",
        "term",
        "position",
        "in_sync",
        "lag",
        "stalled",
        "problem",
        "lease_ms",
        "rejected",
        "primary_http",
    ]
    return {name: lambda name=name: getattr(node, name) for name in names}


def calls(node: Node) -> dict[str, Callable[[], Any]]:
    def read(**options: Any) -> None:
        with node.reading(**options):
            pass

    return {
        "submit": lambda: node.submit(push("x"), timeout_s=3),
        "submit_many": lambda: node.submit_many([push("x")], timeout_s=3),
        "asubmit": lambda: asyncio.run(node.asubmit(push("x"), timeout_s=3)),
        "asubmit_many": lambda: asyncio.run(node.asubmit_many([push("x")], timeout_s=3)),
        "reading": read,
        "a fresh read": lambda: read(fresh=True),
        "replace": lambda: node.replace([["pushed", []]]),
        "publish": node.publish,
        "promote": node.promote,
        "wait": lambda: node.wait(role="primary", timeout_s=3),
        "announce": lambda: node.announce("http://elsewhere"),
        "start": node.start,
        "stop": node.stop,
        **facts(node),
    }


def told_at_once(every: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """What came of each in a child, where it was anything but `WrongProcess`. Each may take a moment, and not wait."""

    def work() -> dict[str, str]:
        return {name: outcome(call) for name, call in every.items()}

    return {name: what for name, what in in_child(work).items() if what != "WrongProcess"}


def connections(server: RedisServer) -> set[int]:
    with redis.Redis.from_url(server.url) as client:
        return {int(each["id"]) for each in client.client_list() if each["name"].startswith("replicator-")}


def test_every_call_in_a_child_is_refused_and_the_parent_goes_on_under_load(
    any_redis: RedisServer, primary: Node, caplog: pytest.LogCaptureFixture
) -> None:
    load = Load(primary)
    load.more()
    before, boot, there = len(caplog.records), primary.boot, connections(any_redis)
    for _ in range(3):
        assert told_at_once(calls(primary)) == {}
        load.more()
    load.end()
    after_beats(2, primary)  # with what it needs for its lease and its heartbeat as well
    assert (primary.role, primary.term, primary.boot, primary.problem) == ("primary", 1, boot, "")
    assert (primary.lease_ms or 0) > 0
    assert pushed(primary) == load.acknowledged
    assert connections(any_redis) == there
    assert caplog.records[before:] == []


def test_what_stands_beside_a_node_is_refused_as_well(any_redis: RedisServer, primary: Node, tmp_path: Path) -> None:
    log = RedisLog(any_redis.url, "g")
    log.look()
    checkpoint = Checkpoint(tmp_path / "c", "g", node="c")
    beside = Sidecar(primary)
    server = WebServer(None)  # type: ignore[arg-type]  # it never answers anything here
    with Host(any_redis.url) as host:
        every: dict[str, Callable[[], Any]] = {
            "status": lambda: ops.status(log),
            "verify": lambda: ops.verify(log, by="test", timeout_s=3),
            "promote": lambda: ops.promote(log, "a", by="test", reason="", timeout_s=3),
            "request": lambda: log.request("report", by="test"),
            "read": lambda: log.read(None, requests_after="0-0"),
            "close": log.close,
            "save": lambda: checkpoint.save(primary._running.replica.node_state.view, boot="b"),
            "sync": checkpoint.sync,
            "payload": lambda: list(checkpoint.changes()),
            "close the checkpoint": checkpoint.close,
            "host.node": lambda: host.node(KV(), group="h", name="h", data_dir=tmp_path / "h"),
            "host.close": host.close,
            "beside": beside.__enter__,
            "listen": server.listen,
            "stop the server": server.stop,
        }
        assert told_at_once(every) == {}
    assert log.look().term == 1
    checkpoint.close()
    log.close()


def test_a_log_is_refused_in_a_child(world: World) -> None:
    log = world.log()
    log.look()
    assert (
        told_at_once({"look": log.look, "request": lambda: log.request("report", by="test"), "close": log.close}) == {}
    )
    log.look()


def test_a_lock_that_another_thread_has_at_the_fork_is_not_waited_for(primary: Node) -> None:
    replica = primary._running.replica
    with replica.write_lock, replica.applied.lock, replica.known.moved:
        child = Child(lambda: {name: outcome(call) for name, call in calls(primary).items()})
    assert set(child.result().values()) == {"WrongProcess"}


@pytest.mark.parametrize("how", ["with", "stop", "asyncio", "collect"])
def test_a_child_that_ends_as_programs_do_takes_nothing_down(any_redis: RedisServer, tmp_path: Path, how: str) -> None:
    program = [sys.executable, str(Path(__file__).with_name("forking_program.py")), any_redis.url, str(tmp_path), how]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["statuses"], said["term"], said["wal"]) == ([0] * 5, 1, True)
    assert said["applied"] == said["acknowledged"] > 20
    # What the parent saved after the fork is in the file that it opened: nobody deleted that under it.
    with Checkpoint(tmp_path / "a", "g", node="a") as checkpoint:
        loaded = checkpoint.load()
        assert loaded is not None
        assert loaded.view.position.id.n >= said["acknowledged"]
    with Node(KV(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path / "a") as again:
        assert pushed(again) == list(range(said["acknowledged"]))


def _worker(node: Node, answers: Any) -> None:
    answers.put(outcome(lambda: node.submit(push("x"), timeout_s=3)))


def test_multiprocessing_where_it_forks(primary: Node) -> None:
    forking = multiprocessing.get_context("fork")
    answers = forking.Queue()
    workers = [forking.Process(target=_worker, args=(primary, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=PATIENCE_S) for _ in workers] == ["WrongProcess"] * 2
    for worker in workers:
        worker.join(PATIENCE_S)
        assert worker.exitcode == 0
    primary.submit(push("the parent's"))


def _sleep() -> None:
    time.sleep(600)


def test_a_child_that_outlives_the_node_keeps_neither_its_directory_nor_its_connections(
    any_redis: RedisServer, primary: Node, tmp_path: Path
) -> None:
    child = Child(_sleep)
    try:
        primary.stop()
        eventually(lambda: not connections(any_redis), "an end of the connections")
        with Node(KV(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path / "a") as again:
            again.wait(role="primary", timeout_s=PATIENCE_S)
    finally:
        child.kill()


def test_nor_does_it_if_its_parent_was_killed(any_redis: RedisServer, tmp_path: Path) -> None:
    survivor = tmp_path / "survivor"

    def is_killed() -> None:
        node = Node(KV(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path / "a")
        node.start()
        node.promote(timeout_s=PATIENCE_S)
        survivor.write_text(str(Child(_sleep).pid))
        os.kill(os.getpid(), signal.SIGKILL)

    Child(is_killed)
    pid = int(eventually(lambda: survivor.exists() and survivor.read_text()))
    try:
        eventually(lambda: not connections(any_redis), "an end of the connections")
        with Node(KV(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path / "a") as again:
            again.wait(role="primary", timeout_s=PATIENCE_S)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_child_that_outlives_a_server_keeps_neither_its_port_nor_its_clients() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    server = WebServer(app)
    server.start()
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in client.recv(65536)
        child = Child(_sleep)
        try:
            server.stop()
            while client.recv(65536):
                pass  # the rest of the answer, and then the end of it
            again = WebServer(app, port=server.port)
            again.start()
            again.stop()
        finally:
            child.kill()


def test_a_worker_that_serves_the_node_of_its_master_says_so_on_every_path(tmp_path: Path) -> None:
    node = Node(Registry(), group="g", name="a", log=MemoryLog(MemoryRedis()), data_dir=tmp_path / "a")
    with node:
        node.promote(timeout_s=PATIENCE_S)
        client = TestClient(registry_app(node))

        def work() -> list[tuple[int, str]]:
            paths = ["/health", "/ready", "/v1/nodes", "/v1/state", "/nowhere"]
            answers = [client.get(path) for path in paths]
            answers += [client.get("/v1/nodes", headers={"Replicator-Wait": "1-1"})]
            answers += [client.post("/v1/nodes", json={}), client.put("/v1/state", json={})]
            return [(answer.status_code, answer.json()["error"]) for answer in answers]

        assert in_child(work) == [[500, "wrong_process"]] * 8
        assert client.get("/ready").status_code == 200


def test_a_child_makes_a_node_of_its_own(any_redis: RedisServer, primary: Node, tmp_path: Path) -> None:
    load = Load(primary)
    load.more()

    def work(name: str) -> list[int]:
        node = Node(KV(), group="g", name=name, redis=any_redis.url, data_dir=tmp_path / name)
        with node, node.reading(fresh=True, timeout_s=PATIENCE_S) as state:
            return [len(state.pushed), node.term]

    for number in range(3):
        there = len(load.acknowledged)
        got, term = in_child(lambda number=number: work(f"child-{number}"))
        assert got >= there
        assert term == 1
    load.end()


def test_a_child_is_not_left_without_a_collector(primary: Node) -> None:
    with HeldCollector() as collector:
        collector.hold()
        with HeldCollector._lock:
            child = Child(_collects)
    assert child.result() == [True, False, True]
    assert document(primary)


def _collects() -> list[bool]:
    import gc

    before = gc.isenabled()
    with HeldCollector() as collector:
        collector.hold()
        meanwhile = gc.isenabled()
    return [before, meanwhile, gc.isenabled()]


def test_leaving_a_hosts_or_a_nodes_with_in_a_child_is_silent(any_redis: RedisServer, tmp_path: Path) -> None:
    with Host(any_redis.url) as host:
        node = host.node(KV(), group="h", name="h", data_dir=tmp_path / "h")
        node.promote(timeout_s=PATIENCE_S)

        def work() -> str:
            with host, node:
                pass
            return "left"

        assert in_child(lambda: outcome(lambda: node.__exit__(None, None, None))) == "gave None"
        assert in_child(lambda: outcome(lambda: host.__exit__(None, None, None))) == "gave None"
        node.submit(push("x"))
        with pytest.raises(AssertionError, match="WrongProcess"):
            in_child(host.close)
        assert issubclass(WrongProcess, Exception)
        node.submit(push("y"))
