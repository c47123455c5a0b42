"""Metrics: what counting costs a write, what taking times does, and what a scrape takes."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.harness import Report, Setting, Table, in_rounds, now_ns, percentile, ratio
from bench.loads import CHANGE_BYTES, SUBMITTERS, Pace, a_change, by_tasks, figures_of
from bench.states import Nothing
from replicator import Host, Node
from replicator.metrics.counters import Timings
from replicator.metrics.exposition import exposed
from replicator.web.envelope import health_app
from replicator.web.server import WebServer

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

#: Nobody asks; somebody scraped, so that times are taken.
COUNTED, SCRAPED = "never scraped", "scraped"

#: How often Prometheus asks here, for the share of a core.
SCRAPED_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    #: Of one thread, to each node, in a round; and for how long tasks submit to one.
    calls: int
    seconds: float
    scrapes: int
    groups: int


FULL = Sizes(rounds=41, calls=300, seconds=0.3, scrapes=100, groups=100)
QUICK = Sizes(rounds=3, calls=50, seconds=0.2, scrapes=5, groups=3)

PROSE = f"""\
Changes of {CHANGE_BYTES} bytes by two nodes of one process, each of a group of its own: one that counts and was never
scraped (the *baseline*: counting is a few additions in the writer itself), and one that was, so that it takes times.
One thread submits, a change to each node in turn, each after the answer to the one before;
p50, p99 and CPU are of one call, CPU of the thread that calls. Or {SUBMITTERS} asyncio tasks submit, to one node after
the other; CPU is that of the process for one change.

The second table is the processor time of one scrape: the text alone, of a node that has written and saved; the same
over HTTP, from the node's own server, with what the client of this very process takes for it; and the text of a host
with many groups, none of which has written. *Share* is that of one core, if it is scraped every {SCRAPED_EVERY_S:g} s.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all ways, interleaved; then scrapes."""
    with ExitStack() as stack:
        nodes = {name: stack.enter_context(_node(setting)) for name in (COUNTED, SCRAPED)}
        for node in nodes.values():
            node.promote()
        exposed(nodes[SCRAPED])
        change = a_change()
        one = [_in_turn(nodes, change, sizes.calls, first=number % 2) for number in range(-1, sizes.rounds)][1:]
        many: dict[str, Callable[[], Pace]] = {
            name: lambda node=node: asyncio.run(  # type: ignore[misc]
                by_tasks(lambda: node.asubmit(change), SUBMITTERS, sizes.seconds)
            )
            for name, node in nodes.items()
        }
        by_one = {name: [paces[name] for paces in one] for name in nodes}
        paces = {"one thread": by_one, "tasks": in_rounds(many, sizes.rounds)}
        scrapes = _of_a_node(nodes[SCRAPED], sizes)
    scrapes |= _of_a_host(setting, sizes)
    return _report(paces, scrapes)


def _in_turn(nodes: Mapping[str, Node[Any]], change: Any, calls: int, *, first: int) -> dict[str, Pace]:
    """Submit to each node in turn, so that whatever the machine does meanwhile it does to all of them."""
    names = [*nodes][first:] + [*nodes][:first]
    took_ns: dict[str, list[int]] = {name: [] for name in nodes}
    cpu_ns: dict[str, list[int]] = {name: [] for name in nodes}
    for _ in range(calls):
        for name in names:
            submit = nodes[name].submit
            cpu, began = time.thread_time_ns(), now_ns()
            submit(change)
            took_ns[name].append(now_ns() - began)
            cpu_ns[name].append(time.thread_time_ns() - cpu)
    return {name: _pace(took_ns[name], cpu_ns[name]) for name in nodes}


def _pace(took_ns: list[int], cpu_ns: list[int]) -> Pace:
    p50_us, p99_us = (percentile(took_ns, percent) / 1e3 for percent in (50, 99))
    return Pace(len(took_ns) / (sum(took_ns) / 1e9), p50_us, p99_us, median(cpu_ns) / 1e3, len(took_ns))


def _to_settle_us(changes: int = 1000) -> float:
    """What it takes another thread to put into buckets what the writing one noted of a record."""
    timings = Timings()
    for _ in range(changes):
        timings.wrote(([0.0], 1, 0.0001, 0.0002, 0.0003))
    return _cpu_ms(timings.settle) * 1e3 / changes


def _node(setting: Setting) -> Node[Any]:
    return Node(Nothing(), group=setting.group("m"), name="a", data_dir=setting.fresh("m"), redis=setting.url)


def _of_a_node(node: Node[Any], sizes: Sizes) -> dict[str, list[float]]:
    text = [_cpu_ms(lambda: exposed(node)) for _ in range(sizes.scrapes)]
    with WebServer(health_app(node)) as server:

        def ask() -> None:
            with urllib.request.urlopen(f"{server.url}/metrics") as answer:
                answer.read()

        ask()
        return {"the text": text, "over HTTP, with the client": [_cpu_ms(ask) for _ in range(sizes.scrapes)]}


def _of_a_host(setting: Setting, sizes: Sizes) -> dict[str, list[float]]:
    with Host(setting.url) as host:
        for _ in range(sizes.groups):
            host.node(Nothing(), group=setting.group("m"), name="a", data_dir=setting.fresh("m"))
        exposed(host)
        times = max(3, sizes.scrapes // 10)
        return {f"the text of {sizes.groups} groups": [_cpu_ms(lambda: exposed(host)) for _ in range(times)]}


def _cpu_ms(work: Callable[[], object]) -> float:
    began = time.process_time_ns()
    work()
    return (time.process_time_ns() - began) / 1e6


def _report(paces: dict[str, dict[str, list[Pace]]], scrapes: dict[str, list[float]]) -> Report:
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for how, by_name in paces.items():
        for name, rounds in by_name.items():
            found, base = figures_of(rounds), by_name[COUNTED]
            figures |= {f"{how}, {name} {what}": figure for what, figure in found.items()}
            of_p50 = ratio([pace.p50_us for pace in rounds], [pace.p50_us for pace in base])
            of_cpu = ratio([pace.cpu_us for pace in rounds], [pace.cpu_us for pace in base])
            rate, p50, p99, cpu = found.values()
            told = ["1", "1"] if name == COUNTED else [str(of_p50), str(of_cpu)]
            rows.append([how, name, f"{rate:,.0f}", f"{p99:,.0f}", f"{p50:,.0f}", told[0], f"{cpu:,.1f}", told[1]])
    head = ["by", "a node", "a second", "p99 us", "p50 us", f"x {COUNTED}", "CPU us", f"x {COUNTED}"]
    tables = [Table(head=head, rows=rows, names=2)]
    held: list[list[str]] = []
    for name, took_ms in scrapes.items():
        figures[f"{name} ms"] = middle = median(took_ms)
        share = middle / 1e3 / SCRAPED_EVERY_S
        figures[f"{name} share"] = share
        held.append([name, f"{middle:.2f}", f"{percentile(took_ms, 99):.2f}", f"{share:.3%}"])
    tables.append(Table(head=["a scrape", "CPU ms", "p99 ms", "share"], rows=held))
    figures["settle us"] = settle_us = median(_to_settle_us() for _ in range(9))
    note = f"Of a record that is timed, the thread that saves takes {settle_us:.1f} us more, to put it into buckets."
    return Report(title="Metrics", prose=PROSE, tables=tables, notes=[note], figures=figures)
