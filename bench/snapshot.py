"""From a snapshot that is published to the same state rebuilt on a standby in another process, and who notices.

Four kinds of processes. One holds the whole document and does the baseline. One is the primary, with a registry of the
same document. One is a standby: for the time that all of it takes a new one in each round, so that its memory begins at
nothing; for what is felt one that has an old state, and readers. And one asks the same Redis for something else. They
are told what to do through pipes.

A standby that starts on this log would find the snapshots of the rounds before in it, and rebuild itself from one of
those. So the log is emptied by hand before it starts (its head stays): it waits, out of sync, for the next one.

Nothing inside the package is instrumented. The state notes when pieces are drawn and when a restore begins and ends,
the log notes how long the sending of parts takes, and what is left of the whole is what the package does itself.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from bench.harness import (
    Child,
    Memory,
    Report,
    Setting,
    Table,
    heard,
    in_rounds,
    memory,
    now_ns,
    plain_client,
    ratio,
    reset_peak,
)
from bench.registry_data import generate
from replicator import Node
from replicator.format.records import PartRecord
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Reply
from replicator.registry.loading import pieces_of
from replicator.registry.state import Registry

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

#: The same document in every run.
SEED = 1

#: What the package compresses with.
LEVEL = 1

#: How long a standby may take until it has the state.
RESTORE_TIMEOUT_S = 120.0

#: How often the writer writes, the reader reads, and the other client asks Redis, if nothing holds them up.
WRITE_EVERY_S = 0.0003
READ_EVERY_S = 0.001
ASK_EVERY_S = 0.0005

BASE, BASE_NO_GC, PUBLISHED = "one process", "one process, collector off", "published to applied"
FELT = "with writers and readers"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    nodes: int
    #: For so long they do that with nothing else going on, for comparison: about as long as a snapshot takes. And for
    #: so long a standby is watched once it has the state: the old one is given up meanwhile.
    calm_s: float = 2.0


FULL = Sizes(rounds=7, nodes=108_000)
QUICK = Sizes(rounds=3, nodes=5_000)

PROSE = """\
A registry is published by the primary and rebuilt by a standby, a new process in each round, that has nothing and is
waiting for it. *Published to applied* counts from the call of `Node.publish` to the moment at which the standby has the
state and says so. The *baseline* is what a program would do with the same document in one process and without a log,
one after the other: `orjson.dumps`, zstd (level 1), unzstd, `orjson.loads`. It comes twice, with Python's cyclic
garbage collector as it is, and switched off: building a million objects with it on takes much longer, and that is no
merit of anybody. In the processes of the package it is on; the package itself holds it while it sends and restores.

The phases overlap. The primary sends a part as soon as it is full; the standby saves parts, and decodes what it saved,
while later ones are under way. *Draw* is taking the index and drawing pieces from it; *encode* is JSON, zstd, hash,
cutting into parts, sealing, and waiting for a lock; *send* is waiting for the answers of Redis; *behind the last
answer* is what the standby still has to do then; *decode* is waiting for parts, unzstd, hash and JSON; *restore* is
checking and indexing records, *save* the commit of the checkpoint, *tell* waking who waits for it. *CPU* is processor
time of the processes named, without that of Redis; other load on the machine moves it least of all.

*Felt* is measured in rounds of its own. A thread of the primary submits a change every 0.3 ms, one after the other; a
thread of the standby, which has an old state, reads every millisecond; and a client in a process of its own sends the
same Redis a GET every half millisecond. *Calm* is the worst that each of them met in two seconds without a snapshot:
it is the machine's doing. *During* is the worst from the call of `publish` until the snapshot was sent (writer, client)
or until two seconds after the standby had the new state, when the old one has been given up (reader). Each figure is
the median of the rounds' worst ones, the range in brackets.

*Beyond the states* is the peak of memory less what is there for good: for the primary, what it had before; for a
standby that had nothing, what it has in the end; for one that had an old state, the old one and as much again.
"""


class Published(NamedTuple):
    """What the primary says of a publication."""

    called_ns: int
    returned_ns: int
    answered_ns: int
    drawn_ns: int
    sent_ns: int
    parts: int
    body_bytes: int
    header_bytes: int
    document_bytes: int
    unasked: int
    cpu_ns: int
    before: Memory
    after: Memory


class Restored(NamedTuple):
    """What the standby says of it."""

    began_ns: int
    ended_ns: int
    decoded_ns: int
    saved_ns: int
    in_sync_ns: int
    cpu_ns: int
    before: Memory
    after: Memory
    nodes: int


class Ticks(NamedTuple):
    """How long things took that are done at a pace: when each ended, and how long after it was due or begun."""

    ended_ns: list[int]
    took_ns: list[int]

    def worst_ms(self, since_ns: int, until_ns: int) -> float:
        """The longest that was under way in that time; 0 if nothing was."""
        each = zip(self.ended_ns, self.took_ns, strict=True)
        return max((took for ended, took in each if ended >= since_ns and ended - took <= until_ns), default=0) / 1e6


class Felt(NamedTuple):
    """The worst of a round, in ms: without a snapshot, and with one."""

    writer: tuple[float, float]
    reader: tuple[float, float]
    client: tuple[float, float]
    total_ms: float
    #: Beyond what stays.
    primary_mb: float
    standby_mb: float


class Round(NamedTuple):
    published: Published
    restored: Restored

    @property
    def total_ms(self) -> float:
        return (self.restored.in_sync_ns - self.published.called_ns) / 1e6

    @property
    def cpu_ms(self) -> float:
        return (self.published.cpu_ns + self.restored.cpu_ns) / 1e6


class Stages(NamedTuple):
    """The baseline, in ms."""

    dumps: float
    pack: float
    unpack: float
    loads: float
    cpu_ms: float

    @property
    def total_ms(self) -> float:
        return self.dumps + self.pack + self.unpack + self.loads


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure both baselines and the publication, interleaved."""
    document = setting.fresh("document")
    document.write_bytes(orjson.dumps(generate(sizes.nodes, SEED)))
    group = setting.group("snapshot")
    places = (setting.url, group)
    numbers = count()
    old = str(setting.fresh("old-standby"))
    with (
        Child(do_baseline, str(document)) as baseline,
        Child(be_primary, *places, str(setting.fresh("primary")), str(document)) as primary,
        Child(be_client, setting.url) as client,
    ):
        for child in (baseline, primary, client):
            child.hear()

        def published() -> Round:
            _empty_log(*places)
            # A new name each time: a boot that begins where another one beat a moment ago waits whether that one lives.
            name = f"b{next(numbers)}"
            with Child(be_standby, *places, str(setting.fresh("standby")), name) as standby:
                standby.hear()
                standby.tell("wait")
                said = primary.ask("publish")
                return Round(said, standby.hear())

        def felt() -> Felt:
            client.ask("begin")
            primary.ask("begin")
            calm_since = now_ns()
            time.sleep(sizes.calm_s)
            calm_until = now_ns()
            calm = primary.ask("end")
            _empty_log(*places)
            # The same one each time: it starts with what it had, and misses what was in the log.
            with Child(be_read_standby, *places, old, sizes.calm_s) as standby:
                bare, before = standby.hear()
                standby.tell("begin")
                reader_calm_since = now_ns()
                time.sleep(sizes.calm_s)
                primary.ask("begin")
                reader_calm_until = now_ns()
                standby.tell("wait")
                said: Published = primary.ask("publish")
                in_sync_ns, peak_mb, reads = standby.hear()
                busy, asks = primary.ask("end"), client.ask("end")
                during = (said.called_ns, said.returned_ns)
                return Felt(
                    writer=(calm.worst_ms(calm_since, calm_until), busy.worst_ms(*during)),
                    reader=(
                        reads.worst_ms(reader_calm_since, reader_calm_until),
                        reads.worst_ms(said.called_ns, in_sync_ns + int(sizes.calm_s * 1e9)),
                    ),
                    client=(asks.worst_ms(calm_since, calm_until), asks.worst_ms(*during)),
                    total_ms=(in_sync_ns - said.called_ns) / 1e6,
                    primary_mb=said.after.peak_mb - said.before.resident_mb,
                    standby_mb=peak_mb - before - (before - bare),
                )

        cases = {
            BASE: lambda: baseline.ask(True),
            BASE_NO_GC: lambda: baseline.ask(False),
            PUBLISHED: published,
            FELT: felt,
        }
        rounds = in_rounds(cases, sizes.rounds)
    return _report(rounds, sizes)


def _empty_log(url: str, group: str) -> None:
    with plain_client(url) as client:
        client.xtrim(f"replicator:{{{group}}}:log", maxlen=0, approximate=False)


# --- the baseline -----------------------------------------------------------------------------------------------------


def do_baseline(pipe: Connection, path: str) -> None:
    """The process of the baseline: told whether the collector is on, it does it and says how long each stage took."""
    document = orjson.loads(Path(path).read_bytes())
    gc.collect()
    pipe.send("ready")
    while (collects := heard(pipe)) is not None:
        if not collects:
            gc.disable()
        pipe.send(_stages(document))
        gc.enable()


def _stages(document: Any) -> Stages:
    cpu_ns, at = time.process_time_ns(), [now_ns()]
    encoded = orjson.dumps(document)
    at.append(now_ns())
    packed = zstd.compress(encoded, level=LEVEL)
    at.append(now_ns())
    decoded = zstd.decompress(packed)
    at.append(now_ns())
    rebuilt = orjson.loads(decoded)
    at.append(now_ns())
    cpu_ns = time.process_time_ns() - cpu_ns
    assert len(rebuilt) == len(document)
    dumps, pack, unpack, loads = ((end - begin) / 1e6 for begin, end in pairwise(at))
    return Stages(dumps, pack, unpack, loads, cpu_ns / 1e6)


# --- at a pace --------------------------------------------------------------------------------------------------------


class Paced:
    """Does something again and again on a thread of its own, and notes how long it took.

    With `gaps`, it takes from the end of one to the end of the next, without the pause that was meant: whatever holds
    up the thread counts, and not only what holds up the work.
    """

    def __init__(self, work: Callable[[], Any], every_s: float, *, gaps: bool) -> None:
        self._work = work
        self._every_s = every_s
        self._gaps = gaps
        self._over = threading.Event()
        self._ticks = Ticks([], [])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last = now_ns()
        while not self._over.is_set():
            time.sleep(self._every_s)
            began = now_ns()
            self._work()
            ended = now_ns()
            self._ticks.ended_ns.append(ended)
            self._ticks.took_ns.append(ended - (last if self._gaps else began))
            last = ended

    def end(self) -> Ticks:
        self._over.set()
        self._thread.join()
        return self._ticks


def be_client(pipe: Connection, url: str) -> None:
    """The process of somebody else who uses the same Redis."""
    with plain_client(url) as client:
        client.set("bench-other", "x")
        pipe.send("ready")
        while heard(pipe) is not None:
            paced = Paced(lambda: client.get("bench-other"), ASK_EVERY_S, gaps=False)
            pipe.send("begun")
            if heard(pipe) is None:
                return
            pipe.send(paced.end())


# --- the primary ------------------------------------------------------------------------------------------------------


class Watched(Registry):
    """A registry that notes how long its pieces take to draw, and when it was restored."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn_ns = 0
        self.began_ns = self.ended_ns = self.decoded_ns = self.saved_ns = 0

    def snapshot(self) -> Iterator[Any]:
        began = now_ns()
        pieces = super().snapshot()
        self.drawn_ns = now_ns() - began
        return self._drawn(pieces)

    def _drawn(self, pieces: Iterator[Any]) -> Iterator[Any]:
        while True:
            before = now_ns()
            piece = next(pieces, None)
            self.drawn_ns += now_ns() - before
            if piece is None:
                return
            yield piece

    def restore(self, pieces: Iterable[Any]) -> None:
        self.began_ns, self.decoded_ns = now_ns(), 0
        super().restore(self._decoded(iter(pieces)))
        self.ended_ns = now_ns()

    def _decoded(self, pieces: Iterator[Any]) -> Iterator[Any]:
        while True:
            before = now_ns()
            piece = next(pieces, None)
            if piece is None:
                # A standby commits to its checkpoint between the last piece and their end.
                self.saved_ns = now_ns() - before
                return
            self.decoded_ns += now_ns() - before
            yield piece


class WatchedLog(RedisLog):
    """A log that notes how long it waits for the answers to parts, and what they weigh."""

    def __init__(self, url: str, group: str) -> None:
        super().__init__(url, group)
        self.parts_asked = 0
        self.clear()

    def clear(self) -> None:
        self.answered_ns = self.sent_ns = self.parts = self.body_bytes = self.header_bytes = 0

    @property
    def parts_unasked(self) -> int:
        """Parts that followed those of a publication: of another one that nobody asked for."""
        return self.parts - self.parts_asked

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        before = now_ns()
        reply = super().part(record, rebase=rebase)
        self.answered_ns = now_ns()
        self.sent_ns += self.answered_ns - before
        self.parts += 1
        self.body_bytes += len(record.body)
        self.header_bytes += len(record.header)
        return reply


def be_primary(pipe: Connection, url: str, group: str, data_dir: str, path: str) -> None:
    """The process of the primary: loads the document, and publishes whenever it is told to."""
    state, log = Watched(), WatchedLog(url, group)
    with Node(state, group=group, app="Registry", name="a", data_dir=data_dir, log=log) as node:
        node.promote()
        _load(node, path)
        log.clear()
        pipe.send("ready")
        changes = _heartbeats(list(state.nodes(limit=1000)))
        writer: Paced | None = None
        while (told := heard(pipe)) is not None:
            if told == "publish":
                pipe.send(_publish(node, state, log, Path(path).stat().st_size))
            elif told == "begin":
                writer = Paced(lambda: node.submit(next(changes)), WRITE_EVERY_S, gaps=True)
                pipe.send("begun")
            else:
                assert writer is not None
                pipe.send(writer.end())


def _heartbeats(nodes: list[int]) -> Iterator[Any]:
    """Changes that replace a record each, for as long as one likes."""
    for number, node in enumerate(cycle(nodes)):
        yield {"op": "heartbeat", "id": node, "last_seen": f"2026-01-31T12:{number // 60 % 60:02}:{number % 60:02}Z"}


def _load(node: Node, path: str) -> None:
    node.replace(pieces_of(orjson.loads(Path(path).read_bytes())))


def _publish(node: Node, state: Watched, log: WatchedLog, document_bytes: int) -> Published:
    gc.collect()
    unasked = log.parts_unasked
    log.clear()
    with _memory_watched() as used:
        called_ns, cpu_ns = now_ns(), time.process_time_ns()
        node.publish()
        returned_ns, cpu_ns = now_ns(), time.process_time_ns() - cpu_ns
    log.parts_asked = log.parts
    return Published(
        called_ns,
        returned_ns,
        log.answered_ns,
        state.drawn_ns,
        log.sent_ns,
        log.parts,
        log.body_bytes,
        log.header_bytes,
        document_bytes,
        unasked,
        cpu_ns,
        *used,
    )


@contextmanager
def _memory_watched() -> Iterator[list[Memory]]:
    """The memory of this process when this begins, and when it ends."""
    reset_peak()
    used = [memory()]
    yield used
    used.append(memory())


# --- the standby ------------------------------------------------------------------------------------------------------


def be_standby(pipe: Connection, url: str, group: str, data_dir: str, name: str) -> None:
    """The process of a standby: joins, says so, and then says when it had the state."""
    state = Watched()
    with Node(state, group=group, app="Registry", name=name, data_dir=data_dir, redis=url) as node:
        pipe.send("ready")
        if heard(pipe) is None:
            return
        with _memory_watched() as used:
            cpu_ns = time.process_time_ns()
            node.wait(n=1, timeout_s=RESTORE_TIMEOUT_S)
            in_sync_ns, cpu_ns = now_ns(), time.process_time_ns() - cpu_ns
        before, after = used
        pipe.send(
            Restored(
                state.began_ns,
                state.ended_ns,
                state.decoded_ns,
                state.saved_ns,
                in_sync_ns,
                cpu_ns,
                before=before,
                after=after,
                nodes=len(state),
            )
        )
        heard(pipe)


def be_read_standby(pipe: Connection, url: str, group: str, data_dir: str, aftermath_s: float) -> None:
    """The process of a standby that has an old state, if it ever had one, and somebody who reads it."""
    state = Registry()
    bare = memory().resident_mb
    with Node(state, group=group, app="Registry", name="read", data_dir=data_dir, redis=url) as node:
        gc.collect()

        def read() -> None:
            with node.reading() as registry:
                registry.node(7)

        with _memory_watched() as used:
            pipe.send((bare, used[0].resident_mb))
            if heard(pipe) is None:
                return
            reader, after = Paced(read, READ_EVERY_S, gaps=True), node.position.id.n
            if heard(pipe) is None:
                return
            node.wait(n=after + 1, timeout_s=RESTORE_TIMEOUT_S)
            in_sync_ns = now_ns()
            time.sleep(aftermath_s)
        pipe.send((in_sync_ns, used[1].peak_mb, reader.end()))
        heard(pipe)


# --- the report -------------------------------------------------------------------------------------------------------


def _report(rounds: dict[str, list[Any]], sizes: Sizes) -> Report:
    base, base_no_gc, published = rounds[BASE], rounds[BASE_NO_GC], rounds[PUBLISHED]
    for one in published:
        if one.restored.nodes != sizes.nodes:
            raise RuntimeError(f"the standby has {one.restored.nodes} of {sizes.nodes} nodes")
    totals = {name: [one.total_ms for one in rounds[name]] for name in (BASE, BASE_NO_GC, PUBLISHED)}
    against, against_no_gc = (ratio(totals[PUBLISHED], totals[name]) for name in (BASE, BASE_NO_GC))
    felt: list[Felt] = rounds[FELT]
    phases = _phases(published)
    size = published[-1].published
    figures = {f"{name} ms": median(total) for name, total in totals.items()}
    figures |= {"ratio": against.of_medians, "ratio without collector": against_no_gc.of_medians}
    figures |= {f"{name} ms": took for name, took in phases.items()}
    figures |= {"parts": size.parts, "wire bytes": size.body_bytes + size.header_bytes}
    figures |= {"document bytes": size.document_bytes, f"{FELT} ms": median(one.total_ms for one in felt)}
    figures |= {f"worst of the {who} ms": median(getattr(one, who)[1] for one in felt) for who in _WHO}
    memory_cases, document_mb = _memory_cases(published, felt), size.document_bytes / 1e6
    for side in ("primary", "standby"):
        worst = max(median(each) for name, each in memory_cases.items() if name.startswith(side))
        figures[f"{side} memory ratio"] = worst / document_mb
    return Report(
        title="Published to applied",
        prose=PROSE,
        tables=[
            _totals_table(rounds, totals, str(against), str(against_no_gc)),
            _phases_table(phases, figures[f"{PUBLISHED} ms"]),
            _stages_table(base, base_no_gc),
            _felt_table(felt),
            _processes_table(published),
            _memory_table(memory_cases, document_mb),
        ],
        notes=[_wire_note(size, sizes), _felt_note(felt), *_unasked_note(published)],
        figures=figures,
    )


def _wire_note(size: Published, sizes: Sizes) -> str:
    return (
        f"{sizes.nodes:,} nodes, {size.document_bytes / 1e6:.1f} MB of JSON, went over the wire as {size.parts} parts: "
        f"{size.body_bytes / 1e6:.2f} MB of bodies ({size.body_bytes / size.document_bytes:.1%} of the JSON) and "
        f"{size.header_bytes / 1e3:.0f} kB of headers."
    )


def _felt_note(rounds: list[Felt]) -> str:
    took = [one.total_ms for one in rounds]
    return (
        f"With a writer, a reader and an old state it took {median(took):,.0f} ms ({min(took):,.0f} to "
        f"{max(took):,.0f}) from the call of publish until the standby had the state."
    )


def _unasked_note(rounds: list[Round]) -> list[str]:
    times = sum(one.published.unasked > 0 for one in rounds)
    if not times:
        return []
    return [
        f"In {times} of {len(rounds)} rounds the primary had sent another snapshot by itself since the round before."
    ]


def _phases(rounds: list[Round]) -> dict[str, float]:
    """Medians in ms."""
    of_each = [_phases_ns(one.published, one.restored) for one in rounds]
    return {name: median(each[name] for each in of_each) / 1e6 for name in of_each[0]}


def _phases_ns(sender: Published, receiver: Restored) -> dict[str, int]:
    publish = sender.returned_ns - sender.called_ns
    rebuild = receiver.ended_ns - receiver.began_ns
    return {
        "primary: draw": sender.drawn_ns,
        "primary: encode": publish - sender.drawn_ns - sender.sent_ns,
        "primary: send": sender.sent_ns,
        "primary: publish, all of it": publish,
        "standby: behind the last answer": receiver.in_sync_ns - sender.answered_ns,
        "standby: decode": receiver.decoded_ns,
        "standby: restore": rebuild - receiver.decoded_ns - receiver.saved_ns,
        "standby: save": receiver.saved_ns,
        "standby: tell": receiver.in_sync_ns - receiver.ended_ns,
    }


def _totals_table(
    rounds: dict[str, list[Any]], totals: dict[str, list[float]], against: str, against_no_gc: str
) -> Table:
    ratios = {BASE: ("1", ""), BASE_NO_GC: ("", "1"), PUBLISHED: (against, against_no_gc)}
    rows = [[name, f"{median(each):,.0f}", f"{min(each):,.0f} to {max(each):,.0f}", *ratios[name],
             f"{median(one.cpu_ms for one in rounds[name]):,.0f}"]
            for name, each in totals.items()]  # fmt: skip
    return Table(head=["end to end", "ms", "range", f"x {BASE}", "x collector off", "CPU ms"], rows=rows)


def _phases_table(phases: dict[str, float], total: float) -> Table:
    rows = [[name, f"{took:,.0f}", f"{took / total:.0%}"] for name, took in phases.items()]
    return Table(head=["phase", "ms", "of published to applied"], rows=rows)


def _stages_table(base: list[Stages], base_no_gc: list[Stages]) -> Table:
    head = ["baseline", "dumps ms", "zstd ms", "unzstd ms", "loads ms"]
    rows = [[name, *(f"{median(took):,.0f}" for took in zip(*(one[:4] for one in each), strict=True))]
            for name, each in ((BASE, base), (BASE_NO_GC, base_no_gc))]  # fmt: skip
    return Table(head=head, rows=rows)


def _processes_table(rounds: list[Round]) -> Table:
    rows = []
    for name in ("published", "restored"):
        before = median(getattr(one, name).before.resident_mb for one in rounds)
        peak = median(getattr(one, name).after.peak_mb for one in rounds)
        who = "primary" if name == "published" else "standby"
        cpu_ms = median(getattr(one, name).cpu_ns for one in rounds) / 1e6
        rows.append([who, f"{cpu_ms:,.0f}", f"{before:,.0f}", f"{peak:,.0f}", f"{peak - before:,.0f}"])
    return Table(head=["process", "CPU ms", "MB resident before", "MB peak", "MB more"], rows=rows)


#: Who may notice a snapshot, and what is shown of it.
_WHO = {
    "writer": "primary: from one change to the next",
    "reader": "standby: from one read to the next",
    "client": "Redis: an answer to somebody else",
}


def _felt_table(rounds: list[Felt]) -> Table:
    rows = [[what, *(_spread([getattr(one, who)[place] for one in rounds]) for place in (0, 1))]
            for who, what in _WHO.items()]  # fmt: skip
    return Table(head=["felt: the worst, ms", "calm", "during"], rows=rows)


def _spread(values: list[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _memory_cases(published: list[Round], felt: list[Felt]) -> dict[str, list[float]]:
    """MB beyond what the states take, in each round."""
    return {
        "primary": [one.published.after.peak_mb - one.published.before.resident_mb for one in published],
        "primary, with a writer": [one.primary_mb for one in felt],
        "standby that had nothing": [one.restored.after.peak_mb - one.restored.after.resident_mb for one in published],
        "standby that had an old state": [one.standby_mb for one in felt],
    }


def _memory_table(cases: dict[str, list[float]], document_mb: float) -> Table:
    rows = [[name, _spread(each), f"{median(each) / document_mb:.2f}"] for name, each in cases.items()]
    return Table(head=["memory beyond the states", "MB", "x the JSON"], rows=rows)
