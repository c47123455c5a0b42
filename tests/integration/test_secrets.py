"""No password shows anywhere: a node and many commands get one in the URL, and all that they leave is searched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from replicator.cli import cli
from replicator.errors import LogUnavailable
from replicator.jobs.queue import JobQueue
from replicator.log.redis_log import RedisLog
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import LEASE_S, PATIENCE_S, eventually

#: A part of the password that stays as it is when that is percent-encoded.
MARK = "Zq7xW4"
PASSWORD = f"pass/{MARK}@word"
IN_URL = f"pass%2F{MARK}%40word"

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("status", "--json"),
    ("why", "a"),
    ("groups",),
    ("versions",),
    ("history",),
    ("log",),
    ("doctor",),
    ("doctor", "--json"),
    ("config", "show"),
    ("config", "show", "--json"),
    ("config", "show", "status"),
    ("acl", "node", "monitor"),
    ("supervisord", "--nodes", "a,b", "--", "sh", "{name}"),
    ("pause",),
    ("resume",),
    ("snapshot",),
    ("snapshot", "--queue", "--timeout", "0.3"),
    ("verify",),
    ("promote", "nobody"),
    ("switchover", "--to", "nobody"),
    ("recover",),
    ("release", "--data-dir", "DATA"),
    ("forks", "list", "--data-dir", "DATA"),
    ("certify", "--data-dir", "DATA", "--state", "whole"),
    ("metrics", "rules"),
    ("completion", "bash"),
)

#: URLs that are wrong, or lead nowhere, or where the password is.
WRONG = (
    f"redis://:{IN_URL}@127.0.0.1:1/0",
    f"redis://ann:{PASSWORD}@127.0.0.1/0",
    f"redis://:{IN_URL}@127.0.0.1/none",
    f"redis://127.0.0.1:1/0?password={IN_URL}&nonsense=1",
    f"rediss://:{IN_URL}@127.0.0.1:1/0?ssl_ca_certs=/none",
    f"redis+sentinel://127.0.0.1:1/main?sentinel_password={IN_URL}",
    f"redis+cluster://:{IN_URL}@127.0.0.1:1",
    f":{IN_URL}@127.0.0.1",
)


class Node:
    """`replicator node` beside a file, with a command that writes down its environment."""

    def __init__(self, url: str, directory: Path) -> None:
        self.data_dir = directory / "a"
        self.told = directory / "environment-of-the-command"
        self.file = directory / "file.json"
        self.file.write_text('{"a": 1}')
        self.log = directory / "node.log"
        self.http = f"127.0.0.1:{free_port()}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
        environment = {
            **kept,
            "REPLICATOR_REDIS": url,
            "REPLICATOR_GROUP": "g",
            "REPLICATOR_ON_PRIMARY": f"sh -c 'env > {self.told}.new && mv {self.told}.new {self.told}'",
            "REPLICATOR_LOG_LEVEL": "DEBUG",
        }
        command = [sys.executable, "-m", "replicator.workers.node", "--name", "a", "--data-dir", str(self.data_dir)]
        beside = ["--file", str(self.file), "--http", self.http, "--auto-promote", "--lease-s", str(LEASE_S)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *beside], env=environment, stdout=log, stderr=log)

    def asked(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=PATIENCE_S) as answer:
            return str(answer.read(), "utf-8", "replace")

    def command_line(self) -> str:
        return subprocess.run(
            ["ps", "-o", "args=", "-p", str(self.process.pid)], capture_output=True, text=True, check=True
        ).stdout

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), port=0, config={"requirepass": PASSWORD}) as server:
        yield server


@pytest.fixture(scope="module")
def url(server: RedisServer) -> str:
    return f"redis://:{IN_URL}@127.0.0.1:{server.port}/0"


@pytest.fixture(scope="module")
def node(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(url, tmp_path_factory.mktemp("node"))
    try:
        eventually(node.told.exists, "the command of the primary")
        yield node
    finally:
        node.end()


Run = Callable[..., str]


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Run:
    """Run a command; all that it says and logs, with its traceback, if it has one."""
    caplog.set_level("DEBUG")

    def run(*command: str, **environment: str) -> str:
        caplog.clear()
        result = CliRunner().invoke(cli, list(command), env=environment)
        trace = "" if isinstance(result.exception, SystemExit) else "".join(format_exception(result.exception))
        return result.stdout + result.stderr + caplog.text + trace

    return run


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command[:3]))
def test_what_a_command_says_has_no_password_in_it(command: tuple[str, ...], url: str, node: Node, run: Run) -> None:
    words = [str(node.data_dir) if word == "DATA" else word for word in command]
    said = run("--log-level", "DEBUG", "--group", "g", *words, REPLICATOR_REDIS=url)
    assert said
    assert MARK not in said


@pytest.mark.parametrize("wrong", WRONG)
def test_an_error_about_a_url_has_no_password_in_it(wrong: str, run: Run) -> None:
    for command in (("status",), ("promote", "a", "--timeout", "0.1")):
        said = run("--redis", wrong, *command)
        assert "Error" in said
        assert MARK not in said


def test_what_a_node_leaves_has_no_password_in_it(url: str, node: Node, server: RedisServer) -> None:
    """Its log, its files, what it serves, its heartbeat, and what Redis and the list of processes show."""
    with JobQueue(url, "g") as queue:
        queue.ask("verify", {})
    served = [node.asked(path) for path in ("/health", "/history", "/ui", "/ui/feed.json") if _is_there(node, path)]
    assert served
    left = [node.log.read_bytes(), node.command_line().encode(), *map(str.encode, served)]
    left += [path.read_bytes() for path in sorted(node.data_dir.rglob("*")) if path.is_file()]
    with redis.Redis(port=server.port or 0, password=PASSWORD) as admin:
        keys = admin.keys("*")
        assert any(key.startswith(b"rq:job:") for key in keys)
        left += [repr(_content(admin, key)).encode() for key in keys]
    assert len(left) > 10
    assert [each for each in left if MARK.encode() in each] == []


def _is_there(node: Node, path: str) -> bool:
    try:
        node.asked(path)
    except OSError:
        return False
    return True


def _content(admin: Any, key: bytes) -> Any:
    kind = admin.type(key)
    readers: dict[bytes, Any] = {
        b"string": admin.get,
        b"hash": admin.hgetall,
        b"stream": admin.xrange,
        b"set": admin.smembers,
        b"zset": lambda key: admin.zrange(key, 0, -1),
        b"list": lambda key: admin.lrange(key, 0, -1),
    }
    return readers[kind](key)


def test_a_command_of_a_node_does_not_inherit_the_password(node: Node) -> None:
    told = dict(line.partition("=")[::2] for line in node.told.read_text().splitlines())
    assert (told["REPLICATOR_ROLE"], told["REPLICATOR_GROUP"]) == ("primary", "g")
    assert "REPLICATOR_REDIS" not in told
    assert "PATH" in told
    assert MARK not in node.told.read_text()


def test_a_password_on_the_command_line_is_warned_of(url: str, node: Node, run: Run) -> None:
    said = run("--redis", url, "--group", "g", "status")
    assert "--redis-password-file FILE" in said
    assert MARK not in said
    assert "--redis-password-file FILE" not in run("--group", "g", "status", REPLICATOR_REDIS=url)


def test_a_password_file_takes_its_place(url: str, node: Node, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(PASSWORD)
    path.chmod(0o600)
    plain = url.replace(f":{IN_URL}@", "")
    given = ("--redis", plain, "--redis-password-file", str(path), "--group", "g")
    status = json.loads(CliRunner().invoke(cli, [*given, "status", "--json"]).stdout)
    assert status["holder"] == "a"
    assert "a" in run("--redis", plain, "--group", "g", "status", REPLICATOR_REDIS_PASSWORD_FILE=str(path))
    settings = tmp_path / "replicator.toml"
    settings.write_text(f'redis = "{plain}"\nredis-password-file = "{path}"\n')
    assert "primary" in run("--config", str(settings), "--group", "g", "status")
    shown = run("--config", str(settings), "config", "show")
    assert str(path) in shown
    assert "has a password already" in run("--redis", url, "--redis-password-file", str(path), "status")
    assert "No such file" in run("--redis", plain, "--redis-password-file", str(tmp_path / "none"), "status")
    path.chmod(0o644)
    assert "others than its owner may read the password" in run(*given, "status")


def test_where_the_password_is_wrong_it_is_not_told(url: str, server: RedisServer) -> None:
    log = RedisLog(f"redis://:{IN_URL}-and-more@127.0.0.1:{server.port}/0", "g")
    try:
        with pytest.raises(LogUnavailable, match="is wrong") as caught:
            log.look()
        assert MARK not in repr(caught.value)
        assert MARK not in str(caught.value.__dict__)
    finally:
        log.close()
