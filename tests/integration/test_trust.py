"""What others write to Redis is not believed (docs/trust.md): what is shown of it, and where a document is sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from replicator import Node
from replicator.cli import cli
from replicator.log.redis_log import RedisLog
from replicator.node.url_proof import Unproven, prove
from replicator.protocol.heartbeat import Heartbeat
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.sandbox.redis_server import RedisServer
from replicator.web.head import NONCE
from replicator.web.server import WebServer
from tests.support.kv import LEASE_S, PATIENCE_S, eventually
from tests.support.worlds import head_of, lead

#: What a terminal obeys, what ends a line, and what turns the direction of writing.
ODD = "\x1b[31m\r\n\u202e\x9b\x07"

#: Without the end of a line, which a command's own lines have; what comes after one in `ODD` may not begin a line.
OBEYED = set("\x1b\r\u202e\x9b\x07")

SHOWN = [
    ["status"],
    ["status", "--output", "json"],
    ["why"],
    ["why", "a"],
    ["why", "z"],
    ["why", "z", "--output", "json"],
    ["history", "--output", "json"],
    ["show"],
    ["forks"],
    ["doctor"],
    ["history"],
    ["log"],
    ["groups"],
    ["versions"],
    ["certify", "--timeout", "1"],
    ["promote", "z", "--dry-run"],
    ["promote", "z", "--yes"],
    ["config", "show"],
    ["archive", "status"],
]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLICATOR_REDIS", raising=False)


@pytest.fixture
def run(any_redis: RedisServer) -> Callable[..., Result]:
    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, ["--redis", any_redis.url, "--group", "g", *args])

    return run


@pytest.fixture
def log(any_redis: RedisServer) -> Iterator[RedisLog]:
    log = RedisLog(any_redis.url, "g")
    yield log
    log.close()


def of_holder(log: RedisLog, **more: Any) -> Heartbeat:
    """A heartbeat of the node that holds the term, as somebody writes it."""
    head, look = head_of(log), log.look()
    facts: dict[str, Any] = {
        "run": look.run, "term": head.term, "role": "primary", "position": head.position, "cursor": head.position.id,
        "log_id": head.log_id, "every_ms": 20_000,
    }  # fmt: skip
    return Heartbeat(head.node, head.boot, **facts | more)


class TestWhatIsShown:
    @pytest.fixture(scope="class")
    @staticmethod
    def forged(_default_server: RedisServer) -> str:
        """A group in which everything that is a text has odd characters in it."""
        client: Any = redis.Redis.from_url(_default_server.url)
        client.flushall()
        log = RedisLog(_default_server.url, "g")
        author = lead(log, "a", reason=f"why{ODD}", by=f"who{ODD}")
        author.append()
        texts: dict[str, Any] = dict.fromkeys(
            ("problem", "last_error", "app", "process", "stalled", "diverged", "given_up", "prepared", "follows_only",
             "digest", "http", "reinitialised"), f"x{ODD}",
        )  # fmt: skip
        log.beat(of_holder(log, **texts | {"stalled": "", "last_error_at": 1}))
        log.beat(of_holder(log, **texts | {"last_error_at": 1})._replace(node="z", boot=f"z1{ODD}"))
        log.beat(of_holder(log)._replace(node=f"y{ODD}", boot="y1"))
        log.beat(of_holder(log)._replace(node="y", boot="y1", role="standby", knew=(f"q{ODD}/1",)))
        log.pause(f"paused{ODD}", by=f"who{ODD}", reason=f"why{ODD}")
        key = "replicator:{g}:history"
        client.xadd(key, {"what": f"promote{ODD}", "term": "1", "node": f"n{ODD}", "by": f"b{ODD}", "reason": f"r{ODD}",
                          "ended": f"e{ODD}", "ended_node": f"m{ODD}", "ended_term": "1", "at": "1", "number": "9",
                          "restored_by": f"s{ODD}", "id": f"1-1{ODD}", "run": ODD})  # fmt: skip
        client.xadd(f"replicator:{{g{ODD}}}:x", {"a": "b"})
        client.hset(f"replicator:{{g{ODD}}}:nodes", "a", "1 x")
        client.set("replicator:{g}:lease", f"1 a{ODD} b 5000 1", px=3_600_000)
        log.close()
        client.close()
        return str(_default_server.url)

    @pytest.mark.parametrize("command", SHOWN, ids=" ".join)
    def test_no_command_prints_what_a_terminal_obeys(self, forged: str, command: list[str]) -> None:
        result = CliRunner().invoke(cli, ["--redis", forged, "--group", "g", *command])
        shown = result.stdout + result.stderr
        assert shown, "it says something"
        assert not OBEYED & set(shown)
        assert not [line for line in shown.split("\n") if line.startswith("\\u202e")], "no line of others begins one"
        assert "Traceback" not in shown
        assert result.exception is None or isinstance(result.exception, SystemExit)


class Elsewhere:
    """A server that is no node. `asked`: what it got. `then`: what it does with a nonce."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.then: Callable[[str], None] = lambda nonce: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                outer.then(self.headers.get(NONCE, ""))
                self.send_response(200)
                self.end_headers()

            do_PUT = do_POST = do_GET = do_HEAD

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere()
    yield server
    server.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "registry.json"
    file.write_text(json.dumps({"nodes": {}, "term": 0}))
    return file


class Clock:
    """One that goes on by what is slept, at once."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


class TestWhereItIsSent:
    def test_load_sends_nothing_to_a_url_that_a_heartbeat_by_hand_has(
        self,
        log: RedisLog,
        run: Callable[..., Result],
        elsewhere: Elsewhere,
        file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Who waits for the proof sleeps, and then his time is over: what is on the way takes none of it.
        monkeypatch.setattr("replicator.node.url_proof.time", Clock())
        lead(log, "a").append()
        log.beat(of_holder(log, http=elsewhere.url))
        result = run("load", str(file), "--force", "--yes")
        assert result.exit_code == 6
        assert "is not known to be node a" in result.stderr
        assert elsewhere.asked == ["HEAD /live"], "and no document"

    def test_to_names_it_and_asks_for_no_proof(
        self, log: RedisLog, run: Callable[..., Result], elsewhere: Elsewhere, file: Path
    ) -> None:
        lead(log, "a").append()
        log.beat(of_holder(log))
        run("load", str(file), "--force", "--yes", "--to", elsewhere.url)
        assert elsewhere.asked == ["PUT /v1/state?force=1"]
        assert run("load", str(file), "--to", "http://u:p@a").exit_code == 2

    def test_the_confirmation_names_the_url_that_was_asked(self, log: RedisLog, elsewhere: Elsewhere) -> None:
        """A server that passes the nonce on to a node gets the confirmation of that node, for that node's own URL."""
        lead(log, "a").append()
        head = head_of(log)
        elsewhere.then = lambda nonce: log.beat(of_holder(log, http="http://127.0.0.1:9", heard=(nonce,)))
        with pytest.raises(Unproven):
            prove(log.look, "a", head.boot, elsewhere.url, within_s=0.5)
        elsewhere.then = lambda nonce: log.beat(of_holder(log, http=elsewhere.url, heard=(nonce,))._replace(boot="b"))
        with pytest.raises(Unproven):
            prove(log.look, "a", head.boot, elsewhere.url, within_s=0.5)
        elsewhere.then = lambda nonce: log.beat(of_holder(log, http=elsewhere.url, heard=(nonce,)))
        prove(log.look, "a", head.boot, elsewhere.url, within_s=PATIENCE_S)

    def test_nodes_prove_theirs(self, any_redis: RedisServer, log: RedisLog, tmp_path: Path) -> None:
        a, b = (
            Node(Registry(), group="g", name=name, redis=any_redis.url, data_dir=tmp_path / name, lease_s=LEASE_S)
            for name in "ab"
        )
        with a, b, WebServer(registry_app(a)) as server:
            a.announce(server.url)
            a.promote(timeout_s=PATIENCE_S)
            prove(log.look, "a", a.boot, server.url, within_s=PATIENCE_S)
            eventually(lambda: b.primary_http == server.url)
            eventually(lambda: b.has_proven(f"{server.url}/v1/nodes?x=1"))
            assert not b.has_proven("http://127.0.0.1:9/v1/nodes")
            assert not b.has_proven(f"{server.url}0/v1/nodes")
            # when another server is given out for the primary
            began = time.monotonic()
            assert not b._running.primary_proof.is_proven("a", a.boot, "http://127.0.0.1:9")  # type: ignore[union-attr]
            assert time.monotonic() - began < PATIENCE_S
