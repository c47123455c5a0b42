"""From a change that is submitted to the same change applied on a standby in another process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import chain, count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bench.harness import Child, Report, Setting, Table, in_rounds, now_ns, percentile, ratio
from bench.inbox import CPU, be_receiver
from bench.loads import BATCH, CHANGE_BYTES
from bench.systems.base import Sender
from bench.systems.ours import NodeSender, receive_applied
from bench.systems.redis import RedisSender, receive_stream

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

#: Where changes are sent with pauses, they are this far apart, so that none waits behind the one before it.
APART_S = 0.01

#: The same where nothing but the processor time of the receiver is asked for: far enough that each comes alone, and
#: near enough that what it does by itself, three thousandths of a core, is little of it.
ALONE_APART_S = 0.001

#: For so long batches are sent.
BATCHES_S = 0.1

#: So long after them the receiver has synced what it saved.
SYNCED_AFTER_S = 0.2

#: A directory in memory, for the standby whose disk costs nothing.
IN_MEMORY = Path("/dev/shm")

BARE, ON_DISK, WITHOUT_DISK = "XADD to XREAD", "submit to applied", "the same, checkpoints in memory"
DISK = "write 4 KiB, fsync"
ALONE, IN_BATCHES = "alone", "in batches"

#: How the changes follow one another.
WITH_PAUSES, BACK_TO_BACK = f"every {APART_S * 1e3:g} ms", "back to back"

PROSE = f"""\
One process sends changes of {CHANGE_BYTES} bytes, another one receives them; both read the same clock. *Every
{APART_S * 1e3:g} ms*: a change with a pause before it, in which both processes fall asleep. *Back to back*: the next
one as soon as the one before has arrived. The *baseline* is a bare ping in the same Redis: redis-py's `XADD` there,
`XREAD BLOCK` here. With the package it is `Node.submit` there and `apply` here, and in between the standby has checked
the record and folded it; it writes it to its checkpoint, and syncs that, within 0.1 s. To see what the disk has to do
with it, a second pair of nodes keeps its checkpoints in memory (where the machine has such a directory), and each round
has a file to which 4 KiB are appended and synced, at the pace with pauses, by nobody but this process.

Besides, what the receiving process spends, all its threads, for a change: *alone*, {ALONE_APART_S * 1e3:g} ms apart, so
that a wake-up, a read, a save and what the process does by itself are in it; and *in batches*, of {BATCH} at a time
(`Node.submit_many`; for the baseline a pipeline), one after the other.

Times count from before the call that sends; *from the answer* counts from its return, when the caller knows that the
change is committed, and can be negative: the standby may be done before the primary is. A p99 is that of all rounds
together. All is in microseconds.
"""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    #: With pauses; and so many times more without.
    pings: int
    more_back_to_back: int = 3


FULL = Sizes(rounds=15, pings=100)
QUICK = Sizes(rounds=3, pings=30)


class Ping(NamedTuple):
    """When the call that sent it began and ended, and when it was received."""

    called_ns: int
    answered_ns: int
    received_ns: int

    @property
    def from_call_us(self) -> float:
        return (self.received_ns - self.called_ns) / 1e3

    @property
    def from_answer_us(self) -> float:
        return (self.received_ns - self.answered_ns) / 1e3


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure the bare ping and the nodes at both paces, interleaved."""
    with ExitStack() as stack:
        routes = {name: stack.enter_context(each) for name, each in _routes(setting, stack).items()}
        synced = stack.enter_context(setting.fresh("synced").open("ab", buffering=0))
        cases: dict[str, Callable[[], Any]] = {}
        for name, route in routes.items():
            cases[_case(name, WITH_PAUSES)] = partial(route.with_pauses, sizes.pings)
        cases[DISK] = lambda: [_synced_us(synced) for _ in range(sizes.pings)]
        for name, route in routes.items():
            cases[_case(name, BACK_TO_BACK)] = partial(route.back_to_back, sizes.pings * sizes.more_back_to_back)
            cases[_case(name, ALONE)] = partial(route.receiver_us, partial(route.alone, sizes.pings))
            cases[_case(name, IN_BATCHES)] = partial(route.receiver_us, route.in_batches)
        rounds = in_rounds(cases, sizes.rounds)
    return _report(rounds, list(routes))


def _case(name: str, pace: str) -> str:
    return f"{name}, {pace}"


def _synced_us(file: FileIO) -> float:
    time.sleep(APART_S)
    began = now_ns()
    file.write(bytes(4096))
    os.fsync(file)
    return (now_ns() - began) / 1e3


class Route:
    """A way from here to another process."""

    def __init__(self, sender: Sender, receiver: Child) -> None:
        self._sender = sender
        self._receiver = receiver
        self._numbers = count()
        self._sent = 0

    def with_pauses(self, pings: int) -> list[Ping]:
        """Send so many, one after the other, and ask only then when they arrived."""
        sent: dict[int, tuple[int, int]] = {}
        for _ in range(pings):
            time.sleep(APART_S)
            sent |= self._send()
        received_ns: dict[int, int] = self._receiver.ask(self._sent)
        return [Ping(*sent[number], received_ns[number]) for number in sent]

    def back_to_back(self, pings: int) -> list[Ping]:
        """Send so many, each when the one before has arrived."""
        arrived: list[Ping] = []
        for _ in range(pings):
            sent = self._send()
            received_ns = self._receiver.ask(self._sent)
            arrived += [Ping(*at_ns, received_ns[number]) for number, at_ns in sent.items()]
        return arrived

    def receiver_us(self, send: Callable[[], int]) -> float:
        """The processor time that the receiver spends on each of the changes that this sends."""
        before_ns = self._receiver.ask(CPU)
        changes = send()
        self._receiver.ask(self._sent)
        spent_ns: int = self._receiver.ask(CPU) - before_ns
        return spent_ns / 1e3 / changes

    def alone(self, changes: int) -> int:
        for _ in range(changes):
            time.sleep(ALONE_APART_S)
            self._send()
        return changes

    def in_batches(self) -> int:
        pace = self._sender.batches(BATCH, BATCHES_S)
        assert pace is not None
        self._sent += pace.changes
        time.sleep(SYNCED_AFTER_S)
        return pace.changes

    def _send(self) -> dict[int, tuple[int, int]]:
        number = next(self._numbers)
        called_ns = now_ns()
        self._sender.send(number)
        answered_ns = now_ns()
        self._sent += 1
        return {number: (called_ns, answered_ns)}


def _routes(setting: Setting, stack: ExitStack) -> dict[str, Any]:
    place = setting.url, setting.group("ping")
    routes = {BARE: _route(lambda: RedisSender(*place), receive_stream, *place)}
    directories = {ON_DISK: setting.directory}
    if os.access(IN_MEMORY, os.W_OK):
        in_memory = stack.enter_context(TemporaryDirectory(prefix="replicator-bench-", dir=IN_MEMORY))
        directories[WITHOUT_DISK] = Path(in_memory)
    for name, directory in directories.items():
        pair = setting.url, setting.group("applied")
        below = directory / pair[1]
        routes[name] = _route(partial(NodeSender, *pair, below / "a"), receive_applied, *pair, below / "b")
    return routes


@contextmanager
def _route(make: Callable[[], Sender], *receiver: Any) -> Iterator[Route]:
    sender = make()
    try:
        with Child(be_receiver, *receiver) as child:
            child.hear()
            yield Route(sender, child)
    finally:
        sender.close()


# --- the report -------------------------------------------------------------------------------------------------------


def _report(rounds: Mapping[str, list[Any]], names: Sequence[str]) -> Report:
    tables: list[Table] = []
    figures: dict[str, float] = {}
    for pace in (WITH_PAUSES, BACK_TO_BACK):
        pings: dict[str, list[list[Ping]]] = {name: rounds[_case(name, pace)] for name in names}
        for name in names:
            figures |= {f"{_case(name, pace)}, {what}": figure for what, figure in _found(pings[name]).items()}
        figures |= {
            f"{pace}, p{percent} ratio": figures[f"{ON_DISK}, {pace}, p{percent} us"]
            / figures[f"{BARE}, {pace}, p{percent} us"]
            for percent in (50, 99)
        }
        tables.append(_table(pace, pings, rounds[DISK] if pace == WITH_PAUSES else None))
    spent: dict[str, dict[str, list[float]]] = {
        name: {how: rounds[_case(name, how)] for how in (ALONE, IN_BATCHES)} for name in names
    }
    figures |= {
        f"{_case(name, how)}, receiver cpu us": median(each) for name in names for how, each in spent[name].items()
    }
    tables.append(_receiver_table(spent))
    figures |= {f"{DISK}, p{percent} us": _percentile(rounds[DISK], percent) for percent in (50, 99)}
    return Report(title="Committed to applied", prose=PROSE, tables=tables, figures=figures)


def _found(rounds: Sequence[Sequence[Ping]]) -> dict[str, float]:
    from_call, from_answer = ([[getattr(ping, since) for ping in pings] for pings in rounds]
                              for since in ("from_call_us", "from_answer_us"))  # fmt: skip
    return {
        "p50 us": _percentile(from_call, 50),
        "p99 us": _percentile(from_call, 99),
        "from the answer p50 us": _percentile(from_answer, 50),
        "from the answer p99 us": _percentile(from_answer, 99),
    }


def _table(pace: str, pings: Mapping[str, list[list[Ping]]], disk_us: list[list[float]] | None) -> Table:
    p50s = {name: [percentile([ping.from_call_us for ping in each], 50) for each in rounds]
            for name, rounds in pings.items()}  # fmt: skip
    bare_p99 = _found(pings[BARE])["p99 us"]
    rows: list[list[str]] = []
    for name, rounds in pings.items():
        found = _found(rounds)
        ratios = ["1", "1"]
        if name != BARE:
            ratios = [str(ratio(p50s[name], p50s[BARE])), f"{found['p99 us'] / bare_p99:.2f}"]
        p50, p99, answer_p50, answer_p99 = (f"{figure:,.0f}" for figure in found.values())
        rows.append([name, p50, ratios[0], p99, ratios[1], answer_p50, answer_p99])
    if disk_us is not None:
        p50, p99 = (f"{_percentile(disk_us, percent):,.0f}" for percent in (50, 99))
        rows.append([DISK, p50, "", p99, "", "", ""])
    head = [pace, "p50", f"x {BARE}", "p99", f"x {BARE}", "from the answer p50", "p99"]
    return Table(head=head, rows=rows)


def _receiver_table(spent: Mapping[str, Mapping[str, list[float]]]) -> Table:
    rows: list[list[str]] = []
    for name, by_how in spent.items():
        row = [name]
        for how, each in by_how.items():
            row += [f"{median(each):,.1f}", "1" if name == BARE else str(ratio(each, spent[BARE][how]))]
        rows.append(row)
    return Table(head=["receiver, CPU us a change", ALONE, f"x {BARE}", IN_BATCHES, f"x {BARE}"], rows=rows)


def _percentile(rounds: Sequence[Sequence[float]], percent: float) -> float:
    """The median of the rounds' medians; anything rarer from all of them together, or a round would be too short."""
    if percent == 50:
        return median(percentile(delays, 50) for delays in rounds)
    return percentile(list(chain.from_iterable(rounds)), percent)
