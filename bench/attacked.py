"""What a probe of a load balancer waits for while the port is attacked: by half requests, and uploads that stall."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.harness import Child, Report, Setting, Table, heard, in_rounds, now_ns, percentile
from bench.http_client import KeptAlive, request_of
from replicator import Node
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.runtime.gc_pause import leave_alone
from replicator.sandbox.redis_server import RedisServer
from replicator.service.access import Access
from replicator.service.listening import guarded
from replicator.web.connections import READ_BYTES, Door
from replicator.web.server import ACCEPTED_AT_A_TIME, WebServer

__all__ = ["BARE", "FULL", "KEPT", "NEW", "OURS", "QUICK", "Sizes", "measure"]

OURS, BARE = "a node", "bare asyncio"
LONGEST = "longest step of the loop, processor ms"
KEPT, NEW = "kept connection", "new connections"

#: The goal of a probe. `LATE_NS`: in the unit of the clock.
LATE_MS = 50
LATE_NS = LATE_MS * 1_000_000

EVERY_S = 0.02

#: A node ends half requests after ten seconds; then there are new ones.
AGAIN_AFTER_S = 12.0

UPLOAD_BYTES = 60_000_000
#: What is left out, so that it never ends.
UPLOAD_LACKS = 100_000

HALF = b"GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
BLANKS = b" " * 65536

#: A process may have so few that the attack is not what it says.
DESCRIPTORS = 4096

ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    halves: int = 1100
    uploads: int = 12


FULL = Sizes(rounds=3, seconds=26.0)
QUICK = Sizes(rounds=1, seconds=1.5, halves=100, uploads=2)

PROSE = f"""\
`GET /ready` every 20 ms, over a connection that is kept alive and over a new one each time, while another process opens
1,100 connections at once, each with half a request, and sends twelve bodies of 60 MB that never end; both again when
the server has ended them. The client and the attacker have processes of their own, and share the machine's cores with
the server: so beside it is what the same probes wait for at a bare asyncio server under the same attack, which parses
nothing, keeps nothing, and answers two bytes. What that waits, the machine waits, and only what a step of the node's
loop takes in processor time is the node's own. *Late* is above {LATE_MS} ms. A new
connection comes after those that came before it, on both. Medians over the rounds; worst and late
ones of all rounds.
"""


class Steps:
    """How much processor time a step of the loop takes, in which nobody else is answered: the longest one.

    What a probe waits depends on who else wants the cores; this does not.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0

    def watch(self) -> None:
        """All steps of all loops of this process, from now on."""
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began_s = time.thread_time()
            run(handle)
            self.longest_s = max(self.longest_s, time.thread_time() - began_s)

        asyncio.Handle._run = timed  # type: ignore[assignment,method-assign]


class Told(NamedTuple):
    """By the node, of an attack. `lost`: how its lease was lost, or nothing."""

    lost: str
    longest_step_s: float


class Attack(NamedTuple):
    port: int
    seconds: float
    halves: int
    uploads: int


class Asked(NamedTuple):
    """Probes for so long."""

    port: int
    seconds: float
    is_new: bool


class Round(NamedTuple):
    """What the probes took, by how they came."""

    kept_ns: Sequence[int]
    new_ns: Sequence[int]


def measure(setting: Setting, sizes: Sizes) -> Report:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(setting.fresh("attacked-redis")))
        server = stack.enter_context(Child(be_node, redis.url, setting.fresh("attacked")))
        bare = stack.enter_context(Child(be_bare))
        clients = [stack.enter_context(Child(work)) for work in (be_attacker, be_client, be_client)]
        ports = {OURS: server.hear(), BARE: bare.hear()}
        cases = {name: partial(_attacked, clients, port, sizes) for name, port in ports.items()}
        rounds: dict[str, list[Round]] = in_rounds(cases, sizes.rounds, warm_ups=0)
        told: Told = server.ask("told")
    return _report(rounds, told)


def _attacked(clients: Sequence[Child], port: int, sizes: Sizes) -> Round:
    attacker, *probing = clients
    attacker.tell(Attack(port, sizes.seconds, sizes.halves, sizes.uploads))
    for client, is_new in zip(probing, (False, True), strict=True):
        client.tell(Asked(port, sizes.seconds, is_new))
    kept_ns, new_ns = (client.hear() for client in probing)
    attacker.hear()
    return Round(kept_ns, new_ns)


# --- the servers ------------------------------------------------------------------------------------------------------


def be_node(pipe: Connection, url: str, data_dir: Path) -> None:
    """Says its port. Told anything, it answers with what it has `Told`."""
    with Node(Registry(), group="attacked", name="a", data_dir=data_dir, redis=url, lease_s=5.0) as node:
        node.promote()
        term = node.term
        app = guarded(registry_app(node), host="127.0.0.1", advertised="", access=Access())
        steps = Steps()
        with WebServer(app) as served:
            leave_alone()
            steps.watch()
            pipe.send(served.port)
            while heard(pipe) is not None:
                kept = node.leads and node.term == term
                lost = "" if kept else f"the node lost its lease: term {node.term}, and it led in term {term}"
                pipe.send(Told(lost, steps.longest_s))


class _Answers(asyncio.Protocol):
    """What is a whole request by its last bytes is answered; the rest is dropped."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        vars(transport)["max_size"] = READ_BYTES

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n") and data.startswith(b"GET"):
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def be_bare(pipe: Connection) -> None:
    asyncio.run(_be_bare(pipe))


async def _be_bare(pipe: Connection) -> None:
    """Says its port. Its connections are accepted as a node's are: all that wait for that have room."""
    loop = asyncio.get_running_loop()
    listens = socket.create_server(("127.0.0.1", 0))
    door = Door(listens.family, listens.type, socket.IPPROTO_TCP, fileno=listens.detach())
    async with await loop.create_server(_Answers, sock=door, backlog=ACCEPTED_AT_A_TIME):
        pipe.send(door.getsockname()[1])
        await loop.run_in_executor(None, heard, pipe)


# --- those who ask ----------------------------------------------------------------------------------------------------


def be_client(pipe: Connection) -> None:
    """Told what to ask, it answers with what each probe took, in nanoseconds."""
    while (told := heard(pipe)) is not None:
        pipe.send(_probed(told))


def _probed(asked: Asked) -> list[int]:
    request, took_ns = request_of("GET", "/ready"), list[int]()
    until = time.monotonic() + asked.seconds
    connection = KeptAlive(asked.port)
    while not took_ns or time.monotonic() < until:
        began_ns = now_ns()
        if asked.is_new:
            connection.close()
            connection = KeptAlive(asked.port)
        connection.ask(request)
        took_ns.append(now_ns() - began_ns)
        time.sleep(EVERY_S)
    connection.close()
    return took_ns


def be_attacker(pipe: Connection) -> None:
    """Told an `Attack`, it carries it out, and answers when it is over."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    while (told := heard(pipe)) is not None:
        _attack(told)
        pipe.send("over")


def _attack(attack: Attack) -> None:
    ends = threading.Event()
    threads = [threading.Thread(target=_upload, args=(attack.port, ends)) for _ in range(attack.uploads)]
    threads.append(threading.Thread(target=_hold_halves, args=(attack, ends)))
    for thread in threads:
        thread.start()
    time.sleep(attack.seconds)
    ends.set()
    for thread in threads:
        thread.join()


def _hold_halves(attack: Attack, ends: threading.Event) -> None:
    while not ends.is_set():
        with ExitStack() as held:
            for _ in range(attack.halves):
                with suppress(OSError):
                    connection = socket.create_connection(("127.0.0.1", attack.port), timeout=ANSWER_TIMEOUT_S)
                    held.enter_context(connection)
                    connection.sendall(HALF)
            ends.wait(AGAIN_AFTER_S)


def _upload(port: int, ends: threading.Event) -> None:
    head = (
        f"PUT /v1/state HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {UPLOAD_BYTES}"
    )
    while not ends.is_set():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode())
            left = UPLOAD_BYTES - UPLOAD_LACKS
            while left > 0 and not ends.is_set():
                connection.sendall(BLANKS[:left])
                left -= len(BLANKS)
            _wait_for_end(connection, ends)


def _wait_for_end(connection: socket.socket, ends: threading.Event) -> None:
    """Of the connection, or of the attack."""
    connection.settimeout(0.2)
    while not ends.is_set():
        with suppress(TimeoutError):
            if not connection.recv(65536):
                return


# --- what it comes to -------------------------------------------------------------------------------------------------


def _report(rounds: Mapping[str, Sequence[Round]], told: Told) -> Report:
    figures = {LONGEST: told.longest_step_s * 1000}
    rows = []
    ways: dict[str, Callable[[Round], Sequence[int]]] = {KEPT: lambda it: it.kept_ns, NEW: lambda it: it.new_ns}
    for server, found in rounds.items():
        for way, took in ways.items():
            case, each = f"{server}, {way}", [took(one) for one in found]
            p50_ms, p99_ms = (median(percentile(one, percent) for one in each) / 1e6 for percent in (50, 99))
            worst_ms = max(map(max, each)) / 1e6
            late, count = (sum(ns > LATE_NS for one in each for ns in one), sum(map(len, each)))
            figures |= {f"{case} p50 ms": p50_ms, f"{case} p99 ms": p99_ms, f"{case} worst ms": worst_ms}
            figures[f"{case} late %"] = 100 * late / count
            rows.append([case, f"{p50_ms:.1f}", f"{p99_ms:.1f}", f"{worst_ms:.0f}", f"{late} of {count}"])
    head = ["probes of", "p50 ms", "p99 ms", "worst ms", f"above {LATE_MS} ms"]
    tables = [Table(head=head, rows=rows)]
    note = f"Of the node's loop, the longest step took {figures[LONGEST]:.1f} ms of processor time; its lease was kept."
    return Report(
        title="Probes under attack",
        prose=PROSE,
        tables=tables,
        notes=[] if told.lost else [note],
        figures=figures,
        wrong=[told.lost] if told.lost else [],
    )
