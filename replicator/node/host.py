"""Many groups in one process: their nodes share a few connections and a few threads.

    with Host("redis://localhost:6379/0") as host:
        for name in tenants:
            nodes[name] = host.node(States(name), group=name, name="a", data_dir=f"data/{name}")

A node on its own has five connections and four threads, which is nothing for one group and too much for a thousand. A
host is a crew (`scheduler.py`) for any number of nodes:

- *A reader.* XREAD takes many streams: one read waits for all groups, and what comes back is handed to each. Such a
  read costs Redis and this process some microseconds a group, so it is not repeated at once when much comes in: what
  comes meanwhile comes with the next one. A node that has to catch up, or whose last read failed, is read *aside* from
  the others, a few at a time, until it is with them again.
- *Keepers.* Each node says when it wants to be looked after next; whoever is free takes the one that is due. What a
  keeper does is mostly to wait for Redis, so there are as many connections for it, and for writes, as keepers.
- *Holders.* Leases are kept apart from all that, by as many threads on connections of their own: whatever a keeper or
  a writer waits for, no other node loses its lease meanwhile, nor does this one.
- *Committers.* What asyncio tasks write (`async_writer.py`) is committed by whoever of them is free.
- *A saver* goes round.
- *A watch.* A node that takes long (a slow disk, a large restore, a name that is taken) keeps the thread that works for
  it, and no other node is to wait for that: another thread joins, and one leaves once the first is back (`Team`).

Nothing else changes: each group has its own log, term and checkpoint, and fails over by itself. Give nodes of small
groups a longer lease: a beat of each is a few round trips, whether anything happens or not.
"""

from __future__ import annotations

import heapq
import logging
import resource
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..errors import ConfigError, LogUnavailable, NoThread, ReplicatorError
from ..log.finders import is_cluster
from ..log.interface import Batch, ReadRequest
from ..log.multiplex import Alarm, read_together
from ..log.redis_log import Connections, RedisLog
from ..runtime import checks
from ..runtime.backoff import Backoff
from ..runtime.process import Owner
from ..runtime.threads import started
from ..state import ReplicatedState, State
from .duties import SAVE_EVERY_S
from .lease import LEASE_S, answer_within_s
from .node import Node
from .scheduler import NodeWork
from .worker_pool import RETRY_S, RETRY_S_MAX, TEAM_MAX, WATCH_EVERY_S, Team, submitted

__all__ = [
    "Host",
]

logger = logging.getLogger(__name__)

#: How long the reader waits for something of the groups that it reads together.
BLOCK_S = 1.0


#: One read of all groups takes Redis 3 us a group, and this process 5 us, whether much comes of it or not. So often, at
#: the most, does it begin: a change may be so much later on a standby.
READ_EVERY_S_PER_NODE = 20e-6

#: Records of one read of all groups, so that its answer stays small; but so many of each group in any case.
RECORDS_TOGETHER = 1024
RECORDS_OF_EACH_MIN = 4

#: Nodes that are read aside in one read: a record has up to 256 KiB, and Redis does nothing else while it copies.
ASIDE_AT_ONCE = 8


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
    """A crew for many nodes, each of another group, over one Redis (not a cluster: there every group may be elsewhere).

    `ha_loops`: threads that look after nodes, others that commit for tasks, and connections for each of them.
    Raises `ConfigError`. It belongs to the process that made it, as its nodes do.
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
        self._alarm = Alarm(first)
        #: Those that run are kept by their duties.
        self._nodes: weakref.WeakSet[Node] = weakref.WeakSet()
        self._tended: dict[int, _Tended] = {}
        self._closing = self._closed = False
        self._lock = threading.Lock()
        self._joined = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._keeping = _Plan("keep", self._lock)
        self._holding = _Plan("hold", self._lock)
        self._groups = count()
        #: What was read and not taken in yet.
        self._batches: deque[tuple[_Tended, Batch | ReplicatorError, bool]] = deque()
        #: Nodes that are not read together with the others.
        self._aside: deque[_Tended] = deque()
        self._asides_turn = False
        #: When all may be read again, and whether a read waits now.
        self._read_again_at = 0.0
        self._waits = False
        self._reading = threading.Lock()
        self._backoff = Backoff(RETRY_S, RETRY_S_MAX)
        self._unsaved: deque[_Tended] = deque()
        self._saving = threading.Lock()
        self._commits: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._watching = threading.Event()
        self._teams = [
            Team("reader", self._next_batch, size=1),
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
        self, state: State | ReplicatedState, *, group: str, name: str, data_dir: str | Path, **options: Any
    ) -> Node:
        """Start a node of this host; `options` are those of `Node`. Stop it by `Node.stop`, or with the host.

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
        node = Node(state, group=group, name=name, data_dir=data_dir, log=log, scheduler=self, **options)
        node.start()
        try:
            with self._lock:
                self._check_open()
                self._nodes.add(node)
        except ConfigError:
            node.stop()
            raise
        return node

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
        self._alarm.end()
        with self._lock:
            self._closed = True
            for condition in (self._keeping.changed, self._holding.changed, self._joined):
                condition.notify_all()
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

    # --- a crew ------------------------------------------------------------------------------------------------------

    def start(self, node_work: NodeWork) -> None:
        tended = _Tended(node_work)
        with self._lock:
            self._tended[id(node_work)] = tended
            for plan in (self._keeping, self._holding):
                plan.put(tended, time.monotonic())
            self._aside.append(tended)
            self._joined.notify_all()
        self._interrupt()

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
    def soon(self) -> Callable[[Callable[[], None]], None]:
        return self._commits.put

    def _begin(self, tended: _Tended, what: str) -> bool:
        """Whether one of its duties is to be done now; none is done twice at the same time. The caller has the lock."""
        if tended.gone or what in tended.busy or tended.node_work.ended():
            return False
        tended.busy.add(what)
        return True

    def _end(self, tended: _Tended, what: str) -> None:
        tended.busy.discard(what)
        if tended.gone:
            self._done.notify_all()

    # --- the keepers, and those who hold leases ----------------------------------------------------------------------

    def _next_due(self, plan: _Plan) -> Callable[[], None] | None:
        """Wait for a node that is due; None: the host was closed."""
        with self._lock:
            while not self._closed:
                tended, wait_s = plan.take(time.monotonic())
                if tended is None:
                    plan.changed.wait(wait_s)
                elif self._begin(tended, plan.duty):
                    tended.woken = tended.woken and plan is not self._keeping
                    return partial(self._do_due, plan, tended)
        return None

    def _do_due(self, plan: _Plan, tended: _Tended) -> None:
        pause_s = RETRY_S_MAX
        try:
            pause_s = tended.node_work.keep() if plan is self._keeping else tended.node_work.hold()
        finally:
            with self._lock:
                self._end(tended, plan.duty)
                if tended.gone:
                    plan.forget(tended)
                else:
                    at_once = plan is self._keeping and tended.woken
                    plan.put(tended, time.monotonic() + (0.0 if at_once else pause_s))

    # --- the reader --------------------------------------------------------------------------------------------------

    def _next_batch(self) -> Callable[[], None] | None:
        """Read until something came; None: the host was closed."""
        with self._reading:
            while not self._closed:
                while self._batches:
                    tended, batch, full = self._batches.popleft()
                    with self._lock:
                        begun = self._begin(tended, "read")
                    if begun:
                        return partial(self._hand, tended, batch, full)
                self._read()
        return None

    def _read(self) -> None:
        nodes, most, block_s = self._next_read()
        try:
            if nodes:
                self._fetch(nodes, most=most, block_s=block_s)
        finally:
            self._waits = False

    def _next_read(self) -> tuple[list[_Tended], int, float]:
        """Whom to read, how much of each, and how long to wait for it: those aside and all others in turns."""
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                aside = self._due_aside(now)
                if aside and (self._asides_turn or now < self._read_again_at):
                    self._asides_turn = False
                    return aside, RECORDS_TOGETHER, 0.0
                self._aside.extendleft(reversed(aside))
                block_s = min([BLOCK_S, *(max(0.0, each.reads_again_at - now) for each in self._aside)])
                if now < self._read_again_at:
                    self._joined.wait(self._read_again_at - now)
                elif nodes := [each for each in self._tended.values() if each.together and not each.node_work.ended()]:
                    # Who goes aside from now on finds somebody who waits, and interrupts.
                    self._asides_turn, self._waits = True, block_s > 0
                    self._read_again_at = now + len(nodes) * READ_EVERY_S_PER_NODE
                    return nodes, max(RECORDS_OF_EACH_MIN, RECORDS_TOGETHER // len(nodes)), block_s
                else:
                    self._asides_turn = True
                    self._joined.wait(block_s)
        return [], 0, 0.0

    def _due_aside(self, now: float) -> list[_Tended]:
        """The first few of those aside whose time it is, taken out. The caller has the lock."""
        due: list[_Tended] = []
        for _ in range(len(self._aside)):
            tended = self._aside.popleft()
            if tended.gone or tended.node_work.ended():
                continue
            if len(due) < ASIDE_AT_ONCE and tended.reads_again_at <= now:
                due.append(tended)
            else:
                self._aside.append(tended)
        return due

    def _fetch(self, nodes: Sequence[_Tended], *, most: int, block_s: float) -> None:
        """Read what these want, at most so many records of each, and queue what came of it."""
        reads: list[tuple[_Tended, ReadRequest]] = []
        for tended in nodes:
            wants = tended.node_work.wants()
            if wants is None:  # it could not find out, and said so
                self._put_aside(tended, tended.backoff.failed())
            else:
                tended.backoff.succeeded()
                reads.append((tended, wants))
                most = min(most, wants.most)
        logs = [(tended.log, wants._replace(most=most)) for tended, wants in reads]
        batches = read_together(self._connections[0], logs, block_s=block_s, alarm=self._alarm)
        for (tended, _), batch in zip(reads, batches, strict=True):
            self._sort(tended, batch, most)
        if batches and all(isinstance(batch, LogUnavailable) for batch in batches):
            time.sleep(self._backoff.failed())
        else:
            self._backoff.succeeded()

    def _sort(self, tended: _Tended, batch: Batch | ReplicatorError, most: int) -> None:
        if isinstance(batch, Batch) and batch.is_empty and not tended.troubled:
            tended.together = True
            return
        full = isinstance(batch, Batch) and max(len(batch.records), len(batch.asks), len(batch.acks)) >= most
        tended.together = False  # until it has taken this in
        self._batches.append((tended, batch, full))

    def _hand(self, tended: _Tended, batch: Batch | ReplicatorError, full: bool) -> None:
        pause_s = RETRY_S_MAX
        try:
            pause_s = tended.node_work.received(batch)
        finally:
            with self._lock:
                self._end(tended, "read")
            self._taken_in(tended, pause_s, full=full)

    def _taken_in(self, tended: _Tended, pause_s: float, *, full: bool) -> None:
        with self._lock:
            tended.troubled = pause_s > 0
            # If a read waits, another thread reads, and without this node.
            tended.together = not (full or tended.troubled or self._waits)
        if not tended.together:
            self._put_aside(tended, pause_s)

    def _put_aside(self, tended: _Tended, pause_s: float) -> None:
        tended.together = False
        tended.troubled = pause_s > 0
        tended.reads_again_at = time.monotonic() + pause_s
        with self._lock:
            self._aside.append(tended)
            self._joined.notify_all()
        if not pause_s:
            self._interrupt()

    def _interrupt(self) -> None:
        """Somebody is to be read who is not in the read that waits."""
        if self._waits:
            self._alarm.ring()

    # --- the saver ---------------------------------------------------------------------------------------------------

    def _next_unsaved(self) -> Callable[[], None] | None:
        """Go round until a node has something to save; None: the host was closed."""
        with self._saving:
            while not self._closed:
                while self._unsaved:
                    tended = self._unsaved.popleft()
                    if not tended.node_work.is_saved():
                        with self._lock:
                            if self._begin(tended, "save"):
                                return partial(self._save, tended)
                time.sleep(SAVE_EVERY_S)
                with self._lock:
                    self._unsaved.extend(self._tended.values())
        return None

    def _save(self, tended: _Tended) -> None:
        try:
            tended.node_work.save()
        finally:
            with self._lock:
                self._end(tended, "save")


class _Tended:
    """A node of the host."""

    def __init__(self, node_work: NodeWork) -> None:
        self.node_work = node_work
        assert isinstance(node_work.log, RedisLog)
        self.log = node_work.log
        #: Its duties that are being done, and whether it was stopped.
        self.busy: set[str] = set()
        self.gone = False
        #: Whether it was woken while it was looked after.
        self.woken = False
        #: Whether it is read together with the others.
        self.together = False
        #: What to read next could not be found out.
        self.backoff = Backoff(RETRY_S, RETRY_S_MAX)
        #: What it read last ended in an error, and until when it is left alone.
        self.troubled = False
        self.reads_again_at = 0.0


class _Plan:
    """When which node is due for one of its duties. Used under the host's lock, as `changed` is."""

    def __init__(self, duty: str, lock: threading.Lock) -> None:
        self.duty = duty
        self.changed = threading.Condition(lock)
        #: The time, the number of the entry, the node.
        self._due: list[tuple[float, int, _Tended]] = []
        self._numbers = count()
        #: The newest entry of each node: older ones do not count.
        self._newest: dict[_Tended, tuple[float, int]] = {}

    def put(self, tended: _Tended, at: float) -> None:
        number = next(self._numbers)
        self._newest[tended] = at, number
        heapq.heappush(self._due, (at, number, tended))
        self.changed.notify()

    def due_at(self, tended: _Tended) -> float:
        return self._newest[tended][0]

    def forget(self, tended: _Tended) -> None:
        self._newest.pop(tended, None)

    def take(self, now: float) -> tuple[_Tended | None, float | None]:
        """The node that is due first, if one is; else how long until one is (None: there is none)."""
        while self._due:
            at, number, tended = self._due[0]
            if self._newest.get(tended) == (at, number) and at > now:
                return None, at - now
            heapq.heappop(self._due)
            if self._newest.get(tended) == (at, number):
                return tended, None
        return None, None


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
