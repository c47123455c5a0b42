"""What one change costs, by the size of the state that it changes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from bench.charts import Lines
from bench.harness import Child, Report, Setting, Table, heard, in_rounds, plain_client, ratio
from bench.loads import CHANGE_BYTES, Pace, paced
from bench.states import Records
from replicator import Node
from replicator.format.codec import encode_change

__all__ = ["FULL", "QUICK", "Sizes", "measure", "report"]

#: So many of the newest entries of a log are weighed.
ENTRIES = 200

#: The same keys in every run.
SEED = 1


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    records: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)


FULL = Sizes(rounds=11, seconds=0.7)
QUICK = Sizes(rounds=3, seconds=0.2, records=(1_000, 100_000))

PROSE = f"""\
A state that is a dict of records, and changes of {CHANGE_BYTES} bytes that replace one record each, drawn at random;
one after the other, by one thread. Each size is a process of its own, and there are no standbys. A change that is named
costs what the change costs; a state that is sent whole, or compared with the one before, would cost ten times as much
in each row as in the row above. The price of a snapshot, which every log needs now and then, is in it as far as it
fell into the rounds, and the median is of rounds: one is due when the changes since the last one outweigh it, but for a
pause of 20 times as long as that one took, so a small state sends a small one often, and a large state a large one
seldom. *CPU* is all processor time of the primary's process by the number of changes; *bytes* are those of the header
and the body of the change's record. The last column is the worst of the ratios of time, CPU and bytes.
"""


class Cost(NamedTuple):
    pace: Pace
    bytes: float

    @property
    def us(self) -> float:
        return 1e6 / self.pace.rate


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all sizes, interleaved."""
    with ExitStack() as stack:
        cases = {}
        for records in sizes.records:
            group = setting.group("size")
            child = stack.enter_context(Child(be_primary, setting.url, group, setting.fresh("size"), records))
            child.hear()
            cases[f"{records:,}"] = partial(_cost, setting.url, group, child, sizes.seconds)
        rounds: dict[str, list[Cost]] = in_rounds(cases, sizes.rounds)
    return report(rounds, sizes)


def _cost(url: str, group: str, child: Child, seconds: float) -> Cost:
    pace: Pace = child.ask(seconds)
    with plain_client(url) as client:
        entries = client.xrevrange(f"replicator:{{{group}}}:log", count=ENTRIES)
    weights = [
        len(entry[b"h"]) + len(entry[b"b"]) for _, entry in entries if orjson.loads(entry[b"h"])["kind"] == "change"
    ]
    return Cost(pace, median(weights))


def be_primary(pipe: Connection, url: str, group: str, data_dir: Path, records: int) -> None:
    """The process of a primary with so many records: told for how long, it submits."""
    draw = random.Random(SEED)
    pad = "x" * (CHANGE_BYTES - len(encode_change({"key": records, "pad": ""})))
    with Node(Records(records), group=group, name="a", data_dir=data_dir, redis=url) as node:
        node.promote()
        # The log then has what a log that has been in use has.
        node.publish()
        pipe.send("ready")
        while (seconds := heard(pipe)) is not None:
            pipe.send(paced(lambda: node.submit({"key": draw.randrange(records), "pad": pad}), seconds))


# --- the report -------------------------------------------------------------------------------------------------------


def report(rounds: Mapping[str, list[Cost]], sizes: Sizes) -> Report:
    """What the rounds of all sizes say."""
    base = rounds[f"{sizes.records[0]:,}"]
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for name, costs in rounds.items():
        found = _found(costs)
        times = ratio([cost.us for cost in costs], [cost.us for cost in base])
        worst = max(figure / _found(base)[what] for what, figure in found.items() if what in ("us", "cpu us", "bytes"))
        figures |= {f"{name} {what}": figure for what, figure in found.items()}
        figures[f"{name} against {sizes.records[0]:,}"] = worst
        cells = [f"{found['per second']:,.0f}", f"{found['us']:,.0f}", "1" if costs is base else str(times)]
        cells += [f"{found[what]:,.0f}" for what in ("cpu us", "bytes")]
        rows.append([name, *cells, f"{worst:.2f}"])
    head = ["records", "changes a second", "us", f"x {sizes.records[0]:,}", "CPU us", "bytes", "worst x"]
    table = Table(head=head, rows=rows)
    return Report(
        title="By the size of the state", prose=PROSE, tables=[table], figures=figures, charts=[_chart(figures, sizes)]
    )


def _found(costs: Sequence[Cost]) -> dict[str, float]:
    return {
        "per second": median(cost.pace.rate for cost in costs),
        "us": median(cost.us for cost in costs),
        "cpu us": median(cost.pace.cpu_us for cost in costs),
        "bytes": median(cost.bytes for cost in costs),
    }


def _chart(figures: Mapping[str, float], sizes: Sizes) -> Lines:
    def over_sizes(what: str) -> list[Any]:
        return [(records, figures[f"{records:,} {what}"]) for records in sizes.records]

    return Lines(
        name="state-size",
        title=f"The cost of one change of {CHANGE_BYTES} bytes, by the size of the state",
        x_label="records in the state (log scale)",
        y_label="microseconds for one change",
        series={"time": over_sizes("us"), "processor time": over_sizes("cpu us")},
    )
