"""What a node says of itself. None of it waits, and none of it asks Redis: it is what the node knows.

Before `start` these are the facts of a standby that has nothing, after `stop` those of the moment at which it ended.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ReplicatorError
from ..format.ids import ORIGIN, ZERO_ID, Position, Writer
from ..protocol.fold import View
from ..protocol.heartbeat import MISSED_BEATS_MAX, Heartbeat
from ..protocol.history import History
from ..protocol.node_state import NodeState
from ..runtime.event_log import Speaker
from ..runtime.process import Owner
from . import health
from .health import Condition, Lag, Standing, Unready, standing_of
from .members import GroupAsSeen, Member, members_of
from .release import Release
from .running import NodeSetup, RunningNode

__all__ = ["NodeFacts"]

#: What a node knows that was not started.
NOTHING = View(in_sync=False)


class NodeFacts:
    """The facts of one node. In a forked child every one of them raises `WrongProcess`."""

    def __init__(self, setup: NodeSetup, *, http: str) -> None:
        self.name = setup.name
        self.group = setup.group
        self.data_dir: Path = setup.data_dir
        #: Where others reach this node, for them to see; empty: not known.
        self.http = http
        #: The URL of the proxy of the program beside it, for others; set before the node is started.
        self.proxy = ""
        self._setup = setup
        self._owner = Owner(f"node {setup.name}")
        #: From `start` on; None: it was not started, or could not be.
        self._running: RunningNode | None = None

    @property
    def _begun(self) -> RunningNode | None:
        self._owner.check()
        return self._running

    @property
    def _node_state(self) -> NodeState:
        running = self._begun
        return running.replica.node_state if running else NodeState(me=Writer(self.name, ""), view=NOTHING)

    @property
    def failed(self) -> ReplicatorError | None:
        """What ended this node's part in the group, if something did. It serves reads, and nothing else."""
        running = self._begun
        return running.duties.failed if running else None

    @property
    def role(self) -> str:
        """`"primary"` or `"standby"`, by what this node knows of the log. Derived: see `protocol/node_state.py`.

        A node that is cut off does not know that another one was promoted. Before you act as the primary, ask `leads`.
        """
        return self._standing.role

    @property
    def leads(self) -> bool:
        """Whether this node can take writes: it holds the term, is in sync, and has a lease that runs.

        As fresh as a lease can be: somebody may have been promoted a moment ago. A write of ours is refused then; what
        you do elsewhere, fence by `term`.
        """
        return self._standing.leads

    @property
    def _standing(self) -> Standing:
        return self._standing_of(self._node_state)

    def _standing_of(self, node_state: NodeState) -> Standing:
        return standing_of(
            node_state,
            failed=self.failed is not None,
            stalled=self.stalled is not None,
            lease_held=self._setup.lease.held,
        )

    @property
    def unready(self) -> Unready | None:
        """Why this node cannot do its role's work now (`health.why_unready`); None: it can."""
        running = self._begun
        if running is None:
            return Unready("not_running", "this node was not started")
        node_state = running.replica.node_state
        now = Condition(
            failed=self.failed,
            stopping=self._setup.stopping.is_set(),
            stalled=self.state_problem or "",
            problems=self._setup.problems.in_the_way,
            standing=self._standing,
            in_sync=node_state.in_sync,
            has_read=node_state.view.cursor != ORIGIN,
            lag=self._lag(running, of_what_there_is=True),  # while nobody leads there is nothing else to follow
            behind_s=running.ha_loop.observer.trail.behind_s(self.position.id, self._setup.lease.now()),
            diverged=self.diverged or "",
        )
        return health.why_unready(now)

    @property
    def boot(self) -> str:
        """What this life of the node is called; empty before it is started."""
        return self._node_state.me.boot

    @property
    def speaker(self) -> Speaker:
        """Whose lines in the log are this node's, for what others log for it (`runtime/event_log.py`)."""
        return self._setup.speaker

    @property
    def app(self) -> str:
        """Of which application this node is."""
        return self._setup.release.app

    @property
    def version(self) -> int:
        """The version that the group is at, at this node's position. Write what only newer code reads once it says so.

        That of this node's code is what it was given. A log that was founded by it begins at that one.
        """
        return self._node_state.view.version

    @property
    def term(self) -> int:
        """The newest term that this node knows."""
        return self._node_state.view.term

    @property
    def position(self) -> Position:
        """What the state contains. `str(node.position.id)` is a token to wait for on another node."""
        return self._node_state.view.position

    @property
    def in_sync(self) -> bool:
        """Whether the state lacks nothing of the log up to `position`; not before it has read the log once."""
        return self._node_state.in_sync

    @property
    def lag(self) -> Lag:
        """How far this node is behind the head, as of the last heartbeat. Not known while nobody holds a lease."""
        running = self._begun
        return self._lag(running) if running else health.UNKNOWN

    def _lag(self, running: RunningNode, *, of_what_there_is: bool = False) -> Lag:
        return health.lag_of(
            self.position,
            running.replica.applied.applied_at,
            running.ha_loop.observer.seen,
            now_ms=self._setup.lease.now() * 1000,
            fresh_ms=MISSED_BEATS_MAX * running.policy.beat_every_s * 1000,
            of_what_there_is=of_what_there_is,
        )

    @property
    def stale_s(self) -> float | None:
        """For how long, at most, the state may lack what was committed; None: not known. 0 on a node that leads.

        Unlike `lag` this is a promise: the state has all that was committed so many seconds ago. It grows while Redis
        does not answer and while nobody leads; on a standby that follows it moves between 0 and a beat.
        """
        running = self._begun
        if running is None or not self.in_sync:
            return None
        if self.leads:
            return 0.0
        # The clock is read last: what is said is at least as old as it is.
        as_of = running.ha_loop.observer.freshness.as_of(self.position.id)
        return None if as_of is None else max(0.0, self._setup.lease.now() - as_of)

    @property
    def heartbeat_age_ms(self) -> int | None:
        """How long ago this node reported last; None: it has not yet."""
        running = self._begun
        at = running.ha_loop.reporter.beaten_at if running else None
        return None if at is None else max(0, round((self._setup.lease.now() - at) * 1000))

    @property
    def release(self) -> Release:
        """Which application this node runs, in which version, and which versions of the group that reads."""
        return self._setup.release

    @property
    def members(self) -> GroupAsSeen:
        """All members of the group, as this node knows them."""
        running = self._begun
        seen = running.ha_loop.observer.seen if running else None
        seen_ms = None if seen is None else max(0, round(self._setup.lease.now() * 1000 - seen.asked_at_ms))
        me = Member(
            node=self.name,
            role=self.role,
            alive=running is not None and not self._setup.stopping.is_set(),
            term=self.term,
            position=str(self.position.id),
            in_sync=self.in_sync,
            lag_records=self.lag.records,
            lag_ms=self.lag.ms,
            http=self.http or None,
            problem=self.state_problem or self.problem or None,
            version=self.release.version,
            age_ms=self.heartbeat_age_ms,
        )
        return members_of(me, seen.look if seen is not None else None, term=self.term, seen_ms=seen_ms)

    @property
    def stalled(self) -> str | None:
        """Why the application's apply() or restore() failed; None: it did not."""
        running = self._begun
        return (running.replica.stalled or None) if running else None

    @property
    def diverged(self) -> str | None:
        """The marker at which the state of this standby was found to differ from the primary's; None: it was not."""
        running = self._begun
        at = running.replica.divergence.at if running else ZERO_ID
        return str(at) if at != ZERO_ID else None

    @property
    def state_problem(self) -> str | None:
        """Why the state does not become what it should be: the application failed, or something is in its way, a full
        disk for example, and it is tried again. None: it does."""
        running = self._begun
        unwritten = running.replica.unwritten if running else None
        return self.stalled or (str(unwritten) if unwritten is not None else None)

    @property
    def problem(self) -> str:
        """What is in this node's way now, in words; empty: nothing is."""
        if self._begun is None:
            return "not started"
        return "stopped" if self._setup.stopping.is_set() else str(self._setup.problems)

    @property
    def lease_ms(self) -> int | None:
        """What is left of this node's lease; None: it has none."""
        self._owner.check()
        return self._setup.lease.left_ms

    @property
    def rejected(self) -> int:
        """Stale records that were ignored since the start."""
        running = self._begun
        return running.replica.rejected if running else 0

    def history(self) -> History:
        """What was done to the group, as of the last heartbeat: the newest 1,000 entries (docs/history.md).

        Oldest first, and from memory, so it waits for nobody. `complete` and `complete_since_at` are about these.
        """
        running = self._begun
        if running is None:
            return History(complete=False, complete_since_at=None, entries=())
        return running.ha_loop.history.shown(running.ha_loop.observer.look)

    def has_proven(self, url: str) -> bool:
        """Whether this is a URL below `primary_http`, and the server there has proved that it is the primary
        (`url_proof.py`); if not, it is asked. Returns at once.

        For what is sent there: heartbeats are what somebody wrote to Redis (docs/trust.md).
        """
        running, base = self._begun, (self.primary_http or "").rstrip("/")
        if running is None or not base or not url.startswith(base) or url[len(base) :][:1] not in ("", "/", "?"):
            return False
        holder = running.replica.node_state.view.holder
        return running.primary_proof.is_proven(holder.node, holder.boot, base)

    def hear(self, nonce: str) -> None:
        """Somebody asks by HTTP whether this node is at the URL that he asked: the next heartbeat says so."""
        running = self._begun
        if running is not None:
            running.nonces.hear(nonce)

    @property
    def primary_http(self) -> str | None:
        """Where the primary is reached, if there is a live one that says so."""
        if self.leads:
            return self.http or None
        primary = self._other_primary
        return primary.http or None if primary is not None else None

    @property
    def primary_proxy(self) -> str | None:
        """Where the proxy of the primary's program is reached, if another node is the primary, lives and has one."""
        primary = self._other_primary if not self.leads else None
        return primary.proxy or None if primary is not None else None

    def has_proven_proxy(self, url: str) -> bool:
        """Whether this is `primary_proxy`, and the server there has proved it (`url_proof.py`); if not, it is asked.
        Returns at once."""
        running = self._begun
        if running is None or not url or url != self.primary_proxy:
            return False
        holder = running.replica.node_state.view.holder
        return running.proxy_proof.is_proven(holder.node, holder.boot, url)

    @property
    def _other_primary(self) -> Heartbeat | None:
        """The heartbeat of the boot that holds the term, if it lives and is not this node's."""
        running = self._begun
        look = running.ha_loop.observer.look if running is not None else None
        if running is None or look is None:
            return None
        holder = running.replica.node_state.view.holder
        heartbeat = look.heartbeats.get(holder.node)
        if heartbeat is None or heartbeat.node == self.name or heartbeat.boot != holder.boot:
            return None
        return heartbeat if heartbeat.alive else None
