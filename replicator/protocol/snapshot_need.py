"""How often a snapshot is sent to the same nodes because they need one.

A node that is out of sync gets a snapshot, and is in sync then. One that cannot take it (too heavy for it, or damaged
on its way) needs another one as soon as it has read past it. The first is sent at once, whoever needs it; to those who
got one and are no better off the next is sent after a pause, and a longer one each time.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..format.ids import Writer
from .heartbeat import Heartbeat

__all__ = ["Need"]

#: Between two snapshots for the same nodes: at first, and at the most.
PAUSE_S = 1.0
PAUSE_S_MAX = 60.0


class Need:
    """What the primary remembers of those to whom it sent one."""

    def __init__(self) -> None:
        self._served: frozenset[Writer] = frozenset()
        self._pause_s = PAUSE_S
        self._sent_at = 0.0

    def is_due(self, needy: Iterable[Heartbeat], heartbeats: Iterable[Heartbeat], now_s: float) -> bool:
        """Whether one is to be sent now to those who need one; `heartbeats`: all that report."""
        self._served &= {Writer(heartbeat.node, heartbeat.boot) for heartbeat in heartbeats if not heartbeat.in_sync}
        wants = {Writer(heartbeat.node, heartbeat.boot) for heartbeat in needy}
        if not wants:
            return False
        return not wants <= self._served or now_s >= self._sent_at + self._pause_s

    def sent(self, needy: Iterable[Heartbeat], now_s: float) -> None:
        """One was begun for these."""
        wants = frozenset(Writer(heartbeat.node, heartbeat.boot) for heartbeat in needy)
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX) if wants <= self._served else PAUSE_S
        self._served |= wants
        self._sent_at = now_s
