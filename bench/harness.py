"""What the benchmarks have in common: rounds, medians, ratios, child processes, and how results are written down.

**Rounds.** The machine under a benchmark drifts: the same loop may run twice as fast a minute later. So no case runs
alone. `in_rounds` runs all cases one after the other, round after round, each round beginning with another case, and a
case is only ever compared with the baseline of its own round. A ratio is that of the medians over all rounds, and the
range beside it is that of the rounds' own ratios: where it reaches over 1, there is no difference to speak of.

**Processes.** What would be another machine in earnest is another process here, made by `Child`: spawned, not forked,
so that it shares no memory with the one that measures. Instants are compared between processes. `now_ns` is a clock
that all processes of a machine share: CLOCK_MONOTONIC on Linux, mach_absolute_time on macOS.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bench.charts import Chart

__all__ = [
    "Benchmark",
    "Child",
    "Memory",
    "Ratio",
    "Report",
    "Setting",
    "Table",
    "heard",
    "in_rounds",
    "load_line",
    "machine_line",
    "memory",
    "now_ns",
    "percentile",
    "plain_client",
    "quiet",
    "ratio",
    "reset_peak",
    "wait_until",
]

#: A child that is silent for this long will not answer any more: it rebuilds 80 MB in a few seconds.
CHILD_TIMEOUT_S = 180.0

#: How long a child may take to end by itself.
CHILD_STOP_S = 20.0

now_ns = time.monotonic_ns


# --- a run ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a benchmark runs: a Redis, and a directory of its own on a disk."""

    url: str
    directory: Path

    def fresh(self, name: str) -> Path:
        """A directory that nobody has used. It is made by whoever gets it."""
        return self.directory / f"{name}-{os.urandom(4).hex()}"

    def group(self, name: str) -> str:
        """The name of a group that nobody has used."""
        return f"bench-{name}-{os.urandom(4).hex()}"


class Benchmark(Protocol):
    """What every module of a benchmark has. `sizes` is a value of its own `Sizes`."""

    FULL: Any
    QUICK: Any

    def measure(self, setting: Setting, sizes: Any) -> Report: ...


#: So many rounds before those that count, unless a benchmark says otherwise. Tests do without: they time nothing.
WARM_UPS = 1


def in_rounds(
    cases: Mapping[str, Callable[[], Any]], rounds: int, *, warm_ups: int | None = None
) -> dict[str, list[Any]]:
    """Run every case once a round; what each gave, in the order of the rounds.

    `warm_ups` rounds before them are thrown away (`WARM_UPS`); what starts its processes anew each time needs none.
    """
    warm_ups = WARM_UPS if warm_ups is None else warm_ups
    results: dict[str, list[Any]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(-warm_ups, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            result = cases[name]()
            if turn >= 0:
                results[name].append(result)
    return results


def wait_until(holds: Callable[[], object], what: str, *, within_s: float = 60.0, every_s: float = 0.02) -> None:
    """Wait for something that is set up, or that a file which is not there yet will say. Raises `RuntimeError`."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(FileNotFoundError):
            if holds():
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {within_s:g} s")
        time.sleep(every_s)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How one case compares with another that ran in the same rounds."""

    of_medians: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{_short(self.of_medians)} ({_short(self.lowest)} to {_short(self.highest)})"


def ratio(values: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Compare what a case gave with what the baseline gave in the same rounds."""
    each = [value / base for value, base in zip(values, baseline, strict=True)]
    return Ratio(of_medians=median(values) / median(baseline), lowest=min(each), highest=max(each))


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def plain_client(url: str) -> redis.Redis:
    """redis-py as its manual shows it, but that it repeats nothing: the baseline of what is sent one at a time."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells are texts by now; the first columns are flush left, figures are flush right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: Columns that are no figures.
    names: int = 1

    def as_text(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [self.head, ["-" * width for width in widths], *self.rows]
        return "\n".join("  " + "  ".join(_aligned(line, widths, self.names)).rstrip() for line in lines)

    def as_markdown(self) -> str:
        rule = ["---"] * self.names + ["---:"] * (len(self.head) - self.names)
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.head, rule, *self.rows))


def _aligned(line: Sequence[str], widths: Sequence[int], names: int) -> list[str]:
    return [
        cell.ljust(width) if place < names else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a benchmark found."""

    title: str
    #: What is measured, and what the ratio means.
    prose: str
    tables: Sequence[Table]
    #: What else this very run says.
    notes: Sequence[str] = ()
    #: By name, for programs: `bench.goals` refers to them.
    figures: Mapping[str, float] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    #: What must not be, if it is: the command ends with exit code 1.
    wrong: Sequence[str] = ()


# --- other processes --------------------------------------------------------------------------------------------------


class Child:
    """A process that carries out `work(pipe, *arguments)`, and the other end of the pipe.

    `work` is a function at the top of a module. It ends when it receives None.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_quietly, args=(work, theirs, *arguments), daemon=True)
        # A Ctrl-C at the terminal is for the parent, which ends its children in its own order: they inherit the mask.
        # Whoever starts the first one starts the tracker as well, and that would unmask it.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None  # it was started
        return self._process.pid

    def tell(self, message: Any) -> None:
        self._pipe.send(message)

    def hear(self) -> Any:
        """The next thing that it says. Raises `RuntimeError` if it ended or is silent for too long."""
        try:
            if self._pipe.poll(CHILD_TIMEOUT_S):
                return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(CHILD_STOP_S)
            raise RuntimeError(f"a child process ended with exit code {self._process.exitcode}") from None
        raise RuntimeError(f"a child process said nothing for {CHILD_TIMEOUT_S:g} s")

    def ask(self, message: Any) -> Any:
        self.tell(message)
        return self.hear()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._process.kill()
        self._process.join()

    def end(self) -> None:
        """Kill it, if it is still there, and clean up."""
        self.kill()
        self.close()

    def close(self) -> None:
        if self._process.is_alive():
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._pipe.send(None)
            self._process.join(CHILD_STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _quietly(work: Callable[..., None], *arguments: Any) -> None:
    quiet()
    work(*arguments)


def quiet() -> None:
    """Keep the warnings of nodes (each new term is one) out of the tables."""
    logging.getLogger("replicator").setLevel(logging.ERROR)


def heard(pipe: Connection) -> Any:
    """In a child: what it is told next; None when it is to end, also because its parent is gone."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of this process, in MB: what it has, and the most it ever had (on Linux: since `reset_peak`)."""

    resident_mb: float
    peak_mb: float


def memory() -> Memory:
    """See `Memory`. Where there is no /proc, both are the peak since the process began."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        return Memory(resident_mb=peak_mb, peak_mb=peak_mb)
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}
    return Memory(resident_mb=kib["VmRSS"] * 1024 / 1e6, peak_mb=kib["VmHWM"] * 1024 / 1e6)


def reset_peak() -> bool:
    """Let the peak of this process begin at what it has now. False where the system does not let it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


# --- the machine ------------------------------------------------------------------------------------------------------


def machine_line(url: str) -> str:
    """One line that says on what a run was done: processor, cores, Python, clients, server."""
    import hiredis

    with plain_client(url) as client:
        info: dict[str, Any] = client.info("server")
        policy: dict[str, str] = client.config_get("append*")
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version", info["redis_version"])
    aof = f"appendfsync {policy['appendfsync']}" if policy.get("appendonly") == "yes" else "no AOF"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}; Python "
        f"{platform.python_version()}; redis-py {redis.__version__} with hiredis {hiredis.__version__}; "
        f"{name} {version}, {aof}"
    )


def load_line() -> str:
    """The load averages of the last 1, 5 and 15 minutes."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else "unknown processor"
