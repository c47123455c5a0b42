"""Group commit: what many submitters share, and what one of them waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.append import CHANGE_BYTES, Pace, a_change, paced
from bench.harness import Report, Setting, Table, in_rounds, now_ns, percentile, plain_client, ratio
from bench.states import Nothing
from replicator import Node
from replicator.core.codec import encode_change, encode_changes

__all__ = ["FULL", "QUICK", "Sizes", "measure"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    threads: tuple[int, ...]


FULL = Sizes(rounds=9, seconds=1.0, threads=(1, 8, 64))
QUICK = Sizes(rounds=3, seconds=0.3, threads=(1, 8, 64))

PROSE = f"""\
So many threads of one process submit changes of {CHANGE_BYTES} bytes, each after the answer to its one before. Whoever
gets the turn commits all that wait, in one record. The *baseline* of the ratios is the plain `XADD` of one thread, as
above. A service with many threads and no replicator would have each of them send its own `XADD`: these rows are here
too, with one redis-py client for all threads, as its manual has it. Python threads share one interpreter lock, so the
cores of the machine help neither side much. Latency and CPU are those of one call, in microseconds; *changes a record*
says how many shared a round trip.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure each number of threads with both, interleaved."""
    stream = setting.group("stream")
    change = a_change()
    _, body, _ = encode_changes([encode_change(change)])
    node = Node(Nothing(), group=setting.group("commit"), name="a", data_dir=setting.fresh("commit"), redis=setting.url)
    with plain_client(setting.url) as client, node:
        node.promote()

        def plain(threads: int) -> Pace:
            client.delete(stream)
            return by_threads(lambda: client.xadd(stream, {"b": body}), threads, sizes.seconds)

        def submitted(threads: int) -> Pace:
            before = node.position.id.n
            pace = by_threads(lambda: node.submit(change), threads, sizes.seconds)
            # The few parts of snapshots that went along are counted with the records.
            records = node.position.id.n - before
            return pace._replace(changes_a_record=len(pace.latencies_us) / records)

        cases: dict[str, Callable[[], Pace]] = {}
        for threads in sizes.threads:
            cases[f"XADD, {threads}"] = lambda threads=threads: plain(threads)  # type: ignore[misc]
            cases[f"Node.submit, {threads}"] = lambda threads=threads: submitted(threads)  # type: ignore[misc]
        paces = in_rounds(cases, sizes.rounds)
    return _report(paces)


def by_threads(send: Callable[[], object], threads: int, seconds: float) -> Pace:
    """Call `send` from so many threads for so long. An error in one of them is raised here."""
    paces: list[Pace] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            paces.append(paced(send, seconds))
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began, cpu_ns = now_ns(), time.process_time_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took_s, cpu_ns = (now_ns() - began) / 1e9, time.process_time_ns() - cpu_ns
    if errors:
        raise errors[0]
    latencies_us = [latency for pace in paces for latency in pace.latencies_us]
    calls = len(latencies_us)
    return Pace(calls / took_s, latencies_us, cpu_ns / 1e3 / calls)


def _report(paces: dict[str, list[Pace]]) -> Report:
    rates = {name: [pace.rate for pace in rounds] for name, rounds in paces.items()}
    base = next(iter(rates))
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for name, rounds in paces.items():
        against = ratio(rates[name], rates[base])
        against_alike = ratio(rates[name], rates[f"XADD, {name.split()[-1]}"])
        figures |= {f"{name} {what}": figure for what, figure in _figures(rounds).items()}
        figures[f"{name} ratio"] = against.of_medians
        ratios = ["1" if name == base else str(against), "1" if name.startswith("XADD") else str(against_alike)]
        rate, *others, changes = _figures(rounds).values()
        rows.append([name, f"{rate:,.0f}", *ratios, *(f"{other:,.0f}" for other in others), f"{changes:.1f}"])
    ratio_heads = [f"x {base}", "x XADD, as many"]
    head = ["case, threads", "a second", *ratio_heads, "p50 us", "p99 us", "CPU us", "changes a record"]
    return Report(title="Group commit", prose=PROSE, tables=[Table(head=head, rows=rows)], figures=figures)


def _figures(rounds: list[Pace]) -> dict[str, float]:
    return {
        "per second": median(pace.rate for pace in rounds),
        "p50 us": median(percentile(pace.latencies_us, 50) for pace in rounds),
        "p99 us": median(percentile(pace.latencies_us, 99) for pace in rounds),
        "cpu us": median(pace.cpu_us for pace in rounds),
        "changes a record": median(pace.changes_a_record for pace in rounds),
    }
