"""Several servers that make up one Redis: with Sentinel, or as a cluster. Each listens on loopback ports of its own.

A topology starts in two to three seconds (sentinels find each other by a message that the master passes on every two
seconds) and fails over within two. Its servers are `RedisServer`s: kill, pause and resume them as you like; `stop` ends
them all. Use them as context managers.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import Directives, RedisServer, ServerBinary

#: What the sentinels call the master.
SERVICE = "main"

#: How long a sentinel waits for an answer before it takes a server for dead.
DOWN_AFTER_MS = 500

#: Nothing is dead for sentinels that are calm, however long it stands still on a busy machine.
CALM_MS = 3_600_000

#: How often a state that is waited for is asked for.
POLL_EVERY_S = 0.02

#: Long enough for a busy machine, for servers that agree as for one that answers.
PATIENCE_S = 60.0

SLOTS = 16384

#: Replicas follow at once, and notice at once that their master is gone.
_REPLICATION: Directives = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1}


class Topology:
    """Servers that are started together, and ended however it went."""

    def __init__(self, directory: Path, binary: ServerBinary) -> None:
        self.directory = directory
        self.binary = binary
        #: All that have data, running or not; the first one starts as a master.
        self.servers: list[RedisServer] = []

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        for server in self.servers:
            server.kill()

    def at(self, port: int) -> RedisServer:
        """The server that listens on this port."""
        return next(server for server in self.servers if server.port == port)

    def __enter__(self) -> Any:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class Sentinel(RedisServer):
    """The same executable as a sentinel. It writes what it learns into its configuration file."""

    def __init__(
        self,
        data_dir: Path,
        *,
        binary: ServerBinary,
        master: int,
        quorum: int,
        lines: Sequence[str] = (),
        down_after_ms: int = DOWN_AFTER_MS,
    ) -> None:
        super().__init__(data_dir, binary=binary, unix_socket=False, port=0)
        self._lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.data_dir}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 2000",
            f"sentinel parallel-syncs {SERVICE} 9",
            *lines,
        ]

    def _spawn(self) -> None:
        path = self.data_dir / "sentinel.conf"
        if not path.exists():
            path.write_text("\n".join(self._lines) + "\n")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.binary.path), str(path), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class SentinelTopology(Topology):
    """One master, its replicas, and the sentinels that choose another master when it does not answer.

    `calm`: they do so only while `wait_for_failover` waits for it.
    """

    def __init__(
        self, directory: Path, binary: ServerBinary, *, replicas: int = 2, sentinels: int = 3, calm: bool = False
    ) -> None:
        super().__init__(directory, binary)
        self._calm = calm
        for number in range(replicas + 1):
            follow: Directives = {"replicaof": ["127.0.0.1", str(self.servers[0].port)]} if number else {}
            self.servers.append(
                RedisServer(
                    directory / f"redis-{number}",
                    binary=binary,
                    unix_socket=False,
                    port=0,
                    config={**_REPLICATION, **follow},
                )
            )
        first = self.servers[0].port
        assert first is not None
        self.sentinels = [
            Sentinel(
                directory / f"sentinel-{number}",
                binary=binary,
                master=first,
                quorum=sentinels // 2 + 1,
                down_after_ms=CALM_MS if calm else DOWN_AFTER_MS,
            )
            for number in range(sentinels)
        ]
        self._last_master = first

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{SERVICE}/0"

    @property
    def master(self) -> RedisServer:
        """The one that most sentinels name, alive or not."""
        named = Counter(filter(None, map(self._named_by, self.sentinels)))
        assert named, "no sentinel answers"
        return self.at(named.most_common(1)[0][0])

    @property
    def replicas(self) -> list[RedisServer]:
        """All others, alive or not."""
        master = self.master
        return [server for server in self.servers if server is not master]

    def start(self) -> None:
        """Start all, and wait until the sentinels know each other and every replica follows."""
        for server in (*self.servers, *self.sentinels):
            server.start()
        wait_until(self._complete)

    def stop(self) -> None:
        # Sentinels first: they would choose another master at once.
        for sentinel in self.sentinels:
            sentinel.kill()
        super().stop()

    def wait_for_failover(self, timeout_s: float = PATIENCE_S) -> RedisServer:
        """Wait until all sentinels that run name another master than before, and it is one; then give it.

        Before: at the start, or at the last failover that was waited for.
        """
        if self._calm:
            self._take_for_dead_after(DOWN_AFTER_MS)
        wait_until(self._failed_over, timeout_s)
        if self._calm:
            self._take_for_dead_after(CALM_MS)
        self._last_master = self.master.port or 0
        return self.master

    def _take_for_dead_after(self, ms: int) -> None:
        for sentinel in self.sentinels:
            asked(sentinel, lambda client: client.sentinel_set(SERVICE, "down-after-milliseconds", ms))

    def _failed_over(self) -> bool:
        named = set(filter(None, map(self._named_by, self.sentinels)))
        if len(named) != 1 or self._last_master in named:
            return False
        role = asked(self.at(named.pop()), lambda client: client.info("replication")["role"])
        return bool(role == "master")

    def _complete(self) -> bool:
        others = (len(self.servers) - 1, len(self.sentinels) - 1)
        followed = asked(self.master, lambda client: client.info("replication")["connected_slaves"])
        states = [asked(sentinel, lambda client: client.sentinel_master(SERVICE)) for sentinel in self.sentinels]
        known = [state and (state["num-slaves"], state["num-other-sentinels"]) for state in states]
        return followed == others[0] and all(each == others for each in known)

    def _named_by(self, sentinel: RedisServer) -> int | None:
        address = asked(sentinel, lambda client: client.sentinel_get_master_addr_by_name(SERVICE))
        return int(address[1]) if address else None


class ClusterTopology(Topology):
    """Masters that share the slots evenly, and replicas of the first of them, which has the slot of `first_key`.

    `dead_after_ms`: how long one may be silent before the others take it for dead.
    """

    def __init__(
        self,
        directory: Path,
        binary: ServerBinary,
        *,
        masters: int = 3,
        replicas: int = 0,
        first_key: str = "",
        dead_after_ms: int = 1000,
    ) -> None:
        super().__init__(directory, binary)
        config: Directives = {**_REPLICATION, "cluster-enabled": "yes", "cluster-node-timeout": dead_after_ms}
        for number in range(masters + replicas):
            place = directory / f"node-{number}"
            self.servers.append(
                RedisServer(place, binary=binary, unix_socket=False, port=_port_with_bus(), config=config)
            )
        self._masters = masters
        self._first_slot = key_slot(first_key.encode())

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{each.port}' for each in self.servers)}"

    def start(self) -> None:
        """Start all, make them one cluster, and wait until each of them says that it is well."""
        for server in self.servers:
            server.start()
        self._share_slots()
        for server in self.servers[1:]:
            ask(self.servers[0], "CLUSTER", "MEET", "127.0.0.1", str(server.port))
        wait_until(lambda: all(map(self._is_well, self.servers)))
        for replica in self.servers[self._masters :]:
            self._attach(replica)

    def notice_the_dead(self, after_ms: int = 1000) -> None:
        """From now on a server that is so long silent is taken for dead."""
        for server in filter(lambda each: each.alive, self.servers):
            ask(server, "CONFIG", "SET", "cluster-node-timeout", after_ms)

    def owner(self, key: str) -> RedisServer:
        """The master that has the slot of this key."""
        slot = key_slot(key.encode())
        for server in filter(lambda each: each.alive, self.servers):
            for first, last, (_, port, *_), *_ in ask(server, "CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return self.at(port)
        raise AssertionError(f"nobody has slot {slot}")

    def id_of(self, server: RedisServer) -> str:
        return str(ask(server, "CLUSTER", "MYID"), "ascii")

    def migrate(self, key: str, target: RedisServer) -> None:
        """Move the slot of this key, with all its keys, to another master."""
        slot, source = key_slot(key.encode()), self.owner(key)
        self.begin_migration(key, target)
        for name in ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000):
            ask(source, "MIGRATE", "127.0.0.1", target.port, name, 0, 5000)
        for server in (target, source, *self.servers[: self._masters]):
            ask(server, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def begin_migration(self, key: str, target: RedisServer) -> None:
        """From now on the slot's keys that are not at its owner are looked for at the target."""
        slot, source = key_slot(key.encode()), self.owner(key)
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def _share_slots(self) -> None:
        masters = self.servers[: self._masters]
        for number, server in enumerate(masters):
            # 6.2 has no ADDSLOTSRANGE.
            shares = range(SLOTS * number // len(masters), SLOTS * (number + 1) // len(masters))
            ask(server, "CLUSTER", "ADDSLOTS", *((self._first_slot + share) % SLOTS for share in shares))
            ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)

    def _is_well(self, server: RedisServer) -> bool:
        info = ask(server, "CLUSTER", "INFO")
        return b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % len(self.servers) in info

    def _attach(self, replica: RedisServer) -> None:
        ask(replica, "CLUSTER", "REPLICATE", self.id_of(self.servers[0]))
        wait_until(lambda: b"master_link_status:up" in ask(replica, "INFO", "replication"))


def ask(server: RedisServer, *command: Any) -> Any:
    """Send one command, give its answer as it comes."""
    # Its methods carry no types.
    make: Any = redis.Connection
    connection = make(host="127.0.0.1", port=server.port, protocol=2, socket_timeout=PATIENCE_S)
    try:
        connection.connect()
        connection.send_command(*command)
        return connection.read_response(disable_decoding=True)
    finally:
        connection.disconnect()


def asked(server: RedisServer, question: Callable[[Any], Any]) -> Any:
    """The answer to a question; None if the server does not answer soon."""
    with (
        contextlib.suppress(redis.exceptions.RedisError),
        redis.Redis.from_url(server.tcp_url, socket_timeout=0.5, retry=Retry(NoBackoff(), 0)) as client,
    ):
        return question(client)
    return None


def wait_until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about within {timeout_s:g} s"
        time.sleep(POLL_EVERY_S)


def _port_with_bus() -> int:
    """A free port whose bus port, 10,000 above, is free as well."""
    return next(port for port in _free_ports() if port + 10_000 <= 65_535 and _is_free(port + 10_000))


def _free_ports() -> Iterator[int]:
    while True:
        yield free_port()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
