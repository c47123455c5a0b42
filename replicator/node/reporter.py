"""What a node says of itself: a heartbeat once a beat, and a goodbye when it stops in order."""

from __future__ import annotations

import threading

from ..errors import LogUnavailable
from ..format.ids import ZERO_ID, RecordId
from ..log.interface import Log
from ..protocol.heartbeat import Heartbeat
from ..protocol.node_state import NodeState
from ..replica.replica import Replica
from ..runtime.event_log import EventLogger
from .ha_policy import HaPolicy
from .handover import Handover
from .observer import Observer
from .problems import Problems
from .release import Release
from .url_proof import Nonces

__all__ = ["Reporter"]

logger = EventLogger(__name__)

#: How much of its newest error a node tells the others: its own log has the rest.
ERROR_CHARACTERS_MAX = 500


class Reporter:
    """Of one node. `handover`: what others are told of a switchover from it. `release`: what application it runs."""

    def __init__(
        self,
        log: Log,
        replica: Replica,
        policy: HaPolicy,
        problems: Problems,
        observer: Observer,
        handover: Handover,
        release: Release,
    ) -> None:
        #: Where others reach this node.
        self.http = ""
        self.proxy = ""
        #: Of the state, at a marker, and how often the state had been replaced by then.
        self.digest: tuple[RecordId, str, int] | None = None
        #: The request to rebuild this node that was carried out last.
        self.reinitialised = ""
        #: Why its Redis user lets this node follow and not lead; empty: it may lead.
        self.follows_only = ""
        #: What was asked of this node over HTTP.
        self.nonces = Nonces(lambda: None)
        self.has_beaten = False
        #: When this node reported last, by the clock of the node.
        self.beaten_at: float | None = None
        self._log = log
        self._replica = replica
        self._policy = policy
        self._problems = problems
        self._observer = observer
        self._handover = handover
        self._release = release
        self._counted_at = 0.0
        #: Held while this node reports. A renewal does not wait for that.
        self._beating = threading.Lock()
        self._ended = False

    def beat(self) -> None:
        """Report once."""
        with self._beating:
            if self._ended:
                return
            self._log.beat(self.heartbeat())
        self.has_beaten, now = True, self._observer.now()
        self.beaten_at = now
        # The others had the time of whole beats to say something, however often this node was woken meanwhile.
        if now - self._counted_at >= self._policy.beat_every_s * 0.9:
            self._counted_at = now
            self._replica.known.beaten()

    def heartbeat(self) -> Heartbeat:
        """What this node says of itself now."""
        digest_at, digest = self._digest
        behind_s = self._observer.trail.behind_s(self._replica.node_state.view.position.id, self._observer.now())
        diverged = self._replica.divergence.at
        return self._replica.node_state.heartbeat()._replace(
            every_ms=int(self._policy.beat_every_s * 1000),
            http=self.http,
            proxy=self.proxy,
            synced=self._replica.synced_upto,
            snapshot_bytes=self._replica.saved.snapshot_bytes,
            changes_bytes=self._replica.saved.changes_bytes,
            kept_bytes=self._replica.saved.kept_bytes,
            applied_at=self._replica.applied.applied_at,
            stalled=self._replica.stalled or "; ".join(self._problems.of_the_node),
            stalled_at=self._replica.applied.stalled_at,
            problem="; ".join(self._problems.others),
            last_error=self._problems.last[0][:ERROR_CHARACTERS_MAX],
            last_error_at=self._problems.last[1],
            fork_count=self._replica.counters.forks.kept,
            fork_id=RecordId.parse(self._replica.counters.forks.newest_id),
            stale_count=self._replica.rejected,
            kept_count=self._replica.applied.kept_count,
            candidate=self._policy.auto_promote and not self.follows_only,
            follows_only=self.follows_only,
            heard=self.nonces.newest,
            prepares=self._handover.is_offered,
            prepared=self._handover.answer,
            work_over=self._handover.work_over,
            process=self._handover.process.run_by,
            goes_on=self._policy.goes_on,
            applied_min=self._observer.applied_min,
            knew=self._observer.knew,
            app=self._release.app,
            version=self._release.version,
            reads_min=self._release.reads[0],
            reads_max=self._release.reads[-1],
            rejects_errors=self._replica.applied.rejects_errors,
            diverged=str(diverged) if diverged != ZERO_ID else "",
            given_up=self._replica.divergence.given_up,
            reinitialised=self.reinitialised,
            behind_ms=int(behind_s * 1000),
            digest=digest,
            digest_at=digest_at,
        )

    @property
    def _digest(self) -> tuple[RecordId, str]:
        """The newest one of the state that is there."""
        if self.digest is None or self.digest[2] != self._replica.applied.replaced:
            return ZERO_ID, ""
        return self.digest[:2]

    def end(self, *, says_goodbye: bool) -> None:
        """Report no more, and hold nothing any more."""
        self._ended = True
        node_state = self._replica.node_state
        with self._beating:  # one under way would be taken for a sign of life after the goodbye
            if says_goodbye:
                self._say_goodbye(node_state)
            self._replica.known.talks_to("")

    def _say_goodbye(self, node_state: NodeState) -> None:
        """If the log has all that this node has: so nobody waits for it (`protocol/missing_nodes.py`)."""
        look = self._observer.look
        if look is None or look.head is None or not self.has_beaten:
            return
        heartbeat = look.heartbeats.get(node_state.me.node)
        mine = look.head.log_id == node_state.view.log_id and _is_of(node_state, heartbeat)
        if not (mine and look.is_whole and look.run == node_state.run and node_state.view.in_sync):
            return
        try:
            self._log.beat(self.heartbeat()._replace(left=True, role="standby"))
        except LogUnavailable as unavailable:
            logger.warning("node.goodbye_lost", "the others were not told that this node stops: %s", unavailable)


def _is_of(node_state: NodeState, heartbeat: Heartbeat | None) -> bool:
    return heartbeat is None or heartbeat.boot in (node_state.me.boot, node_state.previous_boot)
