"""Faults of the primary as clients see them that come through HAProxy, through nginx, or straight to the nodes.

    python -m tests.acceptance.load_balancers [--rounds 5] [--lease 5.0]

Real processes: a Redis, three nodes of the registry, and the two load balancers with the very files of docker/, all on
loopback ports and in a directory of their own. While the primary is killed, paused, or replaced in order, and while one
standby is kept from Redis, clients write (each write with a key, repeated until it is answered) and read. Judged is:

- *nothing is lost, nothing is doubled*: in the end every write that was acknowledged is there, once;
- *own writes*: a read with `Replicator-Wait` after a write shows it, or is refused;
- *no read is staler than promised*: a plain read through HAProxy shows what was acknowledged a while before it. nginx
  promises nothing there.

Printed is, for each fault, the longest time for which each client had no write acknowledged.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx

from replicator import ReplicatorError, ops
from replicator.log.redis_log import RedisLog
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from tests.support import plain_http

ROOT = Path(__file__).parents[2]
HAPROXY_CFG = ROOT / "docker" / "haproxy.cfg"
NGINX_TEMPLATE = ROOT / "docker" / "nginx.conf.template"

NAMES = ("a", "b", "c")
FAULTS = ("kill", "pause", "switchover")

#: One step that takes longer hangs. The machine may be busy.
PATIENCE_S = 60.0

#: How long a client waits for one answer, and between two attempts.
ATTEMPT_S = 2.0
AGAIN_S = 0.02

#: What docker/haproxy.cfg promises: 5 s, and until a node that may be staler is found out. The rest is for a machine
#: that is busy.
STALE_S = 10.0

#: For so long the standby is kept from Redis: long enough for its reads to become too stale, were they shown.
HANGS_S = STALE_S + 4.0

POLL_S = 0.02


class Program:
    """A server that was started here, and is ended here, by its process id."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._command = command
        self._directory = directory
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._directory / f"{self.name}.log").open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self._environment, cwd=ROOT
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S)
            self.kill()


def node_program(name: str, port: int, redis_url: str, directory: Path, lease_s: float) -> Program:
    command = [sys.executable, "-m", "replicator.workers.node", "--name", name]
    return Program(
        f"node-{name}",
        command,
        directory,
        {
            "REPLICATOR_REDIS": redis_url,
            "REPLICATOR_GROUP": "g",
            "REPLICATOR_DATA_DIR": str(directory / name),
            "REPLICATOR_HTTP": f"127.0.0.1:{port}",
            "REPLICATOR_AUTO_PROMOTE": "true",
            "REPLICATOR_ON_RESTART": "standby",
            "REPLICATOR_LEASE_S": str(lease_s),
            "REPLICATOR_LOG_LEVEL": "WARNING",
        },
    )


def haproxy_program(listen: int, nodes: dict[str, int], directory: Path) -> Program:
    places = {f"REPLICATOR_NODE_{name.upper()}": f"127.0.0.1:{port}" for name, port in nodes.items()}
    command = ["haproxy", "-db", "-f", str(HAPROXY_CFG)]
    return Program("haproxy", command, directory, {**places, "REPLICATOR_LISTEN": f"127.0.0.1:{listen}"})


NGINX_MAIN = """\
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    include {home}/replicator.conf;
}}
"""


def nginx_program(listen: int, nodes: dict[str, int], directory: Path) -> Program:
    home = directory / "nginx"
    home.mkdir()
    text = NGINX_TEMPLATE.read_text().replace("${REPLICATOR_LISTEN}", f"127.0.0.1:{listen}")
    for name, port in nodes.items():
        text = text.replace(f"${{REPLICATOR_NODE_{name.upper()}}}", f"127.0.0.1:{port}")
    (home / "replicator.conf").write_text(text)
    (home / "nginx.conf").write_text(NGINX_MAIN.format(home=home))
    command = ["nginx", "-p", str(home), "-e", "stderr", "-c", str(home / "nginx.conf")]
    return Program("nginx", command, directory, {})


# --- clients ----------------------------------------------------------------------------------------------------------


class Acknowledged(NamedTuple):
    """A write: the host name that it registered, the id that it got, where that stands, and when it was answered."""

    hostname: str
    id: int
    position: str
    at: float


@dataclass
class Record:
    """What one client wrote, and what it saw that must not be."""

    name: str
    acknowledged: list[Acknowledged] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    reads: int = 0
    #: Reads that had no answer, or none of a node, in time.
    unanswered: int = 0

    def gap_s(self, since: float, until: float) -> float:
        """The longest time in between without a write that was acknowledged."""
        times = [since, *(each.at for each in self.acknowledged if since < each.at < until), until]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


class Client:
    """Writes until it is stopped, one write after the other, each with a key and until it is answered.

    `urls`: of a load balancer; or of the nodes, to which it goes by itself: it follows redirects, and asks the next one
    if one does not answer. `promises`: plain reads show what was acknowledged `STALE_S` ago.
    """

    def __init__(self, name: str, urls: Sequence[str], *, promises: bool) -> None:
        self.record = Record(name)
        self.stopping = threading.Event()
        self._urls = list(urls)
        self._url = self._urls[0]
        self._promises = promises
        self._counts = itertools.count()
        self._threads = [threading.Thread(target=each, name=name, daemon=True) for each in (self._write, self._read)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                raise TimeoutError(f"a write through {self.record.name} was not answered within {PATIENCE_S:g} s")

    def _write(self) -> None:
        with plain_http.Client(timeout=ATTEMPT_S, follow_redirects=True) as http:
            while not self.stopping.is_set():
                self._insist(http, f"{self.record.name}-{next(self._counts)}")

    def _insist(self, http: httpx.Client, hostname: str) -> None:
        until = time.monotonic() + PATIENCE_S
        headers = {"Idempotency-Key": f'"{hostname}"'}
        while time.monotonic() < until:
            try:
                body = {"hostname": hostname}
                answer = http.post(f"{self._url}/v1/nodes", json=body, headers=headers)
            except httpx.HTTPError:
                self._next()
            else:
                if answer.status_code in (200, 201):
                    done = Acknowledged(
                        hostname, answer.json()["id"], answer.headers["replicator-position"], time.monotonic()
                    )
                    self.record.acknowledged.append(done)
                    self._see_own(http, done)
                    return
                if answer.status_code not in (307, 409, 502, 503, 504):
                    self.record.wrong.append(f"{hostname}: {answer.status_code} {answer.text}")
                    return
                self._next()
            time.sleep(AGAIN_S)
        self.record.wrong.append(f"{hostname}: not answered within {PATIENCE_S:g} s")

    def _next(self) -> None:
        self._url = self._urls[(self._urls.index(self._url) + 1) % len(self._urls)]

    def _see_own(self, http: httpx.Client, done: Acknowledged) -> None:
        """A read that asks for what was written shows it, wherever it ends up."""
        with suppress(httpx.HTTPError):
            answer = http.get(f"{self._url}/v1/nodes/{done.id}", headers={"Replicator-Wait": done.position})
            self._judge(answer, done, "its own write")

    def _read(self) -> None:
        """Plain reads of what was acknowledged a while ago."""
        with plain_http.Client(timeout=ATTEMPT_S) as http:
            for number in itertools.count():
                if self.stopping.wait(POLL_S):
                    return
                began = time.monotonic()
                old = [each for each in reversed(self.record.acknowledged) if each.at < began - STALE_S][:1]
                if not old or not self._promises:
                    continue
                try:
                    answer = http.get(f"{self._urls[number % len(self._urls)]}/v1/nodes/{old[0].id}")
                except httpx.HTTPError:
                    self.record.unanswered += 1
                else:
                    self._judge(answer, old[0], f"what was acknowledged {began - old[0].at:.1f} s before")

    def _judge(self, answer: httpx.Response, done: Acknowledged, what: str) -> None:
        if answer.status_code in (502, 503, 504):
            self.record.unanswered += 1
            return
        self.record.reads += 1
        if answer.status_code != 200 or answer.json()["hostname"] != done.hostname:
            self.record.wrong.append(f"a read did not show {what}: {done.hostname}, {answer.status_code} {answer.text}")


# --- the story --------------------------------------------------------------------------------------------------------


class Story:
    """Three nodes, their load balancers and their clients. Use it as a context. `say` shows a line."""

    def __init__(self, directory: Path, *, lease_s: float, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._lease_s = lease_s
        self._say = say
        self._stack = ExitStack()
        #: For each fault and each client, the gaps.
        self.gaps_s: dict[tuple[str, str], list[float]] = {}

    def __enter__(self) -> Story:
        with ExitStack() as stack:
            server = stack.enter_context(RedisServer(self._directory / "redis"))
            # One standby reaches Redis by a path of its own, which can be made to hang.
            self._path = stack.enter_context(Proxy(server.socket_path))
            self.log = RedisLog(server.url, "g")
            stack.callback(self.log.close)
            *ports, haproxy, nginx = free_ports(len(NAMES) + 2)
            self.ports = dict(zip(NAMES, ports, strict=True))
            redis_urls = {name: self._path.url if name == "c" else server.url for name in NAMES}
            self.nodes = {
                name: node_program(name, self.ports[name], redis_urls[name], self._directory, self._lease_s)
                for name in NAMES
            }
            self._balancers = [
                haproxy_program(haproxy, self.ports, self._directory),
                nginx_program(nginx, self.ports, self._directory),
            ]
            for program in (*self.nodes.values(), *self._balancers):
                stack.callback(program.stop)
                program.start()
            self.urls = {"haproxy": [f"http://127.0.0.1:{haproxy}"], "nginx": [f"http://127.0.0.1:{nginx}"]}
            self.urls["direct"] = [f"http://127.0.0.1:{port}" for port in ports]
            self._settled()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def clients(self) -> Iterator[list[Client]]:
        """Write and read by all ways meanwhile."""
        clients = [Client(name, urls, promises=name == "haproxy") for name, urls in self.urls.items()]
        for client in clients:
            client.start()
        try:
            until(lambda: all(client.record.acknowledged for client in clients), "a first write by every way")
            yield clients
        finally:
            for client in clients:
                client.stop()

    def befall(self, fault: str, clients: Sequence[Client]) -> None:
        """One fault, to the end; then one node leads again, and the others follow."""
        leader = self._settled()
        before, since = self.log.look().term, time.monotonic()
        getattr(self, f"_{fault}")(leader)
        until(lambda: self.log.look().term > before, "another term")
        seen = time.monotonic()
        until(lambda: all(each.record.acknowledged[-1].at > seen for each in clients), "writes by every way")
        if fault == "pause":
            self.nodes[leader].signal(signal.SIGCONT)
        if fault == "kill":
            self.nodes[leader].start()
        self._settled()
        gaps = {client.record.name: client.record.gap_s(since, time.monotonic()) for client in clients}
        for name, gap_s in gaps.items():
            self.gaps_s.setdefault((fault, name), []).append(gap_s)
        self._say(f"{fault:10} {', '.join(f'{name} {gap_s:.2f} s' for name, gap_s in gaps.items())}")

    def keep_from_redis(self) -> None:
        """A standby whose Redis hangs: it does not know what it lacks, and must not be read for ever."""
        if self._settled() == "c":
            self._switchover("c")
            self._settled()
        self._path.stall()
        time.sleep(HANGS_S)
        self._path.cut()
        self._path.go()
        self._settled()

    def judged(self, clients: Sequence[Client]) -> list[str]:
        """What must not be, in words; and nothing else."""
        wrong = [f"{client.record.name}: {each}" for client in clients for each in client.record.wrong]
        there = self._hostnames()
        for client in clients:
            for each in client.record.acknowledged:
                if there.get(each.hostname) != [each.id]:
                    wrong.append(f"{each} is there as {there.get(each.hostname)}")
        return wrong

    def _hostnames(self) -> dict[str, list[int]]:
        """All that is in the state, of the primary: under which ids each host name is registered."""
        found: dict[str, list[int]] = {}
        url, after = f"http://127.0.0.1:{self.ports[self._settled()]}/v1/nodes", ""
        while True:
            answer = plain_http.get(f"{url}?limit=1000{after}", headers={"Replicator-Fresh": "1"}, timeout=PATIENCE_S)
            page = answer.raise_for_status().json()
            for id_, node in page["nodes"].items() if isinstance(page["nodes"], dict) else ():
                found.setdefault(node["hostname"], []).append(int(id_))
            for node in page["nodes"] if isinstance(page["nodes"], list) else ():
                found.setdefault(node["hostname"], []).append(node["id"])
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"

    # --- faults ---

    def _kill(self, leader: str) -> None:
        self.nodes[leader].kill()

    def _pause(self, leader: str) -> None:
        self.nodes[leader].signal(signal.SIGSTOP)

    def _switchover(self, leader: str) -> None:
        (other,) = [name for name in NAMES if name not in (leader, "c")] if leader != "c" else ["a"]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                ops.switchover(self.log, other, by="test", timeout_s=PATIENCE_S)
                return
            except (ReplicatorError, TimeoutError):  # on a busy machine the group may change in the very moment
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def _settled(self) -> str:
        """Wait until one node leads and all others follow; the name of the one that leads."""
        leaders: list[str] = []

        def settled() -> bool:
            leaders.clear()
            for name, port in self.ports.items():
                try:
                    probed = plain_http.get(f"http://127.0.0.1:{port}/primary", timeout=ATTEMPT_S)
                    ready = plain_http.get(f"http://127.0.0.1:{port}/ready", timeout=ATTEMPT_S)
                except httpx.HTTPError:
                    return False
                if ready.status_code != 200:
                    return False
                if probed.status_code == 200:
                    leaders.append(name)
            return len(leaders) == 1

        until(settled, f"one leads, and the others follow (the logs are in {self._directory})")
        return leaders[0]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(POLL_S)


def are_installed() -> bool:
    return shutil.which("haproxy") is not None and shutil.which("nginx") is not None


def run(directory: Path, *, rounds: int, lease_s: float, say: Callable[[str], None]) -> list[str]:
    """Play it; what must not be."""
    with Story(directory, lease_s=lease_s, say=say) as story:
        with story.clients() as clients:
            story.keep_from_redis()
            for fault in FAULTS * rounds:
                story.befall(fault, clients)
        wrong = story.judged(clients)
        for record in (client.record for client in clients):
            counts = f"{len(record.acknowledged)} writes, {record.reads} reads, {record.unanswered} reads unanswered"
            say(f"{record.name}: {counts}")
    say("")
    say(f"{'longest gap, median':22}{''.join(f'{name:>12}' for name in story.urls)}")
    for fault in FAULTS:
        gaps = "".join(f"{median(story.gaps_s[fault, name]):10.2f} s" for name in story.urls)
        say(f"{fault:22}{gaps}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="Faults of the primary, seen through load balancers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lease", type=float, default=5.0)
    given = parser.parse_args()
    if not are_installed():
        sys.exit("haproxy and nginx have to be installed")
    with tempfile.TemporaryDirectory(prefix="replicator-lb-") as directory:
        wrong = run(Path(directory), rounds=given.rounds, lease_s=given.lease, say=print)
    if wrong:
        sys.exit("\n".join(["", "this must not be:", *wrong[:50]]))
    print("\nnothing was lost, nothing doubled, and nothing was staler than promised")


if __name__ == "__main__":
    main()
