"""Many groups in one process: their nodes share four connections and a handful of threads.

    with Host("redis://localhost:6379/0") as host:
        for name in tenants:
            nodes[name] = host.node(States(name), group=name, name="a", data_dir=f"data/{name}")

A node on its own has four connections and three threads, which is nothing for one group and too much for a thousand. A
host is a crew (`crew.py`) for any number of nodes:

- *One reader.* XREAD takes many streams: one read waits for all groups, and what comes back is handed to each.
- *A few keepers.* Each node says when it wants to be looked after next; whoever is free takes the one that is due. A
  node that takes long (a slow disk, a name that is taken) keeps one of them, so there is more than one.
- *One saver* goes round.

Nothing else changes: each group has its own log, term and checkpoint, and fails over by itself. Give nodes of small
groups a longer lease: a beat of each is a few round trips, whether anything happens or not.
"""

from __future__ import annotations

import heapq
import logging
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from .connection import is_cluster
from .core.replies import Batch, Wants
from .crew import Duties
from .errors import ConfigError, ReplicatorError
from .log import Connections, RedisLog, read_together
from .node import SAVE_EVERY_S, Node
from .state import ReplicatedState, State

__all__ = ["Host"]

logger = logging.getLogger(__name__)

#: How long the reader waits for something of the groups that it knows: so late does it notice a new one.
BLOCK_MS = 1000

#: How soon Redis is tried again after it did not answer.
RETRY_EVERY_S = 0.1

#: A checkpoint has a file, its WAL and a lock open; a restore or a snapshot under way opens a few more.
FILES_PER_NODE = 4
FILES_BESIDES = 128


class Host:
    """A crew for many nodes, each of another group, over one Redis (not a cluster: there every group may be elsewhere).

    `keepers`: threads that look after nodes. Raises `ConfigError`.
    """

    def __init__(self, redis: str, *, keepers: int = 2) -> None:
        if is_cluster(redis):
            problem = "in a cluster each group may be on another server: give each of its nodes connections of its own"
            raise ConfigError(setting="redis", problem=problem)
        self._url = redis
        self._connections = Connections(redis, key=b"", name="host")
        self._nodes: dict[tuple[str, str], Node] = {}
        self._tended: dict[int, _Tended] = {}
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Tended]] = []
        self._numbers = count()
        self._closed = False
        loops = [("reader", self._read), ("saver", self._save), *(("keeper", self._keep) for _ in range(keepers))]
        self._threads = [threading.Thread(target=loop, name=f"host-{name}", daemon=True) for name, loop in loops]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def node(
        self, state: State | ReplicatedState, *, group: str, name: str, data_dir: str | Path, **options: Any
    ) -> Node:
        """Start a node of this host; `options` are those of `Node`. Stop it by `Node.stop`, or with the host."""
        _make_room_for_files(FILES_PER_NODE * (len(self._tended) + 1) + FILES_BESIDES)
        log = RedisLog(self._url, group, connections=self._connections)
        node = Node(state, group=group, name=name, data_dir=data_dir, log=log, crew=self, **options)
        node.start()
        self._nodes[group, name] = node
        return node

    def close(self) -> None:
        """Stop every node, then the threads. Safe to call twice."""
        for node in self._nodes.values():
            node.stop()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._connections.close()
        for thread in self._threads:
            thread.join(timeout=10)

    # --- a crew ---

    def start(self, duties: Duties) -> None:
        tended = _Tended(duties)
        with self._changed:
            self._tended[id(duties)] = tended
            self._plan(tended, time.monotonic())

    def wake(self, duties: Duties) -> None:
        with self._changed:
            tended = self._tended.get(id(duties))
            if tended is not None:
                tended.woken = True
                if not tended.kept:
                    self._plan(tended, time.monotonic())

    def stop(self, duties: Duties) -> None:
        with self._changed:
            tended = self._tended.pop(id(duties), None)
        if tended is not None:
            tended.wait_until_nothing_runs()

    # --- the keepers ---

    def _keep(self) -> None:
        while (tended := self._next_due()) is not None:
            with tended.doing("keep") as may:
                pause_s = tended.duties.keep() if may else 0.0
            with self._changed:
                tended.kept = False
                if may:
                    self._plan(tended, time.monotonic() + (0.0 if tended.woken else pause_s))

    def _next_due(self) -> _Tended | None:
        """Wait for a node that is due; None: the host was closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if not self._due or self._due[0][0] > now:
                    self._changed.wait(self._due[0][0] - now if self._due else None)
                    continue
                _, number, tended = heapq.heappop(self._due)
                if number == tended.number:  # or it was planned anew since
                    tended.kept, tended.woken = True, False
                    return tended
        return None

    def _plan(self, tended: _Tended, at: float) -> None:
        tended.number = next(self._numbers)
        heapq.heappush(self._due, (at, tended.number, tended))
        self._changed.notify()

    # --- the reader ---

    def _read(self) -> None:
        while not self._closed:
            reads = self._wanted()
            if not reads:
                time.sleep(BLOCK_MS / 1000)
                continue
            logs = [(tended.log, wants) for tended, wants in reads]
            batches = read_together(self._connections, logs, block_ms=BLOCK_MS)
            for (tended, _), batch in zip(reads, batches, strict=True):
                self._hand(tended, batch)
            if all(isinstance(batch, ReplicatorError) for batch in batches):
                time.sleep(RETRY_EVERY_S)

    def _wanted(self) -> list[tuple[_Tended, Wants]]:
        now = time.monotonic()
        reads: list[tuple[_Tended, Wants]] = []
        for tended in list(self._tended.values()):
            if tended.reads_again_at <= now and not tended.duties.ended():
                wants = tended.duties.wants()
                if wants is not None:
                    reads.append((tended, wants))
        return reads

    def _hand(self, tended: _Tended, batch: Batch | ReplicatorError) -> None:
        if isinstance(batch, Batch) and batch.is_empty and not tended.troubled:
            return
        with tended.doing("read") as may:
            if may:
                pause_s = tended.duties.received(batch)
                tended.troubled = pause_s > 0
                tended.reads_again_at = time.monotonic() + pause_s

    # --- the saver ---

    def _save(self) -> None:
        while not self._closed:
            for tended in list(self._tended.values()):
                if not tended.duties.is_saved():
                    with tended.doing("save") as may:
                        if may:
                            tended.duties.save()
            time.sleep(SAVE_EVERY_S)


class _Tended:
    """A node of the host."""

    def __init__(self, duties: Duties) -> None:
        self.duties = duties
        assert isinstance(duties.log, RedisLog)
        self.log = duties.log
        #: Its newest place in the plan; older ones do not count.
        self.number = -1
        #: A keeper has it, and whether it was woken meanwhile.
        self.kept = False
        self.woken = False
        #: What it read last ended in an error, and until when it is left alone.
        self.troubled = False
        self.reads_again_at = 0.0
        self._doing = {kind: threading.Lock() for kind in ("keep", "read", "save")}

    def __lt__(self, other: _Tended) -> bool:
        return self.number < other.number

    @contextmanager
    def doing(self, kind: str) -> Iterator[bool]:
        """Hold one of its duties; whether there is any left to do."""
        with self._doing[kind]:
            yield not self.duties.ended()

    def wait_until_nothing_runs(self) -> None:
        for lock in self._doing.values():
            if lock.acquire(timeout=10):
                lock.release()


def _make_room_for_files(files: int) -> None:
    """Raise the limit of this process on open files, as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= files:
        return
    allowed = files if hard == resource.RLIM_INFINITY else min(hard, 2 * files)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(allowed, soft), hard))
    if max(allowed, soft) < files:
        hint = f"`ulimit -n` allows {hard}; raise it, or have fewer groups in a process"
        raise ConfigError(setting="host", problem=f"so many groups need {files} open files, and {hint}")
