"""A small state, a group of nodes around it, and logs that fail on demand: what the tests of the shells share.

`KV` is a state as an application would write it, with two hooks for what an application gets wrong. `Group` starts
nodes over one `MemoryRedis` and ends them all. `FaultyLog` is a `MemoryLog` whose next answers a test decides.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from replicator import Node
from replicator.errors import ChangeRejected, LeaseLost, LogUnavailable, OutcomeUnknown
from replicator.format.codec import decode_changes
from replicator.format.ids import RecordId, Writer
from replicator.format.records import Record
from replicator.log.interface import Batch, Log
from replicator.protocol.group import Reply
from replicator.testing import MemoryLog, MemoryRedis

#: Long enough for a busy machine; what is waited for takes milliseconds.
PATIENCE_S = 60.0

#: What is waited for is late by a tenth of that at most, and asking is not what makes the machine busy.
POLL_S_MIN, POLL_S_MAX = 0.005, 0.1

#: Nobody loses it, however long a busy machine lets a process stand still.
LEASE_S = 60.0

#: For tests of what happens once a beat, which they await.
BEAT_S = 0.3

#: For tests that wait for its end. A busy machine costs it at any time: all else that such a test does allows for that.
SHORT_LEASE_S = 1.0


class KV:
    """`{"set": [key, value]}` gives the old value, `{"push": x}` the number of pushes, `{"reject": why}` is refused."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.pushed: list[Any] = []
        #: Called in the middle of each apply, with the change.
        self.in_apply: Callable[[Any], None] = lambda change: None
        #: Called in the middle of each restore.
        self.in_restore: Callable[[], None] = lambda: None

    def apply(self, change: Any) -> Any:
        if "reject" in change:
            raise ChangeRejected(change["reject"])
        if "push" in change:
            self.pushed.append(change["push"])
            self.in_apply(change)
            return len(self.pushed)
        key, value = change["set"]
        old = self.data.get(key)
        self.data[key] = value
        self.in_apply(change)
        self.data[f"{key}.copy"] = value
        return old

    def snapshot(self) -> Iterator[Any]:
        return iter([["pushed", list(self.pushed)], *sorted(["data", key, value] for key, value in self.data.items())])

    def restore(self, pieces: Iterable[Any]) -> None:
        data: dict[str, Any] = {}
        pushed: list[Any] = []
        for kind, *rest in pieces:
            if kind == "pushed":
                (pushed,) = rest
            else:
                data[rest[0]] = rest[1]
        self.in_restore()
        self.data, self.pushed = data, pushed


def put(key: str, value: Any) -> dict[str, Any]:
    return {"set": [key, value]}


def push(value: Any) -> dict[str, Any]:
    return {"push": value}


def document(node: Node) -> list[Any]:
    """All that the state of a node holds."""
    with node.reading() as state:
        return list(state.snapshot())


def submitted(node: Node, change: Any) -> Any:
    """Submit it, again and again while a busy machine costs the node its short lease, or the time for a connection,
    which is a share of that: nothing was written then.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return node.submit(change)
        except (LeaseLost, LogUnavailable) as error:
            if isinstance(error, OutcomeUnknown) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def pushed(node: Node) -> list[Any]:
    with node.reading() as state:
        return list(state.pushed)


def eventually(holds: Callable[[], Any], what: str = "it", *, patience_s: float = PATIENCE_S) -> Any:
    """Wait until `holds` gives something true, and give that. What takes longer is asked for less often."""
    began = time.monotonic()
    while not (found := holds()):
        waited = time.monotonic() - began
        assert waited < patience_s, f"{what} did not come true in {patience_s} s"
        time.sleep(min(POLL_S_MAX, max(POLL_S_MIN, waited / 10)))
    return found


def in_thread(work: Callable[[], Any], *, patience_s: float = PATIENCE_S) -> Callable[[], Any]:
    """Start `work` on a thread; calling what this gives waits for its result, or raises what it raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(patience_s)
        assert outcome, "the thread did not end"
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    return result


Fault = Callable[[Record], Reply]


class FaultyLog(MemoryLog):
    """Each fault is used once, by the next append or part. A fault gets the record, and gives an answer or raises."""

    def __init__(self, server: MemoryRedis, group: str = "memory") -> None:
        super().__init__(server, group)
        self.faults: deque[Fault] = deque()
        #: What was sent, faults or not.
        self.sent: list[Record] = []
        #: Renewals and everything else go on; these do not.
        self.renewals_fail = False
        self.before_renewal: Callable[[], None] = lambda: None
        #: It reads no record: it lags, and everything else goes on.
        self.deaf = False

    def append(self, record: Any) -> Reply:
        return self._send(record, lambda: super(FaultyLog, self).append(record))

    def part(self, record: Any, *, rebase: bool = False) -> Reply:
        return self._send(record, lambda: super(FaultyLog, self).part(record, rebase=rebase))

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        self.before_renewal()
        if self.renewals_fail:
            raise LogUnavailable(url=self.url, problem="renewals fail")
        return super().renew(writer, term, lease_ms)

    def _read(self, after: RecordId | None, requests_after: str, acks_after: str, count: int) -> Batch:
        # What a read that blocks does once a moment: so it is deaf, and hears again, at once.
        return super()._read(None if self.deaf else after, requests_after, acks_after, count)

    def _send(self, record: Record, go: Callable[[], Reply]) -> Reply:
        self.sent.append(record)
        if not self.faults:
            return go()
        return self.faults.popleft()(record)

    # --- faults ---

    def lose_the_request(self, record: Record) -> Reply:
        raise OutcomeUnknown(url=self.url, problem="the request was lost")

    def lose_the_answer(self, record: Record) -> Reply:
        self.execute(record)
        raise OutcomeUnknown(url=self.url, problem="the answer was lost")

    def execute(self, record: Any) -> Reply:
        return super().append(record) if record.kind == "change" else super().part(record)


class Group:
    """Nodes over one server in memory, each with its own directory below `directory`."""

    def __init__(self, directory: Path, server: MemoryRedis | None = None) -> None:
        self.directory = directory
        self.server = server or MemoryRedis()
        self.nodes: list[Node] = []
        self.runs = 1

    def log(self) -> MemoryLog:
        return MemoryLog(self.server)

    def faulty_log(self) -> FaultyLog:
        return FaultyLog(self.server)

    def node(
        self, name: str, *, state: Any = None, log: Log | None = None, data_dir: Path | None = None, **options: Any
    ) -> Node:
        """A node that was started, and has reported, or says what is in its way."""
        node = self.new_node(name, state=state, log=log, data_dir=data_dir, **options)
        node.start()
        reporter = node._running.ha_loop.reporter
        eventually(lambda: reporter.has_beaten or node.problem or node.failed, "its first heartbeat")
        return node

    def new_node(
        self, name: str, *, state: Any = None, log: Log | None = None, data_dir: Path | None = None, **options: Any
    ) -> Node:
        options = {"lease_s": LEASE_S, "group": "g"} | options
        data_dir = data_dir or self.directory / name
        state = KV() if state is None else state  # a state may well be false: an empty one
        # Tests spoil the state of one node by a class of their own, which is of the same application.
        options.setdefault("app", "kv")
        node = Node(state, name=name, log=log or self.log(), data_dir=data_dir, **options)
        self.nodes.append(node)
        return node

    def primary(self, name: str = "a", **options: Any) -> Node:
        """A node that was started and leads."""
        node = self.node(name, **options)
        node.promote(timeout_s=PATIENCE_S)
        return node

    def fail_over(self, copy: Any = None) -> None:
        """Redis comes back as another run, with what it has now or had at `copy`; all connections are new."""
        self.runs += 1
        self.server.fail_over(copy or self.server.state, run=f"run-{self.runs}")
        for node in self.nodes:
            node._setup.log.disconnect()  # type: ignore[attr-defined]

    def wake(self) -> None:
        """Have every node look at the group now, and not at its next beat."""
        self.log().request("report", by="test")

    def end_lease(self) -> None:
        """The holder's lease runs out."""
        self.server._write(lease=None)
        self.wake()

    def crash(self, node: Node) -> Path:
        """End a node as `kill -9` does: nothing is finished. Its directory, with what was in it at that instant."""
        with node._running.checkpoint._mutex:  # between two saves
            node._setup.log.down = "killed"  # type: ignore[attr-defined]
            as_left = node.data_dir.with_name(f"{node.data_dir.name}-as-left-{len(self.nodes)}")
            shutil.copytree(node.data_dir, as_left)
        node.stop()
        for path in node.data_dir.iterdir():
            if path.name != "lock":  # which stays the same file: a copy of a directory is another one
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(as_left, node.data_dir, dirs_exist_ok=True)
        shutil.rmtree(as_left)
        return node.data_dir

    def close(self) -> None:
        for node in self.nodes:
            if node._running is not None:
                node.stop()


def beats(node: Node) -> int:
    """Heartbeats since the node first saw the present run."""
    return node._running.replica.node_state.beats_in_run


def after_beats(count: int, *nodes: Node) -> None:
    """Wait until each of the nodes has sent so many more heartbeats, and done after each what it does."""
    until = [(node, beats(node) + count) for node in nodes]
    eventually(lambda: all(beats(node) >= number for node, number in until), f"{count} beats")


def forks(node: Node) -> list[Path]:
    """The histories that this node kept because the group's is another one."""
    return sorted((node.data_dir / "forks").glob("*.sqlite"))


def fork_of(node: Node) -> tuple[str, list[Any]]:
    """Of its only fork: where it parted from the group's history, and the changes that it has."""
    (path,) = forks(node)
    with contextlib.closing(sqlite3.connect(path)) as db:
        ((parted_id,),) = db.execute("SELECT value FROM meta WHERE key = 'parted_id'")
        rows = db.execute("SELECT header, body FROM change ORDER BY term, n").fetchall()
    headers = [orjson.loads(header) for header, _ in rows]
    changes = [
        change
        for header, (_, body) in zip(headers, rows, strict=True)
        for change in decode_changes(header["codec"], body, header["digest"], header["count"], id_="fork")
    ]
    return parted_id, changes


def in_step(*nodes: Node) -> None:
    """Wait until all nodes are at the same position, in sync."""
    eventually(lambda: len({node.position for node in nodes}) == 1 and all(node.in_sync for node in nodes), "one place")
