"""What a node says of itself: how far behind it is.

Unknown is unknown, never 0: a lag that was measured too long ago is no lag.
"""

from __future__ import annotations

from typing import NamedTuple

from .core.ids import Position
from .core.replies import Look, Peer

__all__ = ["Lag", "lag_as_reported", "lag_of"]


class Lag(NamedTuple):
    """`records` behind the head; `seconds`, the age of the newest applied record, 0 if nothing is missing."""

    records: int | None
    seconds: float | None


UNKNOWN = Lag(None, None)


def lag_of(position: Position, applied_at: int, look: Look | None, look_age_s: float, fresh_s: float) -> Lag:
    """The lag as of a look at Redis that is `look_age_s` old; unknown if that is more than `fresh_s`.

    A node ahead of the log (Redis lost records) has a lag that is not known either: nobody can say what it lacks.
    """
    if look is None or look.head is None or look_age_s > fresh_s:
        return UNKNOWN
    records = look.head.position.id.n - position.id.n
    if records == 0 and look.head.position.chain == position.chain:
        return Lag(0, 0.0)
    if records <= 0:
        # The look is older than what was applied since, or the histories differ.
        return Lag(0, 0.0) if position.id > look.head.position.id else UNKNOWN
    if not applied_at:
        return Lag(records, None)
    return Lag(records, max(0.0, look.now_ms / 1000 + look_age_s - applied_at / 1000))


def lag_as_reported(peer: Peer, look: Look) -> Lag:
    """The lag of a node as others see it, by its heartbeat; unknown for one that is dead, or ahead of the log."""
    head = look.head
    if head is None or not peer.alive or peer.position.id > head.position.id:
        return UNKNOWN
    records = max(0, head.position.id.n - peer.position.id.n)
    if records == 0:
        return Lag(0, 0.0)
    if not peer.applied_at:
        return Lag(records, None)
    return Lag(records, round(max(0, look.now_ms - peer.applied_at) / 1000, 3))
