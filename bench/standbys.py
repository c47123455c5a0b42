"""What a change costs, and how soon the standbys have it, by their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import median
from typing import Any, NamedTuple

from bench.charts import Lines
from bench.harness import Child, Report, Setting, Table, in_rounds, percentile, plain_client, ratio
from bench.inbox import CPU, be_receiver
from bench.loads import CHANGE_BYTES, SUBMITTERS, Pace
from bench.systems.base import Sent, be_sender
from bench.systems.ours import NodeSender, receive_applied

__all__ = ["FULL", "QUICK", "Sizes", "Turn", "measure", "report"]

#: Changes whose arrival is noted are sent this far apart.
APART_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    pings: int
    standbys: Sequence[int] = (1, 2, 4, 8)


FULL = Sizes(rounds=5, seconds=0.8, pings=80)
QUICK = Sizes(rounds=1, seconds=0.2, pings=10, standbys=(1, 2))

PROSE = f"""\
One primary and so many standbys, each a process with a checkpoint of its own on the disk of this one machine; they are
started anew for each turn. Changes of {CHANGE_BYTES} bytes: one after the other, by {SUBMITTERS} submitters, and every
{APART_S * 1e3:g} ms with a look at when each standby had applied which. *Any* is over all changes and all standbys;
*the last* is until every standby had a change. *CPU* is the processor time of all processes, Redis included, for each
change of the first kind. Where the standbys are on machines of their own they do not share
processors and a disk as they do here: more processes than cores wait for one another, and the figures are the worst
case.
"""


class Turn(NamedTuple):
    one: Pace
    #: What all processes spent for a change of it.
    cpu_us: float
    concurrent: Pace
    #: For each change, until each of the standbys had it.
    delays_us: list[list[float]]


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all numbers of standbys, interleaved."""
    cases = {str(standbys): partial(_turn, setting, standbys, sizes) for standbys in sizes.standbys}
    # Each turn begins with new processes: there is nothing to warm up but within it.
    rounds: dict[str, list[Turn]] = in_rounds(cases, sizes.rounds, warm_ups=0)
    return report(rounds, sizes)


def _turn(setting: Setting, standbys: int, sizes: Sizes) -> Turn:
    place = setting.url, setting.group("standbys")
    with ExitStack() as stack:
        sender = stack.enter_context(Child(be_sender, NodeSender, *place, setting.fresh("primary")))
        sender.hear()
        receivers = [
            stack.enter_context(Child(be_receiver, receive_applied, *place, setting.fresh("standby"), f"b{number}"))
            for number in range(standbys)
        ]
        for receiver in receivers:
            receiver.hear()
        group = _Group(sender, receivers)
        group.load("one_at_a_time", sizes.seconds / 4)
        before_us = _redis_us(setting.url) + group.receivers_us()
        one = group.load("one_at_a_time", sizes.seconds)
        spent_us = _redis_us(setting.url) + group.receivers_us() - before_us
        concurrent = group.load("concurrent", SUBMITTERS, sizes.seconds)
        return Turn(one, one.cpu_us + spent_us / one.changes, concurrent, group.delays_us(sizes.pings))


def _redis_us(url: str) -> float:
    """The processor time of Redis so far."""
    with plain_client(url) as client:
        used = client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"]) * 1e6


class _Group:
    """Tells all processes what to do. Nothing begins before all standbys have all that was sent before."""

    def __init__(self, sender: Child, receivers: Sequence[Child]) -> None:
        self._sender = sender
        self._receivers = receivers
        self._sent = 0

    def load(self, name: str, *arguments: Any) -> Pace:
        pace: Pace = self._sender.ask((name, *arguments))
        self._received(pace.changes)
        return pace

    def receivers_us(self) -> float:
        """The processor time of all receivers so far."""
        spent_ns: int = sum(receiver.ask(CPU) for receiver in self._receivers)
        return spent_ns / 1e3

    def delays_us(self, pings: int) -> list[list[float]]:
        sent: list[Sent] = self._sender.ask(("pings", 0, pings, APART_S, pings))
        received_ns = self._received(len(sent))
        return [[(each_ns[number] - at.called_ns) / 1e3 for each_ns in received_ns] for number, at in enumerate(sent)]

    def _received(self, more: int) -> list[dict[int, int]]:
        self._sent += more
        return [receiver.ask(self._sent) for receiver in self._receivers]


# --- the report -------------------------------------------------------------------------------------------------------


def report(rounds: Mapping[str, list[Turn]], sizes: Sizes) -> Report:
    """What the rounds of all numbers of standbys say."""
    base = rounds[str(sizes.standbys[0])]
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for name, turns in rounds.items():
        found = _found(turns)
        figures |= {f"{name} {what}": figure for what, figure in found.items()}
        against = ratio([turn.one.rate for turn in turns], [turn.one.rate for turn in base])
        one, cpu, concurrent, *delays = (f"{figure:,.0f}" for figure in found.values())
        rows.append([name, one, "1" if turns is base else str(against), cpu, concurrent, *delays])
    head = [
        "standbys",
        "one at a time, a second",
        f"x {sizes.standbys[0]} standby",
        "CPU us a change, all processes",
        f"{SUBMITTERS} at a time, a second",
    ]
    head += ["any p50 us", "p99 us", "the last p50 us", "p99 us"]
    table = Table(head=head, rows=rows)
    return Report(
        title="By the number of standbys", prose=PROSE, tables=[table], figures=figures, charts=_charts(figures, sizes)
    )


def _found(turns: Sequence[Turn]) -> dict[str, float]:
    of_any = list(chain.from_iterable(chain.from_iterable(turn.delays_us for turn in turns)))
    of_last = [max(delays) for turn in turns for delays in turn.delays_us]
    return {
        "one at a time per second": median(turn.one.rate for turn in turns),
        "cpu us": median(turn.cpu_us for turn in turns),
        "concurrent per second": median(turn.concurrent.rate for turn in turns),
        "any p50 us": percentile(of_any, 50),
        "any p99 us": percentile(of_any, 99),
        "last p50 us": percentile(of_last, 50),
        "last p99 us": percentile(of_last, 99),
    }


def _charts(figures: Mapping[str, float], sizes: Sizes) -> list[Lines]:
    def over_standbys(what: str, scale: float = 1) -> list[Any]:
        return [(standbys, figures[f"{standbys} {what}"] / scale) for standbys in sizes.standbys]

    delays = {name: over_standbys(what, 1e3) for name, what in
              (("any standby, p50", "any p50 us"), ("the last standby, p50", "last p50 us"),
               ("any standby, p99", "any p99 us"))}  # fmt: skip
    rates = {"one at a time": over_standbys("one at a time per second"),
             f"{SUBMITTERS} submitters": over_standbys("concurrent per second")}  # fmt: skip
    x_label = "standbys, all on one machine (log scale)"
    return [
        Lines(
            name="standbys-latency",
            title="From the call until a standby has applied the change, by the number of standbys",
            x_label=x_label,
            y_label="milliseconds (log scale)",
            series=delays,
            log_y=True,
        ),
        Lines(
            name="standbys-rate",
            title=f"Changes of {CHANGE_BYTES} bytes committed a second, by the number of standbys",
            x_label=x_label,
            y_label="changes a second (log scale)",
            series=rates,
            log_y=True,
        ),
    ]
