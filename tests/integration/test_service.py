"""The registry as a service: the node, its HTTP API and the signals that end both, as a process runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator import ConfigError, LogLost, Node, ops
from replicator.log.redis_log import RedisLog
from replicator.node.options import NodeOptions
from replicator.sandbox.redis_server import RedisServer
from replicator.service.access import Access
from replicator.service.serve import Program, serve
from tests.support.kv import LEASE_S, PATIENCE_S, eventually
from tests.support.worlds import promote


@pytest.fixture
def log(any_redis: RedisServer) -> Iterator[RedisLog]:
    log = RedisLog(any_redis.url, "g")
    yield log
    log.close()


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def settings(server: RedisServer, tmp_path: Path, *, lease_s: float = LEASE_S, **more: Any) -> dict[str, Any]:
    return {
        "name": "a", "group": "g", "redis": server.url, "data_dir": tmp_path / "a", "http": "127.0.0.1:0",
        "options": NodeOptions(lease_s=lease_s), "program": Program(),
    } | more  # fmt: skip


def meanwhile(work: Any) -> threading.Thread:
    """Run `work` beside the service, which needs the main thread for its signals; at its end the service ends."""

    def run() -> None:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def of_the_node(before: set[threading.Thread]) -> list[threading.Thread]:
    """Its threads. Those from before are of nodes in other tests."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("a-") and thread not in before]


def ask(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_it_serves_until_a_signal_and_announces_where(any_redis: RedisServer, tmp_path: Path, log: RedisLog) -> None:
    seen: list[Any] = []

    def work() -> None:
        node = eventually(lambda: [n for n in ops.status(log).nodes if n.http])[0]
        ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        seen.append(ask("POST", f"{node.http}/v1/nodes", {"hostname": "db1", "public_key": "AAAA"}))
        seen.append(ask("GET", f"{node.http}/v1/state"))

    thread = meanwhile(work)
    serve(**settings(any_redis, tmp_path))
    thread.join()
    assert [status for status, _ in seen] == [201, 200]
    assert seen[1][1]["nodes"]["1"]["hostname"] == "db1"
    assert ops.status(log).lease_ms is None


def test_what_ends_the_node_ends_the_service(any_redis: RedisServer, tmp_path: Path, log: RedisLog) -> None:
    def work() -> None:
        eventually(lambda: [n for n in ops.status(log).nodes if n.http])
        ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        with redis.Redis.from_url(any_redis.url) as client:
            client.flushall()
        promote(log, "z", new_log_id="another")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with pytest.raises(LogLost, match="there is log another"):
        serve(**settings(any_redis, tmp_path))
    thread.join()


def test_a_log_that_is_gone_does_not_end_it(any_redis: RedisServer, tmp_path: Path, log: RedisLog) -> None:
    seen: list[Any] = []

    def work() -> None:
        node = eventually(lambda: [n for n in ops.status(log).nodes if n.http])[0]
        ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        seen.append(ask("POST", f"{node.http}/v1/nodes", {"hostname": "db1", "public_key": "AAAA"}))
        with redis.Redis.from_url(any_redis.url) as client:
            client.flushall()
        eventually(lambda: [n for n in ops.status(log).nodes if "there is none" in str(n.problem)])
        seen.append(ask("GET", f"{node.http}/v1/state"))
        seen.append(ask("POST", f"{node.http}/v1/nodes", {"hostname": "db2", "public_key": "BBBB"}))

    thread = meanwhile(work)
    serve(**settings(any_redis, tmp_path))
    thread.join()
    assert [status for status, _ in seen] == [201, 200, 503]
    assert list(seen[1][1]["nodes"]) == ["1"]


def test_who_watches_the_page_sees_the_end_in_order_and_holds_nothing_up(
    any_redis: RedisServer, tmp_path: Path, log: RedisLog
) -> None:
    seen: list[bytes] = []
    watching = threading.Event()

    def watch() -> None:
        node = eventually(lambda: [n for n in ops.status(log).nodes if n.http])[0]
        try:
            with urllib.request.urlopen(f"{node.http}/ui/events", timeout=PATIENCE_S) as events:
                seen.append(events.readline())
                watching.set()
                seen.append(events.read())  # cut off, it lacks the last chunk: IncompleteRead
        finally:
            watching.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    thread = meanwhile(lambda: watching.wait(PATIENCE_S))
    serve(**settings(any_redis, tmp_path))
    thread.join()
    watcher.join(PATIENCE_S)
    assert len(seen) == 2
    assert seen[1].endswith(b"\n\n")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGTERM])
def test_every_signal_that_ends_it_gives_the_lease_back(
    any_redis: RedisServer, tmp_path: Path, log: RedisLog, number: signal.Signals
) -> None:
    def work() -> None:
        try:
            eventually(lambda: [n for n in ops.status(log).nodes if n.http])
            ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        finally:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    serve(**settings(any_redis, tmp_path))
    thread.join()
    assert ops.status(log).lease_ms is None


def test_signals_in_the_middle_of_the_end_do_not_cut_it_short(
    any_redis: RedisServer, tmp_path: Path, log: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Node.stop
    ended: list[bool] = []

    def slow(node: Node) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        stop(node)
        ended.append(True)

    monkeypatch.setattr(Node, "stop", slow)
    thread = meanwhile(lambda: eventually(lambda: [n for n in ops.status(log).nodes if n.http]))
    serve(**settings(any_redis, tmp_path))
    thread.join()
    assert ended == [True]


def test_a_signal_before_the_node_has_started_ends_it_once_it_has(
    any_redis: RedisServer, tmp_path: Path, log: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Node.start

    def start_and_be_asked(node: Node) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        start(node)

    monkeypatch.setattr(Node, "start", start_and_be_asked)
    before = set(threading.enumerate())
    serve(**settings(any_redis, tmp_path))
    assert not of_the_node(before)


@pytest.mark.parametrize(
    ("http", "host"), [("0.0.0.0:0", "127.0.0.1"), ("0:0", "127.0.0.1"), ("127.0.0.1:0", "127.0.0.1")]
)
def test_an_address_that_is_none_is_not_told_to_others(
    any_redis: RedisServer, tmp_path: Path, log: RedisLog, http: str, host: str
) -> None:
    seen: list[Any] = []

    def work() -> None:
        (node,) = eventually(lambda: [n for n in ops.status(log).nodes if n.http])
        seen.extend([node.http, ask("GET", f"{node.http}/v1/state")[0]])

    thread = meanwhile(work)
    serve(**settings(any_redis, tmp_path, http=http, access=Access(insecure=True)))
    thread.join()
    assert seen[0].startswith(f"http://{host}:")
    assert seen[1] in (200, 503)


@pytest.mark.parametrize("http", ["0.0.0.0:0", "[::]:0", "10.0.0.1:0", "node-a:0"])
def test_beyond_loopback_it_serves_nobody_unless_it_is_told_whom(
    any_redis: RedisServer, tmp_path: Path, log: RedisLog, http: str
) -> None:
    with pytest.raises(ConfigError, match=r"is beyond loopback.*give --http-tokens FILE.*or --insecure"):
        serve(**settings(any_redis, tmp_path, http=http))
    assert ops.status(log).nodes == []


def test_a_certificate_and_its_key_come_together(any_redis: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="http-key: a certificate and its key are given together"):
        serve(**settings(any_redis, tmp_path, access=Access(cert=tmp_path / "cert.pem")))


@pytest.mark.parametrize("advertise", ["http://0.0.0.0:8000", "http://[::]:8000", "nonsense", "http://a\n"])
def test_what_others_are_told_has_to_lead_somewhere(any_redis: RedisServer, tmp_path: Path, advertise: str) -> None:
    with pytest.raises(ConfigError) as raised:
        serve(**settings(any_redis, tmp_path, advertise=advertise))
    assert raised.value.fields["setting"] == "advertise"


@pytest.mark.parametrize("http", ["nonsense", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "127.0.0.1:\u0661"])
def test_an_address_that_is_none_is_an_error_and_nothing_is_started(
    any_redis: RedisServer, tmp_path: Path, log: RedisLog, http: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        serve(**settings(any_redis, tmp_path, http=http))
    assert raised.value.fields["setting"].startswith("http")
    assert ops.status(log).nodes == []


def test_a_port_that_is_taken_is_an_error_and_the_node_ends(any_redis: RedisServer, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError):
            serve(**settings(any_redis, tmp_path, http=f"127.0.0.1:{taken.getsockname()[1]}"))
    assert not of_the_node(before)


def test_without_the_extra_it_says_what_to_install(any_redis: RedisServer, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from replicator.cli import main\n"
        f"main(['--redis', {any_redis.url!r}, 'node', '--name', 'a', '--data-dir', {str(tmp_path / 'a')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert 'pip install "replicator[web]"' in done.stderr
