"""When to send a snapshot to nodes that need one: at once, but with a back-off for nodes that it does not help.

A node that is out of sync gets a snapshot, and is in sync then. A node that cannot take it (it is too heavy, or was
damaged on its way) needs another one as soon as it has read past it. The first snapshot is sent at once. For nodes that
got one and are no better off the next is sent after a pause, which doubles each time.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..format.ids import Writer
from .heartbeat import Heartbeat

__all__ = ["Need"]

#: The pause between two snapshots for the same nodes: the first, and the longest.
PAUSE_S = 1.0
PAUSE_S_MAX = 60.0


class Need:
    """What the primary remembers of the nodes for which it sent a snapshot."""

    def __init__(self) -> None:
        self._served: frozenset[Writer] = frozenset()
        self._pause_s = PAUSE_S
        self._sent_at = 0.0

    def is_due(self, needy: Iterable[Heartbeat], heartbeats: Iterable[Heartbeat], now_s: float) -> bool:
        """Whether to send a snapshot now for the `needy` nodes; `heartbeats`: those of all nodes."""
        self._served &= {Writer(heartbeat.node, heartbeat.boot) for heartbeat in heartbeats if not heartbeat.in_sync}
        wants = {Writer(heartbeat.node, heartbeat.boot) for heartbeat in needy}
        if not wants:
            return False
        return not wants <= self._served or now_s >= self._sent_at + self._pause_s

    def sent(self, needy: Iterable[Heartbeat], now_s: float) -> None:
        """A snapshot was begun for these nodes."""
        wants = frozenset(Writer(heartbeat.node, heartbeat.boot) for heartbeat in needy)
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX) if wants <= self._served else PAUSE_S
        self._served |= wants
        self._sent_at = now_s
