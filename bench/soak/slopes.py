"""Whether a series of samples grows, and what says that it may: values in, verdicts out.

A soak plays its events round after round. What an event does for a while (a process that was killed, a log before it is
trimmed) is in every round, so a round counts as one point: the median of its samples. A line through the points, by
least squares, says how much the series grew while it was watched, and how sure that is.

Each series says beforehand what bounds it (`Bound`). One with a number, `most`, may grow up to there and never be
beyond; one without has to stay as it is, but for `slack`. So a leak shows in either: in a process it grows past the
slack, in a file or a stream past the number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import NamedTuple

__all__ = [
    "Bound",
    "Judgement",
    "Line",
    "Point",
    "Verdict",
    "are_told_apart",
    "judged",
    "line_through",
    "points_of",
    "wrong_in",
]

#: A slope counts if it is so many times its standard error.
ERRORS = 3.0

#: With fewer points a line says nothing of how sure it is.
POINTS_MIN = 3


class Point(NamedTuple):
    """`at_s`: seconds since the soak began."""

    at_s: float
    value: float


class Line(NamedTuple):
    """A slope in units a second, and its standard error."""

    slope: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Bound:
    """`why`: what bounds the series, in words. `most`: the number, if there is one; in the unit of the series.
    `slack`: a growth that means nothing, over all the time that it is watched.
    """

    why: str
    slack: float
    most: float | None = None


class Verdict(Enum):
    STEADY = "steady"
    #: It grew, and is below what bounds it.
    BOUNDED = "bounded"
    GROWS = "GROWS"
    BEYOND = "BEYOND ITS BOUND"
    #: Too few points.
    UNKNOWN = "too short to say"

    @property
    def is_wrong(self) -> bool:
        return self in (Verdict.GROWS, Verdict.BEYOND)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """`grew`: over the time that was watched, by its line. `most`: of all samples. `per_hour`: the slope."""

    name: str
    first: float
    last: float
    most: float
    grew: float
    per_hour: float
    verdict: Verdict
    bound: Bound


def points_of(samples: Sequence[Point], rounds_end_s: Sequence[float], *, after_s: float) -> list[Point]:
    """A point for each round that began at `after_s` or later: the medians of its samples."""
    begun = [0.0, *rounds_end_s]
    found = []
    for begin_s, end_s in zip(begun, rounds_end_s, strict=False):
        within = [sample for sample in samples if begin_s < sample.at_s <= end_s]
        if begin_s >= after_s and within:
            found.append(Point(median(at_s for at_s, _ in within), median(value for _, value in within)))
    return found


def line_through(points: Sequence[Point]) -> Line:
    """By least squares; the error is that of the residuals. `ValueError` for fewer than three points."""
    if len(points) < POINTS_MIN:
        raise ValueError(f"a line through {len(points)} points says nothing of its error")
    count = len(points)
    mean_s = sum(at_s for at_s, _ in points) / count
    mean = sum(value for _, value in points) / count
    spread = sum((at_s - mean_s) ** 2 for at_s, _ in points)
    slope = sum((at_s - mean_s) * (value - mean) for at_s, value in points) / spread
    residuals = sum((value - mean - slope * (at_s - mean_s)) ** 2 for at_s, value in points)
    return Line(slope, math.sqrt(residuals / (count - 2) / spread))


def judged(name: str, samples: Sequence[Point], points: Sequence[Point], bound: Bound) -> Judgement:
    """What became of a series. `samples`: all that count; `points`: their rounds. Neither is empty."""
    line = line_through(points) if len(points) >= POINTS_MIN else None
    grew = line.slope * (points[-1].at_s - points[0].at_s) if line is not None else 0.0
    most = max(sample.value for sample in samples)
    return Judgement(
        name=name,
        first=points[0].value,
        last=points[-1].value,
        most=most,
        grew=grew,
        per_hour=line.slope * 3600 if line is not None else 0.0,
        verdict=_verdict(line, grew, most, bound),
        bound=bound,
    )


def _verdict(line: Line | None, grew: float, most: float, bound: Bound) -> Verdict:
    if bound.most is not None and most > bound.most:
        return Verdict.BEYOND
    if line is None:
        return Verdict.UNKNOWN
    if grew <= bound.slack or line.slope <= ERRORS * line.error:
        return Verdict.STEADY
    return Verdict.GROWS if bound.most is None else Verdict.BOUNDED


def are_told_apart(judgements: Sequence[Judgement]) -> bool:
    """Whether there is a verdict on every series."""
    return all(each.verdict is not Verdict.UNKNOWN for each in judgements)


def wrong_in(judgements: Sequence[Judgement]) -> list[str]:
    """In words, one line for each series that must not be as it is."""
    return [
        f"{each.name}: {each.verdict.value}, {each.grew:+,.1f} in the time watched, to {each.most:,.1f} "
        f"({each.bound.why})"
        for each in judgements
        if each.verdict.is_wrong
    ]


def by_name(judgements: Sequence[Judgement]) -> Mapping[str, Judgement]:
    return {each.name: each for each in judgements}
