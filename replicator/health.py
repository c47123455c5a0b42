"""What a node says of itself: how far behind it is.

Unknown is unknown, never 0: a lag that was measured too long ago is no lag.
"""

from __future__ import annotations

from typing import NamedTuple

from .core.ids import Position
from .core.replies import Look, Peer
from .core.sightings import Sight

__all__ = ["Lag", "lag_as_reported", "lag_of"]


class Lag(NamedTuple):
    """`records` behind the head; `seconds`, the age of the newest applied record, 0 if nothing is missing."""

    records: int | None
    seconds: float | None


UNKNOWN = Lag(None, None)


def lag_of(position: Position, applied_at: int, seen: Sight | None, *, now_ms: float, fresh_ms: float) -> Lag:
    """The lag as of a look at Redis; unknown if that is more than `fresh_ms` old. `now_ms`: by the clock of the look.

    Unknown, too, once the holder's lease ran out: the head of a master that was cut off, or replaced, stands still. A
    node ahead of the log (Redis lost records) has a lag that is not known either: nobody can say what it lacks.
    """
    head = seen.look.head if seen is not None else None
    if seen is None or head is None or now_ms - seen.asked_at_ms > fresh_ms:
        return UNKNOWN
    if not seen.look.same_run or seen.lease_until_ms is None or now_ms >= seen.lease_until_ms:
        return UNKNOWN
    records = head.position.id.n - position.id.n
    if records == 0 and head.position.chain == position.chain:
        return Lag(0, 0.0)
    if records <= 0:
        # The look is older than what was applied since, or the histories differ.
        return Lag(0, 0.0) if position.id > head.position.id else UNKNOWN
    if not applied_at:
        return Lag(records, None)
    return Lag(records, max(0.0, (seen.look.now_ms + now_ms - seen.asked_at_ms - applied_at) / 1000))


def lag_as_reported(peer: Peer, look: Look) -> Lag:
    """The lag of a node as others see it, by its heartbeat; unknown for one that is dead, or ahead of the log."""
    head = look.head
    if head is None or not peer.alive or peer.position.id > head.position.id:
        return UNKNOWN
    if not look.same_run or look.lease_ms is None:
        return UNKNOWN  # a head that nobody moves is not known to be the newest
    records = max(0, head.position.id.n - peer.position.id.n)
    if records == 0:
        return Lag(0, 0.0)
    if not peer.applied_at:
        return Lag(records, None)
    return Lag(records, round(max(0, look.now_ms - peer.applied_at) / 1000, 3))
