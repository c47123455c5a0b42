"""A leader is killed (SIGKILL): how long until another node has accepted a write, by who sees it die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import orjson

from bench.harness import Report, Setting, Table, now_ns, plain_client
from bench.http_client import KeptAlive, request_of
from replicator.errors import ReplicatorError
from replicator.log.redis_log import RedisLog
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import RedisServer
from replicator.sandbox.supervisord import Control

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

CONF = Path(__file__).parents[1] / "docker" / "supervisord-node.conf"

LISTENER, WRAPPER, COMMAND, NOBODY = "event listener", "wrapper", "command afterwards", "nobody"

#: As it is by default.
LEASE_S = 5.0

#: What takes longer than this does not happen any more.
PATIENCE_S = 60.0

#: The other node is tried this often.
TRY_EVERY_S = 0.002

PROSE = """\
Two nodes of the registry, with a lease of 5 s and `auto_promote`, each run by something of its own. The process of the
one that leads is killed with SIGKILL, and the other one is sent a write every 2 ms: shown is the time from the kill to
the first write that it accepted. *Event listener*: supervisord, with docker/supervisord-node.conf. *Wrapper*:
`replicator release -- COMMAND`. *Command afterwards*: `replicator release`, started once the process is gone, as
`ExecStopPost=` of systemd does; most of that is the start of Python. *Nobody*: the lease runs out.
"""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    #: For each way, how many kills.
    rounds: Mapping[str, int]


FULL = Sizes(rounds={LISTENER: 20, WRAPPER: 5, COMMAND: 3, NOBODY: 2})
QUICK = Sizes(rounds={LISTENER: 2, WRAPPER: 2, COMMAND: 2, NOBODY: 1})


class Host:
    """A node, and what runs it."""

    def __init__(self, way: str, name: str, home: Path, redis_url: str) -> None:
        self.name, self.port = name, free_port()
        self._way, self._home = way, home
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True)
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        self._environment |= {
            "NODE_HOME": str(home), "NODE_PYTHON": sys.executable, "REPLICATOR_NAME": name,
            "REPLICATOR_DATA_DIR": str(home / "data"), "REPLICATOR_GROUP": "bench", "REPLICATOR_REDIS": redis_url,
            "REPLICATOR_HTTP": f"127.0.0.1:{self.port}", "REPLICATOR_AUTO_PROMOTE": "true",
            "REPLICATOR_ON_RESTART": "standby", "REPLICATOR_LEASE_S": str(LEASE_S), "REPLICATOR_LOG_LEVEL": "WARNING",
        }  # fmt: skip

    def start(self) -> None:
        node = [sys.executable, "-m", "replicator.workers.node"]
        release = [sys.executable, "-c", "from replicator.cli import main; main()", "release"]
        commands = {
            LISTENER: [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(CONF)],
            WRAPPER: [*release, "--", *node],
        }
        self._release = release
        with (self._home / "out.log").open("ab") as out:
            self._process = subprocess.Popen(
                commands.get(self._way, node), env=self._environment, stdout=out, stderr=out
            )

    def pid(self) -> int:
        """Of the node."""
        assert self._process is not None
        if self._way == LISTENER:
            pid: int = Control(self._home / "supervisord.sock").programs()["node"]["pid"]
            return pid
        if self._way == WRAPPER:
            return int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()[0])
        return self._process.pid

    def is_settled(self) -> bool:
        """Whether what runs the node knows it for running."""
        if self._way != LISTENER:
            return True
        with suppress(ReplicatorError):
            programs = Control(self._home / "supervisord.sock").programs()
            return {programs[name]["statename"] for name in ("node", "leases")} == {"RUNNING"}
        return False

    def killed(self) -> None:
        """Its node was killed. What follows is done by whoever runs it; this process is systemd."""
        assert self._process is not None
        if self._way == COMMAND:
            self._process.wait()
            subprocess.run(self._release, env=self._environment, check=True, capture_output=True)

    def start_again(self) -> None:
        if self._way != LISTENER:  # which does it by itself
            assert self._process is not None
            self._process.wait()
            self.start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE_S)
            finally:
                self._process.kill()


def measure(setting: Setting, sizes: Sizes) -> Report:
    took_ms: dict[str, list[float]] = {}
    for way, rounds in sizes.rounds.items():
        # The path of supervisord's socket has to be short.
        with ExitStack() as stack:
            redis = stack.enter_context(RedisServer(setting.fresh("release-redis")))
            log = RedisLog(redis.url, "bench")
            stack.callback(log.close)
            hosts = [Host(way, name, setting.fresh("r"), redis.url) for name in "ab"]
            for host in hosts:
                stack.callback(host.stop)
                host.start()
            took_ms[way] = [_round(hosts, log, redis.url) for _ in range(rounds)]
    return _report(took_ms)


def _round(hosts: Sequence[Host], log: RedisLog, redis_url: str) -> float:
    """Milliseconds."""
    by_name = {host.name: host for host in hosts}

    def leader() -> Host | None:
        with suppress(ReplicatorError):
            look = log.look()
            beats = look.heartbeats.values()
            if len(beats) == len(hosts) and all(each.alive and each.in_sync for each in beats) and look.head:
                # A node that has just been started may have no heartbeat of its own yet.
                sound = all(each.term == look.term and each.every_ms > each.age_ms for each in beats)
                settled = all(host.is_settled() for host in hosts)
                return by_name.get(look.head.node) if sound and settled and look.lease_ms is not None else None
        return None

    killed = _until(leader)
    (other,) = [host for host in hosts if host is not killed]
    _forget_flaps(redis_url)
    pid = killed.pid()
    began_ns = now_ns()
    os.kill(pid, signal.SIGKILL)
    killed.killed()
    # Not before: a server closes what is idle, and what is done about a dead node may take longer than that.
    with KeptAlive(other.port) as connection:
        ended_ns = _first_accepted(connection)
    killed.start_again()
    return (ended_ns - began_ns) / 1e6


def _forget_flaps(redis_url: str) -> None:
    """Nodes that took the term by themselves three times within a minute are held back, and here all of them do."""
    with plain_client(redis_url) as client:
        client.hdel("replicator:{bench}:head", "taken")


def _first_accepted(connection: KeptAlive) -> int:
    numbers = count()
    while True:
        body = orjson.dumps({"hostname": f"h{next(numbers)}"})
        with suppress(RuntimeError):  # refused: it does not lead
            connection.ask(request_of("POST", "/v1/nodes", ["Replicator-Forwarded: bench"], body))
            return now_ns()
        connection._received.clear()
        time.sleep(TRY_EVERY_S)


def _until(found: Callable[[], Host | None]) -> Host:
    deadline = time.monotonic() + PATIENCE_S
    while (it := found()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the group did not settle within {PATIENCE_S:g} s")
        time.sleep(0.05)
    return it


def _report(took_ms: Mapping[str, Sequence[float]]) -> Report:
    rows = [
        [way, f"{len(each)}", f"{median(each):,.0f}", f"{min(each):,.0f}", f"{max(each):,.0f}"]
        for way, each in took_ms.items()
    ]
    figures = {f"{way} ms": median(each) for way, each in took_ms.items()}
    head = ["who gives the lease back", "kills", "median ms", "fastest", "slowest"]
    return Report(title="A leader is killed", prose=PROSE, tables=[Table(head=head, rows=rows)], figures=figures)
