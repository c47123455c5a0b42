"""When a node takes the term, and with which claim: unasked, when it is its turn, or when the application says so.

`protocol/election.py` decides; here it is carried out, one candidate after the other.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace

from ..format.ids import ORIGIN
from ..log.interface import Log
from ..protocol import election, promotion
from ..protocol.group import Claim, Code, GroupView, Reply
from ..protocol.heartbeat import Heartbeat
from ..protocol.node_state import NodeState
from ..protocol.takeover_reason import reason_to_go_on, reason_to_take_over
from ..replica.replica import Replica
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from .ha_policy import HaPolicy
from .lease import Lease
from .lease_keeper import LeaseKeeper
from .observer import Observer
from .release import Release

__all__ = ["Candidate"]

logger = EventLogger(__name__)

_FOUNDING = Lasting("log.refounding", "log.refounded", "the log was founded anew")
_NOT_TAKEN = Lasting("term.not_taken", "term.taken", "took the term", logging.INFO)
_HELD_BACK = Lasting("term.held_back", "term.free_to_take", "nothing holds this node back any more")

#: Candidates claim the term one after the other, this far apart, should the first one be dead, too.
CLAIM_EVERY_S = 0.05


class Candidate:
    """One node, as one that may take the term."""

    def __init__(
        self,
        log: Log,
        replica: Replica,
        policy: HaPolicy,
        lease: Lease,
        observer: Observer,
        lease_keeper: LeaseKeeper,
        release: Release,
    ) -> None:
        #: When it is this candidate's turn to claim the term, if nobody holds it.
        self.claim_at: float | None = None
        #: Since when nobody holds the term.
        self._vacant_since: float | None = None
        #: Whose lease was heard to be given back, in which term, and by whom.
        self._gave_back = "", 0, ""
        self._log = log
        self._replica = replica
        self._policy = policy
        self._lease = lease
        self._observer = observer
        self._lease_keeper = lease_keeper
        self._release = release
        self._log_once = LogOnce(logger)

    @property
    def _name(self) -> str:
        return self._replica.node_state.me.node

    def heard_vacant(self, node: str, *, by: str) -> None:
        """The holder of the term stops in order; or `by` somebody else, it has ended."""
        self._gave_back = node, self._replica.node_state.view.term, by

    def claims(self, node_state: NodeState, look: GroupView, me: Callable[[], Heartbeat]) -> bool:
        """Claim the term, if this node is to take it now, by `look` and `me`, its own heartbeat; whether it did."""
        self._tell_if_held_back(look)
        policy = self._policy
        if node_state.takes_term(
            look,
            restart_as_primary=policy.takes_term_again,
            goes_on=policy.goes_on,
            gave_up=not self._replica.divergence.is_sound,
        ):
            self.claim(reason_to_go_on(look), look)
            return True
        if self._is_its_turn(node_state, look, me):
            node, term, by = self._gave_back
            gone = reason_to_take_over(look, gave_back=node if term == look.term else "", by=by)
            self.claim(gone, look, unleased=look.same_run and not look.lease_is_void)
            return True
        return False

    def found_anew(self, look: GroupView, me: Heartbeat) -> None:
        """Found the log anew that Redis lost, if this node is the one to do that."""
        if not self._replica.node_state.refounds(me, look):
            return
        view = self._replica.node_state.view
        what = f"founding the log of group {self._log.group} anew from {view.position.id}"
        self._log_once.tell("found", _FOUNDING, what)
        self.claim("the log was lost", look, new_log_id=view.log_id)

    def claim(self, reason: str, look: GroupView, *, unleased: bool = False, new_log_id: str = "") -> None:
        """Take the term unasked. That another one was faster is no problem."""
        claim = self._new_claim(reason, look, guarded=True, unleased=unleased, new_log_id=new_log_id)
        claim = replace(claim, what="recover" if new_log_id else "")
        reply = self._lease_keeper.claim(claim)
        if reply is None:
            return
        self._vacant_since = self.claim_at = None
        if reply.code is Code.OK:
            if look.same_run and not new_log_id and not look.lease_is_void:
                # It held the term before, or no lease ran any more.
                self._observer.former_leases.took_vacant(reply.term)
            self._log_once.over("claim")
            self._log_once.over("found")
        else:
            what = f"did not get the term ({reply.code.value}): {reply.node} holds term {reply.term}"
            self._log_once.tell("claim", _NOT_TAKEN, what)

    def take_term(self, reason: str, look: GroupView, *, until: float, guarded: bool = False) -> Reply:
        """Take it because the application says so. OK, too, if this node has just taken it unasked."""
        claim = self._new_claim(reason, look, guarded=guarded, by=f"{self._name}'s application")
        reply = self._log.within(until).promote(claim)
        return reply._replace(code=Code.OK) if election.has_claimed(self._name, reply, look) else reply

    def _is_its_turn(self, node_state: NodeState, look: GroupView, me: Callable[[], Heartbeat]) -> bool:
        """Whether nobody holds the term, and this candidate is the one to claim it now."""
        look = self._without_who_gave_back(look)
        rank = node_state.election_rank(me(), look) if self._policy.auto_promote else None
        if rank is None:
            self._vacant_since = self.claim_at = None
            return False
        if self._vacant_since is None:
            self._vacant_since = self._lease.now()
        self.claim_at = self._vacant_since + rank * (CLAIM_EVERY_S if look.same_run else self._policy.beat_every_s)
        return self._lease.now() >= self.claim_at

    def _without_who_gave_back(self, look: GroupView) -> GroupView:
        """The boot whose lease was given back stops, or has ended: nobody waits for its turn, whatever it last said."""
        node, term, _ = self._gave_back
        head, heartbeat = look.head, look.heartbeats.get(node)
        if head is None or heartbeat is None or term != look.term or head.writer != (heartbeat.node, heartbeat.boot):
            return look
        return look._replace(heartbeats={**look.heartbeats, node: heartbeat._replace(candidate=False)})

    def _tell_if_held_back(self, look: GroupView) -> None:
        held = election.held_back(self._name, look)
        better = (held.better or "") if held else ""
        if held:
            self._log_once.tell("held back", _HELD_BACK, f"held back in favour of {better}: {held.reason}", kind=better)
        self._log_once.over("held back", but=better)

    def _new_claim(
        self, reason: str, look: GroupView, *, guarded: bool, unleased: bool = False, new_log_id: str = "", by: str = ""
    ) -> Claim:
        node_state = self._replica.node_state
        claim = promotion.next_claim(
            node_state.me,
            node_state.view,
            look,
            by=by or self._name,
            reason=reason,
            lease_ms=self._lease.length_ms,
            applied_min=self._observer.applied_min,
            fresh_log_id=secrets.token_hex(16),
            app=self._release.app,
            version=self._release.version if node_state.view.position == ORIGIN else node_state.view.version,
            seen_term=node_state.view.term,
            guarded=guarded,
        )
        return replace(
            claim,
            expect=claim.expect if guarded else None,  # by force it is taken from whoever has taken it since
            unleased=unleased,
            # A lease that Redis still has, and that was not renewed for as long as it is.
            expired=look.lease if look.lease_ms is None else "",
            new_log_id=new_log_id or claim.new_log_id,
        )
