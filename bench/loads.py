"""How changes are sent: one at a time, by many threads, by many tasks, or so many at once. And what one of them is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import NamedTuple

from bench.harness import Ratio, now_ns, percentile, ratio
from replicator.format.codec import encode_change

__all__ = [
    "BATCH",
    "CHANGE_BYTES",
    "SUBMITTERS",
    "Pace",
    "a_change",
    "by_tasks",
    "by_threads",
    "figures_of",
    "in_batches",
    "pace_of",
    "paced",
    "ratios_of",
]

#: The JSON of one change.
CHANGE_BYTES = 200

#: So many submit at the same time where many do, each after the answer to its one before.
SUBMITTERS = 100

#: So many changes are handed over at once where several are.
BATCH = 100


class Pace(NamedTuple):
    """How one case went in one round."""

    #: Changes a second.
    rate: float
    #: Of one call, which is one change or one batch of them.
    p50_us: float
    p99_us: float
    #: Processor time of the process that sends, for one change.
    cpu_us: float
    changes: int
    #: How many changes went into one record; 1 for what knows no records.
    changes_a_record: float = 1.0


def a_change(number: int | None = None) -> dict[str, int | str]:
    """A change whose JSON has `CHANGE_BYTES` bytes. With a number it is a ping (see `Inbox`)."""
    change: dict[str, int | str] = {} if number is None else {"ping": number}
    change["pad"] = ""
    return {**change, "pad": "x" * (CHANGE_BYTES - len(encode_change(change)))}


def paced(send: Callable[[], object], seconds: float) -> Pace:
    """Call `send` again and again for so long."""
    latencies_ns: list[int] = []
    until_ns = now_ns() + int(seconds * 1e9)
    return pace_of(latencies_ns, lambda: _call_until(send, until_ns, latencies_ns))


def pace_of(latencies_ns: list[int], work: Callable[[], object]) -> Pace:
    """Carry out `work`, which adds the latency of each call to the list."""
    cpu_ns, began = time.process_time_ns(), now_ns()
    work()
    return _pace(latencies_ns, now_ns() - began, time.process_time_ns() - cpu_ns)


def in_batches(send: Callable[[], object], size: int, seconds: float) -> Pace:
    """Call `send`, which sends `size` changes, again and again for so long."""
    return _batched(paced(send, seconds), size)


def by_threads(send: Callable[[], object], threads: int, seconds: float) -> Pace:
    """Call `send` from so many threads for so long. An error in one of them is raised here."""
    latencies_ns: list[list[int]] = [[] for _ in range(threads)]
    errors: list[Exception] = []

    def work(latencies_ns: list[int], until_ns: int) -> None:
        try:
            _call_until(send, until_ns, latencies_ns)
        except Exception as error:
            errors.append(error)

    cpu_ns, began = time.process_time_ns(), now_ns()
    until_ns = began + int(seconds * 1e9)
    workers = [threading.Thread(target=work, args=(each, until_ns)) for each in latencies_ns]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took_ns, cpu_ns = now_ns() - began, time.process_time_ns() - cpu_ns
    if errors:
        raise errors[0]
    return _pace([latency for each in latencies_ns for latency in each], took_ns, cpu_ns)


async def by_tasks(send: Callable[[], Awaitable[object]], tasks: int, seconds: float, size: int = 1) -> Pace:
    """Await `send`, which sends `size` changes, in so many tasks for so long."""
    latencies_ns: list[int] = []
    cpu_ns, began = time.process_time_ns(), now_ns()
    until_ns = began + int(seconds * 1e9)

    async def work() -> None:
        before = now_ns()
        while True:
            await send()
            after = now_ns()
            latencies_ns.append(after - before)
            if after >= until_ns:
                return
            before = after

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(work())
    return _batched(_pace(latencies_ns, now_ns() - began, time.process_time_ns() - cpu_ns), size)


def _call_until(send: Callable[[], object], until_ns: int, latencies_ns: list[int]) -> None:
    before = now_ns()
    while True:  # once at the least: a busy machine may let a round pass by
        send()
        after = now_ns()
        latencies_ns.append(after - before)
        if after >= until_ns:
            return
        before = after


def _pace(latencies_ns: list[int], took_ns: int, cpu_ns: int) -> Pace:
    calls = len(latencies_ns)
    latencies_ns.sort()
    p50_us, p99_us = (percentile(latencies_ns, percent) / 1e3 for percent in (50, 99))
    return Pace(calls / (took_ns / 1e9), p50_us, p99_us, cpu_ns / 1e3 / calls, calls)


def _batched(pace: Pace, size: int) -> Pace:
    return pace._replace(rate=pace.rate * size, cpu_us=pace.cpu_us / size, changes=pace.changes * size)


# --- what rounds of it say --------------------------------------------------------------------------------------------


def figures_of(rounds: Sequence[Pace]) -> dict[str, float]:
    """The medians over the rounds, in the order in which a table has them."""
    return {
        "per second": median(pace.rate for pace in rounds),
        "p50 us": median(pace.p50_us for pace in rounds),
        "p99 us": median(pace.p99_us for pace in rounds),
        "cpu us": median(pace.cpu_us for pace in rounds),
    }


def ratios_of(rounds: Sequence[Pace], baseline: Sequence[Pace]) -> tuple[Ratio, Ratio]:
    """How the rate and the p99 of a case compare with those of the baseline."""
    rates = ratio([pace.rate for pace in rounds], [pace.rate for pace in baseline])
    return rates, ratio([pace.p99_us for pace in rounds], [pace.p99_us for pace in baseline])
