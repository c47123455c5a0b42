"""What a node does about a state that differs from the primary's: it says so, and becomes what the primary is.

`protocol/divergence.py` compares; `replica/divergence.py` has what is known. A standby whose state differs is not
promoted any more (`protocol/election.py`), and gives its state up: the next snapshot takes its place, and the state is
kept as a fork. That is done by itself once per log and hour. One that differs again has a reason to that no snapshot
takes away, so it stays as it is, says so, and is rebuilt if somebody asks for it (`replicator reinit`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..format.ids import ZERO_ID, RecordId
from ..protocol.divergence import Comparison, compared
from ..protocol.group import GroupView
from ..protocol.heartbeat import Heartbeat
from ..replica.replica import Replica
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce

__all__ = ["AWAITED_FOR_S", "DivergenceWatch"]

logger = EventLogger(__name__)

_ODD = Lasting(
    "state.primary_differs",
    "state.primary_agrees",
    "the primary's state no longer differs from all others",
    logging.ERROR,
)
_AGAIN = Lasting("state.differs_again", "state.rebuilt_again", "the state is rebuilt again", logging.ERROR)

#: How long a standby that differs waits for what the others say, before it takes itself for the odd one: a large state
#: is digested for seconds, and on a busy machine for longer.
AWAITED_FOR_S = 60.0


class DivergenceWatch:
    """Of one node. `me`: its own heartbeat, as it is now. Only its HA loop calls `keep`."""

    def __init__(self, replica: Replica, me: Callable[[], Heartbeat], *, wake: Callable[[], None]) -> None:
        #: The request to rebuild this node that was carried out last, and the one that is under way.
        self.reinitialised = ""
        self._asked = ""
        self._replica = replica
        self._me = me
        self._wake = wake
        self._log_once = LogOnce(logger)
        #: The marker at which this node was seen to differ, and since when.
        self._seen: tuple[RecordId, float] = (ZERO_ID, 0.0)

    def keep(self, look: GroupView) -> None:
        """Look at what the others say of their states, and act on it."""
        known, node_state = self._replica.divergence, self._replica.node_state
        if node_state.holds_term:
            known.over()  # what this node has counts
            self._asked = ""
            self._tell(compared(look))
            return
        comparison = compared(look)
        if comparison is not None:  # as of now, too, and not only as of the last beat
            me = self._me()
            comparison = compared(look._replace(heartbeats={**look.heartbeats, me.node: me}))
        self._tell(comparison)
        if comparison is not None:
            self._judge(comparison, node_state.me.node)
        self._rebuild(node_state.view.log_id, in_sync=node_state.view.in_sync)

    def _judge(self, comparison: Comparison, me: str) -> None:
        known = self._replica.divergence
        if me in comparison.alike and not known.given_up and comparison.at >= known.at:
            known.over()
        elif me in comparison.others and self._is_sure(comparison):
            known.found(comparison.at, comparison.primary)

    def _is_sure(self, comparison: Comparison) -> bool:
        """Whether it is this node that differs from the others, and not the primary."""
        now = time.monotonic()
        if self._seen[0] != comparison.at:
            self._seen = comparison.at, now
        if comparison.primary_is_odd:
            return False
        return not comparison.awaited or now - self._seen[1] >= AWAITED_FOR_S

    def _tell(self, comparison: Comparison | None) -> None:
        if comparison is None or not comparison.primary_is_odd:
            self._log_once.over("odd")
            return
        what = f"the state of the primary, {comparison.primary}, differs at {comparison.at} from that of all others"
        names = ", ".join(comparison.others)
        self._log_once.tell("odd", _ODD, f"{what} ({names}), which agree: nobody acts by himself")

    def _rebuild(self, log_id: str, *, in_sync: bool) -> None:
        known = self._replica.divergence
        if known.given_up:
            if in_sync:  # what it was to be given up for did not come on the disk, or stayed there
                self._give_up(known.given_up)
        elif self._asked:
            self.reinitialised, self._asked = self._asked, ""
        elif known.at != ZERO_ID:
            why = f"its state differed from the primary's at {known.at}"
            if not known.may_rebuild(log_id):
                what = f"{why}, again within an hour: it is not rebuilt again by itself"
                self._log_once.tell("again", _AGAIN, f"{what}; find out why, then `replicator reinit`")
                return
            self._log_once.over("again")
            known.rebuilds(log_id)
            self._give_up(why)

    def reinit(self, id_: str, *, by: str) -> None:
        """Somebody asks for this node to be rebuilt. The primary, and one that is about to lead, does not."""
        if self._give_up(f"asked by {by}"):
            self._asked = id_
            self._wake()

    def _give_up(self, why: str) -> bool:
        given_up = self._replica.give_up_state(why)
        self._wake()
        return given_up
