"""The proxy before a program: what it adds to a request, beside the same program asked directly."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.harness import Child, Report, Setting, Table, heard, in_rounds
from bench.http_client import Load, be_client, request_of
from replicator import Node, ops
from replicator.log.redis_log import RedisLog
from replicator.service.proxy import Proxy, ProxyOptions
from replicator.service.sidecar import Sidecar
from replicator.state.file import FileState
from replicator.web.server import WebServer

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

DIRECT, PRIMARY, STANDBY = "the program", "the primary's proxy", "a standby's proxy"
READ, IDLE, WRITE = "read", "write of nothing", "write of the file"

BODY = b"x" * 750

LEASE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float


FULL = Sizes(rounds=7, seconds=1.0)
QUICK = Sizes(rounds=2, seconds=0.2)

PROSE = """\
A program on Starlette and uvicorn, which has a file of 750 bytes and answers with as many, asked directly, by way of
the proxy of the node beside it, which leads, and by way of that of a standby, which passes it on; all of them processes
of one machine. One client, over one connection that is kept alive, one request after the other. A *write of nothing* is
a POST that leaves the file as it is: what is asked before an answer goes out. A *write of the file* changes it, and is
published: the node reads a file once nobody has written to it for 50 ms. Medians over the rounds; *adds* is the
difference of the p50 to that of the program in the same round; *cpu* the processor time of both nodes for one request,
less what they take in a round without any.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    with ExitStack() as stack:
        group, directory = setting.group("proxy"), setting.fresh("proxy")
        directory.mkdir()
        target = stack.enter_context(Child(be_program, directory / "a.file")).hear()
        nodes = {
            name: stack.enter_context(Child(be_node, setting.url, group, name, directory, target)) for name in "ab"
        }
        ports = {DIRECT: target, PRIMARY: nodes["a"].hear(), STANDBY: nodes["b"].hear()}
        with contextlib.closing(RedisLog(setting.url, group)) as log:
            ops.promote(log, "a", by="bench", timeout_s=LEASE_S)
        client = stack.enter_context(Child(be_client))
        client.hear()
        requests = {
            READ: request_of("GET", "/", []),
            IDLE: request_of("POST", "/idle", ["Content-Length: 0"]),
            WRITE: request_of("POST", "/", ["Content-Length: 0"]),
        }
        cases: dict[str, Callable[[], Any]] = {
            _case(what, place): partial(_cost, client, list(nodes.values()), Load(port, [request], 1, sizes.seconds))
            for what, request in requests.items()
            for place, port in ports.items()
        }
        return _report(in_rounds(cases, sizes.rounds))


class Cost(NamedTuple):
    """Of a round. `cpu_us`: of the nodes, all together."""

    p50_us: float
    p99_us: float
    cpu_us: float
    requests: int


def _cost(client: Child, nodes: Sequence[Child], load: Load) -> Cost:
    before_ns = sum(node.ask("cpu") for node in nodes)
    pace = client.ask(load)
    cpu_ns = sum(node.ask("cpu") for node in nodes) - before_ns
    return Cost(pace.p50_us, pace.p99_us, cpu_ns / 1e3, pace.changes)


def be_program(pipe: Connection, path: Path) -> None:
    """Says its port."""
    count = 0
    path.write_bytes(BODY)

    async def read(request: Request) -> Response:
        return Response(path.read_bytes())

    async def write(request: Request) -> Response:
        nonlocal count
        count += 1
        draft = path.with_suffix(".draft")
        draft.write_bytes(b"%08d" % count + BODY[8:])
        draft.replace(path)
        return Response(BODY)

    async def idle(request: Request) -> Response:
        return Response(BODY)

    routes = [Route("/", read), Route("/", write, methods=["POST"]), Route("/idle", idle, methods=["POST"])]
    with WebServer(Starlette(routes=routes)) as server:
        pipe.send(server.port)
        while heard(pipe) is not None:
            pass


def be_node(pipe: Connection, url: str, group: str, name: str, directory: Path, target: int) -> None:
    """Says the port of its proxy; and, when it is asked, how much processor time it has had (ns)."""
    state = FileState(directory / f"{name}.file")
    node = Node(state, group=group, name=name, data_dir=directory / name, redis=url, lease_s=LEASE_S)
    sidecar = Sidecar(node, state)
    options = ProxyOptions(listen="127.0.0.1:0", target=f"127.0.0.1:{target}")
    proxy = Proxy(node, sidecar, options, redis=url)
    proxy.listen()
    with node, proxy, sidecar:
        pipe.send(int(node.proxy.rpartition(":")[2]))
        while heard(pipe) is not None:
            pipe.send(time.process_time_ns())


def _case(what: str, place: str) -> str:
    return f"{what}, {place}"


def _report(paces: Mapping[str, Sequence[Any]]) -> Report:
    figures: dict[str, float] = {}
    rows = []
    for what in (READ, IDLE, WRITE):
        direct = paces[_case(what, DIRECT)]
        for place in (DIRECT, PRIMARY, STANDBY):
            case, rounds = _case(what, place), paces[_case(what, place)]
            figures[f"{case} p50 us"] = median(each.p50_us for each in rounds)
            figures[f"{case} p99 us"] = median(each.p99_us for each in rounds)
            added = median(each.p50_us - base.p50_us for each, base in zip(rounds, direct, strict=True))
            cpu = median((each.cpu_us - base.cpu_us) / each.requests for each, base in zip(rounds, direct, strict=True))
            if place != DIRECT:
                figures |= {f"{case} adds us": added, f"{case} cpu us": cpu}
            shown = [f"{added / 1000:.2f}", f"{cpu / 1000:.2f}"] if place != DIRECT else ["", ""]
            p50, p99 = (f"{figures[f'{case} {which} us'] / 1000:.2f}" for which in ("p50", "p99"))
            rows.append([case, p50, p99, *shown])
    table = Table(head=["one request, by way of", "p50 ms", "p99 ms", "adds ms", "cpu ms"], rows=rows)
    return Report(title="The proxy before a program", prose=PROSE, tables=[table], figures=figures)
