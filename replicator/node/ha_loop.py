"""What a node does once a beat: it looks at the group, reports, and does what it owes or may claim. And, apart from all
that, it keeps its lease (`hold`).

`protocol/election.py` decides; here it is carried out. The keeper is the only one that looks at the group as a whole,
so what it saw last (`look`) is what the node knows of the others.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, cast

from ..errors import (
    ChangeTooLarge,
    LogLost,
    LogUnavailable,
    NoThread,
    NotJSON,
    NotPrimary,
    PromotionRefused,
    ReplicatorError,
    SnapshotFailed,
    Stalled,
    StateError,
)
from ..format.codec import digest_of_pieces
from ..format.ids import Position, RecordId
from ..log.interface import Ack, Log
from ..protocol import election, missing_nodes
from ..protocol.group import NO_DIGEST, Claim, Code, GroupView, Reply
from ..protocol.heartbeat import Heartbeat
from ..protocol.liveness import Sight, Sightings
from ..protocol.node_state import NodeState
from ..protocol.snapshot_need import Need
from ..protocol.takeover_reason import reason_to_go_on, reason_to_take_over
from ..replica.replica import Replica
from ..runtime.backoff import Backoff
from ..runtime.telling import Telling
from ..runtime.threads import started
from .acks import Acks
from .handover import Handover
from .health import Trail
from .identity import Name
from .lease import Lease
from .primary import Primary
from .problems import SNAPSHOT, THREADS, CannotLead, Problems
from .state_writer import StateWriter

__all__ = ["HaLoop", "HaPolicy"]

logger = logging.getLogger(__name__)

#: Under which name it is known what was wrong with a snapshot that this node needed.
PASSED_BY = "passed by"

#: Candidates claim the term one after the other, this far apart, should the first one be dead, too.
CLAIM_EVERY_S = 0.05

#: How soon snapshot() is called again after it failed: at first, and at the most.
DRAW_AGAIN_S, DRAW_AGAIN_S_MAX = 1.0, 30.0

#: A primary that did not hear it may have been replaced; one that did takes a while.
ASK_AGAIN_AFTER_BEATS = 10
#: A holder that has to bring its state into the log first, and gets nowhere for so long, and for a lease, lets others
#: try. Even a busy machine begins within that.
STUCK_S = 2.0

#: Redis tells the rest of a lease in whole milliseconds.
ROUNDING_S = 0.002

#: How soon a snapshot is tried again that Redis did not take: at first, and at the most. A rebase waits for a beat.
PUBLISH_AGAIN_S, PUBLISH_AGAIN_S_MAX = 0.2, 10.0


class HaPolicy(NamedTuple):
    """What a node does unasked, and how often. See `Node`."""

    beat_every_s: float
    auto_promote: bool = False
    takes_term_again: bool = True
    recovers: bool = False
    #: It leads in a new run whoever is missing (protocol/missing_nodes.py).
    goes_on: bool = False
    #: The N of `applied:N` that writes wait for; 0: they do not.
    applied_min: int = 0


class HaLoop:
    """The keeper of one node. `wake`: have `keep` called soon. `stopping`: the node ends."""

    def __init__(
        self,
        log: Log,
        replica: Replica,
        primary: Primary,
        acks: Acks,
        lease: Lease,
        policy: HaPolicy,
        problems: Problems,
        own_name: Name,
        *,
        wake: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self.wake = wake
        #: Where others reach this node.
        self.http = ""
        #: The group as it was when this was looked at, and when that was (`time.monotonic`).
        self.look: GroupView | None = None
        self.looked_at = 0.0
        #: The same, with how long it may be relied on.
        self.seen: Sight | None = None
        self.trail = Trail()
        self._need = Need()
        #: Who was heard to give its lease back, and in which term.
        self._gave_back = "", 0
        #: Who asked for a snapshot that has not begun yet.
        self.snapshot_asked_by = ""
        #: What others are told of a switchover from this node.
        self.handover = Handover(wake)
        self._log = log
        self._replica = replica
        self._primary = primary
        self._acks = acks
        self._lease = lease
        self._policy = policy
        self._problems = problems
        self._own_name = own_name
        self._stopping = stopping
        self._state_writer = StateWriter(replica, problems, name=self._name)
        self._sightings = Sightings()
        self._sighting = threading.Lock()
        self._telling = Telling(logger)
        self._publisher: threading.Thread | None = None
        self._publishing = Backoff(PUBLISH_AGAIN_S, PUBLISH_AGAIN_S_MAX)
        self._drawing = Backoff(DRAW_AGAIN_S, DRAW_AGAIN_S_MAX)
        #: When the last one failed, and how long it is left alone then.
        self._publish_failed_at = self._publish_again_s = 0.0
        self._digester: threading.Thread | None = None
        self._has_beaten = False
        self._counted_at = 0.0
        #: Since when nobody holds the term, and when it is this candidate's turn to claim it.
        self._vacant_since: float | None = None
        self._claim_at: float | None = None
        self._held_back_for = ""
        #: When it asked for a snapshot.
        self._asked_at = float("-inf")
        #: Since when Redis has no log, and how long it takes until all have reported, by the heartbeats that it had.
        self._log_lost_at: float | None = None
        self._time_to_report_s = election.time_to_report_ms(()) / 1000
        self._digest: tuple[RecordId, str] | None = None
        #: What this node remembers of the group as it was when the log was whole: see `protocol/missing_nodes.py`.
        self._knew: tuple[str, ...] = ()
        self._applied_min = policy.applied_min
        #: Where this node was, and when, as it last got on with what it does as holder of the term.
        self._got_on: tuple[Position, float] | None = None
        self._why_not_led = ""
        #: Held while this node takes or renews its lease, or ends its part: behind the end it has none.
        self._leasing = threading.Lock()
        #: Held while this node reports. A renewal does not wait for that.
        self._beating = threading.Lock()
        self._ended = False

    @property
    def _name(self) -> str:
        return self._replica.node_state.me.node

    def keep(self) -> float:
        """Do it once; the seconds until it is to be done again."""
        started = time.monotonic()
        self._state_writer.keep()
        self._tell_what_it_passed_by()
        self.join()
        self._digest_marker()
        self._beat()
        self._primary.writer.settle()
        self._replica.flush()  # whether a snapshot is due is asked of what is on disk
        self._do_what_it_owes()
        return self._pause_s(started)

    def heard_vacant(self, node: str) -> None:
        """The holder of the term stops in order."""
        self._gave_back = node, self._replica.node_state.view.term
        self.wake()

    def follow(self) -> None:
        """A node that stopped leading gives up what it did not publish. The caller has the turn."""
        try:
            self._replica.follow()
        except Stalled as error:
            self._problems.report("state", error)

    def _tell_what_it_passed_by(self) -> None:
        """A node that needs a snapshot and could not take the one that came says why, until it is in sync again."""
        problem = self._replica.known.passed_by
        if problem is None:
            self._problems.solved(PASSED_BY)
        elif _what(self._problems.get(PASSED_BY)) != _what(problem):
            self._problems.report(PASSED_BY, problem)

    def _pause_s(self, started: float) -> float:
        """Until the next beat; or, for a candidate, until the holder's lease runs out, or it is its turn to claim."""
        now, look = time.monotonic(), self.look
        until = started + self._policy.beat_every_s
        if self._claim_at is not None:
            until = min(until, self._claim_at)
        elif self._policy.auto_promote and look is not None and look.lease_ms is not None:
            until = min(until, self.looked_at + look.lease_ms / 1000 + ROUNDING_S)
        return max(0.0, until - now)

    # --- looking at the group ----------------------------------------------------------------------------------------

    def sight(self, log: Log | None = None) -> Sight:
        """Look at the group now. What lives is told by this process' clock (`protocol/liveness.py`)."""
        return self._sight_of((log or self._log).look)

    def _sight_of(self, asked: Callable[[], GroupView]) -> Sight:
        asked_at = time.monotonic()
        look = asked()
        with self._sighting:
            now = time.monotonic()
            self._sightings, sight = self._sightings.after(look, asked_at_ms=asked_at * 1000, now_ms=now * 1000)
        return sight

    def join(self) -> None:
        """Look at the group, and take in what that says."""
        self._log.check_rights()
        sight = self._sight_of(self._looked)
        look = sight.look
        self.seen, self.look, self.looked_at = sight, look, time.monotonic()
        if look.head is not None:
            self.trail.saw(self.looked_at, look.head.position.id)
        self._remember(look)
        with self._leasing:
            if not self._ended:
                self._replica.known.talks_to(look.run, log_lost=look.head is None)
        others = (
            heartbeat for heartbeat in look.heartbeats.values() if heartbeat.in_sync and heartbeat.node != self._name
        )
        self._acks.hear(Ack(heartbeat.node, heartbeat.synced) for heartbeat in others)
        self._own_name.check(look, has_beaten=self._has_beaten)
        self._check_log_is_there(look)

    def _looked(self) -> GroupView:
        try:
            return self._log.look()
        except LogUnavailable as unavailable:
            if unavailable.look is None:
                raise
            return cast(GroupView, unavailable.look)  # a key holds what cannot be: the node stays, and says so

    def _remember(self, look: GroupView) -> None:
        self._applied_min = missing_nodes.applied_min(look, self._policy.applied_min)
        if look.is_whole:
            self._knew = missing_nodes.took_part(look)

    def forget(self, node: str) -> None:
        """It will not come back."""
        self._knew = tuple(entry for entry in self._knew if entry.rpartition("/")[0] != node)

    def check_log_is_mine(self, look: GroupView) -> None:
        """Another log is somebody else's Redis, or database. Nothing is written there, and nothing taken from there."""
        view = self._replica.node_state.view
        if view.log_id and look.head is not None and look.head.log_id != view.log_id:
            raise LogLost(
                f"group {self._log.group} had log {view.log_id}, and at {self._log.url} there is log "
                f"{look.head.log_id}: the URL leads to another Redis, or the data directory is another group's. Give "
                f"this node the right --redis, or an empty --data-dir"
            )

    def _check_log_is_there(self, look: GroupView) -> None:
        self.check_log_is_mine(look)
        view = self._replica.node_state.view
        if look.marred:
            self._problems.report("log", LogLost(what=look.marred))
            return
        if not view.log_id or look.head is not None:
            self._problems.solved("log")
            self._log_lost_at = None
            self._time_to_report_s = election.time_to_report_ms(look.heartbeats.values()) / 1000
            return
        what = f"group {self._log.group} had log {view.log_id}, and at {self._log.url} there is none"
        self._problems.report("log", LogLost(what=what))
        if self._log_lost_at is None:
            self._log_lost_at = time.monotonic()
        # The heartbeats went with the log: those who beat more slowly than this node must have the time to say more.
        all_had_time = time.monotonic() - self._log_lost_at >= self._time_to_report_s
        if self._policy.recovers and all_had_time and self._replica.node_state.refounds(self.heartbeat(), look):
            place = self._replica.node_state.view.position.id
            self._telling.tell(
                "found", logging.WARNING, f"founding the log of group {self._log.group} anew from {place}"
            )
            self._claim("the log was lost", look, new_log_id=view.log_id)

    def hold(self) -> float:
        """Keep the lease, if there is one to keep; the seconds until this is to be done again.

        Nothing else of a node is done in between, and nothing else is asked on that connection: neither a look that
        hangs, nor a disk, nor a write that has no answer yet costs a primary its lease.
        """
        started = time.monotonic()
        self.renew()
        return max(0.0, started + self._policy.beat_every_s - time.monotonic())

    def renew(self) -> None:
        with self._leasing:
            self._renew()

    def _renew(self) -> None:
        node_state = self._replica.node_state
        if not node_state.holds_term:
            self._problems.solved("lead")
            self._got_on = None
            return
        if self._replica.stalled:
            self._see_who_replaced_it(node_state)
            return
        if self._is_stuck(node_state):
            self._lease.lost()
            self._see_who_replaced_it(node_state)
            return
        asked_at = self._lease.now()
        reply = self._log.renew(node_state.me, node_state.view.term, self._lease.length_ms)
        if reply.code is Code.OK:
            self._lease.renewed(asked_at)
            self._telling.over("lease")
            with self._replica.known.moved:
                self._replica.known.moved.notify_all()
            return
        self._lease.lost()
        if self._is_over(node_state, reply):
            self._replica.known.refused(reply)
            what = f"the lease was refused ({reply.code.value}): {reply.node} holds term {reply.term}"
            self._telling.tell("lease", logging.WARNING, what)

    def _see_who_replaced_it(self, node_state: NodeState) -> None:
        """A holder that does not renew is refused by nobody, and reads nothing: it has to see that its term is over."""
        look = self.look
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
        now, place = time.monotonic(), node_state.view.position
        if node_state.leads or self._got_on is None or self._got_on[0] != place:
            self._got_on = place, now
        look = self.look
        # That the log is gone altogether, the answer to a renewal says.
        why = election.broken(look) if look is not None and (look.head is not None or look.marred) else ""
        if not why and now - self._got_on[1] > max(self._lease.length_s, STUCK_S):
            why = self._why_not_led or "its state does not get into the log"
        self._tell_if_stuck(node_state.view.term, why)
        return why != ""

    def _tell_if_stuck(self, term: int, why: str) -> None:
        if why:
            self._problems.report("lead", CannotLead(term=term, problem=why))
        else:
            self._problems.solved("lead")

    def end(self, *, failed: bool = False) -> None:
        """Give the lease back, and never have one again. Who looks after other nodes as well may be in a round.

        One that `failed` does not say goodbye.
        """
        with self._leasing:
            self._ended = True
            node_state = self._replica.node_state
            with self._beating:  # one under way would be taken for a sign of life after the goodbye
                # First of all, so that who hears of the lease knows why it was given back.
                if not failed:
                    self._leave(node_state)
                self._replica.known.talks_to("")
            try:
                if node_state.holds_term and self._lease.held:
                    self._log.give_back(node_state.me, node_state.view.term)
            except LogUnavailable as unavailable:
                logger.warning("the lease was not given back and runs out by itself: %s", unavailable)
            self._lease.lost()

    @staticmethod
    def _is_me(heartbeat: Heartbeat | None, node_state: NodeState) -> bool:
        return heartbeat is None or heartbeat.boot in (node_state.me.boot, node_state.previous_boot)

    def _leave(self, node_state: NodeState) -> None:
        """Say goodbye, if the log has all that this node has: so nobody waits for it (`protocol/missing_nodes.py`)."""
        look = self.look
        if look is None or look.head is None or not self._has_beaten:
            return
        mine = look.head.log_id == node_state.view.log_id and self._is_me(look.heartbeats.get(self._name), node_state)
        if not (mine and look.is_whole and look.run == node_state.run and node_state.view.in_sync):
            return
        try:
            self._log.beat(self.heartbeat()._replace(left=True, role="standby"))
        except LogUnavailable as unavailable:
            logger.warning("the others were not told that this node stops: %s", unavailable)

    # --- reporting ---------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        with self._beating:
            if self._ended:
                return
            self._log.beat(self.heartbeat())
        self._has_beaten, now = True, time.monotonic()
        # The others had the time of whole beats to say something, however often this node was woken meanwhile.
        if now - self._counted_at >= self._policy.beat_every_s * 0.9:
            self._counted_at = now
            self._replica.known.beaten()

    def heartbeat(self) -> Heartbeat:
        """What this node says of itself now."""
        digest_at, digest = self._digest or (RecordId(0, 0), "")
        return self._replica.node_state.heartbeat()._replace(
            every_ms=int(self._policy.beat_every_s * 1000),
            http=self.http,
            synced=self._replica.synced_upto,
            snapshot_bytes=self._replica.saved.snapshot_bytes,
            changes_bytes=self._replica.saved.changes_bytes,
            kept_bytes=self._replica.saved.kept_bytes,
            applied_at=self._replica.applied.applied_at,
            stalled=self._replica.stalled or "; ".join(self._problems.of_the_node),
            problem="; ".join(self._problems.others),
            candidate=self._policy.auto_promote,
            prepares=self.handover.is_offered,
            prepared=self.handover.answer,
            goes_on=self._policy.goes_on,
            applied_min=self._applied_min,
            knew=self._knew,
            digest=digest,
            digest_at=digest_at,
        )

    def _digest_marker(self) -> None:
        """Digest the state at the newest marker, on a thread of its own: the lease does not wait for a large state."""
        if self._replica.applied.markers and not _runs(self._digester):
            self._digester = self._aside("digester", self._digest_now)

    def _digest_now(self) -> None:
        at, pieces = self._replica.applied.markers.pop()
        try:
            self._digest = at, digest_of_pieces(pieces)
            self._problems.solved(SNAPSHOT)
            self._telling.over("digest")
        except StateError as error:
            # A file that is gone, or that somebody writes to: it is not what the others have.
            self._telling.tell("digest", logging.ERROR, str(error))
            self._digest = at, NO_DIGEST
        except ReplicatorError as error:
            self._problems.report(SNAPSHOT, error)
            self._digest = at, NO_DIGEST
        self.wake()

    def _aside(self, name: str, work: Callable[[], None]) -> threading.Thread | None:
        """Do it on a thread of its own; None if there is none: what is due then is still due with the next beat."""
        try:
            thread = started(work, name=f"{self._name}-{name}")
        except NoThread as problem:
            self._problems.report(THREADS, problem)
            return None
        self._problems.solved(THREADS)
        return thread

    # --- what it owes, and what it may claim -------------------------------------------------------------------------

    def _do_what_it_owes(self) -> None:
        node_state, look = self._replica.node_state, self.look
        if look is None or self._replica.stalled:
            return
        if node_state.needs_what_is_gone(look):
            self._ask_for_snapshot()
        else:
            self._telling.over("gone")
        self._tell_if_held_back(look)
        policy = self._policy
        if node_state.takes_term(look, restart_as_primary=policy.takes_term_again, goes_on=policy.goes_on):
            self._claim(reason_to_go_on(look), look)
        elif self._is_its_turn(node_state, look):
            node, term = self._gave_back
            gone = reason_to_take_over(look, gave_back=node if term == look.term else "")
            self._claim(gone, look, unleased=look.same_run)
        elif node_state.must_rebase:
            self._publish_aside("the log does not have this node's state")
        elif node_state.holds_term and not node_state.view.in_sync:
            raise PromotionRefused(self._name, "it holds nothing, and the log is not whole: promote another node")
        elif (needy := self._in_need(node_state, look)) and self._publish_aside("a node needs one"):
            self._need.sent(needy, time.monotonic())
        elif node_state.leads and self.snapshot_asked_by:
            # Forgotten before it begins: who asks from then on may want what is not in that one.
            asked_by, self.snapshot_asked_by = self.snapshot_asked_by, ""
            if not self._publish_aside("asked by " + asked_by):
                self.snapshot_asked_by = self.snapshot_asked_by or asked_by
        elif node_state.leads and self._primary.publisher.snapshot_is_due:
            self._publish_aside("the changes outweigh the last one")

    def _ask_for_snapshot(self) -> None:
        now = time.monotonic()
        if now - self._asked_at > ASK_AGAIN_AFTER_BEATS * self._policy.beat_every_s:
            self._asked_at = now
            what = "nothing of the log is left to be read: asking for a snapshot"
            self._telling.tell("gone", logging.WARNING, what)
            self._log.ask("snapshot", by=self._name)

    def _in_need(self, node_state: NodeState, look: GroupView) -> list[Heartbeat]:
        """Who needs a snapshot, if one is to be sent for that now."""
        heartbeats = look.heartbeats.values()
        needy = [heartbeat for heartbeat in heartbeats if node_state.owes_snapshot([heartbeat])]
        return needy if self._need.is_due(needy, heartbeats, time.monotonic()) else []

    def _is_its_turn(self, node_state: NodeState, look: GroupView) -> bool:
        """Whether nobody holds the term, and this candidate is the one to claim it now."""
        rank = node_state.election_rank(self.heartbeat(), look) if self._policy.auto_promote else None
        if rank is None:
            self._vacant_since = self._claim_at = None
            return False
        if self._vacant_since is None:
            self._vacant_since = time.monotonic()
        self._claim_at = self._vacant_since + rank * (CLAIM_EVERY_S if look.same_run else self._policy.beat_every_s)
        return time.monotonic() >= self._claim_at

    def _tell_if_held_back(self, look: GroupView) -> None:
        held = election.held_back(self._name, look)
        better = (held.better or "") if held else ""
        if held and better != self._held_back_for:
            logger.warning("held back in favour of %s: %s", better, held.reason)
        self._held_back_for = better

    def _claim(self, reason: str, look: GroupView, *, unleased: bool = False, new_log_id: str = "") -> None:
        """Take the term unasked. That another one was faster is no problem."""
        claim = self._new_claim(reason, look, guarded=True, unleased=unleased, new_log_id=new_log_id)
        with self._leasing:
            if self._ended:
                return
            reply = self._log.promote(claim)
        self._vacant_since = self._claim_at = None
        if reply.code is Code.OK:
            self._telling.over("claim")
            self._telling.over("found")
        else:
            what = f"did not get the term ({reply.code.value}): {reply.node} holds term {reply.term}"
            self._telling.tell("claim", logging.INFO, what)

    def take_term(self, reason: str, look: GroupView, *, until: float, guarded: bool = False) -> Reply:
        """Take it because the application says so. `PromotionRefused` if somebody else was faster."""
        claim = self._new_claim(reason, look, guarded=guarded, by=f"{self._name}'s application")
        reply = self._log.within(until).promote(claim)
        if not election.has_claimed(self._name, reply, look):
            raise PromotionRefused(self._name, f"{reply.code.value}: {reply.node or 'nobody'} holds term {reply.term}")
        return reply

    def _new_claim(
        self, reason: str, look: GroupView, *, guarded: bool, unleased: bool = False, new_log_id: str = "", by: str = ""
    ) -> Claim:
        node_state = self._replica.node_state
        return Claim(
            writer=node_state.me,
            floor=max(node_state.view.term, election.newest_term(look)),
            lease_ms=self._lease.length_ms,
            by=by or self._name,
            reason=reason,
            expect=look.term if guarded else None,
            run=look.run,
            expect_head=election.expected_head(node_state.view, look) if guarded else None,
            unleased=unleased,
            # A lease that Redis still has, and that was not renewed for as long as it is.
            expired=look.lease if look.lease_ms is None else "",
            new_log_id=new_log_id or (secrets.token_hex(16) if election.may_found(look) else ""),
            applied_min=self._applied_min,
        )

    def _publish_aside(self, reason: str) -> bool:
        """Send a snapshot on a thread of its own, unless one is under way, or failed just now; whether it was begun."""
        if not self._replica.node_state.holds_term or _runs(self._publisher) or self._primary.publisher.publishes:
            return False
        if time.monotonic() < self._publish_failed_at + self._publish_pause_s:
            return False
        if self._publishing.is_fresh and self._drawing.is_fresh:
            logger.info("publishing a snapshot: %s", reason)
        self._publisher = self._aside("publisher", self._publish_quietly)
        return self._publisher is not None

    @property
    def _publish_pause_s(self) -> float:
        # Nobody can write before a rebase. What the application makes nothing of is not helped by haste.
        hurries = self._replica.node_state.must_rebase and self._drawing.is_fresh
        return min(self._publish_again_s, self._policy.beat_every_s) if hurries else self._publish_again_s

    def _publish_quietly(self) -> None:
        try:
            if not self._drawing.is_fresh:  # the last one failed, perhaps after many parts, and this one may as well
                self._primary.publisher.rehearse()
            self._primary.publisher.publish()
            self._problems.solved(SNAPSHOT)
            self._publishing.succeeded()
            self._drawing.succeeded()
            self._publish_again_s = 0.0
            self._why_not_led = ""
            self._telling.over("publish")
            self.wake()
        except (SnapshotFailed, NotJSON, ChangeTooLarge) as error:
            # The application's doing. The next attempt is likely to end like this one.
            self._problems.report(SNAPSHOT, error)
            self._publish_failed_at, self._publish_again_s = time.monotonic(), self._drawing.failed()
        except ReplicatorError as error:
            self._why_not_led = str(error)
            self._publish_failed_at, self._publish_again_s = time.monotonic(), self._publishing.failed()
            level = logging.WARNING if isinstance(error, LogUnavailable | NotPrimary | Stalled) else logging.ERROR
            self._telling.tell("publish", level, f"the snapshot was not published: {error}")


def _what(problem: ReplicatorError | None) -> object:
    return problem.fields.get("problem") if problem is not None else None


def _runs(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()
