"""The Redis of a run: one server behind a proxy for each node, or servers under Sentinel. Each can be made to fail.

`Redis` is what the harness needs of either. A fault is begun by name, and gives back what ends it.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from replicator.errors import ReplicatorError
from replicator.log.redis_log import RedisLog
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.support.topology import ClusterTopology, SentinelTopology, Topology, ask

from .checker import Event, Setting
from .schedule import Fault, Kind, kinds_for

GROUP = "chaos"

#: Servers answer us directly, at once or not at all.
TIMEOUT_S = 2.0

#: Sentinel takes some seconds to find another master. If nobody is one for so long after all faults, it never will.
SENTINEL_STUCK_S = 20.0

#: How long servers that were all healed may take to agree on who is the master.
AGREE_S = 30.0

#: A node sends something in this time.
HELD_BEFORE_CUT_S = 0.1

Undo = Callable[[], None]


class Redis(Protocol):
    """What nodes keep their log in. `events`: what happened to it that may lose something."""

    name: str
    setting: Setting
    events: list[Event]

    def start(self, nodes: Sequence[str]) -> None: ...

    def close(self) -> None: ...

    def url_for(self, node: str) -> str: ...

    def within(self, node: str) -> Sequence[str]:
        """The command that runs a node's process on its host; empty: on this one."""
        ...

    def kinds(self, *, disks: bool) -> dict[str, Kind]:
        """What can be done to it. `disks`: those of nodes can be filled."""
        ...

    def open_log(self) -> RedisLog: ...

    def begin(self, fault: Fault, node: str) -> Undo: ...

    def heal(self) -> None:
        """End every fault, and start what is dead."""
        ...

    def watch(self) -> None:
        """Called often: see whether something happened that nobody did."""
        ...

    def finish(self) -> None:
        """Note what is not over yet: the run ends."""
        ...


#: What undoes every rule that a run took away.
ALLOW_ALL = ("ACL", "SETUSER", "default", "+@all")


class SteppedServer(RedisServer):
    """One whose clock can be set: libfaketime reads how far it is off, again and again, from a file."""

    def step(self, seconds: int) -> None:
        """Put its clock that far before (below 0) or after that of the machine."""
        offset = self.data_dir / "clock"
        draft = offset.with_suffix(".draft")
        draft.write_text(f"{seconds:+d}")
        draft.rename(offset)

    def _spawn(self) -> None:
        if not (self.data_dir / "clock").exists():
            self.step(0)
        library = faketime()
        assert library is not None
        before = {name: os.environ.get(name) for name in ("LD_PRELOAD", *_FAKETIME)}
        settings = {**_FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(self.data_dir / "clock"), "LD_PRELOAD": str(library)}
        os.environ.update(settings)
        try:
            super()._spawn()
        finally:
            for name in settings:
                os.environ.pop(name, None)
            os.environ.update({name: value for name, value in before.items() if value is not None})


#: Monotonic time goes on as it does: only what Redis calls the time of day steps.
_FAKETIME = {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_TIMESTAMP_FILE": ""}


@functools.cache
def faketime() -> Path | None:
    """The library that sets clocks (Debian: faketime), if it is there."""
    return next((path for path in map(Path, sorted(glob.glob(FAKETIME_AT))) if path.is_file()), None)


FAKETIME_AT = "/usr/lib/*/faketime/libfaketime.so.1"


@functools.cache
def steps_clocks(binary: ServerBinary) -> bool:
    """Whether the clock of that server can be set: it may be linked in a way that libfaketime does not reach."""
    if faketime() is None:
        return False
    with tempfile.TemporaryDirectory(prefix="clock-") as place:
        server = SteppedServer(place, binary=binary)
        server.data_dir.mkdir(exist_ok=True)
        server.step(-3600)
        try:
            with server, redis_py.Redis.from_url(server.url) as client:
                return time.time() - client.time()[0] > 1800
        except ReplicatorError:
            return False


class OneRedis:
    """One server. Each node reaches it through a proxy of its own."""

    def __init__(self, directory: Path, binary: ServerBinary, *, aof: str) -> None:
        self.name = f"{binary.id}:{aof}"
        self.setting = Setting(aof=aof)
        self.events: list[Event] = []
        self.server: RedisServer = (
            SteppedServer(directory / "redis", binary=binary, config={"appendfsync": aof})
            if steps_clocks(binary)
            else RedisServer(directory / "redis", binary=binary, config={"appendfsync": aof})
        )
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

    def within(self, node: str) -> Sequence[str]:
        return ()

    def kinds(self, *, disks: bool) -> dict[str, Kind]:
        return kinds_for(aof=self.setting.aof, clock=isinstance(self.server, SteppedServer), disks=disks)

    def open_log(self) -> RedisLog:
        return RedisLog(self.server.url, GROUP, timeout_s=TIMEOUT_S)

    def begin(self, fault: Fault, node: str) -> Undo:
        if fault.kind == "kill-redis":
            return self._kill()
        if fault.kind == "pause-redis":
            return self._pause()
        if fault.kind == "power-cut":
            return self.roll_back()
        if fault.kind == "clock-step":
            return self._step_clock(int(fault.option))
        if fault.kind == "full-memory":
            return self._configured(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))
        if fault.kind == "acl":
            return self._configured(("ACL", "SETUSER", "default", fault.option), ALLOW_ALL)
        return _on_link(self.proxies[node], fault)

    def _step_clock(self, seconds: int) -> Undo:
        assert isinstance(self.server, SteppedServer)
        self.server.step(seconds)
        return partial(self.server.step, 0)

    def _configured(self, set_: Sequence[str], back: Sequence[str]) -> Undo:
        # A server that is dead or hangs at that moment comes back as it was configured at the start.
        self._tell(set_)
        return lambda: self._tell(back)

    def _tell(self, command: Sequence[str]) -> Any:
        """What it says to that; None if it is dead, hangs, or refuses."""
        with (
            contextlib.suppress(redis_py.exceptions.RedisError),
            redis_py.Redis.from_url(self.server.url, socket_timeout=0.5, retry=Retry(NoBackoff(), 0)) as client,
        ):
            return client.execute_command(*command)
        return None

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
        self._write_out()
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

    def _write_out(self) -> None:
        """Wait until the AOF has what Redis acknowledged before: with `everysec` it waits for a disk that is busy."""
        deadline = time.monotonic() + AGREE_S
        while time.monotonic() < deadline:
            told = self._tell(("INFO", "persistence")) or {}
            if not told.get("aof_buffer_length"):
                return
            time.sleep(0.01)

    def heal(self) -> None:
        self._resume()
        self.server.start()
        if isinstance(self.server, SteppedServer):
            self.server.step(0)
        self._tell(("CONFIG", "SET", "maxmemory", "0"))
        self._tell(ALLOW_ALL)
        for proxy in self.proxies.values():
            _heal_link(proxy)

    def watch(self) -> None:
        pass

    def finish(self) -> None:
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


class ReplicatedRedis:
    """Servers that replace a master of theirs that is gone. Nodes find the master by themselves: there are no proxies.

    `data_servers`: the servers that have the group's keys, the first of which is their master at the start.
    """

    def __init__(self, name: str, topology: Topology, data_servers: Sequence[RedisServer]) -> None:
        self.name = name
        self.setting = Setting(aof="everysec", replicas=len(data_servers) - 1)
        self.events: list[Event] = []
        self.topology = topology
        self.data_servers = list(data_servers)
        #: Whether the servers agreed on who is the master when they were last asked, and since when they may not.
        self._agreed = True
        self._agreed_at = 0
        self._master = self.data_servers[0].url

    def start(self, nodes: Sequence[str]) -> None:
        self.topology.start()

    def close(self) -> None:
        self.topology.stop()

    @property
    def url(self) -> str:
        raise NotImplementedError

    def url_for(self, node: str) -> str:
        return self.url

    def within(self, node: str) -> Sequence[str]:
        return ()

    def kinds(self, *, disks: bool) -> dict[str, Kind]:
        return kinds_for(aof=self.setting.aof, replicas=self.setting.replicas, sentinels=False, disks=disks)

    def open_log(self) -> RedisLog:
        return RedisLog(self.url, GROUP, timeout_s=TIMEOUT_S)

    def begin(self, fault: Fault, node: str) -> Undo:
        master = self._current()
        replicas = [server for server in self.data_servers if server is not master]
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
        self._agreed = False

    def heal(self) -> None:
        for server in self.topology.servers:
            if server.alive:
                server.resume()
            server.start()

    def watch(self) -> None:
        """A failover lasts from when all servers agreed last until they do again, the old master as a replica.

        It may have begun before a fault, and before it is seen: a sentinel takes a busy master for dead.
        """
        asked_at = time.monotonic_ns()
        roles = [_role_of(server) for server in self.data_servers]
        masters = [server.url for server, role in zip(self.data_servers, roles, strict=True) if role == "master"]
        if None in roles or len(masters) != 1:
            self._dispute()
            return
        if masters[0] != self._master:
            self.events.append(Event(kind="failover", began=self._agreed_at, ended=time.monotonic_ns()))
            self._master = masters[0]
        self._agreed, self._agreed_at = True, asked_at

    def finish(self) -> None:
        """Wait until the servers agree. If they never do, nobody knows what they lost since they last did."""
        deadline = time.monotonic() + AGREE_S
        while not self._agreed and time.monotonic() < deadline:
            time.sleep(0.1)
        if not self._agreed:
            self.events.append(Event(kind="failover", began=self._agreed_at, ended=time.monotonic_ns()))

    def _current(self) -> RedisServer:
        return next(server for server in self.data_servers if server.url == self._master)


class WatchedRedis(ReplicatedRedis):
    """Servers that `sentinels` watch, which can fail as well."""

    def __init__(
        self, name: str, topology: Topology, data_servers: Sequence[RedisServer], sentinels: Sequence[RedisServer]
    ) -> None:
        super().__init__(name, topology, data_servers)
        self.sentinels = list(sentinels)

    def kinds(self, *, disks: bool) -> dict[str, Kind]:
        return kinds_for(aof=self.setting.aof, replicas=self.setting.replicas, disks=disks)

    def begin(self, fault: Fault, node: str) -> Undo:
        sentinel = self.sentinels[fault.pick % len(self.sentinels)]
        if fault.kind == "pause-sentinel":
            return _paused([sentinel])
        if fault.kind == "kill-sentinel":
            sentinel.kill()
            return lambda: _start(sentinel)
        return super().begin(fault, node)

    def heal(self) -> None:
        super().heal()
        for sentinel in self.sentinels:
            if sentinel.alive:
                sentinel.resume()
            sentinel.start()


def _start(server: RedisServer) -> None:
    server.start()


class SentinelRedis(WatchedRedis):
    """One master, two replicas, three sentinels."""

    def __init__(self, directory: Path, binary: ServerBinary, *, replicas: int = 2) -> None:
        topology = SentinelTopology(directory, binary, replicas=replicas, sentinels=3)
        super().__init__(f"sentinel:{binary.id}", topology, topology.servers, topology.sentinels)
        self._url = topology.url

    @property
    def url(self) -> str:
        return self._url

    def heal(self) -> None:
        """Start everything. If Sentinel has brought itself to a stop, do what its operator would have to do.

        After many failovers in a row all servers may be replicas, also the one that is said to be the master, and every
        sentinel gives up for want of "a good slave", again and again: nobody but a person ends that.
        """
        super().heal()
        deadline = time.monotonic() + SENTINEL_STUCK_S
        while all(_role_of(server) != "master" for server in self.data_servers):
            if time.monotonic() > deadline:
                ask(self.topology.master, "REPLICAOF", "NO", "ONE")
                return
            time.sleep(0.1)


class ClusterRedis(ReplicatedRedis):
    """A cluster of three masters, the first of which, with two replicas, has the group's slot."""

    def __init__(self, directory: Path, binary: ServerBinary) -> None:
        key = f"replicator:{{{GROUP}}}:log"
        self.cluster = ClusterTopology(directory, binary, replicas=2, first_key=key)
        first, *others = self.cluster.servers
        super().__init__(f"cluster:{binary.id}", self.cluster, [first, *others[2:]])

    @property
    def url(self) -> str:
        return self.cluster.url


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
        redis_py.Redis.from_url(server.url, socket_timeout=0.3, retry=Retry(NoBackoff(), 0)) as client,
    ):
        return str(client.info("replication")["role"])
    return None
