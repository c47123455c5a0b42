"""A group in which an incident of the handbook is played: a real Redis, nodes with their HTTP, and a keyboard.

Most nodes are in the process of the test, each behind a proxy that can cut it off; one that is killed or stopped is a
process of `replicator node`. Commands are given as on the page. Groups, names and addresses are those of the page.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from click.testing import CliRunner

from replicator import Node, ops
from replicator.cli import cli
from replicator.log.redis_log import RedisLog
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import RedisServer
from replicator.web.server import WebServer

from .alerts import Scrape, firing
from .handbook import Section, Shown
from .kv import PATIENCE_S, eventually
from .needs import needs

__all__ = ["GROUP", "LEASE_S", "Incident"]

GROUP = "registry"

#: Short enough to be waited for, long enough that a busy machine does not lose it.
LEASE_S = 3.0

#: What the page calls it.
REDIS = "redis://redis.internal:6379/0"

#: How long a process takes to start on a machine that is busy.
STARTS_S = 180.0

PROGRAM = "from replicator.cli import main; main()"


class Process:
    """`replicator node`, which ends with the test; its log is a file of JSON."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self._command, self._log, self._environment = command, log, environment
        self.start()

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
        environment |= {"REPLICATOR_LOG_FORMAT": "json", "REPLICATOR_CONFIG": os.devnull} | self._environment
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.kill()


class Incident:
    """One group, and the section of the handbook that is played on it. Ends with its context."""

    def __init__(self, title: str, server: RedisServer, directory: Path, name: str = GROUP) -> None:
        self.server, self.directory, self.name = server, directory, name
        self.nodes: dict[str, Node[Any]] = {}
        self._dead: set[str] = set()
        self._well: Scrape = {}
        self.proxies: dict[str, Proxy] = {}
        self.urls: dict[str, str] = {}
        self.shown = Shown({server.url: REDIS, str(directory): "/var/lib/replicator"})
        self.events: set[str] = set()
        self._logs: list[Path] = []
        self._stack = ExitStack()
        self.section = Section(title, self.run)
        self.shows, self.does = self.section.shows, self.section.does

    def is_over(self, until: str) -> None:
        """Who takes writes again, and that there is no problem."""
        self.shows('replicator status | grep -E "writes|^PROBLEM"', until)

    def __enter__(self) -> Incident:
        listener = _Listener(self.events)
        logger = logging.getLogger("replicator")
        logger.addHandler(listener)
        logger.setLevel(logging.INFO)
        self._stack.callback(logger.removeHandler, listener)
        self.proxy("cli")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.section.end(lambda: self.events | {event for log in self._logs for event in _events_in(log)})
        finally:
            self._stack.close()

    def at_end(self, call: Callable[[], object]) -> None:
        """When all that was started since is over."""
        self._stack.callback(call)

    # --- who is there ---

    def node(self, name: str, *, hangs: bool = False, **options: Any) -> Any:
        """A node in this process, which serves HTTP; if it `hangs`, an event loop that it is in."""
        options = {"lease_s": LEASE_S, "group": self.name, **options}
        node: Node[Any] = Node(
            Registry(), name=name, redis=self.proxy(name).url, data_dir=self.directory / name, **options
        )
        server = self._stack.enter_context(WebServer(registry_app(node)))
        self._serves(name, server.url)
        node.http = server.url
        if hangs:
            loop = Loop(node)
            self._stack.callback(loop.end)
            return loop
        node.start()
        self.nodes[name] = node
        self._stack.callback(node.stop)
        return node

    def stop(self, name: str) -> None:
        self.nodes[name].stop()

    def forks(self, name: str) -> int:
        """How many forks that node has kept."""
        return len(list((self.directory / name / "forks").glob("*.sqlite")))

    def spoil(self, name: str) -> None:
        """Something changes the state of that node past the log."""
        with self.nodes[name].reading() as state:
            state.apply({"op": "register", "owner": "nobody", "hostname": "by-hand"})

    def process(self, name: str, *options: str, environment: dict[str, str] | None = None) -> Process:
        """A node in a process of its own, which starts meanwhile."""
        port = free_port()
        command = [sys.executable, "-c", PROGRAM, "--redis", self.proxy(name).url, "--group", self.name, "node"]
        command += ["--name", name, "--data-dir", str(self.directory / name), "--lease-s", str(LEASE_S)]
        command += ["--http", f"127.0.0.1:{port}", *options]
        self._logs.append(self.directory / f"{name}.log")
        self._serves(name, f"http://127.0.0.1:{port}")
        process = Process(command, self._logs[-1], environment or {})
        self._stack.callback(process.close)
        return process

    def group(self, a: Any = None, **standbys: dict[str, Any]) -> None:
        """`a` leads, and the others follow. `a`: a process, if it is one. Of each node in this process, its options."""
        if not isinstance(a, Process | Loop):
            self.node("a", **(a or {}))
        with self.log() as log:
            eventually(lambda: "a" in log.look().heartbeats, patience_s=STARTS_S)
            ops.promote(log, "a", by="ops", timeout_s=STARTS_S)
        for name in "bc":
            self.node(name, **standbys.get(name, {}))
        self.settle()
        self._well = self.scrape()

    def settle(self, *, term: int = 0) -> None:
        """Wait until all nodes have all of the log, in that term or a later one, and know that the others have."""
        with self.log() as log:

            def is_settled() -> bool:
                status = ops.status(log)
                told = {node.position for node in status.nodes} | {status.last_id}
                well = len(status.nodes) >= 3 and all(node.ready for node in status.nodes)
                return well and len(told) == 1 and status.term >= term

            eventually(is_settled, "all are in step", patience_s=STARTS_S)

    def leads(self, name: str) -> None:
        """Wait until that node takes writes."""
        with self.log() as log:
            eventually(lambda: name in _writers(ops.status(log)), f"{name} leads", patience_s=STARTS_S)

    def register(self, name: str, hostname: str) -> None:
        """A write, over HTTP."""
        body = json.dumps({"owner": "test", "hostname": hostname}).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.urls[name]}/v1/nodes", body, headers), timeout=PATIENCE_S
        ):
            pass

    def proxy(self, name: str) -> Proxy:
        """Between that node and Redis."""
        if name not in self.proxies:
            target = self.server.socket_path or self.server.port
            assert target is not None
            self.proxies[name] = self._stack.enter_context(Proxy(target))
            self.shown.names[self.proxies[name].url] = REDIS
            self.shown.names[f"127.0.0.1:{self.proxies[name].port}"] = "redis.internal:6379"
        return self.proxies[name]

    def gone(self, *names: str) -> None:
        """For all that others see, these nodes are dead: they report no more, and answer nobody."""
        for name in names:
            self.cut_off(name)
        self._dead |= set(names)

    def cut_off(self, name: str) -> None:
        self.proxies[name].refuse()
        self.proxies[name].cut()

    def reconnect(self, *names: str) -> None:
        for name in names:
            self.proxies[name].accept()
        self._dead -= set(names)

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """Meanwhile these nodes are cut off: what happens is not decided by which node is the first."""
        for name in names:
            self.cut_off(name)
        yield
        self.reconnect(*names)

    def kill_redis(self) -> None:
        """`kill -9` of Redis: nobody listens there any more."""
        self.server.kill()
        for name in self.proxies:
            self.cut_off(name)

    def start_redis(self) -> None:
        self.server.start()
        for name in self.proxies:
            self.reconnect(name)

    def fail_over(self, replica: RedisServer, *, losing: Callable[[], None]) -> None:
        """The master dies, and this replica takes its place, which has not got the last thing that was written."""
        with redis.Redis.from_url(replica.url) as client:
            eventually(lambda: client.info("replication").get("master_link_status") == "up", patience_s=STARTS_S)
            offset = "master_repl_offset"
            with self.admin() as master:
                eventually(lambda: client.info("replication")[offset] == master.info("replication")[offset])
            client.replicaof("NO", "ONE")
        losing()
        self.settle()
        self.server.kill()
        self.server = replica
        for proxy in self.proxies.values():
            assert replica.socket_path is not None
            proxy.lead_to(replica.socket_path)

    def log(self) -> Any:
        return _Closing(RedisLog(self.server.url, self.name))

    def admin(self) -> Any:
        """A client of Redis itself."""
        return redis.Redis.from_url(self.server.url)

    def _serves(self, name: str, url: str) -> None:
        self.urls[name] = url
        self.shown.names[url] = f"http://{name}.internal:8001"

    # --- the keyboard ---

    def run(self, command: str) -> str:
        """What a command says, as the page shows it."""
        first, *pipes = self.shown.real(command).split(" | ", 1)
        word, *args = shlex.split(first)
        if word == "replicator" and args[0] != "node":
            said, errors = self._replicator(args, piped=bool(pipes))
        else:
            needs(word == "replicator" or shutil.which(word) is not None, word)
            said, errors = self._bash(first, None)
        if pipes:
            said, more = self._bash(pipes[0], said)
            errors += more
        return self.shown.of(said + errors)

    def _replicator(self, args: list[str], *, piped: bool) -> tuple[str, str]:
        given = [] if "--group" in args else ["--group", self.name]
        told = CliRunner().invoke(cli, ["--redis", self.proxy("cli").url, "--log-level", "ERROR", *given, *args])
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        return (told.stdout, told.stderr) if piped else (told.output, "")

    def _bash(self, line: str, given: str | None) -> tuple[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
        environment |= {"REPLICATOR_REDIS": self.proxy("cli").url, "REPLICATOR_GROUP": self.name}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line], input=given, capture_output=True, text=True, cwd=self.directory, env=environment,
            check=False, timeout=PATIENCE_S * 3,
        )  # fmt: skip
        return done.stdout, done.stderr

    # --- what Prometheus sees ---

    def alerts(self) -> None:
        """Those that the section names are those that fire, while things are as they are now."""
        self.section.alerts(lambda: firing(self._well, self.scrape(), self.directory))

    def scrape(self) -> Scrape:
        """All samples of the nodes that answer, by how Prometheus writes them."""
        found: Scrape = {}
        for url in (url for name, url in self.urls.items() if name not in self._dead):
            with suppress(OSError), urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
                found |= _samples(answer.read().decode())
        return found


class Loop:
    """An event loop, on a thread, with a node in it that was started."""

    def __init__(self, node: Node[Any]) -> None:
        self._node, self._mended, self._ends = node, threading.Event(), asyncio.Event()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        assert self._started.wait(STARTS_S)

    async def _run(self) -> None:
        async with self._node:
            self._started.set()
            await self._ends.wait()

    def hang(self) -> None:
        """From now on it turns no more, as in a call that blocks."""
        self._loop.call_soon_threadsafe(self._mended.wait)

    def turn(self) -> None:
        self._mended.set()

    def end(self) -> None:
        self.turn()
        self._loop.call_soon_threadsafe(self._ends.set)
        self._thread.join()
        self._loop.close()


def _writers(status: ops.Status) -> set[str]:
    return {node.node for node in status.nodes if node.leads}


class _Listener(logging.Handler):
    def __init__(self, events: set[str]) -> None:
        super().__init__(logging.DEBUG)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.add(getattr(record, "event", ""))


class _Closing:
    def __init__(self, log: RedisLog) -> None:
        self._log = log

    def __enter__(self) -> RedisLog:
        return self._log

    def __exit__(self, *_: object) -> None:
        self._log.close()


def _events_in(log: Path) -> set[str]:
    return set(re.findall(r'"event":"([\w.]+)"', log.read_text()))


def _samples(text: str) -> Scrape:
    found: Scrape = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found
