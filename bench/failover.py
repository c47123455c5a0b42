"""Failover: how long nobody can write when the primary dies, is replaced, or loses Redis for a moment."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, NamedTuple

from bench.charts import Bars
from bench.failover_node import NAMES, Acknowledged, Group, Writer, first_accepted
from bench.harness import Report, Setting, Table, in_rounds, now_ns, percentile, wait_until
from bench.loads import CHANGE_BYTES
from bench.peers import SENTINEL_DOWN_AFTER_MS, SentinelGroup, SyncObjGroup, syncobj_version
from replicator import ops
from replicator.node.options import BEAT_EVERY_S_MAX
from replicator.sandbox.redis_server import RedisServer

__all__ = ["FULL", "QUICK", "Sizes", "measure", "report"]

#: So many threads write during a switchover.
WRITERS = 4

#: The writers run so long before a switchover, and after it.
LOAD_S = 0.3

#: A command is given so long: how long it took is measured, and a busy machine is none that has none.
SWITCHOVER_TIMEOUT_S = 60.0

#: A group whose primary is replaced by command has the lease that a node has if nobody says otherwise.
DEFAULT_LEASE_S = 5.0

#: A Raft that notices as fast as a lease of 0.3 s. Three periods have to be shorter than the shortest timeout.
TUNED = {"raftMinTimeout": 0.15, "raftMaxTimeout": 0.3, "appendEntriesPeriod": 0.04}

PROMOTE, SWITCHOVER = "promote", f"switchover, {WRITERS} writers"
SYNCOBJ, SYNCOBJ_TUNED = "PySyncObj, as it comes", "PySyncObj, tuned"
SENTINEL = f"Redis Sentinel, down after {SENTINEL_DOWN_AFTER_MS / 1000:g} s"

PROSE = f"""\
How long nobody can write. Nodes, servers and peers are processes of their own, three nodes to a group; a client for
each node tries a write every 2 ms and notes when one was accepted, on the clock that all processes of a machine share.
Each round begins with new processes and a new group where something is killed or restarted. In milliseconds; *goal* is
for the median.

*kill -9 of the leader*, at a random moment: until a write is accepted elsewhere. The nodes have `auto_promote`, and
nothing is to happen before the lease of the dead primary is over, which has two thirds of its length left or more;
*after the lease* is what was added to that. The peers do other work and are here for the time alone. PySyncObj is a
Raft in Python that keeps its log in memory: once with its own timeouts (0.4 to 1.4 s), once with
`{", ".join(f"{name}={value:g}" for name, value in TUNED.items())}`. Redis Sentinel
is a master with two replicas and three sentinels, and the write is a `SET` through `Sentinel.master_for`.

*A command*, in a group that works: `ops.promote` as the command line calls it (its interpreter takes some 250 ms to
start, which are not in this), from the call to the first write that the new primary accepted. And `ops.switchover`
while {WRITERS} threads write changes of {CHANGE_BYTES} bytes as fast as they can to whoever leads: from the
last write that the old primary accepted to the first one of the new primary, as those who write see it; and what the
command says of it.

*Clean restart of Redis*: it is ended with SIGTERM, and started again on its AOF. From when it answers again, and from
when it was told to end, to the first write accepted. It comes back as another run, in which the former primary takes a
new term once all nodes had two heartbeats of time to report.
"""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    #: In seconds.
    leases: Sequence[float] = (1.0, 0.3)
    peers: bool = True
    warm_ups: int = 1


FULL = Sizes(rounds=20)
QUICK = Sizes(rounds=3, warm_ups=0)


class Killed(NamedTuple):
    """From the kill to the first write that another node accepted; how much of that came after the lease was over."""

    ms: float
    after_lease_ms: float


class Switched(NamedTuple):
    """The gap as the writers saw it, and as the command tells; what became of the writes."""

    gap_ms: float
    told_ms: float
    acknowledged: int
    missing: int
    twice: int
    unknown: int


class Restarted(NamedTuple):
    """Until the first write was accepted: since Redis answered again, and since it was told to end."""

    since_answer_ms: float
    since_end_ms: float


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure the nodes and the peers, interleaved."""
    cases: dict[str, Callable[[], Any]] = {}
    for lease_s in sizes.leases:
        cases[_kill(lease_s)] = partial(killed, setting, lease_s)
    with ExitStack() as stack:
        operated = stack.enter_context(Operated(setting))
        cases[PROMOTE] = operated.promoted
        cases[SWITCHOVER] = operated.switched
        for lease_s in sizes.leases:
            cases[_restart(lease_s)] = stack.enter_context(Restarts(setting, lease_s)).restarted
        if sizes.peers:
            cases |= _peers(setting)
        rounds = in_rounds(cases, sizes.rounds, warm_ups=sizes.warm_ups)
    return report(rounds, sizes)


def _kill(lease_s: float) -> str:
    return f"replicator, lease {lease_s:g} s"


def _restart(lease_s: float) -> str:
    return f"lease {lease_s:g} s"


def _peers(setting: Setting) -> dict[str, Callable[[], float]]:
    def failed_over(group: Callable[[], SyncObjGroup | SentinelGroup]) -> float:
        with group() as started:
            return started.failover_ms()

    cases: dict[str, Callable[[], float]] = {
        SENTINEL: partial(failed_over, lambda: SentinelGroup(setting.fresh("sentinel")))
    }
    if syncobj_version() is not None:
        cases[SYNCOBJ] = partial(failed_over, lambda: SyncObjGroup({}))
        cases[SYNCOBJ_TUNED] = partial(failed_over, lambda: SyncObjGroup(TUNED))
    return cases


# --- the cases --------------------------------------------------------------------------------------------------------


def killed(setting: Setting, lease_s: float) -> Killed:
    """Kill the primary of a new group; it is not started again."""
    # A group of its own each time: a node that takes the term again and again is held back as one that flaps.
    place = setting.group("kill"), setting.fresh("kill")
    with Group(setting.url, *place, lease_s=lease_s) as group, group.probed() as probes:
        time.sleep(random.uniform(0, lease_s))
        dead = group.leader
        killed_ns = now_ns()
        group.kill(dead)
        left_ms = ops.status(group.log).lease_ms or 0
        over_ns = now_ns() + left_ms * 1_000_000
        accepted_ns = first_accepted([probe for name, probe in probes.items() if name != dead], killed_ns)
    return Killed((accepted_ns - killed_ns) / 1e6, (accepted_ns - over_ns) / 1e6)


class Operated:
    """A group that works, and whose primary is replaced by command."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._targets = cycle((*NAMES[1:], NAMES[0]))
        self._rounds = 0

    def __enter__(self) -> Operated:
        place = self._setting.group("operated"), self._setting.fresh("operated")
        self._group = Group(self._setting.url, *place, lease_s=DEFAULT_LEASE_S).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._group.__exit__()

    def promoted(self) -> float:
        """Promote the next node; how long until it accepted a write."""
        self._group.settle()
        with self._group.probed() as probes:
            time.sleep(random.uniform(0.1, 0.4))
            target = next(self._targets)
            called_ns = now_ns()
            ops.promote(self._group.log, target, by="a benchmark", timeout_s=SWITCHOVER_TIMEOUT_S)
            return (first_accepted([probes[target]], called_ns) - called_ns) / 1e6

    def switched(self) -> Switched:
        """Switch over to the next node while others write."""
        self._group.settle()
        self._group.clear()
        self._rounds += 1
        before, target = self._group.leader, next(self._targets)
        with ExitStack() as stack:
            names = [f"{self._rounds}-{number}" for number in range(WRITERS)]
            writers = [stack.enter_context(self._group.writer(name)) for name in names]
            time.sleep(LOAD_S)
            _until_one_was_accepted(writers, before)
            done = ops.switchover(self._group.log, target, by="a benchmark", timeout_s=SWITCHOVER_TIMEOUT_S)
            time.sleep(LOAD_S)
            _until_one_was_accepted(writers, target)
        return self._judged(before, target, done.gap_ms, writers)

    def _judged(self, before: str, target: str, told_ms: float, writers: Sequence[Writer]) -> Switched:
        acknowledged = [each for writer in writers for each in writer.acknowledged]
        unknown = {id for writer in writers for id in writer.unknown}
        gap_ns = _first(acknowledged, target) - _last(acknowledged, before)
        counts = self._group.counts()
        return Switched(
            gap_ms=gap_ns / 1e6,
            told_ms=told_ms,
            acknowledged=len(acknowledged),
            missing=sum(1 for each in acknowledged if min(count.get(each.id, 0) for count in counts) < 1),
            twice=sum(1 for count in counts for times in count.values() if times > 1),
            unknown=len(unknown),
        )


def _until_one_was_accepted(writers: Sequence[Writer], node: str) -> None:
    wait_until(
        lambda: any(each.node == node for writer in writers for each in list(writer.acknowledged)),
        f"a write that {node} accepted",
        every_s=0.005,
    )


def _last(acknowledged: Sequence[Acknowledged], node: str) -> int:
    return max(each.at_ns for each in acknowledged if each.node == node)


def _first(acknowledged: Sequence[Acknowledged], node: str) -> int:
    return min(each.at_ns for each in acknowledged if each.node == node)


class Restarts:
    """A Redis of its own, which is restarted under a new group each time."""

    def __init__(self, setting: Setting, lease_s: float) -> None:
        self._setting = setting
        self._lease_s = lease_s
        self._server = RedisServer(setting.fresh("redis"), config={"auto-aof-rewrite-percentage": 0})

    def __enter__(self) -> Restarts:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def restarted(self) -> Restarted:
        """Restart it; how long until a write was accepted again."""
        place = self._setting.group("restart"), self._setting.fresh("restart")
        with Group(self._server.url, *place, lease_s=self._lease_s) as group, group.probed() as probes:
            time.sleep(random.uniform(0, self._lease_s))
            ended_ns = now_ns()
            self._server.stop()
            self._server.start()
            answered_ns = now_ns()
            accepted_ns = first_accepted(probes.values(), answered_ns)
        return Restarted((accepted_ns - answered_ns) / 1e6, (accepted_ns - ended_ns) / 1e6)


# --- the report -------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A row: what was measured, in ms, and what the median is to be at most."""

    name: str
    values: Sequence[float]
    goal_ms: float | None = None


def report(rounds: Mapping[str, list[Any]], sizes: Sizes) -> Report:
    """What the rounds of all cases say."""
    kills, commands, restarts = _kills(rounds, sizes), _commands(rounds), _restarts(rounds, sizes)
    figures = {f"{line.name} ms": median(line.values) for line in (*kills, *commands, *restarts)}
    heads = "kill -9 of the leader", "a command", "clean restart of Redis"
    tables = [_table(head, lines) for head, lines in zip(heads, (kills, commands, restarts), strict=True)]
    version = syncobj_version()
    if sizes.peers and version is None:
        blank = [""] * (len(tables[0].head) - 2)
        missing = [[name, "not installed", *blank] for name in (SYNCOBJ, SYNCOBJ_TUNED)]
        tables[0] = Table(head=tables[0].head, rows=[*tables[0].rows, *missing])
    switched: list[Switched] = rounds[SWITCHOVER]
    totals = Counter[str]()
    for each in switched:
        totals.update(acknowledged=each.acknowledged, missing=each.missing, twice=each.twice, unknown=each.unknown)
    figures |= {f"writes {name}": totals[name] for name in ("acknowledged", "missing", "twice", "unknown")}
    notes = [_note(totals, len(switched))]
    if sizes.peers and version is not None:
        notes.append(f"PySyncObj is {version}.")
    return Report(
        title="Failover", prose=PROSE, tables=tables, notes=notes, figures=figures, charts=[_chart(rounds, sizes)]
    )


def _chart(rounds: Mapping[str, list[Any]], sizes: Sizes) -> Bars:
    """The kills alone: the peers do nothing else."""
    ms = {_kill(lease_s): [each.ms for each in rounds[_kill(lease_s)]] for lease_s in sizes.leases}
    ms |= {name: rounds[name] for name in (SENTINEL, SYNCOBJ, SYNCOBJ_TUNED) if name in rounds}
    return Bars(
        name="failover",
        title="kill -9 of the leader: until a write is accepted elsewhere",
        value_label="milliseconds",
        series={
            "median": {name: median(each) for name, each in ms.items()},
            "slowest": {name: max(each) for name, each in ms.items()},
        },
    )


def _kills(rounds: Mapping[str, list[Any]], sizes: Sizes) -> list[Line]:
    lines = []
    for lease_s in sizes.leases:
        found: list[Killed] = rounds[_kill(lease_s)]
        lines.append(Line(_kill(lease_s), [each.ms for each in found], lease_s * 1000 + 100))
        lines.append(Line(f"{_kill(lease_s)}: after the lease", [each.after_lease_ms for each in found]))
    lines += [Line(name, rounds[name]) for name in (SENTINEL, SYNCOBJ, SYNCOBJ_TUNED) if name in rounds]
    return lines


def _commands(rounds: Mapping[str, list[Any]]) -> list[Line]:
    switched: list[Switched] = rounds[SWITCHOVER]
    return [
        Line(PROMOTE, rounds[PROMOTE], 30),
        Line(SWITCHOVER, [each.gap_ms for each in switched], 50),
        Line(f"{SWITCHOVER}: as the command says", [each.told_ms for each in switched]),
    ]


def _restarts(rounds: Mapping[str, list[Any]], sizes: Sizes) -> list[Line]:
    lines = []
    for lease_s in sizes.leases:
        found: list[Restarted] = rounds[_restart(lease_s)]
        goal_ms = 2 * min(lease_s / 3, BEAT_EVERY_S_MAX) * 1000 + 200
        lines.append(Line(f"{_restart(lease_s)}, from its answer", [each.since_answer_ms for each in found], goal_ms))
        lines.append(Line(f"{_restart(lease_s)}, from its end", [each.since_end_ms for each in found], goal_ms))
    return lines


def _table(head: str, lines: Sequence[Line]) -> Table:
    return Table(head=[head, "median ms", "min", "p90", "max", "goal"], rows=[_row(line) for line in lines])


def _row(line: Line) -> list[str]:
    values = median(line.values), min(line.values), percentile(line.values, 90), max(line.values)
    goal = "" if line.goal_ms is None else f"{line.goal_ms:,.0f}"
    return [line.name, *(_shown(value) for value in values), goal]


def _shown(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}"


def _note(totals: Mapping[str, int], switchovers: int) -> str:
    writes = f"{totals['acknowledged']:,} writes were acknowledged in {switchovers} switchovers"
    broken = [f"{totals['missing']:,} of them are missing"] if totals["missing"] else []
    broken += [f"{totals['twice']:,} were applied twice"] if totals["twice"] else []
    exact = ", and ".join(broken) or "each of them is there exactly once, on all three nodes"
    unknown = f" {totals['unknown']:,} more had an unknown outcome." if totals["unknown"] else ""
    return f"{writes}: {exact}.{unknown}"
