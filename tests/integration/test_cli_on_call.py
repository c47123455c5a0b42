"""The command line of who is on call, against real groups: `why`, and a `status --watch` that goes on without Redis."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from replicator import Node, ops
from replicator.cli import cli
from replicator.log.redis_log import RedisLog
from replicator.node.process_asks import Ask
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.sandbox.redis_server import RedisServer
from replicator.web.server import WebServer
from tests.support.kv import LEASE_S, PATIENCE_S, eventually
from tests.support.node_process import NodeProcess


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("REPLICATOR_") and name != "REPLICATOR_REDIS_SERVER"]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(any_redis: RedisServer) -> Callable[..., Result]:
    """Run a command on the group `g` of the test's Redis."""

    def run(*args: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["--redis", any_redis.url, "--group", "g", *args], **options)

    return run


@pytest.fixture
def pair(any_redis: RedisServer, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """A primary that serves HTTP, and a standby."""
    a, b = (
        Node(Registry(), group="g", name=name, redis=any_redis.url, data_dir=tmp_path / name, lease_s=LEASE_S)
        for name in "ab"
    )
    with a, b, WebServer(registry_app(a)) as server:
        a.announce(server.url)
        a.promote(timeout_s=PATIENCE_S)
        log = RedisLog(any_redis.url, "g")
        eventually(lambda: [node.ready for node in ops.status(log).nodes] == [True, True])
        eventually(lambda: ops.status(log).nodes[0].http)
        log.close()
        yield a, b


class TestWhy:
    def test_a_standby_says_who_leads(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        told = run("why", "b")
        assert (told.exit_code, told.stderr) == (0, "")
        lines = told.stdout.splitlines()
        assert lines[0].startswith("b  standby, at 1-1 in term 1, reported ")
        assert lines[2] == "leads           no"
        assert lines[3].startswith("  other_leads  primary=a  term=1  lease_ms=")
        assert "follows         yes" in lines
        assert "may be promoted yes" in lines
        assert "is ready        yes" in lines

    def test_as_json(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        told = json.loads(run("why", "a", "--json").stdout)
        assert (told["leads"], told["follows"], told["promotable"], told["ready"]) == (True, False, False, True)
        assert {(each["question"], each["code"]) for each in told["reasons"]} == {
            ("follows", "leads"), ("promotable", "leads"),
        }  # fmt: skip

    def test_of_a_node_or_a_group_that_is_not_there(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        told = run("why", "zz")
        assert (told.exit_code, told.stdout) == (3, "")
        assert told.stderr == "Error: no node zz has ever reported to group g; the nodes there are: a, b\n"
        told = run("--group", "typo", "why", "a")
        assert told.exit_code == 3
        assert "the groups there are: g" in told.stderr

    def test_after_a_demotion_it_is_the_same_in_status_and_doctor(
        self, run: Callable[..., Result], pair: tuple[Node, Node]
    ) -> None:
        run("demote")
        eventually(lambda: json.loads(run("status", "--json").stdout)["codes"] == ["demoted"])
        told = json.loads(run("why", "b", "--json").stdout)
        assert next(each["code"] for each in told["reasons"] if each["question"] == "leads") == "demoted"
        checks = json.loads(run("doctor", "--json").stdout)["checks"]
        assert "demoted" in [check["code"] for check in checks]

    def test_a_promotion_that_would_be_refused_has_the_code(
        self, run: Callable[..., Result], pair: tuple[Node, Node]
    ) -> None:
        told = run("promote", "zz", "--dry-run", "--json")
        assert told.exit_code == 3
        assert (json.loads(told.stdout)["code"], json.loads(told.stdout)["facts"]) == ("never_reported", {})
        assert "would be refused (never_reported): no node of that name" in told.stderr


class TestGroups:
    def test_each_group_with_its_leader_and_what_is_wrong(
        self, run: Callable[..., Result], pair: tuple[Node, Node], any_redis: RedisServer, tmp_path: Path
    ) -> None:
        told = run("groups")
        assert (told.exit_code, told.stderr) == (0, "")
        assert [line.split()[:4] for line in told.stdout.splitlines()[1:]] == [["g", "Registry", "a", "1"]]
        with Node(Registry(), group="other", name="z", redis=any_redis.url, data_dir=tmp_path / "z"):
            eventually(lambda: len(json.loads(run("groups", "--json").stdout)) == 2)
        run("demote")
        told = run("groups", "--json")
        assert told.exit_code == 1
        g, other = json.loads(told.stdout)
        assert (g["group"], g["primary"], g["node_count"], g["live_count"]) == ("g", None, 2, 2)
        assert "the primary was demoted" in g["problem"]
        assert (other["group"], other["record_count"], other["term"]) == ("other", None, 0)

    def test_of_an_empty_redis(self, run: Callable[..., Result]) -> None:
        told = run("groups")
        assert (told.exit_code, told.stdout) == (0, "there is no group in this Redis\n")


class TestCompletion:
    @pytest.mark.parametrize(
        ("line", "offered"),
        [("why ", ["a", "b"]), ("promote b", ["b"]), ("switchover --to ", ["a", "b"]), ("forget a", ["a"])],
    )
    def test_nodes_are_completed_from_redis(
        self, any_redis: RedisServer, pair: tuple[Node, Node], line: str, offered: list[str]
    ) -> None:
        *words, incomplete = line.split(" ")
        shell = ShellComplete(cli, {}, "replicator", "_REPLICATOR_COMPLETE")
        before = ["--redis", any_redis.url, "--group", "g"]
        assert [item.value for item in shell.get_completions([*before, *words], incomplete)] == offered
        assert [item.value for item in shell.get_completions(["--redis", any_redis.url, "--group"], "")] == ["g"]


class TestProcesses:
    @pytest.fixture
    def node(self, any_redis: RedisServer, tmp_path: Path) -> Iterator[NodeProcess]:
        node = NodeProcess(any_redis.url, tmp_path / "a")
        yield node
        if node.process.poll() is None:
            node.end(signal.SIGKILL)

    @pytest.fixture
    def log(self, any_redis: RedisServer) -> Iterator[RedisLog]:
        log = RedisLog(any_redis.url, "g")
        yield log
        log.close()

    def test_a_restart_is_another_boot_of_the_same_process(
        self, run: Callable[..., Result], log: RedisLog, node: NodeProcess
    ) -> None:
        eventually(lambda: "a" in log.look().heartbeats)
        ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        before = log.look().heartbeats["a"]
        told = json.loads(run("restart", "a", "--json", "--timeout", str(PATIENCE_S)).stdout)
        assert told["previous_boot"] == before.boot
        assert told["boot"] == log.look().heartbeats["a"].boot != before.boot
        assert node.process.poll() is None
        eventually(lambda: ops.status(log).nodes[0].leads, "it takes the term again that it gave back")

    def test_an_ask_is_carried_out_once_though_it_is_read_again_after_the_restart(
        self, run: Callable[..., Result], log: RedisLog, node: NodeProcess
    ) -> None:
        eventually(lambda: "a" in log.look().heartbeats)
        look = log.look()
        ask = str(Ask("restart", look.heartbeats["a"].boot, look.now_ms + 3_600_000))
        log.request(ask, by="test", node="a")
        second = eventually(lambda: _another_boot(log, look.heartbeats["a"].boot))
        log.request(ask, by="test", node="a")
        log.request("report", by="test", node="a")
        eventually(lambda: log.look().heartbeats["a"].beaten_at > second.beaten_at + 2 * second.every_ms)
        assert log.look().heartbeats["a"].boot == second.boot
        code, _, err = node.end()
        assert code == 0
        assert err.count("asked for a restart") == 2
        assert "which is not done: it is for another boot" in err

    def test_a_node_that_is_shut_down_ends_in_order_with_0(
        self, run: Callable[..., Result], log: RedisLog, any_redis: RedisServer, tmp_path: Path
    ) -> None:
        node = NodeProcess(any_redis.url, tmp_path / "a")
        try:
            eventually(lambda: "a" in log.look().heartbeats)
            ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
            eventually(lambda: ops.status(log).nodes[0].leads)
            refused = run("shutdown", "a")
            assert refused.exit_code == 3
            assert "it leads" in refused.stderr
            told = run("shutdown", "a", "--force", "--timeout", str(PATIENCE_S))
            assert (told.exit_code, told.stderr) == (0, "asked a to end\n")
            assert node.end(None)[0] == 0
            assert ops.status(log).lease_ms is None
        finally:
            if node.process.poll() is None:
                node.end(signal.SIGKILL)

    def test_a_node_that_is_part_of_another_program_is_not_asked(
        self, run: Callable[..., Result], pair: tuple[Node, Node]
    ) -> None:
        for command in ("restart", "shutdown"):
            told = run(command, "b")
            assert told.exit_code == 3
            assert "it is part of another program" in told.stderr
        assert run("restart", "zz").exit_code == 3


def _another_boot(log: RedisLog, boot: str) -> Any:
    now = log.look().heartbeats["a"]
    return now if now.alive and now.boot != boot else None


class Watching:
    """`status --watch` as a process of its own, and what it says."""

    def __init__(self, url: str, *options: str, out: int | None = None) -> None:
        arguments = [sys.executable, "-c", "from replicator.cli import main; main()", "--redis", url, "--group", "g"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
        environment = kept | {"PYTHONUNBUFFERED": "1", "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        self.process = subprocess.Popen(
            [*arguments, "status", "--watch", *options], stdout=subprocess.PIPE if out is None else out,
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.said: list[str] = []
        if self.process.stdout is not None:
            self._reader = threading.Thread(target=self._read, args=(self.process.stdout,))
            self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        self.said.extend(iter(stream.readline, ""))

    @property
    def text(self) -> str:
        return "".join(self.said)

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            return code, stream.read()


class TestWatch:
    def test_without_a_terminal_it_says_in_lines_what_happens_and_goes_on_without_redis(
        self, any_redis: RedisServer, pair: tuple[Node, Node], run: Callable[..., Result]
    ) -> None:
        watching = Watching(any_redis.url)
        try:
            eventually(lambda: "a leads in term 1" in watching.text)
            assert "holder a" in watching.text
            assert "\x1b" not in watching.text
            run("pause")
            eventually(lambda: "group: paused" in watching.text)
            any_redis.pause()
            eventually(lambda: "Redis is away; the nodes are asked over HTTP" in watching.text)
            any_redis.resume()
            eventually(lambda: "Redis is back, after" in watching.text)
        finally:
            any_redis.resume()
            ended = watching.end()
        assert ended == (0, "")

    def test_as_json_the_nodes_speak_for_themselves_while_redis_is_away(
        self, any_redis: RedisServer, pair: tuple[Node, Node]
    ) -> None:
        watching = Watching(any_redis.url, "--json")
        try:
            eventually(lambda: '"holder": "a"' in watching.text)
            any_redis.pause()
            eventually(lambda: '"error": "log_unavailable"' in watching.text)
            eventually(lambda: '"answers": true' in watching.text)
        finally:
            any_redis.resume()
            assert watching.end()[0] == 0

    def test_on_a_terminal_it_is_a_screen(self, any_redis: RedisServer, pair: tuple[Node, Node]) -> None:
        ours, theirs = pty.openpty()
        watching = Watching(any_redis.url, out=theirs)
        os.close(theirs)
        seen = bytearray()

        def shows(text: bytes) -> bool:
            seen.extend(os.read(ours, 65536))
            return text in seen

        try:
            eventually(lambda: shows(b"EVENTS"))
            assert b"\x1b[?1049h" in seen, "the other screen of the terminal: what was on it comes back"
        finally:
            drain = threading.Thread(target=_drained, args=(ours,))
            drain.start()
            ended = watching.end()
            drain.join()
            os.close(ours)
        assert ended == (0, "")

    def test_a_redis_that_is_not_there_at_first_is_6(self, run: Callable[..., Result]) -> None:
        told = CliRunner().invoke(cli, ["--redis", "redis://127.0.0.1:1", "status", "--watch"])
        assert (told.exit_code, told.stdout) == (6, "")


def _drained(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:  # the other end is closed
        pass
