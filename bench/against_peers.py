"""The same work by others: Redis and its replication, NATS JetStream, etcd, PySyncObj."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import chain
from statistics import median
from typing import Any, NamedTuple

from bench.binaries import NOT_INSTALLED, find_program
from bench.charts import Bars
from bench.harness import Report, Setting, Table, in_rounds, percentile
from bench.loads import BATCH, CHANGE_BYTES, SUBMITTERS, Pace
from bench.peers import syncobj_version
from bench.systems import etcd, nats, ours, redis, syncobj
from bench.systems.base import Running, Sent, System

__all__ = ["FULL", "QUICK", "SYSTEMS", "Sizes", "measure", "report"]

SYSTEMS: Sequence[System] = (
    ours.OURS,
    redis.PLAIN,
    redis.REPLICATED,
    redis.REPLICATED_AND_WAITED,
    nats.JETSTREAM,
    etcd.ONE,
    etcd.THREE,
    syncobj.EACH_MS,
    syncobj.DEFAULTS,
)

#: Pings are sent this far apart, so that none waits behind the one before it.
APART_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    #: For each kind of load, and at most for all pings.
    seconds: float
    pings: int
    systems: Sequence[System] = SYSTEMS
    submitters: int = SUBMITTERS


FULL = Sizes(rounds=5, seconds=0.8, pings=80)
QUICK = Sizes(rounds=1, seconds=0.2, pings=15)

PROSE = f"""\
The same work by others that do something alike: changes of {CHANGE_BYTES} bytes from one process, of which another
process gets every one, in order. All on this one machine, each system started anew for its turn in each round and ended
after it, because idle ones would take processor time from the others. They promise different things. What an answer
means is said in a line for each behind the table, and the figures are to be read with that: a server that fsyncs every
commit before it answers does more than one that does so once a second, and no figure says which is enough.

*One at a time*: each change after the answer to the one before; how long such an answer takes is *commit*. *To the
other process*: changes every {APART_S * 1e3:g} ms, from before the call that sends one until the other process has it
(here: until the standby has applied it). *{SUBMITTERS} at a time*: so many submitters, each after its own answer:
asyncio tasks; for Redis threads, and for PySyncObj so many commands under way, which is faster there. *{BATCH}
together*: one submitter hands over {BATCH} changes and waits for all of them: `Node.submit_many`; for Redis a pipeline;
for etcd one transaction; for NATS and PySyncObj so many without waiting in between. Redis is used with redis-py, NATS
with nats-py, etcd with gRPC.
PySyncObj has a leader and two followers in processes of their own, with the periods that it comes with, and with
{" and ".join(f"`{name}`" for name in syncobj.EACH_MS_OPTIONS)} of 1 ms; its log is not cut within a turn. Whoever has
several nodes is sent to at its leader; etcd is listened to there, too, where it is fastest, and the others at another
node. What others send is encoded before the time begins; a node encodes within it. Latencies are in milliseconds.
"""


class Turn(NamedTuple):
    """What a system did in one round."""

    one: Pace
    concurrent: Pace
    together: Pace | None
    #: Until another process had it.
    delays_us: list[float]


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Give every system that is there its turns, interleaved."""
    failures: list[str] = []
    cases: dict[str, Callable[[], Turn | None]] = {
        system.name: partial(_tried, system, setting, sizes, failures)
        for system in sizes.systems
        if system.is_installed()
    }
    # Each turn begins with processes that are new: there is nothing to warm up but within it.
    tried: dict[str, list[Turn | None]] = in_rounds(cases, sizes.rounds, warm_ups=0)
    rounds = {name: turns for name, each in tried.items() if (turns := [turn for turn in each if turn is not None])}
    return report(rounds, sizes, failures)


def _tried(system: System, setting: Setting, sizes: Sizes, failures: list[str]) -> Turn | None:
    """A turn; None if it failed: somebody else that does not start is no reason to measure nobody."""
    try:
        return _turn(system, setting, sizes)
    except Exception as error:
        if system is ours.OURS:
            raise
        failures.append(f"A turn of {system.name} failed: {error}.")
        return None


def _turn(system: System, setting: Setting, sizes: Sizes) -> Turn:
    with system.run(setting) as running:
        turns = _Turns(running)
        turns.load("one_at_a_time", sizes.seconds / 4)
        one = turns.load("one_at_a_time", sizes.seconds)
        concurrent = turns.load("concurrent", sizes.submitters, sizes.seconds)
        together = turns.load("batches", BATCH, sizes.seconds)
        assert one is not None
        assert concurrent is not None
        return Turn(one, concurrent, together, turns.delays_us(sizes.pings, 2 * sizes.seconds))


class _Turns:
    """Tells both processes of a system what to do. Nothing begins before the receiver has all that was sent before."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._sent = 0

    def load(self, name: str, *arguments: Any) -> Pace | None:
        pace: Pace | None = self._running.sender.ask((name, *arguments))
        self._sent += pace.changes if pace is not None else 0
        self._running.receiver.ask(self._sent)
        return pace

    def delays_us(self, pings: int, seconds: float) -> list[float]:
        sent: list[Sent] = self._running.sender.ask(("pings", 0, pings, APART_S, seconds))
        self._sent += len(sent)
        received_ns: dict[int, int] = self._running.receiver.ask(self._sent)
        return [(received_ns[number] - each.called_ns) / 1e3 for number, each in enumerate(sent)]


# --- the report -------------------------------------------------------------------------------------------------------


def report(rounds: Mapping[str, list[Turn]], sizes: Sizes, failures: Sequence[str] = ()) -> Report:
    """What the rounds of all systems say."""
    found = {name: _found(turns) for name, turns in rounds.items()}
    figures = {f"{name} {what}": figure for name, each in found.items() for what, figure in each.items()}
    mine = rounds.get(ours.OURS.name)
    if mine is not None:
        for name, turns in rounds.items():
            figures |= _against(name, turns, mine)
    return Report(
        title="Others",
        prose=PROSE,
        tables=[_table(found, sizes)],
        notes=[*_meanings(sizes), _versions(), *failures],
        figures=figures,
        charts=_charts(found),
    )


ONE, CONCURRENT, TOGETHER = "one at a time per second", "concurrent per second", "together per second"
COMMIT_P50, COMMIT_P99 = "commit p50 ms", "commit p99 ms"
OTHER_P50, OTHER_P99 = "other process p50 ms", "other process p99 ms"


def _found(turns: Sequence[Turn]) -> dict[str, float]:
    """Medians over the rounds; the p99 of pings from all rounds together, for one of them has too few."""
    found = {
        ONE: median(turn.one.rate for turn in turns),
        COMMIT_P50: median(turn.one.p50_us for turn in turns) / 1e3,
        COMMIT_P99: median(turn.one.p99_us for turn in turns) / 1e3,
        OTHER_P50: median(percentile(turn.delays_us, 50) for turn in turns) / 1e3,
        OTHER_P99: percentile(list(chain.from_iterable(turn.delays_us for turn in turns)), 99) / 1e3,
        CONCURRENT: median(turn.concurrent.rate for turn in turns),
    }
    together = [turn.together.rate for turn in turns if turn.together is not None]
    return {**found, TOGETHER: median(together)} if together else found


def _against(name: str, turns: Sequence[Turn], mine: Sequence[Turn]) -> dict[str, float]:
    """How many times longer the other one takes, and how many times more of them the package commits."""

    def times(of: Callable[[Turn], float], *, more: bool = False) -> float:
        theirs, own = median(of(turn) for turn in turns), median(of(turn) for turn in mine)
        return own / theirs if more else theirs / own

    return {
        f"{name} commit p50 ratio": times(lambda turn: turn.one.p50_us),
        f"{name} other process p50 ratio": times(lambda turn: percentile(turn.delays_us, 50)),
        f"{name} concurrent ratio": times(lambda turn: turn.concurrent.rate, more=True),
    }


def _table(found: Mapping[str, Mapping[str, float]], sizes: Sizes) -> Table:
    head = ["system", "one at a time, a second", "commit p50", "p99", "to the other process p50", "p99"]
    head += [f"{sizes.submitters} at a time, a second", f"{BATCH} together, a second"]
    columns = ONE, COMMIT_P50, COMMIT_P99, OTHER_P50, OTHER_P99, CONCURRENT, TOGETHER
    rows = []
    for system in sizes.systems:
        figures = found.get(system.name)
        if figures is None:
            why = "failed" if system.is_installed() else NOT_INSTALLED
            rows.append([system.name, why, *[""] * (len(head) - 2)])
        else:
            rows.append([system.name, *(_cell(figures.get(column), column) for column in columns)])
    return Table(head=head, rows=rows)


def _cell(figure: float | None, column: str) -> str:
    if figure is None:
        return ""
    if column.endswith("ms"):
        return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}"
    return f"{figure:,.0f}"


def _meanings(sizes: Sizes) -> list[str]:
    names: dict[str, list[str]] = {}
    for system in sizes.systems:
        names.setdefault(system.means, []).append(system.name)
    return [f"*{'*, *'.join(alike)}*: {means}." for means, alike in names.items()]


def _charts(found: Mapping[str, Mapping[str, float]]) -> list[Bars]:
    def by_name(column: str) -> dict[str, float]:
        return {name: figures[column] for name, figures in found.items() if column in figures}

    throughput = {
        "one at a time": by_name(ONE),
        f"{SUBMITTERS} submitters": by_name(CONCURRENT),
        f"batches of {BATCH}": by_name(TOGETHER),
    }
    delays = {"p50": by_name(OTHER_P50), "p99": by_name(OTHER_P99)}
    return [
        Bars(
            name="peers-throughput",
            title=f"Changes of {CHANGE_BYTES} bytes committed a second",
            value_label="changes a second (log scale)",
            series=throughput,
            log=True,
        ),
        Bars(
            name="peers-latency",
            title="From the call until another process has the change",
            value_label="milliseconds (log scale)",
            series=delays,
            log=True,
        ),
    ]


def _versions() -> str:
    of_programs = [program.version for name in ("nats-server", "etcd") if (program := find_program(name)) is not None]
    of_clients = [f"{name} {_version(name)}" for name in ("nats-py", "grpcio") if _version(name)]
    return f"Versions: {', '.join([*of_programs, *of_clients, f'PySyncObj {syncobj_version() or NOT_INSTALLED}'])}."


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
