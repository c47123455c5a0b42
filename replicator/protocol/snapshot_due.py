"""When the log gets its next snapshot: the size of the log against the time that snapshots cost the primary.

A snapshot lets the log be trimmed, and a process that serves writes has to draw, compress and send it. Its cost depends
on the size of the state, its use on the bytes of the changes: for a state that compresses well, under a fast writer, a
snapshot would nearly always be under way. So two rules say when one is due, and a third keeps the log bounded whatever
they say:

 1. the changes since the newest snapshot outweigh it: over time no more bytes of snapshots are sent than of changes;
 2. a pause of many times its duration has passed since it ended: sending snapshots takes a small share of the time;
 3. but once the changes are many times as heavy as the snapshot, and many, the pause ends: the log keeps no more.

Only the boot that sent the newest snapshot knows how long it took. At the start of a boot, and on a new primary, rule 1
alone decides.
"""

from __future__ import annotations

import math

__all__ = ["NEVER", "changes_bytes_max", "snapshot_is_due"]

#: Below this, replaying changes is cheaper than any snapshot.
SNAPSHOT_DUE_BYTES_MIN = 1024 * 1024

#: A pause is this many times as long as the snapshot before it: snapshots take a 21st of the time, which is 5 %.
PAUSE_TIMES = 20

#: The shortest pause. A small state is sent in no time, and a fast writer would have it sent ten times a second.
PAUSE_S_MIN = 1.0

#: A pause ends once the changes weigh this many times the snapshot: every node that starts replays them, and Redis
#: holds them in memory.
OUTWEIGHED_TIMES_MAX = 8

#: But changes up to this size never end a pause: 120 MB of JSON may compress to 2 MB, which a fast writer outweighs
#: many times before the pause after a snapshot of so large a state is over.
OVERDUE_BYTES_MIN = 32 * 1024 * 1024

#: How long ago the newest snapshot was sent, if none was.
NEVER = math.inf


def snapshot_is_due(changes_bytes: int, snapshot_bytes: int, *, took_s: float, ago_s: float) -> bool:
    """Whether the primary is to send a snapshot now.

    `changes_bytes`: the size of the changes since the newest one, as they are in the log; `snapshot_bytes`: its own.
    `took_s`: how long the newest one that this boot sent took; `ago_s`: how long ago it ended.
    """
    if changes_bytes <= _outweighs_from(snapshot_bytes):
        return False
    return ago_s >= max(PAUSE_TIMES * took_s, PAUSE_S_MIN) or changes_bytes > changes_bytes_max(snapshot_bytes)


def changes_bytes_max(snapshot_bytes: int) -> int:
    """The most that changes after a snapshot of that size may weigh: with more, another one is due for certain."""
    return max(OUTWEIGHED_TIMES_MAX * snapshot_bytes, OVERDUE_BYTES_MIN)


def _outweighs_from(snapshot_bytes: int) -> int:
    return max(snapshot_bytes, SNAPSHOT_DUE_BYTES_MIN)
