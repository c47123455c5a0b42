"""Fenced append: what one submitter pays for the fence, the chain and the group, one change at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from bench.harness import Ratio, Report, Setting, Table, in_rounds, now_ns, percentile, plain_client, ratio
from bench.states import Nothing
from replicator import Node
from replicator.core.codec import encode_change, encode_changes
from replicator.core.ids import Position, Writer
from replicator.core.records import seal_change
from replicator.core.replies import Claim, Code
from replicator.log import RedisLog

__all__ = ["FULL", "QUICK", "Pace", "Sizes", "measure"]

#: The JSON of one change.
CHANGE_BYTES = 200


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float


FULL = Sizes(rounds=15, seconds=1.0)
QUICK = Sizes(rounds=3, seconds=0.3)

PROSE = f"""\
One thread sends changes of {CHANGE_BYTES} bytes, each after the answer to the one before. The *baseline* is redis-py's
`XADD` of the same bytes to a plain stream over the same socket: no fence, no chain, nobody who applies it. *Fenced
append* is what the package sends, sealed and appended by the script, without a node around it. *Node.submit* is all
of it: encode, queue, fence, append, fold, decode, apply, and the checkpoint that follows once a beat. The group has no
standby here, and the state does nothing, so what is measured is the price of a commit alone. A ratio of 0.5 says: half
as many a second as the baseline. *CPU* is the processor time of the client's process for one call, the server's not
included; other load on the machine moves it least of all.
"""


class Pace(NamedTuple):
    """How one case went in one round."""

    rate: float
    latencies_us: list[float]
    #: Processor time of this process, a call.
    cpu_us: float
    #: How many changes went into one record; 1 for what knows no records.
    changes_a_record: float = 1.0


def a_change() -> dict[str, str]:
    """A change whose JSON has `CHANGE_BYTES` bytes."""
    return {"pad": "x" * (CHANGE_BYTES - len(encode_change({"pad": ""})))}


def paced(send: Callable[[], object], seconds: float) -> Pace:
    """Call `send` again and again for so long."""
    latencies_us: list[float] = []
    began = before = now_ns()
    until = began + int(seconds * 1e9)
    cpu_ns = time.process_time_ns()
    while before < until:
        send()
        after = now_ns()
        latencies_us.append((after - before) / 1e3)
        before = after
    cpu_ns = time.process_time_ns() - cpu_ns
    calls = len(latencies_us)
    return Pace(calls / ((before - began) / 1e9), latencies_us, cpu_ns / 1e3 / calls)


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure the three, interleaved."""
    group, stream = setting.group("append"), setting.group("stream")
    change = a_change()
    node = Node(Nothing(), group=group, name="a", data_dir=setting.fresh("append"), redis=setting.url)
    with plain_client(setting.url) as client, closing(Fenced(setting)) as fenced, node:
        node.promote()
        _, body, _ = encode_changes([encode_change(change)])

        def plain() -> Pace:
            client.delete(stream)
            return paced(lambda: client.xadd(stream, {"b": body}), sizes.seconds)

        paces = in_rounds(
            {
                "XADD": plain,
                "fenced append": lambda: paced(fenced.append, sizes.seconds),
                "Node.submit": lambda: paced(lambda: node.submit(change), sizes.seconds),
            },
            sizes.rounds,
        )
    return _report(paces)


class Fenced:
    """A log with a term that this holds, and no node."""

    def __init__(self, setting: Setting) -> None:
        self._writer = Writer("a", "0" * 32)
        self._log = RedisLog(setting.url, setting.group("fenced"))
        claim = Claim(
            writer=self._writer, floor=0, lease_ms=3_600_000, by="a", reason="a benchmark", new_log_id="0" * 32
        )
        reply = self._log.promote(claim)
        self._term = reply.term
        self._change = encode_change(a_change())
        head = self._log.look().head
        assert head is not None
        self._head: Position = head.position

    def append(self) -> None:
        codec, body, digest = encode_changes([self._change])
        at = int(time.time() * 1000)
        record = seal_change(
            writer=self._writer,
            term=self._term,
            after=self._head,
            at=at,
            codec=codec,
            digest=digest,
            count=1,
            body=body,
        )
        reply = self._log.append(record)
        if reply.code is not Code.OK:
            raise RuntimeError(f"a fenced append was answered {reply.code.value}")
        self._head = record.position

    def close(self) -> None:
        self._log.close()


def _report(paces: dict[str, list[Pace]]) -> Report:
    rates = {name: [pace.rate for pace in rounds] for name, rounds in paces.items()}
    ratios = {name: ratio(rate, rates["XADD"]) for name, rate in rates.items()}
    figures = {f"{name} per second": median(rate) for name, rate in rates.items()}
    figures |= {f"{name} cpu us": median(pace.cpu_us for pace in rounds) for name, rounds in paces.items()}
    figures |= {f"{name} ratio": found.of_medians for name, found in ratios.items()}
    rows = [_row(name, rounds, ratios[name]) for name, rounds in paces.items()]
    head = ["one at a time", "a second", "x XADD", "p50 us", "p99 us", "CPU us"]
    return Report(title="Fenced append", prose=PROSE, tables=[Table(head=head, rows=rows)], figures=figures)


def _row(name: str, rounds: list[Pace], found: Ratio) -> list[str]:
    p50 = median(percentile(pace.latencies_us, 50) for pace in rounds)
    p99 = median(percentile(pace.latencies_us, 99) for pace in rounds)
    cpu = median(pace.cpu_us for pace in rounds)
    against = "1" if name == "XADD" else str(found)
    return [name, f"{median(pace.rate for pace in rounds):,.0f}", against, f"{p50:,.0f}", f"{p99:,.0f}", f"{cpu:,.0f}"]
