"""The group as the log shows it: its head, its lease, its nodes; and the answers to what changes the log.

Plain values, which the decisions in `election.py` take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ..format.ids import ZERO_ID, Position, RecordId, Writer
from .heartbeat import Heartbeat

__all__ = [
    "Claim",
    "Code",
    "GroupView",
    "Head",
    "LeaseText",
    "Reply",
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


class GroupView(NamedTuple):
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
    heartbeats: Mapping[str, Heartbeat]
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
