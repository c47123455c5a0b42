"""Others that fail over, to compare with: a group of PySyncObj, and Redis with Sentinel. Both on loopback ports.

PySyncObj is a Raft in Python: three processes, memory only, as it comes. Sentinel is what Redis itself offers: a
master, two replicas, three sentinels. Neither does the same work as a node does (the one has no disk, the other one
no fence and no state of an application), so they are here for the time alone.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import redis
from redis.sentinel import Sentinel

from bench.harness import Child, heard, now_ns, plain_client, wait_until
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import Directives, RedisServer, find_server

__all__ = ["SENTINEL_DOWN_AFTER_MS", "SentinelGroup", "SyncObjGroup", "syncobj_version"]

#: What is waited for in a group that starts, or that fails over, does not come after this.
PATIENCE_S = 60.0

#: PySyncObj keeps a command until there is a leader: one could do, but it may have been sent to the dead one.
COMMAND_EVERY_S = 0.005

#: How long a sentinel waits for an answer before it takes a server for dead.
SENTINEL_DOWN_AFTER_MS = 1000

#: What the sentinels call the master.
SERVICE = "main"

#: A client of Sentinel tries this often.
TRY_EVERY_S = 0.002


# --- PySyncObj --------------------------------------------------------------------------------------------------------


def syncobj_version() -> str | None:
    """The version of PySyncObj that is installed, if it is."""
    try:
        return metadata.version("pysyncobj")
    except metadata.PackageNotFoundError:
        return None


class SyncObjGroup:
    """Three processes, one of which leads. `options` are those of `SyncObjConf`; `work` is what each of them does."""

    def __init__(self, options: Mapping[str, float], work: Callable[..., None] | None = None) -> None:
        # Each connects to those before it, and tries again after 5 s only: so they start in this order.
        addresses = sorted(f"127.0.0.1:{free_port()}" for _ in range(3))
        self._ends = ExitStack()
        self.children: list[Child] = []
        try:
            for address in addresses:
                others = [other for other in addresses if other != address]
                child = Child(work or be_syncobj, address, others, dict(options))
                self.children.append(child)
                self._ends.callback(child.end)
            for child in self.children:
                child.hear()
                child.ask("start")
            wait_until(self._is_whole, "a leader that all know, and connections between all,")
        except BaseException:
            self._ends.close()
            raise

    def _is_whole(self) -> bool:
        states = [child.ask("state") for child in self.children]
        leaders = {leader for leader, _ in states}
        return len(leaders) == 1 and None not in leaders and all(connected == 2 for _, connected in states)

    def failover_ms(self) -> float:
        """Kill the leader; how long until a command of one of the others was committed."""
        self.children[0].ask("write")
        time.sleep(random.uniform(0.2, 1.2))
        leading = [child for child in self.children if child.ask("leads")]
        assert len(leading) == 1
        survivors = [child for child in self.children if child is not leading[0]]
        killed_ns = now_ns()
        leading[0].kill()
        for child in survivors:
            child.tell("write")
        committed_ns: list[int] = [child.hear() for child in survivors]
        return (min(committed_ns) - killed_ns) / 1e6

    def __enter__(self) -> SyncObjGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()


def be_syncobj(pipe: Connection, address: str, others: list[str], options: dict[str, float]) -> None:
    """One process of such a group. Told `write` it sends commands until one is committed, and says when that was."""
    from pysyncobj import SyncObj, SyncObjConf, replicated

    class Noted(SyncObj):  # type: ignore[misc]
        @replicated  # type: ignore[untyped-decorator]
        def note(self, number: int) -> int:
            return number

    pipe.send("ready")
    heard(pipe)
    noted = Noted(address, others, SyncObjConf(**options))
    noted.waitBinded()
    pipe.send("started")
    while (told := heard(pipe)) is not None:
        status = noted.getStatus()
        if told == "state":
            connected = [key for key, value in status.items() if key.startswith("partner_node_status") and value == 2]
            pipe.send((status["leader"] and str(status["leader"]), len(connected)))
        elif told == "leads":
            pipe.send(str(status["leader"]) == address)
        else:
            pipe.send(_first_committed_ns(noted))


def _first_committed_ns(noted: Any) -> int:
    committed_ns: list[int] = []
    committed = threading.Event()

    def answered(_: Any, failed: int) -> None:
        if not failed:
            committed_ns.append(now_ns())
            committed.set()

    deadline = time.monotonic() + PATIENCE_S
    while not committed.is_set():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no command was committed within {PATIENCE_S:g} s")
        noted.note(1, callback=answered)
        committed.wait(COMMAND_EVERY_S)
    return committed_ns[0]


# --- Redis Sentinel ---------------------------------------------------------------------------------------------------


class SentinelGroup:
    """A master, two replicas and three sentinels. Where the embedded server cannot be found, `ConfigError`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._path = find_server().path
        self._ends = ExitStack()
        self._ports: list[int] = []
        try:
            self._start(directory)
            wait_until(self._is_complete, "all replicas and sentinels known")
        except BaseException:
            self._ends.close()
            raise

    def _start(self, directory: Path) -> None:
        self._master = self._server(directory / "redis-0", {})
        assert self._master.port is not None
        follow: Directives = {"replicaof": ["127.0.0.1", str(self._master.port)], "repl-diskless-sync-delay": 0}
        for number in (1, 2):
            self._server(directory / f"redis-{number}", follow)
        for number in range(3):
            self._sentinel(directory / f"sentinel-{number}", self._master.port)
        # Its classes and methods carry no types.
        make: Any = Sentinel
        self._sentinels: Any = make([("127.0.0.1", port) for port in self._ports], socket_timeout=1)

    def _server(self, directory: Path, config: Directives) -> RedisServer:
        config = {"repl-diskless-sync-delay": 0, **config}
        server = RedisServer(directory, unix_socket=False, port=0, config=config)
        self._ends.callback(server.kill)
        return server.start()

    def _sentinel(self, directory: Path, master: int) -> None:
        directory.mkdir()
        port = free_port()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} 2",
            f"sentinel down-after-milliseconds {SERVICE} {SENTINEL_DOWN_AFTER_MS}",
            # It is the time, too, after which a vote that was split is repeated: 3 minutes as it comes.
            f"sentinel failover-timeout {SERVICE} 2000",
        ]
        config = directory / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n")
        # A session of its own: a Ctrl-C at the terminal is for us.
        process = subprocess.Popen(
            [str(self._path), str(config), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._ends.callback(process.wait)
        self._ends.callback(process.kill)
        self._ports.append(port)

    def _is_complete(self) -> bool:
        try:
            with plain_client(self._master.tcp_url) as client:
                followed = client.info("replication")["connected_slaves"]
            return followed == 2 and all(self._knows_all(port) for port in self._ports)
        except redis.RedisError:
            return False

    def _knows_all(self, port: int) -> bool:
        with plain_client(f"redis://127.0.0.1:{port}") as client:
            state: Any = client.sentinel_master(SERVICE)
            return (state["num-slaves"], state["num-other-sentinels"]) == (2, 2)

    def failover_ms(self) -> float:
        """Kill the master; how long until a SET was accepted through the sentinels."""
        client = self._sentinels.master_for(SERVICE, socket_timeout=1)
        with client:
            client.set("bench", 0)
            # Sentinels ask their servers once a second.
            time.sleep(random.uniform(0, 1))
            killed_ns = now_ns()
            self._master.kill()
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                try:
                    client.set("bench", 1)
                    return (now_ns() - killed_ns) / 1e6
                except redis.RedisError:
                    time.sleep(TRY_EVERY_S)
        raise RuntimeError(f"no SET was accepted within {PATIENCE_S:g} s")

    def __enter__(self) -> SentinelGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()
