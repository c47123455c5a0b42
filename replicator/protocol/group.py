"""The group as the log shows it (its head, its lease, its nodes), and the answers to requests that change the log.

Plain values: the input of the decisions in `election.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ..format.ids import ZERO_ID, Position, RecordId, Writer
from .heartbeat import Heartbeat

__all__ = [
    "LEASE_MS_MAX",
    "Claim",
    "Code",
    "GroupView",
    "Head",
    "LeaseText",
    "Reply",
    "lease_left_ms",
    "lease_of",
]


class Code(Enum):
    """The first word of a script's answer. The head of each script says what it means to the caller."""

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
    OTHER_APP = "otherapp"
    SEALED = "sealed"


class Reply(NamedTuple):
    """An answer: `term` and `node` are the present holder's, `id` is the record's (or that of what is in the way).

    `app`: the application of the log, if that is in the way.
    """

    code: Code
    term: int = 0
    node: str = ""
    id: RecordId = ZERO_ID
    app: str = ""


class Head(NamedTuple):
    """The position of the newest record, and the holder of the term, kept in Redis beside the log and moved with it.

    `run`: the run of Redis in which the holder took its term. `changed`: the last change in the log's history; a node
    with a higher one has changes that the log lost. `ends`: those of the terms in its history. `snapshot_at`: the
    `as_of` of the newest complete snapshot. `previous_snapshot_at`: what that was when the newest snapshot began; the
    log was trimmed there, and is whole from there on.

    `taken`: the nodes that lately took terms by themselves, and when (unix ms of Redis). `paused`: why no node takes
    over by itself, since `paused_at` (unix ms of Redis); empty: automatic failover is on for nodes that have it on.
    `applied_min`: the least N of all `applied:N` that were asked for in this log; 0: none was. `whole`: the run in
    which a primary led last, so that the log is whole there; `whole_at` (unix ms of Redis): when it last said so.
    `app`: of which application the log is; empty: no node has said so yet.

    For people: `history_count`: how many entries the history has; `since`: when the newest term was taken (unix ms of
    Redis), 0 if that is not known; `left`: when its holder gave the lease back, 0 if it did not.
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
    app: str = ""
    sealed: bool = False
    history_count: int = 0
    since: int = 0
    left: int = 0

    @property
    def writer(self) -> Writer:
        return Writer(self.node, self.boot)


#: How many of the terms that nodes took by themselves the head remembers (the promote script has the same number).
TAKEN_KEPT = 16

#: The digest that a node reports if it cannot digest its state: its snapshot() failed, or its file is gone.
NO_DIGEST = "none"


class GroupView(NamedTuple):
    """One look at the group: all that Redis says about it in one round trip. No head means no log.

    `term`: the effective term. `last_id`: the newest id of the stream itself; if it is not the head's, something else
    wrote there. `now_ms`: the clock of Redis. `lease_ms`: what is left of the holder's lease, never more than was asked
    for; None: no lease runs. `lease`: its text, another one after each renewal (see `LeaseText`); empty: there is none.
    `marred`: what in the group's keys cannot have been written by our scripts; if that is the head, `head` is None.
    `forged`: under whose names there are heartbeats that the group's key does not vouch for; they count as none.
    `lease_is_void`: the holder has been silent for so long that no lease of its counts, whoever renews it
    (`liveness.py`).
    """

    run: str
    term: int
    head: Head | None
    last_id: RecordId
    lease_ms: int | None
    heartbeats: Mapping[str, Heartbeat]
    now_ms: int = 0
    lease: str = ""
    marred: str = ""
    forged: tuple[str, ...] = ()
    lease_is_void: bool = False

    @property
    def same_run(self) -> bool:
        """Whether the newest term was taken in this run. If not, nobody holds it, and records may be lost."""
        return self.head is not None and self.head.run == self.run

    @property
    def is_whole(self) -> bool:
        """Whether a primary has led in this run: then the log has all that was acknowledged."""
        return self.head is not None and self.head.whole == self.run


class LeaseText(NamedTuple):
    """The text of the lease: who holds it (`TERM NODE BOOT`), its length, and when it was granted.

    Redis lets the lease expire at a moment of its clock, so once that clock was set back more seems to be left than was
    asked for. `length_ms`, which was asked for, bounds that. `granted_ms`, a stamp of the same clock, makes the text of
    each renewal another one, so that a node that looks twice sees whether the holder renewed it, whatever the clock
    does.
    """

    holder: str
    length_ms: int
    granted_ms: int

    def __str__(self) -> str:
        return f"{self.holder} {self.length_ms} {self.granted_ms}"

    @classmethod
    def parse(cls, text: str) -> LeaseText | None:
        """The inverse of `str`; None for a lease that no script of ours wrote."""
        holder, *numbers = text.rsplit(" ", 2)
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 17 for n in numbers):
            return None
        return cls(holder, *map(int, numbers))


#: The longest lease that a node may have (`SECONDS_MAX` in runtime/checks.py; promote.lua has the same number).
LEASE_MS_MAX = 86_400_000


def lease_of(lease: str, head: Head | None) -> LeaseText | None:
    """The lease with this text, if it can be one: that of the holder of the term, and no longer than a lease can be.

    Anybody who can write to Redis can write a text. `head`: None if it cannot be read.
    """
    known = LeaseText.parse(lease)
    if known is None or known.length_ms > LEASE_MS_MAX:
        return None
    return known if head is None or known.holder == f"{head.term} {head.node} {head.boot}" else None


def lease_left_ms(lease: str, expires_in_ms: int, head: Head | None = None) -> int | None:
    """What is left of a lease that, as Redis says, expires in `expires_in_ms` (below 0: it does not exist).

    None, too, for a text that is no lease of the holder (`lease_of`).
    """
    known = lease_of(lease, head)
    return None if known is None or expires_in_ms < 0 else min(expires_in_ms, known.length_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a promotion asks for: the next term for `writer`, above `floor`; and the conditions for it.

    `expect` (a term), `run`, `expect_head`: only if these are unchanged. `unleased`: only if no lease of the holder
    runs (`lease_of`). The lease with the text `expired` does not count: it ran out by the clock of the node that
    looked, and a renewed lease has another text. `new_log_id`: found a log of this identity where there is none; with
    `anew`, also in the place of a broken one. `unfollowed`: with `anew`, the newest record, which no node accepts, of a
    log that looks whole.
    `misnamed`: with `anew`, the log that the head says it is, while it is `new_log_id`: the log goes on, by that name.
    `applied_min`: the least `applied:N` that, as far as the claimant knows, was asked for; the head remembers it.
    `app`: the application of the writer, which has to be that of the log; empty: it has none. `version`: the one at
    which a log begins that is founded. `skip`: the change that the writer is to go on without (`skip.py`); 0-0: none.

    For the history: `what` this promotion is (empty: what the log sees), whether it is `forced`, and how the term
    before `ended` if no lease runs (empty: nothing more is known).

    `seal`: what vouches for it in a group that has a key (`format/sealing.py`); the log that sends it sets it.
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
    misnamed: str = ""
    applied_min: int = 0
    app: str = ""
    version: int = 1
    skip: RecordId = ZERO_ID
    what: str = ""
    forced: bool = False
    ended: str = ""
    seal: str = ""
