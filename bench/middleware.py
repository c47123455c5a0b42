"""The middleware: the processor time that it adds to a read of an application, beside the same one without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from bench.harness import Child, Report, Setting, Table, heard, in_rounds, now_ns
from bench.http_client import Load, be_client, request_of
from bench.http_server import SEED, plain_app
from bench.registry_data import generate
from replicator import Node
from replicator.registry.loading import pieces_of
from replicator.registry.state import Registry
from replicator.web.asgi import Replicated
from replicator.web.server import WebServer
from replicator.web.wsgi import Replicated as ReplicatedWSGI

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

ALONE, READ, COOKIE, TOKEN = "alone", "read", "read with a cookie", "read with a token"
ASGI, WSGI = "ASGI", "WSGI"

#: What is in the middleware.
OURS = (READ, COOKIE, TOKEN)

NODES = 1000

#: So many different records are asked for.
ASKED_FOR = 100


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float


FULL = Sizes(rounds=9, seconds=1.0)
QUICK = Sizes(rounds=2, seconds=0.2)

PROSE = """\
The same application twice in one process: alone, and in the middleware (`replicator.web.asgi` and `.wsgi`), around a
node that leads. A read is one node of a registry of 1,000, some 750 bytes, from the same dict in both. *ASGI* is
Starlette on uvicorn, asked by a process of its own over one connection that is kept alive; *WSGI* a bare application
that is called on a thread, because no server of the kind is among the dependencies. *With a cookie* carries a position
that is there, *with a token* the same in `Replicator-Wait`. The processor time is that of the whole process, its node
included, over the requests of a round; *adds* is the difference to the same round alone. Medians, the range of the
rounds in brackets.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    with ExitStack() as stack:
        place = setting.url, setting.group("middleware"), setting.fresh("middleware")
        server = stack.enter_context(Child(be_server, *place))
        ports = server.hear()
        client = stack.enter_context(Child(be_client))
        client.hear()
        cases: dict[str, Callable[[], Cost]] = {}
        for name, headers in _headers(ports.position).items():
            port = ports.alone if name == ALONE else ports.ours
            lines = [f"{key}: {value}" for key, value in headers.items()]
            requests = [request_of("GET", f"/v1/nodes/{one}", lines) for one in ports.ids]
            load = Load(port, requests, 1, sizes.seconds)
            cases[_case(ASGI, name)] = partial(_of_server, server, client, load)
            cases[_case(WSGI, name)] = partial(server.ask, Calls(name, headers, sizes.seconds))
        return _report(in_rounds(cases, sizes.rounds))


def _headers(position: str) -> dict[str, dict[str, str]]:
    cookie = {"Cookie": f"theme=dark; replicator-position={position}"}
    return {ALONE: {}, READ: {}, COOKIE: cookie, TOKEN: {"Replicator-Wait": position}}


class Cost(NamedTuple):
    """Of one request, in a round."""

    cpu_us: float
    p50_us: float


def _of_server(server: Child, client: Child, load: Load) -> Cost:
    before_ns = server.ask("cpu")
    pace = client.ask(load)
    return Cost((server.ask("cpu") - before_ns) / 1e3 / pace.changes, pace.p50_us)


# --- the process that serves ------------------------------------------------------------------------------------------


class Ports(NamedTuple):
    """Where the application is served alone and in the middleware, what is in it, and where its node is."""

    alone: int
    ours: int
    ids: Sequence[int]
    position: str


class Calls(NamedTuple):
    """A case of WSGI, for so long."""

    name: str
    headers: Mapping[str, str]
    seconds: float


def be_server(pipe: Connection, url: str, group: str, data_dir: Path) -> None:
    """Says its `Ports`. Told "cpu", it says how much processor time it has had (ns); told `Calls`, their `Cost`."""
    registry = Registry()
    registry.restore(pieces_of(generate(NODES, SEED)))
    ids = list(registry.nodes(limit=ASKED_FOR))
    with Node(Registry(), group=group, name="a", data_dir=data_dir, redis=url, http="http://127.0.0.1:1") as node:
        node.promote()
        apps: dict[bool, Callable[[Any, Any], Any]] = {
            False: _wsgi_app(registry),
            True: ReplicatedWSGI(_wsgi_app(registry), node=node),
        }
        with WebServer(plain_app(registry)) as alone, WebServer(Replicated(plain_app(registry), node=node)) as ours:
            pipe.send(Ports(alone.port, ours.port, ids, str(node.position.id)))
            while (told := heard(pipe)) is not None:
                if isinstance(told, Calls):
                    pipe.send(_called(apps[told.name != ALONE], ids, told))
                else:
                    pipe.send(time.process_time_ns())


def _wsgi_app(registry: Registry) -> Callable[[Any, Any], list[bytes]]:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = orjson.dumps(registry.node(int(environ["PATH_INFO"].rpartition("/")[2])))
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return app


def _called(app: Callable[[Any, Any], Any], ids: Sequence[int], calls: Calls) -> Cost:
    headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in calls.headers.items()}
    took_ns: list[int] = []
    asked = cycle(ids)
    cpu_ns, until_ns = time.process_time_ns(), now_ns() + int(calls.seconds * 1e9)
    while not took_ns or now_ns() < until_ns:
        path = f"/v1/nodes/{next(asked)}"
        environ = {
            "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "RAW_URI": path, "QUERY_STRING": "",
            "wsgi.input": BytesIO(), "wsgi.url_scheme": "http", "HTTP_HOST": "bench", **headers,
        }  # fmt: skip
        began_ns = now_ns()
        for _ in app(environ, _start_response):
            pass
        took_ns.append(now_ns() - began_ns)
    return Cost((time.process_time_ns() - cpu_ns) / 1e3 / len(took_ns), median(took_ns) / 1e3)


def _start_response(status: str, headers: object, exc_info: object = None) -> None:
    if not status.startswith("200"):
        raise RuntimeError(f"answered {status}")


# --- the report -------------------------------------------------------------------------------------------------------


def _case(kind: str, name: str) -> str:
    return f"{kind}, {name}"


def _report(costs: Mapping[str, Sequence[Cost]]) -> Report:
    figures: dict[str, float] = {}
    rows = []
    for kind in (ASGI, WSGI):
        alone = costs[_case(kind, ALONE)]
        for name in (ALONE, *OURS):
            case, rounds = _case(kind, name), costs[_case(kind, name)]
            figures[f"{case} cpu us"] = median(each.cpu_us for each in rounds)
            figures[f"{case} p50 us"] = median(each.p50_us for each in rounds)
            added = [each.cpu_us - base.cpu_us for each, base in zip(rounds, alone, strict=True)]
            if name != ALONE:
                figures[f"{case} adds us"] = median(added)
            spread = f"{median(added):.1f} ({min(added):.1f} to {max(added):.1f})" if name != ALONE else ""
            rows.append([case, f"{figures[f'{case} cpu us']:.0f}", spread, f"{figures[f'{case} p50 us']:.0f}"])
    table = Table(head=["one read", "cpu us", "adds us", "p50 us"], rows=rows)
    return Report(title="In your service", prose=PROSE, tables=[table], figures=figures)
