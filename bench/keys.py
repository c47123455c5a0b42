"""Changes with keys: what a key adds to a submit, and what 65,536 of them take in a node."""

from __future__ import annotations

import gc
import time
import tracemalloc
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.harness import Report, Setting, Table, in_rounds
from bench.loads import CHANGE_BYTES, Pace, a_change, figures_of, paced, ratios_of
from bench.states import Nothing
from replicator import Node
from replicator.format.ids import RecordId
from replicator.format.keyed import Keyed
from replicator.replica.ledger import KEYS_BYTES_MAX, KEYS_MAX, Ledger

__all__ = ["FULL", "QUICK", "Sizes", "filled", "measure"]

WITHOUT, WITH, REPEAT = "submit", "submit, with a key", "submit, a repeat"

#: What changes give, as long as it may be for 65,536 keys, and as long as it may be at all.
RESULTS = {"results of a few bytes": 17, "results of 140 bytes": "x" * 138, "results of 4 kB": "x" * 4_000}

MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    #: How often a full table is taken, and written down.
    times: int = 9


FULL = Sizes(rounds=15, seconds=0.7)
QUICK = Sizes(rounds=3, seconds=0.2)

PROSE = f"""\
One thread submits changes of {CHANGE_BYTES} bytes to one node, each after the answer to the one before: without a key
(the *baseline*); with a key of its own, a UUID, while the table is full, so that each pushes out the oldest; and again
and again with one key, so that nothing is applied. The three take turns in each round, on the same node. *CPU* is the
processor time of the process for one call.

The second table is the table of keys alone, full: memory as Python counts what it allocated (`tracemalloc`), and the
time for which a primary that begins a snapshot holds the lock of the state (*taken*), and writes it down after that.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all ways, interleaved; then the table alone."""
    change = a_change()
    node = Node(Nothing(), group=setting.group("keys"), name="a", data_dir=setting.fresh("keys"), redis=setting.url)
    with node:
        node.promote()
        _fill(node)
        cases: dict[str, Callable[[], Pace]] = {
            WITHOUT: lambda: paced(lambda: node.submit(change), sizes.seconds),
            WITH: lambda: paced(lambda: node.submit(change, key=str(uuid.uuid4())), sizes.seconds),
            REPEAT: lambda: paced(lambda: node.submit(change, key="repeated"), sizes.seconds),
        }
        paces = in_rounds(cases, sizes.rounds)
    return _report(paces, {name: _table(result, sizes.times) for name, result in RESULTS.items()})


def _fill(node: Node) -> None:
    """As many keys as there may be, a thousand in a record."""
    for _ in range(0, KEYS_MAX, 1000):
        node.submit_many([{}] * 1000, keys=[str(uuid.uuid4()) for _ in range(1000)])


def filled(result: Any) -> Ledger:
    """A ledger that is full, of keys as they are usual, each with this result."""
    ledger = Ledger()
    for number in range(KEYS_MAX):
        keyed = Keyed(str(uuid.UUID(int=number)), None, "0" * 32)
        ledger.once(keyed, RecordId(1_048_577, number), 0, lambda _: result)
    return ledger


def _report(paces: dict[str, list[Pace]], full: dict[str, dict[str, float]]) -> Report:
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for name, rounds in paces.items():
        found, (rates, _) = figures_of(rounds), ratios_of(rounds, paces[WITHOUT])
        figures |= {f"{name} {what}": figure for what, figure in found.items()}
        rate, *others = found.values()
        ratio = "1" if name == WITHOUT else str(rates)
        rows.append([name, f"{rate:,.0f}", ratio, *(f"{other:,.0f}" for other in others)])
    tables = [Table(head=["one at a time", "a second", f"x {WITHOUT}", "p50 us", "p99 us", "CPU us"], rows=rows)]
    held: list[list[str]] = []
    for name, told in full.items():
        figures |= {f"{name}, {what}": figure for what, figure in told.items()}
        held.append([name, *(f"{figure:,.2f}" for figure in told.values())])
    tables.append(Table(head=["a full table", "keys", "MB", "MB in a snapshot", "taken ms", "written ms"], rows=held))
    note = f"A table is full at {KEYS_MAX:,} keys, or at {KEYS_BYTES_MAX // 1024**2} MiB of keys and results."
    return Report(title="Keys", prose=PROSE, tables=tables, notes=[note], figures=figures)


def _table(result: Any, times: int) -> dict[str, float]:
    gc.collect()
    tracemalloc.start()
    ledger = filled(result)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    taken = _took_ms(ledger.image, times)
    written = _took_ms(ledger.image().to_bytes, times)
    return {
        "keys": len(ledger), "MB": held / MB, "MB in a snapshot": ledger.size / MB, "taken ms": taken,
        "written ms": written,
    }  # fmt: skip


def _took_ms(work: Callable[[], object], times: int) -> float:
    def once() -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1e3

    return median(once() for _ in range(times))
