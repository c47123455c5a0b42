"""What a group costs among many in one process, and what they take in together."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from secrets import token_urlsafe
from statistics import median
from typing import Any, NamedTuple

from bench.charts import Lines
from bench.harness import Child, Report, Setting, Table, heard, in_rounds, memory, now_ns, plain_client
from bench.loads import CHANGE_BYTES, a_change
from replicator import Node
from replicator.node.host import Host
from replicator.node.options import NodeKeywords

__all__ = ["FULL", "QUICK", "Habits", "Sizes", "measure"]

#: Threads that start, promote and stop nodes.
STARTERS = 8

#: Changes in one call of `submit_many`.
BATCH = 1000

#: How long a standby may take to have all that was written.
FOLLOW_TIMEOUT_S = 120.0

#: Threads are counted so often, over a second: those that relieve others have gone by then.
THREAD_COUNTS, COUNT_EVERY_S = 20, 0.05


class Habits(NamedTuple):
    """How often nodes report, and how long the idle ones are watched."""

    name: str
    lease_s: float
    beat_every_s: float
    window_s: float


DEFAULT = Habits("lease 5 s, beat 1 s", 5.0, 1.0, 4.0)
LONG = Habits("lease 30 s, beat 10 s", 30.0, 10.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    #: Of one load.
    seconds: float
    groups: Sequence[int] = (1, 10, 100, 1000)
    #: Loads run with the last one.
    habits: Sequence[Habits] = field(default=(DEFAULT, LONG))


FULL = Sizes(rounds=3, seconds=2.0)
QUICK = Sizes(rounds=1, seconds=0.2, groups=(1, 5), habits=(Habits("lease 5 s, beat 0.3 s", 5.0, 0.3, 0.5),))

PROSE = f"""\
Two processes, each a `Host` of so many groups: one has the primaries, the other one a standby of each, all with a state
that does next to nothing and a checkpoint on the disk of this machine. *Start* is `Host.node` with an empty directory,
*promote* is `Node.promote` until the node leads, both called by {STARTERS} threads; each is the time for all groups,
divided by their number. *Memory* is what the process has more than without groups; *Redis memory* is its `used_memory`
more, with a primary and a standby of each group, and nothing written.

*Idle*: nobody writes, so what is left is heartbeats, the renewal of leases and waiting. Processor time is in
microseconds for each group and second: 100 of them are 1% of a core with 100 groups, and 10% with 1,000. That of Redis
is for the primary and the standby of the group.

*Writes* of {CHANGE_BYTES} bytes, with the longer lease. *Spread*: each group has one asyncio task that awaits
`node.asubmit` again and again, so every record has one change. *In one group*: as many tasks write to one of these
groups, and share its records. *One thread* calls `node.submit` for one group after the other, or for one all the
time. *Standby* is how many records a second the other host had taken in, from the first write until it had all of
them, and *behind*, how long it needed for the rest once the last write was answered. *By {BATCH:,}* is one thread
with `node.submit_many`, of changes that do not compress. *Redis, us a change* is its processor time for each change,
with a standby that reads them. It has one thread for all groups, so a million divided by that is what it carries in a
second at the most.

*Taken over*: the process with the primaries is killed with SIGKILL, and the nodes of the other host have
`auto_promote`. From the kill until half of the groups, and all of them, had a primary that takes writes. Until the
lease of the dead one is over, which has two thirds of its length left or more, nothing is to happen.
"""


# --- one turn ---------------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """What a process of many groups costs before anything happens."""

    start_ms: float
    promote_ms: float
    memory_kb: float
    threads: int
    files: int


class Load(NamedTuple):
    """What was written."""

    changes: int
    began_ns: int
    ended_ns: int

    @property
    def rate(self) -> float:
        return self.changes / (self.ended_ns - self.began_ns) * 1e9


class Turn(NamedTuple):
    primaries: Started
    standbys: Started
    connections: int
    redis_kb: float
    #: Processor time while nothing happens, in us for each group and second.
    idle_us: dict[str, float]
    #: By the name of the load.
    rates: dict[str, float]
    #: Processor time of Redis for each change, by the name of the load.
    redis_us: dict[str, float]
    followed: float
    behind_ms: float
    #: From the end of the primaries' process until half of the groups, and all of them, had another primary.
    taken_over_s: tuple[float, float] | None


SPREAD = "spread, tasks"
BATCHES = f"in one group, by {BATCH:,}"
LOADS = (SPREAD, "in one group, tasks", "spread, one thread", "in one group, one thread", BATCHES)
PROCESSES = ("primaries", "standbys", "Redis")


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all numbers of groups with all habits, interleaved."""
    cases = {
        f"{groups} {habits.name}": partial(_turn, setting, groups, habits, sizes, habits is sizes.habits[-1])
        for groups in sizes.groups
        for habits in sizes.habits
    }
    # Each turn begins with new processes.
    return _report(in_rounds(cases, sizes.rounds, warm_ups=0), sizes)


def _turn(setting: Setting, groups: int, habits: Habits, sizes: Sizes, with_loads: bool) -> Turn:
    names = [setting.group("groups") for _ in range(groups)]
    with ExitStack() as stack, plain_client(setting.url) as client:
        before = client.info("memory")["used_memory"]
        place = setting.url, names, habits
        sender = stack.enter_context(Child(be_host, *place, setting.fresh("primaries"), "a"))
        primaries: Started = sender.hear()
        connections = sum(each["name"] == "replicator-host" for each in client.client_list())
        receiver = stack.enter_context(Child(be_host, *place, setting.fresh("standbys"), "b"))
        standbys: Started = receiver.hear()
        redis_kb = (client.info("memory")["used_memory"] - before) / 1024 / groups
        children = {"primaries": sender, "standbys": receiver}
        idle_us = _idle(children, client, groups, habits.window_s)
        loads = _loads(sender, receiver, client, sizes.seconds) if with_loads else ({}, {}, 0.0, 0.0)
        taken_over_s = _taken_over(sender, receiver) if habits is sizes.habits[0] else None
        return Turn(primaries, standbys, connections, redis_kb, idle_us, *loads, taken_over_s)


def _idle(children: Mapping[str, Child], client: Any, groups: int, seconds: float) -> dict[str, float]:
    time.sleep(min(1.0, seconds))  # what the start left to do
    redis_us, began_ns = _redis_us(client), now_ns()
    for child in children.values():
        child.tell(("idle", seconds))
    found = {name: child.hear() for name, child in children.items()}
    found["Redis"] = (_redis_us(client) - redis_us) / (now_ns() - began_ns) * 1e9
    return {name: us / groups for name, us in found.items()}


def _redis_us(client: Any) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"]) * 1e6


def _loads(
    sender: Child, receiver: Child, client: Any, seconds: float
) -> tuple[dict[str, float], dict[str, float], float, float]:
    rates: dict[str, float] = {}
    redis_us: dict[str, float] = {}
    followed: dict[str, tuple[float, float]] = {}
    sent = 0
    for name in LOADS:
        before_us = _redis_us(client)
        load: Load = sender.ask((name, seconds))
        sent += load.changes
        at_ns: int = receiver.ask(("follow", sent))
        redis_us[name] = (_redis_us(client) - before_us) / load.changes
        rates[name] = load.rate
        took_ns = max(at_ns, load.ended_ns) - load.began_ns
        followed[name] = load.changes / took_ns * 1e9, max(0, at_ns - load.ended_ns) / 1e6
    return rates, redis_us, *followed[SPREAD]


def _taken_over(sender: Child, receiver: Child) -> tuple[float, float]:
    sender.kill()
    killed_ns = now_ns()
    half_ns, all_ns = receiver.ask(("lead", 0.0))
    return (half_ns - killed_ns) / 1e9, (all_ns - killed_ns) / 1e9


# --- the processes ----------------------------------------------------------------------------------------------------


class Counted:
    """Counts changes."""

    def __init__(self) -> None:
        self.changes = 0

    def snapshot(self) -> Iterable[Any]:
        return [self.changes]

    def restore(self, pieces: Iterable[Any]) -> None:
        (self.changes,) = pieces

    def apply(self, change: Any) -> None:
        self.changes += 1


def be_host(pipe: Connection, url: str, groups: Sequence[str], habits: Habits, data_dir: Path, name: str) -> None:
    """The process of a host with a node of each group; those of node `a` lead."""
    before_mb = memory().resident_mb
    states = [Counted() for _ in groups]
    with Host(url) as host, ThreadPoolExecutor(STARTERS) as pool:

        def start(number: int) -> Node:
            place = data_dir / str(number)
            options = NodeKeywords(lease_s=habits.lease_s, beat_every_s=habits.beat_every_s, auto_promote=name == "b")
            return host.node(states[number], group=groups[number], name=name, data_dir=place, **options)

        began = now_ns()
        nodes = list(pool.map(start, range(len(groups))))
        started = now_ns()
        list(pool.map(Node.promote if name == "a" else _join, nodes))
        promoted = now_ns()
        memory_kb = (memory().resident_mb - before_mb) * 1e3 / len(groups)
        start_ms, promote_ms = ((each / 1e6) / len(groups) for each in (started - began, promoted - started))
        pipe.send(Started(start_ms, promote_ms, memory_kb, _threads() - len(pool._threads), _open_files()))
        while (told := heard(pipe)) is not None:
            what, number = told
            pipe.send(_answer(what, number, nodes, states))


def _join(node: Node) -> None:
    node.wait(n=1, timeout_s=FOLLOW_TIMEOUT_S)


def _threads() -> int:
    """The least that there are within a while: a host takes on more while a Redis that is slow holds some up."""
    counts = []
    for _ in range(THREAD_COUNTS):
        counts.append(threading.active_count())
        time.sleep(COUNT_EVERY_S)
    return min(counts)


def _open_files() -> int:
    """0: the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _answer(what: str, number: float, nodes: Sequence[Node], states: Sequence[Counted]) -> Any:
    if what == "idle":
        began_ns, cpu_ns = now_ns(), time.process_time_ns()
        time.sleep(number)
        return (time.process_time_ns() - cpu_ns) / 1e3 / ((now_ns() - began_ns) / 1e9)
    if what == "lead":
        return _led(nodes)
    if what == "follow":
        return _followed(states, int(number))
    chosen = nodes if what.startswith("spread") else nodes[:1]
    if what == BATCHES:
        return _written_in_batches(nodes[0], number)
    if what.endswith("tasks"):
        return asyncio.run(_written_by_tasks(chosen, len(nodes), number))
    return _written_by_a_thread(chosen, number)


def _followed(states: Sequence[Counted], changes: int) -> int:
    """When all of these had been applied."""
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    while (have := sum(state.changes for state in states)) < changes:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{have} of {changes} changes came in {FOLLOW_TIMEOUT_S:g} s")
        time.sleep(0.002)
    return now_ns()


def _led(nodes: Sequence[Node]) -> tuple[int, int]:
    """When half of these had become primaries, and all."""
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    half_ns = 0
    while (led := sum(node.role == "primary" and node.lease_ms is not None for node in nodes)) < len(nodes):
        half_ns = half_ns or (now_ns() if led >= len(nodes) / 2 else 0)
        if time.monotonic() > deadline:
            raise RuntimeError(f"{led} of {len(nodes)} groups have a primary after {FOLLOW_TIMEOUT_S:g} s")
        time.sleep(0.005)
    return half_ns or now_ns(), now_ns()


async def _written_by_tasks(nodes: Sequence[Node], tasks: int, seconds: float) -> Load:
    written, change, began_ns = count(), a_change(), now_ns()
    until_ns = began_ns + int(seconds * 1e9)

    async def write(node: Node) -> None:
        while True:  # once at the least, as in `loads.py`
            await node.asubmit(change, timeout_s=FOLLOW_TIMEOUT_S)
            next(written)
            if now_ns() >= until_ns:
                return

    async with asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(write(nodes[number % len(nodes)]))
    return Load(next(written), began_ns, now_ns())


def _written_by_a_thread(nodes: Sequence[Node], seconds: float) -> Load:
    change, began_ns = a_change(), now_ns()
    until_ns = began_ns + int(seconds * 1e9)
    written = 0
    while not written or now_ns() < until_ns:
        nodes[written % len(nodes)].submit(change)
        written += 1
    return Load(written, began_ns, now_ns())


def _written_in_batches(node: Node, seconds: float) -> Load:
    pads = (token_urlsafe(CHANGE_BYTES) for _ in range(BATCH))
    changes, began_ns = [{"pad": pad[: CHANGE_BYTES - len('{"pad":""}')]} for pad in pads], now_ns()
    until_ns = began_ns + int(seconds * 1e9)
    written = 0
    while not written or now_ns() < until_ns:
        node.submit_many(changes)
        written += BATCH
    return Load(written, began_ns, now_ns())


# --- the report -------------------------------------------------------------------------------------------------------


def _report(rounds: Mapping[str, list[Turn]], sizes: Sizes) -> Report:
    first, last = sizes.habits[0], sizes.habits[-1]
    figures: dict[str, float] = {}
    costs: list[list[str]] = []
    idle: list[list[str]] = []
    writes: list[list[str]] = []
    carried: list[list[str]] = []
    taken_over: list[list[str]] = []
    for groups in sizes.groups:
        turns = rounds[f"{groups} {last.name}"]
        found = _costs(turns)
        figures |= {f"{groups} {what}": figure for what, figure in found.items()}
        costs.append([f"{groups:,}", *(_shown(figure) for figure in found.values())])
        for habits in sizes.habits:
            us = {name: median(t.idle_us[name] for t in rounds[f"{groups} {habits.name}"]) for name in PROCESSES}
            figures |= {f"{groups} {habits.name}: {name} us": figure for name, figure in us.items()}
            idle.append([f"{groups:,}, {habits.name}", *(_shown(figure) for figure in us.values())])
        loads = _written(turns)
        figures |= {f"{groups} {what}": figure for what, figure in loads.items()}
        writes.append([f"{groups:,}", *(_shown(figure) for figure in loads.values())])
        us = {name: median(turn.redis_us[name] for turn in turns) for name in LOADS}
        figures |= {f"{groups} {name}: Redis us": figure for name, figure in us.items()}
        carried.append([f"{groups:,}", *(_shown(figure) for figure in us.values())])
        over = [turn.taken_over_s for turn in rounds[f"{groups} {first.name}"] if turn.taken_over_s is not None]
        seconds = [median(each) for each in zip(*over, strict=True)]
        figures |= {f"{groups} half taken over s": seconds[0], f"{groups} taken over s": seconds[1]}
        taken_over.append([f"{groups:,}, {first.name}", *(f"{each:.1f}" for each in seconds)])
    tables = [
        Table(head=["groups", *_COSTS], rows=costs),
        Table(head=["idle, us a group and second", *PROCESSES], rows=idle),
        Table(head=["writes a second", *LOADS, "standby", "behind ms"], rows=writes),
        Table(head=["Redis, us a change", *LOADS], rows=carried),
        Table(head=["taken over", "half after s", "all after s"], rows=taken_over),
    ]
    title = "Many groups in one process"
    return Report(title=title, prose=PROSE, tables=tables, figures=figures, charts=[_chart(figures, sizes)])


_COSTS = (
    *("start ms", "promote ms", "memory KB", "memory KB, standby", "Redis memory KB", "threads", "open files"),
    "connections",
)


def _costs(turns: Sequence[Turn]) -> dict[str, float]:
    each = [
        (
            *(turn.primaries.start_ms, turn.primaries.promote_ms, turn.primaries.memory_kb, turn.standbys.memory_kb),
            *(turn.redis_kb, turn.primaries.threads, turn.primaries.files, turn.connections),
        )
        for turn in turns
    ]
    return {what: median(values) for what, values in zip(_COSTS, zip(*each, strict=True), strict=True)}


def _written(turns: Sequence[Turn]) -> dict[str, float]:
    rates = {f"{name} per second": median(turn.rates[name] for turn in turns) for name in LOADS}
    followed = {
        "standby per second": median(turn.followed for turn in turns),
        "behind ms": median(turn.behind_ms for turn in turns),
    }
    return rates | followed


def _shown(figure: float) -> str:
    return f"{figure:,.1f}" if figure < 10 and figure != int(figure) else f"{figure:,.0f}"


def _chart(figures: Mapping[str, float], sizes: Sizes) -> Lines:
    return Lines(
        name="groups-idle",
        title="Processor time of an idle group among so many in one process",
        x_label="groups in the process (log scale)",
        y_label="us a group and second (log scale)",
        series={
            f"{name}, {habits.name}": [
                (groups, figures[f"{groups} {habits.name}: {name} us"]) for groups in sizes.groups
            ]
            for habits in sizes.habits
            for name in ("primaries", "Redis")
        },
        log_y=True,
    )
