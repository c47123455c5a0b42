"""Which nodes are alive, and whether the lease runs: what a node concludes from repeated looks, by its own clock.

Redis stamps heartbeats with its clock, and lets a lease expire at a moment of it. That clock can be set, and after a
failover the stamps are those of another machine's clock. From a single look a node can only bound what such a stamp
says (`Heartbeat.seen`, `lease_left_ms`). A node that looks again and again does without the clock of Redis:

- A node sent a heartbeat if its stamp differs from that of the look before. The reader's own clock tells how long ago
  a stamp was first seen.
- A lease whose text is still the same was not renewed. It ends when its length has passed since it was first seen.
- A lease that is renewed, of a holder that has not reported for minutes, is not believed: anybody who can write to
  Redis can renew one, and the group would wait for ever (docs/trust.md).

So a clock that steps makes no node alive or dead, and no lease longer, for more than the heartbeat in which it steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .group import GroupView
from .heartbeat import Heartbeat

__all__ = ["SILENT_LEASES", "SILENT_MS_MIN", "Sight", "Sightings"]

#: A holder that was not heard of for so long, and for so many leases, has none. Its lease is renewed apart from its
#: heartbeats, and a disk or a look that hangs costs it no lease; after so long nobody counts it as alive any more.
SILENT_MS_MIN = 60_000
SILENT_LEASES = 3


class Sight(NamedTuple):
    """A look, with the ages of heartbeats and the rest of the lease measured by the reader's own clock.

    `asked_at_ms`: when Redis was asked. `lease_until_ms`: until when the lease runs for certain, counted from before
    Redis was asked; None: it does not run. Both by that clock. `beating`: the nodes that were seen to replace their
    heartbeat, in this boot: what somebody wrote once stays as it is.
    """

    look: GroupView
    asked_at_ms: float
    lease_until_ms: float | None
    beating: frozenset[str] = frozenset()

    def is_live(self, node: str) -> bool:
        """Whether the node lives, by more than one heartbeat: what it says that it has may count (`node/acks.py`)."""
        heartbeat = self.look.heartbeats.get(node)
        return node in self.beating and heartbeat is not None and heartbeat.alive


class _Beat(NamedTuple):
    boot: str
    stamp: int
    #: When it was sent, by the reader's clock.
    at_ms: float
    #: Whether this boot was seen with another stamp before.
    again: bool = False


class _Lease(NamedTuple):
    """A lease, which runs out between two moments: counted from before Redis was asked, and from after it answered."""

    text: str
    from_ms: float
    until_ms: float


class _Holder(NamedTuple):
    """The holder of a term, and when it was last seen to replace its heartbeat, or first seen to hold the term."""

    term: int
    boot: str
    stamp: int
    at_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sightings:
    """All that was seen so far. A value: `after` returns the next one.

    `silent_ms_max`: after so long without a heartbeat the holder has no lease.
    """

    silent_ms_max: float = SILENT_MS_MIN
    beats: Mapping[str, _Beat] = field(default_factory=dict)
    lease: _Lease | None = None
    holder: _Holder | None = None
    run: str = ""
    looked_at_ms: float = 0.0

    def after(self, look: GroupView, *, asked_at_ms: float, now_ms: float) -> tuple[Sightings, Sight]:
        """Add a look; `asked_at_ms` and `now_ms`: when it was asked for and when it came, by a monotonic clock."""
        beats = {name: self._beat(heartbeat, look, now_ms) for name, heartbeat in look.heartbeats.items()}
        holder = self._holder_of(look, now_ms)
        is_void = holder is not None and now_ms - holder.at_ms > self.silent_ms_max
        lease = None if is_void else self._lease_of(look, asked_at_ms, now_ms)
        left_ms = int(lease.until_ms - now_ms) if lease is not None and lease.until_ms > now_ms else None
        heartbeats = {
            name: heartbeat._replace(age_ms=int(now_ms - beats[name].at_ms))
            for name, heartbeat in look.heartbeats.items()
        }
        seen = replace(self, beats=beats, lease=lease, holder=holder, run=look.run, looked_at_ms=asked_at_ms)
        until_ms = lease.from_ms if lease is not None and lease.from_ms > now_ms else None
        beating = frozenset(name for name, beat in beats.items() if beat.again)
        look = look._replace(heartbeats=heartbeats, lease_ms=left_ms, lease_is_void=is_void)
        return seen, Sight(look, asked_at_ms, until_ms, beating)

    def _beat(self, heartbeat: Heartbeat, look: GroupView, now_ms: float) -> _Beat:
        known = self.beats.get(heartbeat.node)
        if known is not None and (known.boot, known.stamp) == (heartbeat.boot, heartbeat.beaten_at):
            return known
        # A stamp from the future tells nothing: the node counts as alive until it is seen to send no heartbeat.
        at_ms = now_ms - max(0, look.now_ms - heartbeat.beaten_at)
        if known is not None:
            at_ms = max(at_ms, known.at_ms)
        if self.run == look.run:
            at_ms = max(
                at_ms, self.looked_at_ms
            )  # it was sent since then; in another run the stamp may be an older one
        again = known is not None and known.boot == heartbeat.boot
        return _Beat(heartbeat.boot, heartbeat.beaten_at, at_ms, again)

    def _holder_of(self, look: GroupView, now_ms: float) -> _Holder | None:
        """Who holds the term, and since when it is silent: by what was seen here alone, and not by any stamp."""
        head = look.head
        if head is None or not look.same_run:
            return None
        heartbeat = look.heartbeats.get(head.node)
        stamp = heartbeat.beaten_at if heartbeat is not None and heartbeat.boot == head.boot else 0
        known = self.holder
        if known is None or (known.term, known.boot) != (head.term, head.boot):
            return _Holder(head.term, head.boot, stamp, now_ms)
        return known if stamp in (0, known.stamp) else known._replace(stamp=stamp, at_ms=now_ms)

    def _lease_of(self, look: GroupView, asked_at_ms: float, now_ms: float) -> _Lease | None:
        """When the lease runs out: a lease that was not renewed never ends later than was concluded before."""
        if look.lease_ms is None:
            return None
        lease = _Lease(look.lease, asked_at_ms + look.lease_ms, now_ms + look.lease_ms)
        known = self.lease
        if known is None or known.text != lease.text:
            return lease
        return _Lease(lease.text, min(known.from_ms, lease.from_ms), min(known.until_ms, lease.until_ms))
