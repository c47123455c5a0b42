"""What a log is asked, and what it answers.

`Log` is the interface that `RedisLog` and its twin in memory share; one contract suite runs over both. The answers are
plain values, which the decisions in `life.py` take.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Protocol

import orjson

from replicator.errors import ConfigError, CorruptRecord

from .ids import ORIGIN, ZERO_ID, Position, RecordId, Writer
from .records import ChangeRecord, PartRecord, Record

__all__ = ["Ask", "Batch", "Code", "Head", "Log", "Look", "Peer", "Reply"]


class Code(Enum):
    """The first word of a script's answer. What each means to the caller stands in the script's own header."""

    OK = "ok"
    DUPLICATE = "duplicate"
    FENCED = "fenced"
    NEW_RUN = "newrun"
    BEHIND = "behind"
    RESTART = "restart"
    CONFLICT = "conflict"
    LOST = "lost"
    STRAY = "stray"


class Reply(NamedTuple):
    """An answer: `term` and `node` are the present holder's, `id` is where the record is (or what is in the way)."""

    code: Code
    term: int = 0
    node: str = ""
    id: RecordId = ZERO_ID


class Head(NamedTuple):
    """The newest record and its holder, kept in Redis beside the log and moved together with it.

    `run` is the life of Redis in which the holder took its term. `changed` is the last change in the log's history: who
    has a higher one has changes that the log lost. `snapshot_at` and `previous_snapshot_at` are the
    `as_of` of the two newest complete snapshots; the log is whole from `previous_snapshot_at` on.
    """

    log_id: str
    run: str
    term: int
    node: str
    boot: str
    position: Position
    changed: RecordId = ZERO_ID
    snapshot_at: RecordId = ZERO_ID
    previous_snapshot_at: RecordId = ZERO_ID
    part_next: int = 0

    @property
    def writer(self) -> Writer:
        return Writer(self.node, self.boot)


#: A node that missed this many heartbeats in a row is taken for dead. No rule of safety depends on it.
MISSED_BEATS_MAX = 3


class Peer(NamedTuple):
    """A node as it last described itself (its heartbeat), and how long ago that was by the clock of Redis."""

    node: str
    boot: str
    run: str = ""
    term: int = 0
    role: str = "standby"
    position: Position = ORIGIN
    changed: RecordId = ZERO_ID
    cursor: RecordId = ZERO_ID
    in_sync: bool = True
    every_ms: int = 1000
    http: str = ""
    applied_at: int = 0
    stalled: str = ""
    digest: str = ""
    digest_at: RecordId = ZERO_ID
    age_ms: int = 0

    @property
    def alive(self) -> bool:
        return self.age_ms <= MISSED_BEATS_MAX * self.every_ms

    def to_json(self) -> bytes:
        fields = self._asdict()
        del fields["age_ms"]
        fields.update({name: str(fields[name]) for name in ("position", "changed", "cursor", "digest_at")})
        return orjson.dumps(fields)

    @classmethod
    def from_json(cls, data: bytes, *, age_ms: int) -> Peer | None:
        """None for what is not a heartbeat: one bad entry must not hide the other nodes."""
        try:
            fields = orjson.loads(data)
            known = {name: fields[name] for name in cls._fields if name in fields}
            known["position"] = Position.parse(fields["position"])
            known.update({name: RecordId.parse(fields[name]) for name in ("changed", "cursor", "digest_at")})
            return cls(**known | {"age_ms": age_ms})
        except (ValueError, TypeError, KeyError, AttributeError, ConfigError):
            return None


class Look(NamedTuple):
    """All that Redis says about a group in one round trip. `term` is the effective one; no head means no log.

    `last_id` is the newest id of the stream itself: another one than the head's means that something else wrote there.
    `now_ms` is the clock of Redis.
    """

    run: str
    term: int
    head: Head | None
    last_id: RecordId
    lease_ms: int | None
    peers: Mapping[str, Peer]
    now_ms: int = 0


class Ask(NamedTuple):
    """Something that a node or a tool asks of the group: `term` (one was taken), `snapshot`, `digest`."""

    id: str
    what: str
    node: str = ""
    by: str = ""


class Batch(NamedTuple):
    """What a read found: records in order, up to the first entry that is not one, and asks."""

    records: list[Record]
    asks: list[Ask]
    corrupt: CorruptRecord | None = None


class Log(Protocol):
    """A group's log, from one node's or one tool's side.

    Every method raises `LogUnavailable` if Redis does not answer or refuses; a write raises its subclass
    `OutcomeUnknown` if the request may have got there. None of them ever sends a request twice.
    """

    group: str
    url: str

    def append(self, record: ChangeRecord) -> Reply:
        """Append a change, if its writer holds the effective term and the head is at `record.prev`."""
        ...

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        """Append one part of a snapshot, likewise. With `rebase` the first part may leave the head behind."""
        ...

    def promote(
        self,
        writer: Writer,
        *,
        floor: int,
        lease_ms: int,
        by: str,
        reason: str,
        expect: int | None = None,
        run: str = "",
        expect_head: RecordId | None = None,
        new_log_id: str = "",
    ) -> Reply:
        """Take the next term for `writer`. `expect` (a term), `run`, `expect_head`: only if they are still so."""
        ...

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        """Extend the holder's lease."""
        ...

    def give_back(self, writer: Writer, term: int) -> None:
        """End the holder's lease, at a clean stop."""
        ...

    def read(
        self, after: RecordId | None, *, asks_after: str = "", count: int = 32, block_ms: int | None = None
    ) -> Batch:
        """Entries behind `after` (None: no records, asks only), waiting up to `block_ms` for the first one."""
        ...

    def find(self, id: RecordId) -> Record | None:
        """The record of that id, if the log still has it. Raises `CorruptRecord`."""
        ...

    def look(self) -> Look:
        """All there is to know about the group but its records."""
        ...

    def beat(self, peer: Peer) -> None:
        """Write this node's heartbeat."""
        ...

    def ask(self, what: str, *, by: str, node: str = "") -> str:
        """Ask something of the group; the id of the ask."""
        ...

    def newest_ask(self) -> str:
        """Where to start reading asks: older ones were for somebody else."""
        ...

    def close(self) -> None:
        """Close the connections. One that is blocked in `read` in another thread ends with `LogUnavailable`."""
        ...
