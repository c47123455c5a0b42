"""Hosts: network namespaces with addresses of their own on one bridge, between which packets can be lost.

Each node of the group has a host; a Redis server and a sentinel are on the first three. So a partition is one of hosts,
as in life: a primary is cut off together with the master that it writes to, and sentinels, servers and nodes on either
side see the others fall silent. Nothing is refused and no connection ends: packets are dropped.

It takes root, `ip` and `iptables` (Debian: iproute2, iptables). The bridge is in a namespace of its own as well, which
the thread that starts all this enters: nothing listens, and nothing is changed, in the network of the machine.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.support.topology import DOWN_AFTER_MS, SERVICE, Sentinel, Topology, asked, wait_until

from .redises import Undo, WatchedRedis
from .schedule import Fault, Kind, kinds_for

REDIS_PORT = 6379
SENTINEL_PORT = 26379

#: Hosts are .1, .2 ...; whoever watches is on the bridge.
NETWORK = "10.77.0"
WATCHER = 254

CLONE_NEWNET = 0x40000000

#: Replicas follow at once; one that is cut off is noticed.
REPLICATION: dict[str, str | int] = {
    "repl-diskless-sync-delay": 0,
    "repl-ping-replica-period": 1,
    "repl-timeout": 5,
    "protected-mode": "no",
}


class Network:
    """The bridge and the hosts."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._prefix = f"chaos{os.getpid()}-"
        self._home: int | None = None

    def start(self) -> None:
        """Make the hosts. The calling thread, and the threads and processes that it starts, are on the bridge then."""
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _call("unshare", CLONE_NEWNET)
        _run("ip link set lo up")
        _run("ip link add bridge0 type bridge")
        _run(f"ip addr add {self.address(WATCHER - 1)}/24 dev bridge0")
        _run("ip link set bridge0 up")
        for host in range(self.count):
            self._add(host)

    def _add(self, host: int) -> None:
        name = self.name(host)
        _run(f"ip netns add {name}")
        _run(f"ip link add host{host} type veth peer name eth0 netns {name}")
        _run(f"ip link set host{host} master bridge0 up")
        for command in ("link set lo up", f"addr add {self.address(host)}/24 dev eth0", "link set eth0 up"):
            _run(f"ip -n {name} {command}")

    def stop(self) -> None:
        """The calling thread is where it was before. What ran on the hosts has ended."""
        if self._home is None:
            return
        for host in range(self.count):
            subprocess.run(["ip", "netns", "del", self.name(host)], check=False, capture_output=True)
        _call("setns", self._home, CLONE_NEWNET)
        os.close(self._home)
        self._home = None

    def name(self, host: int) -> str:
        return f"{self._prefix}{host}"

    def address(self, host: int) -> str:
        return f"{NETWORK}.{host + 1}"

    def within(self, host: int) -> list[str]:
        """What runs a command on that host. It becomes the command: the process id stays."""
        return ["nsenter", f"--net=/run/netns/{self.name(host)}"]

    def part(self, side: Iterable[int], *, hears: bool, is_heard: bool) -> None:
        """Drop what goes between the hosts of `side` and the others, in the directions that are not wanted."""
        ours = set(side)
        theirs = set(range(self.count)) - ours
        if not hears:
            self._drop(at=ours, what_comes_from=theirs)
        if not is_heard:
            self._drop(at=theirs, what_comes_from=ours)

    def _drop(self, *, at: set[int], what_comes_from: set[int]) -> None:
        for host in at:
            for other in what_comes_from:
                _run(f"ip netns exec {self.name(host)} iptables -w -A INPUT -s {self.address(other)} -j DROP")

    def join(self) -> None:
        """Every packet gets through again."""
        for host in range(self.count):
            _run(f"ip netns exec {self.name(host)} iptables -w -F INPUT")


class OnHost(RedisServer):
    """A server that runs on one of the hosts, and is reached there."""

    host: int
    network: Network

    @property
    def tcp_url(self) -> str:
        return f"redis://{self.network.address(self.host)}:{self.port}/0"

    def _spawn(self) -> None:
        self.binary, plain = _within(self.binary, self.network.within(self.host), self.data_dir), self.binary
        try:
            super()._spawn()
        finally:
            self.binary = plain

    def _connect(self) -> socket.socket:
        return socket.create_connection((self.network.address(self.host), self.port or 0), timeout=1.0)


class HostServer(OnHost):
    """A Redis on one of the hosts."""

    def __init__(self, data_dir: Path, network: Network, host: int, *, binary: ServerBinary, master: int) -> None:
        follow: dict[str, Any] = {"replicaof": [network.address(master), str(REDIS_PORT)]} if host != master else {}
        config: dict[str, Any] = {**REPLICATION, "bind": network.address(host), "appendfsync": "everysec", **follow}
        super().__init__(data_dir, binary=binary, unix_socket=False, port=REDIS_PORT, config=config)
        self.host = host
        self.network = network


class HostSentinel(OnHost, Sentinel):
    """A sentinel on one of the hosts."""

    def __init__(
        self,
        data_dir: Path,
        network: Network,
        host: int,
        *,
        binary: ServerBinary,
        port: int,
        master: int,
        quorum: int,
    ) -> None:
        super().__init__(data_dir, binary=binary, master=REDIS_PORT, quorum=quorum)
        self.host = host
        self.network = network
        self.port = port
        self._lines = [
            f"port {port}",
            f"bind {network.address(host)}",
            "protected-mode no",
            f"dir {self.data_dir}",
            f"sentinel monitor {SERVICE} {network.address(master)} {REDIS_PORT} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 2000",
            f"sentinel parallel-syncs {SERVICE} 9",
        ]


def _within(binary: ServerBinary, command: Sequence[str], directory: Path) -> ServerBinary:
    """The same server, started by a script that goes to its host first."""
    script = directory / "server"
    script.write_text(f'#!/bin/sh\nexec {" ".join(command)} {binary.path} "$@"\n')
    script.chmod(0o755)
    return ServerBinary(path=script, flavour=binary.flavour, version=binary.version)


class Hosts(Topology):
    """Redis servers on the hosts `servers`, sentinels on `sentinels`; the first server is the master at the start."""

    def __init__(
        self,
        directory: Path,
        binary: ServerBinary,
        count: int,
        *,
        servers: Sequence[int],
        sentinels: Sequence[int],
    ) -> None:
        super().__init__(directory, binary)
        self.network = Network(count)
        for host in servers:
            place = directory / f"redis-{host}"
            self.servers.append(HostServer(place, self.network, host, binary=binary, master=servers[0]))
        self.sentinels = [
            HostSentinel(
                directory / f"sentinel-{number}",
                self.network,
                host,
                binary=binary,
                port=SENTINEL_PORT + number,
                master=servers[0],
                quorum=len(sentinels) // 2 + 1,
            )
            for number, host in enumerate(sentinels)
        ]

    def start(self) -> None:
        self.network.start()
        for server in (*self.servers, *self.sentinels):
            server.start()
        wait_until(self._complete, 30)

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
        super().stop()
        self.network.stop()

    @property
    def url(self) -> str:
        places = ",".join(f"{self.network.address(each.host)}:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{places}/{SERVICE}/0"

    def _complete(self) -> bool:
        others = len(self.servers) - 1, len(self.sentinels) - 1
        states = [asked(sentinel, lambda client: client.sentinel_master(SERVICE)) for sentinel in self.sentinels]
        return all(state and (state["num-slaves"], state["num-other-sentinels"]) == others for state in states)


class HostsRedis(WatchedRedis):
    """A master, two replicas and three sentinels on hosts of their own, where each node has one, too.

    `servers`, `sentinels`: the hosts that they are on.
    """

    def __init__(
        self,
        directory: Path,
        binary: ServerBinary,
        *,
        count: int = 5,
        servers: Sequence[int] = (0, 1, 2),
        sentinels: Sequence[int] = (0, 1, 2),
    ) -> None:
        self.hosts = Hosts(directory, binary, count, servers=servers, sentinels=sentinels)
        super().__init__(f"hosts:{binary.id}", self.hosts, self.hosts.servers, self.hosts.sentinels)
        self._names: Sequence[str] = ()

    @property
    def url(self) -> str:
        return self.hosts.url

    def start(self, nodes: Sequence[str]) -> None:
        self._names = nodes
        super().start(nodes)

    def within(self, node: str) -> Sequence[str]:
        return self.hosts.network.within(self._names.index(node))

    def kinds(self, *, disks: bool) -> dict[str, Kind]:
        return kinds_for(aof=self.setting.aof, replicas=self.setting.replicas, hosts=True, disks=disks)

    def begin(self, fault: Fault, node: str) -> Undo:
        network = self.hosts.network
        if fault.kind == "partition":
            self._dispute()
            side = [host for host in range(network.count) if self._side(fault) >> host & 1]
            network.part(side, hears=fault.option == "out", is_heard=fault.option == "in")
            return network.join
        if fault.kind == "minority":
            self._dispute()
            network.part(self._minority(fault, node), hears=False, is_heard=False)
            return network.join
        return super().begin(fault, node)

    def _side(self, fault: Fault) -> int:
        """Which hosts are on one side, as bits: some, and not all."""
        return 1 + fault.pick % (2**self.hosts.network.count - 2)

    def _minority(self, fault: Fault, node: str) -> set[int]:
        """The master's host, the node's, and one without a sentinel."""
        master = self._current()
        assert isinstance(master, HostServer)
        without = [
            host for host in range(self.hosts.network.count) if all(host != each.host for each in self.hosts.sentinels)
        ]
        return {master.host, self._names.index(node), without[fault.pick % len(without)]}

    def heal(self) -> None:
        self.hosts.network.join()
        super().heal()


@functools.cache
def has_hosts() -> bool:
    """Whether this user can make hosts: tried once, in a process of its own."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not all(map(shutil.which, _NEEDED)):
        return False
    tried = subprocess.run(
        [sys.executable, "-c", _TRIAL], capture_output=True, cwd=Path(__file__).parents[2], check=False
    )
    return tried.returncode == 0


_NEEDED = ("ip", "iptables", "nsenter")

_TRIAL = """
from tests.chaos.hosts import Network
network = Network(2)
network.start()
network.part([0], hears=False, is_heard=False)
network.join()
network.stop()
"""


def _run(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{command}: {done.stderr.strip()}")


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
