"""Fenced append: what one submitter pays for the fence, the chain and the group, one change at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from bench.bare import BareSocket, ServerBenchmark
from bench.binaries import NOT_INSTALLED
from bench.harness import Ratio, Report, Setting, Table, in_rounds, plain_client
from bench.loads import CHANGE_BYTES, Pace, a_change, figures_of, paced, ratios_of
from bench.states import Nothing
from replicator import Node
from replicator.format.codec import encode_change, encode_changes
from replicator.format.ids import Position, Writer
from replicator.format.records import seal_change
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Claim, Code

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

BASE, BARE, BENCHMARK = "XADD", "XADD, bare socket", "XADD, redis-benchmark"
FENCED, SUBMIT = "fenced append", "Node.submit"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float


FULL = Sizes(rounds=15, seconds=0.7)
QUICK = Sizes(rounds=3, seconds=0.3)

PROSE = f"""\
One thread sends changes of {CHANGE_BYTES} bytes, each after the answer to the one before. The *baseline* is redis-py's
`XADD` of the same bytes to a plain stream over the same socket: no fence, no chain, nobody who applies it. *Fenced
append* is what the package sends, sealed and appended by the script, without a node around it. *Node.submit* is all
of it: encode, queue, fence, append, fold, decode, apply, and the checkpoint that follows within 0.1 s. The group has no
standby here, and the state does nothing, so what is measured is the price of a commit alone. A ratio of 0.5 says: half
as many a second as the baseline.

A kernel with few cores may put client and server on one of them. A round trip then takes half as long, because nobody
has to be woken on another core, and Python's share of it is twice as large. Where that happened in some of the rounds
the range of a ratio is wide.

Two more rows show where the time goes: the same `XADD` over a bare socket, with hiredis to pack and to parse and
nothing of redis-py, is the least that a client in Python can cost; and `redis-benchmark` (or `valkey-benchmark`), with
one client, is a client in C, and so the limit of this server on this machine. *CPU* is the processor time of the
client's process for one call, the server's not included; other load on the machine moves it least of all.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all of them, interleaved."""
    group, stream = setting.group("append"), setting.group("stream")
    change = a_change()
    _, body, _ = encode_changes([encode_change(change)])
    node = Node(Nothing(), group=group, name="a", data_dir=setting.fresh("append"), redis=setting.url)
    by_server = ServerBenchmark.found(setting.url)
    with (
        plain_client(setting.url) as client,
        closing(BareSocket(setting.url)) as bare,
        closing(Fenced(setting)) as fenced,
        node,
    ):
        node.promote()

        def cleared(measured: Callable[[], Pace]) -> Pace:
            client.delete(stream)
            return measured()

        cases: dict[str, Callable[[], Pace]] = {
            BASE: lambda: cleared(lambda: paced(lambda: client.xadd(stream, {"b": body}), sizes.seconds)),
            BARE: lambda: cleared(lambda: paced(lambda: bare.command("XADD", stream, "*", "b", body), sizes.seconds)),
        }
        if by_server is not None:
            cases[BENCHMARK] = lambda: cleared(lambda: by_server.xadd(stream, body, sizes.seconds))
        cases[FENCED] = lambda: paced(fenced.append, sizes.seconds)
        cases[SUBMIT] = lambda: paced(lambda: node.submit(change), sizes.seconds)
        paces = in_rounds(cases, sizes.rounds)
    return _report(paces, by_server)


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


def _report(paces: dict[str, list[Pace]], by_server: ServerBenchmark | None) -> Report:
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for name, rounds in paces.items():
        rates, _ = ratios_of(rounds, paces[BASE])
        found = figures_of(rounds)
        figures |= {f"{name} {what}": figure for what, figure in found.items()}
        figures[f"{name} ratio"] = rates.of_medians
        rows.append(_row(name, found, rates))
    head = ["one at a time", "a second", f"x {BASE}", "p50 us", "p99 us", "CPU us"]
    if by_server is None:
        rows.append([BENCHMARK, NOT_INSTALLED, *[""] * (len(head) - 2)])
    notes = [] if by_server is None else [f"The benchmark of the server is {by_server.version}."]
    return Report(
        title="Fenced append", prose=PROSE, tables=[Table(head=head, rows=rows)], notes=notes, figures=figures
    )


def _row(name: str, found: dict[str, float], rates: Ratio) -> list[str]:
    rate, *others = found.values()
    return [name, f"{rate:,.0f}", "1" if name == BASE else str(rates), *(f"{other:,.0f}" for other in others)]
