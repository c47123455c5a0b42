"""Nodes whose states differ at one marker of the log, though they should be equal there (G6); and whose state counts.

A node digests its state at each marker, and its heartbeat has the newest digest. Digests can be compared only at one
marker, so a node that has not reported at that of the primary, or could not draw its state, is not judged.

**The primary's state counts**: it is what clients read and what the next snapshot will be. But if two standbys or more
agree with each other and all of those that reported differ from it, the primary is the odd one. Then nobody acts by
himself: a rebuild of the others would put what is probably wrong in the place of what is probably right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..format.ids import RecordId
from .group import NO_DIGEST, GroupView
from .heartbeat import Heartbeat

__all__ = ["Comparison", "compared"]

#: So many standbys that agree with each other make the primary the odd one.
OTHERS_MIN = 2


class Comparison(NamedTuple):
    """The states of the live nodes at the primary's newest marker.

    `alike`: the standbys that have the primary's state there; `others`: those with another one, `agree`: the same
    one. `awaited`: those that follow the log and have not reported there yet.
    """

    at: RecordId
    primary: str
    alike: tuple[str, ...]
    others: tuple[str, ...]
    agree: bool
    awaited: tuple[str, ...]

    @property
    def primary_is_odd(self) -> bool:
        return len(self.others) >= OTHERS_MIN and self.agree and not self.alike


def compared(look: GroupView) -> Comparison | None:
    """None: nobody leads, or the primary has told no digest."""
    primary = _primary(look)
    if primary is None or primary.digest in ("", NO_DIGEST):
        return None
    digest, at = primary.digest, primary.digest_at
    others = [each for _, each in sorted(look.heartbeats.items()) if each.alive and each.node != primary.node]
    told = [each for each in others if each.digest_at == at and each.digest not in ("", NO_DIGEST)]

    def named(nodes: list[Heartbeat], holds: Callable[[Heartbeat], bool]) -> tuple[str, ...]:
        return tuple(each.node for each in nodes if holds(each))

    return Comparison(
        at=at,
        primary=primary.node,
        alike=named(told, lambda each: each.digest == digest),
        others=named(told, lambda each: each.digest != digest),
        agree=len({each.digest for each in told} - {digest}) == 1,
        awaited=named(others, lambda each: each.digest_at < at and each.in_sync and not each.stalled),
    )


def _primary(look: GroupView) -> Heartbeat | None:
    head = look.head
    if head is None or not look.same_run or head.term != look.term:
        return None
    holder = look.heartbeats.get(head.node)
    if holder is None or not holder.alive or (holder.boot, holder.role) != (head.boot, "primary"):
        return None
    return holder
