"""What a node sees of its group: the newest look, what it remembers of those before, and how long the log is gone.

The HA loop looks once a beat, and what it saw is what the node knows of the others. Whoever needs to know more looks
for himself (`sight`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

from ..errors import LogUnavailable
from ..format.ids import Writer
from ..log.interface import Log
from ..protocol import election, missing_nodes
from ..protocol.group import GroupView
from ..protocol.liveness import SILENT_LEASES, SILENT_MS_MIN, Sight, Sightings
from .former_leases import FormerLeases
from .freshness import Freshness
from .health import Trail

__all__ = ["LOOK_AGAIN_S", "Observer"]

#: How soon one who waits for the group looks at it again, at first.
LOOK_AGAIN_S = 0.01


class Observer:
    """Of the node `me`, whose lease is `lease_s` long.

    `applied_min`: the N of `applied:N` that its own writes wait for; 0: they do not. `clock`: by which all of this is
    timed.
    """

    def __init__(
        self,
        log: Log,
        me: Writer,
        *,
        applied_min: int,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now = clock
        #: The group as it was when this was looked at, and when that was.
        self.look: GroupView | None = None
        self.looked_at = 0.0
        #: The same, with how long it may be relied on.
        self.seen: Sight | None = None
        self.trail = Trail()
        self.freshness = Freshness()
        self.former_leases = FormerLeases(me, lease_s)
        self.applied_min = applied_min
        #: What this node remembers of the group as it was when the log was whole: see `protocol/missing_nodes.py`.
        self.knew: tuple[str, ...] = ()
        self._log = log
        self._own_applied_min = applied_min
        self._sightings = Sightings(silent_ms_max=max(SILENT_MS_MIN, SILENT_LEASES * lease_s * 1000))
        self._sighting = threading.Lock()
        #: Since when Redis has no log, and how long it takes until all have reported, by the heartbeats that it had.
        self._log_lost_at: float | None = None
        self._time_to_report_s = election.time_to_report_ms(()) / 1000

    def sight(self, log: Log | None = None) -> Sight:
        """Look at the group now. What lives is told by this process' clock (`protocol/liveness.py`)."""
        return self._sight_of((log or self._log).look)

    def sight_by(self, deadline: float) -> Sight:
        """`sight`, by then. A request that hung is one too many: another one, on a new connection, may do better."""
        log = self._log.within(deadline)
        try:
            return self.sight(log)
        except LogUnavailable:
            time.sleep(max(0.0, min(LOOK_AGAIN_S, deadline - time.monotonic())))
            return self.sight(log)

    def look_again(self, judged: Callable[[GroupView], GroupView] = lambda look: look) -> GroupView:
        """Look at the group, and remember what that says. `judged`: what is to be made of a look before."""
        sight = self._sight_of(lambda: judged(self._looked()))
        look = sight.look
        self.seen, self.look, self.looked_at = sight, look, self.now()
        self.former_leases.saw(look, self.looked_at)
        if look.head is not None:
            self.trail.saw(self.looked_at, look.head.position.id)
            if look.same_run and sight.lease_until_ms is not None:
                self.freshness.saw(sight.asked_at_ms / 1000, look.head.position.id)
        self.applied_min = missing_nodes.applied_min(look, self._own_applied_min)
        if look.is_whole:
            self.knew = missing_nodes.took_part(look)
        return look

    def is_live(self, node: str) -> bool:
        """As of the newest look: see `Sight.is_live`."""
        return self.seen is not None and self.seen.is_live(node)

    def forget(self, node: str) -> None:
        """It will not come back."""
        self.knew = tuple(entry for entry in self.knew if entry.rpartition("/")[0] != node)

    def saw_log(self, look: GroupView) -> None:
        """The log is there, or there was none yet."""
        self._log_lost_at = None
        self._time_to_report_s = election.time_to_report_ms(look.heartbeats.values()) / 1000

    def missed_log(self) -> bool:
        """The log is gone. Whether all had the time to report since.

        The heartbeats went with the log: those who beat more slowly than this node must have the time to say more.
        """
        if self._log_lost_at is None:
            self._log_lost_at = self.now()
        return self.now() - self._log_lost_at >= self._time_to_report_s

    def _sight_of(self, asked: Callable[[], GroupView]) -> Sight:
        asked_at = self.now()
        look = asked()
        with self._sighting:
            now = self.now()
            self._sightings, sight = self._sightings.after(look, asked_at_ms=asked_at * 1000, now_ms=now * 1000)
        return sight

    def _looked(self) -> GroupView:
        try:
            return self._log.look()
        except LogUnavailable as unavailable:
            if unavailable.look is None:
                raise
            return cast(GroupView, unavailable.look)  # a key holds what cannot be: the node stays, and says so
