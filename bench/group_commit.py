"""Group commit: what many submitters share, what one of them waits for, and what a batch of one submitter costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import redis.asyncio

from bench.harness import Ratio, Report, Setting, Table, in_rounds, plain_client
from bench.loads import (
    BATCH,
    CHANGE_BYTES,
    SUBMITTERS,
    Pace,
    a_change,
    by_tasks,
    by_threads,
    figures_of,
    in_batches,
    ratios_of,
)
from bench.states import Nothing
from replicator import Node
from replicator.format.codec import encode_change, encode_changes

__all__ = ["FULL", "QUICK", "Sizes", "measure", "report"]

#: Of the ratios.
BASE = "XADD, 1 thread"
BY_HAND = f"XADD, {BATCH} changes in one entry"
PIPELINE = f"XADD, pipeline of {BATCH}"
SUBMIT_MANY = f"Node.submit_many, {BATCH} changes"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float
    threads: Sequence[int] = (1, 8, SUBMITTERS)
    tasks: int = SUBMITTERS


FULL = Sizes(rounds=9, seconds=0.8)
QUICK = Sizes(rounds=3, seconds=0.3)

PROSE = f"""\
Many submit changes of {CHANGE_BYTES} bytes, each after the answer to its one before: as threads (`Node.submit`) and as
asyncio tasks (`Node.asubmit`) of one process. Whoever gets the lock commits all that wait, in one record. The
*baseline* of the ratios is the plain `XADD` of one thread, one after the other. A service with as many threads or tasks
and no replicator would have each of them send its own `XADD`: these rows are here too, with one redis-py client for
all, as its manual has it. Python threads share one interpreter lock, so more cores help neither side much.

One submitter with many changes at hand gives them to `Node.submit_many`, here {BATCH} at a time; what is beside it is
a pipeline of redis-py with as many `XADD`, as its manual has it, and {BATCH} changes in one entry of a plain stream,
packed by hand, which is as little as that can cost. Latency is that of one call, so for batches of all {BATCH} changes
together; CPU is for one change. Both are in microseconds. *Changes a record* says how many shared a round trip.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all ways and both sides, interleaved."""
    node = Node(Nothing(), group=setting.group("commit"), name="a", data_dir=setting.fresh("commit"), redis=setting.url)
    with Plain(setting) as plain, node, asyncio.Runner() as runner:
        node.promote()
        paces = in_rounds(_cases(plain, node, runner, sizes), sizes.rounds)
    return report(paces)


def _cases(plain: Plain, node: Any, runner: asyncio.Runner, sizes: Sizes) -> dict[str, Callable[[], Pace]]:
    change = a_change()
    cases: dict[str, Callable[[], Pace]] = {}
    for threads in sizes.threads:
        cases[_threads("XADD", threads)] = partial(plain.by_threads, threads, sizes.seconds)
        submitted = partial(by_threads, partial(node.submit, change), threads, sizes.seconds)
        cases[_threads("Node.submit", threads)] = partial(_counted, node, submitted)
    cases[_tasks("XADD", sizes.tasks)] = partial(plain.by_tasks, sizes.tasks, sizes.seconds)
    if hasattr(node, "asubmit"):
        submitted = partial(_in_tasks, runner, partial(node.asubmit, change), sizes)
        cases[_tasks("Node.asubmit", sizes.tasks)] = partial(_counted, node, submitted)
    # Shorter: in a second of it there are some hundred MB, and what follows would wait for their fsync.
    short = sizes.seconds / 4
    cases[BY_HAND] = partial(plain.in_batches, BATCH, short)
    cases[PIPELINE] = partial(plain.in_pipelines, BATCH, short)
    if hasattr(node, "submit_many"):
        submitted = partial(in_batches, partial(node.submit_many, [change] * BATCH), BATCH, short)
        cases[SUBMIT_MANY] = partial(_counted, node, submitted)
    return cases


def _threads(what: str, threads: int) -> str:
    return f"{what}, {threads} thread{'s' if threads > 1 else ''}"


def _tasks(what: str, tasks: int) -> str:
    return f"{what}, {tasks} tasks"


def _in_tasks(runner: asyncio.Runner, send: Callable[[], Any], sizes: Sizes) -> Pace:
    return runner.run(by_tasks(send, sizes.tasks, sizes.seconds))


def _counted(node: Node, submitted: Callable[[], Pace]) -> Pace:
    before = node.position.id.n
    pace = submitted()
    # The few parts of snapshots that went along are counted with the records.
    return pace._replace(changes_a_record=pace.changes / (node.position.id.n - before))


class Plain:
    """redis-py and a plain stream, which is emptied before each round of each case."""

    def __init__(self, setting: Setting) -> None:
        self._url = setting.url
        self._stream = setting.group("stream")
        self._client = plain_client(setting.url)
        encoded = encode_change(a_change())
        self._one: dict[Any, Any]
        self._many: dict[Any, Any]
        self._one, self._many = ({"b": encode_changes([encoded] * size)[1]} for size in (1, BATCH))

    def by_threads(self, threads: int, seconds: float) -> Pace:
        self._client.delete(self._stream)
        return by_threads(lambda: self._client.xadd(self._stream, self._one), threads, seconds)

    def by_tasks(self, tasks: int, seconds: float) -> Pace:
        self._client.delete(self._stream)
        return asyncio.run(self._by_tasks(tasks, seconds))

    async def _by_tasks(self, tasks: int, seconds: float) -> Pace:
        async with redis.asyncio.Redis.from_url(self._url) as client:
            # Each task has a connection. They are made before the time begins.
            await asyncio.gather(*(client.ping() for _ in range(tasks)))
            return await by_tasks(lambda: client.xadd(self._stream, self._one), tasks, seconds)

    def in_batches(self, size: int, seconds: float) -> Pace:
        self._client.delete(self._stream)
        return in_batches(lambda: self._client.xadd(self._stream, self._many), size, seconds)

    def in_pipelines(self, size: int, seconds: float) -> Pace:
        self._client.delete(self._stream)
        return in_batches(partial(self._send_pipeline, size), size, seconds)

    def _send_pipeline(self, size: int) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for _ in range(size):
                pipe.xadd(self._stream, self._one)
            pipe.execute()

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def report(paces: Mapping[str, list[Pace]]) -> Report:
    """What the rounds of all cases say."""
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for name, rounds in paces.items():
        rates, p99s = ratios_of(rounds, paces[BASE])
        found = figures_of(rounds)
        changes = median(pace.changes_a_record for pace in rounds)
        figures |= {f"{name} {what}": figure for what, figure in found.items()}
        figures |= {f"{name} changes a record": changes}
        figures |= {f"{name} rate ratio": rates.of_medians, f"{name} p99 ratio": p99s.of_medians}
        rows.append(_row(name, found, (rates, p99s), changes))
    head = ["case", "changes a second", f"x {BASE}", "p50 us", "p99 us", f"p99 x {BASE}", "CPU us", "changes a record"]
    return Report(title="Group commit", prose=PROSE, tables=[Table(head=head, rows=rows)], figures=figures)


def _row(name: str, found: dict[str, float], ratios: Sequence[Ratio], changes: float) -> list[str]:
    rates, p99s = ("1" if name == BASE else str(each) for each in ratios)
    rate, p50, p99 = (f"{found[what]:,.0f}" for what in ("per second", "p50 us", "p99 us"))
    return [name, rate, rates, p50, p99, p99s, f"{found['cpu us']:,.1f}", f"{changes:.1f}"]
