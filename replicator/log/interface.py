"""What a log is asked, and the interface that `RedisLog` and its twin in memory share.

One contract suite (tests/integration/test_log_contract.py) runs over both. What they answer is in `protocol/group.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from replicator.errors import CorruptRecord

from ..format.ids import RecordId, Writer
from ..format.records import ChangeRecord, PartRecord, Record
from ..protocol.group import Claim, GroupView, Reply
from ..protocol.heartbeat import Heartbeat

__all__ = [
    "Ack",
    "Batch",
    "Confirmation",
    "GroupRequest",
    "Log",
    "LogSize",
    "ReadRequest",
]


class Confirmation(NamedTuple):
    """`reply`: of the renewal. `have`: how many replicas (or own disks) have everything that was written before it."""

    reply: Reply
    have: int = 0


class LogSize(NamedTuple):
    """How large the log is in Redis; None: not known, because this user may not ask."""

    records: int | None
    bytes: int | None


class GroupRequest(NamedTuple):
    """Something that a node or a tool asks of the group: `snapshot`, `digest`, `report`, `prepare`.

    Or tells it: `term` (one was taken), `vacant` (the holder stopped), `paused` (automatic failover was switched on or
    off), `forget` (a node that will not come back).
    """

    id: str
    what: str
    node: str = ""
    by: str = ""


class Ack(NamedTuple):
    """A node has everything up to record `at` on its disk."""

    node: str
    at: RecordId


class ReadRequest(NamedTuple):
    """What to read: at most so many records behind `after` (None: none), asks and acks behind theirs (empty: none)."""

    after: RecordId | None
    asks_after: str = ""
    acks_after: str = ""
    most: int = 32


class Batch(NamedTuple):
    """What a read found: records in order, up to the first entry that is not one, and asks and acks."""

    records: list[Record]
    asks: list[GroupRequest]
    corrupt: CorruptRecord | None = None
    acks: Sequence[Ack] = ()
    #: Where to go on reading acks.
    acks_after: str = ""

    @property
    def is_empty(self) -> bool:
        """Nothing was found."""
        return not (self.records or self.asks or self.acks) and self.corrupt is None


class Log(Protocol):
    """A group's log, from one node's or one tool's side.

    Every method raises `LogUnavailable` if Redis does not answer or refuses; a write raises its subclass
    `OutcomeUnknown` if the request may have got there. None of them ever sends a request twice.
    """

    group: str
    url: str

    @property
    def takes_s(self) -> float:
        """How long a call may take at the most, whatever hangs, unless it is asked to wait for something."""
        ...

    def within(self, until: float) -> Log:
        """This log, for calls that are to be over by `until` (`time.monotonic`) whatever hangs: they raise then."""
        ...

    def append(self, record: ChangeRecord) -> Reply:
        """Append a change, if its writer holds the effective term and the head is at `record.prev`."""
        ...

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        """Append one part of a snapshot, likewise. With `rebase` the first part may leave the head behind."""
        ...

    def promote(self, claim: Claim) -> Reply:
        """Take the next term for the claim's writer."""
        ...

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        """Extend the holder's lease."""
        ...

    def give_back(self, writer: Writer, term: int) -> None:
        """End the holder's lease, at a clean stop."""
        ...

    def confirm(
        self, writer: Writer, term: int, lease_ms: int, *, replicas: int, fsynced: bool, timeout_ms: int
    ) -> Confirmation:
        """Renew the lease, then wait until Redis vouches for everything written before.

        That it is on `replicas` replicas of Redis, or (`fsynced`) on Redis' own disk. Raises `ConfigError` for a
        server that cannot say so.
        """
        ...

    def pause(self, why: str) -> Reply:
        """Switch automatic failover off for the group; with an empty `why`, on again."""
        ...

    def ack(self, ack: Ack) -> None:
        """Tell the primary what this node has on its disk."""
        ...

    def read(
        self,
        after: RecordId | None,
        *,
        asks_after: str = "",
        acks_after: str = "",
        count: int = 32,
        block_ms: int | None = None,
    ) -> Batch:
        """Entries behind `after` (None: no records), asks and acks behind theirs (empty: none of them).

        Waits up to `block_ms` for the first of any.
        """
        ...

    def find(self, id: RecordId) -> Record | None:
        """The record of that id, if the log still has it. Raises `CorruptRecord`."""
        ...

    def look(self) -> GroupView:
        """All there is to know about the group but its records."""
        ...

    def check_rights(self) -> None:
        """Make sure that this user may do all that a node has to. Raises `LogUnavailable` that names what it may not.

        It is tried on a key that means nothing. Once it went well, nothing is asked before Redis is another run, or
        refused something.
        """
        ...

    def beat(self, heartbeat: Heartbeat) -> None:
        """Write this node's heartbeat. That of the primary says that the log is whole in this run.

        One that says `left` is not written in another run than its own: what Redis lost the node may have.
        """
        ...

    def forget(self, node: str, *, by: str) -> None:
        """Take the heartbeat of a node away that will not come back, and tell the others."""
        ...

    def ask(self, what: str, *, by: str, node: str = "") -> str:
        """Ask something of the group; the id of the ask."""
        ...

    def groups(self) -> list[str] | None:
        """The groups that this Redis has, sorted, as far as a second's search finds them; None: may not be asked."""
        ...

    def size(self) -> LogSize:
        """How many records the log has, and what they take of Redis' memory."""
        ...

    def newest_ask(self) -> str:
        """Where to start reading asks: older ones were for somebody else."""
        ...

    def close(self) -> None:
        """Close the connections. One that is blocked in `read` in another thread ends with `LogUnavailable`."""
        ...
