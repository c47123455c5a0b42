"""A database of SQLite beside a program: what it takes to replicate it, and how soon a standby has what is new."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.harness import Child, Report, Setting, Table, percentile, wait_until
from bench.sqlite_writer import RATE, Committed, Seen, found_database, read_standby, write
from bench.written import Counting, can_count
from replicator import ops
from replicator.log.redis_log import RedisLog

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

STARTS_WITHIN_S = 180.0

_until = partial(wait_until, within_s=STARTS_WITHIN_S)

#: As a program would have it that wants a standby to be close.
PUBLISH_EVERY_S = 0.1

#: The larger one is more than a node takes by default.
SNAPSHOT_BYTES_MAX = 1_000_000_000

#: How long a node is watched beside which nothing is written, and how often: the least counts, because it may have
#: something left to do.
IDLE_S = 5.0
IDLE_TIMES = 3

#: Options of a node, by the way in which it replicates a database.
WAYS: dict[str, tuple[str, ...]] = {"copy": (), "pages": ("--sqlite-by", "pages")}

ROLES = ("primary", "standby")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way, one journal mode, one size."""

    way: str
    mode: str
    mb: int

    def __str__(self) -> str:
        return f"{self.way}, {self.mode}, {self.mb} MB"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    cases: Sequence[Case]
    seconds: float


#: The larger one is not copied ten times a second: it would be all that the machine does.
FULL = Sizes(
    cases=[
        Case(way=way, mode=mode, mb=mb)
        for way in reversed(WAYS)
        for mode in ("wal", "delete")
        for mb in ((54,) if way == "copy" else (54, 304))
    ],
    seconds=30.0,
)
QUICK = Sizes(cases=[Case(way=way, mode=mode, mb=4) for way in WAYS for mode in ("wal", "delete")], seconds=3.0)

PROSE = f"""\
A program commits {RATE} transactions a second to a database, each of which changes a row of 900 bytes somewhere in it,
adds one, and counts: three pages. `replicator node --sqlite` with `--publish-every-s {PUBLISH_EVERY_S:g}` is beside it,
and a second one is the standby. *Written* is what the processes of a node give to `write` and its kin for files,
counted in the processes themselves: /proc says many times too much of a file that was just copied. *Processor* is what
they take, of one core; *added* is what that is above what they take while nothing is written (heartbeats, the lease,
looking ten times a second whether something was), which is measured by pages before. *Readable* is the time from the
commit until a reader of the standby, that looks every 4 ms, has found it; what it has not within a second of the end is
left out, so a way that is far behind seems better than it is. The program commits the same to a second database, which
nobody replicates, in turns: *commit* is how long COMMIT took in the one, against the other. The load of other processes
is in the times, and not in the bytes.
"""


class Watched(NamedTuple):
    """Of the processes of one node, a second."""

    cpu_s: float
    files: Counter[str]
    sent_bytes: int

    @property
    def written_bytes(self) -> int:
        return sum(self.files.values())


class Found(NamedTuple):
    watched: dict[str, Watched]
    readable_s: list[float]
    commits_s: dict[bool, list[float]]
    #: Processor time that a node takes a second while nothing is written, by role; empty: not measured.
    idle: dict[str, float]


def measure(setting: Setting, sizes: Sizes) -> Report:
    """One case after the other: each has a group, two nodes and two databases of its own."""
    return _report({case: _measured(setting, case, sizes.seconds) for case in sizes.cases})


class _Node:
    """A node as a process, whose bytes are counted."""

    def __init__(self, setting: Setting, group: str, directory: Path, name: str, way: str, counting: Counting) -> None:
        self.name = name
        self.path = directory / f"{name}.db"
        self.data_dir = directory / name
        self._counting = counting
        words = [
            sys.executable, "-m", "replicator.workers.node", "--name", name, "--data-dir", str(self.data_dir),
            "--sqlite", str(self.path), "--publish-every-s", str(PUBLISH_EVERY_S),
            "--snapshot-bytes-max", str(SNAPSHOT_BYTES_MAX), *WAYS[way],
        ]  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        environment |= {"REPLICATOR_REDIS": setting.url, "REPLICATOR_GROUP": group, "REPLICATOR_LOG_LEVEL": "ERROR"}
        self.process = subprocess.Popen(words, env=environment | counting.environment(name))

    def spent(self) -> tuple[float, Counter[str]]:
        """Processor time, and bytes by file, so far."""
        node = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (node, *node.children(recursive=True))]
        return sum(spent.user + spent.system for spent in times), self._counting.written(self.name)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def _nodes(setting: Setting, case: Case, directory: Path) -> Iterator[dict[str, _Node]]:
    """A primary that leads, and a standby."""
    group, counting = setting.group("sqlite"), Counting(directory / "counts")
    with ExitStack() as stack:
        nodes: dict[str, _Node] = {}
        for name in ROLES:
            nodes[name] = _Node(setting, group, directory, name, case.way, counting)
            stack.callback(nodes[name].end)
        log = RedisLog(setting.url, group, timeout_s=STARTS_WITHIN_S)
        stack.callback(log.close)
        _until(lambda: {node.node for node in ops.status(log).nodes if node.alive} >= set(ROLES), "both report")
        ops.promote(log, "primary", by="bench", timeout_s=STARTS_WITHIN_S)
        yield nodes


def _measured(setting: Setting, case: Case, seconds: float) -> Found:
    directory = setting.fresh("sqlite")
    directory.mkdir()
    ours, alone = directory / "primary.db", directory / "alone.db"
    for path in (ours, alone):
        found_database(path, case.mode, case.mb)
    with _nodes(setting, case, directory) as nodes, Child(write, ours, alone) as program:
        published, immutable = _where_it_is_read(nodes["standby"], case.way)
        program.hear()
        _until(lambda: published.exists() and published.stat().st_size > 0.9 * ours.stat().st_size, "it is published")
        with Child(read_standby, published, immutable) as reader:
            reader.hear()
            _window(nodes, program, reader, min(seconds, 3.0))  # to warm up
            idle = _idle(nodes, min(seconds, IDLE_S)) if case.way == "pages" else {}
            return _window(nodes, program, reader, seconds)._replace(idle=idle)


def _where_it_is_read(standby: _Node, way: str) -> tuple[Path, bool]:
    """The file, and whether programs do not use it."""
    return (standby.path, False) if way == "copy" else (standby.data_dir / "shadow", True)


def _idle(nodes: dict[str, _Node], seconds: float) -> dict[str, float]:
    shares: dict[str, list[float]] = {name: [] for name in nodes}
    for _ in range(IDLE_TIMES):
        before = {name: node.spent()[0] for name, node in nodes.items()}
        time.sleep(seconds)
        for name, node in nodes.items():
            shares[name].append((node.spent()[0] - before[name]) / seconds)
    return {name: min(each) for name, each in shares.items()}


def _window(nodes: dict[str, _Node], program: Child, reader: Child, seconds: float) -> Found:
    reader.tell("begin")
    before, began = {name: node.spent() for name, node in nodes.items()}, time.monotonic()
    committed: list[Committed] = program.ask(seconds)
    after, took_s = {name: node.spent() for name, node in nodes.items()}, time.monotonic() - began
    time.sleep(10 * PUBLISH_EVERY_S)  # the last ones are to be there, too
    seen: list[Seen] = reader.ask("end")
    commits = {ours: [one.took_s for one in committed if one.replicated is ours] for ours in (True, False)}
    return Found(
        {name: _watched(before[name], after[name], took_s) for name in nodes}, _readable(committed, seen), commits, {}
    )


def _watched(before: tuple[float, Counter[str]], after: tuple[float, Counter[str]], took_s: float) -> Watched:
    written = after[1] - before[1]
    sent = written.pop("socket", 0)
    written.pop("pipe", 0)
    files = Counter({name: int(size / took_s) for name, size in written.items()})
    return Watched((after[0] - before[0]) / took_s, files, int(sent / took_s))


def _readable(committed: Sequence[Committed], seen: Sequence[Seen]) -> list[float]:
    """How long after its commit each transaction was seen; those of which nothing was seen are left out."""
    found, place = [], 0
    for one in committed:
        if not one.replicated:
            continue
        while place < len(seen) and seen[place][0] < one.number:
            place += 1
        if place < len(seen):
            found.append(max(0, seen[place][1] - one.at_ns) / 1e9)
    return found


def _report(found: dict[Case, Found]) -> Report:
    figures: dict[str, float] = {}
    for case, one in found.items():
        figures |= _figures(case, one)
    return Report(
        title="A database of SQLite",
        prose=PROSE,
        tables=[_costs(found, figures), _times(found, figures)],
        notes=[_by_file(case, one) for case, one in found.items()] if can_count() else ["nothing was counted: no cc"],
        figures=figures,
    )


def _figures(case: Case, found: Found) -> dict[str, float]:
    figures: dict[str, float] = {}
    for role, watched in found.watched.items():
        figures[f"{case}: {role} cpu share"] = watched.cpu_s
        if role in found.idle:
            figures[f"{case}: {role} idle cpu share"] = found.idle[role]
            figures[f"{case}: {role} added cpu share"] = watched.cpu_s - found.idle[role]
        if can_count():
            figures[f"{case}: {role} written MB/s"] = watched.written_bytes / 1e6
            figures[f"{case}: {role} sent MB/s"] = watched.sent_bytes / 1e6
    if found.readable_s:
        figures[f"{case}: readable p50 s"] = percentile(found.readable_s, 50)
        figures[f"{case}: readable p99 s"] = percentile(found.readable_s, 99)
    for ours, name in ((True, "commit"), (False, "commit alone")):
        figures[f"{case}: {name} p50 ms"] = percentile(found.commits_s[ours], 50) * 1e3
        figures[f"{case}: {name} p99 ms"] = percentile(found.commits_s[ours], 99) * 1e3
    return figures


_COSTS = ("written MB/s", "sent MB/s", "cpu share", "added cpu share")


def _costs(found: dict[Case, Found], figures: dict[str, float]) -> Table:
    names = [f"{role} {what}" for role in ROLES for what in _COSTS]
    rows = [[str(case), *(_shown(figures.get(f"{case}: {name}"), name) for name in names)] for case in found]
    return Table(head=["at 10 transactions a second", *names], rows=rows)


def _times(found: dict[Case, Found], figures: dict[str, float]) -> Table:
    names = ["readable p50 s", "readable p99 s"]
    names += [f"{which} {what}" for what in ("p50 ms", "p99 ms") for which in ("commit", "commit alone")]
    rows = [[str(case), *(_shown(figures.get(f"{case}: {name}"), name) for name in names)] for case in found]
    return Table(head=["a transaction", *names], rows=rows)


def _shown(figure: float | None, name: str) -> str:
    if figure is None:
        return "not measured"
    return f"{figure:.2%}" if name.endswith("share") else f"{figure:.3f}"


def _by_file(case: Case, found: Found) -> str:
    texts = []
    for role, watched in found.watched.items():
        files: Counter[str] = Counter()
        for name, size in watched.files.items():
            files[_kind(name)] += size
        texts.append(f"{role}: " + ", ".join(f"{name} {size / 1e3:,.1f} kB" for name, size in files.most_common(6)))
    return f"Written a second, {case}: " + "; ".join(texts)


def _kind(name: str) -> str:
    """A draft that has no name any more is the file that it was, and drafts have numbers."""
    return re.sub(r"-\d+$", "", Path(name.removesuffix(" (deleted)")).name)
