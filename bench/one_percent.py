"""One per cent of a registry changed by naming the changes, against publishing all of it."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from bench.harness import Child, Report, Setting, Table, heard, in_rounds, now_ns, plain_client, ratio
from bench.registry_data import generate
from replicator import Node
from replicator.registry.loading import pieces_of
from replicator.registry.state import Registry

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

#: The same document, and the same nodes of it, in every run.
SEED = 1

#: How long a standby may take until it has the state.
RESTORE_TIMEOUT_S = 120.0

PUBLISH, SUBMIT, SUBMIT_MANY = "publish", "submit", "submit_many"

#: A record takes 1,000 changes at the most.
CHANGES_AT_ONCE = 360

#: What the processes are told besides.
PREPARE, BEGIN = "prepare", "begin"

#: A round in which the primary sent a snapshot by itself is done again, so many times at most.
ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    nodes: int


FULL = Sizes(rounds=5, nodes=108_000)
QUICK = Sizes(rounds=1, nodes=5_000)

PROSE = """\
One per cent of the nodes of a registry has a new address and a new version. The *baseline* is what a service does that
replicates its state whole: it publishes all of it, and a standby rebuilds itself from that. With changes that are named
it commits one for each node, one after the other (`Node.submit`) or all in one call (`Node.submit_many`), and the
standby applies them to the state that it has. In each round a new standby waits for the publication, and then gets the
changes. *Bytes* are those of the records in the log, headers included (a snapshot is compressed); *time* counts from
the call until the standby has all of it; *apply* is the processor time that the standby's process spent meanwhile:
decoding, checking, saving and applying, and its heartbeats.
"""


class Way(NamedTuple):
    """What one way did in one round."""

    bytes: float
    ms: float
    apply_ms: float
    #: Whole ones in the log. More than one: the primary sent one by itself besides.
    snapshots: int


def measure(setting: Setting, sizes: Sizes) -> Report:
    """In each round, publish, and then change by each way."""
    document = setting.fresh("document")
    document.write_bytes(orjson.dumps(generate(sizes.nodes, SEED)))
    place = setting.url, setting.group("percent")
    numbers = count()
    with Child(be_primary, *place, setting.fresh("primary"), document) as primary:
        ways = [PUBLISH, *primary.hear()]

        def changed() -> dict[str, Way] | None:
            # What takes a while comes before the standby: it says that it needs a snapshot, and after a heartbeat the
            # primary would send one that nobody asked for.
            primary.ask(PREPARE)
            _empty_log(*place)
            # A new name each time: a boot that begins where another one beat a moment ago waits whether that one lives.
            with Child(be_standby, *place, setting.fresh("standby"), f"b{next(numbers)}") as standby:
                standby.hear()
                found = {way: _carried_out(way, primary, standby, *place) for way in ways}
            return found if found[PUBLISH].snapshots == 1 else None

        def surely_changed() -> dict[str, Way]:
            for _ in range(ATTEMPTS):
                if (found := changed()) is not None:
                    return found
            raise RuntimeError(f"the primary sent a snapshot by itself in each of {ATTEMPTS} attempts")

        rounds: list[dict[str, Way]] = in_rounds({"changed": surely_changed}, sizes.rounds)["changed"]
    return _report(rounds, sizes)


def _carried_out(way: str, primary: Child, standby: Child, url: str, group: str) -> Way:
    last = _newest(url, group)
    standby.ask(BEGIN)
    called_ns, n = primary.ask(way)
    has_it_ns, cpu_ns = standby.ask(n)
    weight, snapshots = _written_after(url, group, last)
    return Way(weight, (has_it_ns - called_ns) / 1e6, cpu_ns / 1e6, snapshots)


def _log_key(group: str) -> str:
    return f"replicator:{{{group}}}:log"


def _empty_log(url: str, group: str) -> None:
    """So that a standby that starts waits for the next snapshot: it would rebuild itself from one of those before."""
    with plain_client(url) as client:
        client.xtrim(_log_key(group), maxlen=0, approximate=False)


def _newest(url: str, group: str) -> bytes:
    with plain_client(url) as client:
        last: bytes = client.xinfo_stream(_log_key(group))["last-generated-id"]
        return last


def _written_after(url: str, group: str, last: bytes) -> tuple[int, int]:
    """What the records behind that one weigh, and how many whole snapshots are among them."""
    weight = snapshots = 0
    with plain_client(url) as client:
        while entries := client.xrange(_log_key(group), min=b"(" + last, count=100):
            for _, entry in entries:
                weight += sum(map(len, entry.values()))
                header = orjson.loads(entry[b"h"])
                snapshots += header["kind"] == "part" and header["part"][1] > 0
            last = entries[-1][0]
    return weight, snapshots


# --- the processes ----------------------------------------------------------------------------------------------------


class Watched(Registry):
    """A registry that notes when it changed last. Reading a clock is what a real state must not do."""

    def __init__(self) -> None:
        super().__init__()
        self.at_ns = 0

    def restore(self, pieces: Iterable[Any]) -> None:
        super().restore(pieces)
        self.at_ns = now_ns()

    def apply(self, change: Any) -> Any:
        result = super().apply(change)
        self.at_ns = now_ns()
        return result


def be_primary(pipe: Connection, url: str, group: str, data_dir: Path, document: Path) -> None:
    """The primary: says by which ways it can change, and told one, when it began and which record was the last."""
    state = Registry()
    with Node(state, group=group, app="Registry", name="a", data_dir=data_dir, redis=url) as node:
        node.promote()
        node.replace(pieces_of(orjson.loads(document.read_bytes())))
        ids = list(state.nodes(limit=len(state)))
        draw = random.Random(SEED)
        pipe.send([SUBMIT, SUBMIT_MANY] if hasattr(node, "submit_many") else [SUBMIT])
        while (told := heard(pipe)) is not None:
            if told == PREPARE:
                gc.collect()
                pipe.send("ready")
                continue
            changes = _changes(draw, ids)
            called_ns = now_ns()
            _carry_out(node, told, changes)
            pipe.send((called_ns, node.position.id.n))


def _carry_out(node: Node, way: str, changes: Sequence[Any]) -> None:
    if way == PUBLISH:
        node.publish()
    elif way == SUBMIT_MANY:
        for start in range(0, len(changes), CHANGES_AT_ONCE):
            node.submit_many(changes[start : start + CHANGES_AT_ONCE])
    else:
        for change in changes:
            node.submit(change)


def _changes(draw: random.Random, ids: Sequence[int]) -> list[Any]:
    """One per cent of the nodes moved: each has another address, and another version of its software."""
    return [
        {
            "op": "update",
            "id": node,
            "real_addr": f"203.0.{draw.randrange(256)}.{draw.randrange(1, 255)}:{draw.randrange(20_000, 60_000)}",
            "version": f"1.{draw.randrange(30)}.{draw.randrange(10)}",
        }
        for node in draw.sample(ids, max(1, len(ids) // 100))
    ]


def be_standby(pipe: Connection, url: str, group: str, data_dir: Path, name: str) -> None:
    """A standby: told the number of a record, when it had that, and its processor time since it was told to begin."""
    state = Watched()
    with Node(state, group=group, app="Registry", name=name, data_dir=data_dir, redis=url) as node:
        pipe.send("ready")
        cpu_ns = 0
        while (told := heard(pipe)) is not None:
            if told == BEGIN:
                cpu_ns = time.process_time_ns()
                pipe.send("ready")
            else:
                node.wait(n=told, timeout_s=RESTORE_TIMEOUT_S)
                pipe.send((state.at_ns, time.process_time_ns() - cpu_ns))


# --- the report -------------------------------------------------------------------------------------------------------


def _report(rounds: Sequence[Mapping[str, Way]], sizes: Sizes) -> Report:
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for way in rounds[0]:
        cells: list[str] = []
        measured: Sequence[tuple[str, Callable[[Way], float]]] = (
            ("bytes", lambda each: each.bytes),
            ("time", lambda each: each.ms),
            ("apply", lambda each: each.apply_ms),
        )
        for what, of in measured:
            values, all_of_it = ([of(each[name]) for each in rounds] for name in (way, PUBLISH))
            share = ratio(values, all_of_it).of_medians
            figures |= {f"{way} {what}": median(values), f"{way} {what} share": share}
            cells += [f"{median(values):,.0f}", "" if way == PUBLISH else f"{share:.2%}"]
        rows.append([way, *cells])
    changed = max(1, sizes.nodes // 100)
    head = [f"{changed:,} of {sizes.nodes:,} nodes", "bytes", "of publish", "ms", "of publish"]
    head += ["apply, CPU ms", "of publish"]
    return Report(title="One per cent changed", prose=PROSE, tables=[Table(head=head, rows=rows)], figures=figures)
