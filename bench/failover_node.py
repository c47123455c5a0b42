"""A group of three nodes, each in a process of its own, and clients that write to them over unix sockets.

A node here does what a service around one would do: it takes a connection, hands what comes to `Node.submit`, and
answers how that went. Two kinds of clients: a `Probe` tries one node every few milliseconds, whether it leads or not,
and notes when it was told that a write was accepted; a `Writer` writes as fast as it can to whoever leads, keeps what
was acknowledged, and goes on with the same write at another node when one was refused.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bench.harness import Child, heard, now_ns
from bench.loads import CHANGE_BYTES
from replicator import Node, ops
from replicator.errors import ReplicatorError
from replicator.format.codec import encode_change
from replicator.log.redis_log import RedisLog

__all__ = ["NAMES", "Acknowledged", "Group", "Probe", "Writer", "first_accepted"]

NAMES = ("a", "b", "c")

#: A probe tries this often: well below what is measured, and little for three nodes to do.
TRY_EVERY_S = 0.002

#: Who was refused by two nodes in a row waits this long; nobody leads then.
REFUSED_PAUSE_S = 0.001

#: What takes longer than this does not happen any more.
PATIENCE_S = 60.0

#: The kind of answer that says: committed.
ACCEPTED = "accepted"

#: A write that is answered so may be in the log: it must not be sent again.
UNKNOWN = ("OutcomeUnknown", "NotAcknowledged")


# --- the process of a node --------------------------------------------------------------------------------------------


class Tally:
    """Counts how often each write was applied. `{"id": text}` is one, `{"clear": true}` forgets all."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def snapshot(self) -> Iterable[Any]:
        return iter(sorted(self.counts.items()))

    def restore(self, pieces: Iterable[Any]) -> None:
        self.counts = dict(pieces)

    def apply(self, change: Any) -> None:
        if "clear" in change:
            self.counts = {}
        elif "id" in change:
            self.counts[change["id"]] = self.counts.get(change["id"], 0) + 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a node is told."""

    name: str
    url: str
    group: str
    data_dir: str
    #: The unix socket on which it takes writes.
    address: str
    lease_s: float
    auto_promote: bool


class Answer(NamedTuple):
    """`kind` is `ACCEPTED`, or the class of the error; `primary` whom the node takes for the primary, if it said so."""

    kind: str
    primary: str | None = None


def be_node(pipe: Connection, place: Place) -> None:
    """The process of a node: takes writes on its socket, and does what the pipe says."""
    # That Redis does not answer is an error, and here it is meant.
    logging.getLogger("replicator").setLevel(logging.CRITICAL)
    node = Node(
        Tally(),
        group=place.group,
        name=place.name,
        data_dir=place.data_dir,
        redis=place.url,
        lease_s=place.lease_s,
        auto_promote=place.auto_promote,
    )
    with node, Listener(place.address, "AF_UNIX", backlog=64) as listener:
        threading.Thread(target=_listen, args=(listener, node), daemon=True).start()
        pipe.send("ready")
        while (told := heard(pipe)) is not None:
            pipe.send(_do(node, *told))


def _listen(listener: Listener, node: Node) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return  # it was closed
        threading.Thread(target=_serve, args=(connection, node), daemon=True).start()


def _serve(connection: Connection, node: Node) -> None:
    with connection, suppress(EOFError, OSError):
        while True:
            connection.send(_submitted(node, connection.recv()))


def _submitted(node: Node, change: Any) -> Answer:
    try:
        node.submit(change)
    except ReplicatorError as error:
        return Answer(type(error).__name__, getattr(error, "primary", None))
    return Answer(ACCEPTED)


def _do(node: Node, what: str, n: int = 0) -> Any:
    if what == "promote":
        return node.promote()
    if what == "clear":
        node.submit({"clear": True})
    node.wait(n=n, timeout_s=PATIENCE_S)
    with node.reading() as tally:
        return dict(tally.counts) if what == "count" else None


# --- a group ----------------------------------------------------------------------------------------------------------


class Group:
    """Three nodes that run, of which the first one leads at first. They end as in a crash, which is quick."""

    def __init__(self, url: str, group: str, directory: Path, *, lease_s: float, auto_promote: bool = True) -> None:
        self.log = RedisLog(url, group)
        self._ends = ExitStack()
        self._ends.callback(self.log.close)
        self._addresses: dict[str, str] = {}
        self._children: dict[str, Child] = {}
        try:
            # Sockets have short paths.
            sockets = self._ends.enter_context(TemporaryDirectory(prefix="replicator-"))
            for name in NAMES:
                address = self._addresses[name] = f"{sockets}/{name}"
                place = Place(
                    name=name,
                    url=url,
                    group=group,
                    data_dir=str(directory / name),
                    address=address,
                    lease_s=lease_s,
                    auto_promote=auto_promote,
                )
                self._children[name] = child = Child(be_node, place)
                self._ends.callback(child.end)
            self._begin()
        except BaseException:
            self._ends.close()
            raise

    def _begin(self) -> None:
        for child in self._children.values():
            child.hear()
        self._children[NAMES[0]].ask(("promote",))
        self.settle()

    def settle(self) -> None:
        """Wait until somebody leads, and all the others have what it has, and said so."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_settled():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the group is not settled: {ops.status(self.log)}")
            time.sleep(0.01)

    def _is_settled(self) -> bool:
        status = ops.status(self.log)
        follow = [node for node in status.nodes if node.alive and node.in_sync and node.term == status.term]
        return status.holder is not None and status.lease_ms is not None and len(follow) == len(NAMES)

    @property
    def leader(self) -> str:
        holder = ops.status(self.log).holder
        assert holder is not None
        return holder

    def kill(self, name: str) -> None:
        self._children[name].kill()

    def clear(self) -> None:
        """Let the nodes forget what they counted."""
        self._children[self.leader].ask(("clear",))

    def counts(self) -> list[dict[str, int]]:
        """How often each write was applied: by every node, each as of the present end of the log."""
        last_id = ops.status(self.log).last_id
        assert last_id is not None
        n = int(last_id.partition("-")[2])
        return [child.ask(("count", n)) for child in self._children.values()]

    @contextmanager
    def probed(self) -> Iterator[dict[str, Probe]]:
        """A probe for each node."""
        with ExitStack() as stack:
            yield {name: stack.enter_context(Probe(address)) for name, address in self._addresses.items()}

    def writer(self, name: str) -> Writer:
        return Writer(name, self._addresses, at=self.leader)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()


# --- clients ----------------------------------------------------------------------------------------------------------


class Probe:
    """Tries to write to one node, again and again, on a thread of its own."""

    def __init__(self, address: str) -> None:
        #: Writes that were accepted, oldest first: when each was sent, and when it was answered.
        self.accepted: list[tuple[int, int]] = []
        self._ended = threading.Event()
        self._connection = Client(address, "AF_UNIX")
        self._thread = threading.Thread(target=self._try, daemon=True)
        self._thread.start()

    def _try(self) -> None:
        with suppress(EOFError, OSError):  # the node was killed
            while not self._ended.wait(TRY_EVERY_S):
                sent_ns = now_ns()
                self._connection.send({})
                if self._connection.recv().kind == ACCEPTED:
                    self.accepted.append((sent_ns, now_ns()))

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(1)  # longer only if the node hangs; then it is killed next
        if not self._thread.is_alive():
            self._connection.close()


def first_accepted(probes: Iterable[Probe], since_ns: int) -> int:
    """Wait until a write that one of the probes sent after `since_ns` was accepted; when that was.

    One that was sent before may be confirmed much later: its answer was lost, and it is found to be in the log.
    """
    probes = list(probes)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        known = [probe.accepted for probe in probes]
        after = [each[place] for each in known if (place := bisect_left(each, (since_ns, 0))) < len(each)]
        if after:
            return min(answered_ns for _, answered_ns in after)
        time.sleep(0.002)
    raise RuntimeError(f"no write was accepted within {PATIENCE_S:g} s")


class Acknowledged(NamedTuple):
    """A write that was accepted: by whom, and when its writer knew."""

    id: str
    node: str
    at_ns: int


class Writer:
    """Writes to whoever leads, each write after the answer to the one before, on a thread of its own."""

    def __init__(self, name: str, addresses: dict[str, str], *, at: str) -> None:
        self.acknowledged: list[Acknowledged] = []
        #: Writes of which nobody said whether they are in the log.
        self.unknown: list[str] = []
        self._name = name
        self._at = at
        self._ended = threading.Event()
        self._connections = {node: Client(address, "AF_UNIX") for node, address in addresses.items()}
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def _write_all(self) -> None:
        with suppress(EOFError, OSError):
            for number in count():
                if self._ended.is_set():
                    return
                self._write(f"{self._name}-{number}")

    def _write(self, id: str) -> None:
        change = _a_write(id)
        refusals = 0
        while not self._ended.is_set():
            node = self._at
            connection = self._connections[node]
            connection.send(change)
            answer: Answer = connection.recv()
            if answer.kind == ACCEPTED:
                self.acknowledged.append(Acknowledged(id, node, now_ns()))
                return
            if answer.kind in UNKNOWN:
                self.unknown.append(id)
                return
            refusals += 1
            self._at = self._other(answer, node)
            if refusals > 1:
                time.sleep(REFUSED_PAUSE_S)

    def _other(self, answer: Answer, node: str) -> str:
        if answer.kind == "LeaseLost":
            return node  # it has the term, and will have the lease
        if answer.primary in self._connections:
            return str(answer.primary)
        return random.choice(list(self._connections))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)
        for connection in self._connections.values():
            connection.close()


def _a_write(id: str) -> dict[str, str]:
    change = {"id": id, "pad": ""}
    return {**change, "pad": "x" * (CHANGE_BYTES - len(encode_change(change)))}
