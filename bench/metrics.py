"""Metrics: what counting costs a write, what taking times does, and what a scrape takes."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.harness import Report, Setting, Table, in_rounds, percentile, ratio
from bench.loads import CHANGE_BYTES, SUBMITTERS, Pace, a_change, by_tasks, figures_of, paced, ratios_of
from bench.states import Nothing
from replicator import Host, Node
from replicator.metrics.exposition import exposed
from replicator.web.envelope import health_app
from replicator.web.server import WebServer

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

#: Nothing is counted; it is, and nobody asks; somebody scraped, so that times are taken.
BARE, COUNTED, SCRAPED = "nothing counted", "never scraped", "scraped"

#: How often Prometheus asks here, for the share of a core.
SCRAPED_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    scrapes: int
    groups: int


# Many short rounds: what is looked for is small, and the machine drifts.
FULL = Sizes(rounds=151, seconds=0.1, scrapes=100, groups=100)
QUICK = Sizes(rounds=3, seconds=0.2, scrapes=5, groups=3)

PROSE = f"""\
Changes of {CHANGE_BYTES} bytes by three nodes of one process, each of a group of its own, in turns: one that counts
nothing (its counters were replaced by ones that do nothing, the *baseline*), one that counts and was never scraped, and
one that was, so that it takes times. One thread submits, each change after the answer to the one before; or
{SUBMITTERS} asyncio tasks do. *CPU* is processor time for one change: of the thread that submits, and of the process if
tasks do.

The second table is the processor time of one scrape: the text alone, of a node that has written and saved; the same
over HTTP, from the node's own server, with what the client of this very process takes for it; and the text of a host
with many groups, none of which has written. *Share* is that of one core, if it is scraped every {SCRAPED_EVERY_S:g} s.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all ways, interleaved; then scrapes."""
    with ExitStack() as stack:
        nodes = {name: stack.enter_context(_node(setting)) for name in (BARE, COUNTED, SCRAPED)}
        for node in nodes.values():
            node.promote()
        _counts_nothing(nodes[BARE])
        exposed(nodes[SCRAPED])
        change = a_change()
        one: dict[str, Callable[[], Pace]] = {
            name: lambda node=node: _by_one(lambda: node.submit(change), sizes.seconds)  # type: ignore[misc]
            for name, node in nodes.items()
        }
        many: dict[str, Callable[[], Pace]] = {
            name: lambda node=node: asyncio.run(  # type: ignore[misc]
                by_tasks(lambda: node.asubmit(change), SUBMITTERS, sizes.seconds)
            )
            for name, node in nodes.items()
        }
        paces = {"one thread": in_rounds(one, sizes.rounds), "tasks": in_rounds(many, sizes.rounds)}
        scrapes = _of_a_node(nodes[SCRAPED], sizes)
    scrapes |= _of_a_host(setting, sizes)
    return _report(paces, scrapes, sizes)


def _by_one(send: Callable[[], object], seconds: float) -> Pace:
    """The processor time is that of the calling thread: another one saves, and may be at what came before."""
    began = time.thread_time_ns()
    pace = paced(send, seconds)
    return pace._replace(cpu_us=(time.thread_time_ns() - began) / 1e3 / pace.changes)


def _node(setting: Setting) -> Node[Any]:
    return Node(Nothing(), group=setting.group("m"), name="a", data_dir=setting.fresh("m"), redis=setting.url)


def _counts_nothing(node: Node[Any]) -> None:
    """As if nothing had been built in, but for the calls."""
    running = node._running
    assert running is not None
    running.replica.counters.appended = lambda changes, size: None  # type: ignore[method-assign]


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


def _report(paces: dict[str, dict[str, list[Pace]]], scrapes: dict[str, list[float]], sizes: Sizes) -> Report:
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for how, by_name in paces.items():
        for name, rounds in by_name.items():
            found, (rates, _) = figures_of(rounds), ratios_of(rounds, by_name[BARE])
            cpus = ratio([pace.cpu_us for pace in rounds], [pace.cpu_us for pace in by_name[BARE]])
            figures |= {f"{how}, {name} {what}": figure for what, figure in found.items()}
            rate, p50, p99, cpu = list(found.values())[:4]
            told = ["1", "1"] if name == BARE else [str(rates), str(cpus)]
            rows.append([how, name, f"{rate:,.0f}", told[0], f"{p50:,.0f}", f"{p99:,.0f}", f"{cpu:,.1f}", told[1]])
    head = ["by", "a node", "a second", "x nothing counted", "p50 us", "p99 us", "CPU us", "x nothing counted"]
    tables = [Table(head=head, rows=rows, names=2)]
    held: list[list[str]] = []
    for name, took_ms in scrapes.items():
        figures[f"{name} ms"] = middle = median(took_ms)
        share = middle / 1e3 / SCRAPED_EVERY_S
        figures[f"{name} share"] = share
        held.append([name, f"{middle:.2f}", f"{percentile(took_ms, 99):.2f}", f"{share:.3%}"])
    tables.append(Table(head=["a scrape", "CPU ms", "p99 ms", "share"], rows=held))
    note = "The range of a ratio is that of single rounds; where it includes 1 there is no difference to speak of."
    return Report(title="Metrics", prose=PROSE, tables=tables, notes=[note], figures=figures)
