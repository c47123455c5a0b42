"""supervisord, two nodes and the event listener, as processes: a node that is killed is replaced before its lease ends.

The lease is far longer than a test waits. So whoever leads did not wait for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicator import ops
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import LeaseText
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from replicator.sandbox.supervisord import Control, NoAnswer
from tests.support import plain_http
from tests.support.kv import PATIENCE_S, eventually

#: Nobody waits for that.
LEASE_S = 3600

CONF = """\
[supervisord]
nodaemon=true
logfile={home}/supervisord.log
pidfile={home}/supervisord.pid
childlogdir={home}

[unix_http_server]
file={home}/s.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[eventlistener:leases]
command="{python}" -m replicator.workers.lease_listener a={home}/a b={home}/b
events=PROCESS_STATE
stderr_logfile={home}/leases.log
"""

PROGRAM = """
[program:{name}]
command={command}
environment=REPLICATOR_HTTP="127.0.0.1:{port}",REPLICATOR_NAME="{name}",REPLICATOR_DATA_DIR="{home}/{name}"
startsecs=1
autorestart={autorestart}
redirect_stderr=true
stdout_logfile={home}/{name}.log
"""

NODE = '"{python}" -m replicator.workers.node --auto-promote --on-restart {on_restart} --lease-s {lease_s}'


class Stack:
    """A supervisord with nodes a and b."""

    def __init__(self, redis_url: str, home: Path) -> None:
        self.home = home
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        self._environment |= {"REPLICATOR_REDIS": redis_url, "REPLICATOR_GROUP": "g"}
        self.ports = dict(zip("ab", free_ports(2), strict=True))
        self.log = RedisLog(redis_url, "g")
        self._process: subprocess.Popen[bytes] | None = None
        self.control = Control(home / "s.sock")

    def start(self, *, wrap: str = "", autorestart: bool = False, on_restart: str = "standby") -> None:
        """`wrap`: what is before the command of a; the command itself is `{node}` in it."""
        values: Mapping[str, Any] = {
            "home": self.home, "python": sys.executable, "on_restart": on_restart, "lease_s": LEASE_S,
        }  # fmt: skip
        conf = CONF.format(**values)
        for name, port in self.ports.items():
            node = NODE.format(**values)
            command = wrap.replace("{node}", node.replace('"', "")) if wrap and name == "a" else node
            more = {"name": name, "port": port, "command": command, "autorestart": str(autorestart).lower()}
            conf += PROGRAM.format(**values, **more)
        (self.home / "s.conf").write_text(conf)
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self.home / "s.conf")]
        with (self.home / "out.log").open("wb") as out:
            self._process = subprocess.Popen(command, env=self._environment, stdout=out, stderr=out)
        eventually(self._states_are_running, "the programs run", patience_s=180)

    def _states_are_running(self) -> bool:
        try:
            return {info["statename"] for info in self.control.programs().values()} == {"RUNNING"}
        except NoAnswer:
            return False

    def lead_with_a(self) -> None:
        eventually(lambda: len(self.log.look().heartbeats) == 2, "both report")
        look = self.log.look()
        if look.head is None or look.head.node != "a" or look.lease_ms is None:
            ops.promote(self.log, "a", by="test", timeout_s=PATIENCE_S, force=True, lease_ms=LEASE_S * 1000)
        eventually(lambda: self.leads("a"), "a leads")

    def leads(self, name: str) -> bool:
        try:
            return plain_http.get(f"http://127.0.0.1:{self.ports[name]}/primary", timeout=PATIENCE_S).status_code == 200
        except httpx.HTTPError:
            return False

    def holder(self) -> str:
        """Whose lease runs."""
        lease = LeaseText.parse(self.log.look().lease)
        return lease.holder.split(" ")[1] if lease else ""

    def pid(self, program: str) -> int:
        pid: int = self.control.programs()[program]["pid"]
        return pid

    def said(self) -> str:
        """What the listener said."""
        return (self.home / "leases.log").read_text()

    def stop(self) -> None:
        self.log.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(3 * PATIENCE_S)
            finally:
                self._process.kill()


@pytest.fixture
def stack(any_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # The path of a socket has to be short.
    stack = Stack(any_redis.url, tmp_path_factory.mktemp("s"))
    yield stack
    stack.stop()


def test_another_node_leads_at_once_when_a_leader_is_killed(stack: Stack) -> None:
    stack.start()
    stack.lead_with_a()
    os.kill(stack.pid("a"), signal.SIGKILL)
    eventually(lambda: stack.leads("b"), "b leads", patience_s=180)
    eventually(lambda: "the lease of a, which has ended, is given back" in stack.said(), "it said so")


def test_a_wrapper_that_dies_gives_back_nothing_of_the_node_behind_it(stack: Stack) -> None:
    # the shell is what supervisord started, and the node is its child, in a session of its own
    stack.start(wrap="/bin/sh -c 'setsid {node} & echo $! > " + str(stack.home / "a.pid") + "; wait'")
    stack.lead_with_a()
    try:
        os.kill(stack.pid("a"), signal.SIGKILL)
        eventually(
            lambda: "so its lease is not given back" in stack.said(), "it saw that the node lives", patience_s=180
        )
        assert stack.holder() == "a"
        assert stack.leads("a")
        assert not stack.leads("b")
    finally:
        os.kill(int((stack.home / "a.pid").read_text()), signal.SIGKILL)


def test_while_something_is_left_of_a_dead_node_its_lease_stays(stack: Stack) -> None:
    # a child in the same process group, which may be at work that only a leader does
    stack.start(wrap="/bin/sh -c 'sleep 600 & echo $! > " + str(stack.home / "child.pid") + "; exec {node}'")
    stack.lead_with_a()
    try:
        os.kill(stack.pid("a"), signal.SIGKILL)
        eventually(lambda: "processes that it started live on" in stack.said(), "it saw the child", patience_s=180)
        assert stack.holder() == "a"
    finally:
        os.kill(int((stack.home / "child.pid").read_text()), signal.SIGKILL)


def test_a_listener_that_is_late_does_not_take_the_lease_from_the_successor(stack: Stack) -> None:
    stack.start(autorestart=True, on_restart="primary")
    stack.lead_with_a()
    before = stack.log.look().term
    listener = stack.pid("leases")
    os.kill(listener, signal.SIGSTOP)
    os.kill(stack.pid("a"), signal.SIGKILL)
    eventually(lambda: stack.log.look().term > before and stack.leads("a"), "a leads again", patience_s=180)
    term = stack.log.look().term
    os.kill(listener, signal.SIGCONT)
    eventually(lambda: "so its lease is not given back" in stack.said(), "it looked", patience_s=180)
    time.sleep(0.2)
    assert (stack.holder(), stack.log.look().term) == ("a", term)


def test_a_node_in_a_wrapper_of_ours_gives_its_lease_back_without_a_supervisor(stack: Stack) -> None:
    stack.start()
    stack.lead_with_a()
    stack.control.call("stopProcess", "a")
    eventually(lambda: stack.leads("b"), "b leads", patience_s=180)
    ended = stack.log.look().heartbeats["a"].boot
    # given: the same node, run by `replicator release -- ...`
    home, environment = stack.home, stack._environment
    command = [
        sys.executable,
        "-c",
        "from replicator.cli import main; main()",
        "release",
        "--data-dir",
        str(home / "a"),
    ]
    node = ["--", sys.executable, "-m", "replicator.workers.node", "--name", "a", "--data-dir", str(home / "a")]
    with (home / "wrapped.log").open("wb") as out:
        wrapper = subprocess.Popen(
            [*command, *node, "--lease-s", str(LEASE_S), "--auto-promote"], env=environment, stdout=out, stderr=out
        )
    try:
        eventually(lambda: stack.log.look().heartbeats["a"].boot != ended, "a is back", patience_s=180)
        ops.promote(stack.log, "a", by="test", timeout_s=PATIENCE_S, force=True, lease_ms=LEASE_S * 1000)
        eventually(lambda: stack.holder() == "a", "a leads")
        (child,) = [int(pid) for pid in Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children").read_text().split()]
        # when
        os.kill(child, signal.SIGKILL)
        # then
        eventually(lambda: stack.leads("b"), "b leads", patience_s=180)
        assert wrapper.wait(PATIENCE_S) == 128 + signal.SIGKILL
    finally:
        wrapper.terminate()  # which it passes on: killed, it would leave the node behind
        wrapper.wait(PATIENCE_S)
