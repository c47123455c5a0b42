"""When the log gets its next snapshot: what it may weigh, against what snapshots may take of the primary's time.

A snapshot lets the log be cut, and it has to be drawn, packed and sent by a process that others write through. What it
costs goes by the size of the state, what it is good for by the bytes of the changes: a state that packs well, under a
fast writer, would have one under way nearly always. So two rules say when one is due, and a third sees to it that the
log stays bounded whatever they say:

 1. the changes since the newest one outweigh it: over time no more bytes of snapshots are sent than of changes;
 2. it was followed by a pause of many times as long as it took: sending them takes a small share of the time;
 3. but once the changes are many times as heavy as it, and many, there is no pause: no more are kept for one.

What the newest one took is known to the boot that sent it. At its start, and on a new primary, rule 1 alone decides.
"""

from __future__ import annotations

import math

__all__ = ["NEVER", "changes_bytes_max", "snapshot_is_due"]

#: Below this, replaying changes is cheaper than any snapshot.
SNAPSHOT_DUE_BYTES_MIN = 1024 * 1024

#: A pause is so many times as long as what it follows: snapshots take a 21st of the time, which is 5 %.
PAUSE_TIMES = 20

#: And at least so long. A small state is sent in no time, and a fast writer would have it sent ten times a second.
PAUSE_S_MIN = 1.0

#: The changes that are kept for a pause weigh at most so many snapshots. Every node that is started replays them, and
#: Redis has them in memory.
OUTWEIGHED_TIMES_MAX = 8

#: But as much as this is kept whatever the snapshot weighs: 120 MB of JSON may pack to 2 MB, which a fast writer has
#: outweighed many times before the pause behind a snapshot of so large a state is over.
OVERDUE_BYTES_MIN = 32 * 1024 * 1024

#: How long ago a snapshot was sent that never was.
NEVER = math.inf


def snapshot_is_due(changes_bytes: int, snapshot_bytes: int, *, took_s: float, ago_s: float) -> bool:
    """Whether the primary is to send a snapshot now.

    `changes_bytes`: of the changes since the newest one, as they weigh in the log; `snapshot_bytes`: its own.
    `took_s`: how long the newest one that this boot sent took, `ago_s`: since when it is over.
    """
    if changes_bytes <= _outweighs_from(snapshot_bytes):
        return False
    return ago_s >= max(PAUSE_TIMES * took_s, PAUSE_S_MIN) or changes_bytes > changes_bytes_max(snapshot_bytes)


def changes_bytes_max(snapshot_bytes: int) -> int:
    """What changes behind a snapshot of that size weigh at the most, until another one is due for certain."""
    return max(OUTWEIGHED_TIMES_MAX * snapshot_bytes, OVERDUE_BYTES_MIN)


def _outweighs_from(snapshot_bytes: int) -> int:
    return max(snapshot_bytes, SNAPSHOT_DUE_BYTES_MIN)
