"""What the package is to reach, and whether the figures of a run say that it does.

A goal names a figure of a benchmark (`Report.figures`), or two of one run that it compares, and its bound; and says in
a sentence what a user gets from it. A benchmark that did not run, or whose figure needs something that was not there,
leaves its goals open; that is said and is not the same as missed.

What is compared ran in the same run. The rate of one thread that waits for each answer says little: it doubles where
the kernel has client and server share a core. So what a call costs is held against what redis-py spends in the same
process, in processor time, and what many or others do against peers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.harness import Table
from bench.sqlite_goals import SQLITE_GOALS

__all__ = ["GOALS", "Goal", "goals_table"]

NOT_MEASURED = "not measured"

#: The column that says what a goal is for.
GIVES = "what a user gets"


@dataclass(frozen=True, kw_only=True)
class Goal:
    name: str
    #: What a user gets from it: a sentence.
    gives: str
    #: The benchmark, and the name of the figure in its report.
    of: str
    figure: str
    #: Another figure of the same report: the goal is how many times that the first one is.
    against: str | None = None
    #: One of them.
    at_least: float | None = None
    at_most: float | None = None
    #: After the figures: `x`, `ms`, `us`. `%` is for figures that are shares: 0.05 is shown as 5 %.
    unit: str

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"the goal {self.name} has no bound, or two")

    def measured(self, figures: Mapping[str, float]) -> float | None:
        """What these figures of its benchmark say; None: what it needs is not among them."""
        figure = figures.get(self.figure)
        if self.against is None or figure is None:
            return figure
        base = figures.get(self.against)
        return None if base is None else figure / base

    def met(self, figure: float) -> bool:
        """Whether the figure is on the right side of the bound; the bound itself is."""
        if self.at_least is not None:
            return figure >= self.at_least
        assert self.at_most is not None
        return figure <= self.at_most

    @property
    def bound(self) -> str:
        """In words."""
        if self.at_least is not None:
            return f"at least {self.shown(self.at_least)}"
        assert self.at_most is not None
        return f"at most {self.shown(self.at_most)}"

    def shown(self, figure: float) -> str:
        """A figure with its unit, with four digits: rounding is not to hide a goal that is missed by little."""
        value = figure * 100 if self.unit == "%" else figure
        digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return f"{digits} {self.unit}".rstrip()


def goals_table(
    goals: Sequence[Goal], figures: Mapping[str, Mapping[str, float]], *, says_what_for: bool = False
) -> Table:
    """Hold the goals against the figures by benchmark. `says_what_for`: with what a user gets from each."""
    head, rows = ["goal", "bound", "measured", "met"], [_row(goal, figures) for goal in goals]
    if says_what_for:
        head.insert(1, GIVES)
        for goal, row in zip(goals, rows, strict=True):
            row.insert(1, goal.gives)
    return Table(head=head, rows=rows, names=2 if says_what_for else 1)


def _row(goal: Goal, figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    figure = goal.measured(figures.get(goal.of, {}))
    if figure is None:
        return [goal.name, goal.bound, NOT_MEASURED, ""]
    return [goal.name, goal.bound, goal.shown(figure), "yes" if goal.met(figure) else "**no**"]


GOALS: Sequence[Goal] = (
    Goal(
        name="submit one at a time, against redis-py's XADD in the same process: processor time",
        gives="A change that is fenced, applied and saved takes a program little more than one that is only sent.",
        of="append",
        figure="Node.submit cpu us",
        against="XADD cpu us",
        at_most=1.4,
        unit="x",
    ),
    Goal(
        name="submit with a key, against one without",
        gives="A write that may be repeated costs hardly more than one that may not.",
        of="keys",
        figure="submit, with a key p50 us",
        against="submit p50 us",
        at_most=1.25,
        unit="x",
    ),
    Goal(
        name="submit to a group whose bodies are sealed, against one without a key file: processor time",
        gives="That whoever has Redis reads nothing costs a writer a tenth.",
        of="sealed",
        figure="submit, sealed least cpu us",
        against="submit least cpu us",
        at_most=1.1,
        unit="x",
    ),
    Goal(
        name="a scrape of a node over HTTP, every 10 s: processor time, of one core",
        gives="A node that is watched costs what one costs that is not.",
        of="metrics",
        figure="over HTTP, with the client share",
        at_most=0.001,
        unit="%",
    ),
    Goal(
        name="submit of a node that is scraped, against one that never was: processor time",
        gives="No write feels that it is timed.",
        of="metrics",
        figure="one thread, scraped cpu us",
        against="one thread, never scraped cpu us",
        at_most=1.05,
        unit="x",
    ),
    Goal(
        name="an archiver at 1,000 changes a second",
        gives="Keeping every earlier state costs next to nothing.",
        of="archive",
        figure="archiver share",
        at_most=0.05,
        unit="%",
    ),
    Goal(
        name="submit with an archiver, against one without",
        gives="Writers do not notice an archiver.",
        of="archive",
        figure="submit, and an archiver p50 us",
        against="submit p50 us",
        at_most=1.1,
        unit="x",
    ),
    Goal(
        name="memory of 65,536 keys with results of 140 bytes",
        gives="A node remembers the newest 65,536 writes, and hardly grows.",
        of="keys",
        figure="results of 140 bytes, MB",
        at_most=40,
        unit="MB",
    ),
    Goal(
        name="a standby: processor time of a change that comes alone, against a bare XREAD loop of redis-py",
        gives="To follow, check, apply and save a change costs a program little more than to read it from Redis.",
        of="applied",
        figure="submit to applied, alone, receiver cpu us",
        against="XADD to XREAD, alone, receiver cpu us",
        at_most=1.4,
        unit="x",
    ),
    Goal(
        name="a standby: processor time of a change in a batch",
        gives="A standby follows 200,000 changes a second of a bulk load.",
        of="applied",
        figure="submit to applied, in batches, receiver cpu us",
        at_most=4,
        unit="us",
    ),
    *(
        Goal(
            name=f"100 submitters (asyncio tasks), against as many of redis-py in the same process: {what}",
            gives=gives,
            of="group-commit",
            figure=f"Node.asubmit, 100 tasks {figure}",
            against=f"XADD, 100 tasks {figure}",
            at_least=at_least,
            at_most=at_most,
            unit="x",
        )
        for what, figure, at_least, at_most, gives in (
            ("rate", "per second", 5, None, "A service under load commits several times what it could send to Redis."),
            ("p99", "p99 us", None, 0.5, "Under load the slowest requests wait half as long as for plain Redis."),
        )
    ),
    Goal(
        name="submit_many of 100 changes, against a pipeline of 100 XADD in the same process: processor time",
        gives="An import takes a program less than half the processor time of a pipeline that is written by hand.",
        of="group-commit",
        figure="Node.submit_many, 100 changes cpu us",
        against="XADD, pipeline of 100 cpu us",
        at_most=0.4,
        unit="x",
    ),
    *(
        Goal(
            name=f"until another process has a change, against NATS JetStream: p{percent}",
            gives=gives,
            of="peers",
            figure=f"replicator other process p{percent} ms",
            against=f"NATS JetStream other process p{percent} ms",
            at_most=bound,
            unit="x",
        )
        for percent, bound, gives in (
            (50, 1, "A reader of a standby sees a change as soon as a subscriber of a message server written in Go."),
            (99, 1.5, "It sees it nearly as soon when something else goes on: a save, a heartbeat, a collection."),
        )
    ),
    *(
        Goal(
            name=f"100 submitters, against {peer}: rate",
            gives=gives,
            of="peers",
            figure="replicator concurrent per second",
            against=f"{peer} concurrent per second",
            at_least=bound,
            unit="x",
        )
        for peer, bound, gives in (
            ("NATS JetStream", 4, "A busy service needs no message server beside its Redis for its rate."),
            ("PySyncObj, 1 ms", 3, "A busy service commits more than with a Raft in its own processes."),
        )
    ),
    Goal(
        name="PySyncObj with periods of 1 ms, against replicator: p50 of a commit",
        gives="A request that commits a change is answered a millisecond earlier than with a Raft in Python.",
        of="peers",
        figure="PySyncObj, 1 ms commit p50 ms",
        against="replicator commit p50 ms",
        at_least=10,
        unit="x",
    ),
    Goal(
        name="a change at 1,000,000 records, against 1,000 (time, CPU or bytes, the worst of them)",
        gives="A state may grow a thousandfold, and a change costs what it did.",
        of="state-size",
        figure="1,000,000 against 1,000",
        at_most=1.2,
        unit="x",
    ),
    *(
        Goal(
            name=f"1 % of a registry by {way}, against publishing all of it: {what}",
            gives=gives,
            of="one-percent",
            figure=f"{way} {figure} share",
            at_most=bound,
            unit="%",
        )
        for way, what, figure, bound, gives in (
            ("submit", "bytes", "bytes", 0.015, "The network carries what changed, and not the registry."),
            (
                "submit",
                "time",
                "time",
                0.05,
                "A thousand nodes that move one by one are through in a moment.",
            ),
            ("submit", "processor time of the standby", "apply", 0.04, "A standby can follow on a small machine."),
            ("submit_many", "bytes", "bytes", 0.015, "A bulk change is as small as its news."),
            ("submit_many", "time", "time", 0.04, "A bulk change is everywhere at once."),
            ("submit_many", "processor time of the standby", "apply", 0.05, "A bulk change does not slow its readers."),
        )
    ),
    Goal(
        name="eight standbys on one machine, against two: processor time of all processes for a change",
        gives="A machine with many workers can give each of them its own copy.",
        of="standbys",
        figure="8 cpu us",
        against="2 cpu us",
        at_most=2.5,
        unit="x",
    ),
    *(
        Goal(
            name=f"a snapshot of a registry: {name}",
            gives=gives,
            of="snapshot",
            figure=figure,
            at_most=bound,
            unit=unit,
        )
        for name, figure, bound, unit, gives in (
            (
                "how long a writer waits",
                "worst of the writer ms",
                8,
                "ms",
                "No request feels the publishing of 80 MB.",
            ),
            (
                "how long a reader of a standby waits",
                "worst of the reader ms",
                20,
                "ms",
                "No page is late because a standby takes 80 MB in.",
            ),
            (
                "published to applied, against the same in one process",
                "ratio",
                1.0,
                "x",
                "A standby that is new, or was away, is ready as soon as Python can build its state.",
            ),
            (
                "how long other clients of Redis wait",
                "worst of the client ms",
                6,
                "ms",
                "The Redis of other services can be shared.",
            ),
            (
                "memory of a publish beyond the states, against the JSON",
                "primary memory ratio",
                0.5,
                "x",
                "A machine that holds the state can publish it.",
            ),
            (
                "memory of a restore beyond the states, against the JSON",
                "standby memory ratio",
                0.5,
                "x",
                "A machine that holds two states can take a new one in.",
            ),
        )
    ),
    Goal(
        name="a patch of 1 % of a file, against sending it whole: bytes",
        gives="A large file that changes a little costs the network a little.",
        of="patch",
        figure="patch, 1 % in place bytes share",
        at_most=0.005,
        unit="%",
    ),
    Goal(
        name="a patch of 1 % of a file, against sending it whole: time",
        gives="Looking for what changed in a file costs less than sending it.",
        of="patch",
        figure="patch, 1 % in place ratio",
        at_most=0.7,
        unit="x",
    ),
    Goal(
        name="an idle node: processor time, of one core",
        gives="A node that nobody writes to costs next to nothing.",
        of="idle",
        figure="cpu share",
        at_most=0.005,
        unit="%",
    ),
    Goal(
        name="an idle node without a state: memory",
        gives="A node fits beside any program.",
        of="idle",
        figure="resident MB",
        at_most=60,
        unit="MB",
    ),
    Goal(
        name="a soak: series that grow and that nothing bounds, or that are beyond their bound",
        gives="A service runs for months without a restart.",
        of="soak",
        figure="series that must not be as they are",
        at_most=0,
        unit="",
    ),
    *(
        Goal(
            name=f"a read over HTTP, {connections}, against the same Starlette application without us: p50",
            gives="A read costs little more than in a program that keeps its state to itself.",
            of="http",
            figure=f"read, {connections} p50 ratio",
            at_most=1.3,
            unit="x",
        )
        for connections in ("1 connection", "16 connections", "64 connections")
    ),
    *(
        Goal(
            name=f"a write over HTTP, {connections}, against a read and 1.2 submits: time of one",
            gives="A write over HTTP costs HTTP and a write, and no more.",
            of="http",
            figure=f"write, {connections} of its bound",
            at_most=1.0,
            unit="x",
        )
        for connections in ("1 connection", "16 connections", "64 connections")
    ),
    *(
        Goal(
            name=f"the middleware ({kind}): processor time that it adds to a read",
            gives="A service gets positions, redirects and health for a fraction of what a framework costs.",
            of="middleware",
            figure=f"{kind}, read adds us",
            at_most=60,
            unit="us",
        )
        for kind in ("ASGI", "WSGI")
    ),
    Goal(
        name="kill -9 of a leader to the first write by another node, lease 5 s, under supervisord with the listener",
        gives="A process that dies costs a blink, and no lease.",
        of="lease-release",
        figure="event listener ms",
        at_most=150,
        unit="ms",
    ),
    Goal(
        name="/primary with 200 idle connections and 50 that probe ten times a second each: p99",
        gives="Load balancers may probe as often as they like, and see a primary that is gone at once.",
        of="probes",
        figure="200 idle, 50 that probe 10 times a second each p99 ms",
        at_most=5,
        unit="ms",
    ),
    Goal(
        name="what /health takes in a node whose Redis hangs: p99",
        gives="A node that is in trouble says so at once, and no probe hangs with it.",
        of="probes",
        figure="in the node, Redis hangs p99 ms",
        at_most=1,
        unit="ms",
    ),
    Goal(
        name="the longest step of a node's loop while 1,100 half requests and twelve uploads of 60 MB stall, processor",
        gives="Whoever attacks the port has no load balancer take the node out: others have their turn in between.",
        of="attacked",
        figure="longest step of the loop, processor ms",
        at_most=20,
        unit="ms",
    ),
    Goal(
        name="how long a read waits for other threads of its node while something large goes on: the worst",
        gives="No page is late because the node restores, publishes, verifies or takes in 80 MB.",
        of="http",
        figure="held up ms",
        at_most=20,
        unit="ms",
    ),
    *(
        Goal(
            name=f"a database by pages, 10 transactions a second, {what}",
            gives=gives,
            of="sqlite",
            figure=f"pages, {figure}",
            against=f"pages, {against}" if against else None,
            at_most=at_most,
            unit=unit,
        )
        for what, gives, figure, against, at_most, unit in SQLITE_GOALS
    ),
)
