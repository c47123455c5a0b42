"""The interface of a log, which `RedisLog` and its in-memory twin share, and the values that it takes and returns.

One contract suite (tests/integration/test_log_contract.py) runs over both. The answers are in `protocol/group.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from replicator.errors import CorruptRecord

from ..format.ids import RecordId, Writer
from ..format.records import ChangeRecord, PartRecord, Record
from ..protocol.group import Claim, GroupView, Reply
from ..protocol.heartbeat import Heartbeat
from ..protocol.history import HistoryEntry

if TYPE_CHECKING:
    from ..format.records import Opens

__all__ = [
    "Ack",
    "Appending",
    "Batch",
    "Confirmation",
    "GroupRequest",
    "HistoryPage",
    "Log",
    "LogSize",
    "Memory",
    "ReadRequest",
]


class Confirmation(NamedTuple):
    """`reply`: to the renewal. `have`: how many replicas (or Redis' own disk: 1) have everything written before it."""

    reply: Reply
    have: int = 0


class LogSize(NamedTuple):
    """How large the log is in Redis; None: not known, because the Redis user may not ask."""

    records: int | None
    bytes: int | None


class Memory(NamedTuple):
    """How much memory Redis uses, in bytes, and how much it may use at the most; 0: as much as there is."""

    used: int
    most: int


class GroupRequest(NamedTuple):
    """A message of a node or a tool to the group. It asks for `snapshot`, `digest`, `report`, `prepare` or `reinit`, or
    for the end of a process (`node/process_asks.py`).

    Or it announces `term` (one was taken), `vacant` (the holder stopped), `paused` (automatic failover was switched on
    or off), or `forget` (a node will not come back).
    """

    id: str
    what: str
    node: str = ""
    by: str = ""


class Ack(NamedTuple):
    """An acknowledgement: `node` has everything up to record `at` on its disk. `mac`: as it is in a log that has a key,
    what vouches for it.
    """

    node: str
    at: RecordId
    mac: str = ""


class HistoryPage(NamedTuple):
    """Entries of the history, as they were written, and the place of the last one; empty: there is none."""

    entries: list[HistoryEntry]
    end: str


class ReadRequest(NamedTuple):
    """What to read: at most `most` records after `after` (None: none); requests and acks after theirs (empty: none)."""

    after: RecordId | None
    requests_after: str = ""
    acks_after: str = ""
    most: int = 32


class Batch(NamedTuple):
    """What a read found: records in order, up to the first entry that is not one (`corrupt`), requests and acks."""

    records: list[Record]
    requests: list[GroupRequest]
    corrupt: CorruptRecord | None = None
    acks: Sequence[Ack] = ()
    #: The place after which to read acks next.
    acks_after: str = ""
    #: Of whom there were acks that the group's key does not vouch for.
    forged_acks: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        return not (self.records or self.requests or self.acks) and self.corrupt is None


class Appending(Protocol):
    """An append in two steps: entering sends the record, and `receive`, which is called at most once, gives the answer.

        with log.appending(record) as appending:
            ...  # short, and without effect: the answer may be no
            reply = appending.receive()

    Both steps raise what an append raises. Left without an answer, by an error or a Ctrl-C in between, it gives the
    connection up, and the record may be in the log. Until it is left, other writes of this log wait.
    """

    def __enter__(self) -> Appending: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def receive(self) -> Reply:
        """The answer of the log."""
        ...


class Log(Protocol):
    """A group's log, as one node or one tool uses it.

    Every method raises `LogUnavailable` if Redis does not answer, or refuses; a write raises its subclass
    `OutcomeUnknown` if the request may have reached Redis. No method ever sends a request twice.
    """

    group: str
    url: str
    #: What seals and opens the records of the group, and vouches for the rest (`format/sealing.py`); None: it has no
    #: key. Whoever copies records without looking into them has them closed.
    sealing: Opens

    @property
    def takes_s(self) -> float:
        """The longest that a call may take, whatever hangs, unless the call itself is to wait for something."""
        ...

    def within(self, until: float) -> Log:
        """This log with a deadline: calls end by `until` (`time.monotonic`), whatever hangs, and raise if need be."""
        ...

    def apart(self) -> Log:
        """Another log of the same group, with connections of its own: for who only looks on, and closes it."""
        ...

    def append(self, record: ChangeRecord) -> Reply:
        """Append a change, if its writer holds the effective term and the head is at `record.prev`."""
        ...

    def appending(self, record: ChangeRecord) -> Appending:
        """`append` in two steps, for a writer that has something to do while the log has the record."""
        ...

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        """Append one part of a snapshot, likewise. With `rebase` the first part need not follow the head."""
        ...

    def sweep(self) -> bool:
        """Delete a slice of what the newest snapshot cut from the log; whether there may be more."""
        ...

    def promote(self, claim: Claim) -> Reply:
        """Take the next term for the claim's writer."""
        ...

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        """Extend the holder's lease."""
        ...

    def give_back(self, writer: Writer, term: int, *, by: str = "") -> None:
        """End the lease of this boot, if it has one: at a clean stop; or, `by` somebody, because it has ended."""
        ...

    def confirm(
        self, writer: Writer, term: int, lease_ms: int, *, replicas: int, fsynced: bool, timeout_ms: int
    ) -> Confirmation:
        """Renew the lease, then wait until everything that was written before is safe in Redis.

        That is: on `replicas` replicas of Redis, or with `fsynced` on Redis' own disk. Raises `ConfigError` if the
        server cannot tell.
        """
        ...

    def pause(self, why: str, *, by: str = "", reason: str = "") -> Reply:
        """Switch automatic failover off for the group; with an empty `why`, on again.

        `by`, `reason`: for the history.
        """
        ...

    def ack(self, ack: Ack) -> None:
        """Tell the primary what this node has on its disk."""
        ...

    def read(
        self,
        after: RecordId | None,
        *,
        requests_after: str = "",
        acks_after: str = "",
        count: int = 32,
        block_ms: int | None = None,
    ) -> Batch:
        """Read records after `after` (None: none), requests after `requests_after` and acks after `acks_after` (empty:
        none).

        Waits up to `block_ms` for the first entry of any kind.
        """
        ...

    def find(self, id: RecordId) -> Record | None:
        """The record of that id, if the log still has it. Raises `CorruptRecord`."""
        ...

    def look(self) -> GroupView:
        """All there is to know about the group, except its records."""
        ...

    def check_rights(self) -> str:
        """Why the Redis user lets a node follow and not lead; empty: it may lead.

        Raises `LogUnavailable`, which names the missing rights, if it may not even follow. The commands are tried on a
        key that means nothing. What was found holds until Redis is in another run, or has refused something; that it
        may not lead, for a second, and longer each time, up to half a minute.
        """
        ...

    def beat(self, heartbeat: Heartbeat) -> None:
        """Write this node's heartbeat. That of the primary says that the log is whole in this run.

        A heartbeat with `left` is written only in the run that it names: in another run the node may have what Redis
        lost.
        """
        ...

    def forget(self, node: str, *, by: str, reason: str = "") -> None:
        """Remove the heartbeat of a node that will not come back, and tell the others."""
        ...

    def history(self, after: str = "", *, count: int = 1000) -> HistoryPage:
        """At most `count` entries of the history, those written after the place `after`; from the oldest one if empty.

        No entries: there are no more.
        """
        ...

    def refill_history(self, entries: Sequence[HistoryEntry], *, end: str, node: str) -> str | None:
        """Put entries back that Redis lost, as `node` does; the place of the last one. Few at a time.

        None: nothing was written, since `end` is not the place of the last entry (any more).
        """
        ...

    def request(self, what: str, *, by: str, node: str = "") -> str:
        """Ask something of the group. Return the id of the request."""
        ...

    def reinit(self, node: str, *, by: str) -> str:
        """Ask a node to be rebuilt. Return the id of the request."""
        ...

    def groups(self) -> list[str] | None:
        """The groups in this Redis, sorted, as far as a search of one second finds them; None: the user may not ask."""
        ...

    def size(self) -> LogSize:
        """How many records the log has, and how much of Redis' memory they take."""
        ...

    def memory(self) -> Memory | None:
        """How full Redis is; None: not known, because the Redis user may not ask, or it has no memory of its own."""
        ...

    def newest_request(self) -> str:
        """The place after which a new reader reads requests: older ones were meant for others."""
        ...

    def close(self) -> None:
        """Close the connections. A `read` that blocks in another thread ends with `LogUnavailable`."""
        ...
