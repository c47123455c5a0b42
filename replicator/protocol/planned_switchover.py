"""Whether a switchover that was asked for some time ago is still what was meant. Pure."""

from __future__ import annotations

from .group import GroupView

__all__ = ["LATE_MS_MAX", "not_as_planned"]

#: One that comes later than this after its time is not done: nobody expects it any more, and nobody may be watching.
LATE_MS_MAX = 5 * 60 * 1000


def not_as_planned(to: str, term: int, look: GroupView, *, at: int | None = None, now_ms: int = 0) -> str:
    """Why the switchover to the node `to`, asked for in `term`, is not to be done now; empty: it is.

    `at`: when it is to be done; None: at once. `now_ms`: the time by the same clock (unix ms).
    """
    if at is not None and now_ms > at + LATE_MS_MAX:
        return f"it is {(now_ms - at) / 1000:.0f} s late, as when no worker ran at its time"
    head = look.head
    if look.term != term:
        now = f"{head.node} leads now, in term {look.term}" if head is not None and head.node else "nobody leads"
        return f"it was asked for in term {term}, and {now}"
    if head is not None and head.paused:
        return f"the group is paused ({head.paused})"
    heartbeat = look.heartbeats.get(to)
    if heartbeat is None or not heartbeat.alive:
        return f"{to} does not report"
    if not heartbeat.in_sync:
        return f"{to} is not in sync"
    return ""
