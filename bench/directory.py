"""A directory beside a program: what it takes to replicate it, while nothing is written, and while something is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.directory_ways import FILES_A_DIRECTORY, Spent, by_bytes_and_by_file, table_of
from bench.harness import Report, Setting, Table, percentile, wait_until
from bench.written import Counting, can_count
from replicator import ops
from replicator.log.redis_log import RedisLog

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

STARTS_WITHIN_S = 180.0

_until = partial(wait_until, within_s=STARTS_WITHIN_S)
SNAPSHOT_BYTES_MAX = 1_000_000_000
CHANGED_BYTES = 2_000

ROLES = ("primary", "standby")

#: What the program does meanwhile.
NOTHING, ONE = "nothing is written", "one file a second"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    files: int
    mb: int
    seconds: float
    pause_s: float = 1.0


FULL = Sizes(files=2_000, mb=200, seconds=20.0)
QUICK = Sizes(files=20, mb=1, seconds=1.0, pause_s=0.2)

PROSE = f"""\
A directory of {FULL.mb} MB in {FULL.files:,} files of random bytes, in directories of {FILES_A_DIRECTORY}, is beside
`replicator node --dir`, which looks once a second (`--publish-every-s 1`), and a second node is the standby. A program
writes nothing, or one file of {CHANGED_BYTES:,} bytes a second, in turns of all directories. *Processor* is what the
processes of a node take, of one core. *Written* is what they give to `write` and its kin for files. *Readable* is the
time from the write until the file is there on the standby, with that content.

The second table is of the two sides without a log and without the waits of a node: what a publication takes of a
processor if all bytes are compared, as it was done before and is done for a state of another kind, and if it goes by
file. *Ratio*: of the second to the first.
"""


class Watched(NamedTuple):
    """Of the processes of one node, a second."""

    cpu_s: float
    written_bytes: float


class Found(NamedTuple):
    watched: dict[str, Watched]
    readable_s: list[float]


class _Node:
    """A node as a process, whose bytes are counted."""

    def __init__(self, setting: Setting, group: str, directory: Path, name: str, counting: Counting) -> None:
        self.path = directory / f"{name}.kept"
        self._name = name
        self._counting = counting
        words = [
            sys.executable, "-m", "replicator.workers.node", "--name", name, "--data-dir", str(directory / name),
            "--dir", str(self.path), "--publish-every-s", "1", "--snapshot-bytes-max", str(SNAPSHOT_BYTES_MAX),
        ]  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        environment |= {"REPLICATOR_REDIS": setting.url, "REPLICATOR_GROUP": group, "REPLICATOR_LOG_LEVEL": "ERROR"}
        self._process = subprocess.Popen(words, env=environment | counting.environment(name))

    def spent(self) -> tuple[float, int]:
        """Processor time, and bytes for files, so far."""
        node = psutil.Process(self._process.pid)
        times = [process.cpu_times() for process in (node, *node.children(recursive=True))]
        written: Counter[str] = self._counting.written(self._name)
        files = sum(size for name, size in written.items() if name not in ("socket", "pipe"))
        return sum(spent.user + spent.system for spent in times), files

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def _nodes(setting: Setting, directory: Path) -> Iterator[dict[str, _Node]]:
    """A primary that leads, and a standby."""
    group, counting = setting.group("directory"), Counting(directory / "counts")
    with ExitStack() as stack:
        nodes: dict[str, _Node] = {}
        for name in ROLES:
            nodes[name] = _Node(setting, group, directory, name, counting)
            stack.callback(nodes[name].end)
        log = RedisLog(setting.url, group, timeout_s=STARTS_WITHIN_S)
        stack.callback(log.close)
        _until(lambda: {node.node for node in ops.status(log).nodes if node.alive} >= set(ROLES), "both report")
        ops.promote(log, "primary", by="bench", timeout_s=STARTS_WITHIN_S)
        yield nodes


def measure(setting: Setting, sizes: Sizes) -> Report:
    """The same two nodes, while nothing is written and then while something is."""
    directory = setting.fresh("directory")
    paths = [Path(f"d{number // FILES_A_DIRECTORY}") / f"f{number}" for number in range(sizes.files)]
    for path in paths:
        made = directory / "primary.kept" / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(os.urandom(sizes.mb * 1_000_000 // sizes.files))
    with _nodes(setting, directory) as nodes:
        began = time.monotonic()
        _until(lambda: (nodes["standby"].path / paths[-1]).exists(), "the standby has all of it")
        first_s = time.monotonic() - began
        time.sleep(2 * sizes.pause_s)
        found = {NOTHING: _window(nodes, [], sizes), ONE: _window(nodes, paths, sizes)}
    ways = by_bytes_and_by_file(directory / "primary.kept", paths, directory / "ways")
    return _report(found, first_s, ways)


def _window(nodes: dict[str, _Node], paths: list[Path], sizes: Sizes) -> Found:
    before, began = {name: node.spent() for name, node in nodes.items()}, time.monotonic()
    readable_s: list[float] = []
    for turn in range(max(1, int(sizes.seconds / sizes.pause_s))):
        due = began + (turn + 1) * sizes.pause_s
        if paths:
            readable_s.append(_changed(nodes, paths[turn * (FILES_A_DIRECTORY + 1) % len(paths)]))
        time.sleep(max(0.0, due - time.monotonic()))
    took_s = time.monotonic() - began
    after = {name: node.spent() for name, node in nodes.items()}
    watched = {
        name: Watched((after[name][0] - before[name][0]) / took_s, (after[name][1] - before[name][1]) / took_s)
        for name in nodes
    }
    return Found(watched, readable_s)


def _changed(nodes: dict[str, _Node], path: Path) -> float:
    content, began = os.urandom(CHANGED_BYTES), time.monotonic()
    (nodes["primary"].path / path).write_bytes(content)
    _until(lambda: (nodes["standby"].path / path).read_bytes() == content, f"{path} is there", every_s=0.01)
    return time.monotonic() - began


def _report(found: dict[str, Found], first_s: float, ways: dict[str, tuple[Spent, Spent]]) -> Report:
    figures = {"first s": first_s}
    for what, one in found.items():
        for role, watched in one.watched.items():
            figures[f"{what}: {role} cpu share"] = watched.cpu_s
            if can_count():
                figures[f"{what}: {role} written MB/s"] = watched.written_bytes / 1e6
    for percent in (50, 99):
        figures[f"{ONE}: readable p{percent} s"] = percentile(found[ONE].readable_s, percent)
    figures |= _figures_of(ways)
    names = [f"{role} {what}" for role in ROLES for what in ("cpu share", "written MB/s")]
    names += ["readable p50 s", "readable p99 s"]
    rows = [[what, *(_shown(figures.get(f"{what}: {name}"), name) for name in names)] for what in found]
    return Report(
        title="A directory",
        prose=PROSE,
        tables=[Table(head=["the program", *names], rows=rows), table_of(ways)],
        notes=[f"The standby had all of it {first_s:.1f} s after the promotion."],
        figures=figures,
    )


def _figures_of(ways: dict[str, tuple[Spent, Spent]]) -> dict[str, float]:
    figures = {}
    for name, (by_bytes, by_file) in ways.items():
        for side, before, after in (
            ("primary", by_bytes.primary_s, by_file.primary_s),
            ("standby", by_bytes.standby_s, by_file.standby_s),
        ):
            figures[f"{name}: {side} ms by file"] = after * 1000
            figures[f"{name}: {side} ratio"] = after / before
    return figures


def _shown(figure: float | None, name: str) -> str:
    if figure is None:
        return "-"
    return f"{figure:.1%}" if name.endswith("share") else f"{figure:.2f}"
