"""The Redis of a run: one server behind a proxy for each node, or servers under Sentinel. Each can be made to fail.

`Redis` is what the harness needs of either. A fault is begun by name, and gives back what ends it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from replicator.log import RedisLog
from replicator.proxy import Proxy
from replicator.redis_server import RedisServer, ServerBinary
from tests.topology import SentinelTopology

from .checker import Event, Setting
from .schedule import Fault

GROUP = "chaos"

#: Servers answer us directly, at once or not at all.
TIMEOUT_S = 2.0

#: A node sends something in this time.
HELD_BEFORE_CUT_S = 0.1

Undo = Callable[[], None]


class Redis(Protocol):
    """What nodes keep their log in. `events`: what happened to it that may lose something."""

    name: str
    setting: Setting
    replicated: bool
    events: list[Event]

    def start(self, nodes: Sequence[str]) -> None: ...

    def close(self) -> None: ...

    def url_for(self, node: str) -> str: ...

    def open_log(self) -> RedisLog: ...

    def begin(self, fault: Fault, node: str) -> Undo: ...

    def heal(self) -> None:
        """End every fault, and start what is dead."""
        ...

    def watch(self) -> None:
        """Called often: see whether something happened that nobody did."""
        ...


class OneRedis:
    """One server. Each node reaches it through a proxy of its own."""

    replicated = False

    def __init__(self, directory: Path, binary: ServerBinary, *, aof: str) -> None:
        self.name = f"{binary.id}:{aof}"
        self.setting = Setting(aof=aof)
        self.events: list[Event] = []
        self.server = RedisServer(directory / "redis", binary=binary, config={"appendfsync": aof})
        self.proxies: dict[str, Proxy] = {}

    def start(self, nodes: Sequence[str]) -> None:
        self.server.start()
        assert self.server.socket_path is not None
        for node in nodes:
            self.proxies[node] = Proxy(self.server.socket_path)

    def close(self) -> None:
        self.server.kill()
        for proxy in self.proxies.values():
            proxy.close()

    def url_for(self, node: str) -> str:
        return self.proxies[node].url

    def open_log(self) -> RedisLog:
        return RedisLog(self.server.url, GROUP, timeout_s=TIMEOUT_S)

    def begin(self, fault: Fault, node: str) -> Undo:
        if fault.kind == "kill-redis":
            return self._kill()
        if fault.kind == "pause-redis":
            return self._pause()
        if fault.kind == "power-cut":
            return self.roll_back()
        return _on_link(self.proxies[node], fault)

    def _kill(self) -> Undo:
        began = time.monotonic_ns()
        self.server.kill()

        def undo() -> None:
            self.server.start()
            self.events.append(Event(kind="kill-redis", began=began, ended=time.monotonic_ns()))

        return undo

    def _pause(self) -> Undo:
        if self.server.alive:
            self.server.pause()
        return self._resume

    def _resume(self) -> None:
        if self.server.alive:
            self.server.resume()

    def roll_back(self, *, while_down: Callable[[], None] = lambda: None) -> Undo:
        """What ends this brings Redis back as it is now: as after a power cut, or a failover to a copy that lags.

        `while_down`: called in between.
        """
        began = time.monotonic_ns()
        copy = self.server.data_dir.with_name(f"copy-{began}")
        self._pause()
        shutil.copytree(self.server.data_dir, copy, ignore=shutil.ignore_patterns("*.sock", "*.log"))
        self._resume()

        def undo() -> None:
            self.server.kill()
            for place in copy.iterdir():
                _replace(self.server.data_dir / place.name, place)
            while_down()
            self.server.start()
            self.events.append(Event(kind="power-cut", began=began, ended=time.monotonic_ns()))

        return undo

    def heal(self) -> None:
        self._resume()
        self.server.start()
        for proxy in self.proxies.values():
            _heal_link(proxy)

    def watch(self) -> None:
        pass


def _replace(old: Path, new: Path) -> None:
    if old.is_dir():
        shutil.rmtree(old)
    new.rename(old)


def _on_link(proxy: Proxy, fault: Fault) -> Undo:
    """Begin a fault of one node's connections."""
    if fault.kind == "cut":
        proxy.refuse()
        proxy.cut()
        return proxy.accept
    if fault.kind == "stall":
        proxy.stall("requests" if fault.option == "requests" else "replies")
        return proxy.go
    if fault.kind == "lose-reply":
        proxy.drop_reply_after(int(fault.option), matching=b"EVALSHA")
        return _nothing
    if fault.kind == "hold":
        proxy.hold_requests(matching=b"EVALSHA")
        if fault.option == "cut":
            # What the node sent stays on its way, and is executed when the node has long given it up.
            time.sleep(min(HELD_BEFORE_CUT_S, fault.seconds))
            proxy.cut()
        return proxy.release_requests
    assert fault.kind == "delay", fault
    proxy.delay(float(fault.option))
    return lambda: proxy.delay(0)


def _heal_link(proxy: Proxy) -> None:
    proxy.release_requests()
    proxy.delay(0)
    proxy.go()
    proxy.accept()


def _nothing() -> None:
    pass


class SentinelRedis:
    """One master, two replicas, three sentinels. Nodes find the master by themselves, so there are no proxies."""

    replicated = True

    def __init__(self, directory: Path, binary: ServerBinary, *, replicas: int = 2) -> None:
        self.name = f"sentinel:{binary.id}"
        self.setting = Setting(aof="everysec", replicas=replicas)
        self.events: list[Event] = []
        self.topology = SentinelTopology(directory, binary, replicas=replicas, sentinels=3)
        #: Since when the servers may disagree on who is the master, and whether they agreed when they were last asked.
        self._disputed_since = 0
        self._agreed = True
        self._master: int | None = None

    def start(self, nodes: Sequence[str]) -> None:
        self.topology.start()
        self._master = self.topology.master.port

    def close(self) -> None:
        self.topology.stop()

    def url_for(self, node: str) -> str:
        return self.topology.url

    def open_log(self) -> RedisLog:
        return RedisLog(self.topology.url, GROUP, timeout_s=TIMEOUT_S)

    def begin(self, fault: Fault, node: str) -> Undo:
        master = self._current()
        replicas = [server for server in self.topology.servers if server is not master]
        if fault.kind == "pause-replica":
            return _paused([replicas[fault.pick % len(replicas)]])
        self._dispute()
        if fault.kind == "pause-master":
            return _paused([master])
        if fault.kind == "lagging-failover":
            # The master goes on alone for a moment, and what it takes then is nowhere else.
            resume = _paused(replicas)
            time.sleep(float(fault.option))
            undo = _paused([master])
            resume()
            return undo
        assert fault.kind == "kill-master", fault
        return self._killed(master)

    def _killed(self, server: RedisServer) -> Undo:
        began = time.monotonic_ns()
        server.kill()

        def undo() -> None:
            server.start()
            self.events.append(Event(kind="kill-redis", began=began, ended=time.monotonic_ns()))

        return undo

    def _dispute(self) -> None:
        if self._agreed:
            self._agreed, self._disputed_since = False, time.monotonic_ns()

    def heal(self) -> None:
        for server in (*self.topology.servers, *self.topology.sentinels):
            if server.alive:
                server.resume()
            server.start()

    def watch(self) -> None:
        """A failover lasts from the fault on until all servers agree again, the old master as a replica."""
        roles = [_role_of(server) for server in self.topology.servers]
        masters = [server.port for server, role in zip(self.topology.servers, roles, strict=True) if role == "master"]
        if None in roles or len(masters) != 1:
            self._dispute()
            return
        if masters[0] != self._master:
            self.events.append(Event(kind="failover", began=self._disputed_since, ended=time.monotonic_ns()))
            self._master = masters[0]
        self._agreed = True

    def _current(self) -> RedisServer:
        return self.topology.at(self._master or 0)


def _paused(servers: Sequence[RedisServer]) -> Undo:
    paused = [server for server in servers if server.alive]
    for server in paused:
        server.pause()

    def resume() -> None:
        for server in paused:
            if server.alive:
                server.resume()

    return resume


def _role_of(server: RedisServer) -> str | None:
    """What a server takes itself for; None if it does not answer."""
    with (
        contextlib.suppress(redis_py.exceptions.RedisError),
        redis_py.Redis(port=server.port or 0, socket_timeout=0.3, retry=Retry(NoBackoff(), 0)) as client,
    ):
        return str(client.info("replication")["role"])
    return None
