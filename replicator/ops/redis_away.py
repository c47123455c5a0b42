"""What whoever is on call has to know while Redis does not answer: the command line and the page say the same."""

from __future__ import annotations

__all__ = ["WHAT_HELPS"]

#: One sentence or two each: what still works, what to do, and what if it is not down at all.
WHAT_HELPS = (
    "If Redis is down, nobody may write, and no standby can take over; nodes go on serving reads, of what they have.",
    "Bring it back, with its data and not empty (its own log says why it ended): the node that led goes on by itself.",
    "If it runs, see why this machine does not reach it: `redis-cli -u URL ping`, here and beside a node.",
    "Meanwhile each node says what it knows itself: `curl NODE/primary` is 200 on the one that may write.",
)
