"""What runs found, kept in a directory beside the document that shows it: one JSON file and its plots for each section.

The document is always written from all the files, so a run of some benchmarks replaces their sections, and keeps the
others as the runs before it left them. Each section says of which run it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import orjson

from bench import plots
from bench.charts import Bars, Chart, Lines
from bench.goals import GOALS, goals_table
from bench.harness import Report, Table

__all__ = ["Result", "document", "keep", "kept"]

#: The opening is written by hand, figures included, and says of which runs they are. After a run that changes them for
#: good, copy them here.
PREAMBLE = """\
# Benchmarks

A single writer pays about twice what a plain `XADD` costs, and gets for it a change that is fenced, applied and on its
way to the primary's disk. Many writers at once are faster than with plain Redis, because they share records. A standby
has applied a change half a millisecond after the call. The price of a change does not grow with the state.
When the primary is killed, nobody can write until its lease is over, and some 10 ms more.

| what you do | what you get | beside it |
| --- | --- | --- |
| `Node.submit`, one thread, 200 bytes | 5,204 a second, p50 169 us | redis-py `XADD`: 9,625 a second, 95 us |
| `Node.asubmit`, 100 tasks | 72,432 a second, p50 1.2 ms | `XADD` by 100 tasks: 20,451 a second, 4.7 ms |
| `Node.submit_many`, 100 changes a call | 247,847 a second | pipeline of 100 `XADD`: 110,613 a second |
| `Node.submit`, until a standby has applied it | p50 0.50 ms, p99 1.1 ms | `XADD` to `XREAD`: 0.32 and 0.69 ms |
| one change of a state of 1,000,000 records | 126 us, 407 bytes in the log | of 1,000 records: 120 us, 407 bytes |
| publish 82 MB of state, until a standby has rebuilt it | 1.3 s | the same in one process, without a log: 1.3 s |
| a read over HTTP, a connection that is kept alive | p50 0.25 ms | the same Starlette application without us: 0.20 ms |
| without writes, `kill -9` of the primary | 849 ms with a lease of 1 s | Sentinel, down after 1 s: 2,259 ms |
| without writes, a switchover under 4 writers | 7 ms | |
| a node that does nothing | 0.3 % of a core, 39 MB | |
| 1,000 groups in one process, idle | 40 % of a core, 187 KB each | |

Medians, each row on one machine with 2 cores; Valkey 9.1 with `appendfsync everysec`; copied from the runs of
2026-11-28 (state size, failover, idle, groups) and of 2026-11-30 (the others), on two machines. The sections below have
the newest figures, what they mean, and the goals that are missed.

## How to read the figures

Each benchmark measures the package and a baseline that does the same work by hand, or other systems with the same work,
in the same run, in turns: round after round, each round beginning with another case. A figure is a median over the
rounds. A ratio is that of the medians, with the lowest and the highest ratio of a single round in brackets; where that
range includes 1, there is no difference to speak of. Compare ratios, not figures: the machine drifts, and figures of
two runs, or of two tables, have little to do with each other. All processes run on one machine. Where the load average
of a section is above its number of cores, they have waited for one another and for whatever else ran there; that hits
hardest what takes several processes to do. Between machines a network is added to both sides, which moves the ratios
towards 1.

`make bench` writes this file, its plots, and the figures behind both (`benchmarks/*.json`). A run of some benchmarks
(`python -m bench NAME... --out docs/benchmarks.md`) replaces their sections; each section says of which run it is.
"""

GOALS_HEAD = """\
## Goals

Worked out from the figures of the sections below by `bench/goals.py`, nothing is entered by hand.
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A report, and of which run it is."""

    #: Of the benchmark, and of its file.
    name: str
    report: Report
    command: str
    date: str
    machine: str
    load: str


def keep(result: Result, directory: Path) -> None:
    """Write a result down in the place of an older one of its name, and draw its charts if matplotlib is there."""
    directory.mkdir(parents=True, exist_ok=True)
    encoded = orjson.dumps(_plain(result), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    (directory / f"{result.name}.json").write_bytes(encoded)
    if plots.can_draw():
        for chart in result.report.charts:
            plots.draw(chart, directory)


def kept(directory: Path, names: Iterable[str]) -> list[Result]:
    """What there is of these benchmarks, in their order."""
    files = (directory / f"{name}.json" for name in names)
    return [_result(orjson.loads(file.read_bytes())) for file in files if file.exists()]


def document(results: Sequence[Result], *, plots_below: Path, images: str) -> str:
    """The results as Markdown. `images`: what their directory `plots_below` is called in links."""
    by_name = {result.name: result.report.figures for result in results}
    goals = "\n\n".join([GOALS_HEAD.strip(), goals_table(GOALS, by_name, says_what_for=True).as_markdown()])
    sections = [_section(result, plots_below, images) for result in results]
    return "\n\n".join([PREAMBLE.strip(), goals, *sections]) + "\n"


def _section(result: Result, plots_below: Path, images: str) -> str:
    report = result.report
    drawn = [chart for chart in report.charts if (plots_below / f"{chart.name}.png").exists()]
    facts = [
        f"- Command: `{result.command}`",
        f"- Date: {result.date}",
        f"- Machine: {result.machine}",
        f"- {result.load}",
    ]
    parts = [f"## {report.title}", *(_filled(paragraph) for paragraph in report.prose.strip().split("\n\n"))]
    parts += [f"[![{chart.title}]({images}/{chart.name}.png)]({images}/{chart.name}.svg)" for chart in drawn]
    parts += [table.as_markdown() for table in report.tables]
    parts += [_filled(note) for note in report.notes]
    return "\n\n".join([*parts, "\n".join(facts)])


def _filled(paragraph: str) -> str:
    return fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)


# --- as JSON ----------------------------------------------------------------------------------------------------------


def _plain(result: Result) -> dict[str, Any]:
    plain = dataclasses.asdict(result)
    for chart, its_plain in zip(result.report.charts, plain["report"]["charts"], strict=True):
        its_plain["kind"] = type(chart).__name__
    return plain


def _result(plain: Mapping[str, Any]) -> Result:
    report = plain["report"]
    tables = [Table(**table) for table in report["tables"]]
    charts = [_chart(chart) for chart in report["charts"]]
    return Result(**{**plain, "report": Report(**{**report, "tables": tables, "charts": charts})})


def _chart(plain: Mapping[str, Any]) -> Chart:
    members = {name: value for name, value in plain.items() if name != "kind"}
    if plain["kind"] == Bars.__name__:
        return Bars(**members)
    return Lines(**members)
