"""What a probe of a load balancer waits for its answer: on an idle node, while Redis hangs, and on a busy server."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.harness import Child, Report, Setting, Table, heard, in_rounds, now_ns, percentile
from bench.http_client import ANSWER_TIMEOUT_S, KeptAlive, request_of
from replicator import Node
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.sandbox.redis_server import RedisServer
from replicator.web.head import Head
from replicator.web.middleware import Middleware, Visit
from replicator.web.options import Options
from replicator.web.server import WebServer

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

ALONE = "one connection"
HANGS = "one connection, Redis hangs"
PACED = "200 idle, 50 that probe 10 times a second each"
CLOSED = "200 idle, 50 that probe without a pause"
INSIDE = "in the node"
INSIDE_HANGS = "in the node, Redis hangs"

IDLE, BUSY = 200, 50

#: Of each busy connection that has a pace. 500 probes a second are those of 30 load balancers with `inter 200ms`, for
#: three probes each.
EVERY_S = 0.1

#: A load balancer probes now and then, and not as soon as it has an answer.
ALONE_EVERY_S = 0.005

#: While it hangs, the node is asked for what is always 200, and most work: all that it knows.
WHILE_IT_HANGS = "/health"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float


FULL = Sizes(rounds=5, seconds=3.0)
QUICK = Sizes(rounds=2, seconds=0.3)

PROSE = """\
`GET /primary` of a node that leads, the registry's API around it, over connections that are kept alive, by a process of
its own. *Idle* connections are open and say nothing. The 50 that have a pace send 500 probes a second between them. The
50 without one send the next probe with the answer to the one before, so each waits for the 49 others: that row is the
throughput of the server, and no load that probes make. While Redis hangs (SIGSTOP), `/health` is asked for: it is
always 200, and has all that the others have. *In the node* is what a probe takes there, without a server: from the path
of the request to the bytes of the answer, on a thread, every 5 ms. Medians over the rounds of each round's percentiles.
"""


class Load(NamedTuple):
    """`busy` connections that ask for `path`, each every `every_s` (0: at once), and `idle` ones, for so long."""

    port: int
    path: str
    idle: int
    busy: int
    every_s: float
    seconds: float


class Inside(NamedTuple):
    """A probe, asked for without a server, for so long."""

    probe: str
    seconds: float


class Waited(NamedTuple):
    """For the answers of a round."""

    p50_us: float
    p99_us: float
    rate: float


def measure(setting: Setting, sizes: Sizes) -> Report:
    with ExitStack() as stack:
        # One of its own: it is to hang.
        redis = stack.enter_context(RedisServer(setting.fresh("probes-redis")))
        server = stack.enter_context(Child(be_server, redis.url, setting.fresh("probes")))
        port: int = server.hear()
        client = stack.enter_context(Child(be_client))
        client.hear()
        load = Load(port, "/primary", 0, 1, ALONE_EVERY_S, sizes.seconds)
        hanging = load._replace(path=WHILE_IT_HANGS)
        many = load._replace(idle=IDLE, busy=BUSY)
        cases: dict[str, Callable[[], Waited]] = {
            ALONE: partial(client.ask, load),
            HANGS: partial(_while_it_hangs, redis.pid, server, lambda: client.ask(hanging)),
            INSIDE: partial(server.ask, Inside("primary", sizes.seconds)),
            INSIDE_HANGS: partial(
                _while_it_hangs, redis.pid, server, lambda: server.ask(Inside("health", sizes.seconds))
            ),
            PACED: partial(client.ask, many._replace(every_s=EVERY_S)),
            CLOSED: partial(client.ask, many._replace(every_s=0.0)),
        }
        return _report(in_rounds(cases, sizes.rounds))


def _while_it_hangs(redis: int, server: Child, work: Callable[[], Waited]) -> Waited:
    os.kill(redis, signal.SIGSTOP)
    try:
        waited = work()
    finally:
        os.kill(redis, signal.SIGCONT)
    server.ask("leads")
    return waited


def be_server(pipe: Connection, url: str, data_dir: Path) -> None:
    """Says its port. Told "leads", it answers once its node does; told `Inside`, with what that `Waited`."""
    # A lease of ten seconds: the node leads on while its Redis hangs for the length of a round.
    with Node(Registry(), group="probes", name="a", data_dir=data_dir, redis=url, lease_s=10.0) as node:
        node.promote()
        with WebServer(registry_app(node)) as served:
            pipe.send(served.port)
            while (told := heard(pipe)) is not None:
                if isinstance(told, Inside):
                    pipe.send(_inside(node, told))
                    continue
                while not node.leads:
                    time.sleep(0.01)
                pipe.send(True)


def _inside(node: Node[Registry], told: Inside) -> Waited:
    """One call after the other, with a pause: what a probe takes is to be seen, and not what it takes from others."""
    probed = Middleware(node, Options())
    head = Head("GET", f"/{told.probe}", b"", b"", None, "", False)
    took_ns: list[int] = []
    began_ns = now_ns()
    while not took_ns or now_ns() - began_ns < told.seconds * 1e9:
        asked_ns = now_ns()
        with suppress(StopIteration):
            next(probed.before(Visit(head, probed)))
        took_ns.append(now_ns() - asked_ns)
        time.sleep(ALONE_EVERY_S)
    return _waited_of(took_ns, began_ns)


def be_client(pipe: Connection) -> None:
    """Told a `Load`, it answers with what it `Waited`."""
    pipe.send("ready")
    while (told := heard(pipe)) is not None:
        pipe.send(_waited(told))


def _waited(load: Load) -> Waited:
    request = request_of("GET", load.path)
    with ExitStack() as stack:
        for _ in range(load.idle):
            stack.enter_context(KeptAlive(load.port))
        busy = [stack.enter_context(KeptAlive(load.port)) for _ in range(load.busy)]
        for connection in busy:
            connection.ask(request)  # the first one of a connection has to be accepted
        took_ns: list[int] = []
        began_ns = now_ns()
        _ask(busy, request, load, took_ns)
        return _waited_of(took_ns, began_ns)


def _waited_of(took_ns: Sequence[int], began_ns: int) -> Waited:
    took_s = (now_ns() - began_ns) / 1e9
    return Waited(percentile(took_ns, 50) / 1e3, percentile(took_ns, 99) / 1e3, len(took_ns) / took_s)


def _ask(busy: Sequence[KeptAlive], request: bytes, load: Load, took_ns: list[int]) -> None:
    """Each connection by a clock of its own; their beginnings are spread over a period."""
    began = time.monotonic()
    until = began + load.seconds
    #: When those that wait for no answer are to ask.
    due = {connection: began + load.every_s * place / len(busy) for place, connection in enumerate(busy)}
    asked_at: dict[KeptAlive, float] = {}
    with closing(selectors.DefaultSelector()) as selector:
        for connection in busy:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while asked_at or due:
            now = time.monotonic()
            for connection in [each for each, at in due.items() if at <= now]:
                asked_at[connection] = due.pop(connection)
                connection.send(request)
            # One that waits is answered within the time out, or the load is broken off.
            pause_s = max(0.0, min(due.values()) - now) if due else ANSWER_TIMEOUT_S
            for key, _ in selector.select(pause_s):
                connection = key.data
                if connection.receive() is None:
                    continue
                took_ns.append(now_ns() - connection.sent_ns)
                at = max(asked_at.pop(connection) + load.every_s, time.monotonic())
                if at < until:
                    due[connection] = at


def _report(waited: Mapping[str, Sequence[Waited]]) -> Report:
    figures: dict[str, float] = {}
    rows = []
    for case, rounds in waited.items():
        p50_ms, p99_ms = (median(getattr(each, name) for each in rounds) / 1e3 for name in ("p50_us", "p99_us"))
        figures[f"{case} p50 ms"], figures[f"{case} p99 ms"] = p50_ms, p99_ms
        worst_ms = max(each.p99_us for each in rounds) / 1e3
        rate = median(each.rate for each in rounds)
        rows.append([case, f"{p50_ms:.2f}", f"{p99_ms:.2f}", f"{worst_ms:.2f}", f"{rate:,.0f}"])
    head = ["connections", "p50 ms", "p99 ms", "p99 ms, worst round", "probes/s"]
    return Report(title="Probes", prose=PROSE, tables=[Table(head=head, rows=rows)], figures=figures)
