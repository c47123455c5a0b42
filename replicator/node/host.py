"""Many groups in one process: their nodes share a few connections and a few threads.

    with Host("redis://localhost:6379/0") as host:
        for name in tenants:
            nodes[name] = host.node(States(name), group=name, name="a", data_dir=f"data/{name}")

A node on its own has five connections and four threads, which is nothing for one group and too much for a thousand. A
host is a scheduler (`scheduler.py`) for any number of nodes:

- *A reader* has one read wait for all groups (`group_reader.py`).
- *HA loops.* Each node says when its next beat is due; a free thread takes the one that is due. These threads mostly
  wait for Redis, so each of them has a connection of its own, and one for writes.
- *Holders.* Leases are kept apart from all that, by as many threads on connections of their own: whatever an HA loop or
  a writer waits for, no other node loses its lease meanwhile, nor does this one.
- *Committers.* What asyncio tasks write (`async_writer.py`) is committed by whoever of them is free.
- *A saver* goes round.
- *A watch.* A node that takes long (a slow disk, a large restore, a name that is taken) keeps the thread that works for
  it, and no other node is to wait for that: another thread joins, and one leaves once the first is back (`Team`).

Nothing else changes: each group has its own log, term and checkpoint, and fails over by itself. Give nodes of small
groups a longer lease: a beat of each is a few round trips, whether anything happens or not.
"""

from __future__ import annotations

import resource
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Unpack

from ..errors import ConfigError, NoThread
from ..log.finders import is_cluster
from ..log.redis_log import Connections, RedisLog
from ..metrics.node_metrics import NodeMetrics
from ..runtime import checks
from ..runtime.process import Owner
from ..runtime.threads import started
from .calls import StateT
from .duties import SAVE_EVERY_S
from .group_reader import GroupReader
from .hosted_node import HostedNode, Plan
from .lease import LEASE_S, answer_within_s
from .node import Node
from .options import HostedNodeKeywords, NodeArguments
from .scheduler import NodeWork
from .speaker import Shared
from .worker_pool import RETRY_S_MAX, TEAM_MAX, WATCH_EVERY_S, Team, submitted

__all__ = [
    "Host",
]

#: Each has connections of its own, and they mostly wait.
HA_LOOPS_MAX = 256

#: Nodes that are stopped at the same time when the host is closed: a stop mostly waits for the disk.
STOPPED_AT_ONCE = 8

#: How long a node that is stopped waits for what is being done for it.
STOP_TIMEOUT_S = 10.0

#: A checkpoint has a file, its WAL and a lock open; a restore or a snapshot under way opens a few more.
FILES_PER_NODE = 4
FILES_BESIDES = 128


class Host:
    """A scheduler for many nodes, each of another group, over one Redis.

    Not over a cluster: there every group may be elsewhere. `ha_loops`: threads that look after nodes, others that
    commit for tasks, and connections for each of them. Raises `ConfigError`.
    It belongs to the process that made it, as its nodes do.
    """

    def __init__(self, redis: str, *, ha_loops: int = 2) -> None:
        self._owner = Owner("this host")
        if is_cluster(redis):
            problem = "in a cluster each group may be on another server: give each of its nodes connections of its own"
            raise ConfigError(setting="redis", problem=problem)
        checks.whole("ha_loops", ha_loops, least=1, most=HA_LOOPS_MAX)
        self._url = redis
        first = Connections(redis, key=b"", name="host")
        self._connections = [first]
        self._connections += [Connections(redis, key=b"", name="host", read=first.read) for _ in range(ha_loops - 1)]
        #: Those that run are kept by their duties.
        self._nodes: weakref.WeakSet[Node] = weakref.WeakSet()
        self._tended: dict[int, HostedNode] = {}
        self._closing = self._closed = False
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._keeping = Plan("keep", self._lock)
        self._holding = Plan("hold", self._lock)
        self._groups = count()
        self.shared = Shared(lambda: len(self._tended))
        self._reader = GroupReader(first, self._tended, self._lock)
        self._unsaved: deque[HostedNode] = deque()
        self._saving = threading.Lock()
        self._commits: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._watching = threading.Event()
        self._teams = [
            Team("reader", self._reader.next_batch, size=1),
            Team("saver", self._next_unsaved, size=1),
            Team("ha-loop", partial(self._next_due, self._keeping), size=ha_loops),
            Team("holder", partial(self._next_due, self._holding), size=ha_loops),
            Team("committer", self._commits.get, size=ha_loops),
        ]
        self._watch: threading.Thread | None = None
        try:
            for team in self._teams:
                team.begin()
            self._watch = started(self._watch_teams, name="host-watch")
        except NoThread:
            self.close()
            raise

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owner.is_here:
            self.close()

    def node(
        self,
        state: StateT,
        *,
        group: str,
        name: str,
        data_dir: str | Path,
        http: str = "",
        **options: Unpack[HostedNodeKeywords],
    ) -> Node[StateT]:
        """Start a node of this host; all that it takes is as for `Node`. Stop it by `Node.stop`, or with the host.

        Any number of threads may start nodes at the same time: a start mostly waits for the disk.
        Raises what `Node` and `Node.start` raise, and `ConfigError` if the host was closed.
        """
        self._owner.check()
        with self._lock:
            self._check_open()
            connections = self._connections[next(self._groups) % len(self._connections)]
            _make_room_for_files(FILES_PER_NODE * (len(self._tended) + 1) + FILES_BESIDES)
        lease_s = options.get("lease_s", LEASE_S)
        # What is no number the node refuses, by its name.
        answer_s = answer_within_s(lease_s) if isinstance(lease_s, int | float) else answer_within_s(LEASE_S)
        log = RedisLog(self._url, group, connections=connections, timeout_s=answer_s)
        around: NodeArguments = {"log": log, "scheduler": self, **options}
        node = Node(state, group=group, name=name, data_dir=data_dir, http=http, **around)
        node.start()
        try:
            with self._lock:
                self._check_open()
                self._nodes.add(node)
        except ConfigError:
            node.stop()
            raise
        return node

    def metrics(self) -> list[NodeMetrics]:
        """What all of its nodes tell Prometheus (`replicator.metrics`), by group."""
        self._owner.check()
        with self._lock:
            nodes = [node for node in self._nodes if not node._setup.stopping.is_set()]
        return [node.own_metrics() for node in sorted(nodes, key=lambda each: (each.group, each.name))]

    def _check_open(self) -> None:
        if self._closing:
            raise ConfigError(setting="host", problem="it was closed")

    def close(self) -> None:
        """Stop every node, then the threads. Safe to call twice.

        A node that cannot be stopped in order (its disk is full) keeps no other from it. Its error is raised then.
        """
        self._owner.check()
        with self._lock:
            self._closing = True
            nodes = list(self._nodes)
            self._nodes.clear()
        with ThreadPoolExecutor(STOPPED_AT_ONCE, thread_name_prefix="host-stop") as pool:
            stopped = [submitted(pool, node.stop) for node in nodes]
        self._reader.end_alarm()
        with self._lock:
            self._closed = True
            self._reader.close()
            for plan in (self._keeping, self._holding):
                plan.changed.notify_all()
        for connections in self._connections:
            connections.close()
        for _ in range(TEAM_MAX):
            self._commits.put(None)
        self._watching.set()
        if self._watch is not None:
            self._watch.join(timeout=STOP_TIMEOUT_S)
        for team in self._teams:
            team.join(STOP_TIMEOUT_S)
        for each in stopped:
            each.result()

    def _watch_teams(self) -> None:
        while not self._watching.wait(WATCH_EVERY_S):
            for team in self._teams:
                team.relieve()
            self.shared.crowd.sum_up()
        self.shared.crowd.sum_up(at_once=True)

    # --- a scheduler -------------------------------------------------------------------------------------------------

    def start(self, node_work: NodeWork) -> None:
        tended = HostedNode(node_work, self._done)
        with self._lock:
            self._tended[id(node_work)] = tended
            for plan in (self._keeping, self._holding):
                plan.put(tended, time.monotonic())
            self._reader.add(tended)
        self._reader.interrupt()

    def wake(self, node_work: NodeWork) -> None:
        now = time.monotonic()
        with self._lock:
            tended = self._tended.get(id(node_work))
            if tended is not None:
                tended.woken = True
                if "keep" not in tended.busy and self._keeping.due_at(tended) > now:
                    self._keeping.put(tended, now)

    def stop(self, node_work: NodeWork) -> None:
        with self._lock:
            tended = self._tended.pop(id(node_work), None)
            if tended is not None:
                tended.gone = True
                for plan in (self._keeping, self._holding):
                    plan.forget(tended)
                self._done.wait_for(lambda: not tended.busy, timeout=STOP_TIMEOUT_S)

    @property
    def clock(self) -> Callable[[], float]:
        return time.monotonic

    @property
    def soon(self) -> Callable[[Callable[[], None]], None]:
        return self._commits.put

    # --- the HA loops, and those who hold leases ---------------------------------------------------------------------

    def _next_due(self, plan: Plan) -> Callable[[], None] | None:
        """Wait for a node that is due; None: the host was closed."""
        with self._lock:
            while not self._closed:
                tended, wait_s = plan.take(time.monotonic())
                if tended is None:
                    plan.changed.wait(wait_s)
                elif tended.begin(plan.duty):
                    tended.woken = tended.woken and plan is not self._keeping
                    return partial(self._do_due, plan, tended)
        return None

    def _do_due(self, plan: Plan, tended: HostedNode) -> None:
        pause_s = RETRY_S_MAX
        try:
            pause_s = tended.node_work.keep() if plan is self._keeping else tended.node_work.hold()
        finally:
            with self._lock:
                tended.end(plan.duty)
                if tended.gone:
                    plan.forget(tended)
                else:
                    at_once = plan is self._keeping and tended.woken
                    plan.put(tended, time.monotonic() + (0.0 if at_once else pause_s))

    # --- the saver ---------------------------------------------------------------------------------------------------

    def _next_unsaved(self) -> Callable[[], None] | None:
        """Go round until a node has something to save; None: the host was closed."""
        with self._saving:
            while not self._closed:
                while self._unsaved:
                    tended = self._unsaved.popleft()
                    if not tended.node_work.is_saved():
                        with self._lock:
                            if tended.begin("save"):
                                return partial(self._save, tended)
                time.sleep(SAVE_EVERY_S)
                with self._lock:
                    self._unsaved.extend(self._tended.values())
        return None

    def _save(self, tended: HostedNode) -> None:
        try:
            tended.node_work.save()
        finally:
            with self._lock:
                tended.end("save")


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
