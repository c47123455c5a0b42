"""When a node that holds the term sends a snapshot, and to whom; and what it does when one fails.

Snapshots are sent aside, one at a time. What fails is tried again later and later: soon if Redis did not take it, after
longer if the application gave none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import (
    ChangeTooLarge,
    LogUnavailable,
    NotJSON,
    NotPrimary,
    PromotionRefused,
    ReplicatorError,
    SnapshotFailed,
    Stalled,
)
from ..protocol.group import GroupView
from ..protocol.heartbeat import Heartbeat
from ..protocol.node_state import NodeState
from ..protocol.snapshot_on_demand import Need
from ..runtime.backoff import Backoff
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from .background_task import Aside
from .components import Components
from .lease_keeper import LeaseKeeper
from .problems import SNAPSHOT

__all__ = ["SnapshotPublisher"]

logger = EventLogger(__name__)

_UNPUBLISHED = Lasting("snapshot.delayed", "snapshot.sent", "the snapshot was published")
_REFUSED = Lasting("snapshot.not_sent", "snapshot.sent", "the snapshot was published", logging.ERROR)

#: How soon snapshot() is called again after it failed: at first, and at the most.
DRAW_AGAIN_S, DRAW_AGAIN_S_MAX = 1.0, 30.0

#: How soon a snapshot is tried again that Redis did not take: at first, and at the most. A rebase waits for a beat.
PUBLISH_AGAIN_S, PUBLISH_AGAIN_S_MAX = 0.2, 10.0


class SnapshotPublisher:
    """Of one node. `beat_every_s`: a rebase that failed is tried again with the next beat."""

    def __init__(
        self, parts: Components, lease_keeper: LeaseKeeper, *, beat_every_s: float, wake: Callable[[], None]
    ) -> None:
        #: Who asked for a snapshot that has not begun yet.
        self.asked_by = ""
        self._replica = parts.replica
        self._primary = parts.primary
        self._problems = parts.problems
        self._lease_keeper = lease_keeper
        self._now = parts.lease.now
        self._beat_every_s = beat_every_s
        self._wake = wake
        self._need = Need()
        self._log_once = LogOnce(logger)
        self._aside = Aside(parts.problems, name=f"{self._name}-publisher")
        self._publishing = Backoff(PUBLISH_AGAIN_S, PUBLISH_AGAIN_S_MAX)
        self._drawing = Backoff(DRAW_AGAIN_S, DRAW_AGAIN_S_MAX)
        #: When the last one failed, and how long it is left alone then.
        self._failed_at = self._again_s = 0.0

    @property
    def _name(self) -> str:
        return self._replica.node_state.me.node

    @property
    def runs(self) -> bool:
        """Whether it is at work aside."""
        return self._aside.runs

    def keep(self, node_state: NodeState, look: GroupView) -> None:
        """Begin to send a snapshot, if one is due."""
        if node_state.must_rebase:
            self._begin("the log does not have this node's state")
        elif node_state.holds_term and not node_state.view.in_sync:
            raise PromotionRefused(self._name, "it holds nothing, and the log is not whole: promote another node")
        elif (needy := self._in_need(node_state, look)) and self._begin("a node needs one"):
            self._need.sent(needy, self._now())
        elif node_state.is_primary and self.asked_by:
            # Forgotten before it begins: who asks from then on may want what is not in that one.
            asked_by, self.asked_by = self.asked_by, ""
            if not self._begin("asked by " + asked_by):
                self.asked_by = self.asked_by or asked_by
        elif node_state.is_primary and self._primary.publisher.snapshot_is_due:
            self._begin("the changes outweigh the last one")

    def _in_need(self, node_state: NodeState, look: GroupView) -> list[Heartbeat]:
        """Who needs a snapshot, if one is to be sent for that now."""
        heartbeats = look.heartbeats.values()
        needy = [heartbeat for heartbeat in heartbeats if node_state.owes_snapshot([heartbeat])]
        return needy if self._need.is_due(needy, heartbeats, self._now()) else []

    def _begin(self, reason: str) -> bool:
        """Send a snapshot aside, unless one is under way, or failed just now; whether it was begun."""
        if not self._replica.node_state.holds_term or self._aside.runs or self._primary.publisher.publishes:
            return False
        if self._now() < self._failed_at + self._pause_s:
            return False
        if self._publishing.is_fresh and self._drawing.is_fresh:
            logger.info("snapshot.begins", "publishing a snapshot: %s", reason)
        return self._aside.begin(self._publish)

    @property
    def _pause_s(self) -> float:
        # Nobody can write before a rebase. What the application makes nothing of is not helped by haste.
        hurries = self._replica.node_state.must_rebase and self._drawing.is_fresh
        return min(self._again_s, self._beat_every_s) if hurries else self._again_s

    def _publish(self) -> None:
        try:
            if not self._drawing.is_fresh:  # the last one failed, perhaps after many parts, and this one may as well
                self._primary.publisher.rehearse()
            self._primary.publisher.publish()
            self._problems.solved(SNAPSHOT)
            self._publishing.succeeded()
            self._drawing.succeeded()
            self._again_s = 0.0
            self._lease_keeper.why_not_led = ""
            self._log_once.over("publish")
            self._wake()
        except (SnapshotFailed, NotJSON, ChangeTooLarge) as error:
            # The application's doing. The next attempt is likely to end like this one.
            self._problems.report(SNAPSHOT, error)
            self._failed_at, self._again_s = self._now(), self._drawing.failed()
        except ReplicatorError as error:
            self._lease_keeper.why_not_led = str(error)
            self._failed_at, self._again_s = self._now(), self._publishing.failed()
            what = _UNPUBLISHED if isinstance(error, LogUnavailable | NotPrimary | Stalled) else _REFUSED
            self._log_once.tell("publish", what, f"the snapshot was not published: {error}")
