"""What is left of a process that ended: its process group, which is what it started and did not put elsewhere."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["ENDS_WITHIN_S", "left_after", "left_of"]

PROC = Path("/proc")

POLL_S = 0.005

#: What sees to the end of others needs a moment. What lives for longer, lives on.
ENDS_WITHIN_S = 1.0

#: Ended, and not yet waited for.
DEAD = ("Z", "X", "x")


def left_of(leader: int) -> list[int]:
    """The live processes of the group that this process leads, or led. Its number is not used again meanwhile.

    Without a /proc nobody tells a process from its remains: then these count as alive until somebody waits for them.
    """
    if not (PROC / "self" / "stat").exists():
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return []
        except PermissionError:
            pass
        return [leader]
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _is_live_in(leader, pid)]


def left_after(leader: int, within_s: float) -> list[int]:
    """`left_of`, once nothing is left or so much time has passed: what sees to their end needs a moment for it."""
    deadline = time.monotonic() + within_s
    while (left := left_of(leader)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def _is_live_in(group: int, pid: int) -> bool:
    with suppress(OSError, IndexError, ValueError):
        # After the name of the command, which may have anything in it: state, parent, group.
        state, _, its_group = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:3]
        return state not in DEAD and int(its_group) == group
    return False
