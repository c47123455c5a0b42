"""Keeps the lease of a node that holds the term, takes the term, and gives the lease back: all under one lock.

Whoever is refused a renewal holds the term no more. One that holds it and can write nothing for a lease does not renew,
nor does one whose application is not alive (`vitals.py`), so that others can take over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import LogUnavailable
from ..format.ids import Position
from ..log.interface import Log
from ..protocol import election
from ..protocol.group import Claim, Code, GroupView, Reply
from ..protocol.node_state import NodeState
from ..replica.replica import Replica
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce, duration
from .lease import Lease
from .observer import Observer
from .problems import UNHEALTHY, CannotLead, Problems

__all__ = ["LeaseKeeper"]

logger = EventLogger(__name__)

_LOST = Lasting("lease.lost", "lease.held", "takes writes again")

#: A holder that has to bring its state into the log first, and gets nowhere for so long, and for a lease, lets others
#: try. Even a busy machine begins within that.
STUCK_S = 2.0


class LeaseKeeper:
    """Of one node."""

    def __init__(self, log: Log, replica: Replica, lease: Lease, problems: Problems, observer: Observer) -> None:
        #: Why its snapshot does not get into the log, without which it does not lead; empty: it does, or is not due.
        self.why_not_led = ""
        self._log = log
        self._replica = replica
        self._lease = lease
        self._problems = problems
        self._observer = observer
        self._log_once = LogOnce(logger)
        #: The term in which it said that it leads, and when; 0: it does not.
        self._led_in = 0
        self._led_since = 0.0
        #: Where this node was, and when, as it last got on with what it does as holder of the term.
        self._got_on: tuple[Position, float] | None = None
        #: Held while this node takes or renews its lease, or ends its part: after the end it has none.
        self._leasing = threading.Lock()
        self._ended = False

    def talks_to(self, look: GroupView) -> None:
        """The node talks to the Redis of this look, unless it has ended its part."""
        with self._leasing:
            if not self._ended:
                self._replica.known.talks_to(look.run, log_lost=look.head is None)

    def claim(self, claim: Claim) -> Reply | None:
        """Take the term unasked. None: this node has ended its part."""
        with self._leasing:
            if self._ended:
                return None
            return self._log.promote(claim)

    def renew(self) -> None:
        """Keep the lease, if there is one to keep."""
        with self._leasing:
            self._tell()  # a lease that ran out while nobody looked may be refused now, which is another story
            try:
                self._renew()
            finally:
                self._tell()

    def _tell(self) -> None:
        """Say that this node leads, that its lease ran out or was given up, and that another node leads."""
        view, holds_term = self._replica.node_state.view, self._replica.node_state.holds_term
        if self._replica.node_state.is_primary and self._lease.held:
            self._log_once.over("lease")
            if view.term != self._led_in:
                self._led_in, self._led_since = view.term, self._lease.now()
                logger.info("node.leads", "leads in term %d, and takes writes", view.term, term=view.term)
        elif self._led_in and view.holder.node != self._replica.node_state.me.node:
            led_s = self._lease.now() - self._led_since
            self._log_once.forget("lease")
            text = "leads no more: %s holds term %d; led in term %d for %s"
            logger.info(
                "node.stands_by",
                text,
                view.holder.node,
                view.term,
                self._led_in,
                duration(led_s),
                holder=view.holder.node,
            )
            self._led_in = 0
        elif view.term == self._led_in and holds_term and not self._lease.held:
            self._log_once.tell("lease", _LOST, f"takes no writes: {self._why_lost}", kind="lost")

    @property
    def _why_lost(self) -> str:
        given_up = self._problems.get("lead") or self._problems.get(UNHEALTHY)
        if given_up is not None:
            return f"the lease was given up: {given_up}"
        away = "redis" in self._problems.by_part
        why = "Redis did not answer" if away else "this process was held up, or Redis did not answer"
        return f"the lease of {self._lease.length_s:g} s ran out and was not renewed ({why})"

    def end(self, before: Callable[[], None], *, gives_back: bool = True) -> None:
        """Give the lease back, and never have one again. Who looks after other nodes as well may be in a round.

        `before` is called first of all, so that who hears of the lease knows why it was given back. `gives_back`:
        False: let it run out.
        """
        with self._leasing:
            self._ended = True
            node_state = self._replica.node_state
            before()
            try:
                if gives_back and node_state.holds_term and self._lease.held:
                    self._log.give_back(node_state.me, node_state.view.term)
            except LogUnavailable as unavailable:
                logger.warning(
                    "lease.not_returned", "the lease was not given back and runs out by itself: %s", unavailable
                )
            self._lease.lost()

    def _renew(self) -> None:
        node_state = self._replica.node_state
        if not node_state.holds_term:
            self._problems.solved("lead")
            self._got_on = None
            return
        if self._replica.stalled:
            self._got_on = None  # once it is not, it begins anew: how long it was stalled does not count
            self._see_who_replaced_it(node_state)
            return
        if self._problems.get(UNHEALTHY) is not None or self._is_stuck(node_state):
            self._lease.lost()
            self._see_who_replaced_it(node_state)
            return
        asked_at = self._lease.now()
        reply = self._log.renew(node_state.me, node_state.view.term, self._lease.length_ms)
        if reply.code is Code.OK:
            self._lease.renewed(asked_at)
            with self._replica.known.moved:
                self._replica.known.moved.notify_all()
            return
        self._lease.lost()
        if reply.code is Code.FENCED:
            self._replica.counters.fenced["renew"] += 1
        if self._is_over(node_state, reply):
            self._replica.known.refused(reply)
            text = "the lease was refused (%s): %s holds term %d"
            logger.debug("lease.refused", text, reply.code.value, reply.node, reply.term)

    def _see_who_replaced_it(self, node_state: NodeState) -> None:
        """A holder that does not renew is refused by nobody, and reads nothing: it has to see that its term is over."""
        look = self._observer.look
        if look is not None and look.term > node_state.view.term:
            self._lease.lost()
            self._replica.known.refused(Reply(Code.FENCED, term=look.term))

    def _is_over(self, node_state: NodeState, reply: Reply) -> bool:
        """Whether a refusal ends the term. A head that somebody damaged refuses everybody, until it is put right."""
        if reply.code not in (Code.FENCED, Code.LOST):
            return True
        look = self._log.look()
        return look.head is None or look.term != node_state.view.term or look.head.writer != node_state.me

    def _is_stuck(self, node_state: NodeState) -> bool:
        """Whether it holds the term and can write nothing, so that it must not keep others from taking over.

        A rebase of a large state takes long, and goes on meanwhile: what counts is that nothing moves for a lease.
        """
        now, place = self._lease.now(), node_state.view.position
        if node_state.is_primary or self._got_on is None or self._got_on[0] != place:
            self._got_on = place, now
        look = self._observer.look
        # That the log is gone altogether, the answer to a renewal says.
        why = election.broken(look) if look is not None and (look.head is not None or look.marred) else ""
        if not why and now - self._got_on[1] > max(self._lease.length_s, STUCK_S):
            why = self.why_not_led or "its state does not get into the log"
        self._tell_if_stuck(node_state.view.term, why)
        return why != ""

    def _tell_if_stuck(self, term: int, why: str) -> None:
        if why:
            self._problems.report("lead", CannotLead(term=term, problem=why))
        else:
            self._problems.solved("lead")
