"""An archiver beside a group: what it takes of a processor, and whether writers notice it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from bench.harness import Report, Setting, Table, in_rounds
from bench.loads import CHANGE_BYTES, Pace, a_change, figures_of, paced, ratios_of
from bench.states import Nothing
from replicator import Node
from replicator.archive.catalog import Catalog
from replicator.archive.places import Directory
from replicator.archive.status import read_status

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

WITHOUT, WITH = "submit", "submit, and an archiver"

#: Changes a second, for the archiver's share of a processor.
RATE = 1000

STARTS_WITHIN_S = 60.0

#: Once it is at work, it reads what the log has already.
CATCHES_UP_S = 1.5


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    #: For how long `RATE` is kept up.
    steady_s: float


FULL = Sizes(rounds=15, seconds=2.0, steady_s=60.0)
QUICK = Sizes(rounds=3, seconds=0.5, steady_s=4.0)

PROSE = f"""\
One thread submits changes of {CHANGE_BYTES} bytes to one node, each after the answer to the one before, as fast as it
goes: without an archiver (the *baseline*), and with one, a process of its own that writes to a directory. The two take
turns in each round, on the same node, and an archiver is started anew each time; it has read what was
there before the clock starts.

Then the thread submits up to {RATE:,} changes a second, each in a record of its own, and an archiver follows: its
processor time (user and system) while it does, for each change; the share of one core that this is at {RATE:,} a
second; and what it wrote.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure both ways, interleaved; then the archiver at a steady rate."""
    change = a_change()
    group = setting.group("archive")
    node = Node(Nothing(), group=group, name="a", data_dir=setting.fresh("archive"), redis=setting.url)
    with node:
        node.promote()

        def send() -> None:
            node.submit(change)

        cases: dict[str, Callable[[], Pace]] = {
            WITHOUT: lambda: paced(send, sizes.seconds),
            WITH: lambda: _with_archiver(setting, group, send, sizes.seconds),
        }
        paces = in_rounds(cases, sizes.rounds)
        steady = _steady(setting, group, send, sizes.steady_s)
    return _report(paces, steady)


@contextmanager
def _archiver(setting: Setting, group: str) -> Iterator[tuple[psutil.Process, Path]]:
    """A process that archives, once it is at work."""
    place = setting.fresh("archived")
    words = ["--redis", setting.url, "--group", group, "--log-level", "ERROR", "archive", "--to", str(place)]
    process = subprocess.Popen([sys.executable, "-c", "from replicator.cli import main; main()", *words])
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not (place.is_dir() and read_status(Directory(place))):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("the archiver did not start")
            time.sleep(0.02)
        time.sleep(CATCHES_UP_S)
        yield psutil.Process(process.pid), place
    finally:
        process.terminate()
        process.wait()


def _with_archiver(setting: Setting, group: str, send: Callable[[], None], seconds: float) -> Pace:
    with _archiver(setting, group):
        return paced(send, seconds)


class _Steady(NamedTuple):
    rate: float
    cpu_us: float
    memory_mb: float
    raw_mb: float
    written_mb: float
    segments: int


def _steady(setting: Setting, group: str, send: Callable[[], None], seconds: float) -> _Steady:
    with _archiver(setting, group) as (process, place):
        before, began = process.cpu_times(), time.monotonic()
        sent = 0
        while (now := time.monotonic()) < began + seconds:
            if sent < (now - began) * RATE:
                send()
                sent += 1
            else:
                time.sleep(0.0002)
        took_s = time.monotonic() - began
        after = process.cpu_times()
        memory_mb = process.memory_info().rss / 1e6
    catalog = Catalog(Directory(place))
    footers = [footer for timeline in catalog.timelines for footer in catalog.footers(timeline)]
    written = sum(path.stat().st_size for path in place.rglob("*.segment"))
    raw = sum(footer.records_bytes for footer in footers)
    spent_s = (after.user + after.system) - (before.user + before.system)
    cpu_us = max(0.0, spent_s) * 1e6 / sent
    return _Steady(sent / took_s, cpu_us, memory_mb, raw / 1e6, written / 1e6, len(footers))


def _report(paces: dict[str, list[Pace]], steady: _Steady) -> Report:
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for name, rounds in paces.items():
        found, (rates, _) = figures_of(rounds), ratios_of(rounds, paces[WITHOUT])
        figures |= {f"{name} {what}": figure for what, figure in found.items()}
        rate, *others = found.values()
        ratio = "1" if name == WITHOUT else str(rates)
        rows.append([name, f"{rate:,.0f}", ratio, *(f"{other:,.0f}" for other in others)])
    assert median(pace.rate for pace in paces[WITH]) > 0
    share = steady.cpu_us * RATE / 1e6
    figures |= {
        "archiver share": share,
        "archiver us": steady.cpu_us,
        "archiver MB": steady.memory_mb,
        "steady per second": steady.rate,
    }
    tables = [
        Table(head=["one at a time", "a second", f"x {WITHOUT}", "p50 us", "p99 us", "CPU us"], rows=rows),
        Table(
            head=[
                "an archiver at",
                "us a change",
                f"of a core at {RATE:,}",
                "memory MB",
                "records MB",
                "on the disk MB",
                "segments",
            ],
            rows=[
                [
                    f"{steady.rate:,.0f} changes a second",
                    f"{steady.cpu_us:.0f}",
                    f"{share:.1%}",
                    f"{steady.memory_mb:,.0f}",
                    f"{steady.raw_mb:,.1f}",
                    f"{steady.written_mb:,.1f}",
                    f"{steady.segments}",
                ]
            ],
        ),
    ]
    return Report(title="Archive", prose=PROSE, tables=tables, notes=[], figures=figures)
