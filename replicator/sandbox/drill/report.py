"""What the writers of a drill were told, and what that makes of the state that is found. Nothing here acts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, NamedTuple

__all__ = ["FaultReport", "Lacking", "Outcome", "Report", "Write", "lacking", "longest_gap_s"]


class Outcome(Enum):
    """What the answer to a write means for whoever sent it."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Write(NamedTuple):
    """One registration: its tag, what became of it, and when that was known (monotonic, seconds)."""

    tag: str
    outcome: Outcome
    at: float


class Lacking(NamedTuple):
    """What is wrong with a state, by tags: acknowledged and not there; there twice; refused, and there."""

    lost: list[str]
    doubled: list[str]
    appeared: list[str]


def longest_gap_s(acknowledged: Iterable[float], began: float, ended: float) -> float:
    """The longest time between two acknowledgements, of those gaps that touch the time from `began` to `ended`."""
    times = sorted(acknowledged)
    first = max((at for at in times if at <= began), default=began)
    last = min((at for at in times if at >= ended), default=ended)
    points = [first, *(at for at in times if began < at < ended), last]
    return max(after - before for before, after in itertools.pairwise(points))


def lacking(writes: Iterable[Write], state: Mapping[str, int]) -> Lacking:
    """Compare what writers were told with how often each tag is in a state that was read after that."""
    writes = list(writes)
    told = {outcome: [write.tag for write in writes if write.outcome is outcome] for outcome in Outcome}
    return Lacking(
        lost=[tag for tag in told[Outcome.ACKNOWLEDGED] if tag not in state],
        doubled=[write.tag for write in writes if state.get(write.tag, 0) > 1],
        appeared=[tag for tag in told[Outcome.REFUSED] if tag in state],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultReport:
    """What one fault cost. `primary`: the node that leads afterwards. `problem`: why it could not be played to its end.
    None: nobody, and it could."""

    fault: str
    acknowledged_count: int
    lost_tags: list[str]
    refused_count: int
    unknown_count: int
    gap_ms: int
    stale_refused_count: int
    primary: str | None
    term: int
    problem: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a drill found. `landed_count`: how many of the unknown outcomes are in the state. `equal`: all three nodes
    have the same state, at `position`. `problems`: whatever else went wrong.
    """

    faults: list[FaultReport]
    acknowledged_count: int
    refused_count: int
    unknown_count: int
    landed_count: int
    lost_tags: list[str]
    doubled_tags: list[str]
    appeared_tags: list[str]
    stale_accepted_count: int
    equal: bool
    position: str | None
    digests: dict[str, str]
    problems: list[str]

    @property
    def passed(self) -> bool:
        wrong = self.lost_tags or self.doubled_tags or self.appeared_tags or self.stale_accepted_count or self.problems
        return self.equal and not wrong

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. The names are a contract."""
        return asdict(self) | {"passed": self.passed}
