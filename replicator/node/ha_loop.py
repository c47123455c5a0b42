"""What a node does once a beat: it looks at the group, reports, and does what it owes or may claim. And, apart from all
that, it keeps its lease (`hold`).

Each of these is a thing of its own, and the loop puts them in their order: `observer.py` looks, `reporter.py` reports,
`candidate.py` takes the term, `snapshot_publisher.py` sends snapshots, `lease_keeper.py` keeps the lease.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ..errors import LogLost, ReplicatorError
from ..format.ids import RecordId
from ..log.interface import Ack, GroupRequest
from ..protocol import versions
from ..protocol.group import GroupView
from ..protocol.node_state import NodeState
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from .candidate import Candidate
from .components import Components
from .consumer import Learnt
from .digester import Digester
from .divergence_watch import DivergenceWatch
from .ha_policy import HaPolicy
from .handover import Handover
from .history_keeper import HistoryKeeper
from .identity import Name, check_log_is_mine, with_misnamed_head
from .lease_keeper import LeaseKeeper
from .marker_schedule import MarkerSchedule
from .memory_watch import MemoryWatch
from .observer import Observer
from .problems import UNHEALTHY
from .process_asks import Ask
from .reporter import Reporter
from .snapshot_publisher import SnapshotPublisher
from .state_writer import StateWriter

__all__ = ["HaLoop"]

logger = EventLogger(__name__)

#: Under which name it is known what was wrong with a snapshot that this node needed.
PASSED_BY = "passed by"

_FOLLOWS_ONLY = Lasting("rights.follows_only", "rights.may_lead", "it may lead again")
_AWAITED = Lasting("snapshot.awaited", "snapshot.came", "what is left of the log can be read again")

#: A primary that did not hear it may have been replaced; one that did takes a while.
ASK_AGAIN_AFTER_BEATS = 10

#: A name; it stands in the log.
_BY_CHARACTERS_MAX = 200

#: Redis tells the rest of a lease in whole milliseconds.
ROUNDING_S = 0.002


class HaLoop:
    """Of one node. `wake`: have `keep` called soon."""

    def __init__(
        self, parts: Components, policy: HaPolicy, own_name: Name, handover: Handover, *, wake: Callable[[], None]
    ) -> None:
        log, replica, problems = parts.log, parts.replica, parts.problems
        self.wake = wake
        self.observer = Observer(
            log,
            replica.node_state.me,
            applied_min=policy.applied_min,
            lease_s=parts.lease.length_s,
            clock=parts.lease.now,
        )
        self.reporter = Reporter(log, replica, policy, problems, self.observer, handover, parts.release)
        self.lease_keeper = LeaseKeeper(log, replica, parts.lease, problems, self.observer)
        self.candidate = Candidate(log, replica, policy, parts.lease, self.observer, self.lease_keeper, parts.release)
        self.publisher = SnapshotPublisher(parts, self.lease_keeper, beat_every_s=policy.beat_every_s, wake=wake)
        self.history = HistoryKeeper(log, replica)
        parts.acks.is_live = self.observer.is_live
        self._parts = parts
        self._log = log
        self._replica = replica
        self._problems = problems
        self._policy = policy
        self._own_name = own_name
        self._handover = handover
        self._digester = Digester(replica, problems, done=self._digested, opens=log.sealing)
        self._state_writer = StateWriter(replica, problems, name=self._name)
        self._markers = MarkerSchedule(parts.primary.commits, problems, every_s=policy.verify_every_s, name=self._name)
        self._divergence = DivergenceWatch(replica, self.reporter.heartbeat, wake=wake)
        self.memory_watch = MemoryWatch(
            log, is_wanted=lambda: replica.counters.timings is not None, now=self.observer.now
        )
        self._log_once = LogOnce(logger)
        #: When it asked for a snapshot.
        self._asked_at = float("-inf")

    @property
    def _name(self) -> str:
        return self._replica.node_state.me.node

    @property
    def works_aside(self) -> bool:
        """Whether a thread of its own is at something for it."""
        return self.publisher.runs or self._digester.runs or self._state_writer.runs

    # --- the lease ---------------------------------------------------------------------------------------------------

    def hold(self) -> float:
        """Keep the lease, if there is one to keep; the seconds until this is to be done again.

        Nothing else of a node is done in between, and nothing else is asked on that connection: neither a look that
        hangs, nor a disk, nor a write that has no answer yet costs a primary its lease.
        """
        started = self.observer.now()
        self._parts.vitals.look()
        self.lease_keeper.renew()
        return max(0.0, started + self._policy.beat_every_s - self.observer.now())

    def end(self, *, failed: bool = False, keeps_lease: bool = False) -> None:
        """Report no more, and give the lease back. One that `failed` does not say goodbye. `keeps_lease`: let it run
        out instead.
        """
        self.lease_keeper.end(before=lambda: self.reporter.end(says_goodbye=not failed), gives_back=not keeps_lease)

    # --- what was read -----------------------------------------------------------------------------------------------

    def hear(self, news: GroupRequest | Learnt) -> None:
        """Act on what the reader gave."""
        if isinstance(news, GroupRequest):
            self._hear_request(news)
            return
        if news is Learnt.LEADS:
            # It writes once it has its lease from Redis; until then it is refused.
            self.lease_keeper.renew()
        self.wake()

    def _hear_request(self, request: GroupRequest) -> None:
        node_state = self._replica.node_state
        if request.what == "vacant":
            self.candidate.heard_vacant(request.node, by=request.by)
            self.wake()
        elif request.what in ("paused", "report"):
            self.wake()
        elif request.what == "term":
            # Somebody took a term. If it ends ours, the renewal is refused, and the log tells the rest.
            self.lease_keeper.renew()
        elif request.what == "forget":
            self.observer.forget(request.node)
        elif request.what == "snapshot" and node_state.holds_term:
            # Not here: one that is under way may be older than what is asked for, then another one follows it.
            self.publisher.asked_by = request.by
            self.wake()
        elif request.what == "prepare" and request.node == self._name:
            self._handover.ask(request.id)
        elif request.what == "reinit" and request.node == self._name:
            self._divergence.reinit(request.id, by=request.by)
        elif request.what == "digest" and node_state.is_primary:
            with suppress(LogLost):  # the next beat reports it
                self._parts.primary.commits.mark()
            self.wake()
        elif request.node == self._name and (ask := Ask.parse(request.what)) is not None:
            self._hear_ask(ask, request)
        elif request.what.startswith(versions.FINALIZE) and node_state.is_primary:
            self._raise_version(request)

    def _hear_ask(self, ask: Ask, request: GroupRequest) -> None:
        boot = self._replica.node_state.me.boot
        why_not = self._handover.process.heard(ask, boot=boot, now_ms=self._log.look().now_ms)
        by = request.by[:_BY_CHARACTERS_MAX]
        if why_not:
            logger.warning(
                "ask.refused", "%s asked for a %s (%s), which is not done: %s", by, ask.what, request.id, why_not
            )
        else:
            logger.info("ask.heard", "%s asked for a %s (%s)", by, ask.what, request.id)

    def _raise_version(self, request: GroupRequest) -> None:
        """An operator wants the group to be at another version. Whoever asked looks whether it is."""
        look, text = self._log.look(), request.what.removeprefix(versions.FINALIZE)
        version = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
        current = self._replica.node_state.view.version
        me = self.reporter.heartbeat()
        others = [each for each in versions.reporting(look) if each.node != me.node]
        if (why := versions.why_not(version, current, [me, *others])) is not None:
            logger.warning("version.stays", "the group stays at version %d: %s", current, why)
            return
        with suppress(LogLost):  # the next beat reports it
            self._parts.primary.commits.raise_version(version, by=request.by[:_BY_CHARACTERS_MAX])
        self.wake()

    # --- a beat ------------------------------------------------------------------------------------------------------

    def keep(self) -> float:
        """Do it once; the seconds until it is to be done again."""
        started = self.observer.now()
        self._state_writer.keep()
        self._tell_what_it_passed_by()
        self.join()
        self._digester.keep()
        self.reporter.beat()
        self._parts.primary.writer.settle()
        self._replica.flush()  # whether a snapshot is due is asked of what is on disk
        self._watch_states()
        self._do_what_it_owes()
        self.memory_watch.keep()
        self._keep_history()
        return self._pause_s(started)

    def join(self) -> None:
        """Look at the group, and take in what that says."""
        self._check_rights()
        look = self.observer.look_again(self._judged)
        self.lease_keeper.talks_to(look)
        others = (
            heartbeat for heartbeat in look.heartbeats.values() if heartbeat.in_sync and heartbeat.node != self._name
        )
        self._parts.acks.hear(Ack(heartbeat.node, heartbeat.synced) for heartbeat in others)
        self._own_name.check(look, has_beaten=self.reporter.has_beaten)
        self._check_log_is_there(look)

    def _judged(self, look: GroupView) -> GroupView:
        return with_misnamed_head(self._log, self._replica.node_state.view, look)

    def _check_rights(self) -> None:
        follows_only = self.reporter.follows_only = self._log.check_rights()
        if follows_only:
            self._log_once.tell("rights", _FOLLOWS_ONLY, f"it follows, and does not lead: {follows_only}")
        else:
            self._log_once.over("rights")

    def _check_log_is_there(self, look: GroupView) -> None:
        view = self._replica.node_state.view
        check_log_is_mine(self._log, view, look, self._parts.release.app)
        if look.marred:
            self._problems.report("log", LogLost(what=look.marred))
            return
        if not view.log_id or look.head is not None:
            self._problems.solved("log")
            self.observer.saw_log(look)
            return
        what = f"group {self._log.group} had log {view.log_id}, and at {self._log.url} there is none"
        self._problems.report("log", LogLost(what=what))
        all_had_time = self.observer.missed_log()
        if self._policy.recovers and all_had_time and not self.reporter.follows_only:
            self.candidate.found_anew(look, self.reporter.heartbeat())

    def _tell_what_it_passed_by(self) -> None:
        """A node that needs a snapshot and could not take the one that came says why, until it is in sync again."""
        problem = self._replica.known.passed_by
        if problem is None:
            self._problems.solved(PASSED_BY)
        elif _what(self._problems.get(PASSED_BY)) != _what(problem):
            self._problems.report(PASSED_BY, problem)

    def _watch_states(self) -> None:
        self._markers.keep(self._replica.node_state)
        if self.observer.look is not None:
            self._divergence.keep(self.observer.look)
            self.reporter.reinitialised = self._divergence.reinitialised

    def _digested(self, at: RecordId, digest: str, replaced: int) -> None:
        self.reporter.digest = at, digest, replaced
        self.wake()

    def _do_what_it_owes(self) -> None:
        node_state, look = self._replica.node_state, self.observer.look
        if look is None or self._replica.stalled:
            return
        if node_state.needs_what_is_gone(look):
            self._ask_for_snapshot()
        else:
            self._log_once.over("gone")
        if self._problems.get(UNHEALTHY) is not None:
            self.candidate.claim_at = None  # it has no turn
        elif not self._claims(node_state, look):
            self.publisher.keep(node_state, look)

    def _claims(self, node_state: NodeState, look: GroupView) -> bool:
        """Claim the term, if this node is to take it now; whether it did."""
        if self.reporter.follows_only:
            self.candidate.claim_at = None
            return False
        return self.candidate.claims(node_state, look, self.reporter.heartbeat)

    def _keep_history(self) -> None:
        if self.observer.look is not None:
            self.history.keep(self.observer.look, puts_back=not self.reporter.follows_only)

    def _ask_for_snapshot(self) -> None:
        now = self.observer.now()
        if now - self._asked_at > ASK_AGAIN_AFTER_BEATS * self._policy.beat_every_s:
            self._asked_at = now
            what = "nothing of the log is left to be read: asking for a snapshot"
            self._log_once.tell("gone", _AWAITED, what)
            self._log.request("snapshot", by=self._name)

    def _pause_s(self, started: float) -> float:
        """Until the next beat; or, for a candidate, until the holder's lease runs out, or it is its turn to claim."""
        now, look = self.observer.now(), self.observer.look
        until = started + self._policy.beat_every_s
        if self.candidate.claim_at is not None:
            until = min(until, self.candidate.claim_at)
        elif self._policy.auto_promote and look is not None and look.lease_ms is not None:
            until = min(until, self.observer.looked_at + look.lease_ms / 1000 + ROUNDING_S)
        return max(0.0, until - now)


def _what(problem: ReplicatorError | None) -> object:
    return problem.fields.get("problem") if problem is not None else None
