"""Failovers of every kind, and what the jobs of the leader did outside of the group meanwhile.

    python -m tests.acceptance.leader_failovers [--failovers 200] [--lease 1.0] [--seed 1]

Real processes: a Redis, and three nodes (`leader_node.py`) that reach it through a proxy each. The leader is killed,
stopped for longer than its lease (SIGSTOP), cut off, left without answers, demoted, replaced in order, or by force.
Its jobs append their term to files that all nodes share. Judged is what stands there:

- *Terms never go back*, and *no two jobs overlap*: once a job of one leadership has had an effect, no job of an
  earlier one has.
- Between `check()` and the effect that it allows, a process may be stopped, or wait for a processor. Such an effect
  comes late, and no clock helps against that: what has to be safe from it takes the term as a fencing token. These
  effects are told apart by their time, which is taken before `check()` is called, and counted: `late`.

The exit code is 0 only if that holds.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from replicator import ReplicatorError, ops
from replicator.log.redis_log import RedisLog
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import RedisServer

NAMES = ("a", "b", "c")

#: One step of a failover that takes longer hangs. The machine may be busy.
PATIENCE_S = 60.0

#: How much longer than its lease a leader is stopped.
PAUSE_LEASES = 1.6

POLL_S = 0.01


class Line(NamedTuple):
    """What a job wrote. `number`: of this run of it, in its process. `at_ns`: the monotonic clock, before it asked
    whether it may. `what`: `effect` or `end:WHY`.
    """

    term: int
    pid: int
    number: int
    at_ns: int
    what: str

    @property
    def job(self) -> tuple[int, int]:
        """The run of a job that wrote it."""
        return self.pid, self.number


def lines_of(text: str) -> list[Line]:
    """Of a file of a job. A kill does not leave half a line: it was written in one call."""
    words = [line.split(" ") for line in text.splitlines()]
    return [Line(int(term), int(pid), int(number), int(at), what) for term, pid, number, at, what in words]


@dataclass
class Judgement:
    """Of one file. `broken`: what must not be. `late`: effects that were allowed in time, and came after others."""

    jobs: int = 0
    effects: int = 0
    terms: int = 0
    broken: list[str] = field(default_factory=list)
    late: int = 0
    #: How jobs ended; those that were killed did not say so.
    ends: Counter[str] = field(default_factory=Counter)
    #: Jobs that ended after the first effect of the next one: stopped in the middle, they had no effect any more.
    ended_late: int = 0


def judge(lines: Sequence[Line]) -> Judgement:
    """What a file says."""
    found = Judgement()
    begun: dict[tuple[int, int], int] = {}
    newest: Line | None = None  # the first effect of the newest job
    for line in lines:
        if line.what != "effect":
            found.ends[line.what.removeprefix("end:")] += 1
            found.ended_late += newest is not None and line.job in begun and line.job != newest.job
            continue
        found.effects += 1
        is_first = line.job not in begun
        begun.setdefault(line.job, line.term)
        if newest is None or line.job == newest.job or (is_first and line.term >= newest.term):
            newest = line if is_first else newest
        elif line.at_ns < newest.at_ns:
            found.late += 1
        elif is_first:
            found.broken.append(f"a job began in term {line.term} after one in term {newest.term}")
        else:
            found.broken.append(f"a job of term {line.term} had an effect while one of term {newest.term} ran")
    found.jobs, found.terms = len(begun), len(set(begun.values()))
    return found


class NodeProcess:
    """One node, and its way to Redis."""

    def __init__(self, name: str, server: RedisServer, directory: Path, lease_s: float) -> None:
        assert server.socket_path is not None
        self.name = name
        self.proxy = Proxy(server.socket_path)
        self._log = directory / f"{name}.log"
        self._words = [
            sys.executable, "-m", "tests.acceptance.leader_node", "--name", name, "--redis", self.proxy.url,
            "--data", str(directory / name), "--out", str(directory), "--lease", str(lease_s),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._words, stdin=subprocess.PIPE, stderr=log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """As a supervisor does: it ends by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        self.kill()
        self.proxy.close()


class Failovers:
    """A group, and what befalls its leader. `directory` gets the files of the jobs, and the logs of the nodes."""

    def __init__(self, directory: Path, *, lease_s: float, seed: int, say: Callable[[str], None]) -> None:
        self.done: Counter[str] = Counter()
        #: From the beginning of a failover to the first effect of another job: seconds, by kind.
        self.gaps_s: dict[str, list[float]] = {}
        self._directory = directory
        self._lease_s = lease_s
        self._say = say
        self._asks: dict[str, Any] = {"lease_ms": int(lease_s * 1000), "timeout_s": PATIENCE_S}
        #: The term and the process of the jobs that ran when all was settled.
        self._before = (0, 0)
        self._random = random.Random(seed)
        self._ended = ExitStack()
        self._kinds: dict[str, Callable[[NodeProcess, NodeProcess], None]] = {
            "kill": self._kill,
            "pause": self._pause,
            "cut": self._cut,
            "hang": self._hang,
            "stop": self._stop,
            "demote": self._demote,
            "switchover": self._switch_over,
            "promote": self._promote,
        }

    def __enter__(self) -> Failovers:
        with self._ended as stack:
            server = RedisServer(self._directory / "redis")
            stack.callback(server.kill)
            server.start()
            self._log = RedisLog(server.url, "g")
            stack.callback(self._log.close)
            self._nodes: dict[str, NodeProcess] = {}
            for name in NAMES:
                self._nodes[name] = NodeProcess(name, server, self._directory, self._lease_s)
                stack.callback(self._nodes[name].close)
            self._until(lambda: len(self._log.look().heartbeats) == len(NAMES), "three nodes report")
            ops.promote(self._log, "a", by="test", **self._asks)
            self._ended = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.close()

    def run(self, count: int) -> None:
        """So many failovers, of each kind in turn."""
        for number in range(count):
            kind = list(self._kinds)[number % len(self._kinds)]
            leader = self._settled()
            other = self._random.choice([node for node in self._nodes.values() if node is not leader])
            began = time.monotonic()
            before = self._before
            self._kinds[kind](leader, other)
            self.gaps_s.setdefault(kind, []).append(time.monotonic() - began)
            self.done[kind] += 1
            self._say(f"{number + 1:4} {kind:10} {leader.name}: {before} -> {self._newest_job()}")
        self._settled()
        for node in self._nodes.values():
            node.stop()

    def judged(self) -> dict[str, Judgement]:
        return {name: judge(self._lines(name)) for name in ("threads", "tasks")}

    # --- what befalls the leader ---

    def _kill(self, leader: NodeProcess, other: NodeProcess) -> None:
        leader.kill()
        self._until_another_works(leader)
        leader.start()

    def _pause(self, leader: NodeProcess, other: NodeProcess) -> None:
        """In the middle of its jobs. It goes on in the middle of them, when another one leads."""
        leader.signal(signal.SIGSTOP)
        self._until_another_works(leader)
        time.sleep(self._random.random() * (PAUSE_LEASES - 1) * self._lease_s)
        leader.signal(signal.SIGCONT)

    def _cut(self, leader: NodeProcess, other: NodeProcess) -> None:
        leader.proxy.refuse()
        leader.proxy.cut()
        self._until_another_works(leader)
        leader.proxy.accept()

    def _hang(self, leader: NodeProcess, other: NodeProcess) -> None:
        leader.proxy.stall()
        self._until_another_works(leader)
        leader.proxy.cut()  # a stalled path that moves on would be another fault: see the chaos tests
        leader.proxy.go()

    def _stop(self, leader: NodeProcess, other: NodeProcess) -> None:
        leader.stop()
        self._until_another_works(leader)
        leader.start()

    def _demote(self, leader: NodeProcess, other: NodeProcess) -> None:
        self._asked(lambda: ops.demote(self._log, by="test"))
        self._promote(leader, other)

    def _promote(self, leader: NodeProcess, other: NodeProcess) -> None:
        self._asked(lambda: ops.promote(self._log, other.name, by="test", force=True, **self._asks))
        self._until_another_works(leader)

    def _switch_over(self, leader: NodeProcess, other: NodeProcess) -> None:
        self._asked(lambda: ops.switchover(self._log, other.name, by="test", **self._asks))
        self._until_another_works(leader)

    def _asked(self, act: Callable[[], object]) -> None:
        """On a busy machine the group may change in the very moment: then once more, unless another one works by then
        (the one that is asked for may lead already).
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                act()
                return
            except (ReplicatorError, TimeoutError):
                if self._another_works():
                    return
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    # --- looks ---

    def _settled(self) -> NodeProcess:
        """Wait until one node leads, its jobs run, and the others follow; the one that leads."""
        leaders: list[NodeProcess] = []

        def settled() -> bool:
            leaders.clear()
            look = self._log.look()
            if look.head is None or look.lease_ms is None or len(look.heartbeats) < len(NAMES):
                return False
            if not all(beat.alive and beat.in_sync and beat.term == look.term for beat in look.heartbeats.values()):
                return False
            leader = self._nodes.get(look.head.node)
            jobs = {self._newest_job(name) for name in ("threads", "tasks")}
            if leader is None or jobs != {(look.term, leader.pid)}:
                return False
            leaders.append(leader)
            self._before = (look.term, leader.pid)
            return True

        self._until(settled, "one leads, and works")
        return leaders[0]

    def _until_another_works(self, leader: NodeProcess) -> None:
        self._until(self._another_works, f"another job than that of {leader.name} works")

    def _another_works(self) -> bool:
        """One that loses its lease on a busy machine may well lead next, too: another job it is all the same."""
        jobs = [self._newest_job(name) or (0, 0) for name in ("threads", "tasks")]
        return all(term > self._before[0] for term, _ in jobs)

    def _newest_job(self, name: str = "threads") -> tuple[int, int] | None:
        """The term and the process of the job that had the newest effect."""
        path = self._directory / name
        if not path.exists():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            whole = file.read().decode().rpartition("\n")[0].partition("\n")[2]
        effects = [line for line in lines_of(whole) if line.what == "effect"]
        return (effects[-1].term, effects[-1].pid) if effects else None

    def _lines(self, name: str) -> list[Line]:
        return lines_of((self._directory / name).read_text())

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s; the logs are in {self._directory}")
            time.sleep(POLL_S)


def run(directory: Path, *, failovers: int, lease_s: float, seed: int, say: Callable[[str], None]) -> list[Judgement]:
    """Carry it out; what each file says."""
    began = time.monotonic()
    with Failovers(directory, lease_s=lease_s, seed=seed, say=say) as story:
        story.run(failovers)
        judged = story.judged()
        for line in _summary(story, judged, time.monotonic() - began):
            say(line)
    return list(judged.values())


def _summary(story: Failovers, judged: dict[str, Judgement], took_s: float) -> Iterator[str]:
    yield f"{sum(story.done.values())} failovers in {took_s:.0f} s"
    for kind, gaps in story.gaps_s.items():
        yield f"  {kind:10} {story.done[kind]:4}, until another job works: median {sorted(gaps)[len(gaps) // 2]:.2f} s"
    for name, found in judged.items():
        ends = ", ".join(f"{why} {count}" for why, count in sorted(found.ends.items()))
        yield (
            f"{name}: {found.jobs} jobs in {found.terms} terms, {found.effects} effects; ended: {ends}; after another "
            f"one had begun: {found.ended_late}; late effects: {found.late}; broken: {len(found.broken)}"
        )
        yield from found.broken[:10]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.leader_failovers")
    parser.add_argument("--failovers", type=int, default=200)
    parser.add_argument("--lease", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="replicator-leaders-"))
    judged = run(
        directory, failovers=options.failovers, lease_s=options.lease, seed=options.seed,
        say=lambda line: print(line, flush=True),
    )  # fmt: skip
    broken = any(found.broken for found in judged)
    print(f"the files are in {directory}" if broken else "terms never went back, and no two jobs overlapped")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
