"""What the package is to reach, and whether the figures of a run say that it does.

A goal names a figure of a benchmark (`Report.figures`) and its bound. A benchmark that did not run, or whose figure
needs something that was not there, leaves its goals open; that is said and is not the same as missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.harness import Table

__all__ = ["GOALS", "HTTP_GOALS", "Goal", "goals_table"]

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Goal:
    name: str
    #: The benchmark, and the name of the figure in its report.
    of: str
    figure: str
    #: One of them.
    at_least: float | None = None
    at_most: float | None = None
    #: After the figures: `x`, `ms`. `%` is for figures that are shares: 0.05 is shown as 5 %.
    unit: str

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"the goal {self.name} has no bound, or two")

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
        return f"{value:,.0f} {self.unit}" if abs(value) >= 1000 else f"{value:.4g} {self.unit}"


def goals_table(goals: Sequence[Goal], figures: Mapping[str, Mapping[str, float]]) -> Table:
    """Hold the goals against the figures by benchmark."""
    return Table(head=["goal", "bound", "measured", "met"], rows=[_row(goal, figures) for goal in goals])


def _row(goal: Goal, figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    figure = figures.get(goal.of, {}).get(goal.figure)
    if figure is None:
        return [goal.name, goal.bound, NOT_MEASURED, ""]
    return [goal.name, goal.bound, goal.shown(figure), "yes" if goal.met(figure) else "**no**"]


GOALS: Sequence[Goal] = (
    Goal(
        name="submit one at a time, against a plain XADD",
        of="append",
        figure="Node.submit ratio",
        at_least=1.0,
        unit="x",
    ),
    Goal(
        name="100 submitters (asyncio tasks), against one plain XADD after the other: rate",
        of="group-commit",
        figure="100 submitters rate ratio",
        at_least=20,
        unit="x",
    ),
    Goal(
        name="100 submitters (asyncio tasks), against one plain XADD after the other: p99",
        of="group-commit",
        figure="100 submitters p99 ratio",
        at_most=3,
        unit="x",
    ),
    Goal(
        name="submit_many of 100 changes, against one plain XADD after the other: rate",
        of="group-commit",
        figure="submit_many rate ratio",
        at_least=35,
        unit="x",
    ),
    *(
        Goal(
            name=f"committed to applied on a standby, against a bare XADD to XREAD, {pace}: p{percent}",
            of="applied",
            figure=f"{pace}, p{percent} ratio",
            at_most=bound,
            unit="x",
        )
        for pace in ("every 10 ms", "back to back")
        for percent, bound in ((50, 1.3), (99, 1.5))
    ),
    Goal(
        name="PySyncObj with periods of 1 ms, against replicator: p50 of a commit",
        of="peers",
        figure="PySyncObj, 1 ms commit p50 ratio",
        at_least=10,
        unit="x",
    ),
    Goal(
        name="PySyncObj with periods of 1 ms, against replicator: p50 until another process has it",
        of="peers",
        figure="PySyncObj, 1 ms other process p50 ratio",
        at_least=10,
        unit="x",
    ),
    Goal(
        name="100 submitters, against PySyncObj with periods of 1 ms: rate",
        of="peers",
        figure="PySyncObj, 1 ms concurrent ratio",
        at_least=3,
        unit="x",
    ),
    Goal(
        name="a change at 1,000,000 records, against 1,000 (time, CPU or bytes, the worst of them)",
        of="state-size",
        figure="1,000,000 against 1,000",
        at_most=1.2,
        unit="x",
    ),
    *(
        Goal(
            name=f"1 % of a registry by {way}, against publishing all of it: {what}",
            of="one-percent",
            figure=f"{way} {what} share",
            at_most=bound,
            unit="%",
        )
        for way in ("submit", "submit_many")
        for what, bound in (("bytes", 0.015), ("time", 0.04), ("apply", 0.05))
    ),
    *(
        Goal(name=f"a snapshot of a registry: {name}", of="snapshot", figure=figure, at_most=bound, unit=unit)
        for name, figure, bound, unit in (
            ("how long a writer waits", "worst of the writer ms", 10, "ms"),
            ("how long a reader of a standby waits", "worst of the reader ms", 20, "ms"),
            ("published to applied, against the same in one process", "ratio", 1.0, "x"),
            ("how long other clients of Redis wait", "worst of the client ms", 6, "ms"),
            ("memory of a publish beyond the states, against the JSON", "primary memory ratio", 0.5, "x"),
            ("memory of a restore beyond the states, against the JSON", "standby memory ratio", 0.5, "x"),
        )
    ),
    Goal(
        name="a patch of 1 % of a file, against sending it whole: bytes",
        of="patch",
        figure="patch, 1 % in place bytes share",
        at_most=0.005,
        unit="%",
    ),
    Goal(
        name="a patch of 1 % of a file, against sending it whole: time",
        of="patch",
        figure="patch, 1 % in place ratio",
        at_most=0.7,
        unit="x",
    ),
    Goal(
        name="an idle node: processor time, of one core",
        of="idle",
        figure="cpu share",
        at_most=0.005,
        unit="%",
    ),
    Goal(
        name="an idle node without a state: memory",
        of="idle",
        figure="resident MB",
        at_most=60,
        unit="MB",
    ),
)

#: Of HTTP. "A user gets" is the sentence that says what each is for.
HTTP_GOALS: Sequence[Goal] = (
    # A user gets reads that cost little more than those of a program that keeps its state to itself.
    *(
        Goal(
            name=f"a read over HTTP, {connections}, against the same Starlette application without us: p50",
            of="http",
            figure=f"read, {connections} p50 ratio",
            at_most=1.3,
            unit="x",
        )
        for connections in ("1 connection", "16 connections", "64 connections")
    ),
    # A user gets writes over HTTP that cost no more than HTTP and a write, whichever way they are sent.
    *(
        Goal(
            name=f"a write over HTTP, {connections}, against a read and 1.2 submits: time of one",
            of="http",
            figure=f"write, {connections} of its bound",
            at_most=1.0,
            unit="x",
        )
        for connections in ("1 connection", "16 connections", "64 connections")
    ),
    # A user gets reads that go on while the node does something large: a restore, a snapshot, `verify`, a replacement.
    Goal(
        name="how long a read waits for other threads of its node while something large goes on: the worst",
        of="http",
        figure="held up ms",
        at_most=20,
        unit="ms",
    ),
)

GOALS = (*GOALS, *HTTP_GOALS)
