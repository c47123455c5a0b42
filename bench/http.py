"""HTTP: what a read and a write cost beside the same application without us, and what holds up a read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import orjson

from bench.harness import Child, Report, Setting, Table, in_rounds, now_ns, ratio
from bench.http_client import KeptAlive, Load, Watch, be_client, request_of
from bench.http_server import RESTORE_TIMEOUT_S, be_node, be_plain
from bench.loads import Pace, figures_of
from replicator.log.redis_log import RedisLog
from replicator.ops.verification import verify

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

PLAIN_READ, PLAIN_WRITE = "read, without us", "write, without us"
READ, TOKEN, FRESH, WRITE = "read", "read with a token", "fresh read", "write"
SUBMIT = "Node.submit"

#: What each is held against.
BASES = {READ: PLAIN_READ, TOKEN: PLAIN_READ, FRESH: PLAIN_READ, WRITE: PLAIN_WRITE}

#: So many different records are asked for.
ASKED_FOR = 100

#: A write may take as long as a read and so many submits.
SUBMITS = 1.2

#: The pause between two reads where it is watched how long one takes.
READ_EVERY_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    connections: Sequence[int] = (1, 16, 64)
    #: Of the registry that is read while something large goes on.
    nodes: int
    stall_rounds: int
    #: For so long reads are watched before something begins, and after it, when what it left is freed.
    calm_s: float = 1.0


FULL = Sizes(rounds=7, seconds=0.7, nodes=108_000, stall_rounds=5)
QUICK = Sizes(rounds=2, seconds=0.3, nodes=5_000, stall_rounds=1)

PROSE = f"""\
A client of our own, in a process of its own, with raw sockets over connections that are kept alive; on each connection
the next request follows the answer to the one before. *Read* is one node of a registry of 1,000 (`GET /v1/nodes/ID`,
some 750 bytes), *write* a heartbeat of one (`POST /v1/nodes/ID/heartbeat`), on the primary. *Without us* is the same
registry in memory, served by two routes on the same Starlette and the same server, in a process of its own: no node, no
lock, no log, nothing waited for. *With a token* is a read with `Replicator-Wait` and a position that is there; *fresh*
is one with `Replicator-Fresh: 1`, which looks into Redis. A write is bounded by a read and {SUBMITS} submits
(`Node.submit` of the same heartbeats, in the same process, on one thread); *of its bound* compares the times of one
request, which is one second over the rate.

*Held up* is the longest that a read took while something large went on in the node that served it: one client reads
{ASKED_FOR} records in turns, with a pause of {READ_EVERY_S * 1e3:g} ms after each. *Calm* is the worst before it began,
and *without us* the worst of the same reads of the application alone, at the same time: where there are fewer cores
than busy processes, reads wait for those. *By the node's threads* is without that: a thread in the node's own process
gives the interpreter away as often as a read does, and notes how long it takes to get it back, less what it waits for a
core; the worse of the two nodes. The goal is held against this one. Each figure is the median of the rounds' worst
ones, the range in brackets.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure the loads, interleaved, and then what holds up a read."""
    return _report(_paces(setting, sizes), _held_up(setting, sizes), sizes)


# --- loads ------------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """One kind of request: of which server, and what is sent."""

    is_plain: bool
    requests: Sequence[bytes]


def _kinds(port: int) -> dict[str, Kind]:
    """What is sent, by its name. `port`: of the node."""
    ids, position = _ids(port), _asked(port, "/health")["position"]

    def reads(*headers: str) -> list[bytes]:
        return [request_of("GET", f"/v1/nodes/{one}", headers) for one in ids]

    writes = [request_of("POST", f"/v1/nodes/{one}/heartbeat", body=b"{}") for one in ids]
    return {
        PLAIN_READ: Kind(True, reads()),
        READ: Kind(False, reads()),
        TOKEN: Kind(False, reads(f"Replicator-Wait: {position}")),
        FRESH: Kind(False, reads("Replicator-Fresh: 1")),
        PLAIN_WRITE: Kind(True, writes),
        WRITE: Kind(False, writes),
    }


def _paces(setting: Setting, sizes: Sizes) -> dict[str, list[Pace]]:
    group = setting.group("http")
    with (
        Child(be_plain, 1000) as plain,
        Child(be_node, setting.url, group, setting.fresh("http"), "a", 1000) as node,
        Child(be_client) as client,
    ):
        plain_port, port = plain.hear(), node.hear()
        client.hear()
        cases: dict[str, Callable[[], Pace]] = {SUBMIT: lambda: node.ask(sizes.seconds)}
        for name, kind in _kinds(port).items():
            for connections in sizes.connections:
                load = Load(plain_port if kind.is_plain else port, kind.requests, connections, sizes.seconds)
                cases[_case(name, connections)] = partial(client.ask, load)
        return in_rounds(cases, sizes.rounds)


def _case(name: str, connections: int) -> str:
    return f"{name}, {connections} connection{'s' if connections > 1 else ''}"


def _ids(port: int) -> list[int]:
    """The first ones of the registry. The application alone has them as well, whatever the size is."""
    return [record["id"] for record in _asked(port, f"/v1/nodes?limit={ASKED_FOR}")["nodes"]]


def _asked(port: int, path: str) -> Any:
    with KeptAlive(port) as connection:
        return orjson.loads(connection.ask(request_of("GET", path)))


# --- what holds up a read ---------------------------------------------------------------------------------------------


class Worst(NamedTuple):
    """The longest that a read took, in ms, by who was asked; and that the node's threads let others wait."""

    calm: float
    primary: float
    standby: float
    plain: float
    interpreter: float


def _held_up(setting: Setting, sizes: Sizes) -> dict[str, list[Worst]]:
    place = setting.url, setting.group("held-up")
    with ExitStack() as stack:
        plain = stack.enter_context(Child(be_plain, 1000))
        primary = stack.enter_context(Child(be_node, *place, setting.fresh("primary"), "a", sizes.nodes))
        ports = [plain.hear(), primary.hear()]
        standby = stack.enter_context(Child(be_node, *place, setting.fresh("standby"), "b", 0))
        ports = [ports[1], standby.hear(), ports[0]]
        clients = [stack.enter_context(Child(be_client)) for _ in ports]
        for client in clients:
            client.hear()
        log = stack.enter_context(closing(RedisLog(*place)))
        document = _whole(ports[0])

        def replaced(replace: Callable[[], object]) -> None:
            replace()
            standby.ask(primary.ask("look"))

        replaced(lambda: None)  # the standby has it all

        works: dict[str, Callable[[], object]] = {
            "a snapshot is published": lambda: primary.ask("publish"),
            "`verify`": lambda: verify(log, by="bench", timeout_s=RESTORE_TIMEOUT_S),
            "the state is replaced (the standby restores it)": lambda: replaced(lambda: primary.ask("replace")),
            "GET /v1/state": lambda: _whole(ports[0]),
            "PUT /v1/state (the standby restores it)": lambda: replaced(lambda: _put(ports[0], document)),
        }
        readers = _Readers(clients, ports, [primary, standby], sizes.calm_s)
        cases = {name: partial(readers.watched, work) for name, work in works.items()}
        return in_rounds(cases, sizes.stall_rounds, warm_ups=0)


class _Readers(NamedTuple):
    """Clients that read the primary, the standby, and the application alone, each by its port."""

    clients: Sequence[Child]
    ports: Sequence[int]
    nodes: Sequence[Child]
    calm_s: float

    def watched(self, work: Callable[[], object]) -> Worst:
        """Carry out the work while they read."""
        requests = [request_of("GET", f"/v1/nodes/{one}") for one in _ids(self.ports[0])]
        for client, port in zip(self.clients, self.ports, strict=True):
            client.ask(Watch(port, requests, READ_EVERY_S))
        calm_since = now_ns()
        time.sleep(self.calm_s)
        for node in self.nodes:
            node.ask("watch")
        began = now_ns()
        work()
        time.sleep(self.calm_s)
        ended = now_ns()
        interpreter = max(node.ask("watched") for node in self.nodes)
        of_primary, of_standby, of_plain = ticks = [client.ask("end") for client in self.clients]
        return Worst(
            calm=max(each.worst_ms(calm_since, began) for each in ticks[:2]),
            primary=of_primary.worst_ms(began, ended),
            standby=of_standby.worst_ms(began, ended),
            plain=of_plain.worst_ms(began, ended),
            interpreter=interpreter,
        )


def _whole(port: int) -> bytes:
    with KeptAlive(port) as connection:
        return connection.ask(request_of("GET", "/v1/state"))


def _put(port: int, document: bytes) -> None:
    with KeptAlive(port) as connection:
        connection.ask(request_of("PUT", "/v1/state?force=1", body=document))


# --- the report -------------------------------------------------------------------------------------------------------


def _report(paces: dict[str, list[Pace]], held_up: dict[str, list[Worst]], sizes: Sizes) -> Report:
    figures: dict[str, float] = {}
    for name, rounds in paces.items():
        figures |= {f"{name} {what}": figure for what, figure in figures_of(rounds).items()}
    for connections in sizes.connections:
        figures |= _compared(paces, connections)
    for name, worst in held_up.items():
        figures[f"held up: {name} ms"] = median(each.interpreter for each in worst)
    if held_up:
        figures["held up ms"] = max(figures[f"held up: {name} ms"] for name in held_up)
    tables = [_loads_table(paces, figures, sizes), _held_up_table(held_up)]
    return Report(title="HTTP", prose=PROSE, tables=tables, figures=figures)


def _compared(paces: Mapping[str, list[Pace]], connections: int) -> dict[str, float]:
    """What is compared at so many connections: p50 and p99 against the application alone, a write with its bound."""
    figures: dict[str, float] = {}
    for name, base in BASES.items():
        ours, plain = paces[_case(name, connections)], paces[_case(base, connections)]
        for what in ("p50", "p99"):
            compared = ratio(
                [getattr(pace, f"{what}_us") for pace in ours], [getattr(pace, f"{what}_us") for pace in plain]
            )
            figures[f"{_case(name, connections)} {what} ratio"] = compared.of_medians
    times = {name: _time_us(paces[name]) for name in (_case(WRITE, connections), _case(READ, connections), SUBMIT)}
    write, read, submit = times.values()
    return figures | {f"{_case(WRITE, connections)} of its bound": write / (read + SUBMITS * submit)}


def _time_us(rounds: Sequence[Pace]) -> float:
    """One second over the rate."""
    return median(1e6 / pace.rate for pace in rounds)


def _loads_table(paces: Mapping[str, list[Pace]], figures: Mapping[str, float], sizes: Sizes) -> Table:
    names = [_case(name, connections) for connections in sizes.connections for name in (*BASES.values(), *BASES)]
    names = [SUBMIT, *dict.fromkeys(names)]
    return Table(
        head=["one after the other", "a second", "p50 us", "p99 us", "p50 x without us", "p99 x", "of its bound"],
        rows=[_load_row(name, paces[name], figures) for name in names],
    )


def _load_row(name: str, rounds: Sequence[Pace], figures: Mapping[str, float]) -> list[str]:
    rate, p50, p99, _ = (f"{figure:,.0f}" for figure in figures_of(rounds).values())
    shares = [figures.get(f"{name} {what}") for what in ("p50 ratio", "p99 ratio", "of its bound")]
    return [name, rate, p50, p99, *("" if share is None else f"{share:.2f}" for share in shares)]


def _held_up_table(held_up: Mapping[str, list[Worst]]) -> Table:
    head = ["held up: the worst, ms", "by the node's threads", "read, primary", "standby", "calm", "without us"]
    fields = ("interpreter", "primary", "standby", "calm", "plain")
    rows = [[name, *(_spread([getattr(each, field) for each in worst]) for field in fields)]
            for name, worst in held_up.items()]  # fmt: skip
    return Table(head=head, rows=rows)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
