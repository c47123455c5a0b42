"""What a log is asked, and what it answers.

`Log` is the interface that `RedisLog` and its twin in memory share; one contract suite runs over both. The answers are
plain values, which the decisions in `election.py` take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

import orjson

from replicator.errors import ConfigError, CorruptRecord

from ..format.ids import ORIGIN, TERM_MAX, ZERO_ID, Position, RecordId, Writer
from ..format.records import ChangeRecord, PartRecord, Record

__all__ = [
    "Ack",
    "Ask",
    "Batch",
    "Claim",
    "Code",
    "Confirmation",
    "Head",
    "LeaseText",
    "Log",
    "LogSize",
    "Look",
    "Peer",
    "Reply",
    "Wants",
    "lease_left_ms",
]


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
    WHOLE = "whole"


class Reply(NamedTuple):
    """An answer: `term` and `node` are the present holder's, `id` is where the record is (or what is in the way)."""

    code: Code
    term: int = 0
    node: str = ""
    id: RecordId = ZERO_ID


class Head(NamedTuple):
    """The newest record and its holder, kept in Redis beside the log and moved together with it.

    `run` is the life of Redis in which the holder took its term. `changed` is the last change in the log's history: who
    has a higher one has changes that the log lost. `ends` are those of the terms in its history. `taken`: who took
    terms by itself lately, and when (unix ms of Redis). `paused`: why nobody takes over by itself, since
    `paused_at` (unix ms of Redis); empty: automatic failover is on where nodes have it on. `snapshot_at` is the `as_of`
    of the newest complete snapshot, `previous_snapshot_at` what that was when the newest one began: the log was cut
    there, and is whole from there on. `applied_min`: the least N of the `applied:N` that were asked for in this log; 0:
    none was. `whole`: the run in which somebody led last, so there the log has all; `whole_at` (unix ms of Redis): when
    it said so last.
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
    ends: tuple[RecordId, ...] = ()
    taken: tuple[tuple[int, str], ...] = ()
    paused: str = ""
    paused_at: int = 0
    applied_min: int = 0
    whole: str = ""
    whole_at: int = 0

    @property
    def writer(self) -> Writer:
        return Writer(self.node, self.boot)


#: How many terms that nodes took by themselves the head remembers (the promote script has the same).
TAKEN_KEPT = 16

#: What a node reports that cannot digest its state: its snapshot() failed, its file is gone.
NO_DIGEST = "none"

#: A node that missed this many heartbeats in a row is taken for dead. No rule of safety depends on it.
MISSED_BEATS_MAX = 3


class Peer(NamedTuple):
    """A node as it last described itself (its heartbeat), and how long ago that was (`seen` says how that is told).

    `stalled`: why it takes nothing in any more, or cannot lead; `problem`: what is wrong with the log, or beside the
    node, or what it does without. `candidate`: it takes over by itself when the lease is gone. `log_id`: of the log
    that it follows. `synced`: the newest record that is in the state on its disk, and stays there. `snapshot_bytes`: of
    the newest snapshot that it has, as sent; `changes_bytes`: of the changes since; `kept_bytes`: of all changes that
    the log still has. `prepares`: before a switchover it wants to be asked to (`node/handover.py`); `prepared`: the ask
    that it has answered, and why not, if so. `beaten_at`: the stamp of the heartbeat, in unix ms of Redis.
    `left`: it stopped in order, and has nothing that this Redis has not. `goes_on`: it takes over in a new run whoever
    is missing. `applied_min`: as in the head, as far as this node knows, from its own settings, too. `knew`: who took
    part when the log was whole last.
    """

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
    candidate: bool = False
    log_id: str = ""
    problem: str = ""
    synced: RecordId = ZERO_ID
    snapshot_bytes: int = 0
    changes_bytes: int = 0
    kept_bytes: int = 0
    prepares: bool = False
    prepared: str = ""
    left: bool = False
    goes_on: bool = False
    applied_min: int = 0
    knew: tuple[str, ...] = ()
    age_ms: int = 0
    beaten_at: int = 0

    @property
    def alive(self) -> bool:
        return not self.left and self.age_ms <= MISSED_BEATS_MAX * self.every_ms

    def to_json(self) -> bytes:
        fields = self._asdict()
        del fields["age_ms"], fields["beaten_at"]
        fields.update({name: str(fields[name]) for name in ("position", "changed", "cursor", "digest_at", "synced")})
        return orjson.dumps(fields)

    @classmethod
    def seen(cls, data: bytes, *, beaten_at: int, now_ms: int) -> Peer | None:
        """A heartbeat that was stamped at `beaten_at`, seen at `now_ms`, both by the clock of Redis.

        From a stamp that is ahead by more than a beat nobody can tell how old it is. Whoever lives puts another one in
        its place within a beat, so the node is taken for one that has just died: not for one that lives, and not for
        one that was not heard of for long. Who looks again knows better (`liveness.py`).
        """
        peer = cls.from_json(data, age_ms=0)
        if peer is None:
            return None
        ahead = beaten_at - now_ms
        age_ms = max(0, -ahead) if ahead <= peer.every_ms else MISSED_BEATS_MAX * peer.every_ms + 1
        return peer._replace(beaten_at=beaten_at, age_ms=age_ms)

    @classmethod
    def from_json(cls, data: bytes, *, age_ms: int) -> Peer | None:
        """None for what is not a heartbeat: one bad entry must not hide the other nodes."""
        try:
            fields = orjson.loads(data)
            known = {name: fields[name] for name in cls._fields if name in fields}
            known["position"] = Position.parse(fields["position"])
            known["knew"] = _names(fields.get("knew", []))
            known.update({name: RecordId.parse(fields[name]) for name in ("changed", "cursor", "digest_at", "synced")})
            peer = cls(**known | {"age_ms": age_ms, "beaten_at": 0})
        except (ValueError, TypeError, KeyError, AttributeError, ConfigError):
            return None
        return peer if all(map(_is_like, peer, _SOME_PEER)) else None


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError(value)
    return tuple(value)


#: Shows of what type each field is.
_SOME_PEER = Peer("a", "a1")


def _is_like(value: object, other: object) -> bool:
    # True is an int, too.
    return type(value) is type(other) and (type(value) is not int or 0 <= value <= TERM_MAX)


class Confirmation(NamedTuple):
    """`reply`: of the renewal. `have`: how many replicas (or own disks) have everything that was written before it."""

    reply: Reply
    have: int = 0


class Look(NamedTuple):
    """All that Redis says about a group in one round trip. `term` is the effective one; no head means no log.

    `last_id` is the newest id of the stream itself: another one than the head's means that something else wrote there.
    `now_ms` is the clock of Redis. `lease_ms`: what is left of the holder's lease, never more than was asked for; None:
    none runs. `lease`: the lease itself, another text after each renewal (see `LeaseText`); empty: there is none.
    `marred`: what in the keys of the group no script of ours can have written; where that is the head, there is none in
    this look.
    """

    run: str
    term: int
    head: Head | None
    last_id: RecordId
    lease_ms: int | None
    peers: Mapping[str, Peer]
    now_ms: int = 0
    lease: str = ""
    marred: str = ""

    @property
    def same_run(self) -> bool:
        """Whether the newest term was taken in this run: if not, nobody holds it, and records may be lost."""
        return self.head is not None and self.head.run == self.run

    @property
    def is_whole(self) -> bool:
        """Whether somebody has led in this run: then the log has all that was acknowledged."""
        return self.head is not None and self.head.whole == self.run


class LeaseText(NamedTuple):
    """What stands in the lease: who holds it (`TERM NODE BOOT`), how long it is, and when it was granted.

    Redis lets it expire at a moment of its clock, so after that was set back it tells of more than was asked for. What
    was asked for bounds it. And `granted_ms`, a stamp of that clock, makes each renewal another text, so that who looks
    twice sees whether the holder renewed it, whatever the clock does.
    """

    holder: str
    length_ms: int
    granted_ms: int

    def __str__(self) -> str:
        return f"{self.holder} {self.length_ms} {self.granted_ms}"

    @classmethod
    def parse(cls, text: str) -> LeaseText | None:
        """None for one that no script of ours wrote."""
        holder, *numbers = text.rsplit(" ", 2)
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 17 for n in numbers):
            return None
        return cls(holder, *map(int, numbers))


def lease_left_ms(lease: str, expires_in_ms: int) -> int | None:
    """What is left of a lease of which Redis says that it expires so soon (below 0: it does not exist)."""
    if expires_in_ms < 0:
        return None
    known = LeaseText.parse(lease)
    return expires_in_ms if known is None else min(expires_in_ms, known.length_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a promotion asks for: the next term for `writer`, above `floor`, and what that depends on.

    `expect` (a term), `run`, `expect_head`: only if they are still so. `unleased`: only if no holder's lease runs, but
    for the one whose text is `expired`: that has run out by the clock of whoever looked, and must not be renewed since.
    `new_log_id`: found a log of this identity where there is none; with `anew`, also in the place of a broken one.
    `unfollowed`: with `anew`, the newest record of a log that looks whole, and that no node takes. `applied_min`: the
    least `applied:N` that the claimant knows to have been asked for; the head remembers it.
    """

    writer: Writer
    floor: int
    lease_ms: int
    by: str
    reason: str
    expect: int | None = None
    run: str = ""
    expect_head: RecordId | None = None
    unleased: bool = False
    expired: str = ""
    new_log_id: str = ""
    anew: bool = False
    unfollowed: RecordId | None = None
    applied_min: int = 0


class LogSize(NamedTuple):
    """How large the log is in Redis; None: not known, because this user may not ask."""

    records: int | None
    bytes: int | None


class Ask(NamedTuple):
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


class Wants(NamedTuple):
    """What to read: at most so many records behind `after` (None: none), asks and acks behind theirs (empty: none)."""

    after: RecordId | None
    asks_after: str = ""
    acks_after: str = ""
    most: int = 32


class Batch(NamedTuple):
    """What a read found: records in order, up to the first entry that is not one, and asks and acks."""

    records: list[Record]
    asks: list[Ask]
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

    def append(self, record: ChangeRecord, *, meanwhile: Callable[[], None] | None = None) -> Reply:
        """Append a change, if its writer holds the effective term and the head is at `record.prev`.

        `meanwhile` is called between request and answer, if it comes to that: for what can be got ready without it.
        """
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

    def look(self) -> Look:
        """All there is to know about the group but its records."""
        ...

    def check_rights(self) -> None:
        """Make sure that this user may do all that a node has to. Raises `LogUnavailable` that names what it may not.

        It is tried on a key that means nothing. Once it went well, nothing is asked before Redis is another run, or
        refused something.
        """
        ...

    def beat(self, peer: Peer) -> None:
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
