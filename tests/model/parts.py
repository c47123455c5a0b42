"""What a small world is made of: nodes, disks, requests on their way, what clients were told; and all that in words."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from replicator.format.ids import ZERO_ID, RecordId, Writer
from replicator.format.records import PartRecord, Record, TermRecord
from replicator.protocol.fold import View
from replicator.protocol.group import Code, Reply
from replicator.protocol.node_state import NodeState, Snapshot
from replicator.protocol.write_outcome import PendingWrite

T = TypeVar("T")

NAMES = ("a", "b", "c")
LETTERS = "xyzw"

#: What somebody else writes. Nobody ever has it.
FORGED = b"?"


class Breach(Exception):
    """A guarantee does not hold. `steps`: what led there, as far as the one who raises it knows."""

    def __init__(self, what: str, *steps: str) -> None:
        super().__init__(what)
        self.steps = steps


class Bounds(NamedTuple):
    """How much may happen. `parts`: of a snapshot. `resends`: how often an unanswered write is repeated.

    `late`: a request may reach a Redis of a later run than its connection was made in; else connections end with a run.
    `keyed`: all changes are attempts at one, with one key (`keys.py`).
    `expects`: a tool promotes only if the term is still the one that it looked at. `forgeries`: how often somebody else
    writes numbers into Redis that no script can have come to. `drifts`: how often the state of a node that does not
    lead turns out to be another one than it should be, and is given up. `poison`: the nodes whose code fails at the
    first change, as bits (1: a, 2: b, 4: c); `cures`: how often one of them restarts with code that can apply it;
    `skips`: how often the tool has the group go on without it; `forced`: also if a node has applied it.
    """

    changes: int = 1
    promotions: int = 1
    crashes: int = 0
    failovers: int = 0
    snapshots: int = 0
    parts: int = 1
    resends: int = 1
    late: bool = False
    expects: bool = True
    nodes: int = 2
    forgeries: int = 0
    keyed: bool = False
    drifts: int = 0
    poison: int = 0
    cures: int = 0
    skips: int = 0
    forced: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES[: self.nodes]

    @property
    def waits(self) -> int:
        """For how many standbys each change waits."""
        return 1 if self.nodes > 2 else 0


class Budget(NamedTuple):
    """What of the bounds is left."""

    changes: int
    promotions: int
    crashes: int
    failovers: int
    snapshots: int
    forgeries: int = 0
    drifts: int = 0
    cures: int = 0
    skips: int = 0


class Disk(NamedTuple):
    """A checkpoint: the view, the state, the parts of a snapshot so far, and who wrote it."""

    view: View
    state: str
    parts: tuple[bytes, ...]
    boot: str


class Write(NamedTuple):
    """The write that a node has under way, the runs that it was sent in first and last, and the answer if it came."""

    pending: PendingWrite
    rebase: bool
    run: str
    attempt: int
    reply: Reply | None
    last_run: str

    @property
    def record(self) -> Record:
        return self.pending.record


class Sending(NamedTuple):
    """A snapshot under way, at its writer."""

    snapshot: Snapshot
    bodies: tuple[bytes, ...]
    part: int


class Node(NamedTuple):
    """A node: what it has in memory, and what would be left of it after a crash. `node_state` is None while it is
    down. `queued`: changes that wait for their turn. `gave_up`: its state is not what it should be, and the next
    snapshot is to take its place. `fails_at`: the change at which its code fails; `stalled_at`: at which record it
    stalled; `unfit`: it had stalled when it gave its state up."""

    name: str
    boots: int
    node_state: NodeState | None
    state: str
    parts: tuple[bytes, ...]
    disk: Disk
    write: Write | None = None
    sending: Sending | None = None
    queued: str = ""
    gave_up: bool = False
    fails_at: str = ""
    stalled_at: RecordId = ZERO_ID
    unfit: bool = False

    @property
    def live(self) -> NodeState:
        assert self.node_state is not None
        return self.node_state


class Send(NamedTuple):
    """An append, or one part of a snapshot, on its way."""

    run: str
    record: Record
    rebase: bool
    attempt: int


class Promote(NamedTuple):
    """A promotion on its way. `expect` is None if a tool sent it. `anew`: it mends a log that is broken.
    `skip`: the change that the group goes on without."""

    writer: Writer
    floor: int
    run: str
    expect: int | None
    head: RecordId | None
    anew: bool = False
    skip: RecordId = ZERO_ID


Request = Send | Promote


class Ack(NamedTuple):
    """A change that was acknowledged: by which node, in which run, as which record; `since`: the record by which the
    log had it then, that one or a part that put it back after it was lost; `logged`: Redis has had it ever since;
    `held`: it was on the disk of the other node as well."""

    by: int
    run: str
    id: RecordId
    since: RecordId
    logged: bool
    held: bool


class Ghost(NamedTuple):
    """What only the explorer remembers. `denied`: changes whose client was told that they are not in.
    `taken`: who took which term, ever. `answers`: what clients with one key were told.
    `skipped`: the group went on without the first change."""

    acks: tuple[Ack | None, ...]
    denied: frozenset[str]
    taken: frozenset[tuple[int, str, str]]
    answers: frozenset[str] = frozenset()
    skipped: bool = False


class World(NamedTuple):
    """One state of everything: numbers of what is interned. `bag` holds the requests on their way, in order."""

    server: int
    nodes: tuple[int, ...]
    bag: tuple[int, ...]
    ghost: int
    budget: int

    def packed(self) -> bytes:
        """A third of the memory: there are millions."""
        server, nodes, bag, ghost, budget = self
        return array("I", (server, ghost, budget, len(nodes), *nodes, *bag)).tobytes()

    @classmethod
    def unpacked(cls, data: bytes) -> World:
        server, ghost, budget, count, *rest = array("I", data)
        return cls(server, tuple(rest[:count]), tuple(rest[count:]), ghost, budget)

    def with_node(self, i: int, node: int) -> World:
        return self._replace(nodes=(*self.nodes[:i], node, *self.nodes[i + 1 :]))


class Option(NamedTuple):
    """Something that one node can do: what it becomes, what it sends, what is left of the budget."""

    text: str
    node: int
    sends: int = -1
    budget: int = -1
    event: tuple[str, str, RecordId] | None = None


class Interned(Generic[T]):
    """Values and their numbers."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self.values: list[T] = []

    def __call__(self, value: T) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number

    def __getitem__(self, number: int) -> T:
        return self.values[number]

    def __len__(self) -> int:
        return len(self.values)


def say_ids(ids: Iterable[RecordId]) -> str:
    return " ".join(map(str, ids))


def say_record(record: Record) -> str:
    if isinstance(record, TermRecord):
        return f"{record.id} (the term of {record.writer})"
    if isinstance(record, PartRecord):
        return f"{record.id} (part {record.part}, {record.body.decode()!r} as of {record.as_of.id}, of {record.writer})"
    return f"{record.id} ({record.body.decode()!r} of {record.writer})"


def say(request: Request) -> str:
    if isinstance(request, Promote):
        if request.skip != ZERO_ID:
            return f"skip {request.skip} with {request.writer} in {request.run}, expecting term {request.expect}"
        expected = "" if request.expect is None else f", expecting term {request.expect}"
        return f"{'recover from' if request.anew else 'promote'} {request.writer} in {request.run}{expected}"
    kind = "part" if isinstance(request.record, PartRecord) else "append"
    again = f", attempt {request.attempt}" if request.attempt > 1 else ""
    return f"{kind}{' (rebase)' if request.rebase else ''} {say_record(request.record)} for {request.run}{again}"


def say_reply(reply: Reply) -> str:
    words = {Code.OK: f"ok {reply.id}" if reply.term else "ok", Code.FENCED: f"fenced, term {reply.term}"}
    return words.get(reply.code, reply.code.value)
