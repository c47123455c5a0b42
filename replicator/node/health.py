"""What a node says of itself: how far behind it is, whether it leads, and whether it can do its work.

Unknown is unknown, never 0: a lag that was measured too long ago is no lag.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import CorruptRecord, LogLost, LogUnavailable, ReplicatorError
from ..format.ids import Position, RecordId
from ..protocol.group import GroupView
from ..protocol.heartbeat import Heartbeat
from ..protocol.liveness import Sight
from ..protocol.node_state import NodeState, role_of
from ..runtime.counted import counted
from .problems import Unhealthy

__all__ = [
    "Condition",
    "Lag",
    "Standing",
    "Trail",
    "Unready",
    "lag_as_reported",
    "lag_of",
    "standing_of",
    "why_unready",
]

#: A standby that lacks more records than this does not follow the log. It lacks some hundred when much is written.
BEHIND_RECORDS_MAX = 1000

#: Neither does one that lacks what the log had so long ago. What is read at all is applied within milliseconds.
BEHIND_S_MAX = 5.0


class Lag(NamedTuple):
    """`records` behind the head; `ms`, the age of the newest applied record, 0 if nothing is missing."""

    records: int | None
    ms: int | None


UNKNOWN = Lag(None, None)


def lag_of(
    position: Position,
    applied_at: int,
    seen: Sight | None,
    *,
    now_ms: float,
    fresh_ms: float,
    of_what_there_is: bool = False,
) -> Lag:
    """The lag as of a look at Redis; unknown if that is more than `fresh_ms` old. `now_ms`: by the clock of the look.

    Unknown, too, once the holder's lease ran out: the head of a master that was cut off, or replaced, stands still.
    `of_what_there_is`: behind that head all the same. A node ahead of the log (Redis lost records) has a lag that is
    not known either: nobody can say what it lacks.
    """
    head = seen.look.head if seen is not None else None
    if seen is None or head is None or now_ms - seen.asked_at_ms > fresh_ms:
        return UNKNOWN
    leads = seen.look.same_run and seen.lease_until_ms is not None and now_ms < seen.lease_until_ms
    if not leads and not of_what_there_is:
        return UNKNOWN
    records = head.position.id.n - position.id.n
    if records == 0 and head.position.chain == position.chain:
        return Lag(0, 0)
    if records <= 0:
        # The look is older than what was applied since, or the histories differ.
        return Lag(0, 0) if position.id > head.position.id else UNKNOWN
    if not applied_at:
        return Lag(records, None)
    return Lag(records, max(0, round(seen.look.now_ms + now_ms - seen.asked_at_ms - applied_at)))


def lag_as_reported(heartbeat: Heartbeat, look: GroupView, *, of_what_there_is: bool = False) -> Lag:
    """The lag of a node as others see it, by its heartbeat; unknown for one that is dead, or ahead of the log.

    `of_what_there_is`: as for `lag_of`.
    """
    head = look.head
    if head is None or not heartbeat.alive or heartbeat.position.id > head.position.id:
        return UNKNOWN
    if not of_what_there_is and (not look.same_run or look.lease_ms is None):
        return UNKNOWN  # a head that nobody moves is not known to be the newest
    records = max(0, head.position.id.n - heartbeat.position.id.n)
    if records == 0:
        return Lag(0, 0)
    if not heartbeat.applied_at:
        return Lag(records, None)
    return Lag(records, max(0, look.now_ms - heartbeat.applied_at))


class Trail:
    """Where the log was at the looks of which a node does not have everything yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: When it was looked at, and what the newest record was; with a beat of 1 s, of an hour.
        self._heads: deque[tuple[float, RecordId]] = deque(maxlen=3600)

    def saw(self, at: float, head: RecordId) -> None:
        with self._lock:
            if not self._heads or self._heads[-1][1] < head:
                self._heads.append((at, head))

    def behind_s(self, position: RecordId, now: float) -> float:
        """How long ago the log had what a node at this position lacks."""
        with self._lock:
            while self._heads and self._heads[0][1] <= position:
                self._heads.popleft()
            return now - self._heads[0][0] if self._heads else 0.0


class Standing(NamedTuple):
    """Whether a node is the primary by what it knows of the log, and whether it leads: `protocol/node_state.py`."""

    is_primary: bool
    leads: bool

    @property
    def role(self) -> str:
        """`"primary"` or `"standby"`."""
        return role_of(self.is_primary)


def standing_of(node_state: NodeState, *, failed: bool, stalled: bool, lease_held: bool) -> Standing:
    """The standing of a node. One that `failed` takes no part any more; one that `stalled` takes no writes."""
    is_primary = node_state.is_primary and not failed
    return Standing(is_primary, leads=is_primary and lease_held and not stalled)


class Unready(NamedTuple):
    """Why a node cannot do its work now: a code for programs, and what is in the way, in words."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What decides whether a node can do its work. `problems`: what is in its way now, worst first or not."""

    failed: ReplicatorError | None
    stopping: bool
    stalled: str
    problems: Sequence[ReplicatorError]
    standing: Standing
    in_sync: bool
    has_read: bool
    lag: Lag
    behind_s: float
    diverged: str = ""


def why_unready(now: Condition) -> Unready | None:
    """Why a node cannot do its role's work: a primary, take writes; a standby, follow the log closely. None: it can.

    What is only in the way of a primary's own disk keeps it from no write. What makes a state unfit to be shown comes
    first: a Redis that is away as well is not to hide it (`/standby`).
    """
    if now.failed is not None:
        return Unready("failed", str(now.failed))
    if now.stopping:
        return Unready("stopping", "this node stops")
    if now.stalled:
        return Unready("stalled", now.stalled)
    for problem in now.problems:
        if isinstance(problem, Unhealthy):
            return Unready("unhealthy", str(problem))
    if now.diverged and not now.standing.is_primary:
        return Unready("diverged", f"the state of this standby differs from the primary's at {now.diverged}")
    for problem in now.problems:
        if not now.standing.is_primary or isinstance(problem, _IN_THE_WAY_OF_WRITES):
            return Unready(_code_of(problem), str(problem))
    return _primary_unready(now) if now.standing.is_primary else _standby_unready(now)


#: What keeps a primary from writing.
_IN_THE_WAY_OF_WRITES = (LogUnavailable, LogLost, CorruptRecord)


def _code_of(problem: ReplicatorError) -> str:
    if isinstance(problem, LogUnavailable):
        return "log_unavailable"
    return "log_lost" if isinstance(problem, LogLost) else "problem"


def _primary_unready(now: Condition) -> Unready | None:
    if not now.standing.leads:
        return Unready("lease_lost", "this node holds the term and has no lease from Redis, so it takes no writes")
    return None


def _standby_unready(now: Condition) -> Unready | None:
    if not now.in_sync:
        what = (
            "lacks something of the log and waits for a snapshot" if now.has_read else "has read nothing of the log yet"
        )
        return Unready("out_of_sync", f"this standby {what}")
    if now.lag.records is None:
        problem = "this standby sees no log to follow, or has not seen it lately: nobody knows how far behind it is"
        return Unready("lag_unknown", problem)
    if now.lag.records > BEHIND_RECORDS_MAX or now.behind_s > BEHIND_S_MAX:
        records = counted(now.lag.records, "record")
        return Unready("behind", f"this standby is {records} behind, and has been for {now.behind_s:.0f} s")
    return None
