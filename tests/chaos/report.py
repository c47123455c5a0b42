"""What a run was like, in figures: for people at a terminal, and as a table for the documentation."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from .checker import SECOND, Event, Run, Verdict

BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run and what the checker says of it.

    `began`, `ended`: of the faults, in ns. `directory`: where its notes are. `replay`: the command that does it again.
    """

    name: str
    seed: int
    run: Run
    verdict: Verdict
    faults: Mapping[str, int]
    began: int
    ended: int
    directory: Path
    replay: str

    @property
    def gap_s(self) -> float:
        """The longest time without an acknowledged write while faults were on."""
        times = [self.began, *(at for at in _acknowledged(self.run) if self.began < at < self.ended), self.ended]
        return max(after - before for before, after in pairwise(times)) / SECOND

    @property
    def recovery_s(self) -> float | None:
        """From a kill of the primary to the first acknowledged write after it: the median; None if there was none."""
        times = _acknowledged(self.run)
        kills = [event.began for event in self.run.events if event.kind == "kill-node" and _led(self.run, event)]
        firsts = [(kill, next((at for at in times if at > kill), None)) for kill in kills]
        spans = [(first - kill) / SECOND for kill, first in firsts if first is not None]
        return statistics.median(spans) if spans else None


def _acknowledged(run: Run) -> list[int]:
    return sorted(each.ended or 0 for each in run.operations if each.kind == "write" and each.outcome == "ok")


def _led(run: Run, event: Event) -> bool:
    """Whether a node was the primary when this happened to it."""
    before = [seen for seen in run.sightings if seen.node == event.node and seen.at <= event.began]
    return bool(before) and max(before, key=lambda seen: seen.at).role == "primary"


# --- for a terminal ---------------------------------------------------------------------------------------------------


def as_text(outcome: Outcome) -> str:
    """All figures of a run."""
    counts = outcome.verdict.counts
    late = f"{counts['places lost']} for a place that was lost"
    writes = {name: count for name, count in counts.items() if " " in name and not name.endswith(("reads", "lost"))}
    lines = [
        f"{outcome.name}, seed {outcome.seed}, {(outcome.ended - outcome.began) / SECOND:.0f} s of faults",
        "  faults    " + _listed(outcome.faults),
        "  writes    " + _listed(writes),
        f"  gone      {counts['gone']} acknowledged values: {counts['forked']} in forks, {counts['lost']} lost",
        f"  reads     {counts['reads']} with a token, {counts['fresh reads']} fresh, {late}",
        f"  no writer {outcome.gap_s:.1f} s at the longest; after a kill of the primary {_seconds(outcome.recovery_s)}",
    ]
    return "\n".join(lines + [f"  BROKEN    {violation}" for violation in outcome.verdict.violations])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s (median)"


# --- for the documentation --------------------------------------------------------------------------------------------


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """Two tables: what was done, and what came of it."""
    kinds = sum((Counter(outcome.faults) for outcome in outcomes), Counter[str]())
    faults = "| fault | times |\n|---|---|\n" + "".join(f"| {kind} | {kinds[kind]} |\n" for kind in sorted(kinds))
    head = [
        "Redis", "seed", "faults", "acknowledged", "lost", "in forks", "unknown", "not acknowledged", "reads checked",
        "longest without a writer", "after a kill of the primary (median)", "promises broken",
    ]  # fmt: skip
    rows = [head, ["---"] * len(head), *(_row(outcome) for outcome in outcomes)]
    return faults + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(outcome: Outcome) -> list[str]:
    counts = outcome.verdict.counts

    def total(outcome_name: str) -> int:
        return sum(count for name, count in counts.items() if name.startswith(outcome_name + " "))

    recovery = outcome.recovery_s
    return [
        outcome.name,
        str(outcome.seed),
        str(sum(outcome.faults.values())),
        _by_level(counts),
        str(counts["lost"]),
        str(counts["forked"]),
        str(total("unknown")),
        str(total("unacknowledged")),
        f"{counts['reads'] + counts['fresh reads']:,}",
        f"{outcome.gap_s:.1f} s",
        "-" if recovery is None else f"{recovery:.2f} s",
        str(len(outcome.verdict.violations)),
    ]


def _by_level(counts: Mapping[str, int]) -> str:
    levels = {name.removeprefix("ok "): count for name, count in counts.items() if name.startswith("ok ")}
    return "<br>".join(f"{level} {count:,}" for level, count in sorted(levels.items()))


def write_into(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Replace what stands between the two marks. Raises `ValueError` if they are not there."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} does not have the marks {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{as_markdown(outcomes)}\n{END}{after}")
