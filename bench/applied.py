"""From a change that is submitted to the same change applied on a standby in another process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import chain, count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from bench.harness import Child, Report, Setting, Table, heard, in_rounds, now_ns, percentile, plain_client, ratio
from bench.states import Arrivals
from replicator import Node

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

#: Changes are sent this far apart, so that none waits behind the one before it.
APART_S = 0.01

#: A directory in memory, for the standby whose disk costs nothing.
IN_MEMORY = Path("/dev/shm")

BARE, ON_DISK, WITHOUT_DISK = "XADD to XREAD", "submit to applied", "the same, checkpoints in memory"
DISK = "write 4 KiB, fsync"

PROSE = f"""\
One process sends a small change every {APART_S * 1e3:g} ms, another one receives it; both read the same clock. The
*baseline* is a bare ping in the same Redis: redis-py's `XADD` there, `XREAD BLOCK` here. With the package it is
`Node.submit` there and `apply` here, and in between the standby has checked the record, folded it and written it to
its checkpoint with an fsync, for a standby saves before it applies. To see what the disk has to do with it, a second
pair of nodes keeps its checkpoints in memory (where the machine has such a directory), and each round has a file to
which 4 KiB are appended and synced, at the same pace, by nobody but this process. *From the call* counts from
before the call that sends, *from the answer* from its return, when the caller knows that the change is committed. The
latter can be negative: the standby may be done before the primary is. The p99 is that of all rounds together. All is
in microseconds.
"""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    pings: int


FULL = Sizes(rounds=15, pings=100)
QUICK = Sizes(rounds=3, pings=30)


class Ping(NamedTuple):
    """When the call that sent it began and ended, and when it was received."""

    called_ns: int
    answered_ns: int
    received_ns: int


class Route(Protocol):
    """A way from here to another process."""

    def expect(self, numbers: range) -> None: ...

    def send(self, number: int) -> None: ...

    def received(self, numbers: range) -> dict[int, int]: ...


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure the bare ping and the nodes, interleaved."""
    numbers = count(step=sizes.pings)
    with ExitStack() as stack:
        routes: dict[str, Route] = {BARE: stack.enter_context(Bare(setting))}
        routes[ON_DISK] = stack.enter_context(Pair(setting, setting.directory))
        if os.access(IN_MEMORY, os.W_OK):
            in_memory = stack.enter_context(TemporaryDirectory(prefix="replicator-bench-", dir=IN_MEMORY))
            routes[WITHOUT_DISK] = stack.enter_context(Pair(setting, Path(in_memory)))
        synced = stack.enter_context(setting.fresh("synced").open("ab", buffering=0))
        cases: dict[str, Callable[[], Any]] = {
            name: partial(pinged, route, numbers, sizes) for name, route in routes.items()
        }
        cases[DISK] = lambda: [_synced_us(synced) for _ in range(sizes.pings)]
        rounds = in_rounds(cases, sizes.rounds)
    return _report(rounds)


def _synced_us(file: FileIO) -> float:
    time.sleep(APART_S)
    began = now_ns()
    file.write(bytes(4096))
    os.fsync(file)
    return (now_ns() - began) / 1e3


def pinged(route: Route, firsts: Iterator[int], sizes: Sizes) -> list[Ping]:
    """Send so many pings; one after the other, with pauses."""
    first = next(firsts)
    numbers = range(first, first + sizes.pings)
    route.expect(numbers)
    sent: dict[int, tuple[int, int]] = {}
    for number in numbers:
        time.sleep(APART_S)
        called_ns = now_ns()
        route.send(number)
        sent[number] = called_ns, now_ns()
    received = route.received(numbers)
    return [Ping(*sent[number], received[number]) for number in numbers]


class Bare:
    """redis-py, a plain stream, and a process that reads it."""

    def __init__(self, setting: Setting) -> None:
        self._stream = setting.group("ping")
        self._client = plain_client(setting.url)
        self._reader = Child(read_plain, setting.url, self._stream)

    def expect(self, numbers: range) -> None:
        self._reader.ask(len(numbers))

    def send(self, number: int) -> None:
        self._client.xadd(self._stream, {"ping": number})

    def received(self, numbers: range) -> dict[int, int]:
        received: dict[int, int] = self._reader.hear()
        return received

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._client.close()


def read_plain(pipe: Connection, url: str, stream: str) -> None:
    """The other process of `Bare`: told how many to read, it says that it is ready, and then when each arrived."""
    after = "0-0"
    with plain_client(url) as client:
        while (expected := heard(pipe)) is not None:
            pipe.send("ready")
            at_ns: dict[int, int] = {}
            while len(at_ns) < expected:
                for _, entries in client.xread({stream: after}, block=1000, count=32) or []:
                    at_ns |= {int(fields[b"ping"]): now_ns() for _, fields in entries}
                    after = entries[-1][0]
            pipe.send(at_ns)


class Pair:
    """A primary here, and its standby in another process; their checkpoints below `directory`."""

    def __init__(self, setting: Setting, directory: Path) -> None:
        group = setting.group("applied")
        place = directory / group
        self._node = Node(Arrivals(), group=group, name="a", data_dir=place / "a", redis=setting.url)
        self._node.start()
        self._node.promote()
        self._standby = Child(follow, setting.url, group, str(place / "b"))
        self._standby.hear()

    def expect(self, numbers: range) -> None:
        pass

    def send(self, number: int) -> None:
        self._node.submit({"ping": number})

    def received(self, numbers: range) -> dict[int, int]:
        received: dict[int, int] = self._standby.ask(self._node.position.id.n)
        return received

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._standby.close()
        self._node.stop()


def follow(pipe: Connection, url: str, group: str, data_dir: str) -> None:
    """The other process of `Pair`: told a number of a record, it waits for it, and says when each ping was applied."""
    with Node(Arrivals(), group=group, name="b", data_dir=data_dir, redis=url) as node:
        node.wait(n=1)
        pipe.send("ready")
        while (n := heard(pipe)) is not None:
            node.wait(n=n, timeout_s=60)
            with node.reading() as arrivals:
                at_ns, arrivals.at_ns = arrivals.at_ns, {}
            pipe.send(at_ns)


def _report(rounds: dict[str, list[Any]]) -> Report:
    disk_us: list[list[float]] = rounds.pop(DISK)
    tables: list[Table] = []
    figures: dict[str, float] = {}
    for since in ("from the call", "from the answer"):
        delays_us = {name: [[_delay_us(ping, since) for ping in pings] for pings in each]
                     for name, each in rounds.items()}  # fmt: skip
        if since == "from the call":
            delays_us[DISK] = disk_us
        figures |= {f"{name}, {since}, p{percent} us": _percentile(each, percent)
                    for name, each in delays_us.items() for percent in (50, 99)}  # fmt: skip
        tables.append(_table(since, delays_us))
    figures |= {f"{name} ratio": figures[f"{name}, from the call, p50 us"] / figures[f"{BARE}, from the call, p50 us"]
                for name in rounds}  # fmt: skip
    return Report(title="Committed to applied", prose=PROSE, tables=tables, figures=figures)


def _table(since: str, delays_us: dict[str, list[list[float]]]) -> Table:
    rows = [[name, *(f"{_percentile(each, percent):,.0f}" for percent in (50, 99))] for name, each in delays_us.items()]
    if since != "from the call":
        return Table(head=[since, "p50 us", "p99 us"], rows=rows)
    p50s = {name: [percentile(delays, 50) for delays in each] for name, each in delays_us.items()}
    for row in rows:
        row.append("1" if row[0] == BARE else str(ratio(p50s[row[0]], p50s[BARE])))
    return Table(head=[since, "p50 us", "p99 us", f"p50 x {BARE}"], rows=rows)


def _percentile(rounds: list[list[float]], percent: float) -> float:
    """The median of the rounds' medians; anything rarer from all of them together, or a round would be too short."""
    if percent == 50:
        return median(percentile(delays, 50) for delays in rounds)
    return percentile(list(chain.from_iterable(rounds)), percent)


def _delay_us(ping: Ping, since: str) -> float:
    return (ping.received_ns - (ping.called_ns if since == "from the call" else ping.answered_ns)) / 1e3
