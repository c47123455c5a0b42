"""Why a node took a term by itself, in words, for the term record. No rule depends on it.

A clean stop, a crash, a holder that could not renew its lease and a Redis that came back all leave a term without a
lease. What tells them apart is whether the holder said goodbye or fell silent, and in which run it took the term.
"""

from __future__ import annotations

from .group import GroupView
from .heartbeat import Heartbeat

__all__ = ["how_it_ended", "reason_to_go_on", "reason_to_take_over"]


def reason_to_go_on(look: GroupView) -> str:
    """Why the former holder takes the next term itself."""
    if look.same_run:
        return "it was restarted, and held the term before"
    return "Redis came back as another run, and it held the term before"


def reason_to_take_over(look: GroupView, *, gave_back: str = "", by: str = "") -> str:
    """Why a candidate takes over. `gave_back`: the node whose lease of this term was given back; `by`: by whom."""
    head = look.head
    if head is None:
        return "the group has no log yet"
    if not look.same_run:
        return f"Redis came back as another run, in which nobody leads; {head.node} held the term before"
    holder = look.heartbeats.get(head.node)
    if head.node == gave_back and by not in ("", gave_back):
        return f"{head.node} ended, as {by} saw, which gave its lease back"
    if head.left or head.node == gave_back or (holder is not None and holder.left and holder.boot == head.boot):
        return f"{head.node} stopped in order"
    if holder is None:
        return f"the lease of {head.node} ran out, and nothing is known of it"
    return f"the lease of {head.node} ran out: {_why(holder, head.boot)}"


def how_it_ended(look: GroupView) -> str:
    """How the newest term ended, if its holder has no lease any more, for the history; empty: nothing more is known."""
    head = look.head
    holder = look.heartbeats.get(head.node) if head else None
    if head is None or holder is None or not look.same_run:
        return ""
    if holder.boot != head.boot:
        return "crashed"  # and it was started again
    return "stepped down" if holder.alive and holder.age_ms <= 2 * holder.every_ms else ""


def _why(holder: Heartbeat, boot: str) -> str:
    if holder.boot != boot:
        return "it ended, and reports as another boot"
    if holder.age_ms > 2 * holder.every_ms:
        # A holder reports right after it renews its lease: one that is alive when its lease runs out has just reported.
        return f"it has not reported for {holder.age_ms / 1000:.1f} s"
    if holder.stalled:
        return f"it stalled ({holder.stalled})"
    return "it reports, and did not renew it"
